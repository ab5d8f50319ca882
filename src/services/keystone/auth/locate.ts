import type { Query } from '#kit/db/index.ts'
import { badRequest, unauthorized } from '#kit/fault.ts'
import type { Env } from '#kit/service.ts'
import { identityOf } from '../identity.ts'
import { urlReserved } from '../shapes.ts'

// Requests name a user, project or domain by id, or by name within a domain. Whoever is not yet authenticated learns nothing
// from a wrong name: every miss is the same 401.

export interface DomainRef {
  id?: string
  name?: string
}
export interface NamedRef extends DomainRef {
  domain?: DomainRef
}

/** The one 401 that tells nothing. */
export const denied = () => unauthorized('The request you have made requires authentication.')

const malformed = (what: string, where: string) =>
  badRequest(
    `Expecting to find ${what} in ${where}. The server could not comply with the request since it is either malformed or otherwise incorrect. The client is assumed to be in error.`,
  )

/** Where only names that can stand in URLs are taken, the others lead nowhere. */
function nameCheck(env: Env, what: 'project' | 'domain', name: string | undefined): void {
  if (identityOf(env).settings.resource[`${what}_name_url_safe`] === 'strict' && urlReserved(name))
    throw unauthorized(`${what === 'project' ? 'Project' : 'Domain'} name cannot contain reserved characters.`)
}

/** The id of an enabled domain. Throws unauthorized when there is none, badRequest when neither id nor name is given. */
export async function domainLocate(env: Env, ref: DomainRef, where = 'domain'): Promise<string> {
  if (ref.id === undefined && ref.name === undefined) throw malformed('id or name', where)
  nameCheck(env, 'domain', ref.name)
  let query = env.db.read.selectFrom('keystone.projects').select(['id', 'enabled']).where('is_domain', '=', true)
  query = ref.name !== undefined ? query.where('name', '=', ref.name) : query.where('id', '=', ref.id!)
  const row = await query.executeTakeFirst()
  if (!row?.enabled) throw denied()
  return row.id
}

/** The id of an enabled project in an enabled domain. */
export async function projectLocate(env: Env, ref: NamedRef): Promise<string> {
  if (ref.name === undefined && ref.id === undefined) throw malformed('id or name', 'project')
  nameCheck(env, 'project', ref.name)
  let query = env.db.read
    .selectFrom('keystone.projects as p')
    .leftJoin('keystone.projects as d', 'd.id', 'p.domain_id')
    .select(['p.id', 'p.enabled', 'd.enabled as domain_enabled', 'p.is_domain'])
  if (ref.name !== undefined) {
    if (!ref.domain) throw malformed('domain', 'project')
    const domain = await domainLocate(env, ref.domain, 'project/domain')
    query = query.where('p.name', '=', ref.name).where('p.domain_id', '=', domain)
  } else query = query.where('p.id', '=', ref.id!).where('p.is_domain', '=', false)
  const row = await query.executeTakeFirst()
  if (!row?.enabled || !row.domain_enabled) throw denied()
  return row.id
}

/** What a login needs of a user: null when there is no such user, or its domain is disabled. */
export async function userLocate(db: Query, ref: NamedRef, where = 'user') {
  if (ref.id === undefined && ref.name === undefined) throw malformed('id or name', where)
  let query = db
    .selectFrom('keystone.users as u')
    .innerJoin('keystone.projects as d', 'd.id', 'u.domain_id')
    .selectAll('u')
    .select('d.enabled as domain_enabled')
  if (ref.id !== undefined) query = query.where('u.id', '=', ref.id)
  else {
    if (!ref.domain) throw malformed('domain', where)
    if (ref.domain.id === undefined && ref.domain.name === undefined) throw malformed('id or name', `${where}/domain`)
    query = query.where('u.name', '=', ref.name!).where('u.kind', '!=', 'federated')
    query = ref.domain.id !== undefined ? query.where('d.id', '=', ref.domain.id) : query.where('d.name', '=', ref.domain.name!)
  }
  const row = await query.where('d.is_domain', '=', true).executeTakeFirst()
  return row?.domain_enabled ? row : null
}
