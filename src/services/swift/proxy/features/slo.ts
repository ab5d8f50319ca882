/** Static large objects: a JSON manifest names the segments, their sizes and ETags, all checked when it is stored. */
import { createHash } from 'node:crypto'
import { STATUS_CODES } from 'node:http'
import { respond } from '../../http/conditional.ts'
import {
  type App,
  discard,
  type Headers,
  isTrue,
  ok,
  type Req,
  type Res,
  readAll,
  reasonOf,
  refuse,
  reply,
  Stop,
  type Stream,
  subRequest,
  wordsOf,
} from '../../http/message.ts'
import { pathOf, type Site, type Step } from '../site.ts'
import { deleteMany } from './bulk.ts'
import { ignore } from './dlo.ts'
import { formatOf } from './listings.ts'
import { lengthOf, type Segment, segmentedBody } from './segments.ts'

/** An entry of a manifest as a client sends it. */
interface Given {
  path?: string
  etag?: string | null
  size_bytes?: number | null
  range?: string | null
  data?: string
}
/** As it is stored. */
export interface Stored {
  name?: string
  bytes?: number
  hash?: string
  content_type?: string
  last_modified?: string
  range?: string
  sub_slo?: boolean
  data?: string
}

const SIZE = 'x-object-sysmeta-slo-size'
const ETAG = 'x-object-sysmeta-slo-etag'

/** Manifests in, whole objects out. */
export const slo: Step = (next, site) => {
  // segments that are manifests themselves are read through this step again
  const self: App = req => handle(next, self, site, req)
  return self
}

async function handle(next: App, self: App, site: Site, req: Req): Promise<Res> {
  const path = pathOf(req)
  if (!path?.object) return next(req)
  const kind = req.query.get('multipart-manifest')
  if (req.method === 'PUT' && kind === 'put') return putManifest(next, site, req, path.account)
  if (req.method === 'DELETE' && kind === 'delete')
    return deleteAll(next, site, req, path.account, `/${path.container}/${path.object}`)
  if (req.method === 'GET' || req.method === 'HEAD') return get(next, self, req, path.account)
  if (req.method === 'PUT' && req.headers['x-static-large-object'] !== undefined) delete req.headers['x-static-large-object']
  return next(req)
}

function parse(site: Site, body: Buffer): Given[] {
  let list: unknown
  try {
    list = JSON.parse(body.toString())
  } catch {
    throw new Stop(refuse(400, 'Manifest must be valid JSON.\n'))
  }
  if (!Array.isArray(list)) throw new Stop(refuse(400, 'Manifest must be a list.\n'))
  if (list.length > site.settings.segmentLimits.maxManifestSegments)
    throw new Stop(refuse(413, `Number of object-backed segments must be <= ${site.settings.segmentLimits.maxManifestSegments}`))
  const problems: string[] = []
  for (const [i, item] of (list as Given[]).entries()) {
    if (typeof item !== 'object' || item === null) problems.push(`Index ${i}: not a JSON object`)
    else if (item.data !== undefined) {
      if (typeof item.data !== 'string' || !/^[A-Za-z0-9+/]*={0,2}$/.test(item.data) || item.data.length === 0)
        problems.push(`Index ${i}: data must be valid base64`)
    } else if (typeof item.path !== 'string' || !/^\/?[^/]+\/.+$/s.test(item.path))
      problems.push(`Index ${i}: path does not refer to an object. Path must be of the form /container/object.`)
    else {
      const unknown = Object.keys(item).filter(key => !['path', 'etag', 'size_bytes', 'range'].includes(key))
      if (unknown.length) problems.push(`Index ${i}: extraneous keys ${unknown.map(key => `"${key}"`).join(', ')}`)
      if (
        item.size_bytes != null &&
        (!Number.isInteger(Number(item.size_bytes)) || Number(item.size_bytes) < site.settings.segmentLimits.minSegmentSize)
      )
        problems.push(`Index ${i}: invalid size_bytes`)
      if (item.range != null && !/^(\d+-\d*|-\d+)$/.test(item.range)) problems.push(`Index ${i}: invalid range`)
    }
  }
  if (problems.length) throw new Stop(refuse(400, `${problems.join('\n')}\n`))
  if (list.length === 0) throw new Stop(refuse(400, 'Manifest must contain at least one segment.\n'))
  return list as Given[]
}

