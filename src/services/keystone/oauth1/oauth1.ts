import { randomBytes, randomInt } from 'node:crypto'
import { badRequest, unauthorized } from '#kit/fault.ts'
import { originOf } from '#kit/http/app.ts'
import { bytes, type Call, type Route, route } from '#kit/http/route.ts'
import { Array, Object, Optional, String } from '#kit/http/schema.ts'
import { delegatedForbid } from '../auth/delegation.ts'
import { identityOf } from '../identity.ts'
import { listView, missing, newId, pageLinks, selfUrl } from '../noun.ts'
import { rolesFind, roleViews } from '../roles/find.ts'
import { factsOf } from '../tokens/facts.ts'
import { revoke } from '../tokens/stale.ts'
import { isoTime } from '../wire.ts'
import { oauthParameters, signatureHolds } from './signature.ts'

// OAuth 1.0a in three steps: the consumer asks for a request token, a user authorizes it with some roles on the project, the consumer
// turns it into an access token. With that it signs requests for ordinary tokens.

const bad = (why: string) => unauthorized(why)

function oauthOf(call: Call, ...needed: string[]): Record<string, string> {
  const oauth = oauthParameters(call.headers.authorization)
  if (!oauth) throw badRequest('Expecting to find an OAuth Authorization header in the request.')
  for (const name of needed) if (!oauth[name]) throw badRequest(`Expecting to find ${name} in request.`)
  const skew = Math.abs(Number(oauth.oauth_timestamp) - Date.now() / 1000)
  if (!(skew <= 600)) throw bad('Invalid signature')
  return oauth
}

const urlOf = (call: Call): URL => new URL((call.stream as unknown as { url: string }).url, originOf(call.stream as never))

const expiry = (seconds: number): Date | null => (seconds > 0 ? new Date(Date.now() + seconds * 1000) : null)

function formAnswer(call: Call, token: { id: string; secret: string; expires_at: Date | null }) {
  call.reply.status = 201
  const form = new URLSearchParams({ oauth_token: token.id, oauth_token_secret: token.secret })
  if (token.expires_at) form.set('oauth_expires_at', isoTime(token.expires_at))
  return bytes(form.toString(), { type: 'application/x-www-form-urlencoded' })
}

async function consumerOf(call: Call, id: string) {
  const row = await call.db.selectFrom('keystone.consumers').selectAll().where('id', '=', id).executeTakeFirst()
  if (!row) throw missing('consumer', id)
  return row
}

const requestToken = route({
  method: 'POST',
  path: '/OS-OAUTH1/request_token',
  policy: null,
  auth: 'none',
  async handle(call) {
    const oauth = oauthOf(call, 'oauth_consumer_key')
    const project = call.headers['requested-project-id']
    if (typeof project !== 'string' || project === '') throw badRequest('Expecting to find Requested-Project-Id in request.')
    const there = await call.db.selectFrom('keystone.projects').select('id').where('id', '=', project).executeTakeFirst()
    if (!there) throw missing('project', project)
    const consumer = await consumerOf(call, oauth.oauth_consumer_key!)
    if (!signatureHolds('POST', urlOf(call), oauth, consumer.secret)) throw bad('Invalid signature')
    const token = {
      id: newId(),
      secret: randomBytes(16).toString('hex'),
      expires_at: expiry(identityOf(call.env).settings.oauth1.request_token_duration),
    }
    await call.env.db.tx(tx =>
      tx
        .insertInto('keystone.request_tokens')
        .values({
          ...token,
          consumer_id: consumer.id,
          project_id: project,
          verifier: null,
          authorizing_user_id: null,
          role_ids: null,
        })
        .execute(),
    )
    return formAnswer(call, token)
  },
})

async function requestTokenOf(call: Call, id: string) {
  const row = await call.db.selectFrom('keystone.request_tokens').selectAll().where('id', '=', id).executeTakeFirst()
  if (!row) throw missing('request token', id)
  if (row.expires_at && row.expires_at.getTime() <= Date.now()) throw bad('Request token is expired')
  return row
}

const VERIFIER = '0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz'

const authorize = route({
  method: 'PUT',
  path: '/OS-OAUTH1/authorize/:request_token_id',
  policy: 'identity:authorize_request_token',
  policyTarget: call => ({ ...call.params }),
  body: Object({ roles: Array(Object({ id: Optional(String()), name: Optional(String()) }), { minItems: 1 }) }),
  async handle(call) {
    delegatedForbid(call, 'Cannot authorize a request token with a token issued via delegation.')
    const request = await requestTokenOf(call, call.params.request_token_id!)
    const roles = await rolesFind(call.db, call.body.roles)
    const facts = await factsOf(call.db, {
      userId: call.ctx.userId,
      projectId: request.project_id,
      roleIds: roles.map(role => role.id),
    })
    if (facts.lacking) throw bad('authorizing user does not have role required')
    const verifier = globalThis.Array.from({ length: 8 }, () => VERIFIER[randomInt(VERIFIER.length)]).join('')
    await call.env.db.tx(tx =>
      tx
        .updateTable('keystone.request_tokens')
        .set({ verifier, authorizing_user_id: call.ctx.userId, role_ids: roles.map(role => role.id) })
        .where('id', '=', request.id)
        .execute(),
    )
    return { token: { oauth_verifier: verifier } }
  },
})

