import { createHash, createPublicKey, type JsonWebKey, type KeyObject, randomBytes, verify } from 'node:crypto'
import { type Fault, reason, unauthorized, unavailable } from '#kit/fault.ts'

// OpenID Connect, from the side of who relies on it: discovery, ID and access tokens as signed JWTs, introspection of opaque ones,
// and the code flow with PKCE. What a provider says becomes attributes named OIDC-name and HTTP_OIDC_NAME, as mod_auth_openidc names
// them, so that mappings written for a Keystone behind Apache keep working.

/** A provider that is trusted, as configured. */
export interface OidcProvider {
  identity_provider: string
  issuer: string
  client_id: string
  client_secret?: string
  /** audience that access tokens must have; by default the client's id */
  audience?: string
  scope: string
}

interface Metadata {
  issuer: string
  jwks_uri: string
  authorization_endpoint?: string
  token_endpoint?: string
  introspection_endpoint?: string
}

export type OidcClaims = Record<string, unknown>

const TIMEOUT_MS = 10_000
const KEEP_MS = 600_000
const LEEWAY = 60

const ALGORITHMS: Record<string, { digest: string | null; type: string; pss?: true }> = {
  RS256: { digest: 'sha256', type: 'rsa' },
  RS384: { digest: 'sha384', type: 'rsa' },
  RS512: { digest: 'sha512', type: 'rsa' },
  PS256: { digest: 'sha256', type: 'rsa', pss: true },
  PS384: { digest: 'sha384', type: 'rsa', pss: true },
  PS512: { digest: 'sha512', type: 'rsa', pss: true },
  ES256: { digest: 'sha256', type: 'ec' },
  ES384: { digest: 'sha384', type: 'ec' },
  ES512: { digest: 'sha512', type: 'ec' },
  EdDSA: { digest: null, type: 'ed25519' },
}

const refused = (why: string): Fault =>
  unauthorized('The request you have made requires authentication.', { cause: new Error(why) })

async function fetchJson(url: string, options: RequestInit = {}): Promise<Record<string, unknown>> {
  try {
    const response = await fetch(url, { ...options, redirect: 'error', signal: AbortSignal.timeout(TIMEOUT_MS) })
    const text = (await response.text()).slice(0, 1 << 20)
    if (!response.ok) throw new Error(`${url} answered ${response.status}: ${text.slice(0, 200)}`)
    return JSON.parse(text) as Record<string, unknown>
  } catch (error) {
    throw unavailable(`The identity provider cannot be reached: ${reason(error)}`, { cause: error })
  }
}

/** The client of one provider: remembers its metadata and keys for some minutes. */
export interface OidcClient {
  provider: OidcProvider
  /** Claims of a bearer token. Throws unauthorized when it does not hold, unavailable when the provider cannot be asked. */
  bearer(token: string): Promise<OidcClaims>
  /** Where to send the browser, and what must be kept until it comes back. */
  authorizeUrl(redirectUri: string, state: string): Promise<{ url: string; nonce: string; verifier: string }>
  /** Claims of the ID token that a code is exchanged for. */
  exchange(code: string, redirectUri: string, nonce: string, verifier: string): Promise<OidcClaims>
}

