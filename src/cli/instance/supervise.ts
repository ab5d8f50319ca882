/**
 * Runs an instance in this process until it is told to end. As root: PostgreSQL and a controller as an unprivileged user, the host agent in this
 * process, joined by a unix socket. Simulated: everything but PostgreSQL in this one process. The code of a controller and of an agent is loaded
 * where it is needed only, and while something else is waited for.
 */
import { randomBytes } from 'node:crypto'
import { closeSync, existsSync, fchownSync, openSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { hostname } from 'node:os'
import { join } from 'node:path'
import { setTimeout } from 'node:timers/promises'
import { loadConfig } from '#kit/config.ts'
import { keepPostgres } from '#kit/db/postgres.ts'
import type { Log, RootLog } from '#kit/log.ts'
import type { ControlledOptions } from '../../roles/controlled.ts'
import type { Started as Host } from '../../roles/host.ts'
import { machineClaim } from '../../roles/machine.ts'
import type { Plan } from '../../roles/roles.ts'
import { SETTINGS } from '../../roles/settings.ts'
import { cloudsWrite, passwordsOf } from './clouds.ts'
import { type Kept, keepController } from './controller.ts'
import type { JoinedHost } from './joined.ts'
import { deviceEnsure, type Layout, layoutAgent, layoutMake, type Owner } from './layout.ts'
import { type State, startOf, stateClear, stateWrite } from './state.ts'
import { certificateEnsure } from './tls.ts'
import { joinedWay, type LocalWay, localWay } from './ways.ts'

export interface UpOptions {
  layout: Layout
  at: { host: string; port: number }
  /** What the process is. */
  plan: Plan
  /** Pretended hosts; 0: this machine itself is the host, if it is one. */
  simulated: number
  /** The cloud that this machine is a host of, where no controller is in the plan. */
  joined?: JoinedHost
  /** Whether the cloud is this instance's own: then clouds.yaml and the catalog follow its address. */
  own: boolean
  publicUrl?: string
  record?: string
  databaseUrl?: string
  /** Folders that hold objects; those of the last time without any. */
  objectDevices?: readonly string[]
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
  /** Whether the cloud has no image yet, as its own controller tells. */
  bare: boolean
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
    const { url, bare, controller } = await start(options, log, say, closer => closers.push(closer))
    const reopenLog = (): void => {
      if (options.logFile === undefined) return
      fileFor(options.logFile, options.owner)
      log.reopen()
      controller?.signal('SIGHUP')
    }
    return { url, bare, reopenLog, stop }
  } catch (error) {
    await stop()
    throw error
  }
}

interface Started {
  url: string
  bare: boolean
  /** The controller's process, where it has one of its own. */
  controller?: Kept
}

async function start(o: UpOptions, log: Log, say: (line: string) => void, onClose: (closer: Closer) => void): Promise<Started> {
  const { layout, plan, joined } = o
  const isHost = plan.duties.length > 0 && o.simulated === 0
  // Before anything is started for nothing.
  if (isHost || joined) layoutAgent(layout)
  const machine = isHost ? await machineClaim(layout.agent) : undefined
  if (machine) onClose(async () => machine.release())
  const hostCode = isHost || o.simulated > 0 ? import('../../roles/host.ts') : undefined
  const state: State = {
    pid: process.pid,
    started: startOf(process.pid)!,
    url: joined?.url ?? '',
    simulated: o.simulated,
    host: joined?.host,
  }
  const own = plan.api.length + plan.work.length > 0 ? ownController(o, log, say, onClose) : undefined
  const way = joined ? joinedWay(layout, joined) : own?.local
  if (machine && !way)
    throw new Error(
      'this machine is to be a host, but of no cloud: it has not joined one (nubo join), and no controller is started with it',
    )
  const ready = async () => {
    if (!machine || !way) return undefined
    const { name, dial, overlay } = way
    const { startHost } = await hostCode!
    const more = { duties: plan.duties, folder: layout.agent, configFile: layout.config, machine, log }
    return startHost({ name, dial, overlay: await overlay(), ...more })
  }
  // Side by side: neither needs the other for getting ready. When one fails, the other is there to be stopped.
  const [starting, getting] = await Promise.allSettled([own?.started(), ready()])
  // Registered last, so that it stops first.
  if (getting.status === 'fulfilled' && getting.value) onClose(getting.value.stop)
  const [started, host] = [valueOf(starting), valueOf(getting)]
  if (own) state.url = own.url
  state.databaseUrl = started?.databaseUrl
  if (way && joined && o.simulated > 0) {
    say(`starting the pretended host ${joined.host}`)
    const config = loadConfig(layout.config, SETTINGS)
    const { startPretended } = await hostCode!
    const host = await startPretended({ name: way.name, dial: way.dial, config, log })
    onClose(host.stop)
  } else if (host) {
    say('connecting the host agent')
    host.open()
    if (!joined) await reported(host, say)
  }
  stateWrite(layout, state)
  onClose(async () => stateClear(layout))
  return { url: state.url, bare: started?.bare ?? false, controller: started?.kept }
}

