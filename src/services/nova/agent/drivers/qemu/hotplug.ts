// Devices of a guest that runs: what its spec has and the machine has not is plugged in, the other way round is taken out. What is plugged
// is asked of QEMU, so a crash in the middle is mended by the next round.
import { assignSlots, family, MAX_SLOTS, place, rootPorts } from '#host/qemu/argv.ts'
import {
  blockNodes,
  diskDevice,
  diskDeviceId,
  type MachineDisk,
  type MachineNic,
  netdev,
  netdevId,
  nicDevice,
  nicDeviceId,
  secretObject,
  takesSlot,
  throttleGroup,
  topNode,
} from '#host/qemu/devices.ts'
import { type Qmp, QmpError } from '#host/qemu/qmp.ts'
import { tapsEnsure } from '#host/qemu/tap.ts'
import { badRequest, conflict, reason } from '#kit/fault.ts'
import { diskMake } from './disks.ts'
import { type Host, type Live, note } from './live.ts'
import { CONFIG_DISK, machineDisk, machineNic, RESCUE_DISK } from './machine.ts'

/** How long a guest may take to let go of a device, and how often it is asked (milliseconds). */
const UNPLUG_MS = 30_000
const UNPLUG_RETRY_MS = 5_000

/** Ids of the devices that are plugged, as QEMU has them. */
export async function pluggedDevices(qmp: Qmp): Promise<Set<string>> {
  const list = await qmp.execute<{ name: string }[]>('qom-list', { path: '/machine/peripheral' })
  return new Set(list.map(item => item.name))
}

/** Makes a running guest's nics and disks those of its spec. Faults: conflict when the guest does not let go of one. */
export async function syncDevices(host: Host, live: Live, qmp: Qmp, signal: AbortSignal): Promise<void> {
  const { spec } = live.record
  // While rescued the machine has other disks by intent; what changed meanwhile comes with the next start.
  if (spec.rescue) return
  const plugged = await pluggedDevices(qmp)
  const nicIds = new Set(spec.nics.map(nic => nicDeviceId(nic.portId)))
  const diskIds = new Set([...spec.disks.map(disk => disk.name), CONFIG_DISK, RESCUE_DISK].map(diskDeviceId))
  for (const id of plugged) {
    if (id.startsWith('nic-') && !nicIds.has(id)) await unplugNic(host, live, qmp, id.slice(4), signal)
    if (id.startsWith('disk-') && !diskIds.has(id)) await unplugDisk(host, live, qmp, id, signal)
  }
  await plugTaps(host, live)
  for (const nic of spec.nics) if (!plugged.has(nicDeviceId(nic.portId))) await plugNic(host, live, qmp, machineNic(nic))
  for (const disk of spec.disks) {
    if (plugged.has(diskDeviceId(disk.name))) continue
    const folder = host.store.paths(live.id).folder
    const source = await diskMake({ folder, uid: live.record.uid, images: host.images }, disk, { signal })
    await plugDisk(host, live, qmp, machineDisk(disk, source))
  }
}

const machineType = (live: Live): string => live.record.machine ?? live.record.spec.machine ?? 'q35'

/** Makes the guest's taps those of its nics. */
export async function plugTaps(host: Host, live: Live): Promise<void> {
  const { spec, uid } = live.record
  const wanted = spec.nics.map(({ tap: name, mtu, queues }) => ({ name, mtu, multiQueue: (queues ?? 1) > 1 }))
  await tapsEnsure(uid, wanted, host.netns, live.record.started === undefined)
}

/** Gives a new device a place on the running machine, and keeps it in the record. */
async function newPlace(host: Host, live: Live, id: string) {
  const { slots, spec } = live.record
  const type = machineType(live)
  // A q35 machine has as many ports as it was started with.
  const max = family(type) === 'q35' ? (live.record.ports ?? rootPorts(slots)) : MAX_SLOTS.pc
  try {
    const next = assignSlots([...Object.keys(slots).filter(key => key !== id), id], slots, max)
    await note(host, live, { slots: next })
    return place(type, next[id]!)
  } catch (error) {
    throw badRequest(`Guest ${spec.id} has no free slot for another device: ${reason(error)}`, { cause: error })
  }
}

async function plugNic(host: Host, live: Live, qmp: Qmp, nic: MachineNic): Promise<void> {
  const at = await newPlace(host, live, nicDeviceId(nic.id))
  await undoing(
    async undo => {
      await once(qmp, 'netdev_add', netdev(nic), /Duplicate ID/)
      undo(() => qmp.execute('netdev_del', { id: netdevId(nic.id) }))
      await qmp.execute('device_add', nicDevice(nic, at))
    },
    error => conflict(`The network card could not be plugged in: ${reason(error)}`, { cause: error }),
  )
}

async function unplugNic(host: Host, live: Live, qmp: Qmp, portId: string, signal: AbortSignal): Promise<void> {
  await unplug(qmp, nicDeviceId(portId), signal)
  await qmp.execute('netdev_del', { id: netdevId(portId) }).catch(unless(/not found/))
  await freePlace(host, live, nicDeviceId(portId))
}

