/** For tests: a whole object store on a temporary folder, spoken to over HTTP. */
import { mkdtemp, rm } from 'node:fs/promises'
import { request } from 'node:http'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { TestContext } from 'node:test'
import { openLog } from '#kit/log.ts'
import { type Alone, type AloneOptions, startAlone } from './standalone.ts'

export interface Answer {
  status: number
  headers: Record<string, string>
  body: Buffer
  text: string
  json(): unknown
}

export interface Store extends Alone {
  dir: string
  token: string
  /** A request below `/v1/AUTH_test`, as its owner unless told otherwise. Paths are sent as they are. */
  call(method: string, path: string, headers?: Record<string, string>, body?: Buffer | string): Promise<Answer>
  /** A request without a token to any path. */
  raw(method: string, path: string, headers?: Record<string, string>, body?: Buffer | string): Promise<Answer>
}

export const USERS = [
  { account: 'test', user: 'tester', key: 'testing', groups: ['.admin'] },
  { account: 'test', user: 'guest', key: 'testing', groups: [] },
  { account: 'other', user: 'tester', key: 'testing', groups: ['.admin'] },
  { account: 'admin', user: 'admin', key: 'testing', groups: ['.admin', '.reseller_admin'] },
]

/** Starts it; gone after the test. */
export async function testStore(t: TestContext, options: Partial<AloneOptions> = {}): Promise<Store> {
  const dir = options.dataDir ?? (await mkdtemp(join(tmpdir(), 'swift-test-')))
  const alone = await startAlone({
    dataDir: dir,
    log: openLog({ level: 'fatal' }),
    listen: { ip: '127.0.0.1', port: 0 },
    databaseThreads: 1,
    // a slow disk must not turn what a test expects at once into something that is eventually so
    patience: { updates: 120, replicas: 120 },
    ...options,
    settings: { tempauth: { users: USERS, tokenLife: 3600 }, accessLog: false, ...options.settings },
  })
  t.after(async () => {
    await alone.close()
    if (!options.dataDir) await rm(dir, { recursive: true, force: true })
  })
  const raw: Store['raw'] = (method, path, headers = {}, body) => ask(alone.port, method, path, headers, body)
  const token = await login(raw, 'test:tester')
  return {
    ...alone,
    dir,
    token,
    raw,
    call: (method, path, headers, body) => raw(method, `/v1/AUTH_test${path}`, { 'x-auth-token': token, ...headers }, body),
  }
}

/** A token for one of USERS. */
export async function login(raw: Store['raw'], user: string): Promise<string> {
  return (await raw('GET', '/auth/v1.0', { 'x-auth-user': user, 'x-auth-key': 'testing' })).headers['x-auth-token']
}

function ask(
  port: number,
  method: string,
  path: string,
  headers: Record<string, string>,
  body?: Buffer | string,
): Promise<Answer> {
  return new Promise((resolve, reject) => {
    const all: Record<string, string> = { ...headers }
    if (body !== undefined && all['transfer-encoding'] === undefined) all['content-length'] ??= String(Buffer.byteLength(body))
    if (body === undefined && (method === 'PUT' || method === 'POST') && all['transfer-encoding'] === undefined)
      all['content-length'] ??= '0'
    const outgoing = request({ host: '127.0.0.1', port, method, path, headers: all, agent: false }, incoming => {
      const parts: Buffer[] = []
      incoming.on('data', part => parts.push(part as Buffer))
      incoming.on('error', reject)
      incoming.on('end', () => {
        const bytes = Buffer.concat(parts)
        resolve({
          status: incoming.statusCode!,
          headers: incoming.headers as Record<string, string>,
          body: bytes,
          text: bytes.toString(),
          json: () => JSON.parse(bytes.toString()) as unknown,
        })
      })
    })
    outgoing.on('error', reject)
    outgoing.end(body)
  })
}
