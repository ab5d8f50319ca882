// What the driver needs to know of this host before the first guest, found out once and kept: whether KVM really runs guests, which QEMU
// this is, which machines and CPU features it has. The answers hold for one QEMU, one kernel and one boot, and are kept in a file under
// that key, so that the agent's next start takes no time.
import { createHash } from 'node:crypto'
import { mkdir, readFile, rm, stat } from 'node:fs/promises'
import { arch, hostname, release } from 'node:os'
import { basename, dirname, join, resolve } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { cgroupsFind, groupNames, groupPids, groupRemove } from '#host/cgroup/index.ts'
import { cpuTraits, firmwareDescriptors, hostNumbers } from '#host/qemu/inventory.ts'
import {
  type Accel,
  accelTry,
  cpuFeatures,
  deviceOpen,
  machineTypes,
  pickFirmware,
  qemuVersion,
  versionNumber,
  withPackage,
} from '#host/qemu/probe.ts'
import { bootId, pidsOfUsers, signalPid } from '#host/qemu/process.ts'
import { tapList, tapRemove } from '#host/qemu/tap.ts'
import { reason, unavailable } from '#kit/fault.ts'
import type { LinkLog } from '#kit/link/index.ts'
import type { HostInventory, HostThing } from '../../../spec.ts'
import type { ImageSource } from '../../driver.ts'
import { imageCache } from './images.ts'
import type { Host } from './live.ts'
import { guestStore, writeWhole } from './store.ts'

export interface QemuOptions {
  /** The agent's own folder, e.g. DATA/nova: guests and base images are below it. Guests' users must be able to pass through its parents. */
  dataDir: string
  images: ImageSource
  log: LinkLog
  /** Sockets of running guests; short, and gone after a reboot. /run/nubo-HASH by default. */
  runDir?: string
  binary?: string
  /** Network namespace of QEMU and the taps. */
  netns?: string
  /** `auto`: KVM where it works. */
  accel?: 'auto' | Accel
  hostname?: string
  hostIp?: string
  consoleBytes?: number
}

/** What was found out, as kept in the file. */
export interface Findings {
  key: string
  version: string
  accel: Accel
  accelReason?: string
  groups: number[]
  machines: Record<string, string>
  features: string[]
}

/** A short name for this data folder: two Nubos on one machine share nothing. */
export const scopeOf = (dataDir: string): string => createHash('sha256').update(resolve(dataDir)).digest('hex').slice(0, 8)

/**
 * The range of guest users: 100,000 from a start that depends on the folder, between 1,900,000,000 and 2,100,000,000, where systemd's table
 * of users says nobody is. Pure.
 */
export const uidRange = (scope: string): [first: number, count: number] => [
  1_900_000_000 + (Number.parseInt(scope, 16) % 2000) * 100_000,
  100_000,
]

/** Longest that killed guests may take to end. */
const GONE_MS = 30_000

async function findOut(options: QemuOptions, uid: number): Promise<Findings> {
  const binary = options.binary ?? 'qemu-system-x86_64'
  const version = await withPackage(qemuVersion(binary))
  const key = [version, release(), await bootId(), options.accel ?? 'auto'].join(' ')
  const path = join(options.dataDir, 'host.json')
  const kept = await readFile(path, 'utf8').then(
    text => JSON.parse(text) as Findings,
    (error: NodeJS.ErrnoException) => {
      if (error.code !== 'ENOENT' && !(error instanceof SyntaxError)) throw error
      return undefined
    },
  )
  if (kept?.key === key) return kept
  let accel: Accel = 'tcg'
  let accelReason: string | undefined
  let groups: number[] = []
  if (options.accel === 'tcg') accelReason = 'as configured'
  else {
    const opened = await deviceOpen('/dev/kvm', { group: uid })
    accelReason = opened ? await withPackage(accelTry('kvm', { binary, uid, groups: opened })) : 'there is no /dev/kvm'
    if (accelReason === undefined) {
      accel = 'kvm'
      groups = opened ?? []
    } else if (options.accel === 'kvm') throw unavailable(`KVM is demanded and does not work here: ${accelReason}`)
  }
  const [machines, features] = await Promise.all([machineTypes(binary), cpuFeatures(binary, accel)])
  const found: Findings = { key, version, accel, ...(accelReason !== undefined && { accelReason }), groups, machines, features }
  await writeWhole(path, JSON.stringify(found, null, 1))
  return found
}

