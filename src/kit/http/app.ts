/**
 * One service's API: finds the route of a request and leads the request through it. The order is the same for every call of every
 * service: path → version → token → route → body → target → policy → schema → handler → answer.
 */
import type { IncomingMessage, ServerResponse } from 'node:http'
import { pipeline } from 'node:stream/promises'
import FindMyWay from 'find-my-way'
import { anonymousContext, type Context, contextOf, newRequestId, type Who } from '../context.ts'
import { codeOf } from '../db/index.ts'
import { badRequest, conflict, Fault, internal, methodNotAllowed, notFound, unauthorized, unavailable } from '../fault.ts'
import type { ServicePolicy } from '../policy/index.ts'
import type { Env, Service } from '../service.ts'
import { BODY_LIMIT, isStorable, parseBody, readBody } from './body.ts'
import { type ByteBody, type Call, isBytes, type Method, type Reply, type Route } from './route.ts'
import { type Check, checker } from './schema.ts'
import { negotiate, versionHeaders } from './version.ts'

/** Says whose a token is. Given by whoever knows tokens (keystone, through roles/). Throws `unauthorized` for one that is unknown, expired or revoked. */
export type Identify = (token: string, req: IncomingMessage) => Promise<Who> | Who

/** What is known of an exchange once it is answered, for logs, metrics and recordings. */
export interface Exchange {
  service: string
  /** The route's path pattern; empty where none matched. */
  route: string
  method: string
  path: string
  status: number
  ms: number
  requestId: string
  ctx?: Context
  req: IncomingMessage
  res: ServerResponse
  requestBody?: Buffer
  responseHeaders?: Record<string, string | number | string[]>
  responseBody?: Buffer
}

export interface AppOptions {
  service: Service
  env: Env
  identify: Identify
  policy: ServicePolicy
  /** Bodies are kept for it when `keepBodies` is set. */
  onAnswer?: (exchange: Exchange) => void
  keepBodies?: boolean
}

interface Compiled {
  route: Route
  query?: Check
  body?: Check
}

interface Entry {
  path: string
  mount: string
  routes: Compiled[]
}

const METHODS: Method[] = ['GET', 'POST', 'PUT', 'PATCH', 'DELETE']

/** Answers one request of the service; `path` and `search` are what follows the service's prefix. Never rejects. */
export type App = (req: IncomingMessage, res: ServerResponse, path: string, search: string) => Promise<void>

