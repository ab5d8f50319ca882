// Block nodes and devices as QEMU's own JSON: one description serves `-blockdev`/`-device` at the start and `blockdev-add`/`device_add`
// while the guest runs. Pure. JSON on the command line needs QEMU 6.2.
//
// A disk is a chain of block nodes, named by its key: `f-KEY` (protocol: file, nbd, rbd…), `n-KEY` (format), and with limits `t-KEY`
// (a throttle filter in front, of the throttle group `tg-KEY`). The device on top is `disk-KEY`. Node names have at most 31 bytes.
import { createHash } from 'node:crypto'

export type Json = Record<string, unknown>
export type Bus = 'virtio' | 'scsi' | 'ide' | 'sata' | 'usb' | 'nvme' | 'fdc'

export type BlockSource =
  | { type: 'file'; path: string; format: 'qcow2' | 'raw' }
  | { type: 'device'; path: string }
  | { type: 'nbd'; socket: string; export: string }
  | { type: 'nbd'; host: string; port: number; export: string }
  | { type: 'rbd'; pool: string; image: string; conf: string; user: string }
  | { type: 'iscsi'; portal: string; target: string; lun: number; user?: string; password?: string }

/** Limits a second; absent = none. */
export interface Throttle {
  totalBytes?: number
  readBytes?: number
  writeBytes?: number
  totalIops?: number
  readIops?: number
  writeIops?: number
}

export interface MachineDisk {
  name: string
  source: BlockSource
  bus: Bus
  cdrom?: boolean
  readOnly?: boolean
  bootIndex?: number
  serial?: string
  throttle?: Throttle
  shared?: boolean
}

export interface MachineNic {
  /** Names the device; the port's id. */
  id: string
  tap: string
  mac: string
  mtu: number
  model: 'virtio' | 'e1000' | 'e1000e' | 'rtl8139' | 'ne2k_pci' | 'pcnet' | 'vmxnet3'
  queues?: number
  bootIndex?: number
}

/** The short, safe name of a disk in QEMU: its own where that fits, else a hash of it. */
export function diskKey(name: string): string {
  return /^[a-z][a-z0-9-]{0,19}$/.test(name) ? name : `v${createHash('sha256').update(name).digest('hex').slice(0, 16)}`
}

export const diskDeviceId = (name: string): string => `disk-${diskKey(name)}`
export const nicDeviceId = (id: string): string => `nic-${id}`
export const netdevId = (id: string): string => `net-${id}`

/** The node that the device (and a snapshot) reads: the throttle filter where there is one, else the format node. */
export const topNode = (disk: Pick<MachineDisk, 'name' | 'throttle'>): string =>
  `${hasLimits(disk.throttle) ? 't' : 'n'}-${diskKey(disk.name)}`

function hasLimits(t: Throttle | undefined): t is Throttle {
  return t !== undefined && Object.values(t).some(v => v > 0)
}

/** The arguments of object-add for a disk's throttle group; bursts of one second's worth are QEMU's default. */
export function throttleGroup(disk: MachineDisk): Json | undefined {
  const t = disk.throttle
  if (!hasLimits(t)) return undefined
  const limits: Json = {}
  const set = (key: string, value: number | undefined) => value && Object.assign(limits, { [key]: value })
  set('bps-total', t.totalBytes)
  set('bps-read', t.readBytes)
  set('bps-write', t.writeBytes)
  set('iops-total', t.totalIops)
  set('iops-read', t.readIops)
  set('iops-write', t.writeIops)
  return { 'qom-type': 'throttle-group', id: `tg-${diskKey(disk.name)}`, limits }
}

/** A secret object for a source that needs a password (CHAP); given base64-encoded, as -object JSON keeps commas and quotes whole. */
export function secretObject(disk: MachineDisk): Json | undefined {
  if (disk.source.type !== 'iscsi' || !disk.source.password) return undefined
  const data = Buffer.from(disk.source.password).toString('base64')
  return { 'qom-type': 'secret', id: `sec-${diskKey(disk.name)}`, data, format: 'base64' }
}

function protocolNode(disk: MachineDisk): Json {
  const { source } = disk
  switch (source.type) {
    case 'file':
      return { driver: 'file', filename: source.path, aio: 'threads' }
    case 'device':
      return { driver: 'host_device', filename: source.path, aio: 'native' }
    case 'nbd': {
      const server =
        'socket' in source
          ? { type: 'unix', path: source.socket }
          : { type: 'inet', host: source.host, port: String(source.port) }
      // A storage process that restarts must not become I/O errors in the guest: reconnect for a while before failing requests.
      return { driver: 'nbd', server, export: source.export, 'reconnect-delay': 60 }
    }
    case 'rbd':
      return { driver: 'rbd', pool: source.pool, image: source.image, conf: source.conf, user: source.user }
    case 'iscsi': {
      const chap = source.user ? { user: source.user, 'password-secret': `sec-${diskKey(disk.name)}` } : {}
      return { driver: 'iscsi', transport: 'tcp', portal: source.portal, target: source.target, lun: source.lun, ...chap }
    }
  }
}

