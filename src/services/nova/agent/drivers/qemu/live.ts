// One guest as the driver holds it in memory: its record, the connection to its process, and a queue, because verbs on one guest run one
// after another. What is here can be lost at any time; the record on disk and the process are the truth.
import { isDeepStrictEqual } from 'node:util'
import type { Cgroups } from '#host/cgroup/index.ts'
import type { Accel } from '#host/qemu/probe.ts'
import type { Pid } from '#host/qemu/process.ts'
import type { Qmp } from '#host/qemu/qmp.ts'
import type { LinkLog } from '#kit/link/index.ts'
import type { Guest } from '../../../spec.ts'
import { type Queue, queueNew } from '../../queue.ts'
import type { ImageCache } from './images.ts'
import type { GuestRecord, Store } from './store.ts'

/** What all guests of a driver share. */
export interface Host {
  dataDir: string
  log: LinkLog
  store: Store
  images: ImageCache
  binary: string
  accel: Accel
  /** Supplementary groups that guests need for /dev/kvm. */
  groups: number[]
  cgroups: Cgroups
  /** The control group that holds all guests' groups; also tells two Nubos on one machine apart. */
  scope: string
  netns?: string
  /** Firmware descriptors of this host. */
  firmware: string[]
  /** Machine type → the versioned name it stands for, e.g. q35 → pc-q35-7.2. */
  machines: Record<string, string>
  /** Most bytes of a console log; twice this is kept. */
  consoleBytes: number
  changed(guest: Guest): void
}

export interface Live extends Queue {
  readonly id: string
  record: GuestRecord
  qmp?: Qmp
  pid?: Pid
  /** How the process ended, where we were its parent. */
  exit?: { code: number | null; signal: string | null }
  /** Ends the watch on the console log. */
  unwatch?: () => void
  /** Set when the driver lets go: what happens to the connection then is no news. */
  closed?: boolean
  /** Set when nothing of it is left on the host. */
  gone?: boolean
}

export const liveOf = (record: GuestRecord): Live => ({ id: record.spec.id, record, ...queueNew() })

/** The guest as the driver's callers see it. */
export function view({ record }: Live): Guest {
  const { spec, power, since, reason, destroying } = record
  return {
    id: spec.id,
    revision: spec.revision,
    power,
    wanted: spec.power,
    since,
    ...(reason !== undefined && { reason }),
    ...(destroying && { destroying }),
    ...(spec.rescue && { rescued: true }),
  }
}

/** Changes the record on disk, then in memory, and tells who watches when power or reason changed. */
export async function note(host: Host, live: Live, change: Partial<GuestRecord>): Promise<void> {
  const before = live.record
  const power = change.power ?? before.power
  const record = { ...before, ...change, since: power === before.power ? before.since : new Date().toISOString() }
  if (!isDeepStrictEqual(record, before)) await host.store.write(record)
  live.record = record
  if (record.power !== before.power || record.reason !== before.reason || record.destroying !== before.destroying)
    host.changed(view(live))
}
