/**
 * Encryption at rest, by the scheme of Swift's `encryption` and `keymaster`: what leaves this step towards the disks is AES-256 in counter
 * mode, what comes back through it is plain. It is the innermost step, so all others see plain text only.
 *
 *     root secret ─HMAC-SHA256(path)→ object key ─wraps→ body key (random, one an object)
 *
 * The object key also encrypts user metadata and the ETag; the container's key the ETag in listings. Each value carries its own random IV
 * and the id of the root secret, so a new secret can become the active one while old objects stay readable. Conditional requests compare
 * an HMAC of the ETag, which the disks may know. Names, sizes, content types and system metadata stay plain, as in Swift.
 */
import { createCipheriv, createDecipheriv, createHash, createHmac, randomBytes } from 'node:crypto'
import { checkMetadata } from '../../constraints.ts'
import { parseRange, respond } from '../../http/conditional.ts'
import {
  type App,
  discard,
  type Headers,
  ok,
  type Req,
  type Res,
  readAll,
  refuse,
  reply,
  Stop,
  type Stream,
  text,
  wire,
} from '../../http/message.ts'
import { type ProxySettings, pathOf, type Step } from '../site.ts'
import type { Row } from './listings.ts'

type Secrets = NonNullable<ProxySettings['encryption']>

const CIPHER = 'AES_CTR_256'
const BODY = 'x-object-sysmeta-crypto-body-meta'
const ETAG = 'x-object-sysmeta-crypto-etag'
const MAC = 'x-object-sysmeta-crypto-etag-mac'
const META = 'x-object-transient-sysmeta-crypto-meta-'
const OVERRIDE = 'x-object-sysmeta-container-update-override-etag'

/** How a value was encrypted. */
interface How {
  cipher: string
  iv: string
  /** Which root secret; in the body's, beside the wrapped key. */
  secret_id: string
  body_key?: { key: string; iv: string }
}

function keyOf(secrets: Secrets, id: string, path: string): Buffer {
  const secret = secrets.secrets[id]
  if (!secret) throw new Error(`encrypted with the root secret ${id}, which is not configured`)
  return createHmac('sha256', secret).update(path).digest()
}

/** Adds whole blocks of 16 bytes to a counter. */
function advanced(iv: Buffer, blocks: number): Buffer {
  const sum = (BigInt(`0x${iv.toString('hex')}`) + BigInt(blocks)) & ((1n << 128n) - 1n)
  return Buffer.from(sum.toString(16).padStart(32, '0'), 'hex')
}

const crypt = (key: Buffer, iv: Buffer, data: Buffer): Buffer => createCipheriv('aes-256-ctr', key, iv).update(data)

/** A text as `base64; swift_meta=how`. */
function seal(secrets: Secrets, path: string, value: string): string {
  const iv = randomBytes(16)
  const how: How = { cipher: CIPHER, iv: iv.toString('base64'), secret_id: secrets.active }
  const sealed = crypt(keyOf(secrets, secrets.active, path), iv, Buffer.from(value, 'latin1'))
  return `${sealed.toString('base64')}; swift_meta=${encodeURIComponent(JSON.stringify(how))}`
}

/** The inverse; a value that was never encrypted is answered as it is. */
function unseal(secrets: Secrets, path: string, value: string): string {
  const match = /^([^;]*);\s*swift_meta=(.+)$/.exec(value)
  return match ? unsealed(secrets, path, match[1], match[2]) : value
}

function unsealed(secrets: Secrets, path: string, data: string, meta: string): string {
  const how = JSON.parse(decodeURIComponent(meta)) as How
  return crypt(keyOf(secrets, how.secret_id, path), Buffer.from(how.iv, 'base64'), Buffer.from(data, 'base64')).toString('latin1')
}

const macOf = (key: Buffer, etag: string): string => createHmac('sha256', key).update(etag).digest('base64')

/** The step of the pipeline. */
export const encryption: Step = (next, site): App => {
  const secrets = site.settings.encryption!
  return async req => {
    const path = pathOf(req)
    if (!path?.container) return next(req)
    const container = `/${path.account}/${path.container}`
    if (path.object === null) return req.method === 'GET' ? listing(next, secrets, req, container) : next(req)
    const at: At = { next, secrets, container, object: `${container}/${path.object}` }
    if (req.method === 'PUT' || req.method === 'POST') {
      const bad = checkMetadata(req.headers, 'object', site.cluster.limits)
      if (bad) return bad
    }
    switch (req.method) {
      case 'PUT':
        return put(at, req)
      case 'POST':
        return next({ ...req, headers: sealedMetadata(at, req.headers) })
      case 'GET':
      case 'HEAD':
        return get(at, req)
      default:
        return next(req)
    }
  }
}

