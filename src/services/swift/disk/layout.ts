/** Folder names below a device, as Swift's: `objects[-P]/PART/SUFFIX/HASH`, `tmp[-P]`, `async_pending[-P]`, `quarantined`. */
import { mkdir, open, rename, rm, statfs } from 'node:fs/promises'
import { join } from 'node:path'
import { threadId } from 'node:worker_threads'
import { now } from '../timestamp.ts'

export interface Disk {
  /** The folder that holds the devices (`/srv/node`). */
  root: string
  device: string
}

export const deviceDir = (disk: Disk): string => `${disk.root}/${disk.device}`

/** `objects` for policy 0, `objects-1` for policy 1, and so for the other folders. */
export const withPolicy = (folder: string, policy: number): string => (policy ? `${folder}-${policy}` : folder)

export const partitionDir = (disk: Disk, policy: number, partition: string | number): string =>
  `${deviceDir(disk)}/${withPolicy('objects', policy)}/${partition}`

export const hashDir = (disk: Disk, policy: number, partition: string | number, hash: string): string =>
  `${partitionDir(disk, policy, partition)}/${hash.slice(-3)}/${hash}`

export const tmpDir = (disk: Disk, policy: number): string => `${deviceDir(disk)}/${withPolicy('tmp', policy)}`

/** True for an error of the operating system with one of these codes. */
export const failedWith = (error: unknown, ...codes: string[]): boolean =>
  error instanceof Error && 'code' in error && codes.includes(String(error.code))

/** What means that the device, not the request, is at fault: 507. */
export const isDeviceFault = (error: unknown): boolean =>
  failedWith(error, 'ENOSPC', 'EDQUOT', 'EIO', 'EROFS', 'ENODEV', 'EACCES', 'EUCLEAN')

/** Makes the entries of a folder durable. */
export async function syncDir(path: string): Promise<void> {
  const handle = await open(path, 'r')
  try {
    await handle.sync()
  } finally {
    await handle.close()
  }
}

/**
 * Makes a folder on a device and its missing parents; answers the topmost one that was made, null when all were there. Never makes the
 * device's own folder: ENOENT when that is gone, or a lost disk would go on living on the file system under it.
 */
export async function makeDir(disk: Disk, path: string): Promise<string | null> {
  if (path.length <= deviceDir(disk).length)
    throw Object.assign(new Error(`device ${disk.device} is not there`), { code: 'ENOENT' })
  try {
    await mkdir(path)
    return path
  } catch (error) {
    if (failedWith(error, 'EEXIST')) return null
    if (!failedWith(error, 'ENOENT')) throw error
    const top = await makeDir(disk, join(path, '..'))
    await mkdir(path).catch(again => {
      if (!failedWith(again, 'EEXIST')) throw again
    })
    return top ?? path
  }
}

/** Syncs the parents of folders that `makeDir` made, the lowest first: `path` and what is above it down to the parent of `top`. */
export async function syncMade(path: string, top: string | null): Promise<void> {
  if (top === null) return
  let at = path
  while (at.length >= top.length) {
    at = join(at, '..')
    await syncDir(at)
  }
}

/**
 * Makes durable that a folder is there: all above it, up to the device. For folders that the journal's thread may have made, which syncs none
 * of them.
 */
export async function syncAbove(disk: Disk, path: string): Promise<void> {
  const above: string[] = []
  for (let at = join(path, '..'); at.length >= deviceDir(disk).length; at = join(at, '..')) above.push(at)
  await Promise.all(above.map(syncDir))
}

/** Puts a file of these bytes in place, durably: temporary file, datasync, rename, folder sync. */
export async function putFile(disk: Disk, path: string, bytes: Buffer | string): Promise<void> {
  const temporary = join(tmpDir(disk, 0), temporaryName())
  const dir = join(path, '..')
  const top = await makeDir(disk, dir)
  await makeDir(disk, tmpDir(disk, 0))
  const handle = await open(temporary, 'wx')
  try {
    await handle.writeFile(bytes)
    await handle.datasync()
  } catch (error) {
    await rm(temporary, { force: true })
    throw error
  } finally {
    await handle.close()
  }
  await rename(temporary, path)
  await syncDir(dir)
  await syncMade(dir, top)
}

let counter = 0
/** A name that no other process or thread and no earlier call uses. */
export function temporaryName(): string {
  counter += 1
  return `${now()}-${process.pid}-${threadId}-${counter}.tmp`
}

const free = new Map<string, { at: number; bytes: number; fraction: number }>()

/** True when writing `bytes` would leave less than the reserve (bytes, or a share of the file system when below 1). Looks at most once a second. */
export async function isFull(disk: Disk, reserve: number, bytes: number): Promise<boolean> {
  if (reserve <= 0) return false
  const dir = deviceDir(disk)
  let known = free.get(dir)
  if (!known || Date.now() - known.at > 1000) {
    const fs = await statfs(dir)
    known = { at: Date.now(), bytes: fs.bavail * fs.bsize, fraction: fs.bavail / fs.blocks }
    free.set(dir, known)
  }
  return reserve < 1 ? known.fraction < reserve : known.bytes - bytes < reserve
}

/** Moves a folder out of the way of everything that serves, keeping it for a human: `quarantined/KIND/NAME`. */
export async function quarantine(disk: Disk, kind: string, dir: string): Promise<string> {
  const name = dir.slice(dir.lastIndexOf('/') + 1)
  const target = join(deviceDir(disk), 'quarantined', kind, name)
  await makeDir(disk, join(target, '..'))
  try {
    await rename(dir, target)
    await syncDir(join(dir, '..'))
    return target
  } catch (error) {
    if (!failedWith(error, 'EEXIST', 'ENOTEMPTY')) throw error
    const other = `${target}-${temporaryName()}`
    await rename(dir, other)
    await syncDir(join(dir, '..'))
    return other
  }
}
