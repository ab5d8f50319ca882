import { createHash, randomBytes, timingSafeEqual } from 'node:crypto'
import type { Query } from '#kit/db/index.ts'
import { badRequest, forbidden, notFound, unauthorized } from '#kit/fault.ts'
import type { Call } from '#kit/http/route.ts'
import type { Env } from '#kit/service.ts'
import { identityOf } from '../identity.ts'
import { oauth1Login } from '../oauth1/oauth1.ts'
import { factsOf } from '../tokens/facts.ts'
import type { Claims } from '../tokens/payload.ts'
import {
  type AppCredFact,
  appCredFetch,
  appCredRemembered,
  type Token,
  tokenCheck,
  tokenLoad,
  tokenRemember,
  tokenSeal,
} from '../tokens/token.ts'
import { trustConsume, trustForAuth } from '../trusts/store.ts'
import { passwordLogin } from '../users/login.ts'
import { passwordVerify } from '../users/passwords.ts'
import { isSigned } from './delegation.ts'
import { denied, domainLocate, type NamedRef, projectLocate, userLocate } from './locate.ts'
import { mfaCheck, type Receipt } from './mfa.ts'
import { totpLogin } from './totp.ts'

// From "auth" in a request to a token: each method proves who the user is, then the scope is found, then all is checked as any
// later use of the token would be.

/** The request, as its schema has let it through. */
export interface AuthRequest {
  identity: { methods: string[] } & Record<string, unknown>
  scope?: 'unscoped' | Record<string, unknown>
}

/** What the methods have proven. All methods of a request must agree on it. */
export interface Proof {
  userId: string
  methods: string[]
  /** a token that was exchanged: its chain and its end go on */
  auditChain?: string
  expires?: number
  appCredId?: string
  appCred?: AppCredFact
  /** scope fixed by the method */
  projectId?: string
  accessTokenId?: string
  federation?: { idpId: string; protocolId: string; groupIds: string[] }
  thumbprint?: string
}

export type Scope = { projectId?: string; domainId?: string; system?: 'all'; trustId?: string; unscoped?: true }

type Method = (
  env: Env,
  data: Record<string, unknown>,
  request: AuthRequest,
  call?: Call,
) => Promise<Omit<Proof, 'methods'> & { methods?: string[] }>

/** The methods that a request body can name. */
const METHODS: Record<string, Method> = {
  async password(env, data) {
    const user = (data.user ?? {}) as NamedRef & { password?: string }
    if (typeof user.password !== 'string') throw badRequest('Expecting to find password in user.')
    return { userId: await passwordLogin(env, user, user.password) }
  },
  token: tokenMethod,
  // A federated token can be scoped under these names too.
  mapped: tokenMethod,
  openid: tokenMethod,
  saml2: tokenMethod,
  application_credential: appCredMethod,
  async oauth1(_env, _data, _request, call) {
    if (!call) throw denied()
    return oauth1Login(call)
  },
  async totp(env, data) {
    const user = (data.user ?? {}) as NamedRef & { passcode?: string }
    if (typeof user.passcode !== 'string') throw badRequest('Expecting to find passcode in user.')
    return { userId: await totpLogin(env, user, user.passcode) }
  },
}

/** Runs every method that the request names, and reconciles them. */
export async function prove(env: Env, request: AuthRequest, call?: Call): Promise<Proof> {
  const configured = identityOf(env).settings.auth.methods
  const names = [...new Set(request.identity.methods)]
  for (const name of names) {
    if (request.identity[name] === undefined) throw badRequest(`Expecting to find ${name} in identity.`)
    if (!Object.hasOwn(METHODS, name) || !configured.includes(name)) {
      throw unauthorized('Attempted to authenticate with an unsupported method.')
    }
  }
  if (names.length === 0) throw badRequest('Expecting to find at least one method in identity.')
  let all: Proof | undefined
  for (const name of names) {
    const one = await METHODS[name]!(env, request.identity[name] as Record<string, unknown>, request, call)
    const methods = [...(all?.methods ?? []), ...(one.methods ?? []), name]
    if (all && all.userId !== one.userId) throw denied()
    all = { ...all, ...one, methods: [...new Set(methods)] }
  }
  return all!
}

