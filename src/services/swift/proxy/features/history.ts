/** Versioning in the old style: `X-Versions-Location` (a stack: DELETE brings the last version back) and `X-History-Location`. */
import {
  type App,
  discard,
  type Headers,
  ok,
  quote,
  type Req,
  type Res,
  readAll,
  refuse,
  subRequest,
  unquote,
} from '../../http/message.ts'
import { normal, now } from '../../timestamp.ts'
import { containerInfo } from '../info.ts'
import { pathOf, type Site, type Step } from '../site.ts'

const LOCATION = 'x-container-sysmeta-versions-location'
const MODE = 'x-container-sysmeta-versions-mode'
export const DELETED_TYPE = 'application/x-deleted;swift_versions_deleted=1'

/** Keeps what a PUT or DELETE replaces in another container. */
export const history: Step = (next, site) => async req => {
  const path = pathOf(req)
  if (!path?.container) return next(req)
  if (path.object === null) return onContainer(next, req)
  if ((req.method !== 'PUT' && req.method !== 'DELETE') || req.env.source === 'VW') return next(req)
  const version = req.query.get('version-id')
  if (version !== undefined && !(version === 'null' && req.method === 'DELETE')) return next(req)
  const info = await containerInfo(site.cluster, req.env, path.account, path.container)
  const location = info.headers[LOCATION]
  if (info.status !== 200 || !location) return next(req)
  if (req.env.authorize) {
    const refused = await req.env.authorize(req, info.headers['x-container-write'] ?? null)
    if (refused) return refused
  }
  const archive = { account: path.account, container: unquote(location)!.split('/')[0], object: path.object }
  if (req.method === 'PUT') return (await keepCurrent(next, site, req, archive)) ?? next(req)
  return info.headers[MODE] === 'history' ? forget(next, site, req, archive) : pop(next, req, archive)
}

async function onContainer(next: App, req: Req): Promise<Res> {
  if (req.method === 'PUT' || req.method === 'POST') {
    const stack = req.headers['x-versions-location']
    const log = req.headers['x-history-location']
    if (stack !== undefined && log !== undefined && stack && log)
      return refuse(400, 'Only one of X-Versions-Location or X-History-Location may be specified')
    const value = stack || log
    if (value) {
      if (!unquote(value) || unquote(value)!.includes('/'))
        return refuse(412, 'X-Versions-Location must be of the form <container name>')
      req.headers[LOCATION] = value
      req.headers[MODE] = stack ? 'stack' : 'history'
    } else if (
      stack === '' ||
      log === '' ||
      req.headers['x-remove-versions-location'] ||
      req.headers['x-remove-history-location']
    ) {
      req.headers[LOCATION] = ''
      req.headers[MODE] = ''
    }
    for (const name of ['x-versions-location', 'x-history-location', 'x-remove-versions-location', 'x-remove-history-location'])
      delete req.headers[name]
    return next(req)
  }
  const res = await next(req)
  const location = res.headers[LOCATION]
  if (location) res.headers[res.headers[MODE] === 'history' ? 'x-history-location' : 'x-versions-location'] = location
  return res
}

interface Archive {
  account: string
  container: string
  object: string
}

/** Three hex digits of its length before the name: no name's versions are among another's. */
const prefixOf = (object: string): string => `${Buffer.byteLength(object).toString(16).padStart(3, '0')}${object}/`
const own = (req: Req, method: string, path: string, extra: Partial<Parameters<typeof subRequest>[1]> = {}): Req =>
  subRequest(req, { method, path, source: 'VW', preauthorized: true, ...extra })

/** Copies the current object into the archive; null when that is done or there is none, else the refusal. */
async function keepCurrent(next: App, _site: Site, req: Req, archive: Archive): Promise<Res | null> {
  const current = await next(
    own(req, 'GET', req.path, {
      query: new Map([
        ['symlink', 'get'],
        ['multipart-manifest', 'get'],
        ['format', 'raw'],
      ]),
    }),
  )
  if (current.status === 404) {
    discard(current)
    return null
  }
  if (!ok(current.status)) return refuse(503)
  const time = normal(current.headers['x-timestamp'] ?? String(Date.parse(current.headers['last-modified']) / 1000))
  const path = `/v1/${archive.account}/${archive.container}/${prefixOf(archive.object)}${time}`
  const res = await put(next, req, path, current)
  if (ok(res.status)) return null
  return res.status === 404 || (res.status >= 400 && res.status < 500)
    ? refuse(412, 'the versions container cannot take the old version')
    : refuse(503)
}

