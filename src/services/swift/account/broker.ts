/** The database of one account, inside the worker thread: a row for each container with its counts, tombstones until reclaimed. */
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
} from '../db/handle.ts'
import { iso } from '../timestamp.ts'

export interface ContainerRow {
  rowid?: number
  name: string
  put_timestamp: string
  delete_timestamp: string
  object_count: number
  bytes_used: number
  deleted: number
  policy: number
}

export interface AccountInfo {
  account: string
  created_at: string
  put_timestamp: string
  delete_timestamp: string
  status_changed_at: string
  hash: string
  id: string
  status: string
  metadata: Metadata
  container_count: number
  object_count: number
  bytes_used: number
  policies: { policy: number; container_count: number; object_count: number; bytes_used: number }[]
  max_row: number
  is_deleted: boolean
}

const ZERO = '0000000000.00000'

const SCHEMA = `
  CREATE TABLE info (
    account TEXT, created_at TEXT, put_timestamp TEXT, delete_timestamp TEXT DEFAULT '${ZERO}', status_changed_at TEXT,
    hash TEXT DEFAULT '${NO_HASH}', id TEXT, status TEXT DEFAULT '', metadata TEXT DEFAULT '{}');
  CREATE TABLE container (
    rowid INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL, put_timestamp TEXT, delete_timestamp TEXT, object_count INTEGER,
    bytes_used INTEGER, deleted INTEGER NOT NULL, policy INTEGER NOT NULL);
  CREATE UNIQUE INDEX container_name ON container (deleted, name);
  CREATE TABLE policy_stat (policy INTEGER PRIMARY KEY, container_count INTEGER DEFAULT 0, object_count INTEGER DEFAULT 0, bytes_used INTEGER DEFAULT 0);
  CREATE TRIGGER container_in AFTER INSERT ON container BEGIN
    INSERT INTO policy_stat VALUES (new.policy, 1 - new.deleted, (1 - new.deleted) * new.object_count, (1 - new.deleted) * new.bytes_used)
      ON CONFLICT (policy) DO UPDATE SET container_count = container_count + excluded.container_count,
        object_count = object_count + excluded.object_count, bytes_used = bytes_used + excluded.bytes_used;
    UPDATE info SET hash = chexor(hash, new.name, new.put_timestamp, new.delete_timestamp, new.object_count, new.bytes_used, new.deleted, new.policy);
  END;
  CREATE TRIGGER container_out AFTER DELETE ON container BEGIN
    UPDATE policy_stat SET container_count = container_count - (1 - old.deleted), object_count = object_count - (1 - old.deleted) * old.object_count,
      bytes_used = bytes_used - (1 - old.deleted) * old.bytes_used WHERE policy = old.policy;
    UPDATE info SET hash = chexor(hash, old.name, old.put_timestamp, old.delete_timestamp, old.object_count, old.bytes_used, old.deleted, old.policy);
  END;
  ${SYNC_SCHEMA}`

const COLUMNS = 'rowid, name, put_timestamp, delete_timestamp, object_count, bytes_used, deleted, policy'

/** Opens the database of an account that should exist. */
export const accountOpen = (path: string): Handle | null => openHandle(path)

/** Makes the database, or answers the one that is there. */
export function accountMake(path: string, account: string, put: string, at: string): Handle {
  const there = openHandle(path)
  if (there) return there
  const h = openHandle(path, SCHEMA)!
  h.run(
    'INSERT INTO info (account, created_at, put_timestamp, status_changed_at, id) VALUES (?, ?, ?, ?, ?)',
    account,
    at,
    put,
    put,
    newId(),
  )
  return h
}

export function accountInfo(h: Handle): AccountInfo {
  const row = h.one<Omit<AccountInfo, 'metadata'> & { metadata: string }>('SELECT * FROM info')!
  const policies = h.all<AccountInfo['policies'][number]>('SELECT * FROM policy_stat')
  const sum = (field: 'container_count' | 'object_count' | 'bytes_used'): number =>
    policies.reduce((total, stat) => total + stat[field], 0)
  const max = h.one<{ seq: number }>("SELECT seq FROM sqlite_sequence WHERE name = 'container'")?.seq ?? -1
  const containers = sum('container_count')
  return {
    ...row,
    metadata: JSON.parse(row.metadata) as Metadata,
    policies,
    container_count: containers,
    object_count: sum('object_count'),
    bytes_used: sum('bytes_used'),
    max_row: max,
    is_deleted: row.status === 'DELETED' || (row.delete_timestamp > row.put_timestamp && containers === 0),
  }
}

/** Creates a deleted account anew or confirms one. `recently`: it was deleted and its containers are not reaped yet. */
export function accountPut(h: Handle, put: string): { created: boolean; recently: boolean } {
  const info = accountInfo(h)
  if (info.status === 'DELETED') return { created: false, recently: true }
  const created = info.is_deleted && put > info.delete_timestamp
  if (put > info.put_timestamp) h.run('UPDATE info SET put_timestamp = ?', put)
  return { created, recently: false }
}

/** Marks the account as deleted; the reaper empties it. */
export function accountDelete(h: Handle, at: string): void {
  h.run("UPDATE info SET delete_timestamp = max(delete_timestamp, ?), status = 'DELETED', status_changed_at = ?", at, at)
}

/** Sets metadata; the sentence of the 400 when they become too many. */
export function accountUpdate(h: Handle, changes: Metadata, limits: { count: number; size: number }): string | null {
  const problem = metadataProblem({ ...accountInfo(h).metadata, ...changes }, 'account', limits)
  if (problem) return problem
  mergeMetadata(h, 'info', changes)
  return null
}