async function tokenMethod(
  env: Env,
  data: Record<string, unknown>,
  request: AuthRequest,
): Promise<Omit<Proof, 'methods'> & { methods: string[] }> {
  if (typeof data.id !== 'string') throw badRequest('Expecting to find id in token.')
  const token = await tokenCheck(env, data.id)
  // Clients tell an expired session (404) from wrong credentials (401) by this.
  if (!token) throw notFound('Failed to validate token')
  const { claims } = token
  if (isSigned(claims.methods)) throw forbidden('EC2 credential tokens cannot be used for authorization.')
  const scope = typeof request.scope === 'object' ? request.scope : {}
  if (token.accessToken)
    throw forbidden(
      'You are not authorized to perform the requested action: Using OAuth-scoped token to create another token. Create a new OAuth-scoped token instead.',
    )
  if (token.trust)
    throw forbidden(
      'You are not authorized to perform the requested action: Using trust-scoped token to create another token. Create a new trust-scoped token instead.',
    )
  if (claims.system && ('project' in scope || 'domain' in scope)) {
    throw forbidden(
      'You are not authorized to perform the requested action: Using a system-scoped token to create a project-scoped or domain-scoped token is not allowed.',
    )
  }
  if (token.appCred && request.scope !== undefined) {
    throw forbidden(
      'You are not authorized to perform the requested action: Using an application credential token to create a scoped token is not allowed.',
    )
  }
  const scoped = claims.projectId ?? claims.domainId ?? claims.system
  if (scoped !== undefined && !identityOf(env).settings.token.allow_rescope_scoped_token) {
    throw forbidden('You are not authorized to perform the requested action: rescope a scoped token.')
  }
  return {
    userId: claims.userId,
    methods: claims.methods,
    auditChain: claims.auditIds.at(-1),
    expires: claims.expires,
    ...(token.appCred && { appCredId: token.appCred.id, projectId: claims.projectId }),
    ...(claims.thumbprint !== undefined && { thumbprint: claims.thumbprint }),
    ...(claims.idpId !== undefined && {
      federation: { idpId: claims.idpId, protocolId: claims.protocolId!, groupIds: claims.groupIds ?? [] },
    }),
  }
}

/** The stored form of an application credential's secret: slow for one that a user made up, fast for a random one. */
export const secretFast = (secret: string): string => `$sha256$${createHash('sha256').update(secret).digest('base64url')}`

async function appCredMethod(env: Env, data: Record<string, unknown>): Promise<Omit<Proof, 'methods'>> {
  const { id, name, secret } = data as { id?: string; name?: string; secret?: string }
  if (typeof secret !== 'string') throw badRequest('Expecting to find secret in application credential.')
  if (id === undefined && name === undefined) throw badRequest('Expecting to find name or ID in application credential.')
  const db = env.db.read
  let found: AppCredFact | null
  if (id !== undefined) found = await appCredRemembered(env, String(id))
  else {
    if (typeof data.user !== 'object' || data.user === null) throw badRequest('Expecting to find user in application credential.')
    const user = await userLocate(db, data.user as NamedRef)
    if (!user) throw denied()
    found = await appCredFetch(db, { userId: user.id, name: String(name) })
  }
  if (!(await secretHolds(env, secret, found?.secret_hash ?? null))) throw denied()
  if (!found || (found.expires_at && found.expires_at.getTime() <= Date.now())) throw denied()
  return { userId: found.user_id, appCredId: found.id, appCred: found, projectId: found.project_id }
}

async function secretHolds(env: Env, secret: string, stored: string | null): Promise<boolean> {
  if (stored !== null && !stored.startsWith('$sha256$')) return await passwordVerify(secret, stored, identityOf(env).hashing)
  const [a, b] = [Buffer.from(secretFast(secret)), Buffer.from(stored ?? secretFast(''))]
  return a.length === b.length && timingSafeEqual(a, b) && stored !== null
}

