// The cache of base images: one file an image, named by the image's id and checksum, read-only, shared by all guests that boot from it
// (their disks are overlays over it). A file under its final name is whole, verified and safe to open: it was downloaded aside, its size
// and checksum compared, inspected by qemu-img as an unprivileged user, synced and renamed. Guests at the same time share one download.
import { createHash, randomBytes } from 'node:crypto'
import { chmod, chown, mkdir, open, readdir, rename, rm, stat, statfs, utimes } from 'node:fs/promises'
import { join } from 'node:path'
import { type ImageInfo, imgConvert, imgInfo, unsafe } from '#host/qemu/img.ts'
import { withPackage } from '#host/qemu/probe.ts'
import { badRequest, reason, unavailable } from '#kit/fault.ts'
import type { ImageRef } from '../../../spec.ts'
import type { ImageSource, Options } from '../../driver.ts'
import { syncFolder } from './store.ts'

export interface BaseImage {
  path: string
  format: 'qcow2' | 'raw'
  virtualSize: number
}

export interface ImageCache {
  /** The image's file, downloaded if it is not there. Faults: badRequest (checksum, unsafe content), unavailable (no space), the source's. */
  get(image: ImageRef, options?: Options): Promise<BaseImage>
  /** Removes files that are not of `used` and were not asked for during `seconds`. Returns how many. */
  age(seconds: number, used: ImageRef[]): Promise<number>
  /** Clears away what interrupted downloads left. */
  clean(): Promise<void>
}

/** qemu's name of a format, and what the cache keeps of it. */
const FORMATS: Record<ImageRef['format'], { qemu: string; kept: 'qcow2' | 'raw' }> = {
  qcow2: { qemu: 'qcow2', kept: 'qcow2' },
  vmdk: { qemu: 'vmdk', kept: 'qcow2' },
  vdi: { qemu: 'vdi', kept: 'qcow2' },
  vhd: { qemu: 'vpc', kept: 'qcow2' },
  vhdx: { qemu: 'vhdx', kept: 'qcow2' },
  raw: { qemu: 'raw', kept: 'raw' },
  iso: { qemu: 'raw', kept: 'raw' },
  ami: { qemu: 'raw', kept: 'raw' },
  aki: { qemu: 'raw', kept: 'raw' },
  ari: { qemu: 'raw', kept: 'raw' },
}

/** The file's name: an image's bytes never change, but an id may be deleted and used again by another store. Pure. */
export function baseName(image: ImageRef): string {
  if (!/^[\w-]{1,64}$/.test(image.id)) throw badRequest(`'${image.id}' is not the id of an image.`)
  const sum = image.checksum ? `-${image.checksum.hex.slice(0, 16).toLowerCase()}` : ''
  return `${image.id}${sum}.${FORMATS[image.format].kept}`
}

/** The virtual size in a qcow2 header (bytes 24 to 31, big endian). Undefined when it is none. Pure. */
export function qcow2Size(header: Buffer): number | undefined {
  return header.length >= 32 && header.readUInt32BE(0) === 0x514649fb ? Number(header.readBigUInt64BE(24)) : undefined
}

interface Download {
  promise: Promise<BaseImage>
  waiting: number
  stop: AbortController
  /** From now on who wants the image begins again. */
  forget(): void
}

/**
 * `uid`: the unprivileged user who inspects; `maxVirtualBytes`: no image may pretend to be larger.
 */
