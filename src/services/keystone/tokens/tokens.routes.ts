import { badRequest, notFound } from '#kit/fault.ts'
import { type Call, route } from '#kit/http/route.ts'
import { Array, Object, Optional, String, Unknown, Unsafe } from '#kit/http/schema.ts'
import { audit } from '../audit/notify.ts'
import { type AuthRequest, authenticate } from '../auth/authenticate.ts'
import { receiptOpen } from '../auth/mfa.ts'
import { catalogFor } from '../catalog/catalog.ts'
import { identityOf } from '../identity.ts'
import { pageLinks } from '../noun.ts'
import { isoTime } from '../wire.ts'
import { revoke } from './stale.ts'
import { type Token, tokenCheck, tokenView } from './token.ts'

const Ref = Object({ id: Optional(String()), name: Optional(String()) })
const Scope = Unsafe<AuthRequest['scope']>({
  anyOf: [
    { const: 'unscoped' },
    {
      type: 'object',
      properties: {
        project: { type: 'object', properties: { id: { type: 'string' }, name: { type: 'string' }, domain: { type: 'object' } } },
        domain: { type: 'object', properties: { id: { type: 'string' }, name: { type: 'string' } } },
        system: { type: 'object', properties: { all: { type: 'boolean' } } },
        'OS-TRUST:trust': { type: 'object', properties: { id: { type: 'string' } } },
      },
    },
  ],
})
const User = Object({
  id: Optional(String()),
  name: Optional(String()),
  domain: Optional(Ref),
  password: Optional(String()),
  passcode: Optional(String()),
})
const Auth = Object({
  auth: Object({
    identity: Object({
      methods: Array(String()),
      password: Optional(Object({ user: Optional(User) })),
      totp: Optional(Object({ user: Optional(User) })),
      token: Optional(Object({ id: String() })),
      application_credential: Optional(
        Object({ id: Optional(String()), name: Optional(String()), secret: Optional(String()), user: Optional(User) }),
      ),
      oauth1: Optional(Unknown()),
    }),
    scope: Optional(Scope),
  }),
})

const wantsCatalog = (call: Pick<Call, 'search'>): boolean => !call.search.has('nocatalog')

const issueToken = route({
  method: 'POST',
  path: '/auth/tokens',
  policy: null,
  auth: 'none',
  success: 201,
  body: Auth,
  async handle(call) {
    const receipt = call.headers['openstack-auth-receipt']
    const request = call.body.auth as AuthRequest
    try {
      const { token, id } = await authenticate(
        call.env,
        request,
        typeof receipt === 'string' ? receiptOpen(call.env, receipt) : undefined,
        call,
      )
      await audit(call.env, call, { action: 'authenticate', outcome: 'success', userId: token.claims.userId })
      call.reply.headers['X-Subject-Token'] = id
      return { token: await tokenView(call.env, token, wantsCatalog(call)) }
    } catch (error) {
      await audit(call.env, call, { action: 'authenticate', outcome: 'failure', user: request.identity.password as never, error })
      throw error
    }
  },
})

/** The token in X-Subject-Token. Services may ask about one that has expired not too long ago. */
async function subject(call: Call): Promise<Token> {
  const text = call.headers['x-subject-token']
  if (typeof text !== 'string' || text === '') throw badRequest('Expecting to find X-Subject-Token in the headers.')
  const allowed = call.search.get('allow_expired')
  const late = allowed !== null && allowed !== '0' && allowed.toLowerCase() !== 'false'
  const token = await tokenCheck(call.env, text, late ? identityOf(call.env).settings.token.allow_expired_window : 0)
  // Before policy, as upstream: who has revoked a token of theirs is told that it is gone, whatever they may ask of others' tokens.
  if (!token) throw notFound('Failed to validate token')
  return token
}

const about = {
  path: '/auth/tokens',
  target: subject,
  policyTarget: (call: Call<unknown, unknown, Token>) => ({ target: { token: { user_id: call.target.claims.userId } } }),
}

const validateToken = route({
  ...about,
  method: 'GET',
  policy: 'identity:validate_token',
  async handle(call) {
    const token = call.target
    call.reply.headers['X-Subject-Token'] = call.headers['x-subject-token'] as string
    return { token: await tokenView(call.env, token, wantsCatalog(call)) }
  },
})

const checkToken = route({
  ...about,
  method: 'HEAD',
  policy: 'identity:check_token',
  handle(call) {
    call.reply.headers['X-Subject-Token'] = call.headers['x-subject-token'] as string
    return {}
  },
})

const revokeToken = route({
  ...about,
  method: 'DELETE',
  policy: 'identity:revoke_token',
  success: 204,
  async handle(call) {
    const { claims } = call.target
    await call.env.db.tx(tx => revoke(tx, { audit_id: claims.auditIds[0]!, expires_at: new Date(claims.expires * 1000) }))
  },
})

const catalog = route({
  method: 'GET',
  path: '/auth/catalog',
  policy: 'identity:get_auth_catalog',
  policyTarget: () => ({}),
  async handle(call) {
    const { projectId, userId } = call.ctx
    const scoped = projectId ?? call.ctx.domainId ?? (call.ctx.systemScope ? 'all' : null)
    const entries =
      scoped === null
        ? []
        : catalogFor(await identityOf(call.env).catalog(), { project_id: projectId ?? undefined, user_id: userId })
    return { catalog: entries, links: pageLinks(call) }
  },
})

/** Revocations since a time, for those who check tokens by themselves. */
const revokeEvents = route({
  method: 'GET',
  path: '/OS-REVOKE/events',
  policy: 'identity:list_revoke_events',
  policyTarget: () => ({}),
  async handle(call) {
    const since = call.search.get('since')
    if (since !== null && Number.isNaN(Date.parse(since))) throw badRequest(`invalidate date format ${since}`)
    let query = call.db.selectFrom('keystone.revocations').selectAll().orderBy('id')
    if (since !== null) query = query.where('revoked_at', '>=', new Date(since))
    const rows = await query.execute()
    const events = rows.map(row => {
      const event: Record<string, unknown> = { issued_before: isoTime(row.issued_before) }
      const of = (name: string, value: string | null) => {
        if (value !== null) event[name] = value
      }
      of('user_id', row.user_id)
      of('project_id', row.project_id)
      of('domain_id', row.domain_id)
      of('role_id', row.role_id)
      of('OS-TRUST:trust_id', row.trust_id)
      of('OS-OAUTH1:consumer_id', row.consumer_id)
      of('OS-OAUTH1:access_token_id', row.access_token_id)
      of('audit_id', row.audit_id)
      of('audit_chain_id', row.audit_chain_id)
      if (row.expires_at) event.expires_at = isoTime(row.expires_at)
      return event
    })
    return { events, links: pageLinks(call) }
  },
})

export const tokenRoutes = [issueToken, validateToken, checkToken, revokeToken, catalog, revokeEvents]
