/** The files of one object on one device: reading, writing and tidying them. What their names say: `found.ts`. */
import { type FileHandle, mkdir, open, readdir, rename, rm, rmdir, unlink } from 'node:fs/promises'
import { join } from 'node:path'
import type { Headers } from '../http/message.ts'
import type { SmallFile } from './files.ts'
import { type Found, NOTHING, sortOut } from './found.ts'
import {
  type Disk,
  deviceDir,
  failedWith,
  makeDir,
  partitionDir,
  quarantine,
  syncAbove,
  syncDir,
  temporaryName,
  tmpDir,
  withPolicy,
} from './layout.ts'
import { BlockSums, type Opened, openRecord, recordOf, tail } from './record.ts'

/** Lists and sorts out a hash folder; nothing when it does not exist. */
export async function look(dir: string, options: Parameters<typeof sortOut>[1] = {}): Promise<Found> {
  try {
    return sortOut(await readdir(dir), options)
  } catch (error) {
    if (failedWith(error, 'ENOENT', 'ENOTDIR')) return NOTHING
    throw error
  }
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
  const file = await open(join(dir, found.data!.name), 'r')
  try {
    const opened = await openRecord(file)
    const meta = found.meta ? await readMeta(join(dir, found.meta.name)) : null
    const object = openObject(found, opened, meta, opened.data ? null : file)
    if (opened.data) await file.close()
    return object
  } catch (error) {
    await file.close()
    throw error
  }
}

/** The same of files that were read whole. Throws Corrupt. */
export const openSeen = (found: Found, data: Uint8Array, meta: Uint8Array | null): OpenObject =>
  openObject(found, recordOf(asBuffer(data)), meta && recordOf(asBuffer(meta)).metadata, null)

const asBuffer = (bytes: Uint8Array): Buffer => Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength)

function openObject(found: Found, opened: Opened, meta: Headers | null, file: FileHandle | null): OpenObject {
  const { timestamp } = found.data!
  const merged = merge(opened.metadata, meta, timestamp)
  return { ...opened, file, ...merged, dataTime: timestamp, metaTime: found.meta?.timestamp ?? null }
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

/** An object's place on a device. */
export interface Spot {
  disk: Disk
  policy: number
  partition: string
  dir: string
  hash: string
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
      if (isNew) await makeDir(disk, dir)
      await flush(tail(sums.table(), metadata))
      await file!.datasync()
      await file!.close()
      file = null
      await publish(disk, temporary, dir, name)
      await Promise.all([syncDir(dir), syncAbove(disk, dir)])
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
    await makeDir(disk, dir) // a cleaner took the empty folder away in between
    await rename(temporary, join(dir, name))
  }
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

/** The small file of an object's folder that a device's thread is to put in place. */
export function smallFile(at: Spot, name: string, data: Buffer | null, metadata: Headers, first: boolean): SmallFile {
  const sums = new BlockSums()
  if (data) sums.update(data)
  const end = tail(sums.table(), metadata)
  const bytes = Buffer.allocUnsafeSlow((data?.length ?? 0) + end.length) // of its own: the thread takes it over
  data?.copy(bytes)
  end.copy(bytes, data?.length ?? 0)
  const below = (path: string): string => path.slice(deviceDir(at.disk).length + 1)
  return {
    dir: below(at.dir),
    name,
    tmp: withPolicy('tmp', at.policy),
    bytes,
    first,
    log: below(`${partitionDir(at.disk, at.policy, at.partition)}/${CHANGES}`),
    changed: at.hash.slice(-3),
  }
}

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

/** A partition's log of suffixes that changed. */
const CHANGES = 'hashes.invalid'

/** Says in the partition's log of changes that a suffix must be hashed anew. Costs nothing until the partition has been hashed once. */
export async function invalidate(disk: Disk, policy: number, partition: string | number, hash: string): Promise<void> {
  let log: FileHandle
  try {
    log = await open(join(partitionDir(disk, policy, partition), CHANGES), 1 /* O_WRONLY */ | 0o2000 /* O_APPEND */)
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