/** Makes the client of a provider. */
export function oidcClient(provider: OidcProvider): OidcClient {
  let metadata: { at: number; value: Promise<Metadata> } | undefined
  let keys: { at: number; value: Promise<Map<string, KeyObject>> } | undefined

  function discover(): Promise<Metadata> {
    if (metadata && Date.now() - metadata.at < KEEP_MS) return metadata.value
    const value = fetchJson(`${provider.issuer.replace(/\/$/, '')}/.well-known/openid-configuration`).then(found => {
      if (found.issuer !== provider.issuer)
        throw unavailable(`The identity provider calls itself ${String(found.issuer)}, not ${provider.issuer}.`)
      return found as unknown as Metadata
    })
    metadata = { at: Date.now(), value }
    value.catch(() => {
      metadata = undefined
    })
    return value
  }

  function jwks(fresh: boolean): Promise<Map<string, KeyObject>> {
    const age = keys ? Date.now() - keys.at : Number.POSITIVE_INFINITY
    // A key that is not known may be new; but strangers must not make us ask all the time.
    if (keys && (age < 10_000 || (!fresh && age < KEEP_MS))) return keys.value
    const value = discover()
      .then(({ jwks_uri }) => fetchJson(jwks_uri))
      .then(set => {
        const list = (set.keys ?? []) as (JsonWebKey & { kid?: string; use?: string })[]
        const signing = list.filter(key => key.use === undefined || key.use === 'sig')
        return new Map(signing.map((key, at) => [key.kid ?? String(at), createPublicKey({ key, format: 'jwk' })]))
      })
    keys = { at: Date.now(), value }
    value.catch(() => {
      keys = undefined
    })
    return value
  }

  async function keyOf(kid: unknown): Promise<KeyObject> {
    for (const fresh of [false, true]) {
      const known = await jwks(fresh)
      const key = typeof kid === 'string' ? known.get(kid) : known.size === 1 ? [...known.values()][0] : undefined
      if (key) return key
    }
    throw refused('a token is signed by an unknown key')
  }

  /** Claims of a JWT: signature, issuer and times; the audience is the caller's. */
  async function verified(token: string): Promise<OidcClaims> {
    const [head, body, signature, more] = token.split('.')
    if (!head || !body || !signature || more !== undefined) throw refused('not a JWT')
    const header = decoded(head)
    const algorithm = Object.hasOwn(ALGORITHMS, String(header.alg)) ? ALGORITHMS[String(header.alg)]! : undefined
    if (!algorithm) throw refused(`signature algorithm ${String(header.alg)}`)
    const key = await keyOf(header.kid)
    if (key.asymmetricKeyType !== algorithm.type) throw refused('the key is of another type than the signature')
    const how = { key, dsaEncoding: 'ieee-p1363' as const, ...(algorithm.pss && { padding: 6, saltLength: -1 }) }
    if (!verify(algorithm.digest, Buffer.from(`${head}.${body}`), how, Buffer.from(signature, 'base64url')))
      throw refused('wrong signature')
    const claims = decoded(body)
    const now = Date.now() / 1000
    if (claims.iss !== provider.issuer) throw refused('wrong issuer')
    if (typeof claims.exp !== 'number' || claims.exp + LEEWAY < now) throw refused('expired')
    if (typeof claims.nbf === 'number' && claims.nbf - LEEWAY > now) throw refused('not valid yet')
    return claims
  }

  async function introspected(token: string): Promise<OidcClaims> {
    const { introspection_endpoint: endpoint } = await discover()
    if (!endpoint) throw refused('an opaque token, and the provider offers no introspection')
    const claims = await fetchJson(endpoint, {
      method: 'POST',
      headers: credentials(provider),
      body: new URLSearchParams({ token, token_type_hint: 'access_token' }),
    })
    if (claims.active !== true) throw refused('not active')
    if (claims.iss !== undefined && claims.iss !== provider.issuer) throw refused('wrong issuer')
    return { iss: provider.issuer, ...claims }
  }

  return {
    provider,
    async bearer(token) {
      const claims = token.split('.').length === 3 ? await verified(token) : await introspected(token)
      const wanted = provider.audience ?? provider.client_id
      const audiences = [claims.aud, ...(provider.audience ? [] : [claims.azp, claims.client_id])].flat()
      if (!audiences.includes(wanted)) throw refused('meant for somebody else')
      return claims
    },
    async authorizeUrl(redirectUri, state) {
      const { authorization_endpoint: endpoint } = await discover()
      if (!endpoint) throw unavailable('The identity provider offers no login by browser.')
      const [nonce, verifier] = [randomBytes(16).toString('base64url'), randomBytes(32).toString('base64url')]
      const url = new URL(endpoint)
      const parameters = {
        response_type: 'code',
        client_id: provider.client_id,
        redirect_uri: redirectUri,
        scope: provider.scope,
        state,
        nonce,
        code_challenge: createHash('sha256').update(verifier).digest('base64url'),
        code_challenge_method: 'S256',
      }
      for (const [name, value] of Object.entries(parameters)) url.searchParams.set(name, value)
      return { url: url.href, nonce, verifier }
    },
    async exchange(code, redirectUri, nonce, verifier) {
      const { token_endpoint: endpoint } = await discover()
      if (!endpoint) throw unavailable('The identity provider offers no token endpoint.')
      const body = new URLSearchParams({
        grant_type: 'authorization_code',
        code,
        redirect_uri: redirectUri,
        code_verifier: verifier,
        client_id: provider.client_id,
      })
      const answer = await fetchJson(endpoint, { method: 'POST', headers: credentials(provider), body })
      if (typeof answer.id_token !== 'string') throw refused('no ID token')
      const claims = await verified(answer.id_token)
      if (![claims.aud].flat().includes(provider.client_id)) throw refused('meant for somebody else')
      if (claims.nonce !== nonce) throw refused('an answer to another question')
      return claims
    },
  }
}

function credentials({ client_id, client_secret }: OidcProvider): Record<string, string> {
  if (client_secret === undefined) return {}
  const pair = `${encodeURIComponent(client_id)}:${encodeURIComponent(client_secret)}`
  return { authorization: `Basic ${Buffer.from(pair).toString('base64')}` }
}

function decoded(part: string): Record<string, unknown> {
  try {
    const value: unknown = JSON.parse(Buffer.from(part, 'base64url').toString('utf8'))
    if (typeof value === 'object' && value !== null) return value as Record<string, unknown>
  } catch (error) {
    throw refused(`not a JWT: ${reason(error)}`)
  }
  throw refused('not a JWT')
}

/** Claims as the attributes that mappings speak of. Nested objects are joined by dots. */
export function claimAttributes(claims: OidcClaims, prefix = ''): Record<string, string> {
  const attributes: Record<string, string> = {}
  for (const [name, value] of Object.entries(claims)) {
    const whole = prefix + name
    if (typeof value === 'object' && value !== null && !Array.isArray(value))
      Object.assign(attributes, claimAttributes(value as OidcClaims, `${whole}.`))
    else {
      const text = Array.isArray(value) ? value.map(String).join(';') : String(value)
      attributes[`OIDC-${whole}`] = text
      attributes[`HTTP_OIDC_${whole.toUpperCase().replaceAll('.', '_')}`] = text
    }
  }
  return attributes
}
