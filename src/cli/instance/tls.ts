/** The certificate of an instance that others on the network reach: the operator's own, or one by the cloud's own authority. */
import { existsSync, readFileSync, writeFileSync } from 'node:fs'
import { hostname, networkInterfaces } from 'node:os'
import { join } from 'node:path'
import { caCreate, certCovers, certIssue, type KeyPair } from '#kit/tls.ts'
import type { Layout } from './layout.ts'

/** A certificate is made again when it has fewer days left. */
const RENEW_DAYS = 30

/** What to serve with. */
export interface Certificate extends KeyPair {
  /** File of the authority that clients and hosts are to trust; absent where it is one that every machine knows. */
  ca?: string
}

/**
 * The operator's `tls.key` and `tls.crt` in the data folder when they are there (with `tls-ca.crt`, where their authority is not one that every
 * machine knows), else made by the cloud's own authority, whose certificate is `ca.pem`. Throws when one of the two is there alone.
 */
export function certificateEnsure(layout: Layout, host: string): Certificate {
  const at = (name: string): string => join(layout.data, name)
  const [crt, key] = [at('tls.crt'), at('tls.key')]
  const own = readPair(crt, key)
  if (own) return { ...own, ...(existsSync(at('tls-ca.crt')) && { ca: at('tls-ca.crt') }) }
  if (existsSync(crt) || existsSync(key)) throw new Error(`${crt} and ${key} belong together, and one of them is missing`)
  return { ...issued(layout, host), ca: layout.ca }
}

/** The file of the authority of an instance that serves TLS. */
export function authorityFile(layout: Layout): string {
  const own = join(layout.data, 'tls.crt')
  return existsSync(own) ? join(layout.data, 'tls-ca.crt') : layout.ca
}

function issued(layout: Layout, host: string): KeyPair {
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