/** Finds the scope that the request asks for; undefined when it asks for none. */
async function scopeOf(env: Env, request: AuthRequest, proof: Proof): Promise<Scope | undefined> {
  const { scope } = request
  if (proof.appCredId !== undefined || proof.accessTokenId !== undefined) {
    if (scope !== undefined && proof.appCredId !== undefined && request.identity.methods.includes('application_credential')) {
      throw unauthorized('Error authenticating with application credential: Application credentials cannot request a scope.')
    }
    return { projectId: proof.projectId }
  }
  if (scope === undefined) return undefined
  if (scope === 'unscoped') return { unscoped: true }
  const asked = ['project', 'domain', 'unscoped', 'system', 'OS-TRUST:trust'].filter(name => scope[name] !== undefined)
  if (asked.length !== 1) throw badRequest('Expecting to find system, project, domain, OS-TRUST:trust or unscoped in scope.')
  switch (asked[0]) {
    case 'project':
      return { projectId: await projectLocate(env, scope.project as NamedRef) }
    case 'domain':
      return { domainId: await domainLocate(env, scope.domain as NamedRef) }
    case 'system':
      return { system: 'all' }
    case 'OS-TRUST:trust': {
      const { id } = scope['OS-TRUST:trust'] as { id?: string }
      if (typeof id !== 'string') throw badRequest('Expecting to find trust_id in trust.')
      return { trustId: id }
    }
    default:
      return { unscoped: true }
  }
}

/** A user's default project, if it can be used: then a request that names no scope gets it. */
async function defaultScope(db: Query, proof: Proof): Promise<Scope> {
  const user = await db
    .selectFrom('keystone.users')
    .select('default_project_id')
    .where('id', '=', proof.userId)
    .executeTakeFirst()
  if (!user?.default_project_id) return { unscoped: true }
  const facts = await factsOf(db, {
    userId: proof.userId,
    projectId: user.default_project_id,
    groupIds: proof.federation?.groupIds,
  })
  const usable = facts.project?.enabled && facts.project.domain?.enabled && facts.roles.length > 0
  return usable ? { projectId: user.default_project_id } : { unscoped: true }
}

/** A new audit id: 128 random bits. */
export const auditId = (): string => randomBytes(16).toString('base64url')

/** A token, and its text. */
export interface Issued {
  token: Token
  id: string
}

/** Authenticates and issues. `receipt`: methods proven before, in a login of several steps. */
export async function authenticate(env: Env, request: AuthRequest, receipt?: Receipt, call?: Call): Promise<Issued> {
  const proof = await prove(env, request, call)
  if (receipt) {
    if (receipt.userId !== proof.userId) throw denied()
    proof.methods = [...new Set([...proof.methods, ...receipt.methods])]
  }
  return issue(env, proof, await scopeOf(env, request, proof))
}

/** Issues a token for what was proven, in `scope` (by default the user's default project, else unscoped). */
export async function issue(env: Env, proof: Proof, asked?: Scope): Promise<Issued> {
  const db = env.db.read
  const exchanged = proof.methods.includes('token')
  const scope = asked ?? (exchanged && proof.federation ? { unscoped: true as const } : await defaultScope(db, proof))
  const trust = scope.trustId === undefined ? undefined : await trustForAuth(db, scope.trustId, proof.userId)
  const now = Math.floor(Date.now() / 1000)
  const expires = Math.floor(
    Math.min(proof.expires ?? now + identityOf(env).settings.token.expiration, trust?.expires ?? Number.POSITIVE_INFINITY),
  )
  const claims: Claims = {
    userId: trust?.impersonation ? trust.trustorId : proof.userId,
    methods: proof.methods,
    issued: now,
    expires,
    auditIds: [auditId(), ...(proof.auditChain === undefined ? [] : [proof.auditChain])],
    ...(trust ? { projectId: trust.projectId, trustId: trust.id } : scopeClaims(scope)),
    ...(proof.appCredId !== undefined && { appCredId: proof.appCredId }),
    ...(proof.accessTokenId !== undefined && { accessTokenId: proof.accessTokenId }),
    ...(proof.federation && {
      idpId: proof.federation.idpId,
      protocolId: proof.federation.protocolId,
      groupIds: proof.federation.groupIds,
    }),
    ...(proof.thumbprint !== undefined && { thumbprint: proof.thumbprint }),
  }
  const since = identityOf(env).tokens.mark()
  const token = await tokenLoad(env, db, claims, false, proof.appCred)
  if (!token) {
    if (trust) throw forbidden('You are not authorized to perform the requested action: Trustee has no delegated roles.')
    throw denied()
  }
  const user = token.facts.user!
  if (!trust) mfaCheck(env, user, proof.methods)
  if (trust?.limited) await env.db.tx(tx => trustConsume(tx, trust.id))
  const id = tokenSeal(env, claims)
  tokenRemember(env, id, token, since)
  return { token, id }
}

function scopeClaims({ projectId, domainId, system }: Scope): Partial<Claims> {
  if (projectId !== undefined) return { projectId }
  if (domainId !== undefined) return { domainId }
  return system ? { system } : {}
}
