import type { Query, Tx } from '#kit/db/index.ts'
import { badRequest, forbidden } from '#kit/fault.ts'
import type { Env } from '#kit/service.ts'
import { grantCreate } from '../assignments/grants.ts'
import type { Proof } from '../auth/authenticate.ts'
import { denied } from '../auth/locate.ts'
import { identityOf } from '../identity.ts'
import { newId } from '../noun.ts'
import { stale } from '../tokens/stale.ts'
import { type DomainName, type LocalProject, type Mapped, type Rule, rulesApply } from './rules.ts'

// From an assertion to somebody who can have a token: the mapping makes a user and groups of it; an ephemeral user gets a shadow row,
// found again by provider, protocol and unique id, so that it can have assignments; projects named by the mapping are made.

interface Provider {
  id: string
  enabled: boolean
  domain_id: string
  authorization_ttl: number | null
}

/** Who the assertion of this provider and protocol is about. Throws notFound-like unauthorized, forbidden or badRequest. */
export async function assertionLogin(
  env: Env,
  idpId: string,
  protocolId: string,
  assertion: Record<string, string>,
): Promise<Proof> {
  const db = env.db.read
  const idp = await db.selectFrom('keystone.idps').selectAll().where('id', '=', idpId).executeTakeFirst()
  const protocol = await db
    .selectFrom('keystone.protocols')
    .selectAll()
    .where('idp_id', '=', idpId)
    .where('id', '=', protocolId)
    .executeTakeFirst()
  if (!idp || !protocol) throw denied()
  if (!idp.enabled) throw forbidden(`Identity Provider ${idpId} is disabled`)
  const { federation, auth } = identityOf(env).settings
  await remoteCheck(db, idpId, protocol.remote_id_attribute ?? federation.remote_id_attribute, assertion)
  const mapping = await db.selectFrom('keystone.mappings').selectAll().where('id', '=', protocol.mapping_id).executeTakeFirst()
  if (!mapping) throw forbidden(`Mapping ${protocol.mapping_id} of protocol ${protocolId} does not exist.`)
  const prefix = federation.assertion_prefix
  const used = Object.fromEntries(Object.entries(assertion).filter(([name]) => name.startsWith(prefix)))
  const mapped = rulesApply(mapping.rules as Rule[], used, mapping.schema_version)
  const methods = [auth.methods.includes(protocolId) ? protocolId : 'mapped']
  if (mapped.user.type === 'local') return { userId: await localUser(db, mapped), methods }
  return env.db.tx(async tx => {
    const groupIds = await groupsFind(tx, mapped, idp.domain_id)
    const userId = await shadow(tx, idp, protocolId, mapped)
    await projectsProvide(tx, userId, mapped.projects, idp.domain_id)
    if (idp.authorization_ttl) await membershipsRenew(tx, userId, idpId, groupIds)
    return { userId, methods, federation: { idpId, protocolId, groupIds } }
  })
}

/** The provider must be the one that the assertion says it comes from, where that can be told. */
async function remoteCheck(
  db: Query,
  idpId: string,
  attribute: string | undefined,
  assertion: Record<string, string>,
): Promise<void> {
  if (attribute === undefined) return
  const remotes = await db.selectFrom('keystone.idp_remotes').select('remote_id').where('idp_id', '=', idpId).execute()
  if (remotes.length === 0) return
  const remote = assertion[attribute]
  if (remote === undefined) throw badRequest('Could not find Identity Provider identifier in environment')
  if (!remotes.some(row => row.remote_id === remote))
    throw forbidden('Incoming identity provider identifier not included among the accepted identifiers.')
}

async function domainIdOf(db: Query, domain: DomainName | undefined, otherwise: string): Promise<string | undefined> {
  if (domain?.id !== undefined) return domain.id
  if (domain?.name === undefined) return otherwise
  const row = await db
    .selectFrom('keystone.projects')
    .select('id')
    .where('name', '=', domain.name)
    .where('is_domain', '=', true)
    .executeTakeFirst()
  return row?.id
}

async function localUser(db: Query, { user }: Mapped): Promise<string> {
  let query = db.selectFrom('keystone.users').select('id')
  if (user.id !== undefined) query = query.where('id', '=', user.id)
  else {
    const domain = user.domain ? await domainIdOf(db, user.domain, '') : undefined
    if (user.name === undefined || domain === undefined) throw denied()
    query = query.where('name', '=', user.name).where('domain_id', '=', domain)
  }
  const row = await query.executeTakeFirst()
  if (!row) throw denied()
  return row.id
}