/** A disk's block nodes from the bottom up, each the arguments of blockdev-add. */
export function blockNodes(disk: MachineDisk): Json[] {
  const key = diskKey(disk.name)
  const readOnly = disk.readOnly === true || disk.cdrom === true
  // Direct I/O where the bytes leave this host or are a device; the host's page cache for files, flushed when the guest flushes.
  const direct = disk.source.type === 'device' || disk.source.type === 'iscsi'
  const common = { 'read-only': readOnly, discard: 'unmap', cache: { direct, 'no-flush': false } }
  const format = disk.source.type === 'file' ? disk.source.format : 'raw'
  const nodes: Json[] = [
    { 'node-name': `f-${key}`, ...protocolNode(disk), ...common },
    { 'node-name': `n-${key}`, driver: format, file: `f-${key}`, ...common },
  ]
  if (hasLimits(disk.throttle))
    nodes.push({ 'node-name': `t-${key}`, driver: 'throttle', 'throttle-group': `tg-${key}`, file: `n-${key}` })
  return nodes
}

/** Where a device sits: `bus` is a root port (q35) or pci.0 with a slot (pc). */
export interface Place {
  bus: string
  addr?: string
}

/** Whether a disk takes a PCI place of its own. Others sit on a controller. */
export const takesSlot = (disk: Pick<MachineDisk, 'bus'>): boolean => disk.bus === 'virtio' || disk.bus === 'nvme'

/** The arguments of device_add for a disk. `unit` counts the disks before it on the same controller (ide, sata). */
export function diskDevice(disk: MachineDisk, place: Place | undefined, unit: number, machine: 'q35' | 'pc'): Json {
  const id = diskDeviceId(disk.name)
  const boot = disk.bootIndex === undefined ? {} : { bootindex: disk.bootIndex }
  const common: Json = { id, drive: topNode(disk), ...boot }
  const serial = (max: number) => (disk.serial ? { serial: disk.serial.slice(0, max) } : {})
  const share = disk.shared ? { 'share-rw': true } : {}
  switch (disk.bus) {
    case 'virtio':
      return { driver: 'virtio-blk-pci', ...common, ...place, ...serial(20), ...share }
    case 'nvme':
      return { driver: 'nvme', ...common, ...place, serial: (disk.serial ?? disk.name).slice(0, 20) }
    case 'scsi':
      // The device id (VPD page 0x83) would be the node's name: say the serial, so that the guest's /dev/disk/by-id is stable.
      return {
        driver: disk.cdrom ? 'scsi-cd' : 'scsi-hd',
        ...common,
        bus: 'scsi0.0',
        device_id: id,
        ...serial(36),
        ...(disk.cdrom ? {} : share),
      }
    case 'usb':
      return { driver: 'usb-storage', ...common, bus: 'usb0.0', ...serial(36), removable: true }
    case 'fdc':
      return { driver: 'floppy', ...common, unit }
    case 'ide':
    case 'sata': {
      const bus = machine === 'q35' ? { bus: `ide.${unit}` } : { bus: `ide.${unit >> 1}`, unit: unit & 1 }
      return { driver: disk.cdrom ? 'ide-cd' : 'ide-hd', ...common, ...bus, ...serial(20) }
    }
  }
}

/** The arguments of netdev_add for a nic. The tap is there already, owned by the guest's user, so no script and no privilege. */
export function netdev(nic: MachineNic): Json {
  const queues = (nic.queues ?? 1) > 1 ? { queues: nic.queues } : {}
  return { type: 'tap', id: netdevId(nic.id), ifname: nic.tap, script: 'no', downscript: 'no', ...queues }
}

const NIC_DRIVER: Record<MachineNic['model'], string> = {
  virtio: 'virtio-net-pci',
  e1000: 'e1000',
  e1000e: 'e1000e',
  rtl8139: 'rtl8139',
  ne2k_pci: 'ne2k_pci',
  pcnet: 'pcnet',
  vmxnet3: 'vmxnet3',
}

/** The arguments of device_add for a nic. Only virtio can tell its MTU to the guest; others learn it by DHCP. */
export function nicDevice(nic: MachineNic, place: Place): Json {
  const boot = nic.bootIndex === undefined ? {} : { bootindex: nic.bootIndex }
  const device: Json = {
    driver: NIC_DRIVER[nic.model],
    id: nicDeviceId(nic.id),
    netdev: netdevId(nic.id),
    mac: nic.mac,
    ...place,
    ...boot,
  }
  if (nic.model !== 'virtio') return device
  const queues = nic.queues ?? 1
  // Two vectors a queue pair, one for control and one for configuration changes.
  const multi = queues > 1 ? { mq: true, vectors: 2 * queues + 2 } : {}
  return { ...device, ...multi, host_mtu: nic.mtu }
}
