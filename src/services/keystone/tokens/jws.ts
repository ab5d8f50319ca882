import { createPrivateKey, createPublicKey, generateKeyPairSync, type KeyObject, sign, verify } from 'node:crypto'
import { chmodSync, existsSync, mkdirSync, readdirSync, readFileSync, statSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import type { Claims } from './payload.ts'

// Tokens as JSON Web Signatures (RFC 7515): anyone who has the public key can check one, only the holder of the private key
// can make one. Claims are named as Keystone names them, so both sides read each other's. A private repository holds
// `private.pem`; a public repository holds any number of PEM files, all accepted.

/** Signature algorithms on offer: digest for node:crypto and the curve of a new key. */
export const JWS_ALGORITHMS = {
  ES256: { digest: 'sha256', curve: 'P-256' },
  ES384: { digest: 'sha384', curve: 'P-384' },
  ES512: { digest: 'sha512', curve: 'P-521' },
  EdDSA: { digest: null, curve: null },
} as const

export type JwsAlgorithm = keyof typeof JWS_ALGORITHMS

const encode = (value: unknown): string => Buffer.from(JSON.stringify(value)).toString('base64url')

const CLAIMS: [keyof Claims, string][] = [
  ['methods', 'openstack_methods'],
  ['auditIds', 'openstack_audit_ids'],
  ['system', 'openstack_system'],
  ['domainId', 'openstack_domain_id'],
  ['projectId', 'openstack_project_id'],
  ['trustId', 'openstack_trust_id'],
  ['idpId', 'openstack_idp_id'],
  ['protocolId', 'openstack_protocol_id'],
  ['accessTokenId', 'openstack_access_token_id'],
  ['appCredId', 'openstack_app_cred_id'],
  ['thumbprint', 'openstack_thumbprint'],
]

/** Signs `claims` with `key`. */
export function jwsSeal(key: KeyObject, algorithm: JwsAlgorithm, claims: Claims): string {
  const body: Record<string, unknown> = { sub: claims.userId, iat: claims.issued, exp: claims.expires }
  for (const [mine, theirs] of CLAIMS) if (claims[mine] !== undefined) body[theirs] = claims[mine]
  if (claims.groupIds !== undefined) body.openstack_group_ids = claims.groupIds.map(id => ({ id }))
  const signed = `${encode({ alg: algorithm, typ: 'JWT' })}.${encode(body)}`
  return `${signed}.${jwsSign(signed, key, algorithm).toString('base64url')}`
}

function jwsSign(text: string, key: KeyObject, algorithm: JwsAlgorithm): Buffer {
  return sign(JWS_ALGORITHMS[algorithm].digest, Buffer.from(text), { key, dsaEncoding: 'ieee-p1363' })
}

function fits(key: KeyObject, algorithm: JwsAlgorithm): boolean {
  if (algorithm === 'EdDSA') return key.asymmetricKeyType === 'ed25519'
  const curve = { ES256: 'prime256v1', ES384: 'secp384r1', ES512: 'secp521r1' }[algorithm]
  return key.asymmetricKeyType === 'ec' && key.asymmetricKeyDetails?.namedCurve === curve
}

/** Reads a token signed by the holder of any of `keys` under an accepted algorithm; else null. Expiry is the caller's. */
export function jwsOpen(keys: KeyObject[], accepted: readonly JwsAlgorithm[], token: string): Claims | null {
  const parts = token.split('.')
  if (parts.length !== 3) return null
  const [head, body, signature] = parts as [string, string, string]
  const algorithm = accepted.find(name => name === jsonOf(head)?.alg)
  if (!algorithm) return null
  const digest = JWS_ALGORITHMS[algorithm].digest
  const bytes = Buffer.from(signature, 'base64url')
  const text = Buffer.from(`${head}.${body}`)
  if (!keys.some(key => fits(key, algorithm) && verify(digest, text, { key, dsaEncoding: 'ieee-p1363' }, bytes))) return null
  return claimsOf(jsonOf(body))
}

function jsonOf(part: string): Record<string, unknown> | null {
  try {
    return JSON.parse(Buffer.from(part, 'base64url').toString('utf8')) as Record<string, unknown>
  } catch {
    return null
  }
}

function claimsOf(body: Record<string, unknown> | null): Claims | null {
  if (!body || typeof body.sub !== 'string' || !Array.isArray(body.openstack_audit_ids)) return null
  const claims: Record<string, unknown> = { userId: body.sub, issued: Number(body.iat), expires: Number(body.exp) }
  for (const [mine, theirs] of CLAIMS) if (body[theirs] !== undefined && body[theirs] !== null) claims[mine] = body[theirs]
  const groups = body.openstack_group_ids
  if (Array.isArray(groups)) claims.groupIds = groups.map((group: unknown) => (group as { id: string }).id)
  return claims as unknown as Claims
}

/** Makes `private/private.pem` and `public/public.pem` under `folder`, unless they exist. */
export function jwsSetup(privateFolder: string, publicFolder: string, algorithm: JwsAlgorithm): void {
  const file = join(privateFolder, 'private.pem')
  if (existsSync(file)) return
  const curve = JWS_ALGORITHMS[algorithm].curve
  const pair = curve ? generateKeyPairSync('ec', { namedCurve: curve }) : generateKeyPairSync('ed25519')
  mkdirSync(privateFolder, { recursive: true, mode: 0o700 })
  mkdirSync(publicFolder, { recursive: true, mode: 0o755 })
  writeFileSync(file, pair.privateKey.export({ type: 'pkcs8', format: 'pem' }), { mode: 0o600 })
  chmodSync(file, 0o600)
  writeFileSync(join(publicFolder, 'public.pem'), pair.publicKey.export({ type: 'spki', format: 'pem' }))
}

/** The keys of a pair of repositories, read again when a folder changes (looked at once a second at most). */
export function jwsKeys(privateFolder: string, publicFolder: string): () => { signing: KeyObject; checking: KeyObject[] } {
  let keys: { signing: KeyObject; checking: KeyObject[] } | undefined
  let seen = ''
  let checked = Number.NEGATIVE_INFINITY
  return () => {
    const now = performance.now()
    if (keys && now - checked < 1000) return keys
    checked = now
    const mark = [privateFolder, publicFolder].map(folder => statSync(folder).mtimeMs).join(':')
    if (keys && mark === seen) return keys
    seen = mark
    const checking = readdirSync(publicFolder).map(name => createPublicKey(readFileSync(join(publicFolder, name))))
    keys = { signing: createPrivateKey(readFileSync(join(privateFolder, 'private.pem'))), checking }
    return keys
  }
}
