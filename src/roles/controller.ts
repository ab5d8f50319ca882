/**
 * A controller: the process that answers the APIs and runs sagas, tasks and events. It keeps no state: start as many as there are cores
 * or machines. What it mounts is said by its roles.
 */
import type { ServerResponse } from 'node:http'
import type { Config } from '#kit/config.ts'
import { type Db, migrate, open } from '#kit/db/index.ts'
import { eventDispatcher } from '#kit/events.ts'
import { reason } from '#kit/fault.ts'
import { corsOf, corsSettings, type Exchange, harOf, harRecorder, type Identify, listen, server } from '#kit/http/index.ts'
import {
  agentEndpoint,
  authenticator,
  hostSecretEnsure,
  hostsEnsure,
  hostsOpen,
  inquiriesAnswer,
  joinHandler,
  type OpenHosts,
  presenceOf,
  unixListen,
} from '#kit/link/index.ts'
import type { Log } from '#kit/log.ts'
import { openMetrics } from '#kit/metrics.ts'
import { kitMigrations } from '#kit/migrations.ts'
import { type Enforcer, enforcer, readOverrides, watchOverrides } from '#kit/policy/index.ts'
import { sagaList, sagaRunner } from '#kit/saga/index.ts'
import type { Env, Service } from '#kit/service.ts'
import { taskRunner } from '#kit/task.ts'

/** Seconds in which the agents of hosts that were connected before a restart have dialled again, whatever they had to wait for. */
const RETURNING = 30

export interface ControllerOptions {
  config: Config
  log: Log
  /** Folder of policy.yaml and policy.d/. */
  policyFolder: string
  /** Unique among the controllers of a cloud. */
  name: string
  databaseUrl: string
  /** Every service of the program: they call each other whatever this process mounts. */
  services: readonly Service[]
  /** Names of the services whose API is answered here. */
  api: readonly string[]
  /** Names of the services whose sagas, tasks and events run here. */
  work: readonly string[]
  identify: (env: Env) => Promise<Identify>
  at: { host: string; port: number }
  tls?: { key: string; cert: string }
  /** File to record every exchange in, or its descriptor. */
  record?: string | number
  /** Unix socket on which the agent of this machine connects, and the secret of that host. */
  local?: { socket: string; host: string; secret: string }
  /** Hosts of this very process (simulated ones): they need no secret. */
  inProcess?: readonly string[]
  /** Address under which agents of other machines reach this controller: `wss://HOST:PORT/agent`. */
  address?: string
  /** The cloud's own certificate authority, in PEM: machines that join are told whom to trust. */
  ca?: string
  /** Runs when the database is there and migrated, before requests are taken. */
  prepare?(env: Env): Promise<void>
}

export interface Controller {
  url: string
  env: Env
  hosts: OpenHosts
  close(): Promise<void>
}

/** Starts a controller. Rejects with what could not be done; nothing is left running then. */
export async function startController(options: ControllerOptions): Promise<Controller> {
  const closers: (() => Promise<unknown>)[] = []
  const close = async (): Promise<void> => {
    for (const closer of closers.splice(0).reverse()) await closer()
  }
  try {
    return { ...(await start(options, closer => closers.push(closer))), close }
  } catch (error) {
    await close()
    throw error
  }
}

async function start(
  options: ControllerOptions,
  onClose: (closer: () => Promise<unknown>) => void,
): Promise<Omit<Controller, 'close'>> {
  const { config, log, services, name } = options
  const db = await open({
    url: options.databaseUrl,
    name: `nubo ${name}`,
    onError: err => log.warn({ err }, 'database connection'),
  })
  onClose(() => db.close())
  await migrate(db, [kitMigrations, ...services.map(s => ({ schema: s.name, migrations: [...s.migrations] }))]).catch(error => {
    throw unusable(options.databaseUrl, error)
  })

  const presence = presenceOf({ db, log, controller: name, address: options.address ?? null })
  const hosts = hostsOpen({ controller: name, log, memory: presence, returning: RETURNING })
  const env: Env = { db, log, config, hosts }
  for (const s of services) if (s.hostVerbs) hosts.serve(env, s.hostVerbs)
  await registerHosts(db, options)
  await options.prepare?.(env)

  const policies = policiesOf(services, options.policyFolder, log, stop => onClose(async () => stop()))
  const mounted = services.filter(s => options.api.includes(s.name))
  const working = services.filter(s => options.work.includes(s.name))
  // A store of its own has one keeper: the process that answers for it.
  for (const s of services.filter(s => !s.raw || options.api.includes(s.name))) {
    const stop = await s.start?.(env)
    if (stop) onClose(stop)
  }
  await presence.start(hosts)
  onClose(() => presence.stop())
  onClose(() => hosts.close())
  const inventories = services.flatMap(s => s.audit?.inventory ?? [])
  const unlisten = await inquiriesAnswer({ db, hosts, verbs: inventories, log })
  onClose(async () => unlisten())

  const runner = await sagaRunner({ env, name, sagas: working.flatMap(s => [...(s.sagas ?? [])]) })
  onClose(() => runner.stop())
  const tasks = taskRunner(
    env,
    working.flatMap(s => [...(s.tasks ?? [])]),
  )
  onClose(() => tasks.stop())
  const events = eventDispatcher(
    env,
    working.flatMap(s => [...(s.on ?? [])]),
  )
  onClose(() => events.stop())

  const authenticate = authenticator(db.read)
  if (options.local) {
    const unix = await unixListen({ path: options.local.socket, hosts, authenticate, log })
    onClose(() => unix.close())
  }
  const observed = observe(options, env, onClose)
  const made = server({
    env,
    services: mounted,
    identify: await options.identify(env),
    policyOf: service => policies.of(service),
    onAnswer: observed.onAnswer,
    keepBodies: options.record !== undefined,
    extra: {
      ...observed.extra,
      '/agent': joinHandler({
        db,
        log,
        ca: options.ca,
        addresses: () => (options.address === undefined ? [] : [options.address]),
      }),
    },
    upgrades: { '/agent': agentEndpoint({ hosts, authenticate, log }).upgrade },
    tls: options.tls,
    cors: corsOf(config.of(corsSettings)),
  })
  const at = await listen(made, options.at)
  onClose(() => at.close())
  return { url: at.url, env, hosts }
}

