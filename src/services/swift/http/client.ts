/** Calls to account, container and object servers: in this process where the server is here, else over HTTP. */
import { Agent, request as httpRequest, METHODS } from 'node:http'
import { type App, answer, type Headers, once, ownEnv, parseQuery, quote, type Req, type Res, refuse } from './message.ts'

export type Role = 'account' | 'container' | 'object'

/** A device of a ring, as far as a caller needs it. */
export interface Device {
  id: number
  region: number
  zone: number
  ip: string
  port: number
  replicationIp: string
  replicationPort: number
  device: string
  weight: number
  meta: string
}

/** One place of a partition: a primary with its replica number, or a handoff. */
export interface Place extends Device {
  index: number
  handoff: boolean
}

export interface Call {
  method: string
  /** Below the partition: `/AUTH_x/c/o`. */
  path: string
  query?: string
  headers?: Headers
  body?: AsyncIterable<Buffer> | Buffer | null
  /** Bytes of the body; null or absent with a stream: unknown. */
  length?: number | null
  footers?: () => Headers
  /** Called once when the server is ready to take the body (its `100 Continue`). */
  onReady?: () => void
  /** Seconds until the response must have begun, after the body was sent. */
  timeout?: number
  /** Use the replication network's address. */
  replication?: boolean
  signal?: AbortSignal
}

/** Calls `/device/partition{path}` at a place. Never rejects for a failing server: 503 (unreachable), 504 (late), 507 and so on. */
export type Dialer = (place: Device, role: Role, partition: number | string, call: Call) => Promise<Res>

export interface DialOptions {
  /** Servers in this process, by `ip:port`. */
  local: Map<string, Record<Role, App>>
  connectTimeout?: number
  nodeTimeout?: number
}

/** A dialer with its own pool of connections. */
export function dialer(options: DialOptions): Dialer & { close(): void } {
  const agent = new Agent({ keepAlive: true, maxFreeSockets: 256, scheduling: 'lifo', timeout: 120_000 })
  const dial = async (place: Device, role: Role, partition: number | string, call: Call): Promise<Res> => {
    const path = `/${place.device}/${partition}${call.path}`
    const ip = call.replication ? place.replicationIp : place.ip
    const port = call.replication ? place.replicationPort : place.port
    const here = options.local.get(`${ip}:${port}`)
    if (here) return direct(here[role], path, call)
    return remote(agent, ip, port, role, path, call, options)
  }
  return Object.assign(dial, { close: () => agent.destroy() })
}

async function direct(app: App, path: string, call: Call): Promise<Res> {
  const env = ownEnv('backend', call.headers?.['x-trans-id'])
  const body = call.body == null ? null : Buffer.isBuffer(call.body) ? once(call.body) : call.body
  const req: Req = {
    method: call.method,
    path,
    rawPath: path,
    query: parseQuery(call.query ?? ''),
    headers: { ...call.headers },
    body: body && call.onReady ? announced(body, call.onReady) : body,
    length: Buffer.isBuffer(call.body) ? call.body.length : body ? (call.length ?? null) : 0,
    footers: call.footers,
    env,
  }
  try {
    return await app(req)
  } catch (error) {
    return answer(error)
  }
}

async function* announced(body: AsyncIterable<Buffer>, onReady: () => void): AsyncGenerator<Buffer> {
  onReady()
  yield* body
}

function remote(
  agent: Agent,
  ip: string,
  port: number,
  role: Role,
  path: string,
  call: Call,
  options: DialOptions,
): Promise<Res> {
  return new Promise(resolve => {
    // verbs of the store's own, which HTTP parsers do not know, travel in a header
    const isOwn = !METHODS.includes(call.method)
    const headers: Headers = { ...call.headers, 'x-backend-role': role, ...(isOwn ? { 'x-backend-method': call.method } : {}) }
    const streaming = call.body != null && !Buffer.isBuffer(call.body)
    const length = Buffer.isBuffer(call.body) ? call.body.length : call.body == null ? 0 : (call.length ?? null)
    if (length === null || call.footers) headers['transfer-encoding'] = 'chunked'
    else headers['content-length'] = String(length)
    if (length === null || call.footers) delete headers['content-length']
    if (streaming) headers.expect = '100-continue'
    let settled = false
    let sent = false
    let stopped: ((error: Error) => void) | null = null
    const settle = (res: Res): void => {
      if (settled) return
      settled = true
      clearTimeout(connecting)
      clearTimeout(late)
      resolve(res)
    }
    const outgoing = httpRequest({
      agent,
      host: ip,
      port,
      method: isOwn ? 'POST' : call.method,
      path: quote(path) + (call.query ? `?${call.query}` : ''),
      headers,
      signal: call.signal,
    })
    const fail = (status: number, text: string): void => {
      outgoing.destroy()
      stopped?.(new Error(text))
      settle(refuse(status, text, { 'x-backend-unreachable': 'true' }))
    }
    const connecting = setTimeout(() => fail(503, `no connection to ${ip}:${port}`), (options.connectTimeout ?? 1) * 1000)
    // Runs only while we wait for the server: never while the client behind the body thinks.
    const late = setTimeout(() => fail(504, `no answer from ${ip}:${port}`), (call.timeout ?? options.nodeTimeout ?? 10) * 1000)
    outgoing.on('socket', socket => {
      if (!socket.connecting) return clearTimeout(connecting)
      socket.setNoDelay(true)
      socket.once('connect', () => clearTimeout(connecting))
    })
    outgoing.on('error', error => fail(503, `${ip}:${port}: ${error.message}`))
    outgoing.on('response', incoming => {
      stopped?.(new Error('answered before the body was sent'))
      const res: Res = {
        status: incoming.statusCode ?? 503,
        headers: incoming.headers as Headers,
        body: null,
        reason: incoming.statusMessage,
      }
      delete res.headers.connection
      delete res.headers['keep-alive']
      delete res.headers['transfer-encoding']
      if (!sent) incoming.once('end', () => outgoing.destroy())
      if (call.method === 'HEAD' || res.status === 204 || res.status === 304 || res.headers['content-length'] === '0') {
        incoming.resume()
      } else {
        res.body = Object.assign(incoming, { discard: () => incoming.destroy() })
        incoming.setTimeout((options.nodeTimeout ?? 10) * 6000, () =>
          incoming.destroy(new Error(`${ip}:${port} stopped sending`)),
        )
      }
      settle(res)
    })
    const send = async (): Promise<void> => {
      call.onReady?.()
      const interrupted = new Promise<never>((_, reject) => {
        stopped = reject
      })
      interrupted.catch(() => {})
      clearTimeout(late)
      for await (const chunk of call.body as AsyncIterable<Buffer>) {
        if (settled) return
        if (outgoing.write(chunk)) continue
        late.refresh()
        await Promise.race([interrupted, new Promise<void>(drained => outgoing.once('drain', drained))])
        clearTimeout(late)
      }
      sent = true
      if (!settled) late.refresh()
      if (call.footers) outgoing.addTrailers(call.footers())
      outgoing.end()
    }
    if (streaming) {
      outgoing.once('continue', () => void send().catch(error => fail(499, (error as Error).message)))
      outgoing.flushHeaders()
    } else {
      sent = true
      if (call.footers) outgoing.addTrailers(call.footers())
      outgoing.end((call.body as Buffer | null | undefined) ?? undefined)
    }
  })
}
