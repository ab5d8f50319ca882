// From nova's words to QEMU's: a GuestSpec and the files made for it become the Machine whose command line is built. Pure.
import type { Limits } from '#host/cgroup/index.ts'
import {
  assignSlots,
  type BlockSource,
  family,
  MAX_SLOTS,
  type Machine,
  type MachineDisk,
  type MachineNic,
  slotUsers,
} from '#host/qemu/argv.ts'
import type { Accel, Firmware } from '#host/qemu/probe.ts'
import { badRequest } from '#kit/fault.ts'
import type { Disk, GuestSpec, Nic } from '../../../spec.ts'
import type { Paths } from './store.ts'

/** What was made on the host for a guest's start. */
export interface Made {
  /** Disk name → where its bytes are. */
  sources: Record<string, BlockSource>
  configDrive?: string
  rescue?: BlockSource
  kernel?: { path: string; initrd?: string }
  vars?: Firmware
}

/** The names under which disks that nova's spec has no name for are known. */
export const CONFIG_DISK = 'config-drive'
export const RESCUE_DISK = 'rescue'

/** A disk of the spec, as QEMU gets it. */
export function machineDisk(disk: Disk, source: BlockSource): MachineDisk {
  const { name, bus, bootIndex, serial, limits } = disk
  const cdrom = disk.device === 'cdrom'
  // An optical drive does not exist on the virtio bus: a read-only disk is the nearest.
  return {
    name,
    source,
    bus,
    cdrom: cdrom && bus !== 'virtio' && bus !== 'nvme',
    readOnly: disk.readOnly || cdrom,
    bootIndex,
    serial,
    throttle: limits,
    shared: disk.kind === 'volume' && disk.shared,
  }
}

export function machineNic(nic: Nic, bootIndex?: number): MachineNic {
  const { portId: id, tap, mac, mtu, model, queues } = nic
  return { id, tap, mac, mtu, model, queues, bootIndex }
}

/** All disks, in the order in which the guest should find them. A rescue disk comes first (or, stable, last), and is booted from. */
export function machineDisks(spec: GuestSpec, made: Made): MachineDisk[] {
  const source = (name: string): BlockSource => {
    const found = made.sources[name]
    if (!found) throw new Error(`disk ${name} of guest ${spec.id} was not made`)
    return found
  }
  // QEMU's own loader of a directly booted kernel is the first boot device, and takes index 0.
  const unbooted = ({ bootIndex: _, ...disk }: MachineDisk): MachineDisk => disk
  const boot = made.kernel ? unbooted : (disk: MachineDisk) => disk
  const own = spec.disks.map(disk => boot(machineDisk(disk, source(disk.name))))
  const drive = (spec.rescue ? spec.rescue.configDrive : undefined) ?? spec.configDrive
  const config: MachineDisk[] =
    made.configDrive && drive
      ? [
          {
            name: CONFIG_DISK,
            source: { type: 'file', path: made.configDrive, format: 'raw' },
            bus: drive.bus,
            cdrom: drive.format === 'iso9660' && drive.bus !== 'virtio' && drive.bus !== 'nvme',
            readOnly: true,
            serial: 'config-2',
          },
        ]
      : []
  if (!spec.rescue || !made.rescue) return [...own, ...config]
  const { bus, device, stable } = spec.rescue
  const rescue: MachineDisk = boot({
    name: RESCUE_DISK,
    source: made.rescue,
    bus,
    cdrom: device === 'cdrom',
    readOnly: device === 'cdrom',
    bootIndex: 0,
  })
  const others = own.map(unbooted)
  // Unstable rescue shows the rescue disk and the guest's root, as libvirt's driver of OpenStack does.
  return stable ? [...others, ...config, rescue] : [rescue, ...others.slice(0, 1), ...config]
}

function commandLine(spec: GuestSpec): string {
  if (spec.kernel?.commandLine) return spec.kernel.commandLine
  const root = spec.disks.find(disk => disk.name === 'root')?.bus === 'virtio' ? '/dev/vda' : '/dev/sda'
  return `root=${root} console=tty0 console=ttyS0`
}

/**
 * The machine of a guest, with places for all its devices (`kept` are those it had before).
 * Faults: badRequest when it has more devices than the machine type has places.
 */
export function machineOf(
  spec: GuestSpec,
  made: Made,
  host: { binary: string; accel: Accel; paths: Paths; kept: Record<string, number>; incoming: boolean },
): Machine {
  const machine: Machine = {
    binary: host.binary,
    name: spec.name,
    uuid: spec.id,
    accel: host.accel,
    type: spec.machine ?? 'q35',
    memoryMb: spec.memoryMb,
    vcpus: spec.vcpus,
    topology: spec.topology,
    cpuModel: spec.cpuModel === 'host-passthrough' ? undefined : spec.cpuModel,
    hideHypervisor: spec.hideHypervisor,
    firmware: made.vars
      ? { type: 'uefi', code: made.vars.code, vars: made.vars.vars, secure: made.vars.secure }
      : { type: 'bios' },
    kernel: made.kernel && { ...made.kernel, append: commandLine(spec) },
    disks: machineDisks(spec, made),
    nics: spec.nics.map(nic => machineNic(nic)),
    slots: {},
    rng: spec.rng,
    guestAgent: spec.guestAgent !== false,
    video: spec.video ?? 'vga',
    videoRamMb: spec.videoRamMb,
    tablet: spec.tablet,
    watchdog: spec.watchdog,
    serialPorts: spec.serialPorts ?? 1,
    clock: spec.clock === 'localtime' ? 'localtime' : 'utc',
    bootMenu: spec.bootMenu,
    incoming: host.incoming,
    sockets: host.paths.sockets,
    consoleLog: host.paths.console,
  }
  try {
    machine.slots = assignSlots(slotUsers(machine), host.kept, MAX_SLOTS[family(machine.type)])
  } catch (error) {
    throw badRequest((error as Error).message)
  }
  return machine
}

/**
 * The control group's limits. Memory: the guest's own and generous room for QEMU (devices, video, and under TCG the translated code), as a
 * guard against a QEMU gone wild, not as an accounting. nova's CPU quota is per guest CPU; the group holds them all.
 */
export function groupLimits(spec: GuestSpec, accel: Accel): Limits {
  const { shares, quotaUs, periodUs } = spec.cpuLimits ?? {}
  const room = (accel === 'tcg' ? 1024 : 512) + spec.vcpus * 16 + (spec.videoRamMb ?? 0)
  return {
    memoryBytes: (spec.memoryMb + room) * 2 ** 20,
    ...(quotaUs !== undefined && quotaUs > 0 && { cpuQuota: { quotaUs: quotaUs * spec.vcpus, periodUs: periodUs ?? 100_000 } }),
    ...(shares !== undefined && { cpuShares: shares }),
    pids: 1024 + 8 * spec.vcpus,
  }
}
