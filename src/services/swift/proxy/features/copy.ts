/** COPY, and PUT with `X-Copy-From`: read one object, write another. */
import {
  type App,
  discard,
  type Headers,
  isTrue,
  ok,
  quote,
  type Req,
  type Res,
  refuse,
  Stop,
  subRequest,
  unquote,
} from '../../http/message.ts'
import { pathOf, type Site, type Step } from '../site.ts'

/** Turns a COPY into a PUT, and feeds a PUT from its source. */
export const copy: Step = (next, site) => async req => {
  const path = pathOf(req)
  if (!path?.object) return next(req)
  if (req.method === 'COPY') {
    const destination = name(req.headers.destination, 'Destination')
    const account = accountName(req.headers['destination-account'], path.account)
    const from: Headers = {
      ...req.headers,
      'x-copy-from': quote(`/${path.container}/${path.object}`),
      'x-copy-from-account': quote(path.account),
    }
    delete from.destination
    delete from['destination-account']
    from['content-length'] = '0'
    const [container, object] = destination
    const target: Req = { ...req, method: 'PUT', path: `/${path.version}/${account}/${container}/${object}`, headers: from }
    target.rawPath = quote(target.path)
    if (hasBody(req)) return refuse(400, 'Copy requests require a zero byte body')
    return fromSource(next, site, target)
  }
  if (req.method === 'PUT' && req.headers['x-copy-from'] !== undefined) {
    if (hasBody(req)) return refuse(400, 'Copy requests require a zero byte body')
    return fromSource(next, site, req)
  }
  return next(req)
}

const hasBody = (req: Req): boolean => req.length === null || req.length > 0

function name(header: string | undefined, title: string): [string, string] {
  const decoded = header === undefined ? null : unquote(header)
  const match = /^\/?([^/]+)\/(.+)$/s.exec(decoded ?? '')
  if (!match) throw new Stop(refuse(412, `${title} header must be of the form <container name>/<object name>`))
  return [match[1], match[2]]
}

function accountName(header: string | undefined, own: string): string {
  const decoded = header === undefined ? own : unquote(header)
  if (!decoded || decoded.includes('/')) throw new Stop(refuse(412, 'Account name cannot contain slashes'))
  return decoded
}

const CARRIED = [
  'content-encoding',
  'content-disposition',
  'content-language',
  'cache-control',
  'expires',
  'x-robots-tag',
  'x-delete-at',
]

async function fromSource(next: App, site: Site, req: Req): Promise<Res> {
  const path = pathOf(req)!
  const [container, object] = name(req.headers['x-copy-from'], 'X-Copy-From')
  const account = accountName(req.headers['x-copy-from-account'], path.account)
  const reading: Headers = {}
  for (const header in req.headers) {
    if (header.startsWith('if-') && header !== 'if-none-match') reading[header] = req.headers[header]
  }
  for (const header of [
    'range',
    'x-newest',
    'x-auth-token',
    'x-storage-token',
    'x-service-token',
    'referer',
    'x-backend-storage-policy-index',
    'x-backend-allow-reserved-names',
  ]) {
    if (req.headers[header] !== undefined) reading[header] = req.headers[header]
  }
  const query = new Map(
    [...req.query].filter(([key]) => ['multipart-manifest', 'symlink', 'version-id', 'format', 'part-number'].includes(key)),
  )
  if (query.get('multipart-manifest') === 'get' && query.get('symlink') === undefined) query.set('format', 'raw')
  const source = await next(
    subRequest(req, {
      method: 'GET',
      path: `/${path.version}/${account}/${container}/${object}`,
      query,
      headers: reading,
      source: 'SSC',
    }),
  )
  if (!ok(source.status)) return source
  const size = Number(source.headers['content-length'] ?? Number.NaN)
  if (Number.isNaN(size)) {
    discard(source)
    return refuse(413)
  }
  if (size > site.cluster.limits.max_file_size) {
    discard(source)
    return refuse(413)
  }
  const sink = sinkRequest(req, source, size)
  const res = await next(sink)
  if (ok(res.status)) {
    Object.assign(res.headers, {
      'x-copied-from-account': quote(account),
      'x-copied-from': quote(`${container}/${object}`),
      ...(source.headers['last-modified'] ? { 'x-copied-from-last-modified': source.headers['last-modified'] } : {}),
    })
    for (const header in sink.headers) if (header.startsWith('x-object-meta-')) res.headers[header] = sink.headers[header]
  } else discard(source)
  return res
}

function sinkRequest(req: Req, source: Res, size: number): Req {
  const asked = { ...req.headers }
  for (const header in asked)
    if (header.startsWith('x-copy-') || (header.startsWith('if-') && header !== 'if-none-match') || header === 'range')
      delete asked[header]
  const headers: Headers = {}
  for (const header in source.headers) {
    if (header.startsWith('x-object-sysmeta-') && !header.startsWith('x-object-sysmeta-slo-'))
      headers[header] = source.headers[header]
    if (header.startsWith('x-object-transient-sysmeta-')) headers[header] = source.headers[header]
    if (isTrue(req.headers['x-fresh-metadata'])) continue
    if (header.startsWith('x-object-meta-') || CARRIED.includes(header)) headers[header] = source.headers[header]
  }
  Object.assign(headers, asked)
  delete headers['x-fresh-metadata']
  const manifest = req.query.get('multipart-manifest') === 'get'
  const large = source.headers['x-static-large-object'] !== undefined || source.headers['x-object-manifest'] !== undefined
  headers['content-type'] = asked['content-type'] ?? source.headers['content-type']
  headers['content-length'] = String(size)
  delete headers['transfer-encoding']
  const query = new Map(req.query)
  query.delete('version-id') // it named the source
  if (manifest) {
    query.delete('multipart-manifest')
    query.delete('format')
    if (source.headers['x-static-large-object'] !== undefined) query.set('multipart-manifest', 'put')
    else if (source.headers['x-object-manifest'] !== undefined)
      headers['x-object-manifest'] ??= source.headers['x-object-manifest']
  } else if (!large && source.status === 200 && asked.etag === undefined) headers.etag = source.headers.etag.replaceAll('"', '')
  if (source.status === 206) delete headers.etag
  const body = source.body
  return {
    ...req,
    method: 'PUT',
    query,
    headers,
    body: Buffer.isBuffer(body) ? one(body) : body,
    length: size,
    footers: undefined,
    env: { ...req.env },
  }
}

async function* one(bytes: Buffer): AsyncGenerator<Buffer> {
  if (bytes.length) yield bytes
}
