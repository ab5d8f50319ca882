/** What a device's thread does: small files put in place through the journal, small objects read. All synchronous. */
import {
  closeSync,
  existsSync,
  fstatSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  readSync,
  renameSync,
  rmSync,
  statSync,
  writeSync,
} from 'node:fs'
import { basename, dirname, join } from 'node:path'
import { sortOut } from './found.ts'
import { type Journal, type JournalRecord, records, segments } from './journal.ts'
import { failedWith, temporaryName } from './layout.ts'

/** A file to put in place. Paths are below the device's folder. */
export interface SmallFile {
  /** Its folder. */
  dir: string
  name: string
  /** Where it is written first. */
  tmp: string
  /** All of its bytes, in a buffer of their own: it goes over to the thread. */
  bytes: Uint8Array
  /** Only into a folder that is new or empty. */
  first: boolean
  /** The log of changes to append `changed` to, if it is there. */
  log: string
  changed: string
}

/** `taken`: something is in the folder. `beside`: stored, beside what it may make obsolete. */
export type Stored = 'stored' | 'beside' | 'taken'

/** Puts files in place; durable when it returns. An outcome for each: an error is its own, those of the journal are everybody's. */
export function storeAll(device: string, journal: Journal, files: SmallFile[]): (Stored | Error)[] {
  const out: (Stored | Error)[] = []
  const ready: { file: SmallFile; at: number; temporary: string }[] = []
  for (const file of files) {
    try {
      const temporary = `${device}/${file.tmp}/${temporaryName()}`
      const was = enter(device, file.dir)
      if (was === 'taken' && file.first) out.push('taken')
      else {
        write(device, file.tmp, temporary, file.bytes)
        ready.push({ file, at: out.length, temporary })
        out.push(was === 'taken' ? 'beside' : 'stored')
      }
    } catch (error) {
      out.push(error as Error)
    }
  }
  if (ready.length === 0) return out
  let refused: Error | null = null
  try {
    journal.append(ready.map(({ file }) => ({ path: `${file.dir}/${file.name}`, bytes: file.bytes })))
  } catch (error) {
    refused = error as Error
  }
  const revoked: string[] = []
  for (const { file, at, temporary } of ready) {
    try {
      if (refused) throw refused
      putInPlace(device, temporary, file)
    } catch (error) {
      rmSync(temporary, { force: true })
      out[at] = error as Error
      if (!refused) revoked.push(`${file.dir}/${file.name}`)
    }
  }
  if (revoked.length) journal.revoke(revoked)
  return out
}

/** All of it or nothing: a file whose change cannot be noted is taken away again, or no replicator would look at it. */
function putInPlace(device: string, temporary: string, file: SmallFile): void {
  publish(device, temporary, file)
  try {
    note(`${device}/${file.log}`, file.changed)
  } catch (error) {
    rmSync(`${device}/${file.dir}/${file.name}`, { force: true })
    throw error
  }
}

/** Makes a folder below the device, with its parents but never the device's own: ENOENT when that is gone. */
function enter(device: string, dir: string): 'made' | 'empty' | 'taken' {
  const path = `${device}/${dir}`
  if (dir.includes('/') && !existsSync(dirname(path))) enter(device, dirname(dir)) // asked first: a refusal of mkdir costs more
  try {
    mkdirSync(path)
    return 'made'
  } catch (error) {
    if (!failedWith(error, 'EEXIST')) throw error
    return readdirSync(path).length ? 'taken' : 'empty'
  }
}

function write(device: string, tmp: string, path: string, bytes: Uint8Array): void {
  let fd: number
  try {
    fd = openSync(path, 'wx')
  } catch (error) {
    if (!failedWith(error, 'ENOENT')) throw error
    enter(device, tmp)
    fd = openSync(path, 'wx')
  }
  try {
    for (let at = 0; at < bytes.length; ) at += writeSync(fd, bytes, at)
  } catch (error) {
    rmSync(path, { force: true })
    throw error
  } finally {
    closeSync(fd)
  }
}

