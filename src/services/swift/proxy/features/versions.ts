/**
 * Versioning: with `X-Versions-Enabled` each PUT stores its data under a hidden name of its own, and leaves a static link to it at the
 * object's name. A DELETE leaves a marker among the versions and takes the link away. The hidden names are
 * `NUL versions NUL container` / `NUL object NUL inverted time`, so that a listing has the newest version of each object first.
 */
import { RESERVED } from '../../constraints.ts'
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
  reply,
  subRequest,
  unquote,
} from '../../http/message.ts'
import { moved, normal, now, toTicks } from '../../timestamp.ts'
import { containerInfo } from '../info.ts'
import { pathOf, type Site, type Step } from '../site.ts'
import { DELETED_TYPE, put } from './history.ts'
import { EXTEND, LINK } from './symlink.ts'
import { listVersions } from './versions-list.ts'

export const ENABLED = 'x-container-sysmeta-versions-enabled'
export const HIDDEN = 'x-container-sysmeta-versions-container'
const MARK = 'x-object-sysmeta-versions-symlink'

export const hiddenContainer = (container: string): string => `${RESERVED}versions${RESERVED}${container}`
const LAST = 999999999999999
/** Inverting twice gives the time again. */
const invert = (timestamp: string): string => moved('0000000000.00000', LAST - toTicks(timestamp))
export const hiddenObject = (object: string, version: string): string => `${RESERVED}${object}${RESERVED}${invert(version)}`
/** The name and version of a hidden object. */
export function parseHidden(name: string): { object: string; version: string } {
  const cut = name.lastIndexOf(RESERVED)
  return { object: name.slice(1, cut), version: invert(name.slice(cut + 1)) }
}

/** Everything about versions. */
export const versions: Step = (next, site) => async req => {
  const path = pathOf(req)
  if (!path?.container || path.container.startsWith(RESERVED) || req.env.source === 'OV') return next(req)
  if (path.object === null) return onContainer(next, site, req, path.account, path.container)
  const id = req.query.get('version-id')
  const info = await containerInfo(site.cluster, req.env, path.account, path.container)
  if (info.headers[HIDDEN] === undefined) {
    if (id !== undefined && id !== 'null') return refuse(400, 'version-aware operations require that the container is versioned')
    return next(req)
  }
  const reading = req.method === 'GET' || req.method === 'HEAD'
  if (req.env.authorize && !reading) {
    const refused = await req.env.authorize(req, info.headers['x-container-write'] ?? null)
    if (refused) return refused
  }
  const at: At = {
    account: path.account,
    container: path.container,
    object: path.object,
    enabled: isTrue(info.headers[ENABLED]),
    readAcl: info.headers['x-container-read'] ?? null,
  }
  if (id !== undefined) return oneVersion(next, req, at, id)
  switch (req.method) {
    case 'GET':
    case 'HEAD':
      return shown(await next(req), req.path)
    case 'PUT':
      return at.enabled ? putVersion(next, req, at) : next(req)
    case 'DELETE':
      return at.enabled ? deleteCurrent(next, req, at) : next(req)
    case 'POST':
      return post(next, req, at)
    default:
      return next(req)
  }
}

export interface At {
  account: string
  container: string
  object: string
  enabled: boolean
  readAcl: string | null
}

const hiddenPath = (at: At, version: string): string =>
  `/v1/${at.account}/${hiddenContainer(at.container)}/${hiddenObject(at.object, version)}`
const ALLOW = { 'x-backend-allow-reserved-names': 'true' }
/** A request of the store's own, also to hidden names. */
export const own = (req: Req, method: string, path: string, extra: Partial<Parameters<typeof subRequest>[1]> = {}): Req =>
  subRequest(req, { method, path, source: 'OV', preauthorized: true, ...extra, headers: { ...extra.headers, ...ALLOW } })

/** An answer with the version it is about. */
function shown(res: Res, path: string): Res {
  const location = res.headers['content-location']
  const isLink = res.headers[MARK] !== undefined
  const version = isLink && location ? parseHidden(unquote(location)!.split('/').slice(4).join('/')).version : 'null'
  const headers: Headers = { ...res.headers, 'x-object-version-id': version }
  if (isLink) headers['content-location'] = `${quote(path)}?version-id=${version}`
  return { ...res, headers }
}

