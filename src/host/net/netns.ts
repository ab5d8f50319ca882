// Named network namespaces.
import { readdir, stat } from 'node:fs/promises'
import { type RunPlace, run } from '../run.ts'

/** Names of all network namespaces under /run/netns; empty where there never was one. */
export async function netnsList(): Promise<Set<string>> {
  return new Set(await readdir('/run/netns').catch(ignoreMissing))
}

/** Makes a namespace with its loopback up. Safe if it is there already. */
export async function netnsEnsure(place: RunPlace, name: string): Promise<void> {
  if (!(await netnsList()).has(name)) {
    await run(['ip', 'netns', 'add', name], { ...place, codes: [0, 1] }).then(async ({ code, stderr }) => {
      // Two at once: the one who came second finds it there.
      if (code !== 0 && !(await netnsList()).has(name)) throw new Error(`ip netns add ${name}: ${stderr.trim()}`)
    })
  }
  await run(['ip', 'link', 'set', 'lo', 'up'], { netns: name })
}

/** Removes a namespace after ending every process in it (as `ip netns pids` lists them). Safe if it is not there. */
export async function netnsDelete(name: string): Promise<void> {
  if (!(await netnsList()).has(name)) return
  for (const pid of await netnsPids(name)) kill(pid)
  await run(['ip', 'netns', 'delete', name])
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

function kill(pid: number): void {
  try {
    process.kill(pid, 'SIGKILL')
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ESRCH') throw error
  }
}

function ignoreMissing(error: NodeJS.ErrnoException): string[] {
  if (error.code === 'ENOENT') return []
  throw error
}
