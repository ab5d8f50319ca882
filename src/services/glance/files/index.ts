/**
 * A file store: one file an image, named by the upload that made it. Bytes go to a temporary name, are synced, renamed, and the folder is synced, so
 * that a file of the final name is whole whatever died. Several readers and a deletion need no lock: an open file lives until it is closed.
 */
import { createHash } from 'node:crypto'
import type { Dirent } from 'node:fs'
import * as fs from 'node:fs/promises'
import { join } from 'node:path'
import type { Readable } from 'node:stream'
import { unavailable } from '#kit/fault.ts'
import type { Part, Place } from './place.ts'

const CHUNK = 512 * 1024
const TEMPORARY = '.part'

/** A folder as a place. */
export const folderPlace = (folder: string): Place => ({
  name: folder,
  part: file => partNew(folder, file),
  read: (file, range) => fileRead(folder, file, range),
  remove: file => fileRemove(folder, file),
  list: () => fileList(folder),
})

/** What a stored file is. */
export interface Stored {
  size: number
  md5: string
  sha512: string
}

export interface StoreOptions {
  /**
   * Told of a place that cannot be written, whose file is dropped while the others go on. Without it, and when no place is left, storing fails.
   */
  onPlaceLost?: (place: Place, error: unknown) => void
}

/**
 * Stores a stream under a name in each of the places. `look` sees each chunk before it is written, and may throw to end it; nothing is left then.
 * Throws `unavailable`, with the system's words, when a disk is full or cannot be written.
 */
export async function filesStore(
  places: readonly Place[],
  name: string,
  source: AsyncIterable<Buffer>,
  look: (chunk: Buffer) => void,
  { onPlaceLost }: StoreOptions = {},
): Promise<Stored> {
  const files = new Map<Place, Part>()
  const each = async (fn: (file: Part) => Promise<void>): Promise<void> => {
    for (const [place, file] of [...files]) {
      try {
        await fn(file)
      } catch (error) {
        if (!onPlaceLost || files.size === 1) throw error
        files.delete(place)
        await file.drop()
        onPlaceLost(place, diskFault(error))
      }
    }
  }
  try {
    for (const place of places) files.set(place, place.part(name))
    await each(file => file.open())
    const [md5, sha512] = [createHash('md5'), createHash('sha512')]
    let size = 0
    for await (const chunk of source) {
      look(chunk)
      size += chunk.length
      md5.update(chunk)
      sha512.update(chunk)
      await each(file => file.add(chunk))
    }
    await each(file => file.finish())
    return { size, md5: md5.digest('hex'), sha512: sha512.digest('hex') }
  } catch (error) {
    for (const file of files.values()) await file.drop()
    throw diskFault(error)
  }
}

/** One write is under way while the next bytes are gathered. */
function partNew(folder: string, name: string): Part {
  const path = join(folder, name)
  let handle: fs.FileHandle | undefined
  let pending: Buffer[] = []
  let waiting = 0
  let writing: Promise<void> = Promise.resolve()
  const flush = async (): Promise<void> => {
    const parts = pending
    pending = []
    waiting = 0
    await writing
    writing = writeAll(handle!, parts)
    writing.catch(() => {}) // awaited at the next flush
  }
  return {
    async open() {
      await fs.mkdir(folder, { recursive: true, mode: 0o700 })
      handle = await fs.open(path + TEMPORARY, 'wx', 0o600)
    },
    async add(chunk) {
      pending.push(chunk)
      waiting += chunk.length
      if (waiting >= CHUNK) await flush()
    },
    async finish() {
      if (pending.length > 0) await flush()
      await writing
      await handle!.datasync()
      await handle!.close()
      await fs.rename(path + TEMPORARY, path)
      await syncFolder(folder)
    },
    async drop() {
      await writing.catch(() => {}) // its failure is the one that is being handled
      await handle?.close()
      await fs.rm(path + TEMPORARY, { force: true })
      await fs.rm(path, { force: true })
    },
  }
}

/** Writes all of the buffers: the system may take only a part of them at once. */
async function writeAll(handle: fs.FileHandle, buffers: Buffer[]): Promise<void> {
  for (let left = buffers; left.length > 0; ) {
    const { bytesWritten } = await handle.writev(left)
    let skip = bytesWritten
    let first = 0
    while (first < left.length && skip >= left[first]!.length) skip -= left[first++]!.length
    left = first < left.length ? [left[first]!.subarray(skip), ...left.slice(first + 1)] : []
  }
}

async function syncFolder(folder: string): Promise<void> {
  const handle = await fs.open(folder, 'r')
  try {
    await handle.sync()
  } finally {
    await handle.close()
  }
}

function diskFault(error: unknown): unknown {
  const { code, message } = error as NodeJS.ErrnoException
  return ['ENOSPC', 'EDQUOT', 'EROFS', 'EIO', 'EACCES'].includes(code ?? '')
    ? unavailable(`The image store cannot be written: ${message}`, { cause: error })
    : error
}

/** Reads a stored file, from `start` up to and including `end`. Throws the system's ENOENT when it is not there. */
export async function fileRead(folder: string, name: string, range?: { start: number; end: number }): Promise<Readable> {
  const handle = await fs.open(join(folder, name), 'r')
  return handle.createReadStream({ highWaterMark: CHUNK, ...range })
}

/** Removes a file, and what an upload of that name left. Fine when nothing is there. */
export async function fileRemove(folder: string, name: string): Promise<void> {
  await fs.rm(join(folder, name), { force: true })
  await fs.rm(join(folder, name + TEMPORARY), { force: true })
}

/** The files of a folder, whole ones and parts of uploads, by the name they have or will have. `age` in ms since the last write. */
export async function fileList(folder: string): Promise<{ name: string; part: boolean; age: number; size: number }[]> {
  let entries: Dirent[]
  try {
    entries = await fs.readdir(folder, { withFileTypes: true })
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return []
    throw error
  }
  const found = []
  for (const { name } of entries.filter(e => e.isFile())) {
    const part = name.endsWith(TEMPORARY)
    try {
      const { mtimeMs, size } = await fs.stat(join(folder, name))
      found.push({ name: part ? name.slice(0, -TEMPORARY.length) : name, part, age: Date.now() - mtimeMs, size })
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error // renamed or removed meanwhile
    }
  }
  return found
}
