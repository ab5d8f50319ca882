/**
 * Runs an instance in this process until it is told to end. As root: PostgreSQL and a controller as an unprivileged user, the host agent in this
 * process, joined by a unix socket. Simulated: everything but PostgreSQL in this one process.
 */
import { type ChildProcess, fork } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { closeSync, existsSync, fchownSync, openSync, readFileSync, writeFileSync } from 'node:fs'
import { hostname } from 'node:os'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { keepPostgres } from '#kit/db/postgres.ts'
import { reason } from '#kit/fault.ts'
import type { Log, RootLog } from '#kit/log.ts'
import { type ControlledOptions, startControlled } from '../../roles/controlled.ts'
import { startHost, startSimulatedHosts } from '../../roles/host.ts'
import { machineClaim } from '../../roles/machine.ts'
import { cloudsWrite, passwordsOf } from './clouds.ts'
import { type Layout, layoutMake, type Owner } from './layout.ts'
import { startOf, stateClear, stateWrite } from './state.ts'
import { certificateEnsure } from './tls.ts'

export interface UpOptions {
  layout: Layout
  at: { host: string; port: number }
  /** Pretended hosts; 0: this machine itself is the host. */
  simulated: number
  record?: string
  databaseUrl?: string
  owner?: Owner
  region: string
  logLevel: string
  /** The log's file, if it has one: the controller writes to it too. */
  logFile?: string
  /** The lock of the data folder, held as long as the controller lives. */
  lock: number
}

export interface Instance {
  url: string
  /** Writes the log to a new file of the same name, after it was moved away. */
  reopenLog(): void
  /** Resolves when everything has stopped. Guests and networks run on. */
  stop(): Promise<void>
}

type Closer = () => Promise<void>

/** Starts an instance and resolves when every API answers. `say` tells progress. Rejects with what could not be done; nothing is left running then. */
export async function supervise(options: UpOptions, log: RootLog, say: (line: string) => void): Promise<Instance> {
  const closers: Closer[] = []
  const stop = async (): Promise<void> => {
    for (const close of closers.splice(0).reverse()) await close()
  }
  try {
    const { url, controller } = await start(options, log, say, closer => closers.push(closer))
    const reopenLog = (): void => {
      if (options.logFile === undefined) return
      fileFor(options.logFile, options.owner)
      log.reopen()
      controller?.signal('SIGHUP')
    }
    return { url, reopenLog, stop }
  } catch (error) {
    await stop()
    throw error
  }
}

interface Started {
  url: string
  /** The controller's process, where it has one of its own. */
  controller?: Kept
}

async function start(o: UpOptions, log: Log, say: (line: string) => void, onClose: (closer: Closer) => void): Promise<Started> {
  const { layout } = o
  layoutMake(layout, o.owner)
  // Before anything is started for nothing.
  const machine = o.simulated === 0 ? await machineClaim(layout.agent) : undefined
  if (machine) onClose(async () => machine.release())
  const passwords = passwordsOf(layout)
  const tls = isLoopback(o.at.host) ? undefined : certificateEnsure(layout, o.at.host)
  const publicUrl = `${tls ? 'https' : 'http'}://${reachable(o.at.host)}:${o.at.port}`
  const databaseUrl = o.databaseUrl ?? (await ownDatabase(o, log, say, onClose))
  const real = o.simulated === 0
  const inProcess = Array.from({ length: o.simulated }, (_, i) => `host-${String(i + 1).padStart(4, '0')}`)
  const local = real ? { socket: layout.socket, host: hostname(), secret: hostSecret(layout) } : undefined
  const controlled: ControlledOptions = {
    configFile: layout.config,
    folder: layout.controller,
    databaseUrl,
    at: o.at,
    publicUrl,
    tls,
    region: o.region,
    passwords,
    record: o.record,
    logFile: o.logFile,
    local,
    inProcess,
    user: o.owner,
    logLevel: o.logLevel,
  }
  // Before the controller starts: the passwords that it stores must not be lost if we die meanwhile.
  cloudsWrite(layout, passwords, `${publicUrl}/identity/v3`, o.region, tls && layout.ca)
  say('starting the controller')
  let kept: Kept | undefined
  if (real) {
    if (o.logFile !== undefined) fileFor(o.logFile, o.owner)
    const record = o.record === undefined ? undefined : fileFor(o.record, o.owner, true)
    kept = await keepController(controlled, { lock: o.lock, record }, log)
    onClose(kept.stop)
  } else {
    const controller = await startControlled({ ...controlled, user: undefined }, log)
    onClose(() => controller.close())
    onClose(await startSimulatedHosts(controller, inProcess, log))
  }
  if (local && machine) {
    say('starting the host agent')
    onClose(
      await startHost({
        name: local.host,
        socket: local.socket,
        secret: local.secret,
        folder: layout.agent,
        configFile: layout.config,
        machine,
        log,
      }),
    )
  }
  stateWrite(layout, { pid: process.pid, started: startOf(process.pid)!, url: publicUrl, simulated: o.simulated, databaseUrl })
  onClose(async () => stateClear(layout))
  return { url: publicUrl, controller: kept }
}

