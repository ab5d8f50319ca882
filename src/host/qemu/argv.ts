// The command line of a guest. Pure: everything it depends on is in its argument, so a test can read it whole.
//
// PCI places. Each virtio device sits on a PCIe root port of its own (q35), since only a root port can be plugged into while the guest
// runs; on `pc` it has a slot of pci.0. A device keeps its place for life (`slots`, kept by the caller): a guest names its network cards by
// PCI address, so taking one card away must not move the others.
import {
  type BlockSource,
  blockNodes,
  diskDevice,
  diskDeviceId,
  type Json,
  type MachineDisk,
  type MachineNic,
  netdev,
  nicDevice,
  nicDeviceId,
  type Place,
  secretObject,
  takesSlot,
  throttleGroup,
} from './devices.ts'

export type { BlockSource, MachineDisk, MachineNic }

export interface Machine {
  binary: string
  /** The process and window name. */
  name: string
  uuid: string
  accel: 'kvm' | 'tcg'
  /** `q35`, `pc` or a versioned name of those (`pc-q35-7.2`, `pc-i440fx-7.2`). */
  type: string
  memoryMb: number
  vcpus: number
  topology?: { sockets: number; cores: number; threads: number }
  /** Absent: `host` under KVM, `max` under TCG. */
  cpuModel?: string
  hideHypervisor?: boolean
  firmware: { type: 'bios' } | { type: 'uefi'; code: string; vars: string; secure: boolean }
  kernel?: { path: string; initrd?: string; append?: string }
  disks: MachineDisk[]
  nics: MachineNic[]
  slots: Record<string, number>
  rng?: { rateBytes?: number; ratePeriodMs?: number } | false
  guestAgent: boolean
  video: 'virtio' | 'vga' | 'qxl' | 'cirrus' | 'bochs' | 'none'
  videoRamMb?: number
  tablet?: 'usb' | 'virtio'
  watchdog?: 'none' | 'reset' | 'poweroff' | 'pause'
  serialPorts: number
  clock: 'utc' | 'localtime'
  bootMenu?: boolean
  /** Wait for a migration stream (a saved state) instead of starting. */
  incoming?: boolean
  sockets: Sockets
  /** The first serial port's output is appended here. */
  consoleLog: string
}

export interface Sockets {
  qmp: string
  vnc: string
  serial: string
  agent: string
}

/** q35 or pc: the two families differ in their buses. */
export const family = (type: string): 'q35' | 'pc' => (/q35/.test(type) ? 'q35' : 'pc')

/** Root ports: eight functions on each of the slots 2 to 5 of pcie.0, as many as there are devices and at least eight to plug into. */
const PORTS_PER_SLOT = 8
const FIRST_PORT_SLOT = 2
export const MAX_SLOTS = { q35: 32, pc: 26 } as const

/** The devices that need a PCI place, in the order in which a guest should meet them. */
export function slotUsers(m: Pick<Machine, 'disks' | 'nics' | 'rng' | 'guestAgent' | 'tablet'>): string[] {
  const users = m.nics.map(nic => nicDeviceId(nic.id))
  for (const disk of m.disks) if (takesSlot(disk)) users.push(diskDeviceId(disk.name))
  if (m.disks.some(disk => disk.bus === 'scsi')) users.push('scsi0')
  if (m.tablet === 'usb' || m.disks.some(disk => disk.bus === 'usb')) users.push('usb0')
  if (m.guestAgent) users.push('vserial0')
  if (m.rng !== false) users.push('rng0')
  if (m.tablet === 'virtio') users.push('tablet0')
  return users
}

/**
 * Gives each device a place: those that have one keep it, gone devices give theirs back, new ones get the lowest free.
 * @throws when there are more devices than places.
 */
export function assignSlots(users: string[], kept: Record<string, number>, max: number): Record<string, number> {
  const slots: Record<string, number> = {}
  const used = new Set<number>()
  for (const id of users) {
    const slot = kept[id]
    if (slot !== undefined && slot < max && !used.has(slot)) {
      slots[id] = slot
      used.add(slot)
    }
  }
  let next = 0
  for (const id of users) {
    if (id in slots) continue
    while (used.has(next)) next++
    if (next >= max) throw new Error(`no free PCI slot: a guest of this machine type can have ${max} devices`)
    slots[id] = next
    used.add(next)
  }
  return slots
}

/** Where the device in `slot` sits. */
export function place(type: string, slot: number): Place {
  return family(type) === 'q35' ? { bus: `rp${slot}` } : { bus: 'pci.0', addr: `0x${(slot + 5).toString(16)}` }
}

