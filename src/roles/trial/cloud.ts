/**
 * A whole cloud for tests that try every route: all services in one process, pretended hosts, a real database, real tokens. Two tenants are
 * in it: the owner, who has one of each noun, and a foreign one, who has nothing.
 */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { Agent, request } from 'node:http'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { testDatabase } from '#kit/db/test.ts'
import type { Route } from '#kit/http/route.ts'
import type { Ask, Making, Tried, TriedAnswer } from '#kit/http/tried.ts'
import { openLog } from '#kit/log.ts'
import type { Env, Service } from '#kit/service.ts'
import { tried as glance } from '#services/glance/tried.ts'
import { expiredToken, tried as keystone } from '#services/keystone/tried.ts'
import { tried as neutron } from '#services/neutron/tried.ts'
import { tried as nova } from '#services/nova/tried.ts'
import { tried as placement } from '#services/placement/tried.ts'
import { tried as swift } from '#services/swift/tried.ts'
import { startControlled } from '../controlled.ts'
import { startSimulatedHosts } from '../host.ts'
import { SERVICES } from '../services.ts'

const TRIED: Record<string, Tried> = { keystone, placement, swift, glance, neutron, nova }

/** An answer that takes longer than this hangs. */
const DEADLINE_MS = 20_000

export interface Sent {
  token?: string | null
  headers?: Record<string, string>
  /** JSON unless it is bytes. */
  body?: unknown
}

/** A route of the cloud with where it is: what the trials go through. */
export interface Entry {
  service: Service
  tried: Tried
  method: string
  /** With its mount: `/v2.1/servers/:id`. */
  path: string
  route?: Route
  /** `METHOD /servers/:id`, without mount. */
  key: string
}

export interface TrialCloud {
  env: Env
  url: string
  tokens: { owner: string; foreign: string; admin: string; expired: string }
  entries: readonly Entry[]
  /** Ids by service and path; the owner's, and those that belong to all. */
  owned: Record<string, Record<string, string>>
  shared: Record<string, Record<string, string>>
  foreignProjectId: string
  /** Sends a request as it is told. Rejects when no answer comes in time. */
  send(method: string, path: string, sent?: Sent): Promise<TriedAnswer>
  /** The last body that made something, by service and `METHOD /path` without ids. */
  sane: Map<string, unknown>
}

/** A hook's context: `t` of a test, or what collects closers for a suite. */
type After = { after(fn: () => Promise<void>): void }

/** Starts it, with all of the owner's things in it. */
export async function trialCloud(t: After): Promise<TrialCloud> {
  const folder = mkdtempSync(join(tmpdir(), 'nubo-trial-'))
  const database = await testDatabase(SERVICES.map(s => ({ schema: s.name, migrations: [...s.migrations] })))
  const configFile = join(folder, 'nubo.yaml')
  writeFileSync(configFile, 'keystone: { identity: { password_hash_rounds: 4 } }\n')
  const log = openLog({ level: (process.env.TEST_LOG as 'debug' | undefined) ?? 'fatal' })
  const controller = await startControlled(
    {
      configFile,
      folder,
      databaseUrl: database.url,
      at: { host: '127.0.0.1', port: 0 },
      publicUrl: 'http://cloud.test',
      region: 'RegionOne',
      passwords: { admin: 'admin-secret', demo: 'demo-secret' },
      inProcess: ['host1'],
    },
    log,
  )
  const hosts = await startSimulatedHosts(controller, ['host1'], log)
  const agent = new Agent({ keepAlive: true, maxSockets: 8 })
  t.after(async () => {
    agent.destroy()
    await hosts.stop()
    await controller.close()
    await database.drop()
    rmSync(folder, { recursive: true, force: true })
  })
  const { url, env } = controller
  const send: TrialCloud['send'] = (method, path, sent = {}) => exchange(agent, url + path, method, sent)
  const login = async (name: string, password: string, project: string) => {
    const user = { name, password, domain: { id: 'default' } }
    const scope = { project: { name: project, domain: { id: 'default' } } }
    const body = { auth: { identity: { methods: ['password'], password: { user } }, scope } }
    const answer = await send('POST', '/identity/v3/auth/tokens', { body })
    if (answer.status !== 201) throw new Error(`login of ${name}: ${answer.status} ${JSON.stringify(answer.body)}`)
    const { token } = answer.body
    return { token: String(answer.headers['x-subject-token']), userId: token.user.id, projectId: token.project.id }
  }
  const sane = new Map<string, unknown>()
  const admin = await login('admin', 'admin-secret', 'admin')
  const asking = (service: Service, token: string): Ask => askOf(send, service, token, sane)
  const foreign = await foreignMake(asking(SERVICES[0]!, admin.token), login)
  const owner = await login('demo', 'demo-secret', 'demo')
  const owned: TrialCloud['owned'] = {}
  const shared: TrialCloud['shared'] = {}
  for (const service of SERVICES) {
    const making: Making = {
      owner: asking(service, owner.token),
      admin: asking(service, admin.token),
      userId: owner.userId,
      projectId: owner.projectId,
      foreignUserId: foreign.userId,
      foreignProjectId: foreign.projectId,
      made: owned,
      until,
    }
    const tried = TRIED[service.name]!
    const all = await tried.make(making)
    const isCommon = (key: string) => tried.common?.includes(key) ?? false
    owned[service.name] = Object.fromEntries(Object.entries(all).filter(([key]) => !isCommon(key)))
    const common = Object.fromEntries(Object.entries(all).filter(([key]) => isCommon(key)))
    shared[service.name] = { ...common, ...(await tried.shared?.(making)) }
  }
  // What was done to the owner's roles ends the tokens from before.
  const tokens = {
    owner: (await login('demo', 'demo-secret', 'demo')).token,
    foreign: foreign.token,
    admin: admin.token,
    expired: expiredToken(env, admin.token),
  }
  return { env, url, tokens, entries: entriesOf(SERVICES), owned, shared, foreignProjectId: foreign.projectId, send, sane }
}