/** Builds the app of a service. */
export function app(options: AppOptions): App {
  const { service, env, identify, policy, onAnswer, keepBodies } = options
  return async (req, res, path, search) => {
    const began = performance.now()
    const requestId = newRequestId()
    const exchange: Exchange = {
      service: service.name,
      route: '',
      method: req.method!,
      path,
      status: 0,
      ms: 0,
      requestId,
      req,
      res,
    }
    let version = service.microversions?.min ?? 0
    try {
      if (service.microversions) version = negotiate(service.microversions, req.headers)
      await answer(version)
    } catch (error) {
      try {
        fail(error, version)
      } catch (second) {
        env.log.error({ err: second, request_id: requestId }, 'the answer could not be sent')
        res.destroy()
      }
    }
    exchange.ms = performance.now() - began
    exchange.status = res.statusCode
    onAnswer?.(exchange)

    async function answer(version: number): Promise<void> {
      if (service.exactPaths && path.endsWith('/') && path !== '/' && !service.mounts.includes(path.slice(0, -1)))
        throw notFound('The resource could not be found.')
      const { entry, params } = find(routerFor(service), req.method as Method, path)
      exchange.route = entry.path
      for (const value of Object.values(params)) {
        if (value !== undefined && !isStorable(value)) throw badRequest('The path holds a NUL character or broken Unicode.')
      }
      const alive = entry.routes.filter(({ route }) => (route.since ?? 0) <= version && version <= (route.until ?? version))
      if (alive.length === 0) throw notFound('The resource could not be found.')
      const ctx = await whoAsks(alive[0]!.route)
      exchange.ctx = ctx
      const first = alive[0]!
      const raw =
        first.route.raw || req.method === 'GET' || req.method === 'HEAD'
          ? undefined
          : await readBody(req, first.route.bodyLimit ?? BODY_LIMIT)
      if (keepBodies && raw) exchange.requestBody = raw
      const body = raw && parseBody(raw, req.headers['content-type'], first.route.media)
      const { route, ...checks } = choose(alive, body)
      const reply: Reply = { headers: {} }
      const searchParams = new URLSearchParams(search)
      const call = new Exchanged(
        ctx,
        env,
        params,
        req,
        res,
        version,
        reply,
        searchParams,
        service.prefix,
        fill(entry.mount, params),
        path + search,
      )
      if (checks.query || search) call.query = parseQuery(searchParams, checks.query, version)
      call.body = body // not checked yet: for targets of policy that are named in it
      if (route.target) call.target = await route.target(call)
      if (route.policy !== null) {
        const target = route.policyTarget?.(call) ?? (call.target as Record<string, unknown> | undefined)
        ctx.must(route.policy, target ?? { project_id: ctx.projectId, user_id: ctx.userId })
      }
      if (checks.body) checks.body(body ?? missing(), version)
      const result = await route.handle(call)
      await send(result, reply, route.success ?? 200, version)
    }

    async function whoAsks(route: Route): Promise<Context> {
      const token = req.headers['x-auth-token']
      if (route.auth === 'none' || (route.auth === 'optional' && !token)) return anonymousContext(policy, requestId)
      if (typeof token !== 'string' || token === '') throw unauthorized('The request you have made requires authentication.')
      try {
        return contextOf(await identify(token, req), policy, requestId)
      } catch (error) {
        if (route.auth === 'optional' && error instanceof Fault && error.kind === 'unauthorized')
          return anonymousContext(policy, requestId)
        throw error
      }
    }

    function standing(version: number): Record<string, string | number | string[]> {
      const headers: Record<string, string | number | string[]> = { ...service.wire.headers?.({ version }) }
      for (const name of service.wire.requestIdHeaders ?? ['x-openstack-request-id']) headers[name] = requestId
      return service.microversions ? Object.assign(headers, versionHeaders(service.microversions, version)) : headers
    }

    async function send(result: unknown, reply: Reply, success: number, version: number): Promise<void> {
      const headers = Object.assign(standing(version), reply.headers)
      exchange.responseHeaders = headers
      const status = reply.status ?? success
      if (keepBodies && isBytes(result) && isText(result)) exchange.responseBody = Buffer.from(result.bytes)
      if (isBytes(result)) return sendBytes(res, status, headers, result)
      if (result === undefined || status === 204 || status === 304) {
        if (status !== 204 && status !== 304) headers['Content-Length'] = 0
        res.writeHead(status, headers).end()
        return
      }
      const json = JSON.stringify(result)
      headers['Content-Type'] ??= 'application/json'
      headers['Content-Length'] = Buffer.byteLength(json)
      // As text: it goes out together with the head.
      res.writeHead(status, headers).end(req.method === 'HEAD' ? undefined : json)
      if (keepBodies) exchange.responseBody = Buffer.from(json)
    }

    function fail(error: unknown, version: number): void {
      const fault = asFault(error, requestId)
      if (fault.status >= 500 || (fault.status === 409 && fault !== error))
        env.log.error({ err: error, request_id: requestId, path, method: req.method }, 'request failed')
      if (res.headersSent) {
        res.destroy()
        return
      }
      const shown = service.wire.fault(fault, { version, requestId, path })
      const body = typeof shown.body === 'string' ? shown.body : JSON.stringify(shown.body)
      const json = Buffer.from(body)
      const headers = standing(version)
      exchange.responseHeaders = headers
      Object.assign(headers, { 'Content-Type': 'application/json' }, shown.headers, fault.details.headers)
      headers['Content-Length'] = json.length
      if (fault.status === 401) headers['WWW-Authenticate'] ??= `Keystone uri="${originOf(req)}/identity"`
      if (!req.complete) headers.Connection = 'close' // the rest of a body that is not wanted is not read
      res.writeHead(shown.status ?? fault.status, headers).end(req.method === 'HEAD' ? undefined : json)
      if (keepBodies) exchange.responseBody = json
    }
  }
}