async function putManifest(next: App, site: Site, req: Req, account: string): Promise<Res> {
  if (req.length !== null && req.length > site.settings.segmentLimits.maxManifestSize)
    return refuse(413, 'Manifest File > max_manifest_size bytes')
  if (req.headers['x-copy-from'] !== undefined) return refuse(405, 'Multipart Manifest PUTs cannot be COPY requests')
  if (req.length === 0)
    return refuse(req.headers['content-length'] === undefined ? 411 : 400, 'Manifest must contain at least one segment.\n')
  const given = parse(site, await readAll(req.body, site.settings.segmentLimits.maxManifestSize))
  const work = (): Promise<Judged> => storeManifest(next, site, req, account, given)
  return isTrue(req.query.get('heartbeat')) ? heartbeat(req, work) : work()
}

/** Whitespace while the segments are looked at, the real status in the body: keeps impatient proxies quiet. */
function heartbeat(req: Req, work: () => Promise<Judged>): Res {
  const json = formatOf(req) === 'application/json'
  const body = async function* (): AsyncGenerator<Buffer> {
    const running = work()
    let res: Judged | null = null
    while (res === null) {
      let timer: NodeJS.Timeout | undefined
      const tick = new Promise<null>(resolve => {
        timer = setTimeout(() => resolve(null), 10_000)
      })
      res = await Promise.race([running, tick])
      clearTimeout(timer)
      if (res === null) yield Buffer.from(' ')
    }
    yield Buffer.from(`\r\n\r\n${await outcome(res, json)}`)
  }
  return { status: 202, headers: { 'content-type': json ? 'application/json' : 'text/plain' }, body: body() }
}

/** What became of a manifest, told behind a heartbeat. */
async function outcome(res: Judged, json: boolean): Promise<string> {
  const text = (await readAll(res.body)).toString()
  const isPage = res.problems !== undefined || res.headers['content-type']?.startsWith('text/html')
  const said: Record<string, string> = {
    'Response Status': `${res.status} ${reasonOf(res.status)}`,
    'Response Body': ok(res.status) ? '' : isPage ? wordsOf(res.status) : text,
  }
  if (ok(res.status)) Object.assign(said, { Etag: res.headers.etag, 'Last Modified': res.headers['last-modified'] })
  const problems = res.problems ?? []
  if (json) return JSON.stringify({ ...said, Errors: problems })
  const lines = Object.entries(said).map(([name, value]) => `${name}: ${value}\n`)
  return `${lines.join('')}Errors:\n${problems.map(([path, why]) => `${path}, ${why}\n`).join('')}`
}

/** The answer to a manifest, and which of its segments are why it was refused. */
type Judged = Res & { problems?: [path: string, why: string][] }

