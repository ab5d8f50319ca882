import { createHash, randomBytes } from 'node:crypto'
import { decode, encode } from '@msgpack/msgpack'
import { forbidden, notFound, unauthorized } from '#kit/fault.ts'
import { bytes, type Call, type Method, type Route, route } from '#kit/http/route.ts'
import type { Env } from '#kit/service.ts'
import { issue } from '../auth/authenticate.ts'
import { denied } from '../auth/locate.ts'
import { identityOf } from '../identity.ts'
import { selfUrl } from '../noun.ts'
import { fernetOpen, fernetSeal } from '../tokens/fernet.ts'
import { tokenView } from '../tokens/token.ts'
import { handOver } from './handover.ts'
import { claimAttributes, type OidcClient, oidcClient } from './oidc.ts'
import { isSamlProvider, PAOS, paosRequest, samlAway, samlSession } from './saml_sp.ts'
import { assertionLogin } from './shadow.ts'

// Logins by a trusted provider. A program brings the provider's access token as a bearer token and gets an unscoped token. A browser
// is sent to the provider and comes back with a code; the token then goes to the dashboard that asked, by a form that submits itself.

const clients = new WeakMap<Env, OidcClient[]>()

function clientsOf(env: Env): OidcClient[] {
  let made = clients.get(env)
  if (!made) {
    made = identityOf(env).settings.federation.openid.map(provider => oidcClient(provider))
    clients.set(env, made)
  }
  return made
}

const clientOf = (env: Env, idpId: string): OidcClient | undefined =>
  clientsOf(env).find(client => client.provider.identity_provider === idpId)

const bearerOf = (call: Call): string | undefined => /^Bearer\s+(\S+)$/i.exec(call.headers.authorization ?? '')?.[1]

/** What a provider says of the caller: by the bearer token it gave, or by the session that a SAML answer has opened. */
async function attributesOf(call: Call, idp: string, protocol: string): Promise<Record<string, string>> {
  const session = samlSession(call, idp, protocol)
  if (session) return session
  const token = bearerOf(call)
  const client = clientOf(call.env, idp)
  if (token === undefined || !client) throw denied()
  return claimAttributes(await client.bearer(token))
}

async function byProvider(call: Call) {
  const { identity_provider_id: idp, protocol_id: protocol } = call.params
  const known = await call.db
    .selectFrom('keystone.protocols')
    .select('id')
    .where('idp_id', '=', idp!)
    .where('id', '=', protocol!)
    .executeTakeFirst()
  if (!known) throw notFound(`Could not find federated protocol ${protocol} for Identity Provider: ${idp}.`)
  const carried = samlSession(call, idp!, protocol!) ? null : paosRequest(call, idp!, protocol!)
  if (carried !== null) {
    call.reply.status = 200
    return bytes(carried, { type: PAOS })
  }
  const proof = await assertionLogin(call.env, idp!, protocol!, await attributesOf(call, idp!, protocol!))
  const issued = await issue(call.env, proof, { unscoped: true })
  call.reply.headers['X-Subject-Token'] = issued.id
  return { token: await tokenView(call.env, issued.token, true) }
}

const AUTH = '/OS-FEDERATION/identity_providers/:identity_provider_id/protocols/:protocol_id/auth'
const bearerRoute = (method: Method): Route =>
  route({ method, path: AUTH, policy: null, auth: 'none', success: 201, handle: byProvider })

interface State {
  idp: string
  protocol: string
  origin: string
  nonce: string
  verifier: string
  /** of the cookie that binds the state to the browser */
  cookie: string
}

const CALLBACK = '/auth/OS-FEDERATION/oidc/callback'
const COOKIE = 'nubo_sso'
const STATE_LIFE = 600

function originOfDashboard(call: Call): string {
  const origin = call.search.get('origin')
  const trusted = identityOf(call.env).settings.federation.trusted_dashboard
  if (origin === null || !trusted.includes(origin)) throw unauthorized(`${origin} is not a trusted dashboard host`)
  return origin
}

