import { CompiledQuery } from 'kysely'
import type { Who } from '#kit/context.ts'
import type { Query } from '#kit/db/index.ts'
import type { Env } from '#kit/service.ts'
import { catalogFor } from '../catalog/catalog.ts'
import { identityOf } from '../identity.ts'
import { isoSeconds, isoTime } from '../wire.ts'
import { type Facts, factsOf, type Question } from './facts.ts'
import { fernetOpen, fernetSeal } from './fernet.ts'
import { type JwsAlgorithm, jwsOpen, jwsSeal } from './jws.ts'
import { type Claims, payloadPack, payloadUnpack } from './payload.ts'

/** A rule of an application credential: one kind of request that its tokens may make. */
export interface AccessRule {
  id: string
  service: string
  path: string
  method: string
}

export interface AppCredFact {
  id: string
  name: string
  user_id: string
  project_id: string
  secret_hash: string
  unrestricted: boolean
  expires_at: Date | null
  role_ids: string[]
  /** null: every request is allowed */
  access_rules: AccessRule[] | null
}

export interface TrustFact {
  id: string
  impersonation: boolean
  trustor_user_id: string
  trustee_user_id: string
  project_id: string | null
  /** the trustor of the first trust of the chain */
  origin_user_id: string
  role_ids: string[]
  alive: boolean
}

export interface AccessTokenFact {
  id: string
  consumer_id: string
  user_id: string
  project_id: string
  role_ids: string[]
  alive: boolean
}

/** A token that holds: what it claims, and what the database says about it. */
export interface Token {
  claims: Claims
  facts: Facts
  appCred?: AppCredFact
  trust?: TrustFact
  accessToken?: AccessTokenFact
  who: Who
}

/** Writes claims as a token of the configured format. */
export function tokenSeal(env: Env, claims: Claims): string {
  const identity = identityOf(env)
  if (identity.settings.token.provider === 'jws') {
    return jwsSeal(identity.jws().signing, identity.settings.jwt_tokens.jws_algorithm as JwsAlgorithm, claims)
  }
  return fernetSeal(identity.fernet.keys(), payloadPack(claims, identity.settings.auth.methods), claims.issued)
}

/** Reads a token of either format; null when it is none of ours. Says nothing about whether it still holds. */
export function tokenOpen(env: Env, token: string): Claims | null {
  const identity = identityOf(env)
  const { settings } = identity
  if (token.includes('.')) {
    const accepted = settings.token.provider === 'jws' ? settings.jwt_tokens.jws_accepted_algorithms : []
    return accepted.length > 0 ? jwsOpen(identity.jws().checking, accepted, token) : null
  }
  if (token.length > 4096) return null
  const opened = fernetOpen(identity.fernet.keys(), token)
  return opened && payloadUnpack(opened.plain, opened.issued, settings.auth.methods)
}

/**
 * The token if it holds: sealed by us, not expired (nor by more than `allowExpired` seconds), not revoked, and all that it
 * stands on is there and enabled. Null otherwise, without saying why.
 */
export async function tokenCheck(env: Env, text: string, allowExpired = 0): Promise<Token | null> {
  const { tokens } = identityOf(env)
  const now = Date.now() / 1000
  const known = tokens.get(text)
  if (known) return known.claims.expires + allowExpired > now ? known : null
  const claims = tokenOpen(env, text)
  if (!claims || claims.expires + allowExpired <= now) return null
  const since = tokens.mark()
  const token = await tokenLoad(env, env.db.read, claims, true)
  if (token) tokens.set(text, token, staleKeys(token), since)
  return token
}

