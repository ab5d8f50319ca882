/** Stops what runs on a data folder, in whatever state a crash left it. */
import { existsSync } from 'node:fs'
import { stopPostgres } from '#kit/db/postgres.ts'
import type { Layout } from './layout.ts'
import { type Lock, lockTake } from './lock.ts'
import { processEnds, stateClear, stateRunning } from './state.ts'

/** Longest that an orderly stop may take. */
const STOP_MS = 60_000

/**
 * Stops the instance, and the PostgreSQL that a killed one left. Resolves, holding the lock of the folder, to whether anything ran; to undefined
 * when there is no such folder. Throws when a process does not end.
 */
export async function stopInstance(
  layout: Layout,
  say: (line: string) => void,
): Promise<{ ran: boolean; lock: Lock } | undefined> {
  if (!existsSync(layout.data)) return undefined
  let ran = false
  for (;;) {
    const state = stateRunning(layout)
    if (state) {
      ran = true
      process.kill(state.pid, 'SIGTERM')
      if (!(await processEnds(state.pid, state.started, STOP_MS))) {
        throw new Error(`process ${state.pid} has not ended after ${STOP_MS / 1000} s; its log: ${layout.log}`)
      }
    }
    let holder: number | undefined
    const lock = await lockTake(layout, {
      onHeld(pid) {
        holder = pid
        say(`waiting for another nubo${pid ? ` (process ${pid})` : ''} that starts or ends`)
      },
      enough: () => stateRunning(layout) !== undefined,
      ms: STOP_MS,
    })
    if (lock) {
      // Written by an instance that was killed.
      stateClear(layout)
      if (await stopPostgres(layout.postgres)) ran = true
      return { ran, lock }
    }
    if (!stateRunning(layout)) throw new Error(`process ${holder ?? '?'} still works on ${layout.data} after ${STOP_MS / 1000} s`)
  }
}
