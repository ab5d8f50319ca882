import { createHash, createHmac, timingSafeEqual } from 'node:crypto'
import { badRequest, notFound, unauthorized } from '#kit/fault.ts'
import { type Route, route } from '#kit/http/route.ts'
import { Object as ObjectSchema } from '#kit/http/schema.ts'
import { issue } from '../auth/authenticate.ts'
import { identityOf } from '../identity.ts'
import { tokenView } from '../tokens/token.ts'
import { ec2Find } from './credentials.ts'
import { ec2Proof, mismatch } from './signer.ts'

// A service that got a request signed with an EC2 secret asks us who that is. It passes the parts that were signed; we sign them
// again with the stored secret. `s3tokens` passes the text that was signed, ready made.

type Parts = Record<string, unknown>

const hmac = (algorithm: string, key: string | Buffer, data: string | Buffer): Buffer =>
  createHmac(algorithm, key).update(data).digest()

const quote = (text: string, safe: string): string =>
  [...Buffer.from(text)]
    .map(byte =>
      /[A-Za-z0-9_.~-]/.test(String.fromCharCode(byte)) || safe.includes(String.fromCharCode(byte))
        ? String.fromCharCode(byte)
        : `%${byte.toString(16).toUpperCase().padStart(2, '0')}`,
    )
    .join('')

/** The parameters in order, as AWS writes them. */
const query = (params: Record<string, string>): string =>
  Object.keys(params)
    .sort()
    .map(name => `${quote(name, '')}=${quote(params[name]!, '')}`)
    .join('&')

function textsOf(value: unknown): Record<string, string> {
  return Object.fromEntries(Object.entries((value ?? {}) as Parts).map(([name, one]) => [name, String(one)]))
}

/** The signature that the parts of an EC2 request should have; null when they cannot be signed. */
export function ec2Signature(parts: Parts, secret: string): string | null {
  const params = textsOf(parts.params)
  const [verb, host, path] = [String(parts.verb ?? ''), String(parts.host ?? ''), String(parts.path ?? '')]
  switch (params.SignatureVersion) {
    case '0':
      return hmac('sha1', secret, `${params.Action}${params.Timestamp}`).toString('base64')
    case '1': {
      const names = Object.keys(params).sort((a, b) => (a.toLowerCase() < b.toLowerCase() ? -1 : 1))
      return hmac('sha1', secret, names.map(name => name + params[name]).join('')).toString('base64')
    }
    case '2':
      return hmac('sha256', secret, `${verb}\n${host}\n${path}\n${query({ ...params, SignatureMethod: 'HmacSHA256' })}`).toString(
        'base64',
      )
    case undefined:
      return signatureV4(parts, params, verb, path, secret)
    default:
      return null
  }
}

function signatureV4(parts: Parts, params: Record<string, string>, verb: string, path: string, secret: string): string | null {
  const headers = textsOf(parts.headers)
  const { Authorization: authorization } = headers
  const fromHeader = authorization?.startsWith('AWS4-HMAC-SHA256')
  if (!fromHeader && params['X-Amz-Algorithm'] !== 'AWS4-HMAC-SHA256') return null
  const field = (name: string) =>
    (fromHeader ? new RegExp(`${name}=([^,]*)`).exec(authorization!)?.[1] : params[`X-Amz-${name}`]) ?? ''
  const [, date, region, service] = field('Credential').split('/')
  const at = headers['X-Amz-Date'] ?? params['X-Amz-Date']
  if (!date || !region || !service || !at?.startsWith(date)) return null
  const lower = Object.fromEntries(Object.entries(headers).map(([name, value]) => [name.toLowerCase().trim(), value.trim()]))
  const signed = field('SignedHeaders')
    .split(';')
    .filter(name => name in lower)
    .map(name => `${name}:${lower[name]}`)
  const canonical = [
    verb.toUpperCase(),
    path,
    verb.toUpperCase() === 'POST' ? '' : query(params),
    `${signed.join('\n')}\n`,
    field('SignedHeaders'),
    String(parts.body_hash ?? ''),
  ].join('\n')
  const scope = field('Credential').split('/').slice(1).join('/')
  const text = ['AWS4-HMAC-SHA256', at, scope, createHash('sha256').update(canonical).digest('hex')].join('\n')
  return hmac('sha256', keyV4(secret, date, region, service), text).toString('hex')
}

