/** Cross-origin requests: preflight by OPTIONS, and the headers that let a browser see an answer. */
import { type Headers, type Req, type Res, refuse, reply, text } from '../../http/message.ts'
import { containerInfo } from '../info.ts'
import { pathOf, type Site, type Step } from '../site.ts'

const META = 'x-container-meta-access-control-'
const ALWAYS = [
  'cache-control',
  'content-language',
  'content-type',
  'expires',
  'last-modified',
  'pragma',
  'etag',
  'x-timestamp',
  'x-trans-id',
  'x-openstack-request-id',
]
const METHODS: Record<string, string> = {
  account: 'HEAD, GET, POST, OPTIONS',
  container: 'HEAD, GET, PUT, POST, DELETE, OPTIONS',
  object: 'HEAD, GET, PUT, POST, OPTIONS, DELETE, COPY',
}

/** Adds to the answers of containers that allow the asking origin. */
export const cors: Step = (next, site) => async req => {
  const path = pathOf(req)
  if (!path) return next(req)
  const kind = path.container === null ? 'account' : path.object === null ? 'container' : 'object'
  if (req.method === 'OPTIONS') return preflight(site, req, path, METHODS[kind])
  const { origin } = req.headers
  const res = await next(req)
  if (!origin || path.container === null) return res
  const info = await containerInfo(site.cluster, req.env, path.account, path.container)
  const allowed = rule(site, info.headers, origin)
  if (site.settings.strictCors && !allowed) return res
  const headers = { ...res.headers }
  const exposed = new Set([
    ...ALWAYS,
    ...Object.keys(res.headers).filter(name => name.startsWith(`x-${kind}-meta-`)),
    ...words(info.headers[`${META}expose-headers`]),
  ])
  headers['access-control-expose-headers'] ??= [...exposed].sort().join(', ')
  if (headers['access-control-allow-origin'] === undefined) {
    headers['access-control-allow-origin'] = allowed === '*' && site.settings.strictCors ? '*' : origin
    if (headers['access-control-allow-origin'] !== '*') headers.vary = [headers.vary, 'Origin'].filter(Boolean).join(', ')
  }
  return { ...res, headers }
}

const words = (value: string | undefined): string[] =>
  value
    ? text(value)
        .split(/[\s,]+/)
        .filter(Boolean)
        .map(word => word.toLowerCase())
    : []

/** `*` when all origins are allowed, `own` when this one is, null else. */
function rule(site: Site, headers: Headers, origin: string): '*' | 'own' | null {
  const list = [
    ...(headers[`${META}allow-origin`] ? text(headers[`${META}allow-origin`]).split(/\s+/) : []),
    ...site.settings.corsOrigins,
  ]
  if (list.includes('*')) return '*'
  return list.includes(origin) ? 'own' : null
}

async function preflight(site: Site, req: Req, path: { account: string; container: string | null }, allow: string): Promise<Res> {
  const { origin } = req.headers
  const method = req.headers['access-control-request-method']
  if (!origin) return reply(200, { allow, 'content-type': 'text/html; charset=UTF-8' })
  if (!method) return refuse(401, undefined, { allow })
  const info = path.container === null ? null : await containerInfo(site.cluster, req.env, path.account, path.container)
  const allowed = rule(site, info?.headers ?? {}, origin)
  if (!allowed || !allow.split(', ').includes(method.toUpperCase())) return refuse(401, undefined, { allow })
  const headers: Headers = {
    allow,
    'access-control-allow-origin': allowed === '*' ? '*' : origin,
    'access-control-allow-methods': allow,
    vary: 'Origin, Access-Control-Request-Headers',
    'content-type': 'text/html; charset=UTF-8',
  }
  const maxAge = info?.headers[`${META}max-age`]
  if (maxAge) headers['access-control-max-age'] = maxAge
  const asked = new Set([
    ...words(req.headers['access-control-request-headers']),
    ...words(info?.headers[`${META}allow-headers`]),
  ])
  if (asked.size) headers['access-control-allow-headers'] = [...asked].join(', ')
  return reply(200, headers)
}
