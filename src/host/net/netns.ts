// Named network namespaces.
import { readdir, readFile, rm, stat, statfs } from 'node:fs/promises'
import { setTimeout } from 'node:timers/promises'
import { type RunPlace, run } from '../run.ts'
import { batch, linkList } from './ip.ts'

/** What statfs says of a namespace's file; anything else of that name is a file whose mount is gone. */
const NSFS = 0x6e736673
const FOLDER = '/run/netns'

/** Names of all network namespaces under /run/netns; empty where there never was one. Files without a namespace behind them are left out. */
export async function netnsList(): Promise<Set<string>> {
  const names = await readdir(FOLDER).catch(ignoreMissing)
  const alive = await Promise.all(names.map(isAlive))
  return new Set(names.filter((_, i) => alive[i]))
}

/** Names under /run/netns that have no namespace behind them: left over from one whose mount is gone. */
export async function netnsStale(): Promise<string[]> {
  const names = await readdir(FOLDER).catch(ignoreMissing)
  const alive = await Promise.all(names.map(isAlive))
  return names.filter((_, i) => !alive[i])
}

async function isAlive(name: string): Promise<boolean> {
  return statfs(`${FOLDER}/${name}`).then(
    ({ type }) => type === NSFS,
    () => false,
  )
}

/** Makes a namespace with its loopback up. Safe if it is there already. */
export async function netnsEnsure(place: RunPlace, name: string): Promise<void> {
  if (!(await isAlive(name))) {
    // It would be in the way.
    await staleRemove(name)
    const { code, stderr } = await run(['ip', 'netns', 'add', name], { ...place, codes: [0, 1] })
    // Two at once: the one who came second finds it there.
    if (code !== 0 && !(await isAlive(name))) throw new Error(`ip netns add ${name}: ${stderr.trim()}`)
  }
  await run(['ip', 'link', 'set', 'lo', 'up'], { netns: name })
}

/**
 * Removes a namespace with the pairs of links that lead into it, after ending every process in it (as `ip netns pids` lists them).
 * Safe if it is not there.
 */
export async function netnsDelete(name: string): Promise<void> {
  if (!(await isAlive(name))) return staleRemove(name)
  for (const pid of await netnsPids(name)) await processEnd(pid, 'SIGKILL')
  // (A pair with both ends inside goes with it.) The kernel takes a namespace apart some time after its name is gone; links that go now cannot be met again by who makes it anew.
  const pairs = [...(await linkList({ netns: name })).values()].filter(link => link.kind === 'veth' && link.parent === null)
  await batch(
    { netns: name },
    pairs.map(link => ['link', 'del', link.name]),
  )
  await run(['ip', 'netns', 'delete', name])
}

/** Removes what is left of a namespace that is gone: a file (its mount was private to a process that ended). Safe if there is none. */
async function staleRemove(name: string): Promise<void> {
  await rm(`${FOLDER}/${name}`, { force: true }).catch((error: NodeJS.ErrnoException) => {
    // Alive all the same: somebody made it this moment.
    if (error.code !== 'EBUSY') throw error
  })
}

/** Processes whose network namespace this is. */
export async function netnsPids(name: string): Promise<number[]> {
  const { stdout } = await run(['ip', 'netns', 'pids', name])
  return stdout.split('\n').filter(Boolean).map(Number)
}

/** Whether a process is in that namespace; false if either is gone. */
export async function inNetns(pid: number, name: string): Promise<boolean> {
  const [theirs, that] = await Promise.all(
    [`/proc/${pid}/ns/net`, `/run/netns/${name}`].map(path =>
      stat(path).then(
        s => s.ino,
        () => undefined,
      ),
    ),
  )
  return theirs !== undefined && theirs === that
}

/**
 * Ends a process that is not our child and waits until it is gone; after five seconds with SIGKILL. Safe if it is gone already.
 * The kernel can tell when a stranger's process ends (pidfd), but Node cannot listen for it: hence the look every few milliseconds.
 */
export async function processEnd(pid: number, signal: NodeJS.Signals = 'SIGTERM'): Promise<void> {
  const hardAfter = performance.now() + 5000
  for (let word: NodeJS.Signals | 0 = signal; ; ) {
    try {
      process.kill(pid, word)
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === 'ESRCH') return
      throw error
    }
    if (await isZombie(pid)) return
    word = performance.now() > hardAfter ? 'SIGKILL' : 0
    await setTimeout(5)
  }
}

/** Ended already, but its parent has not asked how: as good as gone. */
async function isZombie(pid: number): Promise<boolean> {
  const state = await readFile(`/proc/${pid}/stat`, 'utf8').catch(() => ') Z')
  return /\) [ZX]/.test(state)
}

function ignoreMissing(error: NodeJS.ErrnoException): string[] {
  if (error.code === 'ENOENT') return []
  throw error
}
