/** Temporary URLs: whoever has the URL may use one method on one object (or all under a prefix) until a time. */
import { isIP } from 'node:net'
import ipaddr from 'ipaddr.js'
import { discard, type Headers, ok, quote, type Req, type Res, reply, text } from '../../http/message.ts'
import { accountInfo, containerInfo } from '../info.ts'
import { pathOf, type Site, type Step } from '../site.ts'
import { signatureFits } from './discovery.ts'

const KEYS = ['meta-temp-url-key', 'meta-temp-url-key-2']

/** The keys of an account or container. */
export async function keysOf(
  site: Site,
  req: Req,
  account: string,
  container: string,
): Promise<{ account: string[]; container: string[] }> {
  const pick = (headers: Headers, kind: string): string[] =>
    KEYS.map(name => headers[`x-${kind}-${name}`])
      .filter(Boolean)
      .map(text)
  const owner = await accountInfo(site.cluster, req.env, account)
  const box = await containerInfo(site.cluster, req.env, account, container)
  return { account: pick(owner.headers, 'account'), container: pick(box.headers, 'container') }
}

/** Seconds since 1970 of a time given as a number or in ISO 8601; null for neither. */
export function timeOf(value: string): number | null {
  if (/^\d+$/.test(value)) return Number(value)
  if (!/^\d{4}-\d\d-\d\d(T\d\d:\d\d:\d\d(Z|[+-]\d{4})?)?$/.test(value)) return null
  const time = Date.parse(value.replace(/([+-]\d\d)(\d\d)$/, '$1:$2').replace(/(T\d\d:\d\d:\d\d)$/, '$1Z'))
  return Number.isNaN(time) ? null : time / 1000
}

const invalid = (req: Req): Res =>
  reply(
    401,
    { 'content-type': 'text/plain', 'www-authenticate': `Swift realm="${pathOf(req)?.account ?? 'unknown'}"` },
    req.method === 'HEAD' ? '' : '401 Unauthorized: Temp URL invalid\n',
  )

/** On a page that the store made itself. */
export const GENERATOR = 'x-backend-content-generator'

/** Lets signed requests in. */
export const tempurl: Step = (next, site) => async req => {
  const signature = req.query.get('temp_url_sig')
  const expiry = req.query.get('temp_url_expires')
  if (signature === undefined && expiry === undefined) return next(req)
  if (req.method === 'OPTIONS') return next(req)
  const path = pathOf(req)
  const prefix = req.query.get('temp_url_prefix')
  // a whole container, which static web can list
  const isRoot = path?.object === null && prefix === '' && (req.method === 'GET' || req.method === 'HEAD')
  if (!path?.container || !(path.object || isRoot) || !signature || !expiry) return invalid(req)
  const expires = timeOf(expiry)
  if (expires === null || expires < Date.now() / 1000) return invalid(req)
  if (!site.settings.tempurlMethods.includes(req.method)) return invalid(req)
  if (prefix !== undefined && !(path.object ?? '').startsWith(prefix)) return invalid(req)
  const range = req.query.get('temp_url_ip_range')
  if (range !== undefined && !inRange(req.env.remote, range)) return invalid(req)
  const methods = req.method === 'HEAD' ? ['HEAD', 'GET', 'PUT', 'POST'] : [req.method]
  const below = prefix === undefined ? path.object : prefix
  const signed = ['', req.env.mount].map(
    mount => `${prefix === undefined ? '' : 'prefix:'}${mount}/v1/${path.account}/${path.container}/${below}`,
  )
  const keys = await keysOf(site, req, path.account, path.container)
  const fits = (list: string[]): boolean =>
    list.length > 0 &&
    methods.some(method =>
      signed.some(one =>
        signatureFits(
          signature,
          list,
          `${range === undefined ? '' : `ip=${range}\n`}${method}\n${expires}\n${one}`,
          site.settings.digests,
        ),
      ),
    )
  const scope = fits(keys.account) ? 'account' : fits(keys.container) ? 'container' : null
  if (!scope) return invalid(req)
  return run(next, req, path, scope, expires)
}

async function run(
  next: (req: Req) => Promise<Res>,
  req: Req,
  path: { account: string; container: string | null; object: string | null },
  scope: 'account' | 'container',
  expires: number,
): Promise<Res> {
  req.env.who = { userId: '.tempurl', userName: '.tempurl', projectId: null, projectName: null, roles: [], groups: ['.tempurl'] }
  req.env.authorizeOverride = true
  req.env.authorize = asked => {
    const target = pathOf(asked)
    const inside = target?.account === path.account && (scope === 'account' || target.container === path.container)
    return inside ? null : reply(401, { 'content-type': 'text/plain' }, '401 Unauthorized: Temp URL invalid\n')
  }
  for (const name of ['x-object-manifest', 'x-symlink-target'])
    if (req.headers[name] !== undefined) return reply(400, { 'content-type': 'text/plain' }, `Header '${name}' not allowed`)
  req.env.tempUrl = parameters(req)
  req.query.delete('version-id')
  delete req.headers['x-timestamp']
  const res = await next(req)
  if (path.object === null && ok(res.status) && res.headers[GENERATOR] === undefined) {
    discard(res)
    return invalid(req) // the URL is for pages, not for the container's own listing
  }
  const headers: Headers = {}
  for (const name in res.headers)
    if (!name.startsWith('x-object-meta-') || name.startsWith('x-object-meta-public-')) headers[name] = res.headers[name]
  if (!ok(res.status) || (req.method !== 'GET' && req.method !== 'HEAD')) return { ...res, headers }
  const name = req.query.get('filename') ?? (path.object ?? path.container!).split('/').pop()!
  if (req.query.has('inline') || headers[GENERATOR] !== undefined)
    headers['content-disposition'] = req.query.has('filename') ? disposition('inline', name) : 'inline'
  else if (req.query.has('filename') || headers['content-disposition'] === undefined)
    headers['content-disposition'] = disposition('attachment', name)
  delete headers[GENERATOR]
  headers.expires = new Date(expires * 1000).toUTCString()
  return { ...res, headers }
}

/** What a page's links must carry so that they are let in too. */
function parameters(req: Req): { prefix: string | undefined; query: string } {
  const names = ['temp_url_prefix', 'temp_url_expires', 'temp_url_sig', 'temp_url_ip_range']
  const parts = names.filter(name => req.query.has(name)).map(name => `${name}=${quote(req.query.get(name)!)}`)
  if (req.query.has('inline')) parts.push('inline')
  return { prefix: req.query.get('temp_url_prefix'), query: parts.join('&') }
}

const disposition = (kind: string, name: string): string =>
  `${kind}; filename="${quote(name, '').replaceAll('%20', ' ').replaceAll('%22', '%22')}"; filename*=UTF-8''${quote(name, '')}`

function inRange(remote: string, range: string): boolean {
  const plain = remote.replace(/^::ffff:/, '')
  if (!isIP(plain)) return false
  try {
    const address = ipaddr.parse(plain)
    if (!range.includes('/')) return ipaddr.parse(range).toString() === address.toString()
    const [base, bits] = ipaddr.parseCIDR(range)
    return base.kind() === address.kind() && address.match([base, bits] as never)
  } catch {
    return false // a range that is none lets nobody in
  }
}
