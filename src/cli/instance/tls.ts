/** A certificate authority of the cloud's own, and a certificate of this machine by it: for an instance that others on the network reach. */
import { webcrypto } from 'node:crypto'
import { existsSync, readFileSync, writeFileSync } from 'node:fs'
import { hostname, networkInterfaces } from 'node:os'
import { join } from 'node:path'
import type * as X509 from '@peculiar/x509'
import type { Layout } from './layout.ts'

const ALGORITHM = { name: 'ECDSA', namedCurve: 'P-256', hash: 'SHA-256' }
const YEAR_MS = 365 * 24 * 3600 * 1000
/** A certificate is made again when it has less than this left, or lacks an address of this machine. */
const RENEW_MS = 30 * 24 * 3600 * 1000

/** Loaded when it is needed: it and the polyfill that it wants are slow to load, and most instances serve no TLS. */
async function library(): Promise<typeof X509> {
  await import('reflect-metadata')
  const x509 = await import('@peculiar/x509')
  x509.cryptoProvider.set(webcrypto as unknown as Parameters<typeof x509.cryptoProvider.set>[0])
  return x509
}

const pemOf = async (x509: typeof X509, key: webcrypto.CryptoKey): Promise<string> =>
  x509.PemConverter.encode(await webcrypto.subtle.exportKey('pkcs8', key), 'PRIVATE KEY')
const keyOf = (x509: typeof X509, pem: string): Promise<webcrypto.CryptoKey> =>
  webcrypto.subtle.importKey('pkcs8', x509.PemConverter.decodeFirst(pem), ALGORITHM, true, ['sign'])
const serial = (): string => Buffer.from(webcrypto.getRandomValues(new Uint8Array(12))).toString('hex')

/**
 * The key and certificate to serve with: the operator's own `tls.key` and `tls.crt` in the data folder when they are there, else made by the cloud's
 * own authority, whose certificate clients find in `ca.pem`.
 */
export async function certificateEnsure(layout: Layout, host: string): Promise<{ key: string; cert: string }> {
  const [keyFile, certFile] = [join(layout.data, 'tls.key'), join(layout.data, 'tls.crt')]
  if (existsSync(keyFile) && existsSync(certFile))
    return { key: readFileSync(keyFile, 'utf8'), cert: readFileSync(certFile, 'utf8') }
  const x509 = await library()
  const { caCert, caKey } = await authority(x509, layout)
  const names = ownNames(host)
  const keys = await webcrypto.subtle.generateKey(ALGORITHM, true, ['sign', 'verify'])
  const cert = await x509.X509CertificateGenerator.create({
    serialNumber: serial(),
    subject: `CN=${hostname()}`,
    issuer: caCert.subject,
    notBefore: new Date(Date.now() - 60_000),
    notAfter: new Date(Date.now() + YEAR_MS),
    publicKey: keys.publicKey,
    signingKey: caKey,
    signingAlgorithm: ALGORITHM,
    extensions: [
      new x509.SubjectAlternativeNameExtension(names),
      new x509.ExtendedKeyUsageExtension([x509.ExtendedKeyUsage.serverAuth]),
      new x509.BasicConstraintsExtension(false),
    ],
  })
  return { key: await pemOf(x509, keys.privateKey), cert: `${cert.toString('pem')}\n${caCert.toString('pem')}\n` }
}

/** Names and addresses under which this machine is reached. */
function ownNames(host: string): X509.JsonGeneralName[] {
  const addresses = Object.values(networkInterfaces()).flatMap(list => (list ?? []).map(a => a.address.split('%')[0]!))
  const isName = !/^[\d.]+$|:/.test(host)
  return [
    ...[...new Set([hostname(), 'localhost', ...(isName ? [host] : [])])].map(value => ({ type: 'dns' as const, value })),
    ...[...new Set([...addresses, '127.0.0.1', ...(isName ? [] : [host])])].map(value => ({ type: 'ip' as const, value })),
  ]
}

async function authority(
  x509: typeof X509,
  layout: Layout,
): Promise<{ caCert: X509.X509Certificate; caKey: webcrypto.CryptoKey }> {
  const keyFile = join(layout.agent, 'ca.key')
  if (existsSync(keyFile) && existsSync(layout.ca)) {
    const caCert = new x509.X509Certificate(readFileSync(layout.ca, 'utf8'))
    if (caCert.notAfter.getTime() - Date.now() > RENEW_MS)
      return { caCert, caKey: await keyOf(x509, readFileSync(keyFile, 'utf8')) }
  }
  const keys = await webcrypto.subtle.generateKey(ALGORITHM, true, ['sign', 'verify'])
  const caCert = await x509.X509CertificateGenerator.createSelfSigned({
    serialNumber: serial(),
    name: 'CN=Nubo cloud authority',
    notBefore: new Date(Date.now() - 60_000),
    notAfter: new Date(Date.now() + 10 * YEAR_MS),
    keys,
    signingAlgorithm: ALGORITHM,
    extensions: [
      new x509.BasicConstraintsExtension(true, 0, true),
      new x509.KeyUsagesExtension(x509.KeyUsageFlags.keyCertSign | x509.KeyUsageFlags.cRLSign, true),
    ],
  })
  writeFileSync(keyFile, await pemOf(x509, keys.privateKey), { mode: 0o600 })
  writeFileSync(layout.ca, `${caCert.toString('pem')}\n`, { mode: 0o644 })
  return { caCert, caKey: keys.privateKey }
}
