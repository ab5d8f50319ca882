/** Which instance runs on a data folder: its process, known by pid and start time so that a reused pid is never taken for it. */
import { readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs'
import { setTimeout as delay } from 'node:timers/promises'
import type { Layout } from './layout.ts'

export interface State {
  pid: number
  /** Start time of the process in clock ticks after boot, from /proc/PID/stat. */
  started: string
  url: string
  simulated: number
  /** Absent where no controller is: on a machine that joined a cloud. */
  databaseUrl?: string
  /** The host that this machine is in a cloud elsewhere. */
  host?: string
}

/** Start time of a live process, as the kernel tells it; undefined when there is none, or it is a zombie. */
export function startOf(pid: number): string | undefined {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, 'utf8')
    const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ')
    return fields[0] === 'Z' ? undefined : fields[19]
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT' || (error as NodeJS.ErrnoException).code === 'ESRCH') return undefined
    throw error
  }
}

/** The instance that runs on this folder now; undefined when none does. */
export function stateRunning(layout: Layout): State | undefined {
  const state = stateLast(layout)
  return state && startOf(state.pid) === state.started ? state : undefined
}

/** The instance that ran last on this folder. */
export function stateLast(layout: Layout): State | undefined {
  try {
    return JSON.parse(readFileSync(layout.state, 'utf8')) as State
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return undefined
    throw new Error(`${layout.state} cannot be read; remove it: what runs is told by the lock of the folder, too`, {
      cause: error,
    })
  }
}

/** Writes the state whole, so that a reader never sees half of it. */
export function stateWrite(layout: Layout, state: State): void {
  writeFileSync(`${layout.state}.new`, `${JSON.stringify(state, null, 2)}\n`)
  renameSync(`${layout.state}.new`, layout.state)
}

export const stateClear = (layout: Layout): void => rmSync(layout.state, { force: true })

/** Waits until a process has ended. Resolves to whether it did in time. */
export async function processEnds(pid: number, started: string, ms: number): Promise<boolean> {
  for (const end = Date.now() + ms; Date.now() < end; await delay(20)) {
    if (startOf(pid) !== started) return true
  }
  return startOf(pid) !== started
}
