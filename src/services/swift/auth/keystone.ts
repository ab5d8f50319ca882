/** Keystone's tokens and roles: who has an operator role in a project owns the account `AUTH_<project>`. */
import { type App, type Req, type Res, refuse, type Who } from '../http/message.ts'
import { type KeystoneAuth, pathOf, type Site, type Step } from '../proxy/site.ts'
import { parseAcl, referrerAllowed } from './acl.ts'

/** The step of the pipeline. */
export const keystoneauth: Step = (next, site): App => {
  const keystone = site.settings.keystone!
  return async req => {
    if (req.env.authorizeOverride) return next(req)
    const token = req.headers['x-auth-token'] ?? req.headers['x-storage-token']
    if (token && !req.env.who) {
      const who = await keystone.authenticate(token)
      if (!who) return unauthorized()
      const service = req.headers['x-service-token'] ? await keystone.authenticate(req.headers['x-service-token']) : null
      if (req.headers['x-service-token'] && !service) return unauthorized()
      req.env.who = { ...who, serviceRoles: service?.roles }
    }
    req.env.authorize ??= (asked, acl) =>
      asked.env.who ? authorize(site, keystone, asked, acl, asked.env.who) : anonymous(asked, acl)
    return next(req)
  }
}

const unauthorized = (): Res => refuse(401, undefined, { 'www-authenticate': 'Swift realm="unknown"' })

const has = (roles: string[], wanted: string[]): boolean =>
  roles.some(role => wanted.some(known => known.toLowerCase() === role.toLowerCase()))

function authorize(site: Site, keystone: KeystoneAuth, req: Req, acl: string | null, who: Who): Res | null {
  const path = pathOf(req)
  if (!path) return refuse(404)
  if (has(who.roles, keystone.resellerRoles)) {
    req.env.owner = true
    req.env.resellerRequest = true
    return null
  }
  if ((req.method === 'PUT' || req.method === 'DELETE') && path.container === null) return refuse(403)
  const { referrers, groups } = parseAcl(acl)
  if (named(groups, who)) return null
  const prefix = site.settings.prefixes.find(known => path.account === `${known}${who.projectId}`)
  if (prefix !== undefined) {
    const isFirst = prefix === site.settings.prefixes[0]
    const serviceFits = isFirst || has(who.serviceRoles ?? [], keystone.serviceRoles)
    if (serviceFits && has(who.roles, keystone.operatorRoles)) {
      req.env.owner = true
      return null
    }
    if (
      serviceFits &&
      isFirst &&
      has(who.roles, ['reader']) &&
      (req.method === 'GET' || req.method === 'HEAD') &&
      has(keystone.operatorRoles, ['reader'])
    )
      return null
  }
  if (req.method === 'OPTIONS') return null
  if (referrerAllowed(req.headers.referer, referrers) && (path.object !== null || groups.includes('.rlistings'))) return null
  if (prefix !== undefined && groups.some(group => has(who.roles, [group]))) return null
  return refuse(403)
}

/** `project:user` entries, each part an id, a name (of the default domain) or `*`. */
function named(groups: string[], who: Who): boolean {
  const projects = [who.projectId, who.projectDomainId === 'default' || who.projectDomainId == null ? who.projectName : null, '*']
  const users = [who.userId, who.userDomainId === 'default' || who.userDomainId == null ? who.userName : null, '*']
  return projects.some(project => project !== null && users.some(user => user !== null && groups.includes(`${project}:${user}`)))
}

function anonymous(req: Req, acl: string | null): Res | null {
  const path = pathOf(req)
  if (!path) return refuse(404)
  if (req.method === 'OPTIONS') return null
  const { referrers, groups } = parseAcl(acl)
  if (referrerAllowed(req.headers.referer, referrers) && (path.object !== null || groups.includes('.rlistings'))) return null
  return unauthorized()
}
