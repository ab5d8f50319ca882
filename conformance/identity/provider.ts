/** A real OpenID provider (oidc-provider), for the tests of identity: accounts are their login names, a password is the name backwards. */
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import type { TestContext } from 'node:test'
import Provider from 'oidc-provider'

export const passwordOf = (account: string): string => [...account].reverse().join('')

const GROUPS: Record<string, string[]> = { ann: ['builders', 'readers'], bob: ['readers'] }
/** Who asks for this resource gets access tokens that are signed JWTs; all others are opaque. */
export const RESOURCE = 'urn:nubo'

/** Starts a provider that knows the clients `nubo` and `other` (secret: `secret`). `redirect` is where it may send browsers back to. */
export async function openidProvider(t: TestContext, redirect: () => string): Promise<{ issuer: string }> {
  let handler: ReturnType<Provider['callback']> | undefined
  const server = createServer((req, res) => {
    handler ??= start(issuer, redirect())
    handler(req, res)
  })
  await new Promise<void>(resolve => server.listen(0, '127.0.0.1', resolve))
  t.after(() => {
    server.close()
    server.closeAllConnections()
  })
  const issuer = `http://127.0.0.1:${(server.address() as AddressInfo).port}`
  return { issuer }
}

function start(issuer: string, redirect: string) {
  const client = (id: string) => ({
    client_id: id,
    client_secret: 'secret',
    redirect_uris: [redirect],
    grant_types: ['authorization_code', 'client_credentials', 'password'],
    response_types: ['code'],
  })
  const provider = new Provider(issuer, {
    clients: [client('nubo'), client('other')],
    scopes: ['openid', 'email', 'profile', 'api'],
    claims: { openid: ['sub', 'groups'], email: ['email'], profile: ['name'] },
    conformIdTokenClaims: false,
    cookies: { keys: ['a key of these tests'] },
    pkce: { required: () => true },
    ttl: { AccessToken: 600, ClientCredentials: 600, IdToken: 600, Interaction: 600, Session: 600, Grant: 600 },
    findAccount: (_ctx: unknown, id: string) => ({
      accountId: id,
      claims: () => ({ sub: id, email: `${id}@acme.example`, name: id, groups: GROUPS[id] ?? [] }),
    }),
    // What introspection and signed tokens tell of a person beside `sub`.
    extraTokenClaims: (_ctx: unknown, { accountId: id }: { accountId?: string }) =>
      id && { email: `${id}@acme.example`, groups: GROUPS[id] },
    features: {
      devInteractions: { enabled: true },
      clientCredentials: { enabled: true },
      introspection: { enabled: true },
      revocation: { enabled: true },
      resourceIndicators: {
        enabled: true,
        getResourceServerInfo: () => ({
          scope: 'openid email api',
          audience: RESOURCE,
          accessTokenFormat: 'jwt',
          accessTokenTTL: 600,
          jwt: { sign: { alg: 'RS256' } },
        }),
      },
    },
  })
  // What keystoneauth's v3oidcpassword asks for; the package leaves this grant out.
  const handler = async (ctx: import('oidc-provider').Context) => {
    const { username, password } = ctx.oidc.params as { username: string; password: string }
    if (password !== passwordOf(username)) throw new Error('wrong password')
    const token = new provider.AccessToken({
      accountId: username,
      client: ctx.oidc.client,
      scope: 'openid email',
      gty: 'password',
    })
    ctx.body = { access_token: await token.save(), token_type: 'Bearer', expires_in: 600 }
  }
  provider.registerGrantType('password', handler, ['username', 'password', 'scope'])
  return provider.callback()
}
