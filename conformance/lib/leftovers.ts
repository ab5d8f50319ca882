/** What of guests and networks is on this machine, as the kernel has it: nothing of Nubo's own bookkeeping is asked. */
import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { run } from '#host/run.ts'

/** Command lines of the processes that contain `word`. */
export function processesWith(word: string): string[] {
  return readdirSync('/proc')
    .filter(name => /^\d+$/.test(name) && Number(name) !== process.pid)
    .flatMap(pid => {
      try {
        const words = readFileSync(`/proc/${pid}/cmdline`, 'utf8').split('\0')
        return words.some(w => w.includes(word)) ? [words.join(' ').trim()] : []
      } catch (error) {
        if (['ENOENT', 'ESRCH'].includes((error as NodeJS.ErrnoException).code!)) return []
        throw error
      }
    })
}

/** Names of links that are no loopback and not of the kernel's own making. */
export async function links(): Promise<string[]> {
  const { stdout } = await run(['ip', '-j', 'link'])
  return (JSON.parse(stdout) as { ifname: string }[])
    .map(link => link.ifname)
    .filter(name => !/^(lo|ifb\d+|.*tunl0|sit0|gre0)$/.test(name))
}

/** Names of network namespaces. */
export async function namespaces(): Promise<string[]> {
  const { stdout } = await run(['ip', '-j', 'netns'])
  return stdout.trim() === '' ? [] : (JSON.parse(stdout) as { name: string }[]).map(one => one.name)
}

/** Names of nftables tables. */
export async function tables(): Promise<string[]> {
  const { stdout } = await run(['nft', 'list', 'tables'])
  return stdout.trim().split('\n').filter(Boolean)
}

/** Control groups below those whose name begins with `nubo-`, by path. */
export function guestGroups(): string[] {
  const found: string[] = []
  for (const tree of readdirSync('/sys/fs/cgroup')) {
    const at = join('/sys/fs/cgroup', tree)
    for (const name of folders(at).filter(name => name.startsWith('nubo-'))) {
      found.push(...folders(join(at, name)).map(guest => join(at, name, guest)))
    }
  }
  return found
}

/** Folders in a folder; none when it is no folder. */
export function folders(at: string): string[] {
  try {
    return readdirSync(at, { withFileTypes: true })
      .filter(entry => entry.isDirectory())
      .map(entry => entry.name)
  } catch (error) {
    if (['ENOENT', 'ENOTDIR'].includes((error as NodeJS.ErrnoException).code!)) return []
    throw error
  }
}
