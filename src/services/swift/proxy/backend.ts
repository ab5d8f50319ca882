/** One request to the servers that hold a partition: reads take the first good answer, writes want a quorum. */
import type { Call, Place, Role } from '../http/client.ts'
import { discard, type Headers, ok, type Res, refuse } from '../http/message.ts'
import { quorum } from '../policies.ts'
import { handoffs, primaries, type Ring, replicas } from '../ring/ring.ts'
import type { Cluster } from './cluster.ts'

/** Places to try in order: primaries (near ones first, else at random), then handoffs; primaries that failed lately come last. */
export function* places(cluster: Cluster, ring: Ring, partition: number, shuffle: boolean): Generator<Place> {
  let first = primaries(ring, partition)
  let left = cluster.attempts * replicas(ring)
  if (shuffle && first.length > 1) first = sorted(cluster, first)
  const resting: Place[] = []
  for (const place of first) {
    left -= 1
    if (cluster.errors.limited(place)) resting.push(place)
    else yield place
  }
  for (const place of handoffs(ring, partition)) {
    if (left <= 0) break
    if (cluster.errors.limited(place)) continue
    left -= 1
    yield place
  }
  yield* resting
}

function sorted(cluster: Cluster, list: Place[]): Place[] {
  const rank = (place: Place): number =>
    cluster.readAffinity[`r${place.region}z${place.zone}`] ?? cluster.readAffinity[`r${place.region}`] ?? Number.POSITIVE_INFINITY
  return list
    .map(place => ({ place, rank: rank(place), dice: Math.random() }))
    .sort((a, b) => (a.rank === b.rank ? a.dice - b.dice : a.rank < b.rank ? -1 : 1))
    .map(({ place }) => place)
}

/** Tells the error limiter what an answer says about its place. */
export function note(cluster: Cluster, place: Place, res: Res): void {
  if (res.status === 507) cluster.errors.failed(place, 'full')
  else if (res.status >= 500 && res.status !== 501 && res.status !== 529) cluster.errors.failed(place, 'error')
  else cluster.errors.succeeded(place)
}

const settled = (status: number): boolean => ok(status) || status === 304 || status === 412 || status === 416

/**
 * A GET or HEAD of what a partition holds. The first good answer; with `newest` the one with the latest `X-Backend-Timestamp`.
 * 404 when enough places say so, 503 when too many could not say.
 */
export async function read(
  cluster: Cluster,
  role: Role,
  ring: Ring,
  partition: number,
  call: Call,
  newest = false,
): Promise<{ res: Res; place: Place | null; rest: Iterator<Place> }> {
  const iterator = places(cluster, ring, partition, true)
  const statuses: number[] = []
  let best: { res: Res; place: Place } | null = null
  let missing: Res | null = null
  let newestGone = ''
  for (let next = iterator.next(); !next.done; next = iterator.next()) {
    const place = next.value
    const res = await cluster.dial(place, role, partition, call)
    note(cluster, place, res)
    if (settled(res.status)) {
      if (!newest && !(res.headers['x-backend-timestamp'] && res.headers['x-backend-timestamp'] < newestGone)) {
        if (best) discard(best.res)
        return { res, place, rest: iterator }
      }
      if (!best || stampOf(res) > stampOf(best.res)) {
        if (best) discard(best.res)
        best = { res, place }
      } else discard(res)
      statuses.push(res.status)
      if (newest && statuses.length >= replicas(ring)) break
      continue
    }
    if (res.status === 404) {
      const gone = res.headers['x-backend-timestamp'] ?? ''
      if (gone > newestGone) newestGone = gone
      if (!place.handoff || gone) statuses.push(404)
      if (!missing || gone) missing = res
      continue
    }
    discard(res)
    statuses.push(place.handoff ? 0 : 503)
  }
  if (best && stampOf(best.res) >= newestGone) return { ...best, rest: iterator }
  if (best) discard(best.res)
  const gone = statuses.filter(status => status === 404).length
  if (missing && (gone >= quorum(replicas(ring)) || newestGone)) return { res: missing, place: null, rest: iterator }
  return { res: refuse(503), place: null, rest: iterator }
}