async function onContainer(next: App, site: Site, req: Req, account: string, container: string): Promise<Res> {
  const wanted =
    req.headers['x-versions-enabled'] ?? (req.headers['x-remove-versions-enabled'] === undefined ? undefined : 'false')
  if ((req.method === 'PUT' || req.method === 'POST') && wanted !== undefined) {
    const refused = await enable(next, site, req, account, container, isTrue(wanted))
    if (refused) return refused
  }
  if (req.method === 'DELETE') {
    const info = await containerInfo(site.cluster, req.env, account, container)
    if (info.headers[HIDDEN] !== undefined) {
      if (req.env.authorize) {
        const refused = await req.env.authorize(req, null)
        if (refused) return refused
      }
      const head = await next(own(req, 'HEAD', `/v1/${account}/${hiddenContainer(container)}`))
      if (ok(head.status) && Number(head.headers['x-container-object-count']) > 0)
        return refuse(409, 'The container holds versions of objects.')
      const res = await next(req)
      if (ok(res.status)) discard(await next(own(req, 'DELETE', `/v1/${account}/${hiddenContainer(container)}`)))
      return res
    }
  }
  if (req.method === 'GET' && req.query.has('versions')) {
    const info = await containerInfo(site.cluster, req.env, account, container)
    const head = await next({ ...req, method: 'HEAD', body: null })
    if (!ok(head.status)) return head
    return listVersions(next, req, account, container, info.headers[HIDDEN] !== undefined, marked(head))
  }
  return withVersions(site, req, account, container, marked(await next(req)))
}

/** A container holds its versions too: their bytes count. */
async function withVersions(site: Site, req: Req, account: string, container: string, res: Res): Promise<Res> {
  if (!ok(res.status) || (req.method !== 'GET' && req.method !== 'HEAD') || res.headers[HIDDEN] === undefined) return res
  const hidden = await containerInfo(site.cluster, req.env, account, hiddenContainer(container), true)
  const bytes = Number(res.headers['x-container-bytes-used'] ?? 0) + Number(hidden.headers['x-container-bytes-used'] ?? 0)
  return { ...res, headers: { ...res.headers, 'x-container-bytes-used': String(bytes) } }
}

function marked(res: Res): Res {
  const enabled = res.headers[ENABLED]
  if (enabled !== undefined && enabled !== '') res.headers['x-versions-enabled'] = isTrue(enabled) ? 'True' : 'False'
  return res
}

async function enable(next: App, site: Site, req: Req, account: string, container: string, on: boolean): Promise<Res | null> {
  if (req.env.authorize) {
    const refused = await req.env.authorize(req, null)
    if (refused) return refused
  }
  const info = await containerInfo(site.cluster, req.env, account, container)
  if (on && info.headers['x-container-sysmeta-versions-location']) {
    return refuse(
      400,
      'Cannot enable object versioning on a container that is already using the legacy versioned writes feature.',
    )
  }
  for (const name of ['x-versions-enabled', 'x-remove-versions-enabled']) delete req.headers[name]
  if (!on && info.headers[HIDDEN] === undefined) return null
  if (on) {
    const headers: Headers = {}
    if (info.headers['x-backend-storage-policy-index'] !== undefined)
      headers['x-backend-storage-policy-index'] = info.headers['x-backend-storage-policy-index']
    else if (req.headers['x-storage-policy']) headers['x-storage-policy'] = req.headers['x-storage-policy']
    const made = await next(own(req, 'PUT', `/v1/${account}/${hiddenContainer(container)}`, { headers }))
    discard(made)
    if (!ok(made.status) && made.status !== 409) return refuse(503)
    req.headers[HIDDEN] = quote(hiddenContainer(container))
  }
  req.headers[ENABLED] = on ? 'True' : 'False'
  return null
}

