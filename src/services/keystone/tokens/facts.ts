import { CompiledQuery } from 'kysely'
import type { Query } from '#kit/db/index.ts'
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
  /** the last revocation that concerns the user or the scope and is not over yet: a new token must be younger */
  revoked_until: Date | null
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
  token?: Claims & { consumerId?: string; trustorId?: string }
}

// The text is fixed and numbered by hand: this is the hottest query of the house, and building it anew would cost more than running it.
const P = {
  user: '$1::text',
  actor: '$2::text',
  project: '$3::text',
  domain: '$4::text',
  system: '$5::text',
  groups: '$6::text[]',
  cap: '$7::text[]',
  issued: '$8::timestamptz',
  audit: '$9::text',
  chain: '$10::text',
  users: '$11::text[]',
  trust: '$12::text',
  consumer: '$13::text',
  accessToken: '$14::text',
}

const domainOf = (column: string) =>
  `(select jsonb_build_object('id', d.id, 'name', d.name, 'enabled', d.enabled) from keystone.projects d where d.id = ${column})`

const FACTS = `
  with recursive actor(kind, id) as (
    select 'user', ${P.actor}
    union all select 'group', group_id from keystone.memberships where user_id = ${P.actor}
    union all select 'group', e.group_id from keystone.expiring_memberships e join keystone.idps i on i.id = e.idp_id
      where e.user_id = ${P.actor} and e.last_verified + coalesce(i.authorization_ttl, 0) * interval '1 minute' > now()
    union all select 'group', unnest(${P.groups})
  ), up(id, parent_id) as (
    select id, parent_id from keystone.projects where id = ${P.project}
    union all select p.id, p.parent_id from keystone.projects p join up on p.id = up.parent_id
  ), held(id) as (
    select a.role_id from actor join keystone.assignments a on a.actor = actor.kind and a.actor_id = actor.id
      where (not a.inherited and (a.target, a.target_id) in (('project', ${P.project}), ('domain', ${P.domain}), ('system', ${P.system})))
        or (a.inherited and a.target in ('project', 'domain') and a.target_id in (select id from up where id <> ${P.project}))
    union select i.implied_id from keystone.implied_roles i join held on i.prior_id = held.id
  ), dom(id) as (
    select ${P.domain} union select domain_id from keystone.users where id = ${P.user} union select domain_id from keystone.projects where id = ${P.project}
  ), cap(id) as (
    select unnest(${P.cap}) union select i.implied_id from keystone.implied_roles i join cap on i.prior_id = cap.id
  )
  select
    (select jsonb_build_object('id', u.id, 'name', u.name, 'enabled', u.enabled, 'kind', u.kind, 'options', u.options,
        'default_project_id', u.default_project_id, 'domain', ${domainOf('u.domain_id')}, 'password_expires_at',
        (select to_char(p.expires_at, 'YYYY-MM-DD"T"HH24:MI:SS.US') from keystone.passwords p where p.user_id = u.id order by p.id desc limit 1))
      from keystone.users u where u.id = ${P.user}) as "user",
    (select jsonb_build_object('id', p.id, 'name', p.name, 'enabled', p.enabled, 'is_domain', p.is_domain, 'domain', ${domainOf('p.domain_id')})
      from keystone.projects p where p.id = ${P.project}) as project,
    (select jsonb_build_object('id', d.id, 'name', d.name, 'enabled', d.enabled)
      from keystone.projects d where d.id = ${P.domain} and d.is_domain) as domain,
    (select coalesce(jsonb_agg(jsonb_build_object('id', r.id, 'name', r.name) order by r.name), '[]') from keystone.roles r
      where r.domain_id is null and r.id in (select id from held) and (${P.cap} is null or r.id in (select id from cap))) as roles,
    exists (select from cap where id not in (select id from held)) as lacking,
    ${P.issued} is not null and exists (select from keystone.revocations r
      where (r.audit_id = ${P.audit} or r.audit_chain_id = ${P.chain} or r.user_id = any(${P.users}) or r.project_id = ${P.project}
          or r.domain_id in (select id from dom) or r.trust_id = ${P.trust} or r.consumer_id = ${P.consumer} or r.access_token_id = ${P.accessToken})
        and r.issued_before >= ${P.issued}
        and (r.audit_id is null or r.audit_id = ${P.audit}) and (r.audit_chain_id is null or r.audit_chain_id = ${P.chain})
        and (r.user_id is null or r.user_id = any(${P.users})) and (r.project_id is null or r.project_id = ${P.project})
        and (r.domain_id is null or r.domain_id in (select id from dom)) and (r.trust_id is null or r.trust_id = ${P.trust})
        and (r.consumer_id is null or r.consumer_id = ${P.consumer})
        and (r.access_token_id is null or r.access_token_id = ${P.accessToken})) as revoked,
    case when ${P.issued} is null then (select max(r.issued_before) from keystone.revocations r
      where (r.user_id = ${P.user} or r.project_id = ${P.project} or r.domain_id = ${P.domain})
        and r.audit_id is null and r.issued_before >= date_trunc('second', now())) end as revoked_until`

/** Asks the database. One round trip. */
export async function factsOf(db: Query, q: Question): Promise<Facts> {
  const { token: t } = q
  const parameters = [
    q.userId,
    q.actorId ?? q.userId,
    q.projectId ?? null,
    q.domainId ?? null,
    q.system ? 'system' : null,
    q.groupIds ?? [],
    q.roleIds ?? null,
    t ? new Date(t.issued * 1000) : null,
    t?.auditIds[0] ?? null,
    t?.auditIds.at(-1) ?? null,
    t ? [t.userId, ...(t.trustorId ? [t.trustorId] : [])] : null,
    t?.trustId ?? null,
    t?.consumerId ?? null,
    t?.accessTokenId ?? null,
  ]
  const { rows } = await db.executeQuery<Facts>(CompiledQuery.raw(FACTS, parameters))
  return rows[0]!
}
