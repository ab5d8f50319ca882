/** Who signed an S3 request: signatures of version 4 (headers, URL, chunks) and version 2 (headers, URL). */
import { createHash, createHmac, timingSafeEqual } from 'node:crypto'
import { type Headers, type Req, refuse, Stop, text, unquote } from '../http/message.ts'
import { S3Error } from './errors.ts'

export interface Signed {
  accessKey: string
  /** Checks against the secret; throws SignatureDoesNotMatch. */
  verify(secret: string): void
  /** For bodies signed chunk by chunk: the key and the first signature. */
  chunks: ((secret: string) => ChunkKey) | null
  /** By headers, version 4: these say what the body is. */
  isFour: boolean
}
interface ChunkKey {
  key: Buffer
  scope: string
  time: string
  previous: string
}

const sha256 = (data: string | Buffer): string => createHash('sha256').update(data).digest('hex')
const hmac = (key: string | Buffer, data: string): Buffer => createHmac('sha256', key).update(data).digest()

/** RFC 3986, as AWS wants paths and queries. */
const encode = (value: string, keepSlash = false): string => {
  const out = encodeURIComponent(value).replace(/[!'()*]/g, c => `%${c.charCodeAt(0).toString(16).toUpperCase()}`)
  return keepSlash ? out.replaceAll('%2F', '/') : out
}

const equal = (a: string, b: string): boolean => a.length === b.length && timingSafeEqual(Buffer.from(a), Buffer.from(b))

function same(own: string[], given: string): void {
  if (!own.some(one => equal(one, given))) throw new S3Error('SignatureDoesNotMatch')
}

function checkClock(time: Date, window: number): void {
  if (Number.isNaN(time.getTime()))
    throw new S3Error('AccessDenied', { Message: 'AWS authentication requires a valid Date or x-amz-date header' })
  if (Math.abs(Date.now() - time.getTime()) > window * 1000) throw new S3Error('RequestTimeTooSkewed')
}

const isoTime = (value: string): Date =>
  new Date(value.replace(/^(\d{4})(\d\d)(\d\d)T(\d\d)(\d\d)(\d\d)Z$/, '$1-$2-$3T$4:$5:$6Z'))

/**
 * The signature of a request; null when it has none. `paths`: what may have been signed, percent-encoded as it was sent. `bucket`: the one
 * that the host names, which version 2 signs as the beginning of the path.
 */
export function signedBy(req: Req, paths: string[], bucket: string | null, clock: number): Signed | null {
  const whole = bucket === null ? paths : paths.map(path => `/${bucket}${path}`)
  const { authorization } = req.headers
  if (authorization?.startsWith('AWS4-HMAC-SHA256')) return headerFour(req, paths, authorization, clock)
  if (req.query.get('X-Amz-Algorithm') === 'AWS4-HMAC-SHA256') return queryFour(req, paths)
  if (authorization?.startsWith('AWS ')) return headerTwo(req, whole, authorization, clock)
  if (req.query.has('AWSAccessKeyId') && req.query.has('Signature')) return queryTwo(req, whole)
  return null
}

function headerFour(req: Req, paths: string[], authorization: string, clock: number): Signed {
  const fields = new Map([...authorization.matchAll(/(\w+)=([^,\s]+)/g)].map(match => [match[1], match[2]]))
  const [credential, names, signature] = [fields.get('Credential'), fields.get('SignedHeaders'), fields.get('Signature')]
  const scope = credential?.split('/') ?? []
  if (!credential || !names || !signature || scope.length < 5) throw new S3Error('AuthorizationHeaderMalformed')
  const accessKey = scope.slice(0, -4).join('/')
  const date = req.headers['x-amz-date'] === undefined ? new Date(req.headers.date ?? '') : isoTime(req.headers['x-amz-date'])
  checkClock(date, clock)
  const time = req.headers['x-amz-date'] ?? date.toISOString().replace(/[-:]|\.\d+/g, '')
  const bodySum = req.headers['x-amz-content-sha256'] ?? 'UNSIGNED-PAYLOAD'
  return four(req, paths, {
    accessKey,
    scope: scope.slice(-4),
    isHeader: true,
    names: names.split(';'),
    signature,
    time,
    bodySum,
    query: [...req.query],
  })
}

function queryFour(req: Req, paths: string[]): Signed {
  const { query } = req
  const scope = (query.get('X-Amz-Credential') ?? '').split('/')
  const time = query.get('X-Amz-Date') ?? ''
  const life = Number(query.get('X-Amz-Expires'))
  if (scope.length < 5 || !time || !(life >= 0 && life <= 604800)) throw new S3Error('AuthorizationQueryParametersError')
  const began = isoTime(time).getTime()
  if (Number.isNaN(began)) throw new S3Error('AuthorizationQueryParametersError')
  if (Date.now() > began + life * 1000) throw new S3Error('AccessDenied', { Message: 'Request has expired' })
  return four(req, paths, {
    accessKey: scope.slice(0, -4).join('/'),
    scope: scope.slice(-4),
    isHeader: false,
    names: (query.get('X-Amz-SignedHeaders') ?? '').split(';'),
    signature: query.get('X-Amz-Signature') ?? '',
    time,
    bodySum: req.headers['x-amz-content-sha256'] ?? 'UNSIGNED-PAYLOAD',
    query: [...query].filter(([name]) => name !== 'X-Amz-Signature'),
  })
}

interface Four {
  isHeader: boolean
  accessKey: string
  scope: string[]
  names: string[]
  signature: string
  time: string
  bodySum: string
  query: [string, string][]
}

function four(req: Req, paths: string[], given: Four): Signed {
  const query = given.query
    .map(([name, value]) => [encode(name), encode(value)])
    .sort(([a, x], [b, y]) => (a < b ? -1 : a > b ? 1 : x < y ? -1 : 1))
    .map(pair => pair.join('='))
    .join('&')
  const value = (name: string): string => {
    if (name === 'expect') return '100-continue'
    return text(req.headers[name] ?? '')
      .trim()
      .replace(/\s+/g, ' ')
  }
  const canonical = (where: string, host: string): string =>
    [
      req.method,
      where,
      query,
      ...given.names.map(name => `${name}:${value(name)}${name === 'host' ? host : ''}`),
      '',
      given.names.join(';'),
      given.bodySum,
    ].join('\n')
  const scope = given.scope.join('/')
  const keyOf = (secret: string): Buffer =>
    given.scope.reduce((key: string | Buffer, part) => hmac(key, part), `AWS4${secret}`) as Buffer
  return {
    accessKey: given.accessKey,
    isFour: given.isHeader,
    verify(secret) {
      const key = keyOf(secret)
      const signature = (where: string, host: string): string =>
        hmac(key, ['AWS4-HMAC-SHA256', given.time, scope, sha256(canonical(where, host))].join('\n')).toString('hex')
      const wheres = [...new Set(paths.flatMap(path => [path, encode(unquote(path) ?? path, true)]))]
      // s3cmd takes the path of its endpoint for a part of the host
      const hosts = req.env.mount ? ['', req.env.mount] : ['']
      same(
        hosts.flatMap(host => wheres.map(where => signature(where, host))),
        given.signature,
      )
    },
    chunks: given.bodySum.startsWith('STREAMING-')
      ? secret => ({ key: keyOf(secret), scope, time: given.time, previous: given.signature })
      : null,
  }
}

const SUB = [
  'acl',
  'cors',
  'delete',
  'lifecycle',
  'location',
  'logging',
  'notification',
  'partNumber',
  'policy',
  'requestPayment',
  'response-cache-control',
  'response-content-disposition',
  'response-content-encoding',
  'response-content-language',
  'response-content-type',
  'response-expires',
  'tagging',
  'torrent',
  'uploadId',
  'uploads',
  'versionId',
  'versioning',
  'versions',
  'website',
]

function toSignTwo(req: Req, path: string, date: string): string {
  const amz = Object.keys(req.headers)
    .filter(name => name.startsWith('x-amz-'))
    .sort()
    .map(name => `${name}:${text(req.headers[name]).trim()}\n`)
    .join('')
  const sub = [...req.query]
    .filter(([name]) => SUB.includes(name))
    .sort(([a], [b]) => (a < b ? -1 : 1))
    .map(([name, value]) => (value ? `${name}=${value}` : name))
    .join('&')
  return `${req.method}\n${req.headers['content-md5'] ?? ''}\n${req.headers['content-type'] ?? ''}\n${date}\n${amz}${path}${sub ? `?${sub}` : ''}`
}

const two = (secret: string, what: string): string => createHmac('sha1', secret).update(what).digest('base64')

function headerTwo(req: Req, paths: string[], authorization: string, clock: number): Signed {
  const given = authorization.slice(4)
  const cut = given.lastIndexOf(':')
  if (cut < 0) throw new S3Error('AccessDenied')
  checkClock(new Date(req.headers['x-amz-date'] ?? req.headers.date ?? ''), clock)
  const date = req.headers['x-amz-date'] ? '' : (req.headers.date ?? '')
  return {
    accessKey: given.slice(0, cut),
    isFour: false,
    chunks: null,
    verify: secret =>
      same(
        paths.map(path => two(secret, toSignTwo(req, path, date))),
        given.slice(cut + 1),
      ),
  }
}

function queryTwo(req: Req, paths: string[]): Signed {
  const expires = req.query.get('Expires') ?? ''
  if (!/^\d+$/.test(expires) || Number(expires) < Date.now() / 1000)
    throw new S3Error('AccessDenied', { Message: 'Request has expired' })
  return {
    accessKey: req.query.get('AWSAccessKeyId')!,
    isFour: false,
    chunks: null,
    verify: secret =>
      same(
        paths.map(path => two(secret, toSignTwo(req, path, expires))),
        req.query.get('Signature')!,
      ),
  }
}

/** The plain body of one that was sent in signed chunks (`aws-chunked`); each chunk's signature is checked when there is a key. */
export async function* unchunked(
  body: AsyncIterable<Buffer>,
  chain: ChunkKey | null,
  trailers: Trailers,
): AsyncGenerator<Buffer> {
  const iterator = body[Symbol.asyncIterator]()
  let held: Buffer = Buffer.alloc(0)
  const pull = async (): Promise<boolean> => {
    const next = await iterator.next()
    if (next.done) return false
    held = held.length ? Buffer.concat([held, next.value]) : next.value
    return true
  }
  const more = async (): Promise<void> => {
    if (!(await pull())) throw new Stop(refuse(499))
  }
  const line = async (): Promise<string> => {
    let end = held.indexOf('\r\n')
    while (end < 0) {
      if (held.length > 16384) throw new S3Error('InvalidRequest')
      await more()
      end = held.indexOf('\r\n')
    }
    const text = held.toString('latin1', 0, end)
    held = held.subarray(end + 2)
    return text
  }
  // some clients send no empty line behind their trailers
  const lineOrEnd = async (): Promise<string> => (held.length > 0 || (await pull()) ? line() : '')
  let previous = chain?.previous ?? ''
  for (;;) {
    const [size, ...rest] = (await line()).split(';')
    const bytes = /^[0-9a-fA-F]+$/.test(size) ? Number.parseInt(size, 16) : Number.NaN
    if (!(bytes <= 64 * 1024 * 1024)) throw new S3Error('InvalidRequest')
    while (held.length < bytes) await more()
    const data = held.subarray(0, bytes)
    const signature = rest.find(part => part.startsWith('chunk-signature='))?.slice(16)
    if (chain) {
      if (!signature) throw new S3Error('IncompleteBody', { Message: 'The request body terminated unexpectedly' })
      const own = hmac(
        chain.key,
        ['AWS4-HMAC-SHA256-PAYLOAD', chain.time, chain.scope, previous, sha256(''), sha256(data)].join('\n'),
      ).toString('hex')
      same([own], signature)
      previous = own
    }
    held = held.subarray(bytes)
    if (bytes === 0) {
      if (trailers.expected !== null) await readTrailers(lineOrEnd, trailers, chain && { ...chain, previous })
      return
    }
    yield data
    while (held.length < 2) await more()
    held = held.subarray(2)
  }
}

/** What comes behind the last chunk: the one that was announced, and its signature. */
export interface Trailers {
  expected: string | null
  got: Headers
}

async function readTrailers(line: () => Promise<string>, { expected, got }: Trailers, chain: ChunkKey | null): Promise<void> {
  let signed = ''
  let signature: string | null = null
  for (let text = await line(); text !== ''; text = await line()) {
    const cut = text.indexOf(':')
    const [name, value] = [text.slice(0, cut).trim().toLowerCase(), text.slice(cut + 1).trim()]
    if (name === 'x-amz-trailer-signature' && chain) signature = value
    else if (name !== expected) throw new S3Error('MalformedTrailerError')
    else {
      got[name] = value
      signed += `${name}:${value}\n`
    }
  }
  if (got[expected!] === undefined) throw new S3Error('MalformedTrailerError')
  if (!chain) return
  if (signature === null) throw new S3Error('IncompleteBody', { Message: 'The request body terminated unexpectedly' })
  const { key, time, scope, previous } = chain
  const own = hmac(key, ['AWS4-HMAC-SHA256-TRAILER', time, scope, previous, sha256(signed)].join('\n')).toString('hex')
  same([own], signature)
}

/** What was signed and what came. */
export const sumMismatch = (signed: string, computed: string): S3Error =>
  new S3Error('XAmzContentSHA256Mismatch', { ClientComputedContentSHA256: signed, S3ComputedContentSHA256: computed })

/** The body, failing at its end when its SHA-256 is not the signed one. */
export async function* summed(body: AsyncIterable<Buffer>, sum: string): AsyncGenerator<Buffer> {
  const own = createHash('sha256')
  for await (const chunk of body) {
    own.update(chunk)
    yield chunk
  }
  const computed = own.digest('hex')
  if (computed !== sum.toLowerCase()) throw sumMismatch(sum, computed)
}
