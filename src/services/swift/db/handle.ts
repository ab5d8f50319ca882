/** An open SQLite database of an account or a container, inside the worker thread. */
import { createHash, randomUUID } from 'node:crypto'
import { existsSync, mkdirSync } from 'node:fs'
import { dirname } from 'node:path'
import { DatabaseSync, type SQLInputValue, type StatementSync } from 'node:sqlite'

export interface Handle {
  path: string
  db: DatabaseSync
  one<T>(sql: string, ...args: SQLInputValue[]): T | undefined
  all<T>(sql: string, ...args: SQLInputValue[]): T[]
  run(sql: string, ...args: SQLInputValue[]): number
}

/** Metadata of an account or container: each name with its value and the time it was set; an empty value is a removal. */
export type Metadata = Record<string, [value: string, timestamp: string]>

/** Opens a database. Null when the file is not there and no schema is given to make it with. */
export function openHandle(path: string, schema?: string): Handle | null {
  const isNew = !existsSync(path)
  if (isNew && schema === undefined) return null
  if (isNew) makeFolders(dirname(path), 3)
  const db = new DatabaseSync(path, { timeout: 5000 })
  db.exec('PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA temp_store = MEMORY; PRAGMA case_sensitive_like = ON')
  db.exec('PRAGMA wal_autocheckpoint = 4000') // pages: what is written over and over, as index pages are, goes to the file once
  db.function('chexor', { deterministic: true, varargs: true }, (old, ...parts) => chexor(String(old), parts.join('-')))
  if (isNew) db.exec(`BEGIN; ${schema}; COMMIT`)
  const statements = new Map<string, StatementSync>()
  const prepare = (sql: string): StatementSync => {
    let statement = statements.get(sql)
    if (!statement) {
      statement = db.prepare(sql)
      statements.set(sql, statement)
    }
    return statement
  }
  return {
    path,
    db,
    one: <T>(sql: string, ...args: SQLInputValue[]) => prepare(sql).get(...args) as T | undefined,
    all: <T>(sql: string, ...args: SQLInputValue[]) => prepare(sql).all(...args) as T[],
    run: (sql, ...args) => Number(prepare(sql).run(...args).changes),
  }
}

/** Makes a database's folder: hash, suffix, partition, kind; never the device's, which is gone when it is not there. */
function makeFolders(path: string, above: number): void {
  try {
    mkdirSync(path)
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException
    if (code === 'EEXIST') return
    if (code !== 'ENOENT' || above === 0) throw error
    makeFolders(dirname(path), above - 1)
    makeFolders(path, 0)
  }
}

/** XOR of a running hash with the MD5 of an entry: entering and leaving are the same operation, in any order. */
function chexor(old: string, entry: string): string {
  const sum = createHash('md5').update(entry).digest()
  const before = Buffer.from(old, 'hex')
  for (let i = 0; i < 16; i++) sum[i] ^= before[i]
  return sum.toString('hex')
}

export const NO_HASH = '00000000000000000000000000000000'
export const newId = (): string => randomUUID()

/** Tables that every such database has: how far it has been synced with its replicas. */
export const SYNC_SCHEMA = `
  CREATE TABLE incoming_sync (remote_id TEXT PRIMARY KEY, sync_point INTEGER, updated_at TEXT);
  CREATE TABLE outgoing_sync (remote_id TEXT PRIMARY KEY, sync_point INTEGER, updated_at TEXT)`

/** Enters changed metadata, the newer of two values winning. Answers whether anything changed. */
export function mergeMetadata(h: Handle, table: string, changes: Metadata): boolean {
  const row = h.one<{ metadata: string }>(`SELECT metadata FROM ${table}`)!
  const known = JSON.parse(row.metadata || '{}') as Metadata
  let changed = false
  for (const [name, [value, timestamp]] of Object.entries(changes)) {
    const before = known[name]
    if (before && before[1] >= timestamp) continue
    known[name] = [value, timestamp]
    changed = true
  }
  if (changed) h.run(`UPDATE ${table} SET metadata = ?`, JSON.stringify(known))
  return changed
}

/** Forgets removed metadata older than the time. */
export function reclaimMetadata(h: Handle, table: string, before: string): void {
  const known = JSON.parse(h.one<{ metadata: string }>(`SELECT metadata FROM ${table}`)!.metadata || '{}') as Metadata
  const kept = Object.fromEntries(Object.entries(known).filter(([, [value, timestamp]]) => value !== '' || timestamp >= before))
  if (Object.keys(kept).length < Object.keys(known).length) h.run(`UPDATE ${table} SET metadata = ?`, JSON.stringify(kept))
}

