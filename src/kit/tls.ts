/**
 * The cloud's own certificate authority, for those who bring no certificates: ECDSA on P-256, X.509 v3 (RFC 5280) written as DER by hand,
 * since that is two pages and the libraries for it weigh more than the rest of the kit. Reading certificates is left to node:crypto.
 */
import {
  createHash,
  createPrivateKey,
  generateKeyPairSync,
  type KeyObject,
  randomBytes,
  sign,
  X509Certificate,
} from 'node:crypto'
import { isIP } from 'node:net'
import ipaddr from 'ipaddr.js'

/** A certificate and its private key, in PEM. */
export interface KeyPair {
  cert: string
  key: string
}

/** Makes a certificate authority, valid for twenty years, that may sign servers only (no further authorities). */
export function caCreate(name: string): KeyPair {
  const pair = keyPair()
  const id = keyId(pair.publicKey)
  return {
    key: pem(pair.privateKey),
    cert: certificate({
      subject: name,
      issuer: name,
      publicKey: pair.publicKey,
      signer: pair.privateKey,
      days: 20 * 365,
      extensions: [
        extension('2.5.29.19', true, seq(boolean(true), integer(Buffer.from([0])))), // basicConstraints: CA, path length 0
        extension('2.5.29.15', true, tag(0x03, Buffer.from([1, 0b00000110]))), // keyUsage: keyCertSign, cRLSign
        extension('2.5.29.14', false, tag(0x04, id)),
        extension('2.5.29.35', false, seq(tag(0x80, id))),
      ],
    }),
  }
}

/**
 * Issues a server certificate for these DNS names and IP addresses (at least one; the first is shown as its common name), valid for `days`
 * (825 unless given, the most that some clients take). The result's `cert` is the whole chain. Throws Error for an empty list.
 */
export function certIssue(ca: KeyPair, names: readonly string[], days = 825): KeyPair {
  const [first] = names
  if (first === undefined) throw new Error('a certificate needs a name')
  const authority = new X509Certificate(ca.cert)
  const pair = keyPair()
  return {
    key: pem(pair.privateKey),
    cert:
      certificate({
        subject: first,
        issuer: commonName(authority),
        publicKey: pair.publicKey,
        signer: createPrivateKey(ca.key),
        days,
        extensions: [
          extension('2.5.29.19', true, seq()),
          extension('2.5.29.15', true, tag(0x03, Buffer.from([7, 0b10000000]))), // keyUsage: digitalSignature
          extension('2.5.29.37', false, seq(oid('1.3.6.1.5.5.7.3.1'))), // extKeyUsage: serverAuth
          extension('2.5.29.17', false, seq(...names.map(alternativeName))),
          extension('2.5.29.14', false, tag(0x04, keyId(pair.publicKey))),
          extension('2.5.29.35', false, seq(tag(0x80, keyId(authority.publicKey)))),
        ],
      }) + ca.cert,
  }
}

/** Whether a certificate is good for all of these names and for so many days more. */
export function certCovers(cert: string, names: readonly string[], days: number): boolean {
  const x509 = new X509Certificate(cert)
  const named = names.every(name => (isIP(name) ? x509.checkIP(name) : x509.checkHost(name, { subject: 'never' })) !== undefined)
  return named && x509.validToDate.getTime() > Date.now() + days * 86_400_000
}

/** SHA-256 of a certificate's DER, base64url: what a join token carries so that a new host knows the right cloud. */
export function certFingerprint(cert: string): string {
  return createHash('sha256').update(new X509Certificate(cert).raw).digest('base64url')
}

interface Contents {
  subject: string
  issuer: string
  publicKey: KeyObject
  signer: KeyObject
  days: number
  extensions: Buffer[]
}

function certificate({ subject, issuer, publicKey, signer, days, extensions }: Contents): string {
  const algorithm = seq(oid('1.2.840.10045.4.3.2')) // ecdsa-with-SHA256
  const now = Date.now()
  const serial = randomBytes(16)
  serial[0] = (serial[0]! & 0x7f) | 0x40 // positive, and no leading zero
  const body = seq(
    tag(0xa0, integer(Buffer.from([2]))), // v3
    integer(serial),
    algorithm,
    nameOf(issuer),
    seq(time(now - 3_600_000), time(now + days * 86_400_000)), // an hour back: hosts' clocks differ
    nameOf(subject),
    publicKey.export({ type: 'spki', format: 'der' }),
    tag(0xa3, seq(...extensions)),
  )
  const signature = sign('sha256', body, signer)
  const der = seq(body, algorithm, tag(0x03, Buffer.concat([Buffer.from([0]), signature])))
  const lines = der.toString('base64').match(/.{1,64}/g)!
  return `-----BEGIN CERTIFICATE-----\n${lines.join('\n')}\n-----END CERTIFICATE-----\n`
}

const keyPair = () => generateKeyPairSync('ec', { namedCurve: 'P-256' })
const pem = (key: KeyObject): string => key.export({ type: 'pkcs8', format: 'pem' }) as string
/** RFC 5280 4.2.1.2: any hash that is unique will do. */
const keyId = (key: KeyObject): Buffer =>
  createHash('sha256')
    .update(key.export({ type: 'spki', format: 'der' }))
    .digest()
    .subarray(0, 20)
const commonName = (cert: X509Certificate): string => /^CN=(.*)$/m.exec(cert.subject)?.[1] ?? ''

// DER.

function tag(type: number, content: Buffer): Buffer {
  const size = content.length
  if (size < 0x80) return Buffer.concat([Buffer.from([type, size]), content])
  const bytes = size < 0x100 ? [0x81, size] : [0x82, size >> 8, size & 0xff]
  return Buffer.concat([Buffer.from([type, ...bytes]), content])
}

const seq = (...parts: Buffer[]): Buffer => tag(0x30, Buffer.concat(parts))
const integer = (bytes: Buffer): Buffer => tag(0x02, bytes)
const boolean = (value: boolean): Buffer => tag(0x01, Buffer.from([value ? 0xff : 0]))

function oid(text: string): Buffer {
  const [a, b, ...rest] = text.split('.').map(Number) as [number, number, ...number[]]
  const bytes = [a * 40 + b]
  for (const arc of rest) {
    const digits = [arc & 0x7f]
    for (let left = arc >> 7; left > 0; left >>= 7) digits.unshift((left & 0x7f) | 0x80)
    bytes.push(...digits)
  }
  return tag(0x06, Buffer.from(bytes))
}

const nameOf = (cn: string): Buffer => seq(tag(0x31, seq(oid('2.5.4.3'), tag(0x0c, Buffer.from(cn)))))

/** UTCTime to 2049, GeneralizedTime from then on (RFC 5280 4.1.2.5). */
function time(ms: number): Buffer {
  const digits = `${new Date(ms).toISOString().replace(/[-:T]|\.\d+Z/g, '')}Z`
  return new Date(ms).getUTCFullYear() < 2050 ? tag(0x17, Buffer.from(digits.slice(2))) : tag(0x18, Buffer.from(digits))
}

function extension(id: string, critical: boolean, value: Buffer): Buffer {
  return seq(oid(id), ...(critical ? [boolean(true)] : []), tag(0x04, value))
}

function alternativeName(name: string): Buffer {
  return isIP(name) ? tag(0x87, Buffer.from(ipaddr.parse(name).toByteArray())) : tag(0x82, Buffer.from(name))
}
