/**
 * The database of one container, inside the worker thread. Rows are never changed but deleted and entered anew, so that `rowid` grows
 * and a replica can ask for "what came after row N". Rows of deleted objects stay as tombstones until reclaimed.
 *
 * A row has three times: of the data (`created_at`), of the content type, of the last metadata. Of two rows for one name each part is
 * taken from the newer, so replicas that got the same updates in any order hold the same.
 */
import {
  type Handle,
  type ListOptions,
  listNames,
  type Metadata,
  mergeMetadata,
  mergeSyncs,
  metadataProblem,
  NO_HASH,
  newId,
  openHandle,
  reclaimMetadata,
  SYNC_SCHEMA,
  type SyncPoint,
  syncPoint,
  syncPoints,
} from '../db/handle.ts'
import { iso } from '../timestamp.ts'
import { followState, mergeRanges, type ShardRange } from './ranges.ts'

export interface ObjectRow {
  rowid?: number
  name: string
  created_at: string
  size: number
  content_type: string
  etag: string
  deleted: number
  policy: number
  type_at: string
  meta_at: string
}

export interface ContainerInfo {
  account: string
  container: string
  created_at: string
  put_timestamp: string
  delete_timestamp: string
  status_changed_at: string
  hash: string
  id: string
  policy: number
  reported_put_timestamp: string
  reported_delete_timestamp: string
  reported_object_count: number
  reported_bytes_used: number
  sync_point1: number
  sync_point2: number
  metadata: Metadata
  object_count: number
  bytes_used: number
  policies: { policy: number; object_count: number; bytes_used: number }[]
  max_row: number
  is_deleted: boolean
  /** `unsharded`, `sharding`, `sharded`, `collapsed`: see ranges.ts. */
  state: string
  epoch: string | null
}

const ZERO = '0000000000.00000'

const SCHEMA = `
  CREATE TABLE info (
    account TEXT, container TEXT, created_at TEXT, put_timestamp TEXT, delete_timestamp TEXT DEFAULT '${ZERO}', status_changed_at TEXT,
    hash TEXT DEFAULT '${NO_HASH}', id TEXT, policy INTEGER, reported_put_timestamp TEXT DEFAULT '0', reported_delete_timestamp TEXT DEFAULT '0',
    reported_object_count INTEGER DEFAULT 0, reported_bytes_used INTEGER DEFAULT 0, sync_point1 INTEGER DEFAULT -1, sync_point2 INTEGER DEFAULT -1,
    metadata TEXT DEFAULT '{}', state TEXT DEFAULT 'unsharded', epoch TEXT);
  CREATE TABLE object (
    rowid INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL, created_at TEXT NOT NULL, size INTEGER, content_type TEXT, etag TEXT,
    deleted INTEGER NOT NULL, policy INTEGER NOT NULL, type_at TEXT, meta_at TEXT);
  CREATE UNIQUE INDEX object_name ON object (policy, deleted, name);
  CREATE TABLE policy_stat (policy INTEGER PRIMARY KEY, object_count INTEGER DEFAULT 0, bytes_used INTEGER DEFAULT 0);
  CREATE TABLE shard_range (
    name TEXT PRIMARY KEY, timestamp TEXT, lower TEXT, upper TEXT, object_count INTEGER DEFAULT 0, bytes_used INTEGER DEFAULT 0, meta_timestamp TEXT,
    deleted INTEGER DEFAULT 0, state TEXT, state_timestamp TEXT, epoch TEXT, reported INTEGER DEFAULT 0, tombstones INTEGER DEFAULT -1);
  CREATE INDEX shard_range_lower ON shard_range (deleted, lower);
  CREATE TRIGGER object_in AFTER INSERT ON object BEGIN
    INSERT INTO policy_stat VALUES (new.policy, 1 - new.deleted, (1 - new.deleted) * new.size) ON CONFLICT (policy) DO UPDATE
      SET object_count = object_count + excluded.object_count, bytes_used = bytes_used + excluded.bytes_used;
    UPDATE info SET hash = chexor(hash, new.name, new.created_at, new.size, new.etag, new.content_type, new.deleted, new.policy, new.type_at, new.meta_at);
  END;
  CREATE TRIGGER object_out AFTER DELETE ON object BEGIN
    UPDATE policy_stat SET object_count = object_count - (1 - old.deleted), bytes_used = bytes_used - (1 - old.deleted) * old.size WHERE policy = old.policy;
    UPDATE info SET hash = chexor(hash, old.name, old.created_at, old.size, old.etag, old.content_type, old.deleted, old.policy, old.type_at, old.meta_at);
  END;
  ${SYNC_SCHEMA}`

