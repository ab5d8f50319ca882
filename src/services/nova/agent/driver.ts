/**
 * The compute driver: about a dozen verbs that make guests be what a GuestSpec says, and a few extra powers. Two drivers have it, `qemu`
 * and its twin `memory`, and one contract test runs over both.
 *
 * Every verb can run twice and after a crash of the agent at any instant; the rerun converges. A verb keeps the wanted state (the spec,
 * with its power) before it touches the machine, so that what a dead agent began is finished by the next one at `open`. Verbs on one
 * guest run one after another; `destroy` interrupts what is under way. Errors are Faults that say why, in the machine's own words:
 * notFound for a guest that is not here, conflict for a power state that forbids the verb, badRequest for a spec or image that can never
 * work, unavailable for what is missing on the host (a program, space, memory).
 */
import type { Duplex } from 'node:stream'
import type { Diagnostics, Disk, Guest, GuestSpec, HostInventory, HostThing, ImageRef, Nic, Power, Rescue } from '../spec.ts'

export interface Options {
  signal?: AbortSignal
}

/** Opens the bytes of an image at its source (Glance, over the link). Called once for all who want the same image at the same time. */
export type ImageSource = (image: ImageRef, options: Options) => Promise<AsyncIterable<Uint8Array>>

/** A disk's content on its way out. `close` must be called; it frees what the snapshot took on the host. */
export interface SnapshotStream {
  format: 'qcow2' | 'raw'
  /** Bytes that `stream` will give. */
  size: number
  virtualSize: number
  stream: AsyncIterable<Uint8Array>
  close(): Promise<void>
}

export interface ComputeDriver {
  /** Reads what is on this host, re-attaches to guests that run, finishes what was begun, and starts guests that should run and do not. */
  open(): Promise<void>
  /** Lets go of everything; guests run on. */
  close(): Promise<void>

  /** Makes the guest exist as `spec` says, in the power state it says. Differences in disks and nics of a running guest are hotplugged. */
  ensure(spec: GuestSpec, options?: Options): Promise<Guest>
  /** Nothing of the guest is left: process, cgroup, files, sockets, taps. Fine when there is no such guest. */
  destroy(id: string, options?: Options): Promise<void>
  /** What is there of the guest, or null. */
  inspect(id: string): Promise<Guest | null>
  list(): Promise<Guest[]>
  /** Calls `fn` when a guest's power or reason changed, whoever changed it. Returns what stops it. */
  watch(fn: (guest: Guest) => void): () => void
  /**
   * start, stop, pause, unpause, suspend, resume: "be in this power state". A stop is orderly (ACPI) for the spec's shutdownTimeout
   * seconds, or `timeout` when given, then the power is cut; 0 cuts at once. `revision`: the row's, kept as the spec's when it is newer.
   */
  power(id: string, to: Power, options?: Options & { timeout?: number; revision?: number }): Promise<Guest>
  /** soft: an orderly stop, then a start, falling back to hard when the guest does not obey; hard: a new process. Both end running. */
  reboot(id: string, kind: 'soft' | 'hard', options?: Options & { timeout?: number }): Promise<Guest>
  /** The last `lines` lines (all that is kept when absent) that the guest wrote to its first serial port. */
  consoleOutput(id: string, lines?: number): Promise<string>
  inventory(): Promise<HostInventory>

  /** Adds (or keeps) a nic or a disk of a guest in any power state; the guest's spec keeps it. Fine when it is there already. */
  attachNic(id: string, nic: Nic, options?: Options): Promise<Guest>
  /** Takes a nic away. A running guest must let go of it: conflict when it does not in time. Fine when it is not there. */
  detachNic(id: string, portId: string, options?: Options): Promise<Guest>
  attachDisk(id: string, disk: Disk, options?: Options): Promise<Guest>
  detachDisk(id: string, name: string, options?: Options): Promise<Guest>
  /** Tells the guest that a disk has grown (a volume), or grows it (a disk of its own). Never shrinks. */
  resizeDisk(id: string, name: string, bytes: number, options?: Options): Promise<void>

  /** The disk's content at this instant, whole (no backing file). `quiesce` freezes the guest's file systems by its agent meanwhile. */
  snapshot(id: string, disk: string, options?: Options & { format?: 'qcow2' | 'raw'; quiesce?: boolean }): Promise<SnapshotStream>
  /** The memory that a suspended guest was saved with. conflict for a guest that is not suspended. */
  memoryOut(id: string): Promise<{ size: number; stream: AsyncIterable<Uint8Array> }>
  rescue(id: string, rescue: Rescue, options?: Options): Promise<Guest>
  unrescue(id: string, options?: Options): Promise<Guest>
  /** By the guest agent: conflict when it does not answer. */
  setPassword(id: string, user: string, password: string, options?: Options): Promise<void>
  /** Freezes (thaws) the guest's file systems by the guest agent. */
  quiesce(id: string, options?: Options): Promise<void>
  unquiesce(id: string, options?: Options): Promise<void>
  diagnostics(id: string): Promise<Diagnostics>
  injectNmi(id: string): Promise<void>

  /** Bytes of the graphical console (RFB) or of the interactive serial port, for a proxy. The guest must run. */
  console(id: string, kind: 'vnc' | 'serial'): Promise<Duplex>

  /** Brings an image into the cache ahead of its use. */
  cacheImage(image: ImageRef, options?: Options): Promise<void>
  /** Drops cached images that no guest uses and that were not used for `seconds`. Returns how many. */
  ageImages(seconds: number): Promise<number>

  /** Everything of ours on this host, as the host itself has it, and whether a guest here asks for it. */
  things(): Promise<HostThing[]>
  /** Removes everything of ours from this host: guests, cached images, what interrupted work left. The driver is of no use after. */
  wipe(): Promise<void>
}
