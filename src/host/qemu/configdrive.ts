// The config drive: a small disk labelled `config-2` from which a guest without a metadata service reads who it is.
import { mkdir, mkdtemp, readdir, rm, writeFile } from 'node:fs/promises'
import { dirname, join, normalize } from 'node:path'
import { run } from '../run.ts'
import { withPackage } from './probe.ts'

/** A path inside the drive: relative, without `..`. Pure. @throws TypeError. */
export function safePath(path: string): string {
  const plain = normalize(path)
  if (!path || path.startsWith('/') || plain === '..' || plain.startsWith('../') || path.includes('\0'))
    throw new TypeError(`not a path inside a config drive: ${JSON.stringify(path)}`)
  return plain
}

/**
 * Writes the drive's image to `path`, in whole; `aside` is a folder for what is needed on the way.
 * @throws RunError with the tool's words, Error naming the package when the tool is missing.
 */
export async function configDriveMake(
  path: string,
  options: { format: 'iso9660' | 'vfat'; files: Record<string, Uint8Array>; aside: string },
): Promise<void> {
  const { format, files, aside } = options
  const tree = await mkdtemp(join(aside, '.config-'))
  try {
    for (const [name, content] of Object.entries(files)) {
      const file = join(tree, safePath(name))
      await mkdir(dirname(file), { recursive: true })
      await writeFile(file, content)
    }
    if (format === 'iso9660') await withPackage(iso(path, tree))
    else await withPackage(vfat(path, tree, Object.values(files)))
  } finally {
    await rm(tree, { recursive: true, force: true })
  }
}

/** Rock Ridge and Joliet, so that long names survive for Linux and Windows; -r: readable by all, owned by root. */
async function iso(path: string, tree: string): Promise<void> {
  await run([
    'genisoimage',
    '-quiet',
    '-r',
    '-J',
    '-allow-lowercase',
    '-allow-multidot',
    '-l',
    '-V',
    'config-2',
    '-o',
    path,
    tree,
  ])
}

/** Sized by content, and at least the 64 MiB that guests know from OpenStack. mtools writes into the image without mounting it. */
async function vfat(path: string, tree: string, contents: Uint8Array[]): Promise<void> {
  const bytes = contents.reduce((sum, content) => sum + content.length + 64 * 1024, 0)
  const blocks = Math.max(64 * 1024, Math.ceil((bytes * 2) / 1024))
  await run(['mkfs.vfat', '-n', 'CONFIG-2', '-C', path, String(blocks)])
  const top = await readdir(tree)
  if (top.length > 0) await run(['mcopy', '-s', '-Q', '-i', path, ...top.map(name => join(tree, name)), '::'])
}
