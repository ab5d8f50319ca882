/** The life of an instance's process, whatever it is made of: in front, or left behind by `--detach`. */
import { spawn } from 'node:child_process'
import { closeSync, existsSync, openSync, readFileSync, statfsSync } from 'node:fs'
import { reason } from '#kit/fault.ts'
import { openLog, type RootLog } from '#kit/log.ts'
import { dataEnsure, type Layout } from './layout.ts'
import { lockTake } from './lock.ts'
import { stateRunning } from './state.ts'
import type { Instance } from './supervise.ts'

export type Progress = (line: string) => void

export interface Service {
  /** `up`: how it is called, and how it calls itself. */
  command: string
  argv: string[]
  layout: Layout
  /** Return when it is ready, and run on. */
  detach: boolean
  /** Set in the process that `--detach` left behind. */
  detached: boolean
  logLevel: string
  logFile?: string
  /** Brings what is missing and starts. `lock`: the data folder's, to be held as long as anything works on it. */
  begin(context: { lock: number; log: RootLog; progress: Progress; logFile?: string }): Promise<Instance>
  /** What to print when it runs. */
  told(url: string): string
}

/** Runs an instance until a signal, or leaves it behind. Resolves to the exit code. Throws with what could not be done. */
export async function runInstance(service: Service): Promise<number> {
  const { command, layout } = service
  const say: Progress = line => void process.stderr.write(`nubo ${command}: ${line}\n`)
  const running = stateRunning(layout)
  if (running) {
    say(`already running (process ${running.pid})`)
    process.stdout.write(service.told(running.url))
    return 0
  }
  return service.detach ? leaveBehind(service, say) : serve(service, say)
}

/** Starts the same command as a process of its own and waits until it says that it is ready. */
async function leaveBehind(service: Service, say: Progress): Promise<number> {
  const { layout, argv, command } = service
  folderMake(layout)
  const log = openSync(layout.log, 'a', 0o640)
  const child = spawn(
    process.execPath,
    [...process.execArgv, process.argv[1]!, command, ...argv.filter(a => a !== '--detach'), '--detached'],
    { detached: true, stdio: ['ignore', log, log, 'ipc'] },
  )
  closeSync(log)
  const outcome = await new Promise<{ ready?: string; failed?: string }>(done => {
    child.on('message', message => {
      const said = message as { say?: string; ready?: string; failed?: string }
      if (said.say) say(said.say)
      else done(said)
    })
    child.once('exit', code => done({ failed: `it ended with code ${code}; the end of ${layout.log}:\n${tail(layout.log)}` }))
  })
  if (outcome.failed !== undefined) throw new Error(outcome.failed)
  child.disconnect()
  child.unref()
  process.stdout.write(service.told(outcome.ready!))
  return 0
}

const tail = (file: string): string => readFileSync(file, 'utf8').trimEnd().split('\n').slice(-15).join('\n')

/** Least room for a new database, and for going on with one, in MiB. */
const ROOM_NEW = 300
const ROOM = 48

/** Makes the data folder. Throws when it cannot be used, or has no room. */
function folderMake(layout: Layout): void {
  try {
    dataEnsure(layout)
  } catch (error) {
    throw new Error(`the data folder ${layout.data} cannot be used: ${reason(error)}`, { cause: error })
  }
  const { bavail, bsize } = statfsSync(layout.data)
  const room = Math.floor((bavail * bsize) / 2 ** 20)
  const least = existsSync(layout.postgres) ? ROOM : ROOM_NEW
  if (room < least)
    throw new Error(
      `${layout.data} is on a disk with ${room} MiB left, and ${least} are needed: make room, or choose another --data`,
    )
}

/** Tells the process that `--detach` was called in, if it still listens. */
export function sendUp(message: { say?: string; ready?: string; failed?: string }): Promise<void> {
  return new Promise(sent => (process.connected ? process.send!(message, () => sent()) : sent()))
}

async function serve(service: Service, say: Progress): Promise<number> {
  const { layout, detached } = service
  const progress: Progress = detached ? line => void sendUp({ say: line }) : say
  const ready = async (url: string): Promise<void> => {
    if (detached) await sendUp({ ready: url })
    else process.stdout.write(service.told(url))
  }
  const ended = new Promise<string>(end => {
    for (const signal of ['SIGINT', 'SIGTERM'] as const) process.once(signal, () => end(signal))
  })
  let log: RootLog | undefined
  try {
    folderMake(layout)
    const lock = await lockTake(layout, {
      onHeld: pid => progress(`waiting for another nubo on ${layout.data}${pid ? ` (process ${pid})` : ''}`),
      enough: () => stateRunning(layout) !== undefined,
    })
    if (!lock) {
      await ready(stateRunning(layout)!.url)
      return 0
    }
    const logFile = service.logFile ?? (detached ? layout.log : undefined)
    log = openLog({ level: service.logLevel as 'info', file: logFile, readable: detached ? false : undefined })
    // The folder it was called in should not be held for ever.
    if (detached) process.chdir('/')
    const instance = await service.begin({ lock: lock.fd, log, progress, logFile })
    if (logFile !== undefined) process.on('SIGHUP', instance.reopenLog)
    await ready(instance.url)
    const signal = await ended
    log.info({ signal }, 'stopping; guests and networks run on')
    await instance.stop()
    lock.release()
    return 0
  } catch (error) {
    if (!detached) throw error
    log?.fatal({ err: error }, 'could not start')
    await sendUp({ failed: reason(error) })
    return 1
  }
}
