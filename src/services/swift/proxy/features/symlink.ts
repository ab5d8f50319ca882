/** Symbolic links: an empty object that stands for another, by name (dynamic) or by name and ETag (static). */

import { md5 } from '../../hash.ts'
import {
  type App,
  discard,
  type Headers,
  ok,
  quote,
  type Req,
  type Res,
  refuse,
  Stop,
  subRequest,
  unquote,
} from '../../http/message.ts'
import { pathOf, type Step } from '../site.ts'

const S = 'x-object-sysmeta-symlink-target'
export const LINK = { target: S, account: `${S}-account`, etag: `${S}-etag`, bytes: `${S}-bytes` }
/** A link that does not count as one when links to links are followed. */
export const EXTEND = 'x-object-sysmeta-symloop-extend'
const EMPTY_ETAG = md5('')
const MOST_HOPS = 2

/** Makes links on PUT, follows them on GET and HEAD, sends a POST on to the target. */
export const symlink: Step = next => async req => {
  const path = pathOf(req)
  if (!path?.object) return next(req)
  switch (req.method) {
    case 'PUT':
      // a copy of a link, which is to lead into another account
      if (req.headers[LINK.target] !== undefined && req.headers['x-symlink-target-account'] !== undefined) {
        req.headers['x-symlink-target'] ??= req.headers[LINK.target]
        for (const name of Object.values(LINK)) delete req.headers[name]
      }
      if (req.headers['x-symlink-target'] !== undefined) return putLink(next, req, path)
      if (['x-symlink-target-account', 'x-symlink-target-etag'].some(name => req.headers[name] !== undefined))
        delete req.headers['x-symlink-target-account']
      return next(req)
    case 'GET':
    case 'HEAD':
      return req.query.get('symlink') === 'get' ? show(next, req) : follow(next, req, path.account, 0, null, req.env.authorize)
    case 'POST':
      return post(next, req)
    default:
      return next(req)
  }
}

