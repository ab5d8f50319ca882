/**
 * A device's journal: one sync makes many small files durable.
 *
 * A sync of the disk costs milliseconds, and a file put in place takes two or more (itself, its folder, new folders above). So small files
 * are first written here, all that wait together with one sync, and then put in place without any: they are acknowledged, since after a loss
 * of power `recover` puts them in place again. Once in a while (`AGE`, `LONG`) the whole file system is synced and the journal begins anew.
 *
 *     DEVICE/journal/N.log      records; replayed in the order of N
 *     DEVICE/journal/spare      a file to write over: what needs no new blocks costs less to sync
 *
 *     record: "NJR1" · id of the segment (8) · bytes of the path (u32) · of the file (u32) · CRC-32 of both · CRC-32 of these 24 · path · file
 *
 * A record without bytes says that its path was refused after all: what was recorded for it before does not count.
 * Records of another segment, which a file held before, and a record that was cut off end the reading: what comes behind was never acknowledged.
 * Everything here is synchronous and runs in a thread of the device's own (`worker.ts`).
 */
import { execFile } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import {
  closeSync,
  existsSync,
  fdatasyncSync,
  fstatSync,
  fsyncSync,
  ftruncateSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  renameSync,
  statSync,
  unlinkSync,
  writevSync,
} from 'node:fs'
import { dirname, join } from 'node:path'
import { promisify } from 'node:util'
import { crc32 } from 'node:zlib'
import { failedWith } from './layout.ts'

const MAGIC = Buffer.from('NJR1')
const HEAD = 28
/** Beyond its first so many bytes a segment grows by many at once: a sync costs less where the file does not grow. */
const GROWS_AT = 128 * 1024
const AHEAD = Buffer.alloc(1024 * 1024)
/** A segment is closed when it is this long, or its first record this old. */
const LONG = 16 * 1024 * 1024
const AGE_MS = 30_000
/** Segments that may wait for their sync before writes wait too. */
const MOST_WAITING = 8

export interface JournalRecord {
  /** Below the device's folder. */
  path: string
  bytes: Uint8Array
}

interface Segment {
  file: string
  fd: number
  inode: number
  id: Buffer
  /** Where the next record goes. */
  end: number
  /** Bytes of the file. */
  size: number
}

/** The head of a record. */
function head(id: Buffer, path: Buffer, bytes: Uint8Array): Buffer {
  const out = Buffer.allocUnsafe(HEAD)
  MAGIC.copy(out, 0)
  id.copy(out, 4)
  out.writeUInt32BE(path.length, 12)
  out.writeUInt32BE(bytes.length, 16)
  out.writeUInt32BE(crc32(bytes, crc32(path)), 20)
  out.writeUInt32BE(crc32(out.subarray(0, 24)), 24)
  return out
}

/** The records of a segment, up to the first that is not whole. */
export function* records(log: Buffer): Generator<JournalRecord> {
  let at = 0
  while (at + HEAD <= log.length) {
    const h = log.subarray(at, at + HEAD)
    if (!h.subarray(0, 4).equals(MAGIC) || crc32(h.subarray(0, 24)) !== h.readUInt32BE(24)) return
    if (!h.subarray(4, 12).equals(log.subarray(4, 12))) return
    const path = log.subarray(at + HEAD, at + HEAD + h.readUInt32BE(12))
    const bytes = log.subarray(at + HEAD + path.length, at + HEAD + path.length + h.readUInt32BE(16))
    if (path.length + bytes.length < h.readUInt32BE(12) + h.readUInt32BE(16)) return
    if (crc32(bytes, crc32(path)) !== h.readUInt32BE(20)) return
    yield { path: path.toString(), bytes }
    at += HEAD + path.length + bytes.length
  }
}

/** Makes a folder's entries durable. */
export function syncFolder(path: string): void {
  const fd = openSync(path, 'r')
  try {
    fsyncSync(fd)
  } finally {
    closeSync(fd)
  }
}

export interface Journal {
  /** Makes the records durable. Throws what the device says; none of them counts then. */
  append(list: JournalRecord[]): void
  /** Makes it durable that these were refused, though `append` took them. What the device says to that goes to `report`. */
  revoke(paths: string[]): void
  /** What must be waited for before the next `append`; null: nothing. */
  room(): Promise<void> | null
  /** Closes the segment that is written to; resolves when all that it held is safe without it. */
  settle(): Promise<void>
  /** Takes over segments that were replayed: they go when what is in place is safe. */
  adopt(names: string[]): void
}