interface At {
  next: App
  secrets: Secrets
  /** `/account/container` and `/account/container/object`: what keys are made for. */
  container: string
  object: string
}

function sealedMetadata(at: At, headers: Headers): Headers {
  const out: Headers = {}
  for (const name in headers) {
    if (!name.startsWith('x-object-meta-')) out[name] = headers[name]
    else if (headers[name] !== '') out[`${META}${name.slice(14)}`] = seal(at.secrets, at.object, headers[name])
  }
  return out
}

async function put(at: At, req: Req): Promise<Res> {
  const { secrets } = at
  const key = keyOf(secrets, secrets.active, at.object)
  const bodyKey = randomBytes(32)
  const iv = randomBytes(16)
  const keyIv = randomBytes(16)
  const cipher = createCipheriv('aes-256-ctr', bodyKey, iv)
  const sum = createHash('md5')
  let size = 0
  let etag: string | null = null
  const asked = req.headers.etag?.replaceAll('"', '').toLowerCase()
  const body = async function* (source: AsyncIterable<Buffer>): AsyncGenerator<Buffer> {
    for await (const chunk of source) {
      sum.update(chunk)
      size += chunk.length
      yield cipher.update(chunk)
    }
    etag = sum.digest('hex')
    if (asked && asked !== etag) throw new Stop(refuse(422))
  }
  let sealed: Headers | null = null
  const footers = (): Headers => {
    sealed ??= describe()
    return sealed
  }
  const describe = (): Headers => {
    const plain = etag ?? sum.digest('hex')
    etag = plain
    const given = req.footers?.() ?? {}
    const [shown, ...params] = (given[OVERRIDE] ?? req.headers[OVERRIDE] ?? plain).split(';')
    const listed = [seal(secrets, at.container, shown.trim()), ...params.map(param => param.trim())].join('; ')
    if (size === 0) return { ...given, [OVERRIDE]: shown === plain && params.length === 0 ? plain : listed }
    const how: How = {
      cipher: CIPHER,
      iv: iv.toString('base64'),
      secret_id: secrets.active,
      body_key: { key: crypt(key, keyIv, bodyKey).toString('base64'), iv: keyIv.toString('base64') },
    }
    return {
      ...given,
      [BODY]: encodeURIComponent(JSON.stringify(how)),
      [ETAG]: seal(secrets, at.object, plain),
      [MAC]: macOf(key, plain),
      [OVERRIDE]: listed,
    }
  }
  if (!req.body && asked && asked !== 'd41d8cd98f00b204e9800998ecf8427e') return refuse(422)
  const headers = sealedMetadata(at, req.headers)
  delete headers.etag
  delete headers[OVERRIDE]
  const res = await at.next({ ...req, headers, body: req.body && body(req.body), footers })
  return ok(res.status) && res.headers.etag && etag ? { ...res, headers: { ...res.headers, etag } } : res
}

/** Headers of an answer in plain text, and what its body needs. Not for anything that was stored before encryption was on. */
function open(at: At, res: Res): { headers: Headers; key: Buffer | null; iv: Buffer } {
  const headers: Headers = {}
  for (const name in res.headers) {
    if (name.startsWith(META))
      headers[`x-object-meta-${name.slice(META.length)}`] = unseal(at.secrets, at.object, res.headers[name])
    else if (!name.startsWith('x-object-sysmeta-crypto-')) headers[name] = res.headers[name]
  }
  if (headers[OVERRIDE] !== undefined) headers[OVERRIDE] = plainRow(at, headers[OVERRIDE])
  const meta = res.headers[BODY]
  if (meta === undefined) return { headers, key: null, iv: Buffer.alloc(16) }
  const how = JSON.parse(decodeURIComponent(meta)) as How
  const wrapping = keyOf(at.secrets, how.secret_id, at.object)
  const key = crypt(wrapping, Buffer.from(how.body_key!.iv, 'base64'), Buffer.from(how.body_key!.key, 'base64'))
  if (headers.etag !== undefined) headers.etag = unseal(at.secrets, at.object, res.headers[ETAG])
  return { headers, key, iv: Buffer.from(how.iv, 'base64') }
}

/** What a listing was told of an object, with its ETag in plain text and its parameters. */
function plainRow(at: Pick<At, 'secrets' | 'container'>, value: string): string {
  const [etag, ...params] = value.split(';').map(part => part.trim())
  const meta = params.find(param => param.startsWith('swift_meta='))
  if (!meta) return value
  const plain = unsealed(at.secrets, at.container, etag, meta.slice('swift_meta='.length))
  return [plain, ...params.filter(param => param !== meta)].join('; ')
}

