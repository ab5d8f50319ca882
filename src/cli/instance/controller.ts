/** The controller's process, kept alive: started anew whenever it ends unasked. */
import { type ChildProcess, fork } from 'node:child_process'
import { closeSync } from 'node:fs'
import { setTimeout as delay } from 'node:timers/promises'
import { reason } from '#kit/fault.ts'
import type { Log } from '#kit/log.ts'
import type { ControlledOptions } from '../../roles/controlled.ts'

export interface Kept {
  /** Whether its first start made the cloud's first content, and whether it has no image. */
  made: boolean
  bare: boolean
  signal(signal: NodeJS.Signals): void
  stop: () => Promise<void>
}

/** Open files that the controller's process is given: it could not open them itself. */
export interface Handed {
  lock: number
  record: number | undefined
}

/** What the record's descriptor is in the controller's process: after the standard ones, the channel to us, and the lock. */
const RECORD_FD = 5

/**
 * Starts the controller's process and starts it anew whenever it ends unasked. It loads its code while `asked`, its options, are waited for (the
 * database starts). Rejects when it cannot start the first time.
 */
export async function keepController(asked: Promise<ControlledOptions>, { lock, record }: Handed, log: Log): Promise<Kept> {
  let child: ChildProcess
  let ending = false
  let first = false
  let bare = false
  let gone: Promise<void>
  const launch = async (): Promise<void> => {
    const made = fork(process.argv[1]!, ['controller-process'], {
      stdio: ['ignore', 'inherit', 'inherit', 'ipc', lock, ...(record === undefined ? [] : [record])],
      execArgv: process.execArgv,
    })
    child = made
    gone = new Promise(resolve => made.once('exit', () => resolve()))
    const ready = new Promise<void>((resolve, reject) => {
      made.once('message', message => {
        const { failed, ...ready } = message as { failed?: string; made?: boolean; bare?: boolean }
        first ||= ready.made === true
        bare = ready.bare === true
        failed === undefined ? resolve() : reject(new Error(failed))
      })
      made.once('exit', (code, signal) => reject(new Error(`the controller ended (${signal ?? `code ${code}`})`)))
      made.once('error', reject)
    })
    ready.catch(() => {}) // that it ended is told below, also while its options are waited for
    try {
      made.send({ ...(await asked), record: record === undefined ? undefined : RECORD_FD })
      await ready
    } catch (error) {
      made.kill('SIGKILL')
      throw error
    }
    made.once('exit', (code, signal) => {
      if (ending) return
      log.error({ code, signal }, 'the controller ended; it is started again')
      void relaunch()
    })
  }
  const relaunch = async (): Promise<void> => {
    for (let pause = 100; !ending; pause = Math.min(pause * 2, 5000)) {
      try {
        await launch()
        return
      } catch (error) {
        log.error({ error: reason(error) }, 'the controller could not be started; trying again')
        await delay(pause)
      }
    }
  }
  await launch()
  return {
    made: first,
    bare,
    signal: signal => void child.kill(signal),
    async stop() {
      ending = true
      child.kill('SIGTERM')
      const timer = setTimeout(() => child.kill('SIGKILL'), 15_000)
      await gone
      clearTimeout(timer)
      if (record !== undefined) closeSync(record)
    },
  }
}
