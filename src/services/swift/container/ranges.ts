/**
 * Shard ranges: which container holds the rows of which names. A large container (the root) is split into shards, containers of the hidden
 * account `.shards_ACCOUNT` that hold the names `lower < name <= upper` (empty: no bound). This file is the part inside the database
 * thread; what happens between containers is in `sharder.ts`.
 *
 * States of a container: `unsharded` → `sharding` (each replica hands its own rows over, range by range) → `sharded` (rows are in the
 * shards only; the table of ranges is what a listing and an update go by) → `collapsed` (all rows are back).
 */
import type { Handle } from '../db/handle.ts'
import type { ObjectRow } from './broker.ts'

export interface ShardRange {
  /** `.shards_a/c-…`: the shard's account and container. */
  name: string
  /** When its bounds were decided or it was deleted: the newer of two records of a name wins. */
  timestamp: string
  lower: string
  upper: string
  object_count: number
  bytes_used: number
  /** When the counts were taken. */
  meta_timestamp: string
  deleted: number
  /** `created`: updates go there; `active`: listings too. */
  state: string
  state_timestamp: string
}

const FIELDS = 'name, timestamp, lower, upper, object_count, bytes_used, meta_timestamp, deleted, state, state_timestamp'

/** A state in which rows may belong to shards. */
export const isSplit = (state: string): boolean => state === 'sharding' || state === 'sharded'

/** True when the range holds the name. */
export const holds = (range: Pick<ShardRange, 'lower' | 'upper'>, name: string): boolean =>
  after(name, range.lower) && (range.upper === '' || !after(name, range.upper))

/** True when `a` comes after `b` in the order of listings. */
export const after = (a: string, b: string): boolean => Buffer.compare(Buffer.from(a), Buffer.from(b)) > 0

/** The ranges of a container in the order of their names; with the deleted ones for replicas. */
export function rangesOf(h: Handle, withDeleted = false): ShardRange[] {
  return h.all<ShardRange>(`SELECT ${FIELDS} FROM shard_range ${withDeleted ? '' : 'WHERE deleted = 0'} ORDER BY lower, upper`)
}

/** Takes over ranges, of each the newer facts. Answers whether anything changed. */
export function mergeRanges(h: Handle, ranges: ShardRange[]): boolean {
  let changed = false
  for (const given of ranges) {
    const known = h.one<ShardRange>(`SELECT ${FIELDS} FROM shard_range WHERE name = ?`, given.name)
    const row = known ? newer(known, given) : given
    if (known && JSON.stringify(row) === JSON.stringify(known)) continue
    changed = true
    h.run(
      `INSERT OR REPLACE INTO shard_range (${FIELDS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`,
      row.name,
      row.timestamp,
      row.lower,
      row.upper,
      row.object_count,
      row.bytes_used,
      row.meta_timestamp,
      row.deleted,
      row.state,
      row.state_timestamp,
    )
  }
  return changed
}

function newer(known: ShardRange, given: ShardRange): ShardRange {
  const row = given.timestamp > known.timestamp ? { ...given } : { ...known }
  const counts = given.meta_timestamp > known.meta_timestamp ? given : known
  const state = given.state_timestamp > known.state_timestamp ? given : known
  return {
    ...row,
    object_count: counts.object_count,
    bytes_used: counts.bytes_used,
    meta_timestamp: counts.meta_timestamp,
    state: state.state,
    state_timestamp: state.state_timestamp,
  }
}

/** Bounds that divide the rows within (lower, upper] into parts of that many, the last one up to half as many more. */
export function findRanges(
  h: Handle,
  policy: number,
  lower: string,
  upper: string,
  size: number,
): { lower: string; upper: string; count: number }[] {
  const bound = upper === '' ? '' : 'AND name <= ?'
  const ends = upper === '' ? [] : [upper]
  const out: { lower: string; upper: string; count: number }[] = []
  let left = h.one<{ n: number }>(
    `SELECT count(*) AS n FROM object WHERE policy = ? AND deleted = 0 AND name > ? ${bound}`,
    policy,
    lower,
    ...ends,
  )!.n
  let from = lower
  while (left >= size * 1.5) {
    const row = h.one<{ name: string }>(
      `SELECT name FROM object WHERE policy = ? AND deleted = 0 AND name > ? ${bound} ORDER BY name LIMIT 1 OFFSET ?`,
      policy,
      from,
      ...ends,
      size - 1,
    )
    if (!row) break
    out.push({ lower: from, upper: row.name, count: size })
    from = row.name
    left -= size
  }
  out.push({ lower: from, upper, count: left })
  return out
}

/** Begins to shard, or joins a replica that has begun: rows stay until they were handed over. */
export function setState(h: Handle, state: string, epoch: string): void {
  h.run('UPDATE info SET state = ?, epoch = ?', state, epoch)
}

/** What a replica says of its state. One that is behind follows: it hands over its own rows in its own time. */
export function followState(h: Handle, remote: { state?: string; epoch?: string | null }): void {
  if (!remote.epoch || !remote.state) return
  const own = h.one<{ state: string; epoch: string | null }>('SELECT state, epoch FROM info')!
  if ((own.epoch ?? '') >= remote.epoch) return
  if (remote.state === 'sharding' || remote.state === 'sharded') setState(h, 'sharding', remote.epoch)
  else if (remote.state === 'collapsed') setState(h, 'collapsed', remote.epoch)
}

/** Rows, tombstones too, of all policies, within (lower, upper] after a row, in the order in which they came. */
export function rowsWithin(h: Handle, lower: string, upper: string, row: number, count: number): ObjectRow[] {
  const bound = upper === '' ? '' : 'AND name <= ?'
  return h.all<ObjectRow>(
    `SELECT rowid, name, created_at, size, content_type, etag, deleted, policy, type_at, meta_at FROM object
     WHERE rowid > ? AND name > ? ${bound} ORDER BY rowid LIMIT ?`,
    row,
    lower,
    ...(upper === '' ? [] : [upper]),
    count,
  )
}

/** Forgets rows that were handed over. A row that was entered anew since then has another number and stays. */
export function dropRows(h: Handle, rows: number[]): void {
  for (const row of rows) h.run('DELETE FROM object WHERE rowid = ?', row)
}

/** How far this replica has handed over its rows: an upper bound, null before the first range, '' when all is done. Not told to replicas. */
export function cursorOf(h: Handle, epoch: string): string | null {
  h.db.exec('CREATE TABLE IF NOT EXISTS cleaving (epoch TEXT PRIMARY KEY, upper TEXT, finished INTEGER)')
  const row = h.one<{ upper: string; finished: number }>('SELECT upper, finished FROM cleaving WHERE epoch = ?', epoch)
  return row ? (row.finished ? '' : row.upper) : null
}

/** Moves the cursor behind a range, if nothing came into the range since row `seen`; else answers false. */
export function advance(h: Handle, epoch: string, range: { lower: string; upper: string }, seen: number): boolean {
  if (rowsWithin(h, range.lower, range.upper, seen, 1).length) return false
  cursorOf(h, epoch)
  h.run('INSERT OR REPLACE INTO cleaving VALUES (?, ?, ?)', epoch, range.upper, range.upper === '' ? 1 : 0)
  return true
}

export const emptyRange = (name: string, lower: string, upper: string, at: string): ShardRange => ({
  name,
  timestamp: at,
  lower,
  upper,
  object_count: 0,
  bytes_used: 0,
  meta_timestamp: at,
  deleted: 0,
  state: 'created',
  state_timestamp: at,
})