/** Enters containers' times and counts, the newest of each. */
export function accountMerge(h: Handle, rows: ContainerRow[], source?: string): void {
  let max = -1
  for (const item of rows) {
    if (item.rowid !== undefined && item.rowid > max) max = item.rowid
    const known = h.one<ContainerRow>(`SELECT ${COLUMNS} FROM container WHERE deleted IN (0, 1) AND name = ?`, item.name)
    const row = { ...item }
    if (known) {
      if (known.put_timestamp > row.put_timestamp)
        Object.assign(row, { put_timestamp: known.put_timestamp, policy: known.policy })
      if (known.delete_timestamp > row.delete_timestamp) row.delete_timestamp = known.delete_timestamp
    }
    row.deleted = row.delete_timestamp > row.put_timestamp && !row.object_count ? 1 : 0
    if (known && sameRow(known, row)) continue
    if (known) h.run('DELETE FROM container WHERE rowid = ?', known.rowid!)
    h.run(
      'INSERT INTO container (name, put_timestamp, delete_timestamp, object_count, bytes_used, deleted, policy) VALUES (?, ?, ?, ?, ?, ?, ?)',
      row.name,
      row.put_timestamp,
      row.delete_timestamp,
      row.object_count,
      row.bytes_used,
      row.deleted,
      row.policy,
    )
  }
  if (source !== undefined && max >= 0) mergeSyncs(h, 'incoming', [{ remote_id: source, sync_point: max }], ZERO)
}

const sameRow = (a: ContainerRow, b: ContainerRow): boolean =>
  a.put_timestamp === b.put_timestamp &&
  a.delete_timestamp === b.delete_timestamp &&
  a.object_count === b.object_count &&
  a.bytes_used === b.bytes_used &&
  a.policy === b.policy &&
  a.deleted === b.deleted

/** A page of containers; hidden ones (reserved names) only when asked for. */
export function accountRows(h: Handle, options: ListOptions, reserved: boolean): (ContainerRow | { subdir: string })[] {
  const order = options.reverse ? 'DESC' : 'ASC'
  const floor = reserved ? '' : 'AND name >= char(1)'
  return listNames<ContainerRow>(options, (from, fromIn, to, toIn, n) => {
    const low = from === null ? '' : `AND name ${fromIn ? '>=' : '>'} ?`
    const high = to === null ? '' : `AND name ${toIn ? '<=' : '<'} ?`
    const args = [from, to].filter(bound => bound !== null)
    return h.all<ContainerRow>(
      `SELECT ${COLUMNS} FROM container WHERE deleted = 0 ${floor} ${low} ${high} ORDER BY name ${order} LIMIT ?`,
      ...args,
      n,
    )
  })
}

/** A listing as the JSON text that goes to the client. */
export function accountListing(h: Handle, options: ListOptions, reserved: boolean): string {
  return JSON.stringify(
    accountRows(h, options, reserved).map(row =>
      'subdir' in row
        ? row
        : { name: row.name, count: row.object_count, bytes: row.bytes_used, last_modified: iso(row.put_timestamp) },
    ),
  )
}

/** For replicas: rows after one. */
export const accountItemsSince = (h: Handle, row: number, count: number): ContainerRow[] =>
  h.all<ContainerRow>(`SELECT ${COLUMNS} FROM container WHERE rowid > ? ORDER BY rowid LIMIT ?`, row, count)

export interface RemoteAccount {
  created_at: string
  put_timestamp: string
  delete_timestamp: string
  status_changed_at: string
  status: string
  metadata: Metadata
}

/** Takes over the times, status and metadata of a replica. */
export function accountMergeInfo(h: Handle, remote: RemoteAccount): void {
  const info = accountInfo(h)
  h.run(
    'UPDATE info SET created_at = min(created_at, ?), put_timestamp = max(put_timestamp, ?), delete_timestamp = max(delete_timestamp, ?)',
    remote.created_at,
    remote.put_timestamp,
    remote.delete_timestamp,
  )
  if (remote.status_changed_at > info.status_changed_at)
    h.run('UPDATE info SET status = ?, status_changed_at = ?', remote.status, remote.status_changed_at)
  mergeMetadata(h, 'info', remote.metadata)
}

/** Drops tombstones and forgotten metadata older than the time. */
export function accountReclaim(h: Handle, before: string): void {
  h.run('DELETE FROM container WHERE deleted = 1 AND delete_timestamp < ?', before)
  reclaimMetadata(h, 'info', before)
}

/** Compares the running hash with the rows; the sentence of what is wrong, or null. */
export function accountAudit(h: Handle): string | null {
  const check = h.all<{ quick_check: string }>('PRAGMA quick_check')
  if (check[0]?.quick_check !== 'ok') return String(check[0]?.quick_check)
  let hash = NO_HASH
  const next = h.db.prepare('SELECT chexor(?, ?, ?, ?, ?, ?, ?, ?) AS hash')
  for (const row of h.all<ContainerRow>(`SELECT ${COLUMNS} FROM container`)) {
    hash = (
      next.get(
        hash,
        row.name,
        row.put_timestamp,
        row.delete_timestamp,
        row.object_count,
        row.bytes_used,
        row.deleted,
        row.policy,
      ) as { hash: string }
    ).hash
  }
  return h.one<{ hash: string }>('SELECT hash FROM info')!.hash === hash ? null : 'rows do not match the hash of the table'
}