/** Moves an object that was stored before versioning among the versions. The refusal, or null. */
async function keepPlain(next: App, req: Req, at: At): Promise<Res | null> {
  const head = await next(own(req, 'HEAD', req.path, { query: new Map([['symlink', 'get']]) }))
  if (head.status === 404 || (ok(head.status) && head.headers[MARK] !== undefined)) return null
  if (!ok(head.status)) return refuse(503)
  const source = await next(
    own(req, 'GET', req.path, {
      query: new Map([
        ['symlink', 'get'],
        ['multipart-manifest', 'get'],
        ['format', 'raw'],
      ]),
    }),
  )
  if (!ok(source.status)) return refuse(503)
  const res = await put(reserved(next), req, hiddenPath(at, normal(source.headers['x-timestamp'] ?? now())), source)
  return ok(res.status) ? null : refuse(503)
}

const reserved =
  (next: App): App =>
  req => {
    req.headers['x-backend-allow-reserved-names'] = 'true'
    req.env.source = 'OV'
    return next(req)
  }

async function putVersion(next: App, req: Req, at: At): Promise<Res> {
  const refused = await keepPlain(next, req, at)
  if (refused) return refused
  const version = normal(req.headers['x-timestamp'] ?? now())
  const path = hiddenPath(at, version)
  const headers: Headers = { ...req.headers, ...ALLOW, 'x-timestamp': version }
  // the name ends at its time; the version stays until somebody deletes it
  const expiry: Headers = {}
  for (const name of ['x-delete-at', 'x-delete-after']) {
    if (headers[name] !== undefined) expiry[name] = headers[name]
    delete headers[name]
  }
  const isLink = headers['x-object-sysmeta-symlink-target'] !== undefined || headers['x-symlink-target'] !== undefined
  const stored = await next({ ...req, path, rawPath: quote(path), headers, env: { ...req.env, authorize: null, source: 'OV' } })
  if (!ok(stored.status)) return stored
  const link = await linkTo(next, req, at, version, isLink ? null : stored.headers.etag, headers['content-type'], expiry)
  if (!ok(link.status)) return link
  return { ...stored, headers: { ...stored.headers, 'x-object-version-id': version } }
}

/** Makes the object a link to that version. */
async function linkTo(
  next: App,
  req: Req,
  at: At,
  version: string,
  etag: string | null,
  type: string | undefined,
  expiry: Headers = {},
): Promise<Res> {
  const target = `${hiddenContainer(at.container)}/${hiddenObject(at.object, version)}`
  const headers: Headers = {
    ...expiry,
    [EXTEND]: 'true',
    'x-symlink-target': quote(target),
    [MARK]: 'true',
    'x-object-sysmeta-allow-reserved-names': 'true',
    'x-timestamp': now(),
  }
  if (etag) headers['x-symlink-target-etag'] = etag.replaceAll('"', '')
  if (type) headers['content-type'] = type
  const res = await next(own(req, 'PUT', `/v1/${at.account}/${at.container}/${at.object}`, { headers, length: 0 }))
  discard(res)
  return res
}

async function deleteCurrent(next: App, req: Req, at: At): Promise<Res> {
  const refused = await keepPlain(next, req, at)
  if (refused) return refused
  const version = normal(req.headers['x-timestamp'] ?? now())
  const marker = await next(
    own(req, 'PUT', hiddenPath(at, version), { headers: { 'content-type': DELETED_TYPE, 'x-timestamp': version }, length: 0 }),
  )
  discard(marker)
  if (!ok(marker.status)) return refuse(503)
  const res = await next({ ...req, headers: { ...req.headers, 'x-timestamp': now() } })
  if (!ok(res.status) && res.status !== 404) return res
  discard(res)
  if (res.status === 404) return refuse(404, undefined, { 'x-object-version-id': version })
  return reply(204, { 'content-type': 'text/html; charset=UTF-8', 'x-object-version-id': version })
}

/** The version that the object's name stands for now; `null` for a plain object, nothing when there is none. */
export async function currentVersion(next: App, req: Req, at: At): Promise<string | null> {
  const head = await next(
    own(req, 'HEAD', `/v1/${at.account}/${at.container}/${at.object}`, { query: new Map([['symlink', 'get']]) }),
  )
  if (!ok(head.status)) return null
  if (head.headers[MARK] === undefined) return 'null'
  return parseHidden(
    unquote(head.headers['x-symlink-target'] ?? head.headers[LINK.target])!
      .split('/')
      .slice(1)
      .join('/'),
  ).version
}

