/**
 * Puts an `App` behind node:http. Reading and writing bodies is done by hand: a client may be slow (408), go away (499), lie about its
 * length, or get its answer while it is still sending.
 */
import type { IncomingMessage, ServerResponse } from 'node:http'
import { createServer, type Server } from 'node:http'
import type { AddressInfo } from 'node:net'
import type { Log } from '#kit/log.ts'
import {
  type App,
  Arriving,
  answer,
  discard,
  type Env,
  type Headers,
  parseQuery,
  type Req,
  type Res,
  reasonOf,
  refuse,
  reply,
  Stop,
  transactionHeaders,
  transactionId,
  unquote,
} from './message.ts'

export interface ServeOptions {
  /** In front of every path, cut off before the app sees it (`/object-store`). */
  mount?: string
  log: Log
  /** Seconds that a client may pause while it sends or takes a body. */
  clientTimeout?: number
}

/** Unread bytes of a refused request that are taken in and thrown away, so that the client reads its answer. */
const DRAIN_BYTES = 4 * 1024 * 1024
const DRAIN_MS = 5000

/** Answers one request by the app. Never rejects. */
export async function serve(app: App, incoming: IncomingMessage, outgoing: ServerResponse, options: ServeOptions): Promise<void> {
  let req: Req | null = null
  let res: Res
  try {
    req = request(incoming, outgoing, options)
    res = await app(req)
  } catch (error) {
    res = failure(error, incoming, options.log)
  }
  try {
    await write(res, incoming, outgoing, (options.clientTimeout ?? 60) * 1000)
  } catch (error) {
    options.log.warn({ err: error, url: incoming.url, status: res.status }, 'response cut off')
    outgoing.destroy()
  }
}

function failure(error: unknown, incoming: IncomingMessage, log: Log): Res {
  try {
    return answer(error)
  } catch (unexpected) {
    log.error({ err: unexpected, method: incoming.method, url: incoming.url }, 'request failed')
    return refuse(500)
  }
}

function request(incoming: IncomingMessage, outgoing: ServerResponse, options: ServeOptions): Req {
  const url = incoming.url ?? '/'
  const cut = url.indexOf('?')
  let rawPath = cut < 0 ? url : url.slice(0, cut)
  if (rawPath.startsWith('http://') || rawPath.startsWith('https://')) rawPath = rawPath.replace(/^https?:\/\/[^/]*/, '') || '/'
  const mount = options.mount ?? ''
  if (mount && rawPath.startsWith(mount)) rawPath = rawPath.slice(mount.length) || '/'
  const path = unquote(rawPath)
  if (path === null) {
    const told = transactionHeaders(transactionId(incoming.headers as Headers))
    throw new Stop(refuse(412, 'Invalid UTF8 or contains NULL', told))
  }
  const headers = incoming.headers as Headers
  for (const name in headers) {
    if (!name.includes('_')) continue
    headers[name.replaceAll('_', '-')] ??= headers[name] // as all WSGI servers have it
    delete headers[name]
  }
  const chunked = headers['transfer-encoding'] !== undefined
  const length = chunked ? null : headers['content-length'] === undefined ? 0 : Number(headers['content-length'])
  const env: Env = {
    transId: '',
    remote: incoming.socket.remoteAddress ?? '-',
    scheme: headers['x-forwarded-proto'] === 'https' || 'encrypted' in incoming.socket ? 'https' : 'http',
    mount,
    who: null,
    authorize: null,
    owner: false,
    resellerRequest: false,
    source: null,
    infos: new Map(),
    logInfo: [],
  }
  return {
    method: incoming.method ?? 'GET',
    path,
    rawPath,
    query: parseQuery(cut < 0 ? '' : url.slice(cut + 1)),
    headers,
    body: length === 0 ? null : arriving(incoming, outgoing, (options.clientTimeout ?? 60) * 1000),
    length,
    footers: chunked ? () => incoming.trailers as Headers : undefined,
    env,
  }
}

const askedToWait = new WeakSet<IncomingMessage>()

function arriving(incoming: IncomingMessage, outgoing: ServerResponse, timeout: number): Arriving {
  return new Arriving(
    () => body(incoming, outgoing, timeout),
    max => gathered(incoming, outgoing, timeout, max),
  )
}

/** The whole body. Throws 408, 413, 499. */
function gathered(incoming: IncomingMessage, outgoing: ServerResponse, timeout: number, max: number): Promise<Buffer> {
  if (askedToWait.delete(incoming)) outgoing.writeContinue()
  return new Promise((resolve, reject) => {
    const parts: Buffer[] = []
    let size = 0
    const slow = setTimeout(() => incoming.destroy(new Stop(refuse(408))), timeout)
    const fail = (error: unknown): void => {
      clearTimeout(slow)
      reject(error instanceof Stop ? error : new Stop(refuse(499)))
    }
    incoming.on('data', (part: Buffer) => {
      slow.refresh()
      size += part.length
      if (size <= max) parts.push(part)
      else fail(new Stop(refuse(413)))
    })
    incoming.on('error', fail)
    incoming.on('close', () => fail(null)) // says nothing any more when it has ended
    incoming.on('end', () => {
      clearTimeout(slow)
      if (incoming.complete) resolve(parts.length === 1 ? parts[0] : Buffer.concat(parts))
      else fail(null)
    })
  })
}