async function storeManifest(next: App, site: Site, req: Req, account: string, given: Given[]): Promise<Judged> {
  const problems: [string, string][] = []
  const heads = new Map<string, Promise<Res>>()
  const head = (path: string): Promise<Res> => {
    let known = heads.get(path)
    if (!known) {
      const headers: Headers = {}
      for (const name of ['x-auth-token', 'x-storage-token', 'x-service-token', 'x-timestamp'])
        if (req.headers[name] !== undefined) headers[name] = req.headers[name]
      known = next(subRequest(req, { method: 'HEAD', path: `/v1/${account}${path}`, headers, source: 'SLO' }))
      heads.set(path, known)
    }
    return known
  }
  const { container, object } = pathOf(req)!
  const itself = given.findIndex(item => item.path !== undefined && slashed(item.path) === `/${container}/${object}`)
  if (itself >= 0) return refuse(400, `Index ${itself}: manifest must not include itself as a segment\n`)
  const stored: Stored[] = []
  const sum = createHash('md5')
  let total = 0
  for (let at = 0; at < given.length; at += 16)
    await Promise.all(given.slice(at, at + 16).map(item => (item.path === undefined ? null : head(slashed(item.path)))))
  for (const item of given) {
    if (item.path === undefined) {
      const data = Buffer.from(item.data!, 'base64')
      sum.update(createHash('md5').update(data).digest('hex'))
      total += data.length
      stored.push({ data: item.data })
      continue
    }
    const path = slashed(item.path)
    const res = await head(path)
    if (!ok(res.status)) {
      problems.push([item.path, `${res.status} ${STATUS_CODES[res.status] ?? 'Error'}`])
      continue
    }
    const isSlo = isTrue(res.headers['x-static-large-object'])
    const size = Number(isSlo ? res.headers[SIZE] : res.headers['content-length'])
    const etag = res.headers.etag.replaceAll('"', '')
    const shownEtag = isSlo ? res.headers[ETAG] : etag
    if (item.size_bytes != null && size !== Number(item.size_bytes)) problems.push([item.path, 'Size Mismatch'])
    else if (item.etag != null && item.etag !== '' && item.etag.replaceAll('"', '') !== shownEtag && item.etag !== etag)
      problems.push([item.path, 'Etag Mismatch'])
    else if (size < site.settings.segmentLimits.minSegmentSize)
      problems.push([item.path, `Too Small; each segment must be at least ${site.settings.segmentLimits.minSegmentSize} byte.`])
    else {
      const part = item.range == null ? null : rangeOf(item.range, size)
      if (item.range != null && !part) {
        problems.push([item.path, 'Unsatisfiable Range'])
        continue
      }
      const entry: Stored = {
        name: path,
        bytes: size,
        hash: shownEtag,
        content_type: res.headers['content-type'],
        last_modified: isoOf(res.headers['last-modified']),
      }
      if (part && (part[0] !== 0 || part[1] !== size)) entry.range = `${part[0]}-${part[1] - 1}`
      if (isSlo) entry.sub_slo = true
      sum.update(entry.range ? `${shownEtag}:${entry.range};` : shownEtag)
      total += part ? part[1] - part[0] : size
      stored.push(entry)
    }
  }
  if (problems.length) return { ...problemPage(req, problems), problems }
  const etag = sum.digest('hex')
  const asked = req.headers.etag?.replaceAll('"', '')
  if (asked !== undefined && asked !== etag) return refuse(422)
  const json = Buffer.from(JSON.stringify(stored))
  const manifestEtag = createHash('md5').update(json).digest('hex')
  const headers: Headers = {
    ...req.headers,
    'x-static-large-object': 'True',
    [SIZE]: String(total),
    [ETAG]: etag,
    etag: manifestEtag,
    'content-length': String(json.length),
  }
  delete headers['transfer-encoding']
  headers['content-type'] = `${headers['content-type'] ?? 'application/octet-stream'};swift_bytes=${total}`
  const own = headers['x-object-sysmeta-container-update-override-etag']
  headers['x-object-sysmeta-container-update-override-etag'] = `${own ?? manifestEtag}; slo_etag=${etag}`
  const query = new Map(req.query)
  const res = await next({ ...req, query, headers, body: one(json), length: json.length, footers: undefined })
  if (ok(res.status)) res.headers.etag = `"${etag}"`
  return res
}

const slashed = (path: string): string => (path.startsWith('/') ? path : `/${path}`)
const isoOf = (date: string | undefined): string => (date ? `${new Date(date).toISOString().slice(0, 19)}.000000` : '')

