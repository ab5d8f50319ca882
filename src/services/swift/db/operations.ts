/** Everything that can be asked of an account or container database. Runs in the worker thread; `db/pool.ts` is the way in. */
import * as account from '../account/broker.ts'
import * as container from '../container/broker.ts'
import * as ranges from '../container/ranges.ts'
import { type Handle, type ListOptions, type Metadata, mergeSyncs, type SyncPoint, syncPoint, syncPoints } from './handle.ts'

/** An operation gets the database (null: there is none) and may make it through `make`. */
export interface Access {
  path: string
  h: Handle | null
  /** Opens by this function and keeps what it answers as the database of the path. */
  use(open: () => Handle): Handle
}
type MetaLimits = { count: number; size: number }
interface NewContainer {
  account: string
  container: string
  at: string
  put: string
}

export const operations = {
  'container.info': (a: Access) => a.h && container.containerInfo(a.h),

  /** PUT of a container. */
  'container.put': (
    a: Access,
    p: NewContainer & { policy: number | null; fallback: number; metadata: Metadata; limits: MetaLimits; deletedFirst?: string },
  ) => {
    const existed = a.h !== null
    const h = a.use(() => container.containerMake(a.path, p.account, p.container, p.put, p.policy ?? p.fallback, p.at))
    const result = existed ? container.containerPut(h, p.put, p.policy, p.fallback) : { created: true, conflict: false }
    const problem = result.conflict ? null : container.containerUpdate(h, p.metadata, p.limits)
    return { ...result, problem, info: container.containerInfo(h) }
  },
  'container.post': (a: Access, p: { metadata: Metadata; limits: MetaLimits }) => {
    if (!a.h || container.containerInfo(a.h).is_deleted) return { found: false, problem: null }
    return { found: true, problem: container.containerUpdate(a.h, p.metadata, p.limits) }
  },
  /** DELETE of a container: `missing`, `busy` or what it is now. */
  'container.delete': (a: Access, p: { at: string }) => {
    if (!a.h) return { outcome: 'missing' as const }
    const before = container.containerInfo(a.h)
    if (!container.containerDelete(a.h, p.at)) return { outcome: 'busy' as const }
    const info = container.containerInfo(a.h)
    return before.is_deleted || p.at < before.put_timestamp
      ? { outcome: 'missing' as const, info, stale: p.at < before.put_timestamp }
      : { outcome: 'gone' as const, info }
  },
  /** Rows of objects. False when there is no such container (unless it makes itself). */
  'container.rows': (a: Access, p: { rows: container.ObjectRow[]; make: NewContainer | null }) => {
    if (!a.h && !p.make) return false
    const h = a.h ?? a.use(() => container.containerMake(a.path, p.make!.account, p.make!.container, p.make!.put, 0, p.make!.at))
    container.containerMerge(h, p.rows)
    return true
  },
  /** One row of an object, unless its container is split and `unlessSplit` asks to know that. */
  'container.row': (a: Access, p: { row: container.ObjectRow; make: NewContainer | null; unlessSplit: boolean }) => {
    if (p.unlessSplit && a.h && ranges.isSplit(container.containerState(a.h))) return 'split'
    if (!a.h && !p.make) return 'missing'
    const h = a.h ?? a.use(() => container.containerMake(a.path, p.make!.account, p.make!.container, p.make!.put, 0, p.make!.at))
    container.containerMerge(h, [p.row])
    return 'entered'
  },
  'container.list': (a: Access, p: { options: ListOptions; policy: number | null }) => {
    if (!a.h) return null
    const info = container.containerInfo(a.h)
    const listing = info.is_deleted ? '[]' : container.containerListing(a.h, p.policy ?? info.policy, p.options, info.account)
    return { info, listing }
  },
  'container.raw': (a: Access, p: { options: ListOptions; policy: number }) =>
    a.h ? container.containerRows(a.h, p.policy, p.options) : [],
  'container.reported': (a: Access, p: { put: string; deleted: string; count: number; bytes: number }) =>
    a.h && container.containerReported(a.h, p.put, p.deleted, p.count, p.bytes),
  'container.syncPoints': (a: Access, p: { point1: number; point2: number }) =>
    a.h?.run('UPDATE info SET sync_point1 = ?, sync_point2 = ?', p.point1, p.point2),
  'container.since': (a: Access, p: { row: number; count: number }) =>
    a.h ? container.containerItemsSince(a.h, p.row, p.count) : [],
  'container.audit': (a: Access) => a.h && container.containerAudit(a.h),
  'container.reclaim': (a: Access, p: { before: string }) => a.h && container.containerReclaim(a.h, p.before),
  /** Replication: takes over rows and facts of a replica, making the database when it is missing. */
  'container.receive': (
    a: Access,
    p: NewContainer & {
      remote: container.RemoteInfo
      rows: container.ObjectRow[]
      source: string | undefined
      points?: SyncPoint[]
    },
  ) => {
    const h = a.use(() => container.containerMake(a.path, p.account, p.container, p.put, p.remote.policy, p.at))
    container.containerMergeInfo(h, p.remote)
    container.containerMerge(h, p.rows, p.source)
    if (p.points) mergeSyncs(h, 'incoming', p.points, p.at)
    const info = container.containerInfo(h)
    return {
      id: info.id,
      hash: info.hash,
      max_row: info.max_row,
      point: p.source === undefined ? -1 : syncPoint(h, 'incoming', p.source),
    }
  },

  'shards.ranges': (a: Access, p: { all: boolean }) => (a.h ? ranges.rangesOf(a.h, p.all) : []),
  /** Ranges told by others; `known`: only what is new of those that are here already. Makes the database of a shard. */
  'shards.merge': (a: Access, p: { ranges: ranges.ShardRange[]; make: NewContainer | null; policy: number; known: boolean }) => {
    if (!a.h && !p.make) return false
    const h =
      a.h ?? a.use(() => container.containerMake(a.path, p.make!.account, p.make!.container, p.make!.put, p.policy, p.make!.at))
    const names = p.known ? new Set(ranges.rangesOf(h, true).map(range => range.name)) : null
    const wanted = names ? p.ranges.filter(range => names.has(range.name)) : p.ranges
    ranges.mergeRanges(h, wanted)
    return wanted.length === p.ranges.length
  },
  'shards.find': (a: Access, p: { policy: number; lower: string; upper: string; size: number }) =>
    a.h ? ranges.findRanges(a.h, p.policy, p.lower, p.upper, p.size) : [],
  'shards.state': (a: Access, p: { state: string; epoch: string }) => a.h && ranges.setState(a.h, p.state, p.epoch),
  'shards.rows': (a: Access, p: { lower: string; upper: string; row: number; count: number }) =>
    a.h ? ranges.rowsWithin(a.h, p.lower, p.upper, p.row, p.count) : [],
  'shards.drop': (a: Access, p: { rows: number[] }) => a.h && ranges.dropRows(a.h, p.rows),
  'shards.cursor': (a: Access, p: { epoch: string }) => (a.h ? ranges.cursorOf(a.h, p.epoch) : null),
  'shards.advance': (a: Access, p: { epoch: string; lower: string; upper: string; seen: number }) =>
    a.h ? ranges.advance(a.h, p.epoch, p, p.seen) : false,

  'account.info': (a: Access) => a.h && account.accountInfo(a.h),
  'account.put': (a: Access, p: { account: string; at: string; put: string; metadata: Metadata; limits: MetaLimits }) => {
    const existed = a.h !== null
    const h = a.use(() => account.accountMake(a.path, p.account, p.put, p.at))
    const result = existed ? account.accountPut(h, p.put) : { created: true, recently: false }
    return { ...result, problem: result.recently ? null : account.accountUpdate(h, p.metadata, p.limits) }
  },
  'account.post': (a: Access, p: { metadata: Metadata; limits: MetaLimits }) => {
    if (!a.h || account.accountInfo(a.h).is_deleted) return { found: false, deleted: a.h !== null, problem: null }
    return { found: true, deleted: false, problem: account.accountUpdate(a.h, p.metadata, p.limits) }
  },
  'account.delete': (a: Access, p: { at: string }) => {
    if (!a.h || account.accountInfo(a.h).is_deleted) return false
    account.accountDelete(a.h, p.at)
    return true
  },
  'account.rows': (a: Access, p: { rows: account.ContainerRow[]; make: { account: string; at: string } | null }) => {
    if (!a.h && !p.make) return 'missing' as const
    const h = a.h ?? a.use(() => account.accountMake(a.path, p.make!.account, p.make!.at, p.make!.at))
    if (account.accountInfo(h).is_deleted && !p.make) return 'missing' as const
    account.accountMerge(h, p.rows)
    return 'updated' as const
  },
  'account.list': (a: Access, p: { options: ListOptions; reserved: boolean }) => {
    if (!a.h) return null
    const info = account.accountInfo(a.h)
    return { info, listing: info.is_deleted ? '[]' : account.accountListing(a.h, p.options, p.reserved) }
  },
  'account.since': (a: Access, p: { row: number; count: number }) => (a.h ? account.accountItemsSince(a.h, p.row, p.count) : []),
  'account.audit': (a: Access) => a.h && account.accountAudit(a.h),
  'account.reclaim': (a: Access, p: { before: string }) => a.h && account.accountReclaim(a.h, p.before),
  'account.receive': (
    a: Access,
    p: {
      account: string
      at: string
      put: string
      remote: account.RemoteAccount
      rows: account.ContainerRow[]
      source: string | undefined
      points?: SyncPoint[]
    },
  ) => {
    const h = a.use(() => account.accountMake(a.path, p.account, p.put, p.at))
    account.accountMergeInfo(h, p.remote)
    account.accountMerge(h, p.rows, p.source)
    if (p.points) mergeSyncs(h, 'incoming', p.points, p.at)
    const info = account.accountInfo(h)
    return {
      id: info.id,
      hash: info.hash,
      max_row: info.max_row,
      point: p.source === undefined ? -1 : syncPoint(h, 'incoming', p.source),
    }
  },

  /** Either kind: how far rows have been taken over or sent. */
  points: (a: Access, p: { direction: 'incoming' | 'outgoing' }) => (a.h ? syncPoints(a.h, p.direction) : []),
  pointOf: (a: Access, p: { direction: 'incoming' | 'outgoing'; id: string }) => (a.h ? syncPoint(a.h, p.direction, p.id) : -1),
  sent: (a: Access, p: { id: string; row: number; at: string }) =>
    a.h && mergeSyncs(a.h, 'outgoing', [{ remote_id: p.id, sync_point: p.row }], p.at),
  /** Closes the database so that its files may be moved away. */
  close: (a: Access) => {
    void a
    return true
  },
}

export type Operations = typeof operations
export type OperationName = keyof Operations