/** How many root ports a q35 guest starts with. */
export function rootPorts(slots: Record<string, number>): number {
  const highest = Math.max(-1, ...Object.values(slots))
  return Math.min(MAX_SLOTS.q35, Math.ceil((highest + 1 + 8) / PORTS_PER_SLOT) * PORTS_PER_SLOT)
}

const device = (json: Json): string[] => ['-device', JSON.stringify(json)]
const object = (json: Json | undefined): string[] => (json ? ['-object', JSON.stringify(json)] : [])

/** Arguments that every guest has: confinement, identity, processor, memory, clock, control socket. */
function base(m: Machine): string[] {
  const secure = m.firmware.type === 'uefi' && m.firmware.secure
  const q35 = family(m.type) === 'q35'
  const machine = [
    m.type,
    'usb=off',
    'vmport=off',
    'dump-guest-core=off',
    'hpet=off',
    ...(q35 ? [`smm=${secure ? 'on' : 'off'}`] : []),
    ...(m.firmware.type === 'uefi' ? ['pflash0=fw-code', 'pflash1=fw-vars'] : []),
  ]
  const cpu = [m.cpuModel ?? (m.accel === 'kvm' ? 'host' : 'max'), ...(m.hideHypervisor ? ['kvm=off', 'hypervisor=off'] : [])]
  const t = m.topology
  // One translation cache is enough for all: QEMU's default of 1 GiB would count against the guest's memory limit.
  const accel = m.accel === 'kvm' ? 'kvm' : 'tcg,thread=multi,tb-size=256'
  const boot = [...(m.bootMenu ? ['menu=on', 'splash-time=3000'] : []), 'strict=on']
  return [
    m.binary,
    '-no-user-config',
    '-nodefaults',
    '-sandbox',
    'on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny',
    '-msg',
    'timestamp=on',
    '-name',
    `guest=${m.name.replaceAll(',', ',,')},debug-threads=on`,
    '-uuid',
    m.uuid,
    // Guests (cloud-init's ds-identify) know by the product's name that an OpenStack metadata service is near.
    '-smbios',
    `type=1,manufacturer=OpenStack Foundation,product=OpenStack Nova,version=Nubo,serial=${m.uuid},uuid=${m.uuid},family=Virtual Machine`,
    '-accel',
    accel,
    '-machine',
    machine.join(','),
    '-cpu',
    cpu.join(','),
    '-smp',
    `${m.vcpus}${t ? `,sockets=${t.sockets},cores=${t.cores},threads=${t.threads}` : ''}`,
    '-m',
    `size=${m.memoryMb}M`,
    '-rtc',
    `base=${m.clock}${m.accel === 'kvm' ? ',driftfix=slew' : ''}`,
    '-boot',
    boot.join(','),
    // The process stays, stopped, when the guest powers off: so an agent that was away learns that it was the guest's own doing.
    '-no-shutdown',
    '-S',
    '-chardev',
    `socket,id=qmp,path=${m.sockets.qmp},server=on,wait=off`,
    '-mon',
    'chardev=qmp,mode=control',
    ...(m.incoming ? ['-incoming', 'defer'] : []),
  ]
}

function firmware(m: Machine): string[] {
  if (m.firmware.type === 'bios') return []
  const { code, vars, secure } = m.firmware
  const node = (name: string, filename: string, readOnly: boolean): string[] => [
    '-blockdev',
    JSON.stringify({ 'node-name': name, driver: 'raw', 'read-only': readOnly, file: { driver: 'file', filename } }),
  ]
  return [
    ...node('fw-code', code, true),
    ...node('fw-vars', vars, false),
    ...(secure ? ['-global', 'driver=cfi.pflash01,property=secure,value=on'] : []),
  ]
}

function kernel(m: Machine): string[] {
  if (!m.kernel) return []
  const { path, initrd, append } = m.kernel
  return ['-kernel', path, ...(initrd ? ['-initrd', initrd] : []), ...(append ? ['-append', append] : [])]
}

function buses(m: Machine): string[] {
  const argv: string[] = []
  if (family(m.type) === 'q35') {
    for (let n = 0; n < rootPorts(m.slots); n++) {
      const fn = n % PORTS_PER_SLOT
      argv.push(
        ...device({
          driver: 'pcie-root-port',
          id: `rp${n}`,
          bus: 'pcie.0',
          addr: `0x${(FIRST_PORT_SLOT + Math.floor(n / PORTS_PER_SLOT)).toString(16)}.0x${fn}`,
          ...(fn === 0 ? { multifunction: true } : {}),
          chassis: n + 1,
          port: n,
        }),
      )
    }
  }
  const at = (id: string) => place(m.type, m.slots[id]!)
  if ('scsi0' in m.slots) argv.push(...device({ driver: 'virtio-scsi-pci', id: 'scsi0', ...at('scsi0') }))
  if ('usb0' in m.slots) argv.push(...device({ driver: 'qemu-xhci', id: 'usb0', ...at('usb0') }))
  return argv
}