async function* body(incoming: IncomingMessage, outgoing: ServerResponse, timeout: number): AsyncGenerator<Buffer> {
  if (askedToWait.delete(incoming)) outgoing.writeContinue()
  const slow = setTimeout(() => incoming.destroy(new Stop(refuse(408))), timeout)
  try {
    for await (const chunk of incoming.iterator({ destroyOnReturn: false })) {
      slow.refresh()
      yield chunk as Buffer
      slow.refresh()
    }
  } catch (error) {
    if (error instanceof Stop) throw error
    throw new Stop(refuse(499))
  } finally {
    clearTimeout(slow)
  }
  if (!incoming.complete) throw new Stop(refuse(499))
}

const CASED = new Map<string, string>()
function cased(name: string): string {
  let known = CASED.get(name)
  if (!known) {
    known =
      name === 'etag' ? 'Etag' : name.replace(/(^|-)([a-z])/g, (_, dash: string, letter: string) => dash + letter.toUpperCase())
    if (CASED.size < 2000) CASED.set(name, known)
  }
  return known
}

async function write(res: Res, incoming: IncomingMessage, outgoing: ServerResponse, timeout: number): Promise<void> {
  if (outgoing.destroyed || incoming.socket.destroyed) {
    discard(res)
    return
  }
  const headers: Headers = {}
  for (const name in res.headers) headers[cased(name)] = res.headers[name]
  const unread = !incoming.complete && incoming.headers.expect === undefined && hasBody(incoming)
  if (!incoming.complete && hasBody(incoming)) headers.Connection = 'close'
  outgoing.writeHead(res.status, res.reason ?? reasonOf(res.status), headers)
  if (res.body === null || Buffer.isBuffer(res.body)) {
    outgoing.end(incoming.method === 'HEAD' ? undefined : (res.body ?? undefined))
    if (unread) drain(incoming)
    return
  }
  if (incoming.method === 'HEAD' || res.status === 204 || res.status === 304) {
    discard(res)
    outgoing.end()
    return
  }
  if (unread) drain(incoming)
  const slow = setTimeout(() => outgoing.destroy(new Error('the client takes no bytes')), timeout)
  try {
    for await (const chunk of res.body) {
      if (outgoing.destroyed) throw new Error('the client went away')
      if (!outgoing.write(chunk)) await drained(outgoing)
      slow.refresh()
    }
    outgoing.end()
  } finally {
    clearTimeout(slow)
    discard(res)
  }
}

const hasBody = (incoming: IncomingMessage): boolean =>
  incoming.headers['transfer-encoding'] !== undefined || Number(incoming.headers['content-length'] ?? 0) > 0

/** Takes in what a refused client still sends, up to a limit in bytes and time, then hangs up. */
function drain(incoming: IncomingMessage): void {
  let seen = 0
  const late = setTimeout(() => incoming.destroy(), DRAIN_MS)
  late.unref()
  incoming.on('data', chunk => {
    seen += (chunk as Buffer).length
    if (seen > DRAIN_BYTES) incoming.destroy()
  })
  incoming.on('error', () => incoming.destroy())
  incoming.on('close', () => clearTimeout(late))
}

function drained(outgoing: ServerResponse): Promise<void> {
  return new Promise((resolve, reject) => {
    const done = (): void => {
      outgoing.off('drain', done)
      outgoing.off('close', gone)
      resolve()
    }
    const gone = (): void => {
      outgoing.off('drain', done)
      reject(new Error('the client went away'))
    }
    outgoing.once('drain', done)
    outgoing.once('close', gone)
  })
}

/** Marks a request whose client waits for `100 Continue`; it is sent when the app first reads the body. */
export function waits(incoming: IncomingMessage): void {
  askedToWait.add(incoming)
}

export interface Listening {
  port: number
  server: Server
  close(): Promise<void>
}

/** A server of its own for an app. Port 0 takes a free one. */
export async function listen(app: App, ip: string, port: number, options: ServeOptions): Promise<Listening> {
  const server = createServer({
    maxHeaderSize: 65536,
    requestTimeout: 0,
    headersTimeout: 60_000,
    keepAliveTimeout: 65_000,
    noDelay: true,
  })
  server.on('request', (incoming, outgoing) => void serve(app, incoming, outgoing, options))
  server.on('checkContinue', (incoming, outgoing) => {
    waits(incoming)
    void serve(app, incoming, outgoing, options)
  })
  server.on('clientError', (error: NodeJS.ErrnoException, socket) => {
    if (error.code === 'ECONNRESET' || !socket.writable) return socket.destroy()
    const status = error.code === 'HPE_HEADER_OVERFLOW' ? 431 : 400
    socket.end(
      `HTTP/1.1 ${status} ${status === 400 ? 'Bad Request' : 'Request Header Fields Too Large'}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n`,
    )
  })
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject)
    server.listen({ port, host: ip, backlog: 4096 }, () => {
      server.off('error', reject)
      resolve()
    })
  })
  return {
    port: (server.address() as AddressInfo).port,
    server,
    close: () =>
      new Promise<void>((resolve, reject) => {
        server.close(error => (error ? reject(error) : resolve()))
        server.closeAllConnections()
      }),
  }
}

/** The answer to a request for a path that no server here knows. */
export const nothingHere: App = async () => reply(404, {}, '')
