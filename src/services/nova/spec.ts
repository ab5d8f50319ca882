/**
 * What nova's controller and its agents say to each other about guests. Types only: sagas, verbs and drivers share them, and all of it
 * is plain JSON, because it crosses the link and is kept in the agent's files.
 *
 * A guest is described whole, by a GuestSpec. Every verb is "make the guest be like this": the agent keeps the newest spec it was told,
 * so that it can mend the guest by itself after a crash of anything. Sizes say their unit; ids are UUIDs.
 */

/** The power states a guest can be wanted in. `suspended`: its memory is in a file and no process runs. */
export type Power = 'running' | 'paused' | 'suspended' | 'off'

/** What a guest is. `crashed`: it should run, does not, and starting it again failed. */
export type GuestPower = Power | 'crashed'

export type DiskBus = 'virtio' | 'scsi' | 'ide' | 'sata' | 'usb' | 'nvme' | 'fdc'
export type NicModel = 'virtio' | 'e1000' | 'e1000e' | 'rtl8139' | 'ne2k_pci' | 'pcnet' | 'vmxnet3'

/** An image's bytes, as Glance stores them. The checksum (or `id` alone when there is none) names the cached copy. */
export interface ImageRef {
  id: string
  format: 'qcow2' | 'raw' | 'vmdk' | 'vdi' | 'vhd' | 'vhdx' | 'iso' | 'ami' | 'aki' | 'ari'
  /** Bytes of the stored file. */
  size?: number
  checksum?: { algorithm: 'sha512' | 'sha256' | 'md5'; hex: string }
}

/** Limits of one disk, per second; absent = none. As the flavor's quota:disk_* or a volume type's front-end QoS says. */
export interface DiskLimits {
  totalBytes?: number
  readBytes?: number
  writeBytes?: number
  totalIops?: number
  readIops?: number
  writeIops?: number
}

/** How qemu reaches a volume: what the storage side's connector left on this host. */
export type VolumeSource =
  | { type: 'file'; path: string; format: 'raw' | 'qcow2' }
  | { type: 'device'; path: string }
  | { type: 'nbd'; socket: string; export: string }
  | { type: 'nbd'; host: string; port: number; export: string }
  | { type: 'rbd'; pool: string; image: string; conf: string; user: string }
  | { type: 'iscsi'; portal: string; target: string; lun: number; user?: string; password?: string }

interface DiskBase {
  /** Unique in the guest: `root`, `ephemeral0`, `swap`, or a volume's id. Names files and devices: letters, digits, dashes. */
  name: string
  bus: DiskBus
  device?: 'disk' | 'cdrom'
  /** 0 boots first; absent = not a boot device. */
  bootIndex?: number
  /** What the guest sees as the disk's serial, at most 20 bytes on virtio; the volume's id for volumes. */
  serial?: string
  limits?: DiskLimits
  readOnly?: boolean
  /** A disk that comes from elsewhere: where its file is missing here it is made of these bytes, whole, in place of what `kind` says. */
  content?: ImageRef
}

/** A disk of the guest. All but `volume` live and die with the guest on this host. */
export type Disk =
  | (DiskBase & { kind: 'image'; image: ImageRef /** 0 = the image's own size */; sizeGb: number })
  | (DiskBase & {
      kind: 'blank'
      sizeGb: number
      filesystem?: 'ext3' | 'ext4' | 'xfs' | 'vfat' | 'ntfs' | 'none'
      label?: string
    })
  | (DiskBase & { kind: 'swap'; sizeMb: number })
  | (DiskBase & { kind: 'volume'; source: VolumeSource /** share with other guests (multiattach) */; shared?: boolean })

/** A network card. The driver makes the tap (owner: the guest's user); the network agent plugs it when it appears. */
export interface Nic {
  portId: string
  /** `tap` and the first 11 characters of the port's id, as Neutron names it. */
  tap: string
  mac: string
  mtu: number
  model: NicModel
  /** Queue pairs, 1 unless hw:vif_multiqueue_enabled. */
  queues?: number
}

/** CPU limits from the flavor's quota:cpu_*. `quotaUs` of `periodUs` is per guest CPU, as libvirt takes it. */
export interface CpuLimits {
  shares?: number
  periodUs?: number
  quotaUs?: number
}

/** Files of the config drive: path → content in base64, e.g. `openstack/latest/meta_data.json`. */
export interface ConfigDrive {
  format: 'iso9660' | 'vfat'
  bus: DiskBus
  files: Record<string, string>
}

export interface Rescue {
  image: ImageRef
  bus: DiskBus
  device?: 'disk' | 'cdrom' | 'floppy'
  kernel?: ImageRef
  ramdisk?: ImageRef
  /** Stable device rescue: the guest's disks keep their places, the rescue disk is added last and booted from. */
  stable?: boolean
  configDrive?: ConfigDrive
}

