/**
 * A service under test, over real HTTP on a port of its own, with a real database and tokens that are plain JSON: a test says who it is
 * instead of signing in. Whole-cloud tests use real tokens.
 */
import type { TestContext } from 'node:test'
import { type Config, parseConfig } from '../config.ts'
import type { Who } from '../context.ts'
import type { Db, MigrationSet } from '../db/index.ts'
import { testDb } from '../db/test.ts'
import { type Dispatcher, eventDispatcher } from '../events.ts'
import { unauthorized } from '../fault.ts'
import type { Hosts } from '../link/index.ts'
import { openLog } from '../log.ts'
import { enforcer } from '../policy/index.ts'
import { type Runner, sagaRunner } from '../saga/index.ts'
import type { Env, Service } from '../service.ts'
import { type TaskRunner, taskRunner } from '../task.ts'
import type { Cors } from './cors.ts'
import { listen, server } from './server.ts'

/** An answer: status, headers, parsed JSON (or text where it is none). */
export interface Answer {
  status: number
  headers: Headers
  // biome-ignore lint/suspicious/noExplicitAny: tests reach into answers of every shape
  body: any
}

export interface CallOptions {
  as?: Partial<Who>
  headers?: Record<string, string>
  body?: unknown
}

export interface TestCloud {
  env: Env
  db: Db
  url: string
  /** Calls `METHOD path` with a JSON body; `as` is who asks (default: an admin of project `admin`). */
  call(methodAndPath: string, options?: CallOptions): Promise<Answer>
  /** Waits until sagas, tasks and events have nothing left to do. */
  settled(): Promise<void>
}

export const ADMIN: Partial<Who> = {
  userId: 'admin-user',
  projectId: 'admin-project',
  roles: ['admin', 'manager', 'member', 'reader'],
}
/** A member of project `p1`, and of another: the foreign tenant. */
export const MEMBER: Partial<Who> = { userId: 'u1', projectId: 'p1', roles: ['member', 'reader'] }
export const FOREIGN: Partial<Who> = { userId: 'u2', projectId: 'p2', roles: ['member', 'reader'] }

const whole = (who: Partial<Who>): Who => ({
  userId: 'u1',
  userDomainId: 'default',
  projectId: null,
  projectDomainId: 'default',
  domainId: null,
  systemScope: false,
  roles: [],
  ...who,
})

/** Starts services, as a controller process would, for one test. Everything stops when the test ends. */
export async function testCloud(
  t: TestContext,
  services: readonly Service[],
  options: { hosts?: Hosts; config?: Config; cors?: Cors } = {},
): Promise<TestCloud> {
  const sets: MigrationSet[] = services.map(s => ({ schema: s.name, migrations: [...s.migrations] }))
  const stops: (() => Promise<void>)[] = []
  // Registered before the database's own hook, so that everything stops before the database goes.
  t.after(async () => {
    for (const stop of stops.reverse()) await stop()
  })
  const db = await testDb(t, sets)
  const log = openLog({ level: (process.env.TEST_LOG as 'debug' | undefined) ?? 'fatal' })
  const config =
    options.config ??
    parseConfig(
      '',
      'test',
      services.flatMap(s => s.settings ?? []),
    )
  const env: Env = { db, log, config, hosts: options.hosts ?? noHosts }
  for (const s of services) if (s.hostVerbs) env.hosts.serve(env, s.hostVerbs)
  const policies = enforcer(services.map(s => ({ name: s.name, rules: s.policies, denied: s.wire.denied })))
  const whos = new Map<string, Who>()
  const made = server({
    env,
    services,
    identify: token => whos.get(token) ?? remember(whos, token),
    policyOf: name => policies.of(name),
    cors: options.cors,
  })
  const at = await listen(made, { host: '127.0.0.1', port: 0 })
  stops.push(() => at.close(0))
  const runner: Runner = await sagaRunner({ env, sagas: services.flatMap(s => [...(s.sagas ?? [])]) })
  stops.push(() => runner.stop())
  const tasks: TaskRunner = taskRunner(
    env,
    services.flatMap(s => [...(s.tasks ?? [])]),
  )
  stops.push(() => tasks.stop())
  const events: Dispatcher = eventDispatcher(
    env,
    services.flatMap(s => [...(s.on ?? [])]),
  )
  stops.push(() => events.stop())
  for (const s of services) {
    const stop = await s.start?.(env)
    if (stop) stops.push(stop)
  }
  return {
    env,
    db,
    url: at.url,
    async call(methodAndPath, { as = ADMIN, headers, body } = {}) {
      const [method, path] = methodAndPath.split(' ') as [string, string]
      const response = await fetch(at.url + path, {
        method,
        headers: {
          'x-auth-token': JSON.stringify(whole(as)),
          ...(body === undefined ? {} : { 'content-type': 'application/json' }),
          ...headers,
        },
        body: body === undefined ? undefined : typeof body === 'string' ? body : JSON.stringify(body),
        redirect: 'manual',
      })
      const text = await response.text()
      const isJson = text !== '' && (response.headers.get('content-type') ?? '').includes('json')
      return { status: response.status, headers: response.headers, body: isJson ? JSON.parse(text) : text }
    },
    async settled() {
      for (let quiet = 0; quiet < 2; quiet++) {
        await runner.idle()
        await events.idle()
        await tasks.idle()
      }
    },
  }
}

function remember(whos: Map<string, Who>, token: string): Who {
  try {
    const who = JSON.parse(token) as Who
    whos.set(token, who)
    return who
  } catch (error) {
    throw unauthorized('The request you have made requires authentication.', { cause: error })
  }
}

/** No host is there: for services without agents. */
const noHosts = {
  controller: 'test',
  serve() {},
  connected: () => [],
  isConnected: () => false,
  notify: () => false,
} as unknown as Hosts