async function foreignMake(
  admin: Ask,
  login: (name: string, password: string, project: string) => Promise<{ token: string; userId: string; projectId: string }>,
) {
  const { project } = await admin('POST /v3/projects', { project: { name: 'foreign', domain_id: 'default' } })
  const user = await admin('POST /v3/users', { user: { name: 'foreign', password: 'foreign-secret', domain_id: 'default' } })
  const { roles } = await admin('GET /v3/roles?name=member')
  await admin(`PUT /v3/projects/${project.id}/users/${user.user.id}/roles/${roles[0].id}`)
  return login('foreign', 'foreign-secret', 'foreign')
}

/** Every route of every service with its first mount; those of services without a table as they list them. */
function entriesOf(services: readonly Service[]): Entry[] {
  return services.flatMap(service => {
    const tried = TRIED[service.name]!
    const listed = (tried.requests ?? []).map(r => ({ service, tried, ...r, key: `${r.method} ${r.path}` }))
    const routes = service.routes.flatMap(route =>
      (route.mounts ?? service.mounts.slice(0, 1)).map(mount => {
        const key = `${route.method} ${route.path}`
        return { service, tried, method: route.method, path: `${mount}${route.path}` || '/', route, key }
      }),
    )
    return [...listed, ...routes]
  })
}

/** The newest version of an API that has a route, as its header says it; none for services without versions. */
export function versionFor({ service, route }: Pick<Entry, 'service' | 'route'>): Record<string, string> {
  const m = service.microversions
  if (!m) return {}
  return { 'openstack-api-version': `${m.type} ${m.major}.${Math.min(route?.until ?? m.max, m.max)}` }
}

/**
 * The path with ids in place of its parameters, by `ids` as {@link Tried.make} gives them; `lacking` names the parameters for which there
 * was none, and which became `otherwise`.
 */
export function pathWith(
  { service, path, route }: Entry,
  ids: readonly Record<string, string>[],
  otherwise = 'c0000000-0000-4000-8000-000000000000',
): { path: string; lacking: string[] } {
  const lacking: string[] = []
  const mount = route ? (route.mounts ?? service.mounts)[0]! : ''
  let pattern = ''
  const filled = path.split('/').map((segment, at) => {
    if (at === 0) return segment
    const isParameter = segment.startsWith(':') || segment === '*'
    pattern += `/${segment === '*' ? '*' : isParameter ? ':' : segment}`
    if (!isParameter) return segment
    const key = pattern.slice(mount.length)
    const id = ids.map(one => one[key]).find(one => one !== undefined)
    if (id === undefined) lacking.push(key)
    return encodeURIComponent(id ?? otherwise)
  })
  return { path: service.prefix + filled.join('/'), lacking }
}

function askOf(send: TrialCloud['send'], service: Service, token: string, sane: Map<string, unknown>): Ask {
  return async (methodAndPath, body) => {
    const [method, path] = methodAndPath.split(' ') as [string, string]
    const bytes = typeof body === 'string' && { 'content-type': 'application/octet-stream' }
    const answer = await send(method, service.prefix + path, { token, body, headers: { ...versionFor({ service }), ...bytes } })
    if (answer.status >= 300) throw new Error(`${methodAndPath}: ${answer.status} ${JSON.stringify(answer.body)}`)
    if (body !== undefined && !bytes) sane.set(`${service.name} ${methodAndPath.replace(/\?.*/, '')}`, body)
    return answer.body
  }
}

async function until(ask: () => Promise<unknown>, done: (answer: never) => boolean): Promise<void> {
  const end = Date.now() + 60_000
  for (;;) {
    const answer = await ask()
    if (done(answer as never)) return
    if (Date.now() > end) throw new Error(`it never came: ${JSON.stringify(answer)}`)
    await delay(50)
  }
}

function exchange(agent: Agent, url: string, method: string, { token, headers = {}, body }: Sent): Promise<TriedAnswer> {
  const raw = body === undefined ? undefined : typeof body === 'string' || Buffer.isBuffer(body) ? body : JSON.stringify(body)
  return new Promise((resolve, reject) => {
    const at = new URL(url.replace(/(?<=:\d+)\/.*/, ''))
    const req = request({
      agent,
      host: at.hostname,
      port: at.port,
      method,
      path: url.slice(at.origin.length),
      headers: {
        ...(token && { 'x-auth-token': token }),
        ...(raw !== undefined && { 'content-type': 'application/json', 'content-length': Buffer.byteLength(raw) }),
        ...headers,
      },
    })
    const timer = setTimeout(() => req.destroy(new Error(`no answer in ${DEADLINE_MS} ms: ${method} ${url}`)), DEADLINE_MS)
    req.on('error', error => {
      clearTimeout(timer)
      reject(error)
    })
    req.on('response', res => {
      const parts: Buffer[] = []
      res.on('data', (part: Buffer) => parts.push(part))
      res.on('error', reject)
      res.on('end', () => {
        clearTimeout(timer)
        const text = Buffer.concat(parts).toString()
        const isJson = text !== '' && (res.headers['content-type'] ?? '').includes('json')
        resolve({ status: res.statusCode!, headers: res.headers, body: isJson ? JSON.parse(text) : text })
      })
    })
    req.end(raw)
  })
}
