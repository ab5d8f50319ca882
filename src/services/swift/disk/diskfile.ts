/**
 * One object on one device: the files of its hash folder, and which of them count.
 *
 *     1700000000.00000.data               the object (replicated)
 *     1700000000.00000#3.data             fragment 3 of an erasure-coded object, not yet known to be durable
 *     1700000000.00000#3#d.data           the same, durable: enough fragments are stored elsewhere
 *     1700000001.00000+1f.meta            metadata of a later POST; the suffix is the time of its content type
 *     1700000002.00000.ts                 a tombstone
 *
 * The newest of `.data` and `.ts` decides; a `.meta` counts when it is newer than that. All else is obsolete.
 */
import { type FileHandle, mkdir, open, readdir, rename, rm, rmdir, unlink } from 'node:fs/promises'
import { join } from 'node:path'
import type { Headers } from '../http/message.ts'
import { decodePair, encodePair } from '../timestamp.ts'
import {
  type Disk,
  deviceDir,
  failedWith,
  makeDir,
  partitionDir,
  quarantine,
  syncDir,
  syncMade,
  temporaryName,
  tmpDir,
  withPolicy,
} from './layout.ts'
import { BlockSums, type Opened, openRecord, tail } from './record.ts'

export interface Part {
  name: string
  timestamp: string
  kind: 'data' | 'meta' | 'ts'
  /** `.meta`: when its content type was set, where that differs. */
  typeTime: string | null
  /** Erasure coding: which fragment, and whether it is durable. */
  fragment: number | null
  durable: boolean
}

export interface Found {
  data: Part | null
  meta: Part | null
  tombstone: Part | null
  /** Erasure coding: all fragments here of the version chosen, and of newer versions that are not durable yet. */
  fragments: Part[]
  obsolete: string[]
  /** Every name in the folder. */
  all: string[]
}

export const NOTHING: Found = { data: null, meta: null, tombstone: null, fragments: [], obsolete: [], all: [] }

/** The parts of a file's name; null for names that are not ours. */
export function parseName(name: string): Part | null {
  const dot = name.lastIndexOf('.')
  const kind = name.slice(dot + 1)
  const stem = name.slice(0, dot)
  if (kind === 'ts') return { name, timestamp: stem, kind, typeTime: null, fragment: null, durable: true }
  if (kind === 'meta') {
    const [timestamp, typeTime] = decodePair(stem)
    return { name, timestamp, kind, typeTime, fragment: null, durable: true }
  }
  if (kind !== 'data') return null
  const [timestamp, fragment, durable] = stem.split('#')
  return {
    name,
    timestamp,
    kind,
    typeTime: null,
    fragment: fragment === undefined ? null : Number(fragment),
    durable: fragment === undefined || durable === 'd',
  }
}

const byTime = (a: Part, b: Part): number =>
  a.timestamp < b.timestamp ? 1 : a.timestamp > b.timestamp ? -1 : a.name < b.name ? 1 : -1

/** Sorts out the names of one hash folder. `fragment`: the one wanted, when several are here. Pure. */
export function sortOut(
  names: string[],
  options: { fragment?: number | null; notDurable?: boolean; tombstonesBefore?: string; time?: string } = {},
): Found {
  const parts = names.map(parseName).filter(part => part !== null)
  parts.sort(byTime)
  const found: Found = { data: null, meta: null, tombstone: null, fragments: [], obsolete: [], all: names }
  const end = parts.find(part => part.kind === 'ts' || (part.kind === 'data' && part.durable))
  const durableTimes = new Set(parts.filter(part => part.kind === 'data' && part.durable).map(part => part.timestamp))
  for (const part of parts) {
    const isOld = end !== undefined && part.timestamp < end.timestamp
    if (part.kind === 'meta') {
      if (isOld || (found.meta && part !== found.meta)) found.obsolete.push(part.name)
      else found.meta = part
    } else if (part.kind === 'ts') {
      if (part !== end) found.obsolete.push(part.name)
      else if (options.tombstonesBefore && part.timestamp < options.tombstonesBefore) found.obsolete.push(part.name)
      else found.tombstone = part
    } else if (isOld || (end?.kind === 'ts' && part.timestamp <= end.timestamp)) found.obsolete.push(part.name)
    else if (part.fragment === null) found.data = part
    else found.fragments.push(part)
  }
  if (end?.kind === 'ts' && options.tombstonesBefore && end.timestamp < options.tombstonesBefore) found.tombstone = null
  if (found.fragments.length) {
    const usable = found.fragments.filter(
      part =>
        (part.durable || durableTimes.has(part.timestamp) || options.notDurable) &&
        (!options.time || part.timestamp === options.time),
    )
    const time = usable[0]?.timestamp
    const same = usable.filter(part => part.timestamp === time)
    found.data = (options.fragment == null ? same[0] : same.find(part => part.fragment === options.fragment)) ?? null
    if (found.data) found.data = { ...found.data, durable: found.data.durable || durableTimes.has(found.data.timestamp) }
  }
  if (found.meta && !found.data && !found.fragments.length && end === undefined) found.meta = null
  return found
}