const COLUMNS = 'rowid, name, created_at, size, content_type, etag, deleted, policy, type_at, meta_at'

/** Opens the database of a container that should exist. */
export const containerOpen = (path: string): Handle | null => openHandle(path)

/** Makes the database, or answers the one that is there. */
export function containerMake(path: string, account: string, container: string, put: string, policy: number, at: string): Handle {
  const there = openHandle(path)
  if (there) return there
  const h = openHandle(path, SCHEMA)!
  h.run(
    'INSERT INTO info (account, container, created_at, put_timestamp, status_changed_at, id, policy) VALUES (?, ?, ?, ?, ?, ?, ?)',
    account,
    container,
    at,
    put,
    put,
    newId(),
    policy,
  )
  h.run('INSERT OR IGNORE INTO policy_stat (policy) VALUES (?)', policy)
  return h
}

export function containerInfo(h: Handle): ContainerInfo {
  const row = h.one<Omit<ContainerInfo, 'metadata'> & { metadata: string }>('SELECT * FROM info')!
  const policies = h.all<{ policy: number; object_count: number; bytes_used: number }>('SELECT * FROM policy_stat')
  const own = policies.find(stat => stat.policy === row.policy)
  const shards =
    row.state === 'sharded'
      ? h.one<{ objects: number; bytes: number }>(
          'SELECT coalesce(sum(object_count), 0) AS objects, coalesce(sum(bytes_used), 0) AS bytes FROM shard_range WHERE deleted = 0 AND name <> ?',
          `${row.account}/${row.container}`,
        )!
      : null
  const count = shards ? shards.objects : (own?.object_count ?? 0)
  const max = h.one<{ seq: number }>("SELECT seq FROM sqlite_sequence WHERE name = 'object'")?.seq ?? -1
  return {
    ...row,
    metadata: JSON.parse(row.metadata) as Metadata,
    object_count: count,
    bytes_used: shards ? shards.bytes : (own?.bytes_used ?? 0),
    policies,
    max_row: max,
    is_deleted:
      row.delete_timestamp > row.put_timestamp &&
      policies.every(stat => stat.object_count === 0) &&
      !(shards && shards.objects > 0),
  }
}

/** Only its `state`. */
export const containerState = (h: Handle): string => h.one<{ state: string }>('SELECT state FROM info')!.state

/** Creates a deleted container anew, or confirms one. Answers whether it did not exist before. */
export function containerPut(
  h: Handle,
  put: string,
  policy: number | null,
  fallback: number,
): { created: boolean; conflict: boolean } {
  const info = containerInfo(h)
  const fresh = info.put_timestamp === put && info.created_at !== '' && info.delete_timestamp === ZERO && info.max_row < 0
  if (!info.is_deleted) {
    if (policy !== null && policy !== info.policy) return { created: false, conflict: true }
    if (put > info.put_timestamp) h.run('UPDATE info SET put_timestamp = ?', put)
    return { created: fresh, conflict: false }
  }
  if (put <= info.delete_timestamp) return { created: false, conflict: false }
  const next = policy ?? fallback
  h.run('UPDATE info SET put_timestamp = ?, status_changed_at = ?, policy = ?', put, put, next)
  h.run('INSERT OR IGNORE INTO policy_stat (policy) VALUES (?)', next)
  return { created: true, conflict: false }
}

/** Marks an empty container as deleted, clearing its metadata; false when it holds objects. */
export function containerDelete(h: Handle, at: string): boolean {
  const info = containerInfo(h)
  if (info.policies.some(stat => stat.object_count > 0) || info.object_count > 0) return false
  const cleared: Metadata = {}
  for (const name of Object.keys(info.metadata)) cleared[name] = ['', at]
  mergeMetadata(h, 'info', cleared)
  h.run('UPDATE info SET delete_timestamp = max(delete_timestamp, ?), status_changed_at = ?', at, at)
  return true
}

/** Sets metadata; the sentence of the 400 when they become too many. */
export function containerUpdate(h: Handle, changes: Metadata, limits: { count: number; size: number }): string | null {
  const merged = { ...containerInfo(h).metadata, ...changes }
  const problem = metadataProblem(merged, 'container', limits)
  if (problem) return problem
  mergeMetadata(h, 'info', changes)
  return null
}