/** Stores what a GET answered under another name. */
export async function put(next: App, req: Req, path: string, source: Res, extra: Headers = {}): Promise<Res> {
  const headers: Headers = { ...extra }
  for (const name in source.headers) {
    if (
      name.startsWith('x-object-') ||
      [
        'content-type',
        'content-encoding',
        'content-disposition',
        'x-delete-at',
        'x-symlink-target',
        'x-symlink-target-account',
        'x-symlink-target-etag',
      ].includes(name)
    ) {
      headers[name] = source.headers[name]
    }
  }
  // a manifest goes as the bytes that it is: nobody below takes it for one to be checked
  const size = source.headers['x-object-sysmeta-slo-size']
  if (source.headers['x-static-large-object'] !== undefined) {
    headers['x-static-large-object'] = source.headers['x-static-large-object']
    headers['content-type'] = `${headers['content-type']};swift_bytes=${size}`
  }
  const res = await next(
    own(req, 'PUT', path, { headers, body: source.body, length: Number(source.headers['content-length'] ?? 0) }),
  )
  discard(res)
  return res
}

async function forget(next: App, site: Site, req: Req, archive: Archive): Promise<Res> {
  const refused = await keepCurrent(next, site, req, archive)
  if (refused) return refused
  const marker = `/v1/${archive.account}/${archive.container}/${prefixOf(archive.object)}${req.headers['x-timestamp'] ?? now()}`
  const res = await next(own(req, 'PUT', marker, { headers: { 'content-type': DELETED_TYPE }, length: 0 }))
  discard(res)
  if (!ok(res.status)) return refuse(res.status === 404 ? 412 : 503)
  return next(req)
}

async function pop(next: App, req: Req, archive: Archive): Promise<Res> {
  const query = new Map([
    ['format', 'json'],
    ['prefix', prefixOf(archive.object)],
    ['reverse', 'on'],
    ['limit', '100'],
  ])
  const listing = await next(own(req, 'GET', `/v1/${archive.account}/${archive.container}`, { query }))
  if (listing.status === 404) return next(req)
  if (!ok(listing.status)) return refuse(503)
  const versions = JSON.parse((await readAll(listing.body)).toString() || '[]') as { name: string; content_type: string }[]
  const pathOfVersion = (version: { name: string }): string => `/v1/${archive.account}/${archive.container}/${version.name}`
  const isMarker = (version: { content_type: string }): boolean =>
    version.content_type === DELETED_TYPE.split(';')[0] || version.content_type === DELETED_TYPE
  let marker: string | null = null
  if (versions.length && isMarker(versions[0])) {
    // deleted while the history was kept: what is stored now goes, else the marker does, and what it covered comes back
    const head = await next(own(req, 'HEAD', req.path))
    if (ok(head.status)) return next(req)
    marker = pathOfVersion(versions.shift()!)
  }
  const unmarked = async (): Promise<Res> => next({ ...own(req, 'DELETE', marker!), rawPath: quote(marker!) })
  for (const version of versions) {
    if (isMarker(version)) break
    const path = pathOfVersion(version)
    const source = await next(
      own(req, 'GET', path, {
        query: new Map([
          ['symlink', 'get'],
          ['multipart-manifest', 'get'],
          ['format', 'raw'],
        ]),
      }),
    )
    if (source.status === 404) continue
    if (!ok(source.status)) return refuse(503)
    const restored = await put(next, req, req.path, source)
    if (!ok(restored.status)) return refuse(503)
    const gone = await next({ ...own(req, 'DELETE', path), rawPath: quote(path) })
    if (marker === null) return gone
    discard(gone)
    return unmarked()
  }
  return marker === null ? next(req) : unmarked()
}
