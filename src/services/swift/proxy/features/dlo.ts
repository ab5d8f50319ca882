/** Dynamic large objects: `X-Object-Manifest: container/prefix` makes an object of everything that the listing has under the prefix. */
import { createHash } from 'node:crypto'
import { respond } from '../../http/conditional.ts'
import { type App, discard, ok, type Req, type Res, readAll, refuse, subRequest, text, unquote } from '../../http/message.ts'
import { pathOf, type Step } from '../site.ts'
import { lengthOf, type Segment, segmentedBody } from './segments.ts'

const LISTING = 10000

/** Puts the segments together on GET and HEAD; checks the header on PUT. */
export const dlo: Step = next => async req => {
  const path = pathOf(req)
  if (!path?.object) return next(req)
  if (req.method === 'PUT') {
    const manifest = req.headers['x-object-manifest']
    if (manifest !== undefined && !parse(manifest)) return refuse(400, 'X-Object-Manifest must be in the format container/prefix')
    return next(req)
  }
  if ((req.method !== 'GET' && req.method !== 'HEAD') || req.query.get('multipart-manifest') === 'get') return next(req)
  const asked: Req = {
    ...req,
    headers: { ...req.headers, 'x-backend-ignore-range-if-metadata-present': ignore(req, 'x-object-manifest') },
  }
  let res = await next(asked)
  const manifest = res.headers['x-object-manifest']
  if (manifest === undefined) return res
  if (res.status === 304 || res.status === 412) {
    for (const name in asked.headers) if (name.startsWith('if-')) delete asked.headers[name]
    discard(res)
    res = await next(asked)
  }
  if (!ok(res.status)) return res
  const target = parse(manifest)
  if (!target) return res
  discard(res)
  return assemble(next, req, res, path.account, target)
}

/** Adds a header name to the list of those whose presence makes `Range` apply to the whole rather than to the manifest. */
export const ignore = (req: Req, name: string): string =>
  [req.headers['x-backend-ignore-range-if-metadata-present'], name].filter(Boolean).join(',')

function parse(manifest: string): { container: string; prefix: string } | null {
  const value = unquote(manifest)?.replace(/^\/+/, '') ?? ''
  const cut = value.indexOf('/')
  if (cut <= 0 || cut === value.length - 1 || value.includes('?') || value.includes('&')) return null
  return { container: value.slice(0, cut), prefix: value.slice(cut + 1) }
}

interface Listed {
  name: string
  bytes: number
  hash: string
}

async function assemble(
  next: App,
  req: Req,
  manifest: Res,
  account: string,
  target: { container: string; prefix: string },
): Promise<Res> {
  const found: Listed[] = []
  for (let marker = ''; ; ) {
    const query = new Map([
      ['format', 'json'],
      ['prefix', target.prefix],
      ...(marker ? [['marker', marker] as [string, string]] : []),
    ])
    const headers = {
      ...(req.headers['x-auth-token'] ? { 'x-auth-token': req.headers['x-auth-token'] } : {}),
      ...(req.headers.referer ? { referer: req.headers.referer } : {}),
    }
    const res = await next(
      subRequest(req, { method: 'GET', path: `/v1/${account}/${target.container}`, query, headers, source: 'DLO' }),
    )
    if (!ok(res.status)) return res
    const page = JSON.parse((await readAll(res.body)).toString() || '[]') as Listed[]
    found.push(...page)
    if (page.length < LISTING) break
    marker = page.at(-1)!.name
  }
  const segments: Segment[] = found.map(item => ({
    path: `/${target.container}/${item.name}`,
    etag: item.hash,
    size: item.bytes,
    first: 0,
    end: item.bytes,
    nested: false,
  }))
  const sum = createHash('md5')
  for (const item of found) sum.update(item.hash)
  const headers = { ...manifest.headers, etag: `"${sum.digest('hex')}"` }
  const total = lengthOf(segments)
  const reader =
    total && req.method === 'GET' ? await segmentedBody(next, req, account, segments, 'DLO') : { open: () => Buffer.alloc(0) }
  return respond(req, headers, {
    ignoreRange: req.headers.range?.includes(','),
    size: total,
    lastModified: Date.parse(text(manifest.headers['last-modified'])) / 1000,
    ...reader,
  })
}