/** Sends the browser to the provider. */
async function browserAway(call: Call, idp: string, protocol: string): Promise<unknown> {
  const origin = originOfDashboard(call)
  if (isSamlProvider(call.env, idp)) return samlAway(call, { idp, protocol, origin })
  const client = clientOf(call.env, idp)
  if (!client) throw forbidden(`Identity Provider ${idp} is not set up for logins by browser.`)
  const secret = randomBytes(16).toString('base64url')
  const cookie = createHash('sha256').update(secret).digest('base64url')
  const id = randomBytes(16).toString('base64url')
  const { url, nonce, verifier } = await client.authorizeUrl(selfUrl(call, CALLBACK), id)
  const state: State = { idp, protocol, origin, nonce, verifier, cookie }
  const sealed = fernetSeal(identityOf(call.env).receipts.keys(), Buffer.from(encode(state)), Math.floor(Date.now() / 1000))
  call.reply.status = 302
  call.reply.headers.Location = url.replace(`state=${encodeURIComponent(id)}`, `state=${encodeURIComponent(sealed)}`)
  const secure = call.self('').startsWith('https') ? '; Secure' : ''
  call.reply.headers['Set-Cookie'] = `${COOKIE}=${secret}; HttpOnly; SameSite=Lax; Path=/; Max-Age=${STATE_LIFE}${secure}`
  return undefined
}

function stateOf(call: Call): State {
  const opened = fernetOpen(identityOf(call.env).receipts.keys(), call.search.get('state') ?? '')
  if (!opened || opened.issued + STATE_LIFE < Date.now() / 1000) throw denied()
  const state = decode(opened.plain) as State
  const secret = new RegExp(`(?:^|;\\s*)${COOKIE}=([\\w-]+)`).exec(call.headers.cookie ?? '')?.[1]
  if (secret === undefined || createHash('sha256').update(secret).digest('base64url') !== state.cookie) throw denied()
  return state
}

const callback = route({
  method: 'GET',
  path: CALLBACK,
  policy: null,
  auth: 'none',
  async handle(call) {
    const state = stateOf(call)
    const code = call.search.get('code')
    const client = clientOf(call.env, state.idp)
    if (code === null || !client) throw denied()
    const claims = await client.exchange(code, selfUrl(call, CALLBACK), state.nonce, state.verifier)
    const proof = await assertionLogin(call.env, state.idp, state.protocol, claimAttributes(claims))
    const { id } = await issue(call.env, proof, { unscoped: true })
    call.reply.headers['Cache-Control'] = 'no-store'
    call.reply.headers['Set-Cookie'] = `${COOKIE}=; Path=/; Max-Age=0`
    return bytes(handOver(state.origin, id), { type: 'text/html' })
  },
})

/** Without a provider in the path: the one that has the protocol and is set up for it. */
async function providerFor(call: Call, protocol: string): Promise<string> {
  const { openid, saml } = identityOf(call.env).settings.federation
  const ids = [...openid, ...saml].map(provider => provider.identity_provider)
  const rows =
    ids.length === 0
      ? []
      : await call.db
          .selectFrom('keystone.protocols')
          .select('idp_id')
          .where('id', '=', protocol)
          .where('idp_id', 'in', ids)
          .execute()
  if (rows.length !== 1) throw notFound(`Could not find Identity Provider for protocol: ${protocol}.`)
  return rows[0]!.idp_id
}

const webSso = (method: Method): Route[] => [
  route({
    method,
    path: '/auth/OS-FEDERATION/websso/:protocol_id',
    policy: null,
    auth: 'none',
    handle: async call => browserAway(call, await providerFor(call, call.params.protocol_id!), call.params.protocol_id!),
  }),
  route({
    method,
    path: '/auth/OS-FEDERATION/identity_providers/:identity_provider_id/protocols/:protocol_id/websso',
    policy: null,
    auth: 'none',
    handle: call => browserAway(call, call.params.identity_provider_id!, call.params.protocol_id!),
  }),
]

export const federatedAuthRoutes: Route[] = [
  bearerRoute('GET'),
  bearerRoute('POST'),
  callback,
  ...webSso('GET'),
  ...webSso('POST'),
]
