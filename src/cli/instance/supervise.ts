/**
 * Runs an instance in this process until it is told to end. As root: PostgreSQL and a controller as an unprivileged user, the host agent in this
 * process, joined by a unix socket. Simulated: everything but PostgreSQL in this one process.
 */
import { type ChildProcess, fork } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { existsSync, readFileSync, writeFileSync } from 'node:fs'
import { hostname } from 'node:os'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { keepPostgres } from '#kit/db/postgres.ts'
import { reason } from '#kit/fault.ts'
import type { Log } from '#kit/log.ts'
import { type ControlledOptions, startControlled } from '../../roles/controlled.ts'
import { startHost, startSimulatedHosts } from '../../roles/host.ts'
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
}

export interface Instance {
  url: string
  /** Resolves when everything has stopped. Guests and networks run on. */
  stop(): Promise<void>
}

type Closer = () => Promise<void>

/** Starts an instance and resolves when every API answers. `say` tells progress. Rejects with what could not be done; nothing is left running then. */
export async function supervise(options: UpOptions, log: Log, say: (line: string) => void): Promise<Instance> {
  const closers: Closer[] = []
  const stop = async (): Promise<void> => {
    for (const close of closers.splice(0).reverse()) await close()
  }
  try {
    return { url: await start(options, log, say, closer => closers.push(closer)), stop }
  } catch (error) {
    await stop()
    throw error
  }
}

async function start(o: UpOptions, log: Log, say: (line: string) => void, onClose: (closer: Closer) => void): Promise<string> {
  const { layout } = o
  layoutMake(layout, o.owner)
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
    local,
    inProcess,
    user: o.owner,
    logLevel: o.logLevel,
  }
  // Before the controller starts: the passwords that it stores must not be lost if we die meanwhile.
  cloudsWrite(layout, passwords, `${publicUrl}/identity/v3`, o.region, tls && layout.ca)
  say('starting the controller')
  if (real) {
    const child = await keepController(controlled, log)
    onClose(child.stop)
  } else {
    const controller = await startControlled({ ...controlled, user: undefined }, log)
    onClose(() => controller.close())
    onClose(await startSimulatedHosts(controller, inProcess, log))
  }
  if (local) {
    say('starting the host agent')
    onClose(
      await startHost({
        name: local.host,
        socket: local.socket,
        secret: local.secret,
        folder: layout.agent,
        configFile: layout.config,
        log,
      }),
    )
  }
  stateWrite(layout, { pid: process.pid, started: startOf(process.pid)!, url: publicUrl, simulated: o.simulated, databaseUrl })
  onClose(async () => stateClear(layout))
  return publicUrl
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

/** Starts the controller's process and starts it anew whenever it ends unasked. Rejects when it cannot start the first time. */
async function keepController(options: ControlledOptions, log: Log): Promise<{ stop: Closer }> {
  let child: ChildProcess
  let ending = false
  let gone: Promise<void>
  const launch = async (): Promise<void> => {
    const made = fork(join(import.meta.dirname, '../../main.ts'), ['controller-process'], {
      stdio: ['ignore', 'inherit', 'inherit', 'ipc'],
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
    made.send(options)
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
    async stop() {
      ending = true
      child.kill('SIGTERM')
      const timer = setTimeout(() => child.kill('SIGKILL'), 15_000)
      await gone
      clearTimeout(timer)
    },
  }
}