const accessToken = route({
  method: 'POST',
  path: '/OS-OAUTH1/access_token',
  policy: null,
  auth: 'none',
  async handle(call) {
    const oauth = oauthOf(call, 'oauth_consumer_key', 'oauth_token', 'oauth_verifier')
    const request = await requestTokenOf(call, oauth.oauth_token!)
    const consumer = await consumerOf(call, oauth.oauth_consumer_key!)
    if (request.consumer_id !== consumer.id) throw bad('Provided consumer key does not match stored consumer key.')
    if (request.verifier === null || request.verifier !== oauth.oauth_verifier)
      throw bad('Provided verifier does not match stored verifier')
    if (!signatureHolds('POST', urlOf(call), oauth, consumer.secret, request.secret)) throw bad('Invalid signature')
    const token = {
      id: newId(),
      secret: randomBytes(16).toString('hex'),
      expires_at: expiry(identityOf(call.env).settings.oauth1.access_token_duration),
    }
    await call.env.db.tx(async tx => {
      const gone = await tx.deleteFrom('keystone.request_tokens').where('id', '=', request.id).executeTakeFirst()
      if (gone.numDeletedRows === 0n) throw missing('request token', request.id)
      await tx
        .insertInto('keystone.access_tokens')
        .values({
          ...token,
          consumer_id: consumer.id,
          user_id: request.authorizing_user_id!,
          project_id: request.project_id,
          role_ids: request.role_ids!,
        })
        .execute()
    })
    return formAnswer(call, token)
  },
})

/** What a signed request for a token proves: the user of the access token, on its project, with its roles. */
export async function oauth1Login(call: Call): Promise<{ userId: string; projectId: string; accessTokenId: string }> {
  const oauth = oauthParameters(call.headers.authorization)
  if (!oauth?.oauth_token || !oauth.oauth_consumer_key) throw badRequest('Expecting to find oauth_token in request.')
  const row = await call.db
    .selectFrom('keystone.access_tokens as a')
    .innerJoin('keystone.consumers as c', 'c.id', 'a.consumer_id')
    .selectAll('a')
    .select('c.secret as consumer_secret')
    .where('a.id', '=', oauth.oauth_token)
    .where('c.id', '=', oauth.oauth_consumer_key)
    .executeTakeFirst()
  const current = row && (!row.expires_at || row.expires_at.getTime() > Date.now())
  const fresh = Math.abs(Number(oauth.oauth_timestamp) - Date.now() / 1000) <= 600
  if (!row || !current || !fresh || !signatureHolds('POST', urlOf(call), oauth, row.consumer_secret, row.secret))
    throw bad('The request you have made requires authentication.')
  return { userId: row.user_id, projectId: row.project_id, accessTokenId: row.id }
}

const BASE = '/users/:user_id/OS-OAUTH1/access_tokens'

async function mine(call: Call) {
  const { user_id, access_token_id } = call.params
  const row = await call.db
    .selectFrom('keystone.access_tokens')
    .selectAll()
    .where('id', '=', access_token_id!)
    .where('user_id', '=', user_id!)
    .executeTakeFirst()
  if (!row) throw missing('access token', access_token_id!)
  return row
}

type AccessToken = Awaited<ReturnType<typeof mine>>

const tokenView = (row: AccessToken, call: Call) => {
  const self = selfUrl(call, `/users/${row.user_id}/OS-OAUTH1/access_tokens/${row.id}`)
  return {
    id: row.id,
    consumer_id: row.consumer_id,
    authorizing_user_id: row.user_id,
    project_id: row.project_id,
    expires_at: row.expires_at && isoTime(row.expires_at),
    links: { self, roles: `${self}/roles` },
  }
}

const get = (path: string, rule: string, handle: (call: Call) => Promise<unknown>): Route =>
  route({
    method: 'GET',
    path: `${BASE}${path}`,
    policy: `identity:${rule}`,
    policyTarget: call => ({ ...call.params }),
    handle(call) {
      delegatedForbid(call, 'Cannot manage OAuth access tokens with a token issued via delegation.')
      return handle(call)
    },
  })

export const oauth1Routes: Route[] = [
  requestToken,
  authorize,
  accessToken,
  get('', 'list_access_tokens', async call => {
    const rows = await call.db
      .selectFrom('keystone.access_tokens')
      .selectAll()
      .where('user_id', '=', call.params.user_id!)
      .orderBy('id')
      .execute()
    return listView(
      'access_tokens',
      rows.map(row => tokenView(row, call)),
      { links: pageLinks(call), truncated: false },
    )
  }),
  get('/:access_token_id', 'get_access_token', async call => ({ access_token: tokenView(await mine(call), call) })),
  get('/:access_token_id/roles', 'list_access_token_roles', async call => {
    const row = await mine(call)
    const roles = await roleViews(call.db, row.role_ids, call)
    return listView('roles', [...roles.values()], { links: pageLinks(call), truncated: false })
  }),
  get('/:access_token_id/roles/:role_id', 'get_access_token_role', async call => {
    const { role_id } = call.params
    const role = (await roleViews(call.db, (await mine(call)).role_ids, call)).get(role_id!)
    if (!role) throw missing('role', role_id!)
    return { role }
  }),
  route({
    method: 'DELETE',
    path: `${BASE}/:access_token_id`,
    policy: 'identity:delete_access_token',
    policyTarget: call => ({ ...call.params }),
    success: 204,
    async handle(call) {
      delegatedForbid(call, 'Cannot manage OAuth access tokens with a token issued via delegation.')
      const row = await mine(call)
      await call.env.db.tx(async tx => {
        await tx.deleteFrom('keystone.access_tokens').where('id', '=', row.id).execute()
        await revoke(tx, { access_token_id: row.id })
      })
    },
  }),
]
