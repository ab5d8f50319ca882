/** Public keys and certificates: reading, fingerprints, and making a pair (which the API did up to microversion 2.91). */
import { createHash, generateKeyPair, type KeyObject, webcrypto, X509Certificate } from 'node:crypto'
import { promisify } from 'node:util'
import { badRequest, type Fault, reason } from '#kit/fault.ts'

const invalid = (why: string, cause?: unknown): Fault => badRequest(`Keypair data is invalid: ${why}`, { cause })

/** How many length-prefixed fields follow the type in the key's bytes (RFC 4253 6.6, RFC 5656 3.1, RFC 8709, OpenSSH PROTOCOL.u2f). */
const FIELDS: Record<string, number> = {
  'ssh-rsa': 2,
  'ssh-dss': 4,
  'ssh-ed25519': 1,
  'ecdsa-sha2-nistp256': 2,
  'ecdsa-sha2-nistp384': 2,
  'ecdsa-sha2-nistp521': 2,
  'sk-ssh-ed25519@openssh.com': 2,
  'sk-ecdsa-sha2-nistp256@openssh.com': 3,
}

const colons = (hex: string): string => hex.match(/../g)!.join(':')

/** The MD5 fingerprint of an OpenSSH public key, as ssh-keygen -E md5 prints it. Throws badRequest for what is no such key. */
export function sshFingerprint(publicKey: string): string {
  const [type, data] = publicKey.trim().split(/\s+/)
  if (!type || !data || !/^[A-Za-z0-9+/]+={0,2}$/.test(data)) throw invalid('failed to generate fingerprint')
  const bytes = Buffer.from(data, 'base64')
  const fields = fieldsOf(bytes)
  if (!fields || fields[0]?.toString('latin1') !== type || FIELDS[type] !== fields.length - 1) {
    throw invalid('failed to generate fingerprint')
  }
  return colons(createHash('md5').update(bytes).digest('hex'))
}

function fieldsOf(bytes: Buffer): Buffer[] | null {
  const fields: Buffer[] = []
  let at = 0
  while (at < bytes.length) {
    if (at + 4 > bytes.length) return null
    const end = at + 4 + bytes.readUInt32BE(at)
    if (end > bytes.length) return null
    fields.push(bytes.subarray(at + 4, end))
    at = end
  }
  return fields
}

/** The SHA-1 fingerprint of a PEM certificate. Throws badRequest for what is none. */
export function x509Fingerprint(pem: string): string {
  try {
    return new X509Certificate(pem).fingerprint.toLowerCase()
  } catch (error) {
    throw invalid(`failed to generate X509 fingerprint. Error message: ${reason(error)}`, error)
  }
}

const field = (bytes: Buffer): Buffer => {
  const length = Buffer.alloc(4)
  length.writeUInt32BE(bytes.length)
  return Buffer.concat([length, bytes])
}

/** A big number as SSH writes it: no needless zeros, and one in front where the first bit would read as a sign. */
const mpint = (bytes: Buffer): Buffer => field(bytes[0]! >= 0x80 ? Buffer.concat([Buffer.alloc(1), bytes]) : bytes)

function sshPublicKey(key: KeyObject): string {
  const { n, e } = key.export({ format: 'jwk' })
  const bytes = Buffer.concat([
    field(Buffer.from('ssh-rsa')),
    mpint(Buffer.from(e!, 'base64url')),
    mpint(Buffer.from(n!, 'base64url')),
  ])
  return `ssh-rsa ${bytes.toString('base64')} Generated-by-Nova`
}

export interface MadeKey {
  publicKey: string
  privateKey: string
}

/** A new RSA key pair of 2048 bits; the private key in PEM. */
export async function makeSshKey(): Promise<MadeKey> {
  const { publicKey, privateKey } = await promisify(generateKeyPair)('rsa', { modulusLength: 2048 })
  return {
    publicKey: sshPublicKey(publicKey),
    privateKey: privateKey.export({ type: 'pkcs1', format: 'pem' }) as string,
  }
}

/** A new self-signed certificate for client sign-in by WinRM: the user's principal name stands in its alternative name. */
export async function makeCertificate(userId: string): Promise<MadeKey> {
  await import('reflect-metadata') // what @peculiar/x509 needs before it is loaded
  const x509 = await import('@peculiar/x509')
  const algorithm = { name: 'RSASSA-PKCS1-v1_5', hash: 'SHA-256', publicExponent: new Uint8Array([1, 0, 1]), modulusLength: 2048 }
  const keys = (await webcrypto.subtle.generateKey(algorithm, true, ['sign', 'verify'])) as webcrypto.CryptoKeyPair
  const certificate = await x509.X509CertificateGenerator.createSelfSigned(
    {
      name: `CN=${userId.replace(/[^A-Za-z0-9-]/g, '')}`,
      notBefore: new Date(),
      notAfter: new Date(Date.now() + 10 * 365 * 86_400_000),
      keys,
      signingAlgorithm: algorithm,
      extensions: [
        new x509.ExtendedKeyUsageExtension([x509.ExtendedKeyUsage.clientAuth]),
        new x509.SubjectAlternativeNameExtension([{ type: 'upn', value: `${userId}@localhost` }]),
      ],
    },
    webcrypto,
  )
  const der = Buffer.from(await webcrypto.subtle.exportKey('pkcs8', keys.privateKey))
  const lines = der
    .toString('base64')
    .match(/.{1,64}/g)!
    .join('\n')
  return {
    publicKey: certificate.toString('pem'),
    privateKey: `-----BEGIN PRIVATE KEY-----\n${lines}\n-----END PRIVATE KEY-----\n`,
  }
}
