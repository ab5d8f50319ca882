/**
 * The file store: one file an image, named by the upload that made it. Bytes go to a temporary name, are synced, renamed, and the folder is synced, so
 * that a file of the final name is whole whatever died. Several readers and a deletion need no lock: an open file lives until it is closed.
 */
import { createHash, type Hash } from 'node:crypto'
import type { Dirent } from 'node:fs'
import * as fs from 'node:fs/promises'
import { join } from 'node:path'
import type { Readable } from 'node:stream'
import { unavailable } from '#kit/fault.ts'

const CHUNK = 512 * 1024
const TEMPORARY = '.part'

/** What a stored file is. */
export interface Stored {
  size: number
  md5: string
  sha512: string
}

const pathOf = (folder: string, name: string): string => join(folder, name)

/**
 * Stores a stream under a name. `look` sees each chunk before it is written, and may throw to end it; nothing is left then. Throws `unavailable`, with
 * the system's words, when the disk is full or cannot be written.
 */
export async function fileStore(
  folder: string,
  name: string,
  source: AsyncIterable<Buffer>,
  look: (chunk: Buffer) => void,
): Promise<Stored> {
  await fs.mkdir(folder, { recursive: true, mode: 0o700 })
  const path = pathOf(folder, name)
  const handle = await fs.open(path + TEMPORARY, 'wx', 0o600)
  try {
    const [md5, sha512] = [createHash('md5'), createHash('sha512')]
    const size = await copy(source, handle, [md5, sha512], look)
    await handle.datasync()
    await handle.close()
    await fs.rename(path + TEMPORARY, path)
    await syncFolder(folder)
    return { size, md5: md5.digest('hex'), sha512: sha512.digest('hex') }
  } catch (error) {
    await handle.close()
    await fs.rm(path + TEMPORARY, { force: true })
    throw diskFault(error)
  }
}

/** Copies with one write under way while the next chunk is read and hashed. Returns the bytes. */
async function copy(
  source: AsyncIterable<Buffer>,
  handle: fs.FileHandle,
  hashes: readonly Hash[],
  look: (chunk: Buffer) => void,
): Promise<number> {
  let size = 0
  let pending: Buffer[] = []
  let waiting = 0
  let writing: Promise<unknown> = Promise.resolve()
  const flush = async (): Promise<void> => {
    const parts = pending
    pending = []
    waiting = 0
    await writing
    writing = handle.writev(parts)
    writing.catch(() => {}) // awaited at the next flush
  }
  for await (const chunk of source) {
    look(chunk)
    size += chunk.length
    for (const hash of hashes) hash.update(chunk)
    pending.push(chunk)
    waiting += chunk.length
    if (waiting >= CHUNK) await flush()
  }
  if (pending.length > 0) await flush()
  await writing
  return size
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
  return code === 'ENOSPC' || code === 'EDQUOT' || code === 'EROFS' || code === 'EIO'
    ? unavailable(`The image store cannot be written: ${message}`, { cause: error })
    : error
}

/** Reads a stored file, from `start` up to and including `end`. Throws the system's ENOENT when it is not there. */
export async function fileRead(folder: string, name: string, range?: { start: number; end: number }): Promise<Readable> {
  const handle = await fs.open(pathOf(folder, name), 'r')
  return handle.createReadStream({ highWaterMark: CHUNK, ...range })
}

/** Removes a file. Fine when it is not there. */
export async function fileRemove(folder: string, name: string): Promise<void> {
  await fs.rm(pathOf(folder, name), { force: true })
}

/** The files of the store, whole ones and parts of uploads, with their age in ms. */
export async function fileList(folder: string): Promise<{ name: string; part: boolean; age: number }[]> {
  let entries: Dirent[]
  try {
    entries = await fs.readdir(folder, { withFileTypes: true })
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return []
    throw error
  }
  const files = entries.filter(e => e.isFile())
  return Promise.all(
    files.map(async ({ name }) => {
      const part = name.endsWith(TEMPORARY)
      const { mtimeMs } = await fs.stat(pathOf(folder, name))
      return { name: part ? name.slice(0, -TEMPORARY.length) : name, part, age: Date.now() - mtimeMs }
    }),
  )
}