/** Enters rows, each merged with what is known of that name. */
export function containerMerge(h: Handle, rows: ObjectRow[], source?: string): void {
  let max = -1
  for (const item of rows) {
    if (item.rowid !== undefined && item.rowid > max) max = item.rowid
    const known = h.one<ObjectRow>(
      `SELECT ${COLUMNS} FROM object WHERE policy = ? AND deleted IN (0, 1) AND name = ?`,
      item.policy,
      item.name,
    )
    const row = known ? mergeRows(known, item) : item
    if (row === known) continue
    if (known) h.run('DELETE FROM object WHERE rowid = ?', known.rowid!)
    h.run(
      'INSERT INTO object (name, created_at, size, content_type, etag, deleted, policy, type_at, meta_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)',
      row.name,
      row.created_at,
      row.size,
      row.content_type,
      row.etag,
      row.deleted,
      row.policy,
      row.type_at,
      row.meta_at,
    )
  }
  if (source !== undefined && max >= 0) mergeSyncs(h, 'incoming', [{ remote_id: source, sync_point: max }], ZERO)
}

/** The newer of each part; `known` itself when nothing of `item` is newer. */
export function mergeRows(known: ObjectRow, item: ObjectRow): ObjectRow {
  const newerData = item.created_at > known.created_at || (item.created_at === known.created_at && item.deleted > known.deleted)
  const data = newerData ? item : known
  if (data.deleted) return newerData ? item : known
  const floor = data.created_at
  const type = item.type_at > known.type_at ? item : known
  const useType = type.type_at > floor ? type : data
  const meta = item.meta_at > known.meta_at ? item.meta_at : known.meta_at
  const row: ObjectRow = {
    ...data,
    content_type: useType.content_type,
    type_at: useType.type_at > floor ? useType.type_at : floor,
    meta_at: meta > floor ? meta : floor,
  }
  const same =
    !newerData && row.content_type === known.content_type && row.type_at === known.type_at && row.meta_at === known.meta_at
  return same ? known : row
}

export interface Listed {
  name: string
  created_at: string
  size: number
  content_type: string
  etag: string
  type_at: string
  meta_at: string
}

/** A page of rows and roll-ups of the container's policy. */
export function containerRows(h: Handle, policy: number, options: ListOptions): (Listed | { subdir: string })[] {
  const order = options.reverse ? 'DESC' : 'ASC'
  return listNames<Listed>(options, (from, fromIn, to, toIn, n) => {
    const low = from === null ? '' : `AND name ${fromIn ? '>=' : '>'} ?`
    const high = to === null ? '' : `AND name ${toIn ? '<=' : '<'} ?`
    const args = [from, to].filter(bound => bound !== null)
    return h.all<Listed>(
      `SELECT name, created_at, size, content_type, etag, type_at, meta_at FROM object WHERE policy = ? AND deleted = 0 ${low} ${high} ORDER BY name ${order} LIMIT ?`,
      policy,
      ...args,
      n,
    )
  })
}

/** A listing as the JSON text that goes to the client. */
export function containerListing(h: Handle, policy: number, options: ListOptions, account: string): string {
  return JSON.stringify(containerRows(h, policy, options).map(row => ('subdir' in row ? row : item(row, account))))
}

/** A row as the wire shows it: sizes and ETags that ride in other columns are put in their places. */
export function item(row: Listed, account: string): Record<string, unknown> {
  const time = [row.created_at, row.type_at, row.meta_at].reduce((a, b) => (a > b ? a : b))
  const out: Record<string, unknown> = {
    bytes: row.size,
    hash: row.etag,
    name: row.name,
    content_type: row.content_type,
    last_modified: iso(time),
  }
  const bytes = /;\s*swift_bytes=(\d+)/.exec(row.content_type)
  if (bytes) {
    out.content_type = row.content_type.replace(bytes[0], '')
    out.bytes = Number(bytes[1])
  }
  if (row.etag.includes(';')) {
    const [hash, ...params] = row.etag.split(';')
    out.hash = hash.trim()
    for (const param of params) {
      const cut = param.indexOf('=')
      out[param.slice(0, cut).trim()] = param.slice(cut + 1).trim()
    }
    if (out.slo_etag !== undefined) out.slo_etag = `"${String(out.slo_etag).replaceAll('"', '')}"`
    if (out.symlink_target !== undefined) describeLink(out, account)
  }
  return out
}