/** Adds to the conditions of a request what the disks can compare. */
function masked(at: At, headers: Headers): Headers {
  const out: Headers = { ...headers }
  let any = false
  for (const name of ['if-match', 'if-none-match']) {
    const given = headers[name]
    if (given === undefined || given.trim() === '*') continue
    any = true
    const tags = given.split(',').map(tag => tag.trim().replace(/^W\//, '').replaceAll('"', ''))
    const keys = Object.keys(at.secrets.secrets).map(id => keyOf(at.secrets, id, at.object))
    out[name] = [given, ...tags.flatMap(tag => keys.map(key => `"${macOf(key, tag)}"`))].join(', ')
  }
  if (any) out['x-backend-etag-is-at'] = [headers['x-backend-etag-is-at'], MAC].filter(Boolean).join(',')
  return out
}

async function get(at: At, req: Req): Promise<Res> {
  const ranges = req.method === 'GET' ? parseRange(req.headers.range) : null
  if (ranges && ranges.length > 1) return getRanges(at, req)
  const res = await at.next({ ...req, headers: masked(at, req.headers) })
  if (res.headers[BODY] === undefined && !Object.keys(res.headers).some(name => name.startsWith(META))) {
    if (res.headers[OVERRIDE] !== undefined) res.headers[OVERRIDE] = plainRow(at, res.headers[OVERRIDE])
    return res
  }
  const { headers, key, iv } = open(at, res)
  if (!key || !res.body || !ok(res.status)) return { ...res, headers }
  const start = Number(/^bytes (\d+)-/.exec(res.headers['content-range'] ?? '')?.[1] ?? 0)
  return { ...res, headers, body: plain(res.body, key, iv, start) }
}

/** The bytes in plain text, where they begin at that place of the object. */
function plain(body: Buffer | Stream, key: Buffer, iv: Buffer, start: number): Buffer | Stream {
  const decipher = createDecipheriv('aes-256-ctr', key, advanced(iv, Math.floor(start / 16)))
  decipher.update(Buffer.alloc(start % 16))
  if (Buffer.isBuffer(body)) return decipher.update(body)
  const read = async function* (): AsyncGenerator<Buffer> {
    for await (const chunk of body) yield decipher.update(chunk)
  }
  return Object.assign(read(), { discard: () => body.discard?.() })
}

/** Several ranges: the parts are read one by one, so that each can be decrypted from where it begins. */
async function getRanges(at: At, req: Req): Promise<Res> {
  const ask = (method: string, range: string | null): Promise<Res> => {
    const headers = { ...req.headers }
    delete headers.range
    if (range !== null) {
      for (const name in headers) if (name.startsWith('if-')) delete headers[name]
      headers.range = range
    }
    return get(at, { ...req, method, headers })
  }
  const ignored = (req.headers['x-backend-ignore-range-if-metadata-present'] ?? '').split(',').map(name => name.trim())
  const head = await ask('HEAD', null)
  if (!ok(head.status) || ignored.some(name => name && head.headers[name] !== undefined)) {
    discard(head)
    return ask('GET', null)
  }
  const time = head.headers['x-backend-data-timestamp']
  const unconditional = { ...req, headers: { range: req.headers.range } }
  return respond(unconditional, head.headers, {
    size: Number(head.headers['content-length']),
    lastModified: null,
    open: (start, end) => {
      const read = async function* (): AsyncGenerator<Buffer> {
        const res = await ask('GET', `bytes=${start}-${end - 1}`)
        if (res.status !== 206 || res.headers['x-backend-data-timestamp'] !== time) {
          discard(res)
          throw new Error('the object was replaced while its ranges were read')
        }
        if (Buffer.isBuffer(res.body)) yield res.body
        else if (res.body) yield* res.body
      }
      return read()
    },
  })
}

async function listing(next: App, secrets: Secrets, req: Req, container: string): Promise<Res> {
  const res = await next(req)
  if (!ok(res.status) || res.headers['x-backend-listing'] !== 'container') return res
  const bytes = await readAll(res.body)
  if (!bytes.includes('"swift_meta"')) return { ...res, body: bytes }
  const rows = (JSON.parse(bytes.toString()) as Row[]).map(row => {
    if (row.swift_meta === undefined) return row
    const { swift_meta: meta, ...rest } = row
    // a link of the store's own shows the ETag of what it stands for, which is plain already
    if (/^[0-9a-f]{32}$/.test(String(rest.hash))) return rest
    return { ...rest, hash: unsealed(secrets, container, text(wire(String(rest.hash))), String(meta)) }
  })
  const headers = { ...res.headers }
  delete headers['content-length']
  return reply(res.status, headers, Buffer.from(JSON.stringify(rows)))
}