const stampOf = (res: Res): string => res.headers['x-backend-timestamp'] ?? res.headers['x-timestamp'] ?? ''

/** The same write to every replica, headers of its own for each; a handoff in place of a failing primary. The best answer of all. */
export const write = async (cluster: Cluster, role: Role, ring: Ring, partition: number, calls: Call[]): Promise<Res> =>
  best(await tryAll(cluster, role, ring, partition, calls), calls.length)

/** The answers to it that a quorum waits for. */
export function tryAll(cluster: Cluster, role: Role, ring: Ring, partition: number, calls: Call[]): Promise<Res[]> {
  const first = primaries(ring, partition)
  const spare = spares(cluster, ring, partition)
  const slots = calls.map((call, i) => attempt(cluster, role, partition, call, first[i], spare))
  return gather(slots, quorum(calls.length), cluster.postQuorum)
}

/** Gives out the handoffs of a partition, each once. */
export function spares(cluster: Cluster, ring: Ring, partition: number): () => Place | null {
  const iterator = handoffs(ring, partition)
  let left = (cluster.attempts - 1) * replicas(ring)
  return () => {
    while (left > 0) {
      const next = iterator.next()
      if (next.done) return null
      left -= 1
      if (!cluster.errors.limited(next.value)) return next.value
    }
    return null
  }
}

async function attempt(
  cluster: Cluster,
  role: Role,
  partition: number,
  call: Call,
  primary: Place,
  spare: () => Place | null,
): Promise<Res> {
  let last: Res = refuse(503)
  for (const place of inTurn(cluster, primary, spare)) {
    const res = await cluster.dial(place, role, partition, call)
    note(cluster, place, res)
    if (res.status < 500) return res
    discard(res)
    last = { ...res, body: null }
  }
  return last
}

/** A primary and the spare places behind it; a primary that failed lately is asked only when there is no other. */
export function* inTurn(cluster: Cluster, primary: Place | undefined, spare: () => Place | null): Generator<Place> {
  const resting = primary !== undefined && cluster.errors.limited(primary)
  if (primary && !resting) yield primary
  for (let place = spare(); place; place = spare()) yield place
  if (primary && resting) yield primary
}

/** Waits for all, or for a quorum of one class of answers and a little longer. Answers what has come. */
export function gather(slots: Promise<Res>[], enough: number, afterwards: number): Promise<Res[]> {
  return new Promise((resolve, reject) => {
    const got: Res[] = []
    let timer: NodeJS.Timeout | undefined
    const done = (): void => {
      clearTimeout(timer)
      resolve(got)
    }
    for (const slot of slots) {
      slot.then(res => {
        got.push(res)
        if (got.length === slots.length) return done()
        if (!timer && classes(got).some(([, list]) => list.length >= enough)) timer = setTimeout(done, afterwards * 1000)
      }, reject)
    }
  })
}

const classes = (list: Res[]): [number, Res[]][] => {
  const by = new Map<number, Res[]>()
  for (const res of list) {
    const kind = Math.floor(res.status / 100)
    if (kind === 5) continue
    by.set(kind, [...(by.get(kind) ?? []), res])
  }
  return [...by]
}

/** The answer for the client: of the class that a quorum gave, the status given most often; else 503. */
export function best(list: Res[], slots: number): Res {
  const enough = quorum(slots)
  const chosen = classes(list)
    .sort(([a], [b]) => a - b)
    .find(([, group]) => group.length >= enough)
  if (!chosen) return refuse(503)
  const counts = new Map<number, number>()
  for (const res of chosen[1]) counts.set(res.status, (counts.get(res.status) ?? 0) + 1)
  const status = [...counts].sort((a, b) => b[1] - a[1] || b[0] - a[0])[0][0]
  const winner = chosen[1].find(res => res.status === status)!
  for (const res of list) if (res !== winner) discard(res)
  return winner
}

/** Headers that every call to a server behind carries. */
export const backendHeaders = (transId: string, timestamp: string | null, extra: Headers = {}): Headers => ({
  'x-trans-id': transId,
  ...(timestamp ? { 'x-timestamp': timestamp } : {}),
  ...extra,
})
