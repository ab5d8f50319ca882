/** The receiving end of container sync: requests signed with the keys of a realm and a container count as the owner's. */
import { createHmac, timingSafeEqual } from 'node:crypto'
import { refuse, text } from '../../http/message.ts'
import { normal } from '../../timestamp.ts'
import { INBOUND_TIME } from '../headers.ts'
import { containerInfo } from '../info.ts'
import { pathOf, type Site, type Step } from '../site.ts'

/** The signature over method, path, time, nonce with both keys. */
export const syncSignature = (
  method: string,
  path: string,
  timestamp: string,
  nonce: string,
  realmKey: string,
  userKey: string,
): string => createHmac('sha1', realmKey).update(`${method}\n${path}\n${timestamp}\n${nonce}\n${userKey}`).digest('hex')

const same = (a: string, b: string): boolean => a.length === b.length && timingSafeEqual(Buffer.from(a), Buffer.from(b))

/** Where a `X-Container-Sync-To` leads: a URL. Null when it is none of our realms. */
export function syncTarget(site: Site, value: string): { url: string; realm: string; key: string } | null {
  const match = /^\/\/([^/]+)\/([^/]+)\/([^/]+)\/([^/]+)$/.exec(value.trim())
  if (!match) return null
  const realm = site.settings.realms.find(known => known.name.toLowerCase() === match[1].toLowerCase())
  const endpoint = realm && Object.entries(realm.clusters).find(([name]) => name.toLowerCase() === match[2].toLowerCase())?.[1]
  return endpoint ? { url: `${endpoint.replace(/\/$/, '')}/${match[3]}/${match[4]}`, realm: realm.name, key: realm.key } : null
}

/** Checks `X-Container-Sync-Auth: realm nonce signature`. */
export const containerSync: Step = (next, site) => async req => {
  const path = pathOf(req)
  if (!path?.container) return next(req)
  const to = req.headers['x-container-sync-to']
  if ((req.method === 'PUT' || req.method === 'POST') && path.object === null && to) {
    if (to.startsWith('//') && !syncTarget(site, to)) return refuse(400, `No realm key or cluster endpoint for ${to}`)
    if (!to.startsWith('//') && !/^https?:\/\/[^/]+\/v1\/[^/]+\/[^/]+$/.test(to))
      return refuse(400, `Invalid X-Container-Sync-To format ${JSON.stringify(to)}`)
  }
  const auth = req.headers['x-container-sync-auth']
  if (auth === undefined) return next(req)
  const parts = auth.split(/\s+/)
  if (parts.length !== 3) return refuse(401, 'X-Container-Sync-Auth header not valid; contact cluster operator for support.')
  const realm = site.settings.realms.find(known => known.name.toLowerCase() === parts[0].toLowerCase())
  const key = (await containerInfo(site.cluster, req.env, path.account, path.container)).headers['x-container-sync-key']
  if (!realm || !key) return refuse(401, 'X-Container-Sync-Auth header not valid; contact cluster operator for support.')
  const timestamp = req.headers[INBOUND_TIME] ?? ''
  const signed = [req.path, `${req.env.mount}${req.path}`].some(one =>
    [realm.key, realm.key2]
      .filter(Boolean)
      .some(secret => same(syncSignature(req.method, one, timestamp, parts[1], secret!, text(key)), parts[2])),
  )
  if (!signed) return refuse(401, 'X-Container-Sync-Auth header not valid; contact cluster operator for support.')
  try {
    req.headers['x-timestamp'] = normal(timestamp)
  } catch {
    return refuse(400, `Invalid X-Timestamp header ${timestamp}`)
  }
  for (const name in req.headers) {
    if (name.startsWith('x-sync-slo-')) req.headers[name.replace('x-sync-', 'x-object-sysmeta-')] = req.headers[name]
  }
  req.env.who = {
    userId: '.container_sync',
    userName: '.container_sync',
    projectId: null,
    projectName: null,
    roles: [],
    groups: [],
  }
  req.env.authorizeOverride = true
  req.env.authorize = null
  return next(req)
}
