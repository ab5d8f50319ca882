/** What is known of a server from outside: its processes, its pid file, its end. See `postgres.ts` for the theory. */
import type { ChildProcess } from 'node:child_process'
import { watch } from 'node:fs'
import * as fs from 'node:fs/promises'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'

/** A shutdown checkpoint writes at most shared_buffers; after this it is made to stop at once, and recovers at its next start. */
const STOP_MS = 30_000

const missing = (error: unknown): boolean => ['ENOENT', 'ESRCH'].includes((error as NodeJS.ErrnoException).code ?? '')

export function alive(pid: number): boolean {
  try {
    process.kill(pid, 0)
    return true
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'EPERM'
  }
}

/** Sends a signal to a process that may have ended meanwhile. */
function kill(pid: number, signal: NodeJS.Signals): void {
  try {
    process.kill(pid, signal)
  } catch (error) {
    if (!missing(error)) throw error
  }
}

/** The processes of the server of this data folder: PostgreSQL's all work in it. Those of other users cannot be seen, nor be ours. */
async function processesIn(data: string): Promise<number[]> {
  const found: number[] = []
  for (const entry of await fs.readdir('/proc')) {
    if (!/^\d+$/.test(entry)) continue
    const cwd = await fs.readlink(`/proc/${entry}/cwd`).catch(() => '')
    if (cwd !== data) continue
    const exe = await fs.readlink(`/proc/${entry}/exe`).catch(() => '')
    if (/\/postgres( \(deleted\))?$/.test(exe)) found.push(Number(entry))
  }
  return found
}

/** What the pid file says: lines are pid, data folder, start time, port, socket folder, listen address, shared memory key, status. */
export async function readPidFile(data: string): Promise<{ pid: number; status: string } | undefined> {
  try {
    const lines = (await fs.readFile(join(data, 'postmaster.pid'), 'utf8')).split('\n')
    return { pid: Number(lines[0]), status: (lines[7] ?? '').trim() }
  } catch (error) {
    if (missing(error)) return undefined
    throw error
  }
}

/** Clears what a killed server left; the pid of the postmaster if one runs. */
export async function survey(data: string): Promise<number | undefined> {
  const file = await readPidFile(data)
  const started = Date.now()
  for (;;) {
    const running = await processesIn(data)
    if (file && running.includes(file.pid)) return file.pid
    if (running.length === 0) break
    // Orphans of a killed postmaster. Nothing tells of their end, as they are not our children.
    if (Date.now() > started + 10_000) throw new Error(`processes of an earlier PostgreSQL do not end: ${running.join(', ')}`)
    if (Date.now() > started + 5000) for (const pid of running) kill(pid, 'SIGKILL')
    await delay(10)
  }
  if (file && alive(file.pid)) await fs.rm(join(data, 'postmaster.pid'), { force: true })
  return undefined
}

/** Waits for `done` to answer, asking it again at each change in the folder (and now and then); undefined when `end` settles or time is up. */
export async function watched<T>(
  folder: string,
  end: Promise<unknown>,
  ms: number,
  done: () => Promise<T | undefined>,
): Promise<T | undefined> {
  const stop = new AbortController()
  let wake = (): void => {}
  let over = false
  const finish = (): void => {
    over = true
    wake()
  }
  try {
    watch(folder, { signal: stop.signal }, () => wake()).on('error', () => {})
  } catch (error) {
    // A machine may be out of watches, or the folder gone: then the interval below is all there is.
    if (!['ENOSPC', 'EMFILE', 'ENOENT'].includes((error as NodeJS.ErrnoException).code ?? '')) throw error
  }
  const timer = setTimeout(finish, ms)
  const interval = setInterval(() => wake(), 100)
  void end.then(finish, finish)
  try {
    for (;;) {
      const changed = new Promise<void>(resolve => {
        wake = resolve
      })
      const answer = await done()
      if (answer !== undefined || over) return answer
      await changed
    }
  } finally {
    clearTimeout(timer)
    clearInterval(interval)
    stop.abort()
  }
}

/** Resolves when the process has ended: at once if it is our child, else within a second, for lack of an event. */
export function endOf(pid: number, child: ChildProcess | undefined, signal: AbortSignal): Promise<void> {
  if (child) {
    child.unref()
    if (child.exitCode !== null || child.signalCode !== null) return Promise.resolve()
    return new Promise(done => child.once('exit', () => done()))
  }
  return new Promise(done => {
    const timer = setInterval(() => {
      if (alive(pid)) return
      clearInterval(timer)
      done()
    }, 500)
    timer.unref()
    signal.addEventListener('abort', () => clearInterval(timer))
  })
}

export async function stopPostmaster(pid: number, data: string): Promise<void> {
  const deadline = Date.now() + STOP_MS
  // SIGINT is PostgreSQL's fast shutdown, SIGQUIT its immediate one (which leaves recovery to the next start).
  kill(pid, 'SIGINT')
  const gone = await watched(data, new Promise(() => {}), STOP_MS, async () => ((await readPidFile(data)) ? undefined : true))
  if (!gone) kill(pid, 'SIGQUIT')
  // The pid file goes just before the process does.
  while ((await processesIn(data)).length > 0 && Date.now() < deadline + STOP_MS) await delay(5)
}
