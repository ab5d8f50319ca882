/** Reads block_device_mapping_v2: which local disks a new server gets beside its root disk. Volumes come with the block storage service. */
import { badRequest } from '#kit/fault.ts'
import type { FlavorKept, LocalDisk } from '../tables.ts'
import type { BlockDeviceBody } from './create.body.ts'

export interface DisksAsked {
  disks: LocalDisk[]
  root: { bus: string | null; deviceType: string | null; tag: string | null }
  /** The image that the mapping boots from; null where it has none. */
  image: string | null
}

const invalid = (why: string) => badRequest(`Block Device Mapping is Invalid: ${why}`)

/** The disks of a flavor for which the mapping says nothing else. Throws badRequest for what cannot be made. */
export function disksAsked(mapping: readonly BlockDeviceBody[], flavor: FlavorKept): DisksAsked {
  const asked: DisksAsked = { disks: [], root: { bus: null, deviceType: null, tag: null }, image: null }
  const orders = mapping.map(indexOf).filter(index => index >= 0)
  if (new Set(orders).size < orders.length || (orders.length > 0 && [...orders].sort((a, b) => a - b).some((o, i) => o !== i))) {
    throw invalid('Boot sequence for the instance and image/block device mapping combination is not valid.')
  }
  for (const device of mapping) {
    const { source_type: source = 'blank', destination_type: destination = source === 'volume' ? 'volume' : 'local' } = device
    if (source === 'volume' || source === 'snapshot' || destination === 'volume') refuseVolume(device, source)
    if (source === 'image') takeImage(asked, device)
    else asked.disks.push(blank(device))
  }
  checkSizes(asked, flavor)
  if (!asked.disks.some(d => d.kind === 'blank') && flavor.ephemeral_gb > 0) asked.disks.push(local('blank', flavor.ephemeral_gb))
  if (!asked.disks.some(d => d.kind === 'swap') && flavor.swap_mb > 0) asked.disks.push(local('swap', flavor.swap_mb))
  return asked
}

const indexOf = (device: BlockDeviceBody): number =>
  device.boot_index === undefined || device.boot_index === null ? -1 : Number(device.boot_index)

function refuseVolume(device: BlockDeviceBody, source: string): never {
  const id = device.uuid ?? device.volume_id ?? device.snapshot_id
  if (source === 'volume' && id) throw invalid(`failed to get volume ${id}.`)
  if (source === 'snapshot' && id) throw invalid(`failed to get snapshot ${id}.`)
  throw invalid('there is no block storage service, so no disk can be a volume.')
}

function takeImage(asked: DisksAsked, device: BlockDeviceBody): void {
  if (indexOf(device) !== 0) throw invalid('Mapping image to local is only supported for the boot disk (boot_index 0).')
  asked.image = device.uuid ?? device.image_id ?? null
  if (asked.image === null) throw invalid('an image must be named by uuid.')
  asked.root = { bus: device.disk_bus ?? null, deviceType: device.device_type ?? null, tag: device.tag ?? null }
}

const local = (kind: LocalDisk['kind'], size: number): LocalDisk => ({
  kind,
  size,
  format: null,
  deviceName: null,
  bus: null,
  bootIndex: null,
  tag: null,
})

function blank(device: BlockDeviceBody): LocalDisk {
  const kind = device.guest_format === 'swap' ? 'swap' : 'blank'
  return {
    ...local(kind, device.volume_size === undefined ? -1 : Number(device.volume_size)),
    format: kind === 'swap' ? null : (device.guest_format ?? null),
    deviceName: device.device_name ?? null,
    bus: device.disk_bus ?? null,
    bootIndex: indexOf(device),
    tag: device.tag ?? null,
  }
}

/** What is not said is the flavor's; together they may not be larger than it. */
function checkSizes(asked: DisksAsked, flavor: FlavorKept): void {
  for (const disk of asked.disks) if (disk.size < 0) disk.size = disk.kind === 'swap' ? flavor.swap_mb : flavor.ephemeral_gb
  const sum = (kind: LocalDisk['kind']): number => asked.disks.reduce((n, d) => n + (d.kind === kind ? d.size : 0), 0)
  if (asked.disks.filter(d => d.kind === 'swap').length > 1) throw invalid('More than one swap drive requested.')
  if (sum('blank') > flavor.ephemeral_gb)
    throw badRequest(
      'Ephemeral disks requested are larger than the instance type allows. If no size is given in one block device mapping, flavor ephemeral size will be used.',
    )
  if (sum('swap') > flavor.swap_mb) throw badRequest('Swap drive requested is larger than instance type allows.')
}