/** Why nothing can start: which database, without its password, and all that is known of the reason. */
function unusable(url: string, error: unknown): Error {
  const { host, pathname, searchParams } = new URL(url)
  return new Error(`the database ${searchParams.get('host') ?? host}${pathname} cannot be used: ${reason(error)}`, {
    cause: error,
  })
}

async function registerHosts(db: Db, { local, inProcess = [] }: ControllerOptions): Promise<void> {
  await db.tx(async tx => {
    if (inProcess.length > 0) await hostsEnsure(tx, inProcess)
    if (local) await hostSecretEnsure(tx, local.host, local.secret)
  })
}

/** The policy of all services with the operators' overrides, read again when their files change. */
function policiesOf(services: readonly Service[], folder: string, log: Log, onStop: (stop: () => void) => void): Enforcer {
  const names = services.map(s => s.name)
  const rules = services.map(s => ({ name: s.name, rules: s.policies, denied: s.wire.denied }))
  const made = enforcer(rules, { overrides: readOverrides(folder, names) })
  for (const warning of made.warnings()) log.warn(warning)
  onStop(
    watchOverrides(
      folder,
      () => {
        made.reload(readOverrides(folder, names))
        log.info('policy files were read again')
      },
      err => log.error({ err }, 'policy files cannot be used; the rules stay as they were'),
    ),
  )
  return made
}

/** Logs, metrics and recordings of every exchange; `/healthcheck` and `/metrics`. */
function observe(options: ControllerOptions, env: Env, onClose: (closer: () => Promise<unknown>) => void) {
  const { log } = options
  const metrics = openMetrics(log)
  metrics.gauge('nubo_hosts_connected', 'Hosts whose agent is connected to this controller.', () => env.hosts.connected().length)
  metrics.gauge(
    'nubo_sagas',
    'Operations in progress, by name and state.',
    async () => {
      const counts = new Map<string, number>()
      for (const s of await sagaList(env.db.read))
        counts.set(`${s.name} ${s.state}`, (counts.get(`${s.name} ${s.state}`) ?? 0) + 1)
      return [...counts].map(([key, value]) => ({ labels: { name: key.split(' ')[0]!, state: key.split(' ')[1]! }, value }))
    },
    ['name', 'state'],
  )
  const recorder = options.record
    ? harRecorder(options.record, err => log.error({ err }, 'the recording failed and has ended'))
    : undefined
  if (recorder) onClose(() => recorder.close())
  const onAnswer = (x: Exchange): void => {
    metrics.request(x.service, x.method, x.route, x.status, x.ms)
    recorder?.record(harOf(x))
    const fields = {
      service: x.service,
      method: x.method,
      path: x.path,
      status: x.status,
      ms: Math.round(x.ms * 10) / 10,
      request_id: x.requestId,
      user_id: x.ctx?.userId,
      project_id: x.ctx?.projectId,
    }
    if (x.status >= 500) log.warn(fields, 'answered')
    else if (x.method === 'GET' || x.method === 'HEAD') log.debug(fields, 'answered')
    else log.info(fields, 'answered')
  }
  const text = (res: ServerResponse, status: number, type: string, body: string): void => {
    res.writeHead(status, { 'Content-Type': type, 'Content-Length': Buffer.byteLength(body) }).end(body)
  }
  return {
    onAnswer,
    extra: {
      '/healthcheck': (_: unknown, res: ServerResponse) => {
        env.db.read
          .selectNoFrom(eb => eb.lit(1).as('one'))
          .execute()
          .then(
            () => text(res, 200, 'text/plain', 'OK'),
            () => text(res, 503, 'text/plain', 'the database does not answer'),
          )
      },
      '/metrics': (_: unknown, res: ServerResponse) => {
        metrics.text().then(
          body => text(res, 200, metrics.contentType, body),
          () => text(res, 500, 'text/plain', 'metrics could not be read'),
        )
      },
      '/': (_: unknown, res: ServerResponse) => {
        const list = options.services
          .filter(s => options.api.includes(s.name))
          .map(s => ({ name: s.name, type: s.type, path: s.prefix }))
        text(res, 200, 'application/json', JSON.stringify({ name: 'nubo', services: list }))
      },
    },
  }
}