function publish(device: string, temporary: string, file: SmallFile): void {
  const path = `${device}/${file.dir}/${file.name}`
  try {
    renameSync(temporary, path)
  } catch (error) {
    if (!failedWith(error, 'ENOENT')) throw error
    enter(device, file.dir) // a cleaner took the empty folder away in between
    renameSync(temporary, path)
  }
}

/** Appends a line to a log of changes. Nothing when the partition was never hashed. */
function note(log: string, changed: string): void {
  if (!statSync(log, { throwIfNoEntry: false })) return
  let fd: number
  try {
    fd = openSync(log, 1 /* O_WRONLY */ | 0o2000 /* O_APPEND: never makes it */)
  } catch (error) {
    if (failedWith(error, 'ENOENT')) return
    throw error
  }
  try {
    writeSync(fd, `${changed}\n`)
  } finally {
    closeSync(fd)
  }
}

/** An object's folder, and the bytes of what counts in it where they are few. */
export interface Seen {
  names: string[]
  /** The whole `.data` file; null when it is long. */
  data: Uint8Array | null
  meta: Uint8Array | null
}

export type LookOptions = NonNullable<Parameters<typeof sortOut>[1]>

/** Lists a folder and reads what counts in it, if it is at most `most` bytes. */
export function readSmall(dir: string, options: LookOptions, most: number): Seen {
  const names = listed(dir, readdirSync)
  const found = sortOut(names, options)
  const data = found.data && readUpTo(join(dir, found.data.name), most)
  const meta = data && found.meta && readUpTo(join(dir, found.meta.name), most)
  return { names, data: found.meta && !meta ? null : data, meta }
}

/** Null when it is longer, or gone by now: whoever asks then looks again. */
function readUpTo(path: string, most: number): Uint8Array | null {
  let fd: number
  try {
    fd = openSync(path, 'r')
  } catch (error) {
    if (failedWith(error, 'ENOENT')) return null
    throw error
  }
  try {
    const { size } = fstatSync(fd)
    if (size > most) return null
    const bytes = Buffer.allocUnsafeSlow(size)
    let at = 0
    for (let n = 1; at < size && n > 0; at += n) n = readSync(fd, bytes, at, size - at, at)
    return bytes.subarray(0, at)
  } finally {
    closeSync(fd)
  }
}

/** Puts in place what a loss of power took from there. Answers how many files that were. Nothing else may use the device meanwhile. */
export function recover(device: string, journal: Journal): number {
  const folder = join(device, 'journal')
  const names = listed(folder, segments)
  let restored = 0
  const decided = new Set<string>() // newest first: what is said of a path last counts
  for (const name of names.toReversed()) {
    for (const record of [...records(readFileSync(join(folder, name)))].reverse()) {
      if (decided.has(record.path)) continue
      decided.add(record.path)
      if (record.bytes.length && restore(device, record)) restored += 1
    }
  }
  if (names.length) journal.adopt(names)
  return restored
}

/** Nothing when the folder is not there. */
function listed(folder: string, list: (folder: string) => string[]): string[] {
  try {
    return list(folder)
  } catch (error) {
    if (failedWith(error, 'ENOENT', 'ENOTDIR')) return []
    throw error
  }
}

/** Whether the file had to be written again: it counts, and is not there as it was. */
function restore(device: string, { path, bytes }: JournalRecord): boolean {
  const [dir, name] = [dirname(path), basename(path)]
  const names = listed(join(device, dir), readdirSync)
  if (sortOut([...new Set([...names, name])], { notDurable: true }).obsolete.includes(name)) return false
  if (names.includes(name) && readFileSync(join(device, path)).equals(bytes)) return false
  const temporary = join(device, 'tmp', temporaryName())
  enter(device, dir)
  write(device, 'tmp', temporary, bytes)
  renameSync(temporary, join(device, path))
  return true
}
