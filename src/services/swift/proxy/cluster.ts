/** What a proxy knows of its cluster. */
import type { Log } from '#kit/log.ts'
import type { Limits } from '../constraints.ts'
import type { HashSecrets } from '../hash.ts'
import type { Dialer, Place, Role } from '../http/client.ts'
import type { Headers, Info } from '../http/message.ts'
import type { Policy } from '../policies.ts'
import type { Ring } from '../ring/ring.ts'

export interface Cluster {
  accountRing: Ring
  containerRing: Ring
  policies: Policy[]
  secrets: HashSecrets
  dial: Dialer
  limits: Limits
  log: Log
  errors: ErrorLimiter
  infos: InfoCache
  /** Accounts make themselves on first use. */
  autocreate: boolean
  /** Places to try for one request, as a multiple of the replicas. */
  attempts: number
  /** Seconds that the rest may take once a quorum has answered. */
  postQuorum: number
  expirerDivisor: number
  /** `r1z2=100, r1=200`: places with lower numbers are asked first. */
  readAffinity: Record<string, number>
  region: string
  /** `X-Open-Expired: true` reads objects whose time has come, as long as they are there. */
  allowOpenExpired: boolean
}

export interface InfoCache {
  get(key: string): Info | undefined
  set(key: string, info: Info): void
  drop(key: string): void
}

/** Facts of accounts and containers, kept for a minute (an absence for six seconds), at most that many. */
export function infoCache(most = 100_000, seconds = 60): InfoCache {
  const kept = new Map<string, Info>()
  return {
    get(key) {
      const info = kept.get(key)
      if (!info) return undefined
      if (Date.now() - info.at < (info.status === 404 ? 6000 : seconds * 1000)) return info
      kept.delete(key)
      return undefined
    },
    set(key, info) {
      kept.delete(key)
      kept.set(key, info)
      if (kept.size > most) kept.delete(kept.keys().next().value!)
    },
    drop: key => void kept.delete(key),
  }
}

/** Puts places that failed often or are full last, for a while. */
export interface ErrorLimiter {
  limited(place: Place): boolean
  failed(place: Place, why: 'error' | 'full'): void
  /** It answers: whatever was held against it is forgotten. */
  succeeded(place: Place): void
}

/** After ten errors within a minute, or one 507, a place rests for that many seconds. */
export function errorLimiter(restSeconds = 15, most = 10): ErrorLimiter {
  const known = new Map<string, { count: number; last: number }>()
  const key = (place: Place): string => `${place.ip}:${place.port}/${place.device}`
  return {
    limited(place) {
      const entry = known.get(key(place))
      if (!entry) return false
      if (Date.now() - entry.last > restSeconds * 1000) {
        known.delete(key(place))
        return false
      }
      return entry.count > most
    },
    succeeded: place => void (known.size && known.delete(key(place))),
    failed(place, why) {
      const entry = known.get(key(place)) ?? { count: 0, last: 0 }
      entry.count += why === 'full' ? most + 1 : 1
      entry.last = Date.now()
      known.set(key(place), entry)
    },
  }
}

/** The header that addresses places for servers behind: hosts and devices, comma separated, given out in turn over `n` requests. */
export function share(places: Place[], n: number, name: 'account' | 'container' | 'delete-at', partition: number): Headers[] {
  const out: Headers[] = Array.from({ length: n }, () => ({}))
  for (const [i, place] of places.entries()) {
    const headers = out[i % n]
    const host = place.ip.includes(':') ? `[${place.ip}]:${place.port}` : `${place.ip}:${place.port}`
    headers[`x-${name}-partition`] = String(partition)
    headers[`x-${name}-host`] = headers[`x-${name}-host`] ? `${headers[`x-${name}-host`]},${host}` : host
    headers[`x-${name}-device`] = headers[`x-${name}-device`] ? `${headers[`x-${name}-device`]},${place.device}` : place.device
  }
  return out
}

export const ringOf = (cluster: Cluster, role: Exclude<Role, 'object'>): Ring =>
  role === 'account' ? cluster.accountRing : cluster.containerRing
