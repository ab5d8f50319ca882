import { createHash } from 'node:crypto'
import type { TLSSocket } from 'node:tls'
import { Fault } from '#kit/fault.ts'
import { readBody } from '#kit/http/body.ts'
import { type Call, route } from '#kit/http/route.ts'
import { authenticate, issue } from '../auth/authenticate.ts'
import { type Rule, rulesApply } from '../federation/rules.ts'
import { identityOf } from '../identity.ts'

// OAuth 2.0 client credentials (RFC 6749, 4.4): an application credential's id and secret, or a client certificate that maps to the
// user (RFC 8705), for a bearer token. Errors have their own form: {"error", "error_description"}.

interface Failure {
  status: number
  error: string
  description: string
}

const invalidClient: Failure = { status: 401, error: 'invalid_client', description: 'Client authentication failed.' }

function basicOf(header: string | undefined): { id: string; secret: string } | null {
  const match = /^Basic\s+([A-Za-z0-9+/=]+)$/i.exec(header ?? '')
  if (!match) return null
  const [id, ...secret] = Buffer.from(match[1]!, 'base64').toString('utf8').split(':')
  return { id: id ?? '', secret: secret.join(':') }
}

/** Attributes of a certificate under the names that mappings use: SSL_CLIENT_SUBJECT_DN_CN, SSL_CLIENT_ISSUER_DN_O, … */
export function certificateAttributes(certificate: { subject: object; issuer: object }): Record<string, string> {
  const attributes: Record<string, string> = {}
  for (const [side, names] of [
    ['SUBJECT', certificate.subject],
    ['ISSUER', certificate.issuer],
  ] as const) {
    for (const [name, value] of Object.entries(names))
      attributes[`SSL_CLIENT_${side}_DN_${name.toUpperCase()}`] = [value].flat().join(';')
  }
  return attributes
}

async function bySecret(call: Call, id: string, secret: string) {
  try {
    return await authenticate(call.env, {
      identity: { methods: ['application_credential'], application_credential: { id, secret } },
    })
  } catch (error) {
    if (error instanceof Fault && error.status === 401) return invalidClient
    if (error instanceof Fault && error.status < 500) return { status: 400, error: 'invalid_request', description: error.message }
    throw error
  }
}

/** The user named by client_id, if the certificate's subject maps to exactly that user. */
async function byCertificate(call: Call, userId: string, certificate: { raw: Buffer; subject: object; issuer: object }) {
  const { oauth2 } = identityOf(call.env).settings
  const user = await call.db
    .selectFrom('keystone.users as u')
    .innerJoin('keystone.projects as d', 'd.id', 'u.domain_id')
    .select(['u.id', 'u.name', 'u.extra', 'u.domain_id', 'd.name as domain_name', 'u.default_project_id'])
    .where('u.id', '=', userId)
    .executeTakeFirst()
  const mapping = await call.db
    .selectFrom('keystone.mappings')
    .selectAll()
    .where('id', '=', oauth2.oauth2_cert_dn_mapping_id)
    .executeTakeFirst()
  if (!user?.default_project_id || !mapping) return invalidClient
  const mapped = rulesApply(mapping.rules as Rule[], certificateAttributes(certificate), mapping.schema_version).user
  const pairs: [string | undefined, unknown][] = [
    [mapped.id, user.id],
    [mapped.name, user.name],
    [mapped.email, user.extra.email],
    [mapped.domain?.id, user.domain_id],
    [mapped.domain?.name, user.domain_name],
  ]
  const named = pairs.some(([wanted]) => wanted !== undefined)
  if (!named || pairs.some(([wanted, actual]) => wanted !== undefined && wanted !== actual)) return invalidClient
  const thumbprint = createHash('sha256').update(certificate.raw).digest('base64url')
  return issue(call.env, { userId: user.id, methods: ['oauth2_credential'], thumbprint }, { projectId: user.default_project_id })
}

export const oauth2Route = route({
  method: 'POST',
  path: '/OS-OAUTH2/token',
  policy: null,
  auth: 'none',
  raw: true,
  async handle(call) {
    const form = new URLSearchParams((await readBody(call.stream as never, 65536)).toString('utf8'))
    const outcome = await exchange(call, form)
    call.reply.headers['Cache-Control'] = 'no-store'
    if ('error' in outcome) {
      call.reply.status = outcome.status
      if (outcome.status === 401) call.reply.headers['WWW-Authenticate'] = 'Keystone uri="/v3/OS-OAUTH2/token"'
      return { error: outcome.error, error_description: outcome.description }
    }
    return {
      access_token: outcome.id,
      token_type: 'Bearer',
      expires_in: Math.max(0, Math.floor(outcome.token.claims.expires - Date.now() / 1000)),
    }
  },
})

async function exchange(call: Call, form: URLSearchParams) {
  const grant = form.get('grant_type')
  if (grant === null) return { status: 400, error: 'invalid_request', description: 'The parameter grant_type is required.' }
  if (grant !== 'client_credentials')
    return { status: 400, error: 'unsupported_grant_type', description: `The parameter grant_type ${grant} is not supported.` }
  const methods = identityOf(call.env).settings.oauth2.oauth2_authn_methods
  const socket = (call.stream as unknown as { socket: TLSSocket }).socket
  const certificate = socket.authorized ? socket.getPeerCertificate() : undefined
  const basic = basicOf(call.headers.authorization)
  const id = basic?.id ?? form.get('client_id')
  const secret = basic?.secret ?? form.get('client_secret')
  if (!id) return invalidClient
  if (certificate?.raw && methods.includes('tls_client_auth')) return byCertificate(call, id, certificate)
  if (secret && methods.includes('client_secret_basic')) return bySecret(call, id, secret)
  return invalidClient
}