/** Lists and sorts out a hash folder; nothing when it does not exist. */
export async function look(dir: string, options: Parameters<typeof sortOut>[1] = {}): Promise<Found> {
  try {
    return sortOut(await readdir(dir), options)
  } catch (error) {
    if (failedWith(error, 'ENOENT', 'ENOTDIR')) return NOTHING
    throw error
  }
}

/** The newest thing that happened to the object here, as a timestamp; null when nothing did. */
export const newest = (found: Found): string | null => {
  const times = [found.data?.timestamp, found.tombstone?.timestamp, found.meta?.timestamp].filter(time => time !== undefined)
  return times.length ? times.reduce((a, b) => (a > b ? a : b)) : null
}

export interface OpenObject extends Opened {
  file: FileHandle | null
  /** Metadata of data and `.meta` together. */
  headers: Headers
  dataTime: string
  metaTime: string | null
  typeTime: string
}

/** Opens what `look` found. The caller closes `file`; it is null when all data are in `data`. Throws Corrupt, ENOENT when it has just been replaced. */
export async function openFound(dir: string, found: Found): Promise<OpenObject> {
  const part = found.data!
  const file = await open(join(dir, part.name), 'r')
  try {
    const opened = await openRecord(file)
    const meta = found.meta ? await readMeta(join(dir, found.meta.name)) : null
    const merged = merge(opened.metadata, meta, part.timestamp)
    const open: OpenObject = { ...opened, file, ...merged, dataTime: part.timestamp, metaTime: found.meta?.timestamp ?? null }
    if (opened.data) {
      await file.close()
      open.file = null
    }
    return open
  } catch (error) {
    await file.close()
    throw error
  }
}

/** Reads the metadata of a `.meta` or `.ts` file. */
export async function readMeta(path: string): Promise<Headers> {
  const file = await open(path, 'r')
  try {
    return (await openRecord(file)).metadata
  } finally {
    await file.close()
  }
}

/** What a POST never replaces: it belongs to the data. */
const ofData = (name: string): boolean =>
  name === 'name' ||
  name === 'content-length' ||
  name === 'etag' ||
  name === 'x-timestamp' ||
  name === 'x-static-large-object' ||
  name.startsWith('x-object-sysmeta-')

function merge(data: Headers, meta: Headers | null, dataTime: string): { headers: Headers; typeTime: string } {
  if (!meta) return { headers: data, typeTime: dataTime }
  const headers: Headers = {}
  for (const name in data) if (ofData(name) || name === 'content-type') headers[name] = data[name]
  let typeTime = dataTime
  for (const name in meta) {
    if (name === 'content-type-timestamp' || name === 'content-type') continue
    if (name !== 'name') headers[name] = meta[name]
  }
  if (meta['content-type'] !== undefined && (meta['content-type-timestamp'] ?? '') > dataTime) {
    headers['content-type'] = meta['content-type']
    typeTime = meta['content-type-timestamp']
  }
  return { headers, typeTime }
}

export interface Writing {
  size: number
  write(chunk: Buffer): Promise<void>
  /** Makes it the object. `fragment` for erasure coding. Answers nothing; afterwards the file is durable under its name. */
  commit(dir: string, metadata: Headers, name: string, isNew: boolean): Promise<void>
  abandon(): Promise<void>
}

const HOLD = 256 * 1024