async function ownDatabase(
  o: UpOptions,
  log: Log,
  say: (line: string) => void,
  onClose: (closer: Closer) => void,
): Promise<string> {
  say('starting PostgreSQL')
  const postgres = await keepPostgres({ folder: o.layout.postgres, uid: o.owner?.uid, gid: o.owner?.gid }, err =>
    log.warn({ err }, 'PostgreSQL'),
  )
  onClose(() => postgres.stop())
  return postgres.url
}

/** A file that the controllers' user may write although its folder is another's: made here, and made theirs. Kept open, and its descriptor returned, if asked. */
function fileFor(path: string, owner: Owner | undefined, keep = false): number {
  const fd = openSync(path, 'a', 0o640)
  if (owner) fchownSync(fd, owner.uid, owner.gid)
  if (!keep) closeSync(fd)
  return fd
}

/** The secret by which this machine's agent proves itself to the controller. */
function hostSecret(layout: Layout): string {
  const file = join(layout.agent, 'secret')
  if (!existsSync(file)) writeFileSync(file, randomBytes(32).toString('base64url'), { mode: 0o600 })
  return readFileSync(file, 'utf8')
}

export const isLoopback = (host: string): boolean => host === 'localhost' || host === '::1' || host.startsWith('127.')

/** What clients connect to when we listen on this address: every address means this machine's name. */
const reachable = (host: string): string =>
  host === '0.0.0.0' || host === '::' ? hostname() : host.includes(':') ? `[${host}]` : host

interface Kept {
  signal(signal: NodeJS.Signals): void
  stop: Closer
}

/** Open files that the controller's process is given: it could not open them itself. */
interface Handed {
  lock: number
  record: number | undefined
}

/** What the record's descriptor is in the controller's process: after the standard ones, the channel to us, and the lock. */
const RECORD_FD = 5

/** Starts the controller's process and starts it anew whenever it ends unasked. Rejects when it cannot start the first time. */
async function keepController(options: ControlledOptions, { lock, record }: Handed, log: Log): Promise<Kept> {
  let child: ChildProcess
  let ending = false
  let gone: Promise<void>
  const launch = async (): Promise<void> => {
    const made = fork(join(import.meta.dirname, '../../main.ts'), ['controller-process'], {
      stdio: ['ignore', 'inherit', 'inherit', 'ipc', lock, ...(record === undefined ? [] : [record])],
      execArgv: process.execArgv,
    })
    child = made
    gone = new Promise(resolve => made.once('exit', () => resolve()))
    const ready = new Promise<void>((resolve, reject) => {
      made.once('message', message => {
        const { failed } = message as { failed?: string }
        failed === undefined ? resolve() : reject(new Error(failed))
      })
      made.once('exit', (code, signal) => reject(new Error(`the controller ended (${signal ?? `code ${code}`})`)))
      made.once('error', reject)
    })
    made.send({ ...options, record: record === undefined ? undefined : RECORD_FD })
    await ready
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
