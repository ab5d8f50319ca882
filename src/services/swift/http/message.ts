/**
 * The one request and response of the object store. Every server (proxy, account, container, object) and every step of the proxy's
 * pipeline is an `App`: a function from `Req` to `Res`. Whether the next one runs in this process or behind HTTP makes no difference.
 *
 * Header names are lower case; values are kept as the latin-1 strings that node:http gives, so that bytes pass through unchanged.
 * Paths and query values are decoded UTF-8.
 */
import { randomBytes } from 'node:crypto'
import { Fault } from '#kit/fault.ts'

export type Headers = Record<string, string>

/** A response body. A stream that holds something open (a file, a connection) has `discard`, called when nobody will read it. */
export interface Stream extends AsyncIterable<Buffer> {
  discard?: () => void
}
export type Body = Buffer | Stream | null

/** Who was authenticated: the names that access control lists are compared with. */
export interface Who {
  userId: string
  userName: string
  userDomainId?: string
  userDomainName?: string
  projectId: string | null
  projectName: string | null
  projectDomainId?: string | null
  projectDomainName?: string | null
  roles: string[]
  /** Roles of the service token that came with the request (`X-Service-Token`), if any. */
  serviceRoles?: string[]
  /** Tempauth: the groups of the user (`account`, `account:user`, `.admin`, …). */
  groups?: string[]
}

export interface Info {
  status: number
  headers: Headers
  at: number
}

/** The answer of an authoriser: nothing, or the refusal. */
export type Authorize = (req: Req, acl: string | null) => Promise<Res | null> | Res | null

/** Facts of one client request that its sub-requests share or override. */
export interface Env {
  transId: string
  remote: string
  scheme: 'http' | 'https'
  /** The prefix under which the store is mounted (`/object-store`), in front of `/v1`. */
  mount: string
  who: Who | null
  /** Asked by the proxy's handlers once the container is known. `null`: the request is the store's own and may do all. */
  authorize: Authorize | null
  /** The asker may see and change the owner's headers (ACLs, keys, sysmeta of the account). */
  owner: boolean
  resellerRequest: boolean
  /** Which step of the pipeline made this sub-request (`SLO`, `VW`, …); null for the client's own. */
  source: string | null
  infos: Map<string, Info>
  /** Lines added to the access log by steps of the pipeline. */
  logInfo: string[]
  /** S3: the object's path was resolved and its signature checked. */
  s3?: { bucket: string | null; key: string | null; accessKey: string }
  /** Let in by a temporary URL: all below `prefix`, and the query that links to it need. */
  tempUrl?: { prefix: string | undefined; query: string }
  /** How many manifests this request for a segment is inside of. */
  nested?: number
  /** An identity given by a signature rather than by a token. */
  authorizeOverride?: boolean
}

export interface Req {
  method: string
  /** Decoded path, as `/v1/AUTH_x/c/o`. */
  path: string
  /** As it was sent, still percent-encoded, without query. */
  rawPath: string
  query: Query
  headers: Headers
  body: AsyncIterable<Buffer> | null
  /** Bytes of the body; null when it comes in chunks of unknown number. */
  length: number | null
  /** Headers known only when the body has been read: asked once after it. */
  footers?: () => Headers
  env: Env
}

export interface Res {
  status: number
  headers: Headers
  body: Body
  /** Another sentence than the standard one on the status line. */
  reason?: string
}

export type App = (req: Req) => Promise<Res>

/** A parsed query: the first value of each name, in order. */
export type Query = Map<string, string>