async function putLink(
  next: App,
  req: Req,
  path: { account: string; container: string | null; object: string | null },
): Promise<Res> {
  if (req.length !== 0) return refuse(400, 'Symlink requests require a zero byte body')
  const target = unquote(req.headers['x-symlink-target'])?.replace(/^\//, '')
  if (!target || !/^[^/]+\/.+$/s.test(target))
    return refuse(412, 'X-Symlink-Target header must be of the form <container name>/<object name>')
  const given = req.headers['x-symlink-target-account']
  const account = given === undefined ? path.account : unquote(given)
  if (!account || account.includes('/')) return refuse(412, 'Account name cannot contain slashes')
  if (account === path.account && target === `${path.container}/${path.object}`)
    return refuse(400, 'Symlink cannot target itself')
  const headers: Headers = { ...req.headers, [LINK.target]: quote(target) }
  for (const name of ['x-symlink-target', 'x-symlink-target-account', 'x-symlink-target-etag']) delete headers[name]
  if (given !== undefined) headers[LINK.account] = quote(account)
  let override = `${EMPTY_ETAG}; symlink_target=${quote(target)}`
  if (given !== undefined) override += `; symlink_target_account=${quote(account)}`
  const etag = req.headers['x-symlink-target-etag']?.replaceAll('"', '')
  if (etag) {
    const found = await checkTarget(next, req, `/v1/${account}/${target}`, etag, headers)
    if (headers[LISTED]) override = override.replace(/^[^;]*/, tag => `${tag}; ${headers[LISTED]}`)
    delete headers[LISTED]
    override += `; symlink_target_etag=${etag}; symlink_target_bytes=${headers[LINK.bytes]}`
    headers['content-type'] ??= found.headers['content-type']
  }
  headers['content-type'] ??= 'application/symlink'
  headers['x-object-sysmeta-container-update-override-etag'] = override
  headers.etag = EMPTY_ETAG
  const res = await next({ ...req, headers })
  return ok(res.status) ? withLink(res, headers) : res
}

/** What a static link would stand for, through links that are static themselves. Throws 409 when it is not there or another. */
async function checkTarget(next: App, req: Req, path: string, etag: string, headers: Headers): Promise<Res> {
  const passed: Headers = {}
  for (const name of ['x-auth-token', 'x-storage-token', 'x-service-token', 'x-backend-allow-reserved-names'])
    if (req.headers[name] !== undefined) passed[name] = req.headers[name]
  const found = await resolve(next, req, path, etag, passed, 0)
  const params = found.headers['x-object-sysmeta-container-update-override-etag']?.split(';').slice(1) ?? []
  const kept = params.map(param => param.trim()).filter(param => !param.startsWith('symlink_') && !param.startsWith('swift_meta'))
  if (kept.length) headers[LISTED] = kept.join('; ')
  headers[LINK.etag] = etag
  headers[LINK.bytes] = found.headers['x-object-sysmeta-slo-size'] ?? found.headers['content-length']
  return found
}
/** Carries what a listing says of the target beside its ETag (`slo_etag=…`) from `checkTarget` to its caller. */
const LISTED = 'x-backend-symlink-listed'

async function resolve(next: App, req: Req, path: string, etag: string, passed: Headers, hops: number): Promise<Res> {
  const sub = subRequest(req, { method: 'HEAD', path, headers: { ...passed }, source: 'SYM' })
  if (passed['x-backend-allow-reserved-names'] !== undefined) sub.env.authorize = null
  const found = await next(sub)
  const away = { 'content-location': quote(path) }
  if (found.status === 404) throw new Stop(refuse(409, 'X-Symlink-Target does not exist', away))
  if (!ok(found.status)) throw new Stop(refuse(found.status))
  const target = found.headers[LINK.target]
  const linked = found.headers[LINK.etag]
  const own = (linked ?? found.headers.etag).replaceAll('"', '')
  if (own !== etag)
    throw new Stop(refuse(409, `Object Etag '${own}' does not match X-Symlink-Target-Etag header '${etag}'`, away))
  if (target === undefined || linked === undefined) return found
  if (hops >= MOST_HOPS) throw new Stop(tooMany())
  const account = found.headers[LINK.account]
  const owner = account === undefined ? path.split('/')[2] : unquote(account)!
  const allow: Headers =
    found.headers['x-object-sysmeta-allow-reserved-names'] === undefined ? {} : { 'x-backend-allow-reserved-names': 'true' }
  const further = found.headers[EXTEND] === undefined ? hops + 1 : hops
  return resolve(next, req, `/v1/${owner}/${unquote(target)}`, linked, { ...passed, ...allow }, further)
}

const tooMany = (): Res => refuse(409, `Too many levels of symbolic links, maximum allowed is ${MOST_HOPS}`)

/** The link's own headers in the form that clients know. */
function withLink(res: Res, from: Headers): Res {
  const headers = { ...res.headers }
  if (from[LINK.target] !== undefined) headers['x-symlink-target'] = from[LINK.target]
  if (from[LINK.account] !== undefined) headers['x-symlink-target-account'] = from[LINK.account]
  if (from[LINK.etag] !== undefined) {
    headers['x-symlink-target-etag'] = from[LINK.etag]
    headers['x-symlink-target-bytes'] = from[LINK.bytes]
  }
  return { ...res, headers }
}

async function show(next: App, req: Req): Promise<Res> {
  const res = await next(req)
  return res.headers[LINK.target] === undefined ? res : withLink(res, res.headers)
}

/** Answers for what a link leads to. `wanted`: the ETag that a static link before this one names. */
async function follow(
  next: App,
  req: Req,
  account: string,
  hops: number,
  wanted: string | null,
  authorize: Req['env']['authorize'],
): Promise<Res> {
  const differs = (own: string | undefined): boolean => wanted !== null && own !== undefined && own.replaceAll('"', '') !== wanted
  const wrong = (): Res => refuse(409, 'X-Symlink-Target-Etag headers do not match', { 'content-location': quote(req.path) })
  const headers = {
    ...req.headers,
    'x-backend-ignore-range-if-metadata-present': [req.headers['x-backend-ignore-range-if-metadata-present'], LINK.target]
      .filter(Boolean)
      .join(','),
  }
  let res = await next({ ...req, headers })
  const target = res.headers[LINK.target]
  if (target === undefined) {
    // also of an answer that says that a condition does not hold: the link is wrong whatever was asked
    if (res.status === 404 || !differs(res.headers.etag)) return res
    discard(res)
    return wrong()
  }
  if (res.status === 304 || res.status === 412) {
    // the conditions are about the target, not about the link
    const bare: Headers = { ...headers }
    for (const name in bare) if (name.startsWith('if-')) delete bare[name]
    res = await next({ ...req, headers: bare })
  }
  if (!ok(res.status)) return res
  discard(res)
  if (differs(res.headers[LINK.etag] ?? res.headers.etag)) return wrong()
  if (hops >= MOST_HOPS) return tooMany()
  const owner = res.headers[LINK.account] === undefined ? account : unquote(res.headers[LINK.account])!
  const path = `/v1/${owner}/${unquote(target)}`
  const asked: Req = { ...req, path, rawPath: quote(path), headers: { ...req.headers }, env: { ...req.env, authorize } }
  if (res.headers['x-object-sysmeta-allow-reserved-names'] !== undefined) {
    asked.headers['x-backend-allow-reserved-names'] = 'true'
    asked.env.authorize = null // made by the store itself: whoever may read the link may read what it stands for
  }
  delete asked.headers['x-backend-storage-policy-index']
  const found = await follow(
    next,
    asked,
    owner,
    res.headers[EXTEND] === undefined ? hops + 1 : hops,
    res.headers[LINK.etag] ?? null,
    authorize,
  )
  req.env.owner ||= asked.env.owner
  const shown = { ...found.headers, 'content-location': found.headers['content-location'] ?? quote(path) }
  for (const name in res.headers)
    if (name.startsWith('x-object-sysmeta-') && !name.startsWith(S) && shown[name as keyof typeof shown] === undefined)
      Object.assign(shown, { [name]: res.headers[name] })
  return { ...found, headers: shown }
}

async function post(next: App, req: Req): Promise<Res> {
  if (req.headers['x-symlink-target'] !== undefined) return refuse(400, 'A PUT request is required to set a symlink target')
  const res = await next(subRequest(req, { method: 'HEAD', headers: { ...pick(req.headers) }, source: 'SYM' }))
  const target = res.headers[LINK.target]
  if (!ok(res.status) || target === undefined) return next(req)
  const own = await next(req)
  if (!ok(own.status)) return own
  const account = res.headers[LINK.account] ?? quote(pathOf(req)!.account)
  return refuse(307, 'The requested POST was applied to a symlink. POST directly to the target to apply requested metadata.', {
    location: `${req.env.mount}/v1/${account}/${target}`,
    'x-symlink-target': target,
    ...(res.headers[LINK.etag] === undefined ? {} : { 'x-symlink-target-etag': res.headers[LINK.etag] }),
  })
}

const pick = (headers: Headers): Headers => {
  const out: Headers = {}
  for (const name of ['x-auth-token', 'x-storage-token', 'x-service-token', 'x-backend-allow-reserved-names'])
    if (headers[name] !== undefined) out[name] = headers[name]
  return out
}