const missing = (): never => {
  throw badRequest('Malformed request body: a JSON object is required.')
}

export type Router = FindMyWay.Instance<FindMyWay.HTTPVersion.V1>

const routers = new WeakMap<Service, Router>()

/** The router of a service, made at its first request: hundreds of routes take their time, and not every process is asked for every service. */
export function routerFor(service: Service): Router {
  let router = routers.get(service)
  if (!router) routers.set(service, (router = routerOf(service)))
  return router
}

function routerOf(service: Service): Router {
  const router = FindMyWay({ ignoreTrailingSlash: true, ignoreDuplicateSlashes: true, maxParamLength: 4096 })
  const entries = new Map<string, Entry>()
  for (const route of service.routes) {
    const compiled: Compiled = {
      route,
      query: route.query && checker(route.query, 'query', service.wire.complain),
      body: route.body && checker(route.body, 'body', service.wire.complain),
    }
    for (const mount of route.mounts ?? service.mounts) {
      const key = `${route.method} ${mount}${route.path}`
      const entry = entries.get(key) ?? { path: route.path, mount, routes: [] }
      for (const other of entry.routes) refuseOverlap(key, other.route, route)
      entry.routes.push(compiled)
      entries.set(key, entry)
    }
  }
  const noop = (): void => {}
  for (const [key, entry] of entries) {
    const [method, path] = key.split(' ') as [Method, string]
    router.on(method, path || '/', noop, entry)
    if (method === 'GET' && !entries.has(`HEAD ${path}`)) router.on('HEAD', path || '/', noop, entry)
  }
  return router
}