const REASONS: Record<number, [string, string]> = {
  100: ['Continue', ''],
  200: ['OK', ''],
  201: ['Created', ''],
  202: ['Accepted', 'The request is accepted for processing.'],
  204: ['No Content', ''],
  206: ['Partial Content', ''],
  301: ['Moved Permanently', 'The resource has moved permanently.'],
  302: ['Found', 'The resource has moved temporarily.'],
  303: ['See Other', 'The response to the request can be found under a different URI.'],
  304: ['Not Modified', ''],
  307: ['Temporary Redirect', 'The resource has moved temporarily.'],
  400: ['Bad Request', 'The server could not comply with the request since it is either malformed or otherwise incorrect.'],
  401: ['Unauthorized', 'This server could not verify that you are authorized to access the document you requested.'],
  403: ['Forbidden', 'Access was denied to this resource.'],
  404: ['Not Found', 'The resource could not be found.'],
  405: ['Method Not Allowed', 'The method is not allowed for this resource.'],
  406: ['Not Acceptable', 'The resource is not available in a format acceptable to your browser.'],
  408: ['Request Timeout', 'The server has waited too long for the request to be sent by the client.'],
  409: ['Conflict', 'There was a conflict when trying to complete your request.'],
  410: ['Gone', 'This resource is no longer available.'],
  411: ['Length Required', 'Content-Length header required.'],
  412: ['Precondition Failed', 'A precondition for this request was not met.'],
  413: ['Request Entity Too Large', 'The body of your request was too large for this server.'],
  414: ['Request URI Too Long', 'The request URI was too long for this server.'],
  415: ['Unsupported Media Type', 'The request media type is not supported by this server.'],
  416: ['Requested Range Not Satisfiable', 'The Range requested is not available.'],
  417: ['Expectation Failed', 'Expectation failed.'],
  422: ['Unprocessable Entity', 'Unable to process the contained instructions'],
  498: ['Rate Limited', 'Too many requests: slow down.'],
  499: ['Client Disconnect', 'The client was disconnected during request.'],
  500: ['Internal Error', 'The server has either erred or is incapable of performing the requested operation.'],
  501: ['Not Implemented', 'The requested method is not implemented by this server.'],
  502: ['Bad Gateway', 'Bad gateway.'],
  503: ['Service Unavailable', 'The server is currently unavailable. Please try again at a later time.'],
  504: ['Gateway Timeout', 'A timeout has occurred speaking to a backend server.'],
  507: ['Insufficient Storage', 'There was not enough space to save the resource.'],
  529: ['Too Many Backend Requests', 'The server is incapable of performing the requested operation due to too many requests.'],
}

/** The standard sentence of a status, as on the status line. */
export const reasonOf = (status: number): string => REASONS[status]?.[0] ?? 'Unknown'

/** A status in words: its title, and on the next line the sentence. */
export const wordsOf = (status: number): string => (REASONS[status] ?? []).filter(Boolean).join('\n')

/** A response with a body of our own; a string becomes UTF-8 bytes and gets Swift's default content type unless one is given. */
export function reply(status: number, headers: Headers = {}, body: Body | string = null): Res {
  const bytes = typeof body === 'string' ? Buffer.from(body) : body
  const all = { ...headers }
  if (typeof body === 'string') all['content-type'] ??= 'text/html; charset=UTF-8'
  if (bytes === null || Buffer.isBuffer(bytes)) all['content-length'] ??= String(bytes?.length ?? 0)
  return { status, headers: all, body: bytes }
}

/** `tx` + 21 hex digits + the time + the client's own suffix, as Swift's. */
export function transactionId(headers: Headers): string {
  const own = headers['x-trans-id-extra']?.slice(0, 32).replace(/[^\w.-]/g, '')
  return `tx${randomHex()}-${Math.floor(Date.now() / 1000)
    .toString(16)
    .padStart(10, '0')}${own ? `-${own}` : ''}`
}

let random = ''
/** 21 digits, cut from a supply: asking for a few random bytes costs as much as for many. */
function randomHex(): string {
  if (random.length < 21) random = randomBytes(2100).toString('hex')
  const digits = random.slice(0, 21)
  random = random.slice(21)
  return digits
}

/** The headers that tell a transaction. */
export const transactionHeaders = (id: string): Headers => ({ 'x-trans-id': id, 'x-openstack-request-id': id })

/** The standard page of a status (`<html><h1>Not Found</h1>…`), or a plain sentence in its place. */
export function refuse(status: number, text?: string, headers: Headers = {}): Res {
  if (text !== undefined) return reply(status, { 'content-type': 'text/plain', ...headers }, text)
  const [title, sentence] = REASONS[status] ?? [String(status), '']
  if (status === 304 || status === 204 || !sentence) {
    return reply(status, { 'content-type': 'text/html; charset=UTF-8', ...headers }, '')
  }
  return reply(
    status,
    { 'content-type': 'text/html; charset=UTF-8', ...headers },
    `<html><h1>${title}</h1><p>${sentence}</p></html>`,
  )
}