/** The journal of a device's folder; `report` hears of a sync that failed, `safe` makes all that is in place safe. */
export function openJournal(device: string, report: (error: unknown) => void, safe = makeSafe): Journal {
  const folder = join(device, 'journal')
  let active: Segment | null = null
  let timer: NodeJS.Timeout | undefined
  const waiting: Promise<void>[] = []

  /** Segments whose sync failed: with the next one it is tried again. */
  let stuck: string[] = []

  const shut = (): void => {
    clearTimeout(timer)
    if (active) closeSync(active.fd)
    active = null
  }

  /** The segment to write to. A new one when there is none, or when its disk is not the one under this path any more. */
  const segment = (): Segment => {
    if (active && statSync(active.file, { throwIfNoEntry: false })?.ino === active.inode) return active
    shut()
    active = begin(folder)
    timer = setTimeout(() => void settle().catch(report), AGE_MS).unref()
    return active
  }

  const settle = async (): Promise<void> => {
    if (active) {
      const { file } = active
      shut()
      leave([file])
    }
    await Promise.all(waiting)
  }

  /** Lets go of segments once the file system was synced. */
  const leave = (own: string[]): void => {
    const files = [...stuck, ...own]
    stuck = []
    const done = safe(device, files).then(() => {
      for (const file of files) retire(folder, file)
    })
    const kept = done
      .catch(error => {
        stuck.push(...files)
        report(error)
      })
      .then(() => void waiting.splice(waiting.indexOf(kept), 1))
    waiting.push(kept)
  }

  const write = (into: Segment, list: JournalRecord[]): void => {
    const pieces: Uint8Array[] = []
    for (const one of list) {
      const path = Buffer.from(one.path)
      pieces.push(head(into.id, path, one.bytes), path, one.bytes)
    }
    const length = pieces.reduce((sum, piece) => sum + piece.length, 0)
    if (into.end > GROWS_AT && into.end + length > into.size) pieces.push(AHEAD)
    into.size = Math.max(into.size, writeAll(into.fd, pieces, into.end))
    fdatasyncSync(into.fd)
    into.end += length
    if (into.end > LONG) void settle().catch(report)
  }

  /** What a write that failed has left is cut off. The segment is not written to again: what the disk holds of it is not known. */
  const takeBack = (from: Segment, list: JournalRecord[]): void => {
    let isGone = false
    try {
      ftruncateSync(from.fd, from.end)
      fdatasyncSync(from.fd)
      isGone = true
    } catch (error) {
      report(error)
    }
    shut()
    leave([from.file])
    if (!isGone) revoke(list.map(one => one.path))
  }

  const revoke = (paths: string[]): void => {
    try {
      write(
        segment(),
        paths.map(path => ({ path, bytes: NONE })),
      )
    } catch (error) {
      shut()
      report(error)
    }
  }

  return {
    append(list) {
      const into = segment()
      try {
        write(into, list)
      } catch (error) {
        takeBack(into, list)
        throw error
      }
    },
    revoke,
    room: () => (waiting.length < MOST_WAITING ? null : Promise.race(waiting)),
    settle,
    adopt: names => leave(names.map(name => join(folder, name))),
  }
}

const NONE = new Uint8Array(0)

const numberOf = (name: string): number => Number(/^(\d+)\.log$/.exec(name)?.[1] ?? 0)

/** The segments that are there, oldest first. */
export const segments = (folder: string): string[] =>
  readdirSync(folder)
    .filter(name => numberOf(name))
    .sort((a, b) => numberOf(a) - numberOf(b))

function begin(folder: string): Segment {
  try {
    mkdirSync(folder)
    syncFolder(join(folder, '..'))
  } catch (error) {
    if (!failedWith(error, 'EEXIST')) throw error
  }
  const file = join(folder, `${numberOf(segments(folder).at(-1) ?? '') + 1}.log`)
  let fd: number
  try {
    renameSync(join(folder, 'spare'), file)
    fd = openSync(file, 'r+')
  } catch (error) {
    if (!failedWith(error, 'ENOENT')) throw error
    fd = openSync(file, 'wx')
  }
  try {
    syncFolder(folder)
    const { ino, size } = fstatSync(fd)
    return { file, fd, inode: ino, id: randomBytes(8), end: 0, size }
  } catch (error) {
    closeSync(fd)
    throw error
  }
}

/** All it held is safe: keeps it as the spare, or removes it when there is one. */
function retire(folder: string, file: string): void {
  try {
    if (statSync(join(folder, 'spare'), { throwIfNoEntry: false })) unlinkSync(file)
    else renameSync(file, join(folder, 'spare'))
    syncFolder(folder)
  } catch (error) {
    if (!failedWith(error, 'ENOENT')) throw error // the device is gone, and the journal with it
  }
}

/** Makes safe what was put in place: `syncfs` of the file system, for which Node has no call, or else a sync of every file and folder. */
async function makeSafe(device: string, logs: string[]): Promise<void> {
  try {
    await promisify(execFile)('sync', ['-f', device])
  } catch {
    // no such command, or one without the option
    const paths = new Set<string>()
    for (const log of logs) {
      if (!existsSync(log)) continue // the device is gone
      for (const { path } of records(readFileSync(log)))
        for (let at = path; at !== '.'; at = dirname(at)) paths.add(join(device, at))
    }
    for (const path of [...paths, device]) syncIfThere(path)
  }
}

function syncIfThere(path: string): void {
  try {
    syncFolder(path)
  } catch (error) {
    if (!failedWith(error, 'ENOENT')) throw error // replaced by something newer meanwhile, which has its own record
  }
}

/** Answers where it ended. */
function writeAll(fd: number, pieces: Uint8Array[], position: number): number {
  let [left, at] = [pieces, position]
  while (left.length) {
    let written = writevSync(fd, left.slice(0, 1000), at)
    at += written
    let whole = 0
    while (whole < left.length && written >= left[whole].length) written -= left[whole++].length
    left = left.slice(whole)
    if (written) left = [left[0].subarray(written), ...left.slice(1)]
  }
  return at
}