/** Starts a temporary file on the device. Throws ENOENT when the device is not there. */
export async function beginWrite(disk: Disk, policy: number): Promise<Writing> {
  const temporary = join(tmpDir(disk, policy), temporaryName())
  const sums = new BlockSums()
  let file: FileHandle | null = await openTemporary(disk, policy, temporary)
  let held: Buffer[] = []
  let heldBytes = 0
  const flush = async (extra?: Buffer): Promise<void> => {
    const buffers = extra ? [...held, extra] : held
    let left = heldBytes + (extra?.length ?? 0)
    held = []
    heldBytes = 0
    let at = 0
    while (left > 0) {
      const { bytesWritten } = await file!.writev(at ? trim(buffers, at) : buffers)
      at += bytesWritten
      left -= bytesWritten
    }
  }
  const writing: Writing = {
    size: 0,
    async write(chunk) {
      sums.update(chunk)
      writing.size += chunk.length
      held.push(chunk)
      heldBytes += chunk.length
      if (heldBytes >= HOLD) await flush()
    },
    async commit(dir, metadata, name, isNew) {
      const top = isNew ? await makeDir(disk, dir) : null
      await flush(tail(sums.table(), metadata))
      await file!.datasync()
      await file!.close()
      file = null
      await publish(disk, temporary, dir, name)
      await syncMade(dir, top)
    },
    async abandon() {
      await file?.close()
      file = null
      await rm(temporary, { force: true })
    },
  }
  return writing
}

function trim(buffers: Buffer[], skip: number): Buffer[] {
  let left = skip
  const out: Buffer[] = []
  for (const buffer of buffers) {
    if (left >= buffer.length) left -= buffer.length
    else {
      out.push(left ? buffer.subarray(left) : buffer)
      left = 0
    }
  }
  return out
}

async function publish(disk: Disk, temporary: string, dir: string, name: string): Promise<void> {
  try {
    await rename(temporary, join(dir, name))
  } catch (error) {
    if (!failedWith(error, 'ENOENT')) throw error
    const made = await makeDir(disk, dir) // a cleaner took the empty folder away in between
    await rename(temporary, join(dir, name))
    await syncMade(dir, made)
  }
  await syncDir(dir)
}

async function openTemporary(disk: Disk, policy: number, path: string): Promise<FileHandle> {
  try {
    return await open(path, 'wx')
  } catch (error) {
    if (!failedWith(error, 'ENOENT')) throw error
    // not recursive: a device that is gone stays gone
    await mkdir(join(deviceDir(disk), withPolicy('tmp', policy))).catch(problem => {
      if (!failedWith(problem, 'EEXIST')) throw problem
    })
    return open(path, 'wx')
  }
}

/** Writes a file without data: a tombstone or the metadata of a POST. */
export async function writeSmall(disk: Disk, policy: number, dir: string, name: string, metadata: Headers): Promise<void> {
  const writing = await beginWrite(disk, policy)
  try {
    await writing.commit(dir, metadata, name, true)
  } catch (error) {
    await writing.abandon()
    throw error
  }
}

/** Names of files. */
export const dataName = (timestamp: string, fragment?: number | null, durable = false): string =>
  fragment == null ? `${timestamp}.data` : `${timestamp}#${fragment}${durable ? '#d' : ''}.data`
export const metaName = (timestamp: string, typeTime: string | null): string =>
  `${encodePair(timestamp, typeTime === timestamp ? null : typeTime)}.meta`

/** Removes what no longer counts; the folder too when nothing is left. Answers what does count. */
export async function tidy(dir: string, options: Parameters<typeof sortOut>[1] = {}): Promise<Found> {
  const found = await look(dir, options)
  for (const name of found.obsolete) await unlink(join(dir, name)).catch(gone)
  if (found.all.length === found.obsolete.length) await rmdir(dir).catch(notEmptyOrGone)
  return found
}

const gone = (error: unknown): void => {
  if (!failedWith(error, 'ENOENT')) throw error
}
const notEmptyOrGone = (error: unknown): void => {
  if (!failedWith(error, 'ENOENT', 'ENOTEMPTY', 'EEXIST')) throw error
}

/** Says in the partition's log of changes that a suffix must be hashed anew. Costs nothing until the partition has been hashed once. */
export async function invalidate(disk: Disk, policy: number, partition: string | number, hash: string): Promise<void> {
  let log: FileHandle
  try {
    log = await open(join(partitionDir(disk, policy, partition), 'hashes.invalid'), 1 /* O_WRONLY */ | 0o2000 /* O_APPEND */)
  } catch (error) {
    if (failedWith(error, 'ENOENT')) return
    throw error
  }
  try {
    await log.write(`${hash.slice(-3)}\n`)
  } finally {
    await log.close()
  }
}

/** Takes an object that is not what it says it is out of service. */
export const quarantineObject = (disk: Disk, policy: number, dir: string): Promise<string> =>
  quarantine(disk, withPolicy('objects', policy), dir)