/** Everything that guests of this driver share. Faults: unavailable, naming the package, when QEMU is not installed. */
export async function openHost(options: QemuOptions, changed: Host['changed']): Promise<{ host: Host; findings: Findings }> {
  const dataDir = resolve(options.dataDir)
  const scope = scopeOf(dataDir)
  const uids = uidRange(scope)
  const [probeUid] = uids
  await mkdir(dataDir, { recursive: true, mode: 0o711 })
  await reachable(dataDir)
  let findings: Findings
  try {
    findings = await findOut({ ...options, dataDir }, probeUid)
  } catch (error) {
    throw unavailable(`This host cannot run guests: ${reason(error)}`, { cause: error })
  }
  await deviceOpen('/dev/net/tun', { mode: 0o666 })
  const folder = join(dataDir, 'guests')
  const store = guestStore({
    folder,
    runFolder: options.runDir ?? `/run/nubo-${scope}/guests`,
    // The range's first user inspects images and runs no guest.
    uids: [uids[0] + 1, uids[1] - 1],
  })
  const host: Host = {
    dataDir,
    log: options.log,
    store,
    images: imageCache({ folder: join(dataDir, '_base'), source: options.images, uid: probeUid }),
    binary: options.binary ?? 'qemu-system-x86_64',
    accel: findings.accel,
    groups: findings.groups,
    cgroups: await cgroupsFind(),
    scope: `nubo-${scope}`,
    netns: options.netns,
    firmware: await firmwareDescriptors(),
    machines: findings.machines,
    consoleBytes: options.consoleBytes ?? 1 << 20,
    changed,
  }
  return { host, findings }
}

/** Takes away what belongs to no guest any more: groups, processes in them, and taps of our users. */
export async function sweep(host: Host, guests: { id: string; uid: number }[]): Promise<void> {
  const ids = new Set(guests.map(guest => guest.id))
  for (const name of await groupNames(host.cgroups, host.scope)) {
    if (ids.has(name)) continue
    const group = `${host.scope}/${name}`
    for (const pid of await groupPids(host.cgroups, group)) signalPid(pid, 'SIGKILL')
    await groupRemove(host.cgroups, group).catch(error =>
      host.log.warn({ group, error: reason(error) }, 'control group left behind'),
    )
  }
  const [first, count] = uidRange(host.scope.slice('nubo-'.length))
  const uids = new Set(guests.map(guest => guest.uid))
  for (const tap of await tapList(host.netns)) {
    const ours = tap.uid !== undefined && tap.uid >= first && tap.uid < first + count
    if (ours && !uids.has(tap.uid as number)) await tapRemove(tap.name, host.netns)
  }
}

/**
 * Removes everything of the driver of `dataDir` from this host, read from the kernel and the file system alone: it need not be open, its files
 * need not be readable, qemu need not be there. Gives what there was. For one whose agent has ended for good.
 */
export async function qemuWipe({
  dataDir,
  runDir,
  netns,
}: Pick<QemuOptions, 'dataDir' | 'runDir' | 'netns'>): Promise<HostThing[]> {
  const scope = scopeOf(dataDir)
  const [first, count] = uidRange(scope)
  const store = guestStore({
    folder: join(resolve(dataDir), 'guests'),
    runFolder: runDir ?? `/run/nubo-${scope}/guests`,
    uids: [first + 1, count - 1],
  })
  const host = { cgroups: await cgroupsFind(), scope: `nubo-${scope}`, netns, store }
  const things = await thingsOf(host, new Map())
  const until = performance.now() + GONE_MS
  // A guest may be forking as its end comes; the kernel tells nobody but its parent when it has gone.
  for (let left = await pidsOfUsers(first, count); left.length > 0; left = await pidsOfUsers(first, count)) {
    for (const { pid } of left) signalPid(pid, 'SIGKILL')
    if (performance.now() > until) throw new Error(`processes ${left.map(one => one.pid).join(', ')} do not end`)
    await delay(20)
  }
  const groups = (await groupNames(host.cgroups, host.scope)).map(name => `${host.scope}/${name}`)
  for (const group of [...groups, host.scope]) await groupEmptied(host, group, until)
  for (const tap of await tapList(netns))
    if (tap.uid !== undefined && tap.uid >= first && tap.uid < first + count) await tapRemove(tap.name, netns)
  await store.wipe()
  if (runDir === undefined) await rm(`/run/nubo-${scope}`, { recursive: true, force: true })
  return things
}

/** Removes a group whose processes were killed: the kernel holds on to it until their parent has heard of their end. */
async function groupEmptied({ cgroups }: Pick<Host, 'cgroups'>, group: string, until: number): Promise<void> {
  for (;;) {
    try {
      await groupRemove(cgroups, group)
      return
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'EBUSY' || performance.now() > until) throw error
      await delay(20)
    }
  }
}

/** Everything of ours, as the kernel and the file system have it; `guests` are those that should be here. */
export async function thingsOf(
  host: Pick<Host, 'store' | 'cgroups' | 'scope' | 'netns'>,
  guests: ReadonlyMap<string, { uid: number; running: boolean; taps: string[] }>,
): Promise<HostThing[]> {
  const things: HostThing[] = []
  const add = (kind: HostThing['kind'], name: string, guest: string | null, wanted: boolean) =>
    things.push({ kind, name, guest, wanted })
  const [first, count] = uidRange(host.scope.slice('nubo-'.length))
  const byUid = new Map([...guests].map(([id, { uid }]) => [uid, id]))
  for (const path of await host.store.folders()) {
    const id = basename(path)
    add('folder', path, id.startsWith('.') ? null : id, guests.has(id))
  }
  for (const name of await groupNames(host.cgroups, host.scope))
    add('group', `${host.scope}/${name}`, name, guests.get(name)?.running === true)
  for (const tap of await tapList(host.netns)) {
    if (tap.uid === undefined || tap.uid < first || tap.uid >= first + count) continue
    const id = byUid.get(tap.uid) ?? null
    add('tap', tap.name, id, id !== null && guests.get(id)?.taps.includes(tap.name) === true)
  }
  for (const { pid, uid } of await pidsOfUsers(first, count)) {
    const id = byUid.get(uid) ?? null
    add('process', String(pid), id, id !== null && guests.get(id)?.running === true)
  }
  return things
}

