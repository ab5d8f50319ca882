import { type Query, sql } from '#kit/db/index.ts'
import type { Claims } from './payload.ts'

// Everything that decides whether a token holds, and what it may do, in one query: the user, the scope, the effective roles,
// and whether anything revoked it. Issuing and checking both use it, so they can never differ.
//
// Effective roles are those assigned on the scope itself, to the user or to one of the user's groups; those inherited from the
// domain or a project above; and all that any of these imply. A delegation (trust, application credential, OAuth 1 access
// token) caps them.

export interface DomainFact {
  id: string
  name: string
  enabled: boolean
}

export interface ProjectFact extends DomainFact {
  is_domain: boolean
  domain: DomainFact | null
}

export interface UserFact {
  id: string
  name: string
  enabled: boolean
  kind: 'local' | 'federated' | 'nonlocal'
  options: Record<string, unknown>
  default_project_id: string | null
  password_expires_at: string | null
  domain: DomainFact
}

export interface Facts {
  user: UserFact | null
  project: ProjectFact | null
  domain: DomainFact | null
  /** without domain-specific roles, which only imply others */
  roles: { id: string; name: string }[]
  /** some role of the delegation is no longer held by whom it came from */
  lacking: boolean
  revoked: boolean
}

/** What is asked: the token's user and scope, and whose roles count. */
export interface Question {
  userId: string
  projectId?: string
  domainId?: string
  system?: boolean
  /** Whose roles count, when not the user's: the first trustor of a chain of trusts. */
  actorId?: string
  /** Groups that an identity provider asserted for this session alone. */
  groupIds?: string[]
  /** Cap on the roles: those of the delegation. */
  roleIds?: string[]
  /** A token to look for in the revocations; none for a new one. */
  token?: Claims & { consumerId?: string; trustorId?: string; projectDomainId?: string }
}

const DOMAIN = (column: string) =>
  sql.raw(`
  (select jsonb_build_object('id', d.id, 'name', d.name, 'enabled', d.enabled) from keystone.projects d where d.id = ${column})`)

/** Asks the database. One round trip. */
export async function factsOf(db: Query, q: Question): Promise<Facts> {
  const actor = q.actorId ?? q.userId
  const project = q.projectId ?? null
  const domain = q.domainId ?? null
  const { rows } = await sql<Facts>`
    with recursive actor(kind, id) as (
      select 'user', ${actor}::text
      union all select 'group', group_id from keystone.memberships where user_id = ${actor}
      union all select 'group', e.group_id from keystone.expiring_memberships e join keystone.idps i on i.id = e.idp_id
        where e.user_id = ${actor} and e.last_verified + coalesce(i.authorization_ttl, 0) * interval '1 minute' > now()
      union all select 'group', unnest(${q.groupIds ?? []}::text[])
    ), up(id, parent_id) as (
      select id, parent_id from keystone.projects where id = ${project}
      union all select p.id, p.parent_id from keystone.projects p join up on p.id = up.parent_id
    ), held(id) as (
      select a.role_id from actor join keystone.assignments a on a.actor = actor.kind and a.actor_id = actor.id
        where (not a.inherited and (a.target, a.target_id) in (('project', ${project}), ('domain', ${domain}), ('system', ${q.system ? 'system' : null})))
          or (a.inherited and a.target in ('project', 'domain') and a.target_id in (select id from up where id <> ${project}))
      union select i.implied_id from keystone.implied_roles i join held on i.prior_id = held.id
    ), cap(id) as (
      select unnest(${q.roleIds ?? null}::text[])
      union select i.implied_id from keystone.implied_roles i join cap on i.prior_id = cap.id
    )
    select
      (select jsonb_build_object('id', u.id, 'name', u.name, 'enabled', u.enabled, 'kind', u.kind, 'options', u.options,
          'default_project_id', u.default_project_id, 'domain', ${DOMAIN('u.domain_id')},
          'password_expires_at', (select to_char(p.expires_at, 'YYYY-MM-DD"T"HH24:MI:SS.US') from keystone.passwords p where p.user_id = u.id order by p.id desc limit 1))
        from keystone.users u where u.id = ${q.userId}) as "user",
      (select jsonb_build_object('id', p.id, 'name', p.name, 'enabled', p.enabled, 'is_domain', p.is_domain, 'domain', ${DOMAIN('p.domain_id')})
        from keystone.projects p where p.id = ${project}) as project,
      (select jsonb_build_object('id', d.id, 'name', d.name, 'enabled', d.enabled) from keystone.projects d where d.id = ${domain} and d.is_domain) as domain,
      (select coalesce(jsonb_agg(jsonb_build_object('id', r.id, 'name', r.name) order by r.name), '[]') from keystone.roles r
        where r.domain_id is null and r.id in (select id from held) and (${q.roleIds ?? null}::text[] is null or r.id in (select id from cap))) as roles,
      exists (select from cap where id not in (select id from held)) as lacking,
      ${q.token ? revokedSql(q.token) : sql`false`} as revoked`.execute(db)
  return rows[0]!
}

/** True when a revocation has no condition that this token does not meet. Each `or` has an index of its own. */
function revokedSql(t: NonNullable<Question['token']>) {
  const users = [t.userId, ...(t.trustorId ? [t.trustorId] : [])]
  const domains = [t.domainId, t.projectDomainId].filter((id): id is string => id !== undefined)
  const chain = t.auditIds.at(-1) ?? null
  const [audit = null] = t.auditIds
  return sql<boolean>`exists (select from keystone.revocations r
    where (r.audit_id = ${audit} or r.audit_chain_id = ${chain} or r.user_id = any(${users}) or r.project_id = ${t.projectId ?? null}
        or r.domain_id = any(${domains}) or r.trust_id = ${t.trustId ?? null} or r.consumer_id = ${t.consumerId ?? null}
        or r.access_token_id = ${t.accessTokenId ?? null})
      and r.issued_before >= ${new Date(t.issued * 1000)}
      and (r.audit_id is null or r.audit_id = ${audit}) and (r.audit_chain_id is null or r.audit_chain_id = ${chain})
      and (r.user_id is null or r.user_id = any(${users})) and (r.project_id is null or r.project_id = ${t.projectId ?? null})
      and (r.domain_id is null or r.domain_id = any(${domains})) and (r.trust_id is null or r.trust_id = ${t.trustId ?? null})
      and (r.consumer_id is null or r.consumer_id = ${t.consumerId ?? null})
      and (r.access_token_id is null or r.access_token_id = ${t.accessTokenId ?? null}))`
}