const keyV4 = (secret: string, date: string, region: string, service: string): Buffer =>
  hmac('sha256', hmac('sha256', hmac('sha256', hmac('sha256', `AWS4${secret}`, date), region), service), 'aws4_request')

/** The signature of an S3 request over the text that was signed (base64). */
export function s3Signature(token: string, secret: string): string | null {
  const text = Buffer.from(token, 'base64url')
  if (text.subarray(0, 4).toString() !== 'AWS4') return hmac('sha1', secret, text).toString('base64')
  const lines = text.toString().split('\n')
  const [date, region, service, end, more] = lines[2]?.split('/') ?? []
  if (lines.length !== 4 || lines[0] !== 'AWS4-HMAC-SHA256' || end !== 'aws4_request' || more !== undefined) return null
  if (!['s3', 'iam', 'sts'].includes(service!)) return null
  return hmac('sha256', keyV4(secret, date!, region!, service!), text).toString('hex')
}

const same = (a: string, b: string): boolean => {
  const [x, y] = [Buffer.from(a), Buffer.from(b)]
  return x.length === y.length && timingSafeEqual(x, y)
}

/** A request without a time is as good as its signature; one with a time only for some minutes. */
function timeCheck(parts: Parts, minutes: number): void {
  const [params, headers] = [textsOf(parts.params), textsOf(parts.headers)]
  const stamp = params.Timestamp ?? headers['X-Amz-Date'] ?? params['X-Amz-Date']
  if (stamp === undefined) return
  const basic = /^(\d{4})(\d\d)(\d\d)T(\d\d)(\d\d)(\d\d)Z$/.exec(stamp)
  const at = Date.parse(
    basic
      ? `${basic[1]}-${basic[2]}-${basic[3]}T${basic[4]}:${basic[5]}:${basic[6]}Z`
      : /Z|[+-]\d\d:\d\d$/.test(stamp)
        ? stamp
        : `${stamp}Z`,
  )
  if (Number.isNaN(at) || Date.now() > at + minutes * 60_000) throw unauthorized('Credential is expired')
}

const signedRoute = (path: string, rule: string, expected: (parts: Parts, secret: string) => string | null): Route =>
  route({
    method: 'POST',
    path,
    policy: `identity:${rule}`,
    policyTarget: () => ({}),
    body: ObjectSchema({}, { additionalProperties: true }),
    async handle(call) {
      const body = call.body as Parts
      const parts = (body.credentials ?? body.credential ?? body.ec2Credentials) as Parts | undefined
      if (typeof parts !== 'object' || parts === null) throw badRequest('Expecting to find credentials in the request.')
      if (typeof parts.access !== 'string' || typeof parts.signature !== 'string') throw mismatch()
      const found = await ec2Find(call.db, call.env, parts.access)
      if (!found) throw notFound('EC2 access key not found.')
      const wanted = expected(parts, String(found.blob.secret))
      if (wanted === null || !same(wanted, parts.signature)) throw mismatch()
      timeCheck(parts, identityOf(call.env).settings.credential.auth_ttl)
      const { proof, scope } = await ec2Proof(call.db, found)
      const { token, id } = await issue(call.env, proof, scope)
      if (path === '/ec2tokens') call.reply.headers['X-Subject-Token'] = id
      return { token: await tokenView(call.env, token, true) }
    },
  })

export const signedRoutes: Route[] = [
  signedRoute('/ec2tokens', 'ec2tokens_validate', (parts, secret) => {
    // Some clients sign the host without its port.
    const whole = ec2Signature(parts, secret)
    const host = String(parts.host ?? '')
    if (whole === null || same(whole, String(parts.signature)) || !host.includes(':')) return whole
    return ec2Signature({ ...parts, host: host.split(':')[0] }, secret)
  }),
  signedRoute('/s3tokens', 's3tokens_validate', (parts, secret) =>
    typeof parts.token === 'string' ? s3Signature(parts.token, secret) : null,
  ),
]
