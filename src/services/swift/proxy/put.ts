/** PUT of an object: the client's bytes go to all replicas at once; a quorum of them makes it a success. */
import { checkLength, checkObjectCreation } from '../constraints.ts'
import { ecPut } from '../ec/put.ts'
import type { Call, Place } from '../http/client.ts'
import { answer, discard, type Headers, isTrue, type Req, type Res, readAll, refuse, reply } from '../http/message.ts'
import { SMALL_BODY } from '../object/put.ts'
import { quorum } from '../policies.ts'
import { handoffs, primaries, replicas } from '../ring/ring.ts'
import { httpDate, now } from '../timestamp.ts'
import { best, gather, inTurn, note, spares, tryAll } from './backend.ts'
import type { Cluster } from './cluster.ts'
import { type Feed, feed } from './feed.ts'
import { typeOf } from './mime.ts'
import { type ObjectAt, outgoing, perReplica } from './object.ts'

/** Stores an object. */
export async function putObject(cluster: Cluster, req: Req, at: ObjectAt): Promise<Res> {
  req.headers['x-timestamp'] ??= now()
  if (req.headers['if-none-match'] !== undefined && !req.headers['if-none-match'].includes('*'))
    return refuse(400, 'If-None-Match only supports *')
  if (!req.headers['content-type'] || isTrue(req.headers['x-detect-content-type'])) {
    req.headers['content-type'] = typeOf(at.object)
    delete req.headers['x-detect-content-type']
  }
  const bad = checkLength(req) ?? checkObjectCreation(req, at.object, cluster.limits)
  if (bad) return bad
  const n = replicas(at.policy.ring)
  const extra = await perReplica(cluster, req, at, n)
  const headers = outgoing(req)
  if (at.policy.code) return done(await ecPut(cluster, req, at, headers, extra), req)
  const path = `/${at.account}/${at.container}/${at.object}`
  const calls = extra.map(
    (own): Call => ({ method: 'PUT', path, headers: { ...headers, ...own }, length: req.length, footers: req.footers }),
  )
  if (isSmall(req)) return done(await whole(cluster, at, calls, await readAll(req.body)), req)
  const res =
    n === 1 && handoffs(at.policy.ring, at.partition).next().done
      ? await single(cluster, req, at, calls[0])
      : await spread(cluster, req, at, calls)
  return done(res, req)
}

/** A body that is taken in before any server is asked: nobody waits for a refusal before sending it. */
const isSmall = (req: Req): boolean =>
  req.length !== null &&
  req.length <= SMALL_BODY &&
  req.headers.expect === undefined &&
  req.headers['if-none-match'] === undefined

/** The same bytes to each server, a handoff in place of one that fails. */
async function whole(cluster: Cluster, at: ObjectAt, calls: Call[], body: Buffer): Promise<Res> {
  const all = calls.map(call => ({ ...call, body, length: body.length }))
  const results = await tryAll(cluster, 'object', at.policy.ring, at.partition, all)
  const newer = results.find(res => res.status === 409)
  return newer ?? best(results, calls.length)
}

/** The answer that the client sees. A conflict means that something newer is stored: accepted. */
function done(res: Res, req: Req): Res {
  if (res.status === 409) return refuse(202)
  if (res.status !== 201) return res
  const headers: Headers = { 'content-type': 'text/html; charset=UTF-8', 'last-modified': httpDate(req.headers['x-timestamp']) }
  if (res.headers.etag) headers.etag = res.headers.etag
  return reply(201, headers)
}

/** One device and no other to turn to: the body goes straight through. */
async function single(cluster: Cluster, req: Req, at: ObjectAt, call: Call): Promise<Res> {
  const place = primaries(at.policy.ring, at.partition)[0]
  const res = await cluster.dial(place, 'object', at.partition, { ...call, body: req.body })
  note(cluster, place, res)
  return res.status === 507 ? refuse(503) : res
}

export interface Slot {
  /** Which of the calls. */
  index: number
  feed: Feed
  result: Promise<Res>
  final: Res | null
  place: Place
}

/** Opens a connection to a place for each call, handoffs where primaries refuse. Slots that were answered at once have `final`. */
export async function connect(cluster: Cluster, at: ObjectAt, calls: Call[]): Promise<Slot[]> {
  const first = primaries(at.policy.ring, at.partition)
  const spare = spares(cluster, at.policy.ring, at.partition)
  const slots = await Promise.all(
    calls.map(async (call, i) => {
      for (const place of inTurn(cluster, first[i], spare)) {
        const slot = await open(cluster, at, call, place, i)
        if (!slot.final || slot.final.status < 500) return slot
        discard(slot.final)
      }
      return null
    }),
  )
  return slots.filter(slot => slot !== null)
}

async function open(cluster: Cluster, at: ObjectAt, call: Call, place: Place, index: number): Promise<Slot> {
  const pipe = feed()
  const ready = Promise.withResolvers<'ready'>()
  const result = cluster.dial(place, 'object', at.partition, { ...call, body: pipe, onReady: () => ready.resolve('ready') })
  const slot: Slot = { index, feed: pipe, result, final: null, place }
  result.then(
    res => {
      slot.final = res
      note(cluster, place, res)
      pipe.stop()
    },
    () => pipe.stop(),
  )
  await Promise.race([ready.promise, result])
  return slot
}

async function spread(cluster: Cluster, req: Req, at: ObjectAt, calls: Call[]): Promise<Res> {
  const slots = await connect(cluster, at, calls)
  const enough = quorum(calls.length)
  const early = slots.filter(slot => slot.final)
  if (early.some(slot => slot.final!.status === 412)) return abort(slots, refuse(412))
  if (early.some(slot => slot.final!.status === 409)) return abort(slots, refuse(409))
  if (slots.filter(slot => !slot.final).length < enough) {
    const refused = best(
      early.map(slot => slot.final!),
      calls.length,
    )
    return abort(slots, refused.status === 503 ? refuse(503) : refused)
  }
  try {
    if (req.body) {
      for await (const chunk of req.body) {
        const waits = slots.map(slot => slot.feed.push(chunk)).filter(wait => wait !== null)
        if (waits.length) await Promise.all(waits)
        if (slots.filter(slot => !slot.final).length < enough) break
      }
    }
  } catch (error) {
    return abort(slots, answer(error))
  }
  for (const slot of slots) slot.feed.end()
  const results = await gather(
    slots.map(slot => slot.result),
    enough,
    cluster.postQuorum,
  )
  const tags = new Set(results.filter(res => res.status === 201).map(res => res.headers.etag))
  if (tags.size > 1) return refuse(500)
  return best(results, calls.length)
}

/** Ends what was begun, leaving nothing on the servers. */
export function abort(slots: Slot[], res: Res): Res {
  for (const slot of slots) {
    if (!slot.final) slot.feed.fail(new Error('the client is gone or was refused'))
    slot.result.then(discard, () => {})
  }
  return res
}
