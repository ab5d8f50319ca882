/** `/healthcheck`, `/info`, `/crossdomain.xml` and `/v1/endpoints/`: what the store says about itself. */
import { createHmac, timingSafeEqual } from 'node:crypto'
import { existsSync } from 'node:fs'
import { quote, type Req, type Res, refuse, reply } from '../../http/message.ts'
import { partitionFor, primaries } from '../../ring/ring.ts'
import { containerInfo } from '../info.ts'
import type { Site, Step } from '../site.ts'

/** Answers the paths outside `/v1/account`. */
export const discovery: Step = (next, site) => async req => {
  if (req.path === '/healthcheck') return health(site)
  if (req.path === '/info') return info(site, req)
  if (req.path === '/crossdomain.xml') return crossdomain(site, req)
  if (req.path.startsWith('/v1/endpoints/') || req.path.startsWith('/v2/endpoints/')) return endpoints(site, req)
  return next(req)
}

function health(site: Site): Res {
  const file = site.settings.healthDisablePath
  if (file && existsSync(file)) return reply(503, { 'content-type': 'text/plain' }, 'DISABLED BY FILE')
  return reply(200, { 'content-type': 'text/plain' }, 'OK')
}

const sign = (key: string, text: string, digest: string): Buffer => createHmac(digest, key).update(text).digest()

/** True when one of the keys signed the text, in any of the digests; `given` in hex, or as `sha256:base64`. */
export function signatureFits(given: string, keys: string[], text: string, digests: string[]): boolean {
  let wanted = given
  let allowed = digests
  const named = /^(sha1|sha256|sha512)[:-](.+)$/.exec(given)
  if (named) {
    wanted = Buffer.from(named[2].replaceAll('-', '+').replaceAll('_', '/'), 'base64').toString('hex')
    allowed = digests.filter(digest => digest === named[1])
  } else allowed = digests.filter(digest => ({ sha1: 40, sha256: 64, sha512: 128 })[digest] === given.length)
  const bytes = Buffer.from(wanted, 'hex')
  return keys.some(key =>
    allowed.some(digest => {
      const own = sign(key, text, digest)
      return own.length === bytes.length && timingSafeEqual(own, bytes)
    }),
  )
}

function info(site: Site, req: Req): Res {
  if (req.method === 'OPTIONS') return reply(200, { allow: 'HEAD, GET, OPTIONS' })
  if (req.method !== 'GET' && req.method !== 'HEAD') return refuse(405)
  const signature = req.query.get('swiftinfo_sig')
  const expires = req.query.get('swiftinfo_expires')
  const shown: Record<string, unknown> = { ...site.info }
  for (const name of site.settings.hiddenInfo) delete shown[name]
  if (signature !== undefined || expires !== undefined) {
    const key = site.settings.infoAdminKey
    if (!key) return refuse(403)
    if (!signature || !expires || !/^\d+$/.test(expires) || Number(expires) < Date.now() / 1000) return refuse(401)
    const methods = req.method === 'HEAD' ? ['HEAD', 'GET'] : ['GET']
    if (!methods.some(method => signatureFits(signature, [key], `${method}\n${expires}\n/info`, ['sha1', 'sha256', 'sha512'])))
      return refuse(401)
    shown.admin = { disallowed_sections: site.settings.hiddenInfo }
  }
  const res = reply(200, { 'content-type': 'application/json; charset=UTF-8' }, JSON.stringify(shown))
  const origin = req.headers.origin
  if (origin)
    Object.assign(res.headers, {
      'access-control-allow-origin': origin,
      'access-control-expose-headers': 'content-type, x-trans-id, x-openstack-request-id',
    })
  return res
}

function crossdomain(site: Site, req: Req): Res {
  if (req.method !== 'GET' && req.method !== 'HEAD') return refuse(405)
  const policy = `<?xml version="1.0"?>\n<!DOCTYPE cross-domain-policy SYSTEM "http://www.adobe.com/xml/dtds/cross-domain-policy.dtd" >\n<cross-domain-policy>\n${site.settings.crossdomain}\n</cross-domain-policy>`
  return reply(200, { 'content-type': 'application/xml' }, policy)
}

/** Where the replicas of a path are, for analytics that run beside the data. */
async function endpoints(site: Site, req: Req): Promise<Res> {
  if (req.method !== 'GET') return refuse(405)
  const { cluster } = site
  const [version, , account, container, ...rest] = req.path.slice(1).split('/')
  if (!account) return refuse(400, 'account required')
  const object = rest.length && rest[0] ? rest.join('/') : null
  let ring = container ? cluster.containerRing : cluster.accountRing
  let index = 0
  if (container && object) {
    const known = await containerInfo(cluster, req.env, account, container)
    index = Number(known.headers['x-backend-storage-policy-index'] ?? 0)
    ring = cluster.policies.find(policy => policy.index === index)?.ring ?? ring
  }
  const partition = partitionFor(ring, cluster.secrets, account, container || null, object)
  const path = quote(`/${[account, container, object].filter(Boolean).join('/')}`)
  const urls = primaries(ring, partition).map(place => `http://${place.ip}:${place.port}/${place.device}/${partition}${path}`)
  const body =
    version === 'v2' ? { endpoints: urls, headers: object ? { 'X-Backend-Storage-Policy-Index': String(index) } : {} } : urls
  return reply(200, { 'content-type': 'application/json' }, JSON.stringify(body))
}
