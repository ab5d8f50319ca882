// Control groups of both kinds. Version 1 has a tree a controller, mounted anywhere (cpu and cpuacct often together); version 2 has one
// tree. A hybrid host has both, and a controller lives in only one of them: the trees are read from the kernel's own list, per controller.
//
// A group here is one name (`nubo-1a2b/guest-id`) made in each tree that limits something. Limits are written again at each `ensure`, so a
// crash in between is mended by the next. Facts: Documentation/admin-guide/cgroup-v1 and cgroup-v2.rst of Linux.
import { mkdir, readdir, readFile, rmdir, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'

export type Controller = 'memory' | 'cpu' | 'pids'
const CONTROLLERS: Controller[] = ['memory', 'cpu', 'pids']

/** Where each controller's tree is mounted. */
export interface Cgroups {
  v1: Partial<Record<Controller, string>>
  /** The unified tree, if it is mounted, and which of our controllers are in it. */
  v2?: { root: string; controllers: Controller[] }
}

export interface Limits {
  memoryBytes?: number
  /** Whole group: `quotaUs` microseconds of processor time in each `periodUs`. */
  cpuQuota?: { quotaUs: number; periodUs: number }
  /** 2…262144, as version 1 counts; 1024 is an ordinary share. */
  cpuShares?: number
  pids?: number
}

/** Reads /proc/self/mountinfo and the unified tree's cgroup.controllers. Pure. */
export function parseMounts(mountinfo: string, unifiedControllers: (root: string) => string | undefined): Cgroups {
  const found: Cgroups = { v1: {} }
  for (const line of mountinfo.split('\n')) {
    // … mount-point options optional* - type source super-options
    const [left, right] = line.split(' - ')
    if (!left || !right) continue
    const point = left.split(' ')[4]?.replaceAll('\\040', ' ')
    const [type, , options = ''] = right.split(' ')
    if (!point) continue
    if (type === 'cgroup') for (const c of CONTROLLERS) if (options.split(',').includes(c)) found.v1[c] ??= point
    if (type === 'cgroup2' && !found.v2) {
      const names = (unifiedControllers(point) ?? '').split(/\s+/)
      found.v2 = { root: point, controllers: CONTROLLERS.filter(c => names.includes(c)) }
    }
  }
  return found
}

/** The trees of this host. */
export async function cgroupsFind(): Promise<Cgroups> {
  const mountinfo = await readFile('/proc/self/mountinfo', 'utf8')
  const roots = new Map<string, string>()
  for (const line of mountinfo.split('\n')) {
    const point = line.includes(' - cgroup2 ') ? line.split(' ')[4] : undefined
    if (point) roots.set(point, await readFile(join(point, 'cgroup.controllers'), 'utf8').catch(() => ''))
  }
  return parseMounts(mountinfo, root => roots.get(root))
}

/** Version 2's weight (1…10000) that means the same as version 1's shares (2…262144): the mapping that systemd and runc use. */
export const weightOf = (shares: number): number => 1 + Math.floor(((Math.min(262144, Math.max(2, shares)) - 2) * 9999) / 262142)

/** The files to write for `limits`, in order, per tree: pure, so that both versions can be tested anywhere. */
export function limitFiles(groups: Cgroups, limits: Limits): { controller: Controller; file: string; value: string }[] {
  const files: { controller: Controller; file: string; value: string }[] = []
  const put = (controller: Controller, v1: [string, string][], v2: [string, string][]) => {
    const names = groups.v1[controller] ? v1 : groups.v2?.controllers.includes(controller) ? v2 : []
    for (const [file, value] of names) files.push({ controller, file, value })
  }
  const bytes = limits.memoryBytes === undefined ? '-1' : String(limits.memoryBytes)
  put('memory', [['memory.limit_in_bytes', bytes]], [['memory.max', limits.memoryBytes === undefined ? 'max' : bytes]])
  const q = limits.cpuQuota
  put(
    'cpu',
    [
      // A quota that does not fit the old period is refused: lift it, set the period, set it.
      ['cpu.cfs_quota_us', '-1'],
      ...(q
        ? ([
            ['cpu.cfs_period_us', String(q.periodUs)],
            ['cpu.cfs_quota_us', String(q.quotaUs)],
          ] as [string, string][])
        : []),
      ['cpu.shares', String(limits.cpuShares ?? 1024)],
    ],
    [
      ['cpu.max', q ? `${q.quotaUs} ${q.periodUs}` : 'max'],
      ['cpu.weight', String(limits.cpuShares ? weightOf(limits.cpuShares) : 100)],
    ],
  )
  put('pids', [['pids.max', String(limits.pids ?? 'max')]], [['pids.max', String(limits.pids ?? 'max')]])
  return files
}

/** The folders of group `name`, one a tree. */
export function groupFolders(groups: Cgroups, name: string): string[] {
  const trees = new Set(Object.values(groups.v1))
  if (groups.v2 && groups.v2.controllers.length > 0) trees.add(groups.v2.root)
  return [...trees].map(root => join(root, name))
}

const folderOf = (groups: Cgroups, controller: Controller, name: string): string =>
  join(groups.v1[controller] ?? groups.v2?.root ?? '', name)

/**
 * Makes group `name` and sets its limits. Gives the files into which a process writes 0 to enter it.
 * @throws what the kernel says, with the file, when a limit is refused.
 */
export async function groupEnsure(groups: Cgroups, name: string, limits: Limits): Promise<string[]> {
  if (groups.v2 && groups.v2.controllers.length > 0) await enableControllers(groups.v2.root, groups.v2.controllers, name)
  const folders = groupFolders(groups, name)
  for (const folder of folders) await mkdir(folder, { recursive: true })
  for (const { controller, file, value } of limitFiles(groups, limits)) {
    const path = join(folderOf(groups, controller, name), file)
    try {
      await writeFile(path, value)
    } catch (error) {
      throw new Error(`cgroup limit ${path} = ${value}: ${(error as Error).message}`, { cause: error })
    }
  }
  return folders.map(folder => join(folder, 'cgroup.procs'))
}

/** Version 2: a controller acts in a group when each group above it hands it down. */
async function enableControllers(root: string, controllers: Controller[], name: string): Promise<void> {
  let folder = root
  const words = controllers.map(c => `+${c}`).join(' ')
  for (const part of name.split('/')) {
    await mkdir(folder, { recursive: true })
    const file = join(folder, 'cgroup.subtree_control')
    const now = (await readFile(file, 'utf8')).split(/\s+/)
    if (!controllers.every(c => now.includes(c))) {
      try {
        await writeFile(file, words)
      } catch (error) {
        // EBUSY: processes live in this very group (a container's root), and version 2 allows no children with controllers then.
        throw new Error(`cgroup controllers ${words} cannot be enabled in ${folder}: ${(error as Error).message}`, {
          cause: error,
        })
      }
    }
    folder = join(folder, part)
  }
}

/** The processes in group `name`, over all trees. */
export async function groupPids(groups: Cgroups, name: string): Promise<number[]> {
  const pids = new Set<number>()
  for (const folder of groupFolders(groups, name)) {
    const text = await readFile(join(folder, 'cgroup.procs'), 'utf8').catch(absent)
    for (const word of (text ?? '').split('\n')) if (word) pids.add(Number(word))
  }
  return [...pids]
}

/** How many processes of group `name` the kernel killed for reaching its memory limit; 0 where nobody counts. */
export async function groupOomKills(groups: Cgroups, name: string): Promise<number> {
  const file = groups.v1.memory
    ? join(groups.v1.memory, name, 'memory.oom_control')
    : join(groups.v2?.root ?? '', name, 'memory.events')
  const text = await readFile(file, 'utf8').catch(absent)
  return Number(/^oom_kill (\d+)/m.exec(text ?? '')?.[1] ?? 0)
}

/**
 * Removes group `name` from all trees; fine when it is not there. A process that was killed is in it until its last thread has ended, which the
 * kernel tells nobody: waits so many milliseconds for it. @throws EBUSY when processes are still in it then.
 */
export async function groupRemove(groups: Cgroups, name: string, patienceMs = 10_000): Promise<void> {
  const until = performance.now() + patienceMs
  for (const folder of groupFolders(groups, name)) {
    for (;;) {
      try {
        await rmdir(folder).catch(absent)
        break
      } catch (error) {
        if ((error as NodeJS.ErrnoException).code !== 'EBUSY' || performance.now() > until) throw error
        await delay(10)
      }
    }
  }
}

/** The groups below `parent`. */
export async function groupNames(groups: Cgroups, parent: string): Promise<string[]> {
  const names = new Set<string>()
  for (const folder of groupFolders(groups, parent)) {
    for (const entry of (await readdir(folder, { withFileTypes: true }).catch(absent)) ?? [])
      if (entry.isDirectory()) names.add(entry.name)
  }
  return [...names]
}

function absent(error: NodeJS.ErrnoException): undefined {
  if (error.code === 'ENOENT') return undefined
  throw error
}
