/** The guest that a server should be: a GuestSpec out of its row, its flavor's extra specs and its image's properties. */

import { toBoolean } from '#kit/http/schema.ts'
import { configDriveFiles } from '../metadata/files.ts'
import type { Server } from '../servers/store.ts'
import { instanceName } from '../servers/view.ts'
import type { CpuLimits, Disk, DiskBus, DiskLimits, GuestSpec, ImageRef, Nic, NicModel, Power, Rescue } from '../spec.ts'
import type { FlavorKept, ImageKept, NicKept } from '../tables.ts'

const BUSES = new Set(['virtio', 'scsi', 'ide', 'sata', 'usb', 'nvme', 'fdc'])
const MODELS = new Set(['virtio', 'e1000', 'e1000e', 'rtl8139', 'ne2k_pci', 'pcnet', 'vmxnet3'])
const VIDEOS = new Set(['virtio', 'vga', 'qxl', 'cirrus', 'bochs', 'none'])
const FORMATS = new Set(['qcow2', 'raw', 'vmdk', 'vdi', 'vhd', 'vhdx', 'iso', 'ami', 'aki', 'ari'])

const oneOf = <T extends string>(known: Set<string>, value: string | null | undefined, otherwise: T): T =>
  value && known.has(value) ? (value as T) : otherwise
const whole = (text: string | undefined): number | undefined => (text && /^-?\d+$/.test(text) ? Number(text) : undefined)
const flag = (text: string | undefined): boolean => text !== undefined && toBoolean(text.toLowerCase()) === true

/** An image as hosts know it. */
export function imageRef(image: ImageKept): ImageRef {
  return {
    id: image.id,
    format: oneOf(FORMATS, image.diskFormat, 'raw') as ImageRef['format'],
    ...(image.size === null ? {} : { size: image.size }),
    ...(image.checksum ? { checksum: image.checksum } : {}),
  }
}

function diskLimits(specs: Record<string, string>): DiskLimits | undefined {
  const limits: DiskLimits = {}
  for (const [field, spec] of [
    ['totalBytes', 'total_bytes'],
    ['readBytes', 'read_bytes'],
    ['writeBytes', 'write_bytes'],
    ['totalIops', 'total_iops'],
    ['readIops', 'read_iops'],
    ['writeIops', 'write_iops'],
  ] as const) {
    const value = whole(specs[`quota:disk_${spec}_sec`])
    if (value) limits[field] = value
  }
  return Object.keys(limits).length > 0 ? limits : undefined
}

function cpuLimits(specs: Record<string, string>): CpuLimits | undefined {
  const shares = whole(specs['quota:cpu_shares'])
  const periodUs = whole(specs['quota:cpu_period'])
  const quotaUs = whole(specs['quota:cpu_quota'])
  if (shares === undefined && periodUs === undefined && quotaUs === undefined) return undefined
  return { shares, periodUs, quotaUs }
}

/** Sockets, cores and threads as flavor and image ask, if they ask. What is not said is made to fit. */
function topologyOf(vcpus: number, specs: Record<string, string>, properties: Record<string, string>): GuestSpec['topology'] {
  const asked = (what: string): number | undefined => whole(specs[`hw:cpu_${what}`]) ?? whole(properties[`hw_cpu_${what}`])
  const sockets = asked('sockets')
  const cores = asked('cores')
  const threads = asked('threads')
  if (sockets === undefined && cores === undefined && threads === undefined) return undefined
  const t = threads ?? 1
  const c = cores ?? (sockets === undefined ? 1 : Math.max(1, Math.floor(vcpus / (sockets * t))))
  const s = sockets ?? Math.max(1, Math.floor(vcpus / (c * t)))
  return s * c * t === vcpus ? { sockets: s, cores: c, threads: t } : undefined
}

/** The disks on the host: the root disk out of the image, ephemeral disks, swap. */
export function disksOf(server: Pick<Server, 'flavor' | 'image' | 'build'>): Disk[] {
  const { flavor, image, build } = server
  const properties = image?.properties ?? {}
  const limits = diskLimits(flavor.extra_specs)
  const bus = oneOf<DiskBus>(BUSES, build.root?.bus ?? properties.hw_disk_bus, 'virtio')
  const disks: Disk[] = []
  if (image) disks.push(...rootDisks(image, flavor, build.root?.deviceType ?? null, bus, limits, properties))
  let ephemerals = 0
  for (const disk of build.disks) {
    if (disk.kind === 'swap') {
      disks.push({ kind: 'swap', name: 'swap', bus: oneOf<DiskBus>(BUSES, disk.bus, bus), sizeMb: disk.size, limits })
      continue
    }
    const number = ephemerals++
    disks.push({
      kind: 'blank',
      name: `ephemeral${number}`,
      bus: oneOf<DiskBus>(BUSES, disk.bus, bus),
      sizeGb: disk.size,
      filesystem: oneOf(new Set(['ext3', 'ext4', 'xfs', 'vfat', 'ntfs', 'none']), disk.format, 'vfat'),
      label: `ephemeral${number}`,
      limits,
    })
  }
  return disks
}

/** An ISO image is put into a CD drive and booted beside an empty disk; any other is the disk itself. */
function rootDisks(
  image: ImageKept,
  flavor: FlavorKept,
  deviceType: string | null,
  bus: DiskBus,
  limits: DiskLimits | undefined,
  properties: Record<string, string>,
): Disk[] {
  if (image.diskFormat === 'iso' || deviceType === 'cdrom') {
    const cd = oneOf<DiskBus>(BUSES, properties.hw_cdrom_bus, 'scsi')
    const install: Disk = {
      kind: 'image',
      name: 'cdrom',
      bus: cd,
      device: 'cdrom',
      bootIndex: 0,
      image: imageRef(image),
      sizeGb: 0,
      readOnly: true,
    }
    if (flavor.root_gb === 0) return [install]
    return [{ kind: 'blank', name: 'root', bus, sizeGb: flavor.root_gb, filesystem: 'none', bootIndex: 1, limits }, install]
  }
  return [{ kind: 'image', name: 'root', bus, bootIndex: 0, image: imageRef(image), sizeGb: flavor.root_gb, limits }]
}