export function imageCache(options: { folder: string; source: ImageSource; uid?: number; maxVirtualBytes?: number }): ImageCache {
  const { folder, source, uid, maxVirtualBytes = 16 * 2 ** 40 } = options
  const downloads = new Map<string, Download>()

  async function cached(path: string, format: 'qcow2' | 'raw'): Promise<BaseImage | undefined> {
    const found = await stat(path).catch((error: NodeJS.ErrnoException) => {
      if (error.code === 'ENOENT') return undefined
      throw error
    })
    if (!found) return undefined
    const now = new Date()
    await utimes(path, now, now)
    if (format === 'raw') return { path, format, virtualSize: found.size }
    const file = await open(path, 'r')
    try {
      const header = Buffer.alloc(32)
      await file.read(header, 0, 32, 0)
      const virtualSize = qcow2Size(header)
      if (virtualSize === undefined) throw new Error(`${path}: not a qcow2 file any more`)
      return { path, format, virtualSize }
    } finally {
      await file.close()
    }
  }

  async function download(image: ImageRef, path: string, signal: AbortSignal): Promise<BaseImage> {
    const { kept, qemu } = FORMATS[image.format]
    const part = join(folder, `.part-${randomBytes(6).toString('hex')}`)
    const converted = `${part}.converted`
    try {
      await fits(folder, image.size ?? 0)
      const size = await receive(part, await source(image, { signal }), image, signal)
      if (image.size !== undefined && size !== image.size)
        throw badRequest(`Image ${image.id} has ${image.size} bytes, but ${size} arrived.`)
      await inspect(image, part, qemu, signal)
      if (kept === qemu) await settle(part, path)
      else {
        await (await open(converted, 'wx', 0o600)).close()
        if (uid !== undefined) await chown(converted, uid, uid)
        await withPackage(imgConvert({ path: part, format: qemu }, { path: converted, format: kept }, { uid, signal }))
        await chown(converted, 0, 0).catch(unlessUnprivileged)
        await settle(converted, path)
      }
      await syncFolder(folder)
      return (await cached(path, kept)) as BaseImage
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === 'ENOSPC') throw noSpace(folder, image, error)
      throw error
    } finally {
      await rm(part, { force: true })
      await rm(converted, { force: true })
    }
  }

  async function inspect(image: ImageRef, part: string, qemu: string, signal: AbortSignal): Promise<void> {
    if (qemu === 'raw') return
    let info: ImageInfo
    try {
      info = await withPackage(imgInfo(part, qemu, { uid, signal }))
    } catch (error) {
      if (signal.aborted) throw error
      if (/is not installed/.test(reason(error))) throw unavailable(reason(error), { cause: error })
      throw badRequest(`Image ${image.id} is unacceptable: it is not a readable ${image.format} image: ${reason(error)}`, {
        type: 'ImageUnacceptable',
        cause: error,
      })
    }
    const why = unsafe(info, qemu, maxVirtualBytes)
    if (why) throw badRequest(`Image ${image.id} is unacceptable: ${why}.`, { type: 'ImageUnacceptable' })
  }

  return {
    async get(image, { signal } = {}) {
      signal?.throwIfAborted()
      const name = baseName(image)
      const path = join(folder, name)
      const there = await cached(path, FORMATS[image.format].kept)
      if (there) return there
      let running = downloads.get(name)
      if (!running) {
        await mkdir(folder, { recursive: true, mode: 0o711 })
        running = downloads.get(name)
      }
      if (!running) {
        const stop = new AbortController()
        const promise = download(image, path, stop.signal).finally(() => running?.forget())
        promise.catch(() => undefined) // each who waits gets it
        const mine: Download = { promise, waiting: 0, stop, forget: () => downloads.get(name) === mine && downloads.delete(name) }
        running = mine
        downloads.set(name, mine)
      }
      return await shared(running, signal)
    },
    async age(seconds, used) {
      const keep = new Set(used.map(baseName))
      const before = Date.now() - seconds * 1000
      let removed = 0
      for (const name of await namesIn(folder)) {
        if (name.startsWith('.') || keep.has(name) || downloads.has(name)) continue
        const path = join(folder, name)
        if ((await stat(path)).mtimeMs >= before) continue
        await rm(path, { force: true })
        removed++
      }
      return removed
    },
    async clean() {
      for (const name of await namesIn(folder)) if (name.startsWith('.part-')) await rm(join(folder, name), { force: true })
    },
  }
}

/** Waits for a download that others may wait for too: the last one to give up stops it. */
async function shared(running: Download, signal: AbortSignal | undefined): Promise<BaseImage> {
  running.waiting++
  if (signal?.aborted) leave(running)
  signal?.throwIfAborted()
  const { promise: aborted, reject } = Promise.withResolvers<never>()
  aborted.catch(() => undefined)
  const onAbort = () => reject(signal?.reason)
  signal?.addEventListener('abort', onAbort, { once: true })
  try {
    return await Promise.race([running.promise, aborted])
  } finally {
    signal?.removeEventListener('abort', onAbort)
    if (signal?.aborted) leave(running)
    else running.waiting--
  }
}

function leave(running: Download): void {
  if (--running.waiting > 0) return
  running.forget()
  running.stop.abort(new Error('nobody waits for this image any more'))
}

const ZEROS = Buffer.alloc(1 << 20)

/** Writes a stream into a new file, leaving holes where it is zero, and compares the checksum. Gives its length. */
async function receive(path: string, bytes: AsyncIterable<Uint8Array>, image: ImageRef, signal: AbortSignal): Promise<number> {
  const hash = image.checksum && createHash(image.checksum.algorithm)
  const file = await open(path, 'wx', 0o644)
  let at = 0
  try {
    signal.throwIfAborted()
    for await (const chunk of bytes) {
      signal.throwIfAborted()
      hash?.update(chunk)
      const zero = chunk.length <= ZEROS.length && Buffer.compare(chunk, ZEROS.subarray(0, chunk.length)) === 0
      for (let done = 0; !zero && done < chunk.length; )
        done += (await file.write(chunk, done, chunk.length - done, at + done)).bytesWritten
      at += chunk.length
    }
    await file.truncate(at)
  } finally {
    await file.close()
  }
  const sum = hash?.digest('hex')
  if (sum !== undefined && sum !== image.checksum?.hex.toLowerCase()) {
    const { algorithm, hex } = image.checksum as NonNullable<ImageRef['checksum']>
    throw badRequest(`Image ${image.id} arrived damaged: its ${algorithm} is ${sum}, not ${hex}.`, { type: 'ImageUnacceptable' })
  }
  return at
}

/** Gives a finished file its final name, read-only, on disk. */
async function settle(from: string, to: string): Promise<void> {
  const file = await open(from, 'r+')
  try {
    await file.sync()
  } finally {
    await file.close()
  }
  await chmod(from, 0o444)
  await rename(from, to)
}

async function fits(folder: string, bytes: number): Promise<void> {
  const disk = await statfs(folder)
  const free = disk.bavail * disk.bsize
  if (bytes > free)
    throw unavailable(`No space for an image of ${bytes} bytes: ${free} are free in ${folder}.`, { type: 'NoSpace' })
}

const noSpace = (folder: string, image: ImageRef, cause: unknown) =>
  unavailable(`No space left in ${folder} for image ${image.id}.`, { type: 'NoSpace', cause })

const namesIn = (folder: string): Promise<string[]> =>
  readdir(folder).catch((error: NodeJS.ErrnoException) => {
    if (error.code === 'ENOENT') return []
    throw error
  })

function unlessUnprivileged(error: NodeJS.ErrnoException): void {
  if (error.code !== 'EPERM') throw error
}
