// Daemons that outlive this process: found again by their pid file, believed only if the process is what the file says.
import { readFile, rename, writeFile } from 'node:fs/promises'
import { inNetns } from '#host/net/netns.ts'

/** A file's text, or null if it is not there. */
export async function readText(path: string): Promise<string | null> {
  return readFile(path, 'utf8').catch((error: NodeJS.ErrnoException) => {
    // ESRCH: a file of /proc whose process ended meanwhile.
    if (error.code === 'ENOENT' || error.code === 'ESRCH') return null
    throw error
  })
}

/** Writes a file if its text differs, whole or not at all. Says whether it did. */
export async function write(path: string, text: string): Promise<boolean> {
  if ((await readText(path)) === text) return false
  await writeFile(`${path}.new`, text, { mode: 0o644 })
  await rename(`${path}.new`, path)
  return true
}

/** The pid in a file, if that process runs in the namespace and has `argument` on its command line; else null. */
export async function daemonPid(path: string, argument: string, netns: string): Promise<number | null> {
  const pid = Number.parseInt((await readText(path)) ?? '', 10)
  if (!Number.isInteger(pid) || pid <= 1) return null
  const command = await readText(`/proc/${pid}/cmdline`)
  return command?.split('\0').some(word => word.includes(argument)) && (await inNetns(pid, netns)) ? pid : null
}
