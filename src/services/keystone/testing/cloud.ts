import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { TestContext } from 'node:test'
import { parseConfig } from '#kit/config.ts'
import type { Db } from '#kit/db/index.ts'
import { testDb } from '#kit/db/test.ts'
import { harOf, harRecorder } from '#kit/http/har.ts'
import { listen, server } from '#kit/http/server.ts'
import type { Hosts } from '#kit/link/index.ts'
import { openLog } from '#kit/log.ts'
import { enforcer, parseOverrides } from '#kit/policy/index.ts'
import type { Env } from '#kit/service.ts'
import { authenticate } from '../authenticate.ts'
import { bootstrap, bootstrapPrepare } from '../bootstrap.ts'
import { keystone } from '../service.ts'
import { keystoneSettings } from '../settings.ts'

/** Identity alone, over real HTTP, with real tokens. */
export interface IdentityCloud {
  env: Env
  db: Db
  /** ends with /identity/v3 */
  url: string
  adminProjectId: string
  /** Calls `METHOD path` below /v3. */
  call(methodAndPath: string, options?: { token?: string; body?: unknown; headers?: Record<string, string> }): Promise<Answer>
  /** A token by password; scope as in the API, the user in the default domain. */
  login(user: string, password: string, scope?: unknown): Promise<string>
  admin(): Promise<string>
  /** Stops serving, and ends log and recording; happens by itself after the test. */
  stop(): Promise<void>
}

export interface Answer {
  status: number
  headers: Headers
  // biome-ignore lint/suspicious/noExplicitAny: tests reach into answers of every shape
  body: any
}

export const PASSWORD = 'sesame'
export const ADMIN_SCOPE = { project: { name: 'admin', domain: { id: 'default' } } }

/** Starts identity for a test; `yaml` is the configuration of its section. Hashes are cheap unless it says otherwise. */
export async function identityCloud(
  t: TestContext,
  yaml = '',
  shared?: { db: Db; folder: string },
  policyYaml = '',
  record?: string,
  logged?: (line: string) => void,
): Promise<IdentityCloud> {
  const stops: (() => Promise<void>)[] = []
  const stopAll = async () => {
    for (const stop of stops.splice(0).reverse()) await stop()
  }
  t.after(stopAll)
  const folder = shared?.folder ?? mkdtempSync(join(tmpdir(), 'nubo-keystone-'))
  if (!shared) t.after(() => rmSync(folder, { recursive: true, force: true }))
  const db = shared?.db ?? (await testDb(t, [{ schema: keystone.name, migrations: [...keystone.migrations] }]))
  const indented = yaml.replace(/^/gm, '  ')
  const cheap = /^identity:/m.test(yaml) ? '' : '  identity: { password_hash_rounds: 4 }\n'
  const text = `nubo: { data: ${folder} }\nkeystone:\n${cheap}${indented}\n`
  const config = parseConfig(text, 'test', [keystoneSettings])
  const log = logged
    ? openLog({ level: 'trace', sink: logged })
    : openLog({ level: (process.env.TEST_LOG as 'debug' | undefined) ?? 'fatal' })
  const env: Env = { db, log, config, hosts: noHosts }
  const policies = enforcer([{ name: keystone.name, rules: keystone.policies, denied: keystone.wire.denied }], {
    overrides: parseOverrides(policyYaml, 'policy.yaml', keystone.name),
  })
  // With TEST_RECORD all tests together make a recording, to be checked against the API's contract.
  const file = record ?? process.env.TEST_RECORD
  const recorder = file === undefined ? undefined : harRecorder(file)
  if (recorder) stops.push(() => recorder.close())
  const made = server({
    ...((recorder || logged) && {
      keepBodies: true,
      onAnswer: exchange => {
        recorder?.record(harOf(exchange))
        const { url, status, requestHeaders, responseHeaders } = harOf(exchange)
        log.debug({ url, status, requestHeaders, responseHeaders }, 'answered')
      },
    }),
    env,
    services: [keystone],
    identify: authenticate(env, [keystone]),
    policyOf: name => policies.of(name),
  })
  const at = await listen(made, { host: '127.0.0.1', port: 0 })
  stops.push(() => at.close(0))
  const stop = await keystone.start?.(env)
  if (stop) stops.push(stop)
  const url = `${at.url}/identity/v3`
  const prepared = await bootstrapPrepare(env, {
    adminPassword: PASSWORD,
    demoPassword: PASSWORD,
    publicUrl: at.url,
    services: [
      { name: 'keystone', type: 'identity', path: '/identity' },
      { name: 'cinder', type: 'block-storage', path: '/volume/v3/$(project_id)s' },
    ],
  })
  const { adminProjectId } = await db.tx(tx => bootstrap(tx, prepared))
  const call: IdentityCloud['call'] = async (methodAndPath, { token, body, headers } = {}) => {
    const [method, path] = methodAndPath.split(' ') as [string, string]
    const response = await fetch(path.startsWith('http') ? path : url + path, {
      method,
      redirect: 'manual',
      headers: {
        ...(token && { 'x-auth-token': token }),
        ...(body !== undefined && { 'content-type': 'application/json' }),
        ...headers,
      },
      body: body === undefined ? undefined : JSON.stringify(body),
    })
    const text = await response.text()
    const json = response.headers.get('content-type')?.includes('json')
    return { status: response.status, headers: response.headers, body: json && text ? JSON.parse(text) : text }
  }
  const login: IdentityCloud['login'] = async (name, password, scope) => {
    const user = { name, password, domain: { id: 'default' } }
    const { status, headers, body } = await call('POST /auth/tokens', {
      body: { auth: { identity: { methods: ['password'], password: { user } }, ...(scope !== undefined && { scope }) } },
    })
    if (status !== 201) throw new Error(`login of ${name}: ${status} ${JSON.stringify(body)}`)
    return headers.get('x-subject-token')!
  }
  return { env, db, url, adminProjectId, call, login, admin: () => login('admin', PASSWORD, ADMIN_SCOPE), stop: stopAll }
}

const absent = (): never => {
  throw new Error('identity has no hosts')
}
const noHosts = new Proxy({} as Hosts, { get: () => absent })
