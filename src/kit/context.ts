/**
 * Who asks. A token gives one `Who`, made once and cached with the token; each request gets a `Context` from it, which adds the
 * request's id and the policy of the service that answers. All that depends only on the token is computed once for each service.
 */

import { randomUUID } from 'node:crypto'
import type { Credentials, ServicePolicy, Target } from '#kit/policy/index.ts'

/** What a token says. Immutable. */
export interface Who {
  readonly userId: string
  readonly userName?: string
  readonly userDomainId: string | null
  readonly userDomainName?: string
  readonly projectId: string | null
  readonly projectName?: string
  readonly projectDomainId: string | null
  readonly projectDomainName?: string
  /** The domain the token is scoped to. */
  readonly domainId: string | null
  readonly domainName?: string
  readonly systemScope: boolean
  /** Names of the roles. */
  readonly roles: readonly string[]
  /** What the service token beside the user's says, when there is one. */
  readonly service?: {
    readonly userId: string
    readonly userDomainId: string | null
    readonly projectId: string | null
    readonly projectDomainId: string | null
    readonly roles: readonly string[]
  }
  /** More that rules may ask about (`trust_id`, `token: { methods, … }`); the token's members are merged with the usual ones. */
  readonly extra?: Readonly<Record<string, unknown>>
}

/** Who asks, in one request to one service. */
export interface Context {
  readonly requestId: string
  readonly userId: string
  readonly projectId: string | null
  readonly domainId: string | null
  readonly systemScope: boolean
  readonly roles: readonly string[]
  readonly userDomainId: string | null
  readonly projectDomainId: string | null
  /** What the service's rule `context_is_admin` says. */
  readonly isAdmin: boolean
  /** What policy rules see. */
  readonly credentials: Credentials
  readonly who: Who
  /** Whether the policy allows it. An unknown rule denies. */
  can(rule: string, target?: Target): boolean
  /** Throws the service's `forbidden` fault unless `can`. */
  must(rule: string, target?: Target): void
  /** The same request as another service sees it: its rules, its idea of an administrator. */
  as(service: string): Context
}

type Base = Omit<Context, 'requestId' | 'as'> & { policy: ServicePolicy; generation: number }

const bases = new WeakMap<Who, Map<ServicePolicy, Base>>()

/** The context of one request. Costs well under a microsecond when the same `who` was seen before. */
export function contextOf(who: Who, policy: ServicePolicy, requestId: string): Context {
  const known = bases.get(who)?.get(policy)
  if (known?.generation === policy.generation()) return withRequest(known, requestId)
  const base = baseOf(who, policy)
  const ofWho = bases.get(who) ?? new Map<ServicePolicy, Base>()
  bases.set(who, ofWho.set(policy, base))
  return withRequest(base, requestId)
}

function withRequest(base: Base, requestId: string): Context {
  return {
    requestId,
    userId: base.userId,
    projectId: base.projectId,
    domainId: base.domainId,
    systemScope: base.systemScope,
    roles: base.roles,
    userDomainId: base.userDomainId,
    projectDomainId: base.projectDomainId,
    isAdmin: base.isAdmin,
    credentials: base.credentials,
    who: base.who,
    can: base.can,
    must: base.must,
    as: service => asService(base, service, requestId),
  }
}

function asService(base: Base, service: string, requestId: string): Context {
  const policy = base.policy.as(service)
  return base.can === always ? internalContext(policy, requestId, base.who) : contextOf(base.who, policy, requestId)
}

function baseOf(who: Who, policy: ServicePolicy): Base {
  const plain = credentialsOf(who, false)
  const isAdmin = policy.allows('context_is_admin', plain)
  const credentials = isAdmin ? credentialsOf(who, true) : plain
  const can = (rule: string, target?: Target) => policy.allows(rule, credentials, target)
  const must = (rule: string, target?: Target) => {
    if (!can(rule, target)) throw policy.denied(rule)
  }
  return { ...identityOf(who), isAdmin, credentials, can, must, policy, generation: policy.generation() }
}

const identityOf = (who: Who) => ({
  who,
  userId: who.userId,
  projectId: who.projectId,
  domainId: who.domainId,
  systemScope: who.systemScope,
  roles: who.roles,
  userDomainId: who.userDomainId,
  projectDomainId: who.projectDomainId,
})

/**
 * The credentials as oslo.context gives them to oslo.policy, with Neutron's older names (`tenant_id`, `user`) and Keystone's
 * `token.…`. A scope that a token lacks is null, which rules see as `None`.
 */
export function credentialsOf(who: Who, isAdmin: boolean): Credentials {
  // Nobody has no ids, not even null ones: a null owner of something is not the same as nobody.
  if (who === NOBODY) return NO_CREDENTIALS
  const { extra, service } = who
  const domainOf = (id: string | null, name?: string) => ({ id, name })
  const token = {
    user: { id: who.userId, name: who.userName, domain: domainOf(who.userDomainId, who.userDomainName) },
    ...(who.projectId === null
      ? {}
      : { project: { id: who.projectId, name: who.projectName, domain: domainOf(who.projectDomainId, who.projectDomainName) } }),
    ...(who.domainId === null ? {} : { domain: domainOf(who.domainId, who.domainName) }),
    ...(who.systemScope ? { system: { all: true } } : {}),
    ...(extra?.token as object | undefined),
  }
  return Object.freeze({
    user_id: who.userId,
    user: who.userId,
    user_name: who.userName,
    user_domain_id: who.userDomainId,
    user_domain_name: who.userDomainName,
    project_id: who.projectId,
    tenant_id: who.projectId,
    tenant: who.projectId,
    project_name: who.projectName,
    project_domain_id: who.projectDomainId,
    project_domain_name: who.projectDomainName,
    domain_id: who.domainId,
    domain_name: who.domainName,
    system_scope: who.systemScope ? 'all' : null,
    roles: who.roles,
    is_admin: isAdmin,
    is_admin_project: true,
    service_user_id: service?.userId ?? null,
    service_user_domain_id: service?.userDomainId ?? null,
    service_project_id: service?.projectId ?? null,
    service_project_domain_id: service?.projectDomainId ?? null,
    service_roles: service?.roles ?? [],
    ...extra,
    token,
  })
}

const NOBODY: Who = Object.freeze({
  userId: '',
  userDomainId: null,
  projectId: null,
  projectDomainId: null,
  domainId: null,
  systemScope: false,
  roles: [],
})

const NO_CREDENTIALS: Credentials = Object.freeze({ roles: [], is_admin: false })

/** The context of a request without a token, on the few routes that take one. Only rules that allow everybody say yes. */
export function anonymousContext(policy: ServicePolicy, requestId: string): Context {
  return contextOf(NOBODY, policy, requestId)
}

const always = () => true
const noObjection = () => {}

/**
 * The context of Nubo's own work (sagas, tasks, one service calling another on its own behalf): everything is allowed. `who` says
 * on whose behalf, where records need an owner.
 */
export function internalContext(policy: ServicePolicy, requestId: string, who: Partial<Who> = {}): Context {
  const whole: Who = { ...NOBODY, roles: ['admin'], ...who }
  const base: Base = {
    ...identityOf(whole),
    isAdmin: true,
    credentials: credentialsOf(whole, true),
    can: always,
    must: noObjection,
    policy,
    generation: 0,
  }
  return withRequest(base, requestId)
}

/** A new request id, in the form that clients look for: `req-` and a UUID. */
export const newRequestId = (): string => `req-${randomUUID()}`
