/** A real cloud for a black-box script: in a folder of its own, driven by the nubo command and by API. */
import { chmodSync, mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { parse } from 'yaml'
import { type RunResult, run } from '#host/run.ts'

const NUBO = fileURLToPath(new URL('../../nubo', import.meta.url))

/** An answer of an API. */
export interface Answer {
  status: number
  body: Record<string, unknown>
}

export interface Cloud {
  /** The script's folder, and in it the cloud's data folder. */
  folder: string
  data: string
  url: string
  /** `nubo WORD… --data DATA`. Rejects with its words unless it ends with one of `codes`. */
  nubo(words: string[], codes?: number[]): Promise<RunResult>
  /** The stock client as the administrator. */
  openstack(words: string[], codes?: number[]): Promise<RunResult>
  /** Its answer as `-f json` gives it. */
  ask(...words: string[]): Promise<Record<string, string>>
  askList(...words: string[]): Promise<Record<string, string>[]>
  /** One request with a token of the administrator's, which is fetched anew when it is refused. Rejects when nobody answers. */
  api(method: string, path: string, body?: unknown): Promise<Answer>
  /** The last lines of its log. */
  log(lines?: number): string
  /** Removes the script's folder. */
  remove(): void
}

/** A folder for a cloud; nothing runs yet. `name` begins the folder's name. */
export function cloudAt(name: string, at = '127.0.0.1:5000'): Cloud {
  // Guests' users must be able to pass through.
  const folder = mkdtempSync(`/tmp/${name}-`)
  chmodSync(folder, 0o711)
  const data = join(folder, 'data')
  const clouds = join(data, 'clouds.yaml')
  const env = { OS_CLIENT_CONFIG_FILE: clouds, OS_CLOUD: 'nubo', NODE_EXTRA_CA_CERTS: undefined }
  let token = ''
  const openstack: Cloud['openstack'] = (words, codes) =>
    run(['openstack', ...words], { env, codes, timeoutMs: 180_000, cwd: folder })
  const asJson = async (words: string[]) => JSON.parse((await openstack([...words, '-f', 'json'])).stdout)
  const signIn = async (): Promise<void> => {
    const { auth } = (parse(readFileSync(clouds, 'utf8')) as { clouds: { nubo: { auth: { password: string } } } }).clouds.nubo
    const response = await fetch(`http://${at}/identity/v3/auth/tokens`, {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: JSON.stringify({
        auth: {
          identity: {
            methods: ['password'],
            password: { user: { name: 'admin', domain: { id: 'default' }, password: auth.password } },
          },
          scope: { project: { name: 'admin', domain: { id: 'default' } } },
        },
      }),
      signal: AbortSignal.timeout(30_000),
    })
    if (response.status !== 201) throw new Error(`no token: ${response.status} ${await response.text()}`)
    token = response.headers.get('x-subject-token')!
  }
  const api = async (method: string, path: string, body?: unknown, again = true): Promise<Answer> => {
    if (token === '') await signIn()
    const response = await fetch(`http://${at}${path}`, {
      method,
      headers: { 'x-auth-token': token, 'content-type': 'application/json', 'x-openstack-nova-api-version': '2.90' },
      ...(body !== undefined && { body: body instanceof Uint8Array ? new Uint8Array(body) : JSON.stringify(body) }),
      ...(body instanceof Uint8Array && {
        headers: { 'x-auth-token': token, 'content-type': 'application/octet-stream' },
      }),
      signal: AbortSignal.timeout(60_000),
    })
    const text = await response.text()
    if (response.status === 401 && again) {
      token = ''
      return api(method, path, body, false)
    }
    return { status: response.status, body: text === '' ? {} : (JSON.parse(text) as Record<string, unknown>) }
  }
  return {
    folder,
    data,
    url: `http://${at}`,
    nubo: (words, codes) => run([NUBO, ...words, '--data', data], { codes, timeoutMs: 300_000, cwd: '/' }),
    openstack,
    ask: (...words) => asJson(words) as Promise<Record<string, string>>,
    askList: (...words) => asJson(words) as Promise<Record<string, string>[]>,
    api: (method, path, body) => api(method, path, body),
    log: (lines = 30) => readFileSync(join(data, 'nubo.log'), 'utf8').trimEnd().split('\n').slice(-lines).join('\n'),
    remove: () => rmSync(folder, { recursive: true, force: true }),
  }
}