/** Stops the request here with this response, from any depth. Rendered by `answer`. */
export class Stop extends Error {
  readonly res: Res
  constructor(res: Res) {
    super(`${res.status} ${res.reason ?? reasonOf(res.status)}`)
    this.res = res
  }
}

/** Throws `refuse(...)`. */
export const stop = (status: number, text?: string, headers?: Headers): never => {
  throw new Stop(refuse(status, text, headers))
}

/** The response for anything thrown that has one; anything else is thrown on. */
export function answer(error: unknown): Res {
  if (error instanceof Stop) return error.res
  if (error instanceof Fault) return refuse(error.status, error.message, error.details.headers)
  throw error
}

export const ok = (status: number): boolean => status >= 200 && status < 300

/** Reads a whole body of at most `max` bytes. Throws 413 beyond it. */
export async function readAll(body: Body | AsyncIterable<Buffer>, max = Number.POSITIVE_INFINITY): Promise<Buffer> {
  if (body === null) return NONE
  if (Buffer.isBuffer(body)) return body
  if (body instanceof Bytes) return body.bytes
  if (body instanceof Arriving) return body.whole(max)
  const parts: Buffer[] = []
  let size = 0
  for await (const part of body) {
    size += part.length
    if (size > max) throw new Stop(refuse(413))
    parts.push(part)
  }
  return parts.length === 1 ? parts[0] : Buffer.concat(parts)
}
const NONE = Buffer.alloc(0)

/** Lets go of a response whose body nobody will read. */
export function discard(res: Res): void {
  if (res.body && !Buffer.isBuffer(res.body)) res.body.discard?.()
}

/** A request body that is at hand as a whole. */
export class Bytes implements AsyncIterable<Buffer> {
  readonly bytes: Buffer
  constructor(bytes: Buffer) {
    this.bytes = bytes
  }
  async *[Symbol.asyncIterator](): AsyncGenerator<Buffer> {
    if (this.bytes.length) yield this.bytes
  }
}

/** A body that comes over the network: piece by piece, or, where it is small, gathered without the cost of that. */
export class Arriving implements AsyncIterable<Buffer> {
  readonly whole: (max: number) => Promise<Buffer>
  readonly pieces: () => AsyncGenerator<Buffer>
  constructor(pieces: () => AsyncGenerator<Buffer>, whole: (max: number) => Promise<Buffer>) {
    this.pieces = pieces
    this.whole = whole
  }
  [Symbol.asyncIterator](): AsyncGenerator<Buffer> {
    return this.pieces()
  }
}

/** Bytes as a request body. */
export const once = (bytes: Buffer): Bytes => new Bytes(bytes)

/** A query string parsed once; `+` is a space; the first value of a name wins. Throws 400 for bytes that are not UTF-8. */
export function parseQuery(text: string): Query {
  const query: Query = new Map()
  if (!text) return query
  for (const pair of text.split('&')) {
    if (!pair) continue
    const cut = pair.indexOf('=')
    const name = decode(cut < 0 ? pair : pair.slice(0, cut))
    const value = cut < 0 ? '' : decode(pair.slice(cut + 1))
    if (!query.has(name)) query.set(name, value)
  }
  return query
}

function decode(text: string): string {
  if (!text.includes('%') && !text.includes('+')) return text
  const spaced = text.replaceAll('+', ' ')
  try {
    return decodeURIComponent(spaced)
  } catch {
    const lenient = unquote(spaced)
    if (lenient === null) throw new Stop(refuse(400, `"${text}" parameter not valid UTF-8`))
    return lenient
  }
}

/** Percent-decoding as Python's: a `%` without two hex digits stays as it is. Null when the bytes are not UTF-8. */
export function unquote(text: string): string | null {
  if (!text.includes('%')) return isLatin(text) ? fromLatin(text) : text
  // a header's bytes, or text
  const bytes = Buffer.from(
    Buffer.from(text, isLatin(text) && fromLatin(text) !== null ? 'latin1' : 'utf8')
      .toString('latin1')
      .replace(/%([0-9a-fA-F]{2})/g, (_, hex: string) => String.fromCharCode(Number.parseInt(hex, 16))),
    'latin1',
  )
  const decoded = bytes.toString('utf8')
  return decoded.includes('\ufffd') && !bytes.equals(Buffer.from(decoded)) ? null : decoded
}

