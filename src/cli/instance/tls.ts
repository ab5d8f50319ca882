/** The certificate of an instance that others on the network reach: the operator's own, or one by the cloud's own authority. */
import { existsSync, readFileSync, writeFileSync } from 'node:fs'
import { hostname, networkInterfaces } from 'node:os'
import { join } from 'node:path'
import { caCreate, certCovers, certIssue, type KeyPair } from '#kit/tls.ts'
import type { Layout } from './layout.ts'

/** A certificate is made again when it has fewer days left. */
const RENEW_DAYS = 30

/**
 * The key and certificate to serve with: the operator's `tls.key` and `tls.crt` in the data folder when they are there, else made by the cloud's own
 * authority, whose certificate clients find in `ca.pem`.
 */
export function certificateEnsure(layout: Layout, host: string): KeyPair {
  const own = readPair(join(layout.data, 'tls.crt'), join(layout.data, 'tls.key'))
  if (own) return own
  const ca = pairEnsure(
    layout.ca,
    join(layout.agent, 'ca.key'),
    () => true,
    () => caCreate('Nubo cloud authority'),
  )
  const names = ownNames(host)
  return pairEnsure(
    join(layout.agent, 'server.crt'),
    join(layout.agent, 'server.key'),
    pair => certCovers(pair.cert, names, RENEW_DAYS),
    () => certIssue(ca, names),
  )
}

function readPair(certFile: string, keyFile: string): KeyPair | undefined {
  if (!existsSync(certFile) || !existsSync(keyFile)) return undefined
  return { cert: readFileSync(certFile, 'utf8'), key: readFileSync(keyFile, 'utf8') }
}

function pairEnsure(certFile: string, keyFile: string, good: (pair: KeyPair) => boolean, make: () => KeyPair): KeyPair {
  const known = readPair(certFile, keyFile)
  if (known && good(known)) return known
  const made = make()
  writeFileSync(keyFile, made.key, { mode: 0o600 })
  writeFileSync(certFile, made.cert, { mode: 0o644 })
  return made
}

/** Names and addresses under which this machine is reached; the one that was asked for first. */
function ownNames(host: string): string[] {
  const addresses = Object.values(networkInterfaces()).flatMap(list => (list ?? []).map(a => a.address.split('%')[0]!))
  const everywhere = host === '0.0.0.0' || host === '::'
  return [...new Set([...(everywhere ? [] : [host]), hostname(), 'localhost', '127.0.0.1', ...addresses])]
}