/** Says of a link where it leads; a link that is the store's own (a version) shows the size and ETag of what it stands for. */
function describeLink(out: Record<string, unknown>, account: string): void {
  const target = String(out.symlink_target)
  out.symlink_path = `/v1/${out.symlink_target_account ?? encodeURIComponent(account)}/${target}`
  if (out.symlink_target_etag !== undefined) {
    const [etag, bytes] = [out.symlink_target_etag, Number(out.symlink_target_bytes)]
    if (target.startsWith('%00')) Object.assign(out, { hash: etag, bytes, version_symlink: true })
    else Object.assign(out, { symlink_etag: etag, symlink_bytes: bytes })
  }
  for (const name of ['', '_account', '_etag', '_bytes']) delete out[`symlink_target${name}`]
}

/** For replicas: rows after one. */
export const containerItemsSince = (h: Handle, row: number, count: number): ObjectRow[] =>
  h.all<ObjectRow>(`SELECT ${COLUMNS} FROM object WHERE rowid > ? ORDER BY rowid LIMIT ?`, row, count)

export interface RemoteInfo {
  id: string
  hash: string
  put_timestamp: string
  delete_timestamp: string
  created_at: string
  status_changed_at: string
  policy: number
  metadata: Metadata
  state?: string
  epoch?: string | null
  ranges?: ShardRange[]
}

/** Takes over the times, policy and metadata of a replica. */
export function containerMergeInfo(h: Handle, remote: RemoteInfo): void {
  const info = containerInfo(h)
  if (
    remote.status_changed_at > info.status_changed_at ||
    (remote.status_changed_at === info.status_changed_at && remote.policy < info.policy)
  ) {
    h.run('UPDATE info SET policy = ?, status_changed_at = ?', remote.policy, remote.status_changed_at)
    h.run('INSERT OR IGNORE INTO policy_stat (policy) VALUES (?)', remote.policy)
  }
  h.run(
    'UPDATE info SET created_at = min(created_at, ?), put_timestamp = max(put_timestamp, ?), delete_timestamp = max(delete_timestamp, ?)',
    remote.created_at,
    remote.put_timestamp,
    remote.delete_timestamp,
  )
  mergeMetadata(h, 'info', remote.metadata)
  if (remote.ranges?.length) mergeRanges(h, remote.ranges)
  followState(h, remote)
}

/** Notes what the account has been told. */
export function containerReported(h: Handle, put: string, deleted: string, count: number, bytes: number): void {
  h.run(
    'UPDATE info SET reported_put_timestamp = ?, reported_delete_timestamp = ?, reported_object_count = ?, reported_bytes_used = ?',
    put,
    deleted,
    count,
    bytes,
  )
}

/** Drops tombstones and forgotten metadata older than the time. */
export function containerReclaim(h: Handle, before: string): void {
  h.run('DELETE FROM object WHERE deleted = 1 AND created_at < ?', before)
  h.run('DELETE FROM shard_range WHERE deleted = 1 AND timestamp < ?', before)
  reclaimMetadata(h, 'info', before)
}

/** Compares the running hash with the rows; the sentence of what is wrong, or null. */
export function containerAudit(h: Handle): string | null {
  const check = h.all<{ quick_check: string }>('PRAGMA quick_check')
  if (check[0]?.quick_check !== 'ok') return String(check[0]?.quick_check)
  let hash = NO_HASH
  const next = h.db.prepare('SELECT chexor(?, ?, ?, ?, ?, ?, ?, ?, ?, ?) AS hash')
  for (const row of h.db.prepare(`SELECT ${COLUMNS} FROM object`).iterate() as Iterable<Record<string, string | number>>) {
    const { name, created_at, size, etag, content_type, deleted, policy, type_at, meta_at } = row
    hash = (next.get(hash, name, created_at, size, etag, content_type, deleted, policy, type_at, meta_at) as { hash: string })
      .hash
  }
  const known = h.one<{ hash: string }>('SELECT hash FROM info')!.hash
  if (known !== hash) return 'rows do not match the hash of the table'
  const stats = h.all<{ policy: number; object_count: number; bytes_used: number }>('SELECT * FROM policy_stat')
  for (const stat of stats) {
    const real = h.one<{ n: number; bytes: number }>(
      'SELECT count(*) AS n, coalesce(sum(size), 0) AS bytes FROM object WHERE policy = ? AND deleted = 0',
      stat.policy,
    )!
    if (real.n !== stat.object_count || real.bytes !== stat.bytes_used)
      return `counts of policy ${stat.policy} do not match its rows`
  }
  return null
}

export { mergeSyncs as containerMergeSyncs, type SyncPoint, syncPoint as containerSyncPoint, syncPoints as containerSyncPoints }