async function post(next: App, req: Req, at: At): Promise<Res> {
  const version = await currentVersion(next, req, at)
  if (version === null || version === 'null') return next(req)
  // when the name is to end it is the link that ends: the version stays
  const own = await next({ ...req, headers: { ...req.headers } })
  if (own.status !== 307) return own
  discard(own)
  const path = hiddenPath(at, version)
  const headers: Headers = { ...req.headers, ...ALLOW }
  for (const name of ['x-delete-at', 'x-delete-after']) delete headers[name]
  const res = await next({
    ...req,
    path,
    rawPath: quote(path),
    headers,
    env: { ...req.env, authorize: null, source: 'OV' },
  })
  return { ...res, headers: { ...res.headers, 'x-object-version-id': version } }
}

async function oneVersion(next: App, req: Req, at: At, id: string): Promise<Res> {
  const query = new Map(req.query)
  query.delete('version-id')
  if (id === 'null') return nullVersion(next, { ...req, query }, at)
  let version: string
  try {
    version = normal(id)
  } catch {
    return refuse(400, 'Invalid version-id parameter')
  }
  const path = hiddenPath(at, version)
  const hidden: Req = {
    ...req,
    path,
    rawPath: quote(path),
    query,
    headers: { ...req.headers, ...ALLOW },
    env: { ...req.env, authorize: null, source: 'OV' },
  }
  if (req.method === 'GET' || req.method === 'HEAD') {
    if (req.env.authorize) {
      const refused = await req.env.authorize(req, null) // versions are the owner's
      if (refused) return refused
    }
    const res = await next(hidden)
    const headers = { ...res.headers, 'x-object-version-id': version }
    if (ok(res.status) && res.headers['content-type']?.startsWith('application/x-deleted')) {
      discard(res)
      return refuse(404, undefined, {
        'x-object-version-id': version,
        'content-type': DELETED_TYPE,
        'x-backend-delete-marker': 'true',
      })
    }
    return { ...res, headers }
  }
  if (req.method === 'DELETE') {
    const current = await currentVersion(next, req, at)
    if (current === version) {
      const unlinked = await next({ ...req, query: new Map(), headers: { ...req.headers, 'x-timestamp': now() } })
      discard(unlinked)
      if (!ok(unlinked.status) && unlinked.status !== 404) return unlinked
    }
    const head = await next({ ...hidden, method: 'HEAD' })
    const res = await next({ ...hidden, headers: { ...hidden.headers, 'x-timestamp': now() } })
    const headers: Headers = {
      ...res.headers,
      'x-object-version-id': version,
      'x-object-current-version-id': current === version ? 'null' : (current ?? 'null'),
    }
    if (head.headers['content-type']?.startsWith('application/x-deleted')) headers['x-backend-delete-marker'] = 'true'
    return { ...res, headers }
  }
  if (req.method === 'PUT') return restore(next, req, at, hidden, version)
  if (req.method === 'POST') return next(hidden)
  return refuse(405)
}

async function restore(next: App, req: Req, at: At, hidden: Req, version: string): Promise<Res> {
  if (req.length !== 0) return refuse(400, 'PUT version-id requests require a zero byte body')
  const head = await next({ ...hidden, method: 'HEAD', body: null })
  if (!ok(head.status)) return head
  if (head.headers['content-type']?.startsWith('application/x-deleted')) return deleteCurrent(next, req, at)
  const refused = await keepPlain(next, req, at)
  if (refused) return refused
  const res = await linkTo(next, req, at, version, head.headers.etag, head.headers['content-type'])
  return ok(res.status)
    ? reply(201, { 'x-object-version-id': version, etag: head.headers.etag, 'content-type': 'text/html; charset=UTF-8' })
    : res
}

async function nullVersion(next: App, req: Req, at: At): Promise<Res> {
  if (req.method === 'PUT') return refuse(400, 'PUT version-id requests need the id of a version')
  // to delete it takes away whatever the name stands for; versions stay
  const current = req.method === 'DELETE' ? 'null' : await currentVersion(next, req, at)
  if (current !== 'null') return refuse(404, undefined, { 'x-object-version-id': 'null' })
  const res = await next(req)
  return { ...res, headers: { ...res.headers, 'x-object-version-id': 'null' } }
}