/** Groups by id must exist; those by name are left out when they do not. */
async function groupsFind(db: Query, mapped: Mapped, idpDomain: string): Promise<string[]> {
  const ids = new Set<string>()
  if (mapped.groupIds.length > 0) {
    const rows = await db.selectFrom('keystone.groups').select('id').where('id', 'in', mapped.groupIds).execute()
    for (const { id } of rows) ids.add(id)
    const lost = mapped.groupIds.find(id => !ids.has(id))
    if (lost !== undefined) throw forbidden(`Group ${lost} returned by mapping was not found.`)
  }
  for (const { name, domain } of mapped.groupNames) {
    const domainId = await domainIdOf(db, domain, idpDomain)
    if (domainId === undefined) continue
    const row = await db
      .selectFrom('keystone.groups')
      .select('id')
      .where('name', '=', name)
      .where('domain_id', '=', domainId)
      .executeTakeFirst()
    if (row) ids.add(row.id)
  }
  return [...ids]
}

/** The shadow of an ephemeral user, made at its first login; its name follows what the provider says. */
async function shadow(tx: Tx, idp: Provider, protocolId: string, { user }: Mapped): Promise<string> {
  const unique = user.id ?? user.name
  if (unique === undefined || unique === '') throw badRequest('The mapping gives the user neither a name nor an id.')
  const name = user.name ?? unique
  const known = await tx
    .selectFrom('keystone.federated as f')
    .innerJoin('keystone.users as u', 'u.id', 'f.user_id')
    .select(['u.id', 'u.name', 'u.extra'])
    .where('f.idp_id', '=', idp.id)
    .where('f.protocol_id', '=', protocolId)
    .where('f.unique_id', '=', unique)
    .executeTakeFirst()
  const email = user.email === undefined ? {} : { email: user.email }
  if (known) {
    if (known.name !== name || known.extra.email !== (user.email ?? known.extra.email)) {
      await tx
        .updateTable('keystone.users')
        .set({ name, extra: { ...known.extra, ...email } })
        .where('id', '=', known.id)
        .execute()
      await stale(tx, `user:${known.id}`)
    }
    return known.id
  }
  const id = newId()
  const domain = (await domainIdOf(tx, user.domain, idp.domain_id)) ?? idp.domain_id
  await tx
    .insertInto('keystone.users')
    .values({
      id,
      domain_id: domain,
      name,
      kind: 'federated',
      default_project_id: null,
      last_active_on: null,
      failed_auth_at: null,
      extra: email,
    })
    .execute()
  await tx
    .insertInto('keystone.federated')
    .values({ user_id: id, idp_id: idp.id, protocol_id: protocolId, unique_id: unique, display_name: name })
    .execute()
  return id
}

async function projectsProvide(tx: Tx, userId: string, projects: LocalProject[], idpDomain: string): Promise<void> {
  for (const { name, roles, domain } of projects) {
    const domainId = await domainIdOf(tx, domain, idpDomain)
    if (domainId === undefined) throw forbidden(`The domain of project ${name}, which the mapping names, does not exist.`)
    const there = await tx
      .selectFrom('keystone.projects')
      .select('id')
      .where('name', '=', name)
      .where('domain_id', '=', domainId)
      .executeTakeFirst()
    const projectId = there?.id ?? newId()
    if (!there)
      await tx.insertInto('keystone.projects').values({ id: projectId, name, domain_id: domainId, parent_id: domainId }).execute()
    for (const role of roles) {
      const found = await tx
        .selectFrom('keystone.roles')
        .select('id')
        .where('name', '=', role.name)
        .where('domain_id', 'is', null)
        .executeTakeFirst()
      if (!found) throw forbidden(`Role ${role.name}, which the mapping names, does not exist.`)
      const held = await tx
        .selectFrom('keystone.assignments')
        .select('role_id')
        .where('actor_id', '=', userId)
        .where('target_id', '=', projectId)
        .where('role_id', '=', found.id)
        .executeTakeFirst()
      if (!held)
        await grantCreate(tx, {
          actor: 'user',
          actor_id: userId,
          target: 'project',
          target_id: projectId,
          role_id: found.id,
          inherited: false,
        })
    }
  }
}

/** Memberships that outlive the session, until the provider has not said them again for its authorization_ttl. */
async function membershipsRenew(tx: Tx, userId: string, idpId: string, groupIds: string[]): Promise<void> {
  if (groupIds.length === 0) return
  const last_verified = new Date()
  await tx
    .insertInto('keystone.expiring_memberships')
    .values(groupIds.map(group_id => ({ user_id: userId, group_id, idp_id: idpId, last_verified })))
    .onConflict(on => on.columns(['user_id', 'group_id', 'idp_id']).doUpdateSet({ last_verified }))
    .execute()
  await stale(tx, `user:${userId}`)
}