/** What is really set, or the sentence why these are too many or too large (user metadata only; limits of constraints.ts). */
export function metadataProblem(
  metadata: Metadata,
  kind: 'account' | 'container',
  limits: { count: number; size: number },
): string | null {
  const prefix = `x-${kind}-meta-`
  let count = 0
  let size = 0
  for (const [name, [value]] of Object.entries(metadata)) {
    if (!name.startsWith(prefix) || value === '') continue
    count += 1
    size += name.length - prefix.length + value.length
  }
  if (count > limits.count) return `Too many metadata items; max ${limits.count}`
  if (size > limits.size) return `Total metadata too large; max ${limits.size}`
  return null
}

export interface SyncPoint {
  remote_id: string
  sync_point: number
}

/** Notes how far rows from (`incoming`) or to (`outgoing`) other replicas have been taken over. */
export function mergeSyncs(h: Handle, direction: 'incoming' | 'outgoing', points: SyncPoint[], at: string): void {
  for (const point of points) {
    h.run(
      `INSERT INTO ${direction}_sync VALUES (?, ?, ?) ON CONFLICT (remote_id) DO UPDATE
       SET sync_point = max(sync_point, excluded.sync_point), updated_at = excluded.updated_at`,
      point.remote_id,
      point.sync_point,
      at,
    )
  }
}
export const syncPoint = (h: Handle, direction: 'incoming' | 'outgoing', remoteId: string): number =>
  h.one<{ sync_point: number }>(`SELECT sync_point FROM ${direction}_sync WHERE remote_id = ?`, remoteId)?.sync_point ?? -1
export const syncPoints = (h: Handle, direction: 'incoming' | 'outgoing'): SyncPoint[] =>
  h.all<SyncPoint>(`SELECT remote_id, sync_point FROM ${direction}_sync`)

/** The next string in byte order of those that start with `text`: the first that does not. Null when there is none. */
export function after(text: string): string | null {
  const points = [...text]
  while (points.length) {
    const code = points.pop()!.codePointAt(0)!
    if (code < 0x10ffff) return points.join('') + String.fromCodePoint(code === 0xd7ff ? 0xe000 : code + 1)
  }
  return null
}

export interface ListOptions {
  limit: number
  marker?: string
  endMarker?: string
  prefix?: string
  delimiter?: string
  /** Only what is directly in this pseudo-folder. */
  path?: string
  reverse?: boolean
}

/**
 * The one listing of accounts and containers: names in byte order between markers, with a prefix, rolled up at a delimiter.
 * `page(from, inclusive, to, toInclusive, n)` must answer rows in order. Rolled-up names come back as `{ subdir }`. The cost depends on the length of the
 * page, not on what is rolled up: behind each roll-up the next query starts.
 */
export function listNames<T extends { name: string }>(
  options: ListOptions,
  page: (from: string | null, fromInclusive: boolean, to: string | null, toInclusive: boolean, n: number) => T[],
): (T | { subdir: string })[] {
  const { limit, reverse } = options
  let { prefix = '', delimiter } = options
  if (options.path !== undefined) {
    delimiter = '/'
    prefix = options.path ? `${options.path.replace(/\/+$/, '')}/` : ''
  }
  // bounds in byte order, whatever the direction
  let lower: string | null = (reverse ? options.endMarker : options.marker) || null
  let lowerIn = false
  let upper: string | null = (reverse ? options.marker : options.endMarker) || null
  const bytes = (a: string, b: string): number => Buffer.compare(Buffer.from(a), Buffer.from(b))
  if (prefix && (lower === null || bytes(lower, prefix) < 0)) {
    lower = prefix
    lowerIn = true
  }
  const end = prefix ? after(prefix) : null
  if (end !== null && (upper === null || bytes(upper, end) > 0)) upper = end
  const out: (T | { subdir: string })[] = []
  while (out.length < limit) {
    const want = delimiter ? Math.min(limit - out.length, 1000) : limit - out.length
    const rows = page(lower, lowerIn, upper, false, want)
    let jumped = false
    for (const row of rows) {
      if (reverse) upper = row.name
      else {
        lower = row.name
        lowerIn = false
      }
      const cut = delimiter ? row.name.indexOf(delimiter, prefix.length) : -1
      if (cut < 0 || (options.path !== undefined && row.name.length === cut + delimiter!.length)) {
        if (options.path !== undefined && (row.name === options.path || row.name === prefix)) continue
        out.push(row)
        continue
      }
      const dir = row.name.slice(0, cut + delimiter!.length)
      if (options.path === undefined && dir !== options.marker && dir !== options.endMarker) out.push({ subdir: dir })
      if (reverse) upper = dir
      else {
        lower = after(dir)
        lowerIn = true
        if (lower === null) return out
      }
      jumped = true
      break
    }
    if (!jumped && rows.length < want) break
  }
  return out
}