/** Everything about what the claims stand on; null when they do not hold (any more). */
export async function tokenLoad(
  env: Env,
  db: Query,
  claims: Claims,
  issued: boolean,
  known?: AppCredFact,
): Promise<Token | null> {
  const [appCred, trust, accessToken] = await Promise.all([
    claims.appCredId === undefined ? undefined : (known ?? appCredFetch(db, { id: claims.appCredId })),
    claims.trustId === undefined ? undefined : trustFetch(db, claims.trustId),
    claims.accessTokenId === undefined ? undefined : accessTokenFetch(db, claims.accessTokenId),
  ])
  if (appCred === null || trust === null || accessToken === null) return null
  if (!delegates(claims, { appCred, trust, accessToken })) return null
  const question: Question = {
    userId: claims.userId,
    projectId: claims.projectId,
    domainId: claims.domainId,
    system: claims.system === 'all',
    actorId: trust?.origin_user_id,
    groupIds: claims.groupIds,
    roleIds: appCred?.role_ids ?? trust?.role_ids ?? accessToken?.role_ids,
  }
  const facts = issued
    ? await factsOf(db, {
        ...question,
        token: { ...claims, trustorId: trust?.trustor_user_id, consumerId: accessToken?.consumer_id },
      })
    : await factsRemembered(env, question)
  // A token's time has whole seconds. One issued within the second of a revocation that concerns it would be taken for an older
  // one; it is dated to the next second instead.
  if (facts.revoked_until) claims.issued = Math.max(claims.issued, Math.floor(facts.revoked_until.getTime() / 1000) + 1)
  const holds = factsHold(claims, facts) && (!appCred?.expires_at || appCred.expires_at.getTime() > Date.now())
  if (!holds || trust?.alive === false || accessToken?.alive === false || (trust && facts.lacking)) return null
  return { claims, facts, appCred, trust, accessToken, who: whoOf(env, claims, facts, { appCred, trust, accessToken }) }
}

/** Whether what a delegation allows is what the claims say: its one project, and as whom. */
function delegates(claims: Claims, { appCred, trust, accessToken }: Delegations): boolean {
  const { userId, projectId } = claims
  if (appCred && (appCred.user_id !== userId || appCred.project_id !== projectId)) return false
  if (accessToken && (accessToken.user_id !== userId || accessToken.project_id !== projectId)) return false
  if (!trust) return true
  return (
    userId === (trust.impersonation ? trust.trustor_user_id : trust.trustee_user_id) &&
    projectId === (trust.project_id ?? undefined)
  )
}

/** The facts for a new token: from memory while nothing they are made of has changed. */
async function factsRemembered(env: Env, question: Question): Promise<Facts> {
  const { facts } = identityOf(env)
  const asked = JSON.stringify(question)
  const known = facts.get(asked)
  if (known) return known
  const since = facts.mark()
  const read = await factsOf(env.db.read, question)
  const { user, project, domain } = read
  const keys = [`user:${question.userId}`, `user:${question.actorId ?? question.userId}`, `project:${question.projectId}`]
  for (const one of [user?.domain, project?.domain, domain]) if (one) keys.push(`domain:${one.id}`)
  if (question.groupIds && question.groupIds.length > 0) keys.push('federated')
  facts.set(asked, read, [...new Set(keys)], since)
  return read
}

/** An application credential by id, from memory while it has not changed. */
export async function appCredRemembered(env: Env, id: string): Promise<AppCredFact | null> {
  const { appCreds } = identityOf(env)
  const known = appCreds.get(id)
  if (known) return known
  const since = appCreds.mark()
  const read = await appCredFetch(env.db.read, { id })
  if (read) appCreds.set(id, read, [`app_cred:${id}`, `user:${read.user_id}`, `project:${read.project_id}`], since)
  return read
}

/** Remembers a token that was issued just now, so that its first use costs no query. */
export function tokenRemember(env: Env, text: string, token: Token, since: number): void {
  identityOf(env).tokens.set(text, token, staleKeys(token), since)
}

function factsHold(claims: Claims, { user, project, domain, roles, revoked }: Facts): boolean {
  if (revoked || !user?.enabled || !user.domain.enabled) return false
  if (claims.projectId !== undefined && !(project?.enabled && (project.domain?.enabled ?? project.is_domain))) return false
  if (claims.domainId !== undefined && claims.projectId === undefined && !domain?.enabled) return false
  const scoped = claims.projectId ?? claims.domainId ?? claims.system
  return scoped === undefined || roles.length > 0
}

