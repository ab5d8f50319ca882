/** What other services may use of object storage: objects in an account, as the store itself. */
import { unavailable } from '#kit/fault.ts'
import type { Env } from '#kit/service.ts'
import { storeIn } from './embed.ts'
import { type Body, discard, formatQuery, type Headers, ok, ownEnv, quote, type Req, type Res, readAll } from './http/message.ts'

export { fillContainer } from './fill.ts'
export { PREFIX, swift } from './service.ts'
export { startAlone } from './standalone.ts'

/** Objects in one account. Names are `container/object`. Methods throw Fault `unavailable` when the store does not do as asked. */
export interface ObjectStore {
  /** Makes the container when it is missing. */
  ensure(container: string): Promise<void>
  /** Stores bytes of that length (null: unknown); answers the MD5. */
  put(
    container: string,
    object: string,
    body: AsyncIterable<Buffer> | Buffer,
    options?: { length?: number | null; headers?: Headers; query?: Record<string, string> },
  ): Promise<{ etag: string }>
  /** The object, or null when there is none. `range` as [start, end). */
  get(
    container: string,
    object: string,
    range?: [number, number],
  ): Promise<{ headers: Headers; size: number; body: AsyncIterable<Buffer> } | null>
  head(container: string, object: string): Promise<Headers | null>
  /** False when there was none. */
  remove(container: string, object: string): Promise<boolean>
  list(container: string, options?: { prefix?: string; marker?: string; limit?: number }): Promise<Listed[]>
  /** A container and all in it. */
  drop(container: string): Promise<void>
}

/** An object in a listing. */
export interface Listed {
  name: string
  bytes: number
  hash: string
  /** ISO 8601 without a zone: UTC. */
  last_modified: string
}

/** The objects of a project: account `AUTH_<project>`, or one of a service's own (a name that begins with a dot is never a tenant's). */
export function objectsOf(env: Env, account: string): ObjectStore {
  const ask = async (
    method: string,
    path: string,
    options: {
      query?: Record<string, string>
      headers?: Headers
      body?: AsyncIterable<Buffer> | null
      length?: number | null
    } = {},
  ): Promise<Res> => {
    const length = options.length === undefined ? 0 : options.length
    const req: Req = {
      method,
      path: `/v1/${account}/${path}`,
      rawPath: quote(`/v1/${account}/${path}`),
      query: new Map(globalThis.Object.entries(options.query ?? {})),
      headers: {
        ...options.headers,
        ...(length === null ? { 'transfer-encoding': 'chunked' } : { 'content-length': String(length) }),
      },
      body: options.body ?? null,
      length,
      env: { ...ownEnv('internal'), authorizeOverride: true },
    }
    const here = storeIn(env)
    if (!here) throw unavailable('Object storage does not run in this process')
    return here.app(req)
  }
  const wanted = (res: Res, what: string): Res => {
    if (ok(res.status)) return res
    discard(res)
    throw unavailable(`Object storage answered ${res.status} to ${what}`)
  }
  const store: ObjectStore = {
    async ensure(container) {
      wanted(await ask('PUT', container), `PUT of container ${container}`)
    },
    async put(container, object, body, { length, headers, query } = {}) {
      const bytes = Buffer.isBuffer(body) ? one(body) : body
      const size = Buffer.isBuffer(body) ? body.length : (length ?? null)
      const res = wanted(
        await ask('PUT', `${container}/${object}`, { headers, query, body: bytes, length: size }),
        `PUT of ${container}/${object}`,
      )
      return { etag: res.headers.etag.replaceAll('"', '') }
    },
    async get(container, object, range) {
      const headers: Headers = range ? { range: `bytes=${range[0]}-${range[1] - 1}` } : {}
      const res = await ask('GET', `${container}/${object}`, { headers })
      if (res.status === 404) return null
      wanted(res, `GET of ${container}/${object}`)
      return { headers: res.headers, size: Number(res.headers['content-length']), body: stream(res.body) }
    },
    async head(container, object) {
      const res = await ask('HEAD', `${container}/${object}`)
      return res.status === 404 ? null : wanted(res, `HEAD of ${container}/${object}`).headers
    },
    async remove(container, object) {
      const res = await ask('DELETE', `${container}/${object}`)
      if (res.status === 404) return false
      wanted(res, `DELETE of ${container}/${object}`)
      return true
    },
    async list(container, options = {}) {
      const query: Record<string, string> = { format: 'json' }
      for (const [name, value] of globalThis.Object.entries(options)) if (value !== undefined) query[name] = String(value)
      const res = await ask('GET', container, { query })
      if (res.status === 404) return []
      return JSON.parse(
        (
          await readAll(
            wanted(res, `GET of container ${container}?${formatQuery(new Map(globalThis.Object.entries(query)))}`).body,
          )
        ).toString(),
      ) as Listed[]
    },
    async drop(container) {
      for (;;) {
        const page = await store.list(container, { limit: 1000 })
        for (const item of page) await store.remove(container, item.name)
        if (page.length === 0) break
      }
      const res = await ask('DELETE', container)
      if (res.status !== 404) wanted(res, `DELETE of container ${container}`)
    },
  }
  return store
}

async function* one(bytes: Buffer): AsyncGenerator<Buffer> {
  if (bytes.length) yield bytes
}
async function* stream(body: Body): AsyncGenerator<Buffer> {
  if (Buffer.isBuffer(body)) yield body
  else if (body) yield* body
}