/** The bytes [first, end) that a manifest's range means; null when there are none. */
export function rangeOf(range: string, size: number): [number, number] | null {
  const [first, last] = range.split('-')
  if (first === '') return Number(last) > 0 ? [Math.max(0, size - Number(last)), size] : null
  if (Number(first) >= size || (last !== '' && Number(last) < Number(first))) return null
  return [Number(first), last === '' ? size : Math.min(Number(last) + 1, size)]
}

function problemPage(req: Req, problems: [string, string][]): Res {
  if (formatOf(req) === 'application/json')
    return reply(400, { 'content-type': 'application/json' }, JSON.stringify({ Errors: problems }))
  return reply(400, { 'content-type': 'text/plain' }, `Errors:\n${problems.map(([path, why]) => `${path}, ${why}`).join('\n')}\n`)
}

async function* one(bytes: Buffer): AsyncGenerator<Buffer> {
  yield bytes
}

/** The segments that a stored manifest means. */
export function segmentsOf(list: Stored[]): Segment[] {
  return list.map(item => {
    if (item.data !== undefined) {
      const data = Buffer.from(item.data, 'base64')
      return { data, etag: null, size: data.length, first: 0, end: data.length, nested: false }
    }
    const [first, end] = item.range ? rangeOf(item.range, item.bytes!)! : [0, item.bytes!]
    return { path: item.name, etag: item.hash!, size: item.bytes!, first, end, nested: item.sub_slo === true }
  })
}

/** A manifest among the segments of another, and so on. */
const MOST_NESTED = 10

async function get(next: App, self: App, req: Req, account: string): Promise<Res> {
  const kind = req.query.get('multipart-manifest')
  const headers = { ...req.headers }
  if (kind !== 'get') {
    headers['x-backend-etag-is-at'] = [req.headers['x-backend-etag-is-at'], ETAG].filter(Boolean).join(',')
    headers['x-backend-ignore-range-if-metadata-present'] = ignore(req, 'x-static-large-object')
  }
  const res = await next({ ...req, headers })
  if (!isTrue(res.headers['x-static-large-object'])) return res
  if (kind === 'get') return ok(res.status) ? manifest(req, res) : res
  const shown: Headers = { ...res.headers, etag: `"${res.headers[ETAG]}"`, 'x-manifest-etag': res.headers.etag }
  if (res.status === 304 || res.status === 412) return { ...res, headers: shown }
  if (!ok(res.status)) return res
  const size = Number(res.headers[SIZE])
  const lastModified = Date.parse(res.headers['last-modified']) / 1000
  const wanted = req.query.get('part-number')
  if (wanted !== undefined) return part(next, self, req, account, { ...res, headers: shown }, wanted)
  if (req.method === 'HEAD') {
    discard(res)
    return respond(req, shown, { size, lastModified, open: () => null })
  }
  const nested = (req.env.nested ?? 0) + 1
  if (nested > MOST_NESTED) {
    discard(res)
    return refuse(409)
  }
  const list = JSON.parse((await readAll(res.body)).toString()) as Stored[]
  const segments = segmentsOf(list)
  const inner: Req = { ...req, env: { ...req.env, nested } }
  const reader = await segmentedBody(segmentApp(next, self), inner, account, segments, 'SLO')
  return respond(req, shown, { size: lengthOf(segments), lastModified, ...reader })
}

const segmentApp =
  (next: App, self: App): App =>
  req =>
    (req.query.has('multipart-manifest') ? next : self)(req)