function staleKeys({ claims, facts, appCred, trust, accessToken }: Token): string[] {
  const keys = [
    `user:${claims.userId}`,
    `domain:${facts.user!.domain.id}`,
    `audit:${claims.auditIds[0]}`,
    `chain:${claims.auditIds.at(-1)}`,
  ]
  if (facts.project) keys.push(`project:${facts.project.id}`)
  if (facts.project?.domain) keys.push(`domain:${facts.project.domain.id}`)
  if (facts.domain) keys.push(`domain:${facts.domain.id}`)
  if (appCred) keys.push(`app_cred:${appCred.id}`)
  if (trust)
    keys.push(
      `trust:${trust.id}`,
      `user:${trust.trustor_user_id}`,
      `user:${trust.trustee_user_id}`,
      `user:${trust.origin_user_id}`,
    )
  if (accessToken) keys.push(`access_token:${accessToken.id}`)
  if (claims.groupIds && claims.groupIds.length > 0) keys.push('federated')
  return keys
}

const APP_CRED = `
  select c.id, c.name, c.user_id, c.project_id, c.secret_hash, c.unrestricted, c.expires_at, c.role_ids,
    (select jsonb_agg(jsonb_build_object('id', r.id, 'service', r.service, 'path', r.path, 'method', r.method))
      from keystone.app_cred_rules l join keystone.access_rules r on r.id = l.access_rule_id where l.app_cred_id = c.id) as access_rules
  from keystone.app_creds c where`

/** An application credential by id, or by its user and name; null when there is none. */
export async function appCredFetch(
  db: Query,
  by: { id: string } | { userId: string; name: string },
): Promise<AppCredFact | null> {
  const query =
    'id' in by
      ? CompiledQuery.raw(`${APP_CRED} c.id = $1`, [by.id])
      : CompiledQuery.raw(`${APP_CRED} c.user_id = $1 and c.name = $2`, [by.userId, by.name])
  const { rows } = await db.executeQuery<AppCredFact>(query)
  return rows[0] ?? null
}

async function trustFetch(db: Query, id: string): Promise<TrustFact | null> {
  const chain = await trustChain(db, id)
  const [trust] = chain
  if (!trust) return null
  const people = [trust.trustor_user_id, trust.trustee_user_id]
  const enabled = await db
    .selectFrom('keystone.users as u')
    .innerJoin('keystone.projects as d', 'd.id', 'u.domain_id')
    .select('u.id')
    .where('u.id', 'in', people)
    .where('u.enabled', '=', true)
    .where('d.enabled', '=', true)
    .execute()
  const now = Date.now()
  return {
    ...trust,
    origin_user_id: chain.at(-1)!.trustor_user_id,
    alive:
      trust.deleted_at === null &&
      (!trust.expires_at || trust.expires_at.getTime() > now) &&
      enabled.length === new Set(people).size,
  }
}

/** The trust and those it was passed on from, nearest first. */
export async function trustChain(db: Query, id: string) {
  return await db
    .withRecursive('chain', cte =>
      cte
        .selectFrom('keystone.trusts as t')
        .selectAll('t')
        .where('t.id', '=', id)
        .unionAll(
          cte.selectFrom('keystone.trusts as t').innerJoin('chain as c', 't.id', 'c.redelegated_trust_id').selectAll('t'),
        ),
    )
    .selectFrom('chain')
    .selectAll()
    .execute()
}

async function accessTokenFetch(db: Query, id: string): Promise<AccessTokenFact | null> {
  const row = await db.selectFrom('keystone.access_tokens').selectAll().where('id', '=', id).executeTakeFirst()
  if (!row) return null
  return {
    id: row.id,
    consumer_id: row.consumer_id,
    user_id: row.user_id,
    project_id: row.project_id,
    role_ids: row.role_ids,
    alive: !row.expires_at || row.expires_at.getTime() > Date.now(),
  }
}

type Delegations = Pick<Token, 'appCred' | 'trust' | 'accessToken'>

