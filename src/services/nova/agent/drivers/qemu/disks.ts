// The files behind a guest's disks. Each is made aside and renamed, so a file under its name is whole: making them twice, or after a crash,
// only makes what is missing. They belong to the guest's user; the folder does not.
import { createHash } from 'node:crypto'
import { chmod, chown, open, readdir, rename, rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import type { BlockSource } from '#host/qemu/argv.ts'
import { configDriveMake } from '#host/qemu/configdrive.ts'
import { imgConvert, imgInfo, imgResize } from '#host/qemu/img.ts'
import { withPackage } from '#host/qemu/probe.ts'
import { qcow2Empty } from '#host/qemu/qcow2.ts'
import { run } from '#host/run.ts'
import { badRequest, unavailable } from '#kit/fault.ts'
import type { ConfigDrive, Disk } from '../../../spec.ts'
import type { Options } from '../../driver.ts'
import type { ImageCache } from './images.ts'

const GIB = 2 ** 30

/** Whose and where the files are. */
export interface DiskPlace {
  folder: string
  uid: number
  images: ImageCache
}

/** The file of a disk of the guest's own; volumes have none here. Pure. */
export function diskFile(folder: string, disk: Pick<Disk, 'name' | 'kind'>): string {
  if (!/^[\w-]{1,64}$/.test(disk.name)) throw badRequest(`'${disk.name}' is not the name of a disk.`)
  return join(folder, `${disk.name}.${disk.kind === 'image' ? 'qcow2' : 'raw'}`)
}

/** Makes a disk's file if it is missing, and says how QEMU reaches it. Faults: badRequest (image too large), unavailable (no space). */
export async function diskMake(place: DiskPlace, disk: Disk, options: Options = {}): Promise<BlockSource> {
  if (disk.kind === 'volume') return disk.source
  if (disk.kind === 'image' && disk.device === 'cdrom') {
    const base = await place.images.get(disk.image, options)
    return { type: 'file', path: base.path, format: base.format }
  }
  const path = diskFile(place.folder, disk)
  const format = disk.kind === 'image' ? 'qcow2' : 'raw'
  if (!(await exists(path))) await whole(place, path, aside => fill(place, disk, aside, options))
  return { type: 'file', path, format }
}

async function fill(place: DiskPlace, disk: Exclude<Disk, { kind: 'volume' }>, path: string, { signal }: Options): Promise<void> {
  if (disk.content) {
    const { path: from, format } = await place.images.get(disk.content, { signal })
    // As the guest's user: these bytes were written by a guest.
    await emptyFile(place, path)
    const to = { path, format: disk.kind === 'image' ? ('qcow2' as const) : ('raw' as const) }
    await withPackage(imgConvert({ path: from, format }, to, { uid: place.uid, signal }))
    return
  }
  switch (disk.kind) {
    case 'image': {
      const base = await place.images.get(disk.image, { signal })
      const wanted = disk.sizeGb * GIB
      if (disk.sizeGb > 0 && base.virtualSize > wanted)
        throw badRequest(
          `Flavor's disk is too small for requested image. Flavor disk is ${wanted} bytes, image is ${base.virtualSize} bytes.`,
          { type: 'FlavorDiskSmallerThanImage' },
        )
      await writeFile(path, qcow2Empty(wanted || base.virtualSize, base), { flag: 'wx', mode: 0o600, signal })
      return
    }
    case 'blank':
      await sparse(path, disk.sizeGb * GIB)
      await format(path, disk.filesystem ?? 'none', disk.label ?? disk.name, signal)
      return
    case 'swap':
      await sparse(path, disk.sizeMb * 2 ** 20)
      await withPackage(run(['mkswap', '-q', path], { signal }))
  }
}

/** Labels as long as the file system takes. */
async function format(
  path: string,
  filesystem: NonNullable<Extract<Disk, { kind: 'blank' }>['filesystem']>,
  label: string,
  signal?: AbortSignal,
) {
  const timeoutMs = 120_000
  const tool: Record<typeof filesystem, string[]> = {
    none: [],
    ext3: ['mkfs.ext3', '-q', '-F', '-L', label.slice(0, 16), path],
    ext4: ['mkfs.ext4', '-q', '-F', '-L', label.slice(0, 16), path],
    xfs: ['mkfs.xfs', '-q', '-f', '-L', label.slice(0, 12), path],
    vfat: ['mkfs.vfat', '-n', label.slice(0, 11).toUpperCase(), path],
    ntfs: ['mkfs.ntfs', '-q', '-F', '--fast', '--label', label.slice(0, 32), path],
  }
  if (tool[filesystem].length > 0) await withPackage(run(tool[filesystem], { signal, timeoutMs }))
}

/**
 * Makes the config drive if it is missing; its name says what is in it, so other content is another file. Gives its path.
 * Faults: badRequest for paths that leave the drive.
 */
export async function configDriveFile(place: DiskPlace, drive: ConfigDrive): Promise<string> {
  const hash = createHash('sha256')
    .update(JSON.stringify([drive.format, drive.files]))
    .digest('hex')
    .slice(0, 16)
  const path = join(place.folder, `config-${hash}.img`)
  if (await exists(path)) return path
  const files = Object.fromEntries(Object.entries(drive.files).map(([name, text]) => [name, Buffer.from(text, 'base64')]))
  await whole(place, path, async aside => {
    try {
      await configDriveMake(aside, { format: drive.format, files, aside: place.folder })
    } catch (error) {
      if (error instanceof TypeError) throw badRequest(error.message)
      throw error
    }
  })
  for (const name of await readdir(place.folder))
    if (name.startsWith('config-') && join(place.folder, name) !== path) await rm(join(place.folder, name), { force: true })
  return path
}

/** The guest's own copy of the UEFI variables. */
export async function varsFile(place: DiskPlace, path: string, template: string): Promise<void> {
  if (await exists(path)) return
  await whole(place, path, async aside => {
    await run(['cp', '--', template, aside])
  })
}

/** The file that QEMU appends the serial port's output to; made by us, since QEMU's user makes no files in the guest's folder. */
export async function consoleFile(place: DiskPlace, path: string): Promise<void> {
  const file = await open(path, 'a', 0o600)
  try {
    await file.chown(place.uid, place.uid)
  } finally {
    await file.close()
  }
}

/** An empty file of the guest's user, for QEMU or qemu-img to write into. */
export async function emptyFile(place: Pick<DiskPlace, 'uid'>, path: string): Promise<void> {
  const file = await open(path, 'w', 0o600)
  try {
    await file.chown(place.uid, place.uid)
  } finally {
    await file.close()
  }
}

/** Grows a disk's file while no process has it open. As the guest's user: a guest that broke out may have rewritten its header. */
export async function diskGrow(place: DiskPlace, disk: Disk, bytes: number): Promise<void> {
  const path = diskFile(place.folder, disk)
  const format = disk.kind === 'image' ? 'qcow2' : 'raw'
  const info = await withPackage(imgInfo(path, format, { uid: place.uid }))
  if (info.virtualSize < bytes) await withPackage(imgResize(path, format, bytes, { uid: place.uid }))
}

/** Makes a file under another name and gives it its own, its owner and mode when it is whole. */
async function whole(place: Pick<DiskPlace, 'uid'>, path: string, make: (aside: string) => Promise<void>): Promise<void> {
  const aside = `${path}.new`
  await rm(aside, { force: true })
  try {
    await make(aside)
    await chown(aside, place.uid, place.uid)
    await chmod(aside, 0o600)
    await rename(aside, path)
  } catch (error) {
    await rm(aside, { force: true })
    const said = error instanceof Error ? error.message : String(error)
    if ((error as NodeJS.ErrnoException).code === 'ENOSPC' || /No space left on device/.test(said))
      throw unavailable(`No space left on this host for ${path}: ${said}`, { type: 'NoSpace', cause: error })
    if (/is not installed on this host/.test(said)) throw unavailable(said, { cause: error })
    throw error
  }
}

async function sparse(path: string, bytes: number): Promise<void> {
  const file = await open(path, 'wx', 0o600)
  try {
    await file.truncate(bytes)
  } finally {
    await file.close()
  }
}

async function exists(path: string): Promise<boolean> {
  try {
    await (await open(path, 'r')).close()
    return true
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return false
    throw error
  }
}
