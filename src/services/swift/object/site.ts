/** What an object server needs to know, given once at start. */
import type { Log } from '#kit/log.ts'
import type { Limits } from '../constraints.ts'
import type { Disks } from '../disk/threads.ts'
import type { HashSecrets } from '../hash.ts'
import type { Dialer } from '../http/client.ts'

export interface ObjectSite {
  /** The folder that holds the devices. */
  root: string
  /** The threads of the devices. */
  disks: Disks
  secrets: HashSecrets
  dial: Dialer
  limits: Limits
  log: Log
  /** Free space kept on each device: bytes, or a share when below 1. Beyond it: 507. */
  reserve: number
  /** Seconds to wait for container servers before an update is left for the updater. */
  updateTimeout: number
  /** Seconds of a day's share that one container of expiring objects covers. */
  expirerDivisor: number
  /** Seconds after which tombstones may go. */
  reclaimAge: number
  /** Only devices that are mount points are served. */
  mountCheck: boolean
}