/** Faults: unavailable, naming the folder, when guests' users could not reach their files. */
export async function reachable(folder: string): Promise<void> {
  for (let at = resolve(folder); ; at = dirname(at)) {
    const { mode } = await stat(at)
    if ((mode & 0o001) === 0)
      throw unavailable(`Guests run as users of their own, who cannot pass through ${at}: chmod o+x ${at}.`)
    if (at === dirname(at)) return
  }
}

/** Traits for what this driver and host can do (os-traits' COMPUTE_*). Pure. */
export function computeTraits(findings: Pick<Findings, 'features'>, firmware: string[]): string[] {
  const traits = [
    'COMPUTE_DEVICE_TAGGING',
    'COMPUTE_VOLUME_EXTEND',
    'COMPUTE_GRAPHICS_MODEL_BOCHS',
    'COMPUTE_GRAPHICS_MODEL_CIRRUS',
    'COMPUTE_GRAPHICS_MODEL_NONE',
    'COMPUTE_GRAPHICS_MODEL_QXL',
    'COMPUTE_GRAPHICS_MODEL_VGA',
    'COMPUTE_GRAPHICS_MODEL_VIRTIO',
    'COMPUTE_IMAGE_TYPE_AKI',
    'COMPUTE_IMAGE_TYPE_AMI',
    'COMPUTE_IMAGE_TYPE_ARI',
    'COMPUTE_IMAGE_TYPE_ISO',
    'COMPUTE_IMAGE_TYPE_QCOW2',
    'COMPUTE_IMAGE_TYPE_RAW',
    'COMPUTE_IMAGE_TYPE_VDI',
    'COMPUTE_IMAGE_TYPE_VHD',
    'COMPUTE_IMAGE_TYPE_VHDX',
    'COMPUTE_IMAGE_TYPE_VMDK',
    'COMPUTE_NET_ATTACH_INTERFACE',
    'COMPUTE_NET_ATTACH_INTERFACE_WITH_TAG',
    'COMPUTE_NET_VIF_MODEL_E1000',
    'COMPUTE_NET_VIF_MODEL_E1000E',
    'COMPUTE_NET_VIF_MODEL_NE2K_PCI',
    'COMPUTE_NET_VIF_MODEL_PCNET',
    'COMPUTE_NET_VIF_MODEL_RTL8139',
    'COMPUTE_NET_VIF_MODEL_VIRTIO',
    'COMPUTE_NET_VIF_MODEL_VMXNET3',
    'COMPUTE_NODE',
    'COMPUTE_RESCUE_BFV',
    'COMPUTE_STORAGE_BUS_IDE',
    'COMPUTE_STORAGE_BUS_SATA',
    'COMPUTE_STORAGE_BUS_SCSI',
    'COMPUTE_STORAGE_BUS_USB',
    'COMPUTE_STORAGE_BUS_VIRTIO',
    'COMPUTE_VOLUME_ATTACH',
    'COMPUTE_VOLUME_ATTACH_WITH_TAG',
    'COMPUTE_VOLUME_MULTI_ATTACH',
  ]
  if (pickFirmware(firmware, false)) traits.push('COMPUTE_FIRMWARE_UEFI')
  traits.push('COMPUTE_FIRMWARE_BIOS', 'HW_ARCH_X86_64')
  if (pickFirmware(firmware, true)) traits.push('COMPUTE_SECURITY_UEFI_SECURE_BOOT')
  return [...traits, ...cpuTraits(findings.features)].sort()
}

export async function inventoryOf(host: Host, findings: Findings, options: QemuOptions): Promise<HostInventory> {
  const numbers = await hostNumbers(options.dataDir)
  const { cpu, ...rest } = numbers
  return {
    hostname: options.hostname ?? hostname(),
    // The API's name for what libvirt's driver runs, with KVM or without.
    hypervisorType: 'QEMU',
    hypervisorVersion: versionNumber(findings.version),
    accelerator: findings.accel,
    ...(findings.accelReason !== undefined && { acceleratorReason: findings.accelReason }),
    architecture: arch() === 'x64' ? 'x86_64' : arch(),
    vcpus: cpu.online,
    ...rest,
    ...(options.hostIp !== undefined && { hostIp: options.hostIp }),
    cpu: { vendor: cpu.vendor, model: cpu.model, topology: cpu.topology, features: findings.features },
    traits: computeTraits(findings, host.firmware),
  }
}