export interface GuestSpec {
  id: string
  /** Grows with each change the controller makes; an older spec than the kept one is refused. */
  revision: number
  /** For people: the process name. */
  name: string
  power: Power
  /** Memory that a guest brings from its old host: a guest that is new here and wanted `suspended` is suspended with it. */
  memory?: ImageRef
  vcpus: number
  memoryMb: number
  topology?: { sockets: number; cores: number; threads: number }
  /** A model of qemu's, `host-passthrough`, or absent: the best the accelerator has. */
  cpuModel?: string
  cpuLimits?: CpuLimits
  /** hw_machine_type; `pc` or `q35`, or a versioned name of those. Absent: q35. */
  machine?: string
  firmware?: 'bios' | 'uefi'
  secureBoot?: boolean
  disks: Disk[]
  nics: Nic[]
  configDrive?: ConfigDrive
  /** Direct kernel boot, when the image has kernel_id (and ramdisk_id). */
  kernel?: { kernel: ImageRef; ramdisk?: ImageRef; commandLine?: string }
  rescue?: Rescue
  /** hw_rng_model: absent = a virtio rng, `false` = none. */
  rng?: false | { rateBytes?: number; ratePeriodMs?: number }
  /** hw_qemu_guest_agent; the channel is there unless false. */
  guestAgent?: boolean
  /** hw_video_model; `none` leaves out the graphical console. */
  video?: 'virtio' | 'vga' | 'qxl' | 'cirrus' | 'bochs' | 'none'
  videoRamMb?: number
  /** hw_pointer_model=usbtablet, hw_input_bus. */
  tablet?: 'usb' | 'virtio'
  /** hw:watchdog_action */
  watchdog?: 'none' | 'reset' | 'poweroff' | 'pause'
  /** hw:serial_port_count; 1 when absent. */
  serialPorts?: number
  /** hw_vif_multiqueue etc. live in the nics. os_type=windows wants local time. */
  clock?: 'utc' | 'localtime'
  hideHypervisor?: boolean
  bootMenu?: boolean
  /** os_shutdown_timeout: seconds a guest gets for an orderly stop; 60 when absent, 0 = power cut. */
  shutdownTimeout?: number
}

/** What is on the host for one guest. */
export interface Guest {
  id: string
  revision: number
  power: GuestPower
  wanted: Power
  /** When `power` was last seen to change, ISO 8601. */
  since: string
  /** Why `power` is not `wanted`, or why the guest last stopped: the machine's own words. */
  reason?: string
  /** Set while a destroy was begun and not finished. */
  destroying?: boolean
  rescued?: boolean
}

/** Inventory of the host, for placement and for the hypervisors API. */
export interface HostInventory {
  hostname: string
  hypervisorType: 'QEMU' | 'KVM' | 'fake'
  /** As the API counts: 7.2.22 = 7002022. */
  hypervisorVersion: number
  accelerator: 'kvm' | 'tcg' | 'memory'
  /** Why not KVM, where it is not. */
  acceleratorReason?: string
  architecture: string
  vcpus: number
  memoryMb: number
  memoryFreeMb: number
  diskGb: number
  diskFreeGb: number
  uptimeSeconds: number
  loadAverage: [number, number, number]
  hostIp?: string
  cpu: { vendor: string; model: string; topology: { sockets: number; cores: number; threads: number }; features: string[] }
  /** Traits of os-traits: HW_CPU_X86_*, COMPUTE_*. */
  traits: string[]
}

/** Something that nova's agent made on the host. */
export interface HostThing {
  kind: 'guest' | 'process' | 'group' | 'tap' | 'folder'
  /** Pid, name of the group or tap, path. */
  name: string
  /** The guest's id that it carries; null where it has none. */
  guest: string | null
  /** False: no guest on this host asks for it. */
  wanted: boolean
}

/** Standard diagnostics (microversion 2.48). Times in nanoseconds, memory in MiB as the API has it. */
export interface Diagnostics {
  state: 'pending' | 'running' | 'paused' | 'shutdown' | 'crashed' | 'suspended'
  driver: 'libvirt'
  hypervisor: string
  hypervisorOs: string
  uptimeSeconds: number | null
  configDrive: boolean
  cpus: { id: number; timeNs: number; utilisation: number | null }[]
  memory: { maximumMb: number; usedMb: number | null }
  disks: { readBytes: number; readRequests: number; writeBytes: number; writeRequests: number; errorsCount: number }[]
  nics: {
    mac: string
    rxOctets: number
    rxPackets: number
    rxDrop: number
    rxErrors: number
    rxRate: null
    txOctets: number
    txPackets: number
    txDrop: number
    txErrors: number
    txRate: null
  }[]
}