/** `?part-number=N`: one segment, as the range that it is of the whole. */
async function part(next: App, self: App, req: Req, account: string, res: Res, wanted: string): Promise<Res> {
  const number = /^\d+$/.test(wanted) ? Number(wanted) : 0
  if (number < 1 || req.headers.range !== undefined) {
    discard(res)
    return refuse(
      400,
      number < 1 ? 'Part number must be an integer greater than 0' : 'Range requests are not supported with part number',
    )
  }
  // another version is another manifest
  const whole = new Map([...req.query].filter(([name]) => name !== 'part-number'))
  const body = req.method === 'GET' ? res.body : (await next({ ...req, method: 'GET', query: whole, headers: {} })).body
  const segments = segmentsOf(JSON.parse((await readAll(body)).toString()) as Stored[])
  const size = lengthOf(segments)
  const counted = { ...res.headers, 'x-parts-count': String(segments.length) }
  if (number > segments.length) {
    const page = refuse(416, 'The requested part number is not satisfiable')
    const { 'content-length': _, 'content-type': __, ...kept } = counted as Headers
    const range = { 'content-range': `bytes */${size}` }
    if (req.method === 'HEAD') return reply(416, { ...kept, ...page.headers, ...range, 'content-length': '0' })
    return reply(416, { ...kept, ...page.headers, ...range }, page.body)
  }
  const from = lengthOf(segments.slice(0, number - 1))
  const to = from + lengthOf([segments[number - 1]])
  const reader = await segmentedBody(
    segmentApp(next, self),
    { ...req, headers: { ...req.headers, range: 'part' } },
    account,
    segments,
    'SLO',
  )
  const ranged: Req = { ...req, method: 'GET', headers: { ...req.headers, range: `bytes=${from}-${to - 1}` } }
  const answer = respond(ranged, counted, { size, lastModified: Date.parse(res.headers['last-modified']) / 1000, ...reader })
  if (req.method === 'GET') return answer
  discard(answer)
  return { ...answer, body: null }
}

/** `?multipart-manifest=get`: the manifest itself, `format=raw` in the form in which it can be stored again. */
async function manifest(req: Req, res: Res): Promise<Res> {
  if (req.method === 'HEAD') return { ...res, headers: { ...res.headers, 'content-type': 'application/json; charset=utf-8' } }
  let bytes = await readAll(res.body)
  if (req.query.get('format') === 'raw') {
    const list = JSON.parse(bytes.toString()) as Stored[]
    const raw = list.map(item =>
      item.data !== undefined
        ? { data: item.data }
        : { path: item.name, etag: item.hash, size_bytes: item.bytes, ...(item.range ? { range: item.range } : {}) },
    )
    bytes = Buffer.from(JSON.stringify(raw))
    res.headers.etag = createHash('md5').update(bytes).digest('hex')
  }
  return {
    ...res,
    headers: {
      ...res.headers,
      'content-length': String(bytes.length),
      ...(req.query.get('format') === 'raw' ? {} : { 'content-type': 'application/json; charset=utf-8' }),
    },
    body: bytes,
  }
}

async function deleteAll(next: App, site: Site, req: Req, account: string, path: string): Promise<Res> {
  const paths: string[] = []
  const collect = async (at: string, depth: number): Promise<Res | null> => {
    const headers: Headers = {}
    for (const name of ['x-auth-token', 'x-storage-token', 'x-service-token'])
      if (req.headers[name] !== undefined) headers[name] = req.headers[name]
    const res = await next(
      subRequest(req, {
        method: 'GET',
        path: `/v1/${account}${at}`,
        query: new Map([['multipart-manifest', 'get']]),
        headers,
        source: 'SLO',
      }),
    )
    if (!ok(res.status)) return res
    if (!isTrue(res.headers['x-static-large-object'])) {
      discard(res)
      return depth === 0 ? refuse(400, 'Not an SLO manifest') : null
    }
    for (const item of JSON.parse((await readAll(res.body)).toString()) as Stored[]) {
      if (item.name === undefined) continue
      if (item.sub_slo) await collect(item.name, depth + 1)
      paths.push(item.name)
    }
    return null
  }
  const problem = await collect(path, 0)
  if (problem && problem.status !== 404) return problem
  return deleteMany(next, site, req, account, [...new Set([...paths, path])], 'SLO')
}

export type { Stream }