// biome-ignore lint/suspicious/noControlCharactersInRegex: the point is every byte beyond ASCII
const isLatin = (text: string): boolean => /[\u0080-\u00ff]/.test(text) && !/[^\u0000-\u00ff]/.test(text)
const fromLatin = (text: string): string | null => {
  const decoded = Buffer.from(text, 'latin1').toString('utf8')
  return decoded.includes('\ufffd') ? null : decoded
}

/** A header value (latin-1) as text. */
export const text = (value: string): string => Buffer.from(value, 'latin1').toString('utf8')
/** Text as a header value (latin-1 carrying UTF-8 bytes). */
export const wire = (value: string): string => Buffer.from(value, 'utf8').toString('latin1')

/** Percent-encodes a path as Python's `quote` does: everything but letters, digits, `_.-~` and `/`. */
export function quote(path: string, safe = '/'): string {
  const encoded = encodeURIComponent(path).replace(/[!'()*]/g, c => `%${c.charCodeAt(0).toString(16).toUpperCase()}`)
  return safe === '/' ? encoded.replaceAll('%2F', '/') : encoded
}

/** `query` as a string again. */
export const formatQuery = (query: Query): string =>
  [...query].map(([k, v]) => `${encodeURIComponent(k)}=${encodeURIComponent(v)}`).join('&')

/**
 * Splits `/v1/a/c/o` into at most `max` parts, the last of which keeps its slashes; missing ones are null.
 * Throws 404 unless at least `min` are there and none before the last is empty.
 */
export function splitPath(path: string, min: number, max: number): (string | null)[] {
  const parts = path.split('/')
  parts.shift()
  const out: (string | null)[] = parts.length > max ? [...parts.slice(0, max - 1), parts.slice(max - 1).join('/')] : parts
  if (out.length > min && out.at(-1) === '') out.pop()
  if (out.length < min || out.some(part => part === '')) throw new Stop(refuse(404))
  while (out.length < max) out.push(null)
  return out
}

/** True for the words that Swift's configuration and headers take as yes. */
export const isTrue = (value: string | undefined | null): boolean =>
  value != null && ['true', '1', 'yes', 'on', 't', 'y'].includes(value.toLowerCase())

/** The environment of a request that the store makes to itself: nobody asks, everything is allowed. */
export function ownEnv(source: string, transId = 'tx-internal'): Env {
  return {
    transId,
    remote: '-',
    scheme: 'http',
    mount: '',
    who: null,
    authorize: null,
    owner: true,
    resellerRequest: false,
    source,
    infos: new Map(),
    logInfo: [],
  }
}

export interface SubOptions {
  method?: string
  path?: string
  query?: Query
  headers?: Headers
  body?: AsyncIterable<Buffer> | Buffer | null
  length?: number | null
  source: string
  /** Without this the sub-request is checked as the client's own. */
  preauthorized?: boolean
}

/** A request made on behalf of another one: same client, same transaction, its own path, headers and body. */
export function subRequest(req: Req, options: SubOptions): Req {
  const path = options.path ?? req.path
  const body =
    options.body === undefined || options.body === null ? null : Buffer.isBuffer(options.body) ? once(options.body) : options.body
  const env: Env = { ...req.env, source: options.source }
  if (options.preauthorized) {
    env.authorize = null
    env.owner = true
    env.authorizeOverride = true
  }
  const length = Buffer.isBuffer(options.body) ? options.body.length : (options.length ?? (body ? null : 0))
  const headers = { ...options.headers }
  delete headers['content-length']
  delete headers['transfer-encoding']
  if (length === null) headers['transfer-encoding'] = 'chunked'
  else headers['content-length'] = String(length)
  return {
    method: options.method ?? req.method,
    path,
    rawPath: quote(path),
    query: options.query ?? new Map(),
    headers,
    body,
    length,
    env,
  }
}