function whoOf(env: Env, claims: Claims, facts: Facts, { appCred, trust, accessToken }: Delegations): Who {
  const user = facts.user!
  const { project, domain } = facts
  const domainScoped = claims.domainId !== undefined && claims.projectId === undefined
  return Object.freeze({
    userId: user.id,
    userName: user.name,
    userDomainId: user.domain.id,
    userDomainName: user.domain.name,
    projectId: project?.id ?? null,
    projectName: project?.name,
    projectDomainId: project?.domain?.id ?? null,
    projectDomainName: project?.domain?.name,
    domainId: domainScoped ? domain!.id : null,
    domainName: domainScoped ? domain!.name : undefined,
    systemScope: claims.system === 'all',
    roles: facts.roles.map(role => role.name),
    extra: {
      is_admin_project: isAdminProject(env, facts),
      trust_id: trust?.id ?? null,
      trustor_id: trust?.trustor_user_id ?? null,
      trustee_id: trust?.trustee_user_id ?? null,
      is_delegated_auth: Boolean(trust ?? accessToken),
      token: {
        methods: claims.methods,
        audit_ids: claims.auditIds,
        app_cred_id: appCred?.id,
        restricted: appCred ? !appCred.unrestricted : undefined,
        access_rules: appCred?.access_rules ?? undefined,
        access_token_id: accessToken?.id,
        idp_id: claims.idpId,
        protocol_id: claims.protocolId,
        group_ids: claims.groupIds,
      },
    },
  })
}

function isAdminProject(env: Env, { project }: Facts): boolean {
  const { admin_project_domain_name: domain, admin_project_name: name } = identityOf(env).settings.resource
  if (domain === undefined || name === undefined) return true
  return project?.name === name && project.domain?.name === domain
}

const named = ({ id, name }: { id: string; name: string }) => ({ id, name })

/** The token on the wire, under `{"token": …}`. */
export async function tokenView(env: Env, token: Token, withCatalog: boolean): Promise<Record<string, unknown>> {
  const { claims, facts, appCred, trust, accessToken } = token
  const user = facts.user!
  const federated = claims.idpId !== undefined && {
    'OS-FEDERATION': {
      groups: (claims.groupIds ?? []).map(id => ({ id })),
      identity_provider: { id: claims.idpId },
      protocol: { id: claims.protocolId },
    },
  }
  const view: Record<string, unknown> = {
    methods: claims.methods,
    user: {
      id: user.id,
      name: user.name,
      domain: named(user.domain),
      password_expires_at: user.password_expires_at,
      ...federated,
    },
    audit_ids: claims.auditIds,
    expires_at: isoSeconds(claims.expires),
    issued_at: isoSeconds(claims.issued),
  }
  const { project, domain } = facts
  if (claims.projectId !== undefined && project) {
    view.project = {
      id: project.id,
      name: project.name,
      domain: project.domain ? named(project.domain) : { id: null, name: null },
    }
    view.is_domain = project.is_domain
  } else if (domain) view.domain = named(domain)
  if (claims.system) view.system = { all: true }
  const scoped = project || domain || claims.system
  if (scoped) {
    view.roles = facts.roles
    if (withCatalog)
      view.catalog = catalogFor(await identityOf(env).catalog(), { project_id: claims.projectId, user_id: user.id })
  }
  if (project && identityOf(env).settings.resource.admin_project_name !== undefined)
    view.is_admin_project = isAdminProject(env, facts)
  const { providers } = await identityOf(env).catalog()
  if (providers.length > 0) view.service_providers = providers
  if (trust) {
    view['OS-TRUST:trust'] = {
      id: trust.id,
      trustor_user: { id: trust.trustor_user_id },
      trustee_user: { id: trust.trustee_user_id },
      impersonation: trust.impersonation,
    }
  }
  if (accessToken) view['OS-OAUTH1'] = { access_token_id: accessToken.id, consumer_id: accessToken.consumer_id }
  if (appCred) {
    view.application_credential = {
      id: appCred.id,
      name: appCred.name,
      restricted: !appCred.unrestricted,
      ...(appCred.access_rules && {
        access_rules: appCred.access_rules.map(({ id, service, path, method }) => ({ id, service, path, method })),
      }),
    }
    if (appCred.expires_at) view.expires_at = isoTime(new Date(Math.min(appCred.expires_at.getTime(), claims.expires * 1000)))
  }
  if (claims.thumbprint !== undefined) view.oauth2_credential = { 'x5t#S256': claims.thumbprint }
  return view
}