function valueOf<T>(result: PromiseSettledResult<T>): T {
  if (result.status === 'rejected') throw result.reason
  return result.value
}

interface OwnController {
  url: string
  /** The way of this machine's agent to it, where this machine is a host. */
  local?: LocalWay
  /** Starts it with its database. */
  started(): Promise<{ bare: boolean; databaseUrl: string; kept?: Kept }>
}

/** Prepares a controller of this instance: its folders, passwords and certificates. */
function ownController(o: UpOptions, log: Log, say: (line: string) => void, onClose: (closer: Closer) => void): OwnController {
  const { layout, plan } = o
  layoutMake(layout, o.owner)
  for (const device of o.objectDevices ?? []) deviceEnsure(device, o.owner)
  const isNew = !existsSync(layout.clouds)
  const passwords = passwordsOf(layout)
  const loopback = isLoopback(o.at.host)
  const tls = loopback ? undefined : certificateEnsure(layout, o.at.host)
  const ca = tls?.ca === undefined ? undefined : readFileSync(tls.ca, 'utf8')
  const authority = `${reachable(o.at.host)}:${o.at.port}`
  const url = `${tls ? 'https' : 'http'}://${authority}`
  const publicUrl = o.publicUrl ?? url
  const address = `${tls ? 'wss' : 'ws'}://${authority}/agent`
  const inProcess = Array.from({ length: o.simulated }, (_, i) => `host-${String(i + 1).padStart(4, '0')}`)
  const isHost = plan.duties.length > 0 && o.simulated === 0
  const local = isHost ? { socket: layout.socket, host: hostname(), secret: hostSecret(layout) } : undefined
  const controlled: Omit<ControlledOptions, 'databaseUrl'> = {
    name: o.own ? (local?.host ?? 'controller') : `${hostname()}-${o.at.port}`,
    configFile: layout.config,
    folder: layout.controller,
    objectDevices: o.objectDevices,
    api: plan.api,
    work: plan.work,
    at: o.at,
    publicUrl,
    keepCatalog: !o.own && o.publicUrl === undefined,
    address,
    ca,
    tls: tls && { key: tls.key, cert: tls.cert },
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
  if (o.own || isNew) cloudsWrite(layout, passwords, `${publicUrl}/identity/v3`, o.region, tls?.ca)
  return {
    url,
    local: local && localWay(local, address, { loopback, host: o.at.host, ca }),
    started: () => startController(o, controlled, isNew, log, say, onClose),
  }
}

async function startController(
  o: UpOptions,
  controlled: Omit<ControlledOptions, 'databaseUrl'>,
  isNew: boolean,
  log: Log,
  say: (line: string) => void,
  onClose: (closer: Closer) => void,
) {
  const database = o.databaseUrl === undefined ? ownDatabase(o, log, say, onClose) : Promise.resolve(o.databaseUrl)
  const asked = database.then(databaseUrl => {
    say('starting the controller')
    return { ...controlled, databaseUrl }
  })
  let kept: Kept | undefined
  let made: boolean
  let bare: boolean
  if (o.owner && o.simulated === 0) {
    if (o.logFile !== undefined) fileFor(o.logFile, o.owner)
    const record = o.record === undefined ? undefined : fileFor(o.record, o.owner, true)
    kept = await keepController(asked, { lock: o.lock, record }, log)
    onClose(kept.stop)
    ;({ made, bare } = kept)
  } else {
    const [options, { startControlled }, { startSimulatedHosts }] = await Promise.all([
      asked,
      import('../../roles/controlled.ts'),
      import('../../roles/host.ts'),
    ])
    const controller = await startControlled({ ...options, user: undefined }, log)
    onClose(() => controller.close())
    const hosts = await startSimulatedHosts(controller, controlled.inProcess ?? [], log)
    onClose(hosts.stop)
    await reported(hosts, say)
    ;({ made, bare } = controller)
  }
  // A cloud that was there has passwords that are not known here.
  if (!o.own && isNew && !made) rmSync(o.layout.clouds)
  return { bare, databaseUrl: await database, kept }
}

/** Seconds that hosts have to say what they have. */
const REPORT_SECONDS = 15

/** Waits until the instance's own hosts can be given work: who was told that the cloud is up may create a server. */
async function reported(hosts: Host, say: (line: string) => void): Promise<void> {
  const late = setTimeout(REPORT_SECONDS * 1000, 'late', { ref: false })
  if ((await Promise.race([hosts.reported, late])) === 'late') {
    say(`not every host has said within ${REPORT_SECONDS} s what it has: the log says why, and nubo status which`)
  }
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

const isLoopback = (host: string): boolean => host === 'localhost' || host === '::1' || host.startsWith('127.')

/** What clients connect to when we listen on this address: every address means this machine's name. */
const reachable = (host: string): string =>
  host === '0.0.0.0' || host === '::' ? hostname() : host.includes(':') ? `[${host}]` : host