function refuseOverlap(key: string, a: Route, b: Route): void {
  const apart = (a.until ?? Infinity) < (b.since ?? 0) || (b.until ?? Infinity) < (a.since ?? 0)
  if (a.action === b.action && !apart) throw new Error(`two routes answer ${key}${a.action ? `#${a.action}` : ''}`)
}

export function find(router: Router, method: Method, path: string): { entry: Entry; params: Record<string, string> } {
  const found = router.find(method, path)
  if (found) return { entry: found.store as Entry, params: found.params as Record<string, string> }
  const allowed = METHODS.filter(other => router.find(other, path))
  // A collection with an empty id behind it: the thing is not there, whatever may be done with the collection.
  if (allowed.length > 0 && !(path.length > 1 && path.endsWith('/')))
    throw methodNotAllowed('The method is not allowed for this resource.', { headers: { Allow: allowed.join(', ') } })
  throw notFound('The resource could not be found.')
}

/** Of the routes on one path, the one whose action the body names. */
export function choose(alive: Compiled[], body: unknown): Compiled {
  if (alive[0]!.route.action === undefined) return alive[0]!
  if (typeof body !== 'object' || body === null || Array.isArray(body)) throw badRequest('Malformed request body')
  const keys = Object.keys(body)
  const chosen = alive.filter(({ route }) => keys.includes(route.action!))
  if (chosen.length === 1) return chosen[0]!
  throw badRequest(chosen.length === 0 ? `There is no such action: ${keys[0] ?? ''}` : 'A request must name one action.')
}

export function parseQuery(search: URLSearchParams, check: Check | undefined, version: number): Record<string, unknown> {
  const query: Record<string, unknown> = {}
  for (const key of new Set(search.keys())) {
    const values = search.getAll(key)
    if (!isStorable(key) || !values.every(isStorable)) throw badRequest('The query holds a NUL character or broken Unicode.')
    query[key] = values.length === 1 ? values[0] : values
  }
  check?.(query, version)
  return query
}

const fill = (mount: string, params: Record<string, string>): string =>
  mount.replace(/:(\w+)/g, (_, name: string) => encodeURIComponent(params[name] ?? ''))

/** Scheme and authority under which the client reached us, a reverse proxy's word included. */
export function originOf(req: IncomingMessage): string {
  const proto = req.headers['x-forwarded-proto'] ?? ('encrypted' in req.socket ? 'https' : 'http')
  const host = req.headers['x-forwarded-host'] ?? req.headers.host ?? 'localhost'
  return `${proto}://${host}`
}

/** Whether it is worth recording: bytes of an image are not. */
const isText = (body: ByteBody): body is ByteBody & { bytes: string | Buffer } =>
  typeof body.bytes === 'string' || (Buffer.isBuffer(body.bytes) && body.type === 'application/json')

async function sendBytes(
  res: ServerResponse,
  status: number,
  headers: Record<string, string | number | string[]>,
  body: ByteBody,
): Promise<void> {
  if (body.type) headers['Content-Type'] = body.type
  const whole = typeof body.bytes === 'string' ? Buffer.from(body.bytes) : body.bytes
  const length = body.length ?? (Buffer.isBuffer(whole) ? whole.length : undefined)
  if (length !== undefined) headers['Content-Length'] = length
  res.writeHead(status, headers)
  if (Buffer.isBuffer(whole)) res.end(res.req.method === 'HEAD' ? undefined : whole)
  else if (res.req.method === 'HEAD') {
    whole.destroy()
    res.end()
  } else await pipeline(whole, res)
}

/** SQLSTATEs: statement cancelled for its time, lock not available, serialization failure, deadlock, transaction idle for too long. */
const BUSY = new Set(['57014', '55P03', '40001', '40P01', '25P03'])

/** Whatever was thrown as a Fault. What the database refuses as a value is the caller's mistake; anything unknown is ours. */
function asFault(error: unknown, requestId: string): Fault {
  if (error instanceof Fault) return error
  const code = codeOf(error) ?? ''
  if (/^22[0-9A-Z]{3}$/.test(code)) return badRequest('A value of the request is out of range or malformed.', { cause: error })
  const later = { cause: error, headers: { 'Retry-After': '1' } }
  if (/^(08|57P|53)/.test(code) || code === 'ECONNREFUSED' || code === 'ENOENT') {
    return unavailable('The database is not available at the moment; try again.', later)
  }
  // It waited too long for another's locks, or lost against others as often as may be: nothing is done, and nothing is wrong with it.
  if (BUSY.has(code)) return unavailable('Too much is changed at once; try again.', later)
  // Two requests at once, and the database saw what neither could: what the first made the second breaks.
  if (code === '23505' || code === '23503') return conflict('Another request has just changed this; try again.', { cause: error })
  return internal(`An unexpected error prevented the server from fulfilling your request (${requestId}).`, { cause: error })
}

/** The state of one call. A class for speed: one allocation, and the costly members are made when asked for. */
class Exchanged implements Call {
  query: unknown = {}
  body: unknown
  target: unknown
  readonly ctx: Context
  readonly env: Env
  readonly params: Record<string, string>
  readonly version: number
  readonly reply: Reply
  readonly search: URLSearchParams
  readonly url: string
  readonly stream: IncomingMessage
  readonly #res: ServerResponse
  readonly #prefix: string
  readonly #mount: string
  #abort: AbortController | undefined

  constructor(
    ctx: Context,
    env: Env,
    params: Record<string, string>,
    req: IncomingMessage,
    res: ServerResponse,
    version: number,
    reply: Reply,
    search: URLSearchParams,
    prefix: string,
    mount: string,
    url: string,
  ) {
    this.ctx = ctx
    this.env = env
    this.params = params
    this.stream = req
    this.version = version
    this.reply = reply
    this.search = search
    this.url = url
    this.#res = res
    this.#prefix = prefix
    this.#mount = mount
  }

  get db() {
    return this.env.db.read
  }
  get headers() {
    return this.stream.headers
  }
  get method() {
    return this.stream.method as Method
  }
  get signal(): AbortSignal {
    if (!this.#abort) {
      const abort = new AbortController()
      this.#abort = abort
      this.#res.once('close', () => {
        if (!this.#res.writableFinished) abort.abort()
      })
    }
    return this.#abort.signal
  }
  get self() {
    return (path: string, mount = this.#mount): string => `${originOf(this.stream)}${this.#prefix}${mount}${path}`
  }
}