/** A network card as the host plugs it. */
export function nicOf(nic: NicKept, image: ImageKept | null, flavor: FlavorKept): Nic {
  const properties = image?.properties ?? {}
  const queues = flag(flavor.extra_specs['hw:vif_multiqueue_enabled']) || flag(properties.hw_vif_multiqueue_enabled)
  return {
    portId: nic.portId,
    tap: nic.tap,
    mac: nic.mac,
    mtu: nic.mtu,
    model: oneOf<NicModel>(MODELS, properties.hw_vif_model, 'virtio'),
    ...(queues ? { queues: Math.min(flavor.vcpus, 16) } : {}),
  }
}

const WATCHDOG = new Set(['none', 'reset', 'poweroff', 'pause'])

/** The guest of a server, whole. `adminPassword` goes into its config drive and is kept nowhere else. */
export function guestSpec(server: Server, options: { adminPassword?: string; power?: Power } = {}): GuestSpec {
  const { flavor, image } = server
  const specs = flavor.extra_specs
  const properties = image?.properties ?? {}
  const watchdog = specs['hw:watchdog_action'] ?? properties.hw_watchdog_action
  const rate = whole(specs['hw_rng:rate_bytes'])
  const video = properties.hw_video_model
  return {
    id: server.id,
    revision: server.revision,
    name: instanceName(server),
    power: options.power ?? server.wanted_power,
    vcpus: flavor.vcpus,
    memoryMb: flavor.memory_mb,
    topology: topologyOf(flavor.vcpus, specs, properties),
    cpuLimits: cpuLimits(specs),
    machine: properties.hw_machine_type,
    firmware: properties.hw_firmware_type === 'uefi' ? 'uefi' : undefined,
    secureBoot: (specs['os:secure_boot'] ?? properties.os_secure_boot) === 'required' || undefined,
    disks: disksOf(server),
    nics: server.nics.map(nic => nicOf(nic, image, flavor)),
    configDrive: server.config_drive
      ? {
          format: 'iso9660',
          bus: oneOf<DiskBus>(BUSES, properties.hw_cdrom_bus, 'virtio'),
          files: configDriveFiles(server, options.adminPassword),
        }
      : undefined,
    kernel: kernelOf(properties),
    rescue: server.rescue ? rescueOf(server.rescue.image, properties) : undefined,
    rng: rngOf(specs, properties, rate),
    guestAgent: properties.hw_qemu_guest_agent === undefined ? undefined : flag(properties.hw_qemu_guest_agent),
    video: video && VIDEOS.has(video) ? (video as GuestSpec['video']) : undefined,
    videoRamMb: whole(properties.hw_video_ram),
    tablet: tabletOf(properties),
    watchdog: watchdog && WATCHDOG.has(watchdog) ? (watchdog as GuestSpec['watchdog']) : undefined,
    serialPorts: whole(specs['hw:serial_port_count']) ?? whole(properties.hw_serial_port_count),
    clock: properties.os_type === 'windows' ? 'localtime' : undefined,
    hideHypervisor: flag(specs['hw:hide_hypervisor_id']) || flag(properties.img_hide_hypervisor_id) || undefined,
    bootMenu: flag(specs['hw:boot_menu']) || flag(properties.hw_boot_menu) || undefined,
    shutdownTimeout: whole(properties.os_shutdown_timeout),
  }
}

/** An image without a boot loader of its own names its kernel and ramdisk, which are images too. */
function kernelOf(properties: Record<string, string>): GuestSpec['kernel'] {
  const { kernel_id, ramdisk_id, os_command_line } = properties
  if (!kernel_id) return undefined
  return {
    kernel: { id: kernel_id, format: 'aki' },
    ...(ramdisk_id && { ramdisk: { id: ramdisk_id, format: 'ari' as const } }),
    ...(os_command_line && { commandLine: os_command_line }),
  }
}

function rngOf(specs: Record<string, string>, properties: Record<string, string>, rate: number | undefined): GuestSpec['rng'] {
  if (specs['hw_rng:allowed'] !== undefined && !flag(specs['hw_rng:allowed'])) return false
  if (properties.hw_rng_model === undefined && specs['hw_rng:allowed'] === undefined && rate === undefined) return undefined
  return { rateBytes: rate, ratePeriodMs: whole(specs['hw_rng:rate_period']) }
}

function tabletOf(properties: Record<string, string>): GuestSpec['tablet'] {
  if (properties.hw_pointer_model === 'usbtablet') return 'usb'
  if (properties.hw_input_bus === 'usb' || properties.hw_input_bus === 'virtio') return properties.hw_input_bus
  return undefined
}

function rescueOf(image: ImageKept, properties: Record<string, string>): Rescue {
  const bus = image.properties.hw_rescue_bus ?? properties.hw_disk_bus
  const device = image.properties.hw_rescue_device
  return {
    image: imageRef(image),
    bus: oneOf<DiskBus>(BUSES, bus, 'virtio'),
    device: device === 'cdrom' || device === 'disk' || device === 'floppy' ? device : undefined,
    stable: image.properties.hw_rescue_bus !== undefined || device !== undefined || undefined,
  }
}