async function plugDisk(host: Host, live: Live, qmp: Qmp, disk: MachineDisk): Promise<void> {
  if (disk.bus === 'ide' || disk.bus === 'sata' || disk.bus === 'fdc')
    throw badRequest(`A disk on bus ${disk.bus} cannot be attached while the guest runs.`)
  if (disk.bus === 'scsi' || disk.bus === 'usb') await plugController(host, live, qmp, disk.bus)
  const at = takesSlot(disk) ? await newPlace(host, live, diskDeviceId(disk.name)) : undefined
  await undoing(
    async undo => {
      for (const object of [throttleGroup(disk), secretObject(disk)]) {
        if (!object) continue
        await once(qmp, 'object-add', object, /duplicate property|already/)
        undo(() => qmp.execute('object-del', { id: object.id }))
      }
      for (const node of blockNodes(disk)) {
        await once(qmp, 'blockdev-add', node, /Duplicate nodes|already in use|is already/)
        undo(() => qmp.execute('blockdev-del', { 'node-name': node['node-name'] }))
      }
      await qmp.execute('device_add', diskDevice(disk, at, 0, family(machineType(live))))
    },
    error => conflict(`Disk ${disk.name} could not be plugged in: ${reason(error)}`, { cause: error }),
  )
}

async function plugController(host: Host, live: Live, qmp: Qmp, bus: 'scsi' | 'usb'): Promise<void> {
  const id = `${bus}0`
  if ((await pluggedDevices(qmp)).has(id)) return
  const driver = bus === 'scsi' ? 'virtio-scsi-pci' : 'qemu-xhci'
  await qmp.execute('device_add', { driver, id, ...(await newPlace(host, live, id)) })
}

async function unplugDisk(host: Host, live: Live, qmp: Qmp, id: string, signal: AbortSignal): Promise<void> {
  await unplug(qmp, id, signal)
  const key = id.slice('disk-'.length)
  for (const node of [`t-${key}`, `n-${key}`, `f-${key}`])
    await qmp.execute('blockdev-del', { 'node-name': node }).catch(unless(/Failed to find node|Cannot find/))
  for (const object of [`tg-${key}`, `sec-${key}`]) await qmp.execute('object-del', { id: object }).catch(unless(/not found/))
  await freePlace(host, live, id)
}

async function freePlace(host: Host, live: Live, id: string): Promise<void> {
  const { [id]: _, ...slots } = live.record.slots
  await note(host, live, { slots })
}

/** Asks the guest to let go of a device until it does. A guest that is just booting does not hear the first time. */
async function unplug(qmp: Qmp, id: string, signal: AbortSignal): Promise<void> {
  const until = performance.now() + UNPLUG_MS
  while (performance.now() < until) {
    signal.throwIfAborted()
    // The event that carries `device` is the device's own; an earlier one without it is of the virtio part inside.
    const gone = qmp.wait(e => e.event === 'DEVICE_DELETED' && e.data.device === id, UNPLUG_RETRY_MS, `unplug of ${id}`)
    try {
      await qmp.execute('device_del', { id })
    } catch (error) {
      if (error instanceof QmpError && /not found/.test(error.message)) return
      if (!(error instanceof QmpError && /in the process of unplug/.test(error.message))) throw error
    }
    try {
      await gone
      return
    } catch (error) {
      if (!qmp.open) throw error
      if (!(await pluggedDevices(qmp)).has(id)) return
    }
  }
  throw conflict(`The guest did not let go of device ${id} within ${UNPLUG_MS / 1000} s.`, { type: 'DeviceDetachFailed' })
}

/** Tells the guest (and, for files, makes it so) that a disk has `bytes` now. */
export async function resizeNode(qmp: Qmp, disk: MachineDisk, bytes: number): Promise<void> {
  await qmp.execute('block_resize', { 'node-name': topNode(disk), size: bytes }, 60_000)
}

/** A command that may have succeeded before the crash that we are mending. */
async function once(qmp: Qmp, command: string, args: Record<string, unknown>, already: RegExp): Promise<void> {
  await qmp.execute(command, args, 60_000).catch(unless(already))
}

function unless(pattern: RegExp): (error: unknown) => void {
  return error => {
    if (!(error instanceof QmpError) || !pattern.test(error.message)) throw error
  }
}

/** Runs steps with their undos: when one fails the undos of those before run, newest first, and the error is told in `words`. */
async function undoing(
  work: (undo: (fn: () => Promise<unknown>) => void) => Promise<void>,
  words: (error: unknown) => Error,
): Promise<void> {
  const undos: (() => Promise<unknown>)[] = []
  try {
    await work(fn => undos.push(fn))
  } catch (error) {
    for (const undo of undos.reverse()) await undo().catch(() => undefined)
    throw words(error)
  }
}