function disks(m: Machine): string[] {
  const argv: string[] = []
  const units = new Map<string, number>()
  for (const disk of m.disks) {
    const controller = disk.bus === 'sata' ? 'ide' : disk.bus
    const unit = units.get(controller) ?? 0
    units.set(controller, unit + 1)
    argv.push(...object(throttleGroup(disk)), ...object(secretObject(disk)))
    for (const node of blockNodes(disk)) argv.push('-blockdev', JSON.stringify(node))
    const at = takesSlot(disk) ? place(m.type, m.slots[diskDeviceId(disk.name)]!) : undefined
    argv.push(...device(diskDevice(disk, at, unit, family(m.type))))
  }
  return argv
}

function nics(m: Machine): string[] {
  return m.nics.flatMap(nic => [
    '-netdev',
    JSON.stringify(netdev(nic)),
    ...device(nicDevice(nic, place(m.type, m.slots[nicDeviceId(nic.id)]!))),
  ])
}

const VIDEO = { virtio: 'virtio-vga', vga: 'VGA', qxl: 'qxl-vga', cirrus: 'cirrus-vga', bochs: 'bochs-display' } as const

function consoles(m: Machine): string[] {
  const argv: string[] = []
  if (m.serialPorts > 0) {
    // One chardev is both: its log gets every byte, and whoever connects to the socket has the interactive port.
    const log = `logfile=${m.consoleLog},logappend=on`
    argv.push('-chardev', `socket,id=serial0,path=${m.sockets.serial},server=on,wait=off,${log}`)
    argv.push(...device({ driver: 'isa-serial', chardev: 'serial0', index: 0 }))
  }
  for (let n = 1; n < m.serialPorts; n++) {
    argv.push('-chardev', `socket,id=serial${n},path=${m.sockets.serial}.${n},server=on,wait=off`)
    argv.push(...device({ driver: 'isa-serial', chardev: `serial${n}`, index: n }))
  }
  if (m.video !== 'none') {
    const ram = m.videoRamMb && m.video !== 'virtio' && m.video !== 'bochs' ? { vgamem_mb: m.videoRamMb } : {}
    const bus = family(m.type) === 'q35' ? 'pcie.0' : 'pci.0'
    argv.push('-vnc', `unix:${m.sockets.vnc}`, ...device({ driver: VIDEO[m.video], id: 'video0', bus, addr: '0x1e', ...ram }))
  } else argv.push('-display', 'none')
  if (m.tablet === 'usb') argv.push(...device({ driver: 'usb-tablet', id: 'tablet0', bus: 'usb0.0' }))
  if (m.tablet === 'virtio')
    argv.push(...device({ driver: 'virtio-tablet-pci', id: 'tablet0', ...place(m.type, m.slots.tablet0!) }))
  return argv
}

function helpers(m: Machine): string[] {
  const argv: string[] = []
  if (m.guestAgent) {
    argv.push(...device({ driver: 'virtio-serial-pci', id: 'vserial0', ...place(m.type, m.slots.vserial0!) }))
    argv.push('-chardev', `socket,id=agent0,path=${m.sockets.agent},server=on,wait=off`)
    argv.push(
      ...device({ driver: 'virtserialport', bus: 'vserial0.0', nr: 1, chardev: 'agent0', name: 'org.qemu.guest_agent.0' }),
    )
  }
  if (m.rng !== false) {
    argv.push(...object({ 'qom-type': 'rng-random', id: 'rngsrc0', filename: '/dev/urandom' }))
    const rate = m.rng?.rateBytes ? { 'max-bytes': m.rng.rateBytes, period: m.rng.ratePeriodMs ?? 1000 } : {}
    argv.push(...device({ driver: 'virtio-rng-pci', id: 'rng0', rng: 'rngsrc0', ...rate, ...place(m.type, m.slots.rng0!) }))
  }
  if (m.watchdog) {
    const bus = family(m.type) === 'q35' ? 'pcie.0' : 'pci.0'
    argv.push(...device({ driver: 'i6300esb', id: 'watchdog0', bus, addr: '0x1d' }), '-action', `watchdog=${m.watchdog}`)
  }
  return argv
}

/** The whole argument list. `m.slots` must have a place for each of `slotUsers(m)`. */
export function argv(m: Machine): string[] {
  return [...base(m), ...firmware(m), ...kernel(m), ...buses(m), ...disks(m), ...nics(m), ...consoles(m), ...helpers(m)]
}
