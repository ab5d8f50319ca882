/**
 * PUT of an erasure-coded object, in two steps: all fragments are stored but count for nothing; when enough of them are (one more than is
 * needed to read it), each server is told that its fragment is durable. A proxy that dies in between leaves the old object.
 */
import { createHash } from 'node:crypto'
import type { Call, Place } from '../http/client.ts'
import { answer, discard, type Headers, ok, type Req, type Res, refuse, reply } from '../http/message.ts'
import { best, gather } from '../proxy/backend.ts'
import type { Cluster } from '../proxy/cluster.ts'
import type { ObjectAt } from '../proxy/object.ts'
import { abort, connect, type Slot } from '../proxy/put.ts'
import { EC, schemeOf } from './layout.ts'
import { encode } from './reed-solomon.ts'

/** Codes the body into fragments and stores each on its device. */
export async function ecPut(cluster: Cluster, req: Req, at: ObjectAt, headers: Headers, extra: Headers[]): Promise<Res> {
  const code = at.policy.code!
  const enough = code.data + Math.min(1, code.parity)
  const path = `/${at.account}/${at.container}/${at.object}`
  const sum = createHash('md5')
  let size = 0
  let etag = ''
  const footers = (): Headers => {
    const given = req.footers?.() ?? {}
    return {
      ...given,
      [EC.etag]: etag,
      [EC.length]: String(size),
      'x-object-sysmeta-container-update-override-size': String(size),
      'x-object-sysmeta-container-update-override-etag':
        given['x-object-sysmeta-container-update-override-etag'] ??
        headers['x-object-sysmeta-container-update-override-etag'] ??
        etag,
    }
  }
  const base: Headers = {
    ...headers,
    [EC.scheme]: schemeOf(code),
    [EC.segment]: String(code.segmentSize),
    'x-backend-no-commit': 'true',
  }
  delete base.etag
  const calls = extra.map(
    (own, index): Call => ({
      method: 'PUT',
      path,
      headers: { ...base, ...own, 'x-backend-fragment-index': String(index), [EC.index]: String(index) },
      length: null,
      footers,
    }),
  )
  const slots = await connect(cluster, at, calls)
  const early = slots.filter(slot => slot.final)
  if (early.some(slot => slot.final!.status === 412)) return abort(slots, refuse(412))
  if (early.some(slot => slot.final!.status === 409)) return abort(slots, refuse(409))
  if (slots.filter(slot => !slot.final).length < enough) return abort(slots, refuse(503))
  const byIndex = new Map(slots.map(slot => [slot.index, slot]))
  const push = async (segment: Buffer): Promise<void> => {
    const waits: Promise<void>[] = []
    for (const [index, piece] of encode(segment, code.data, code.parity).entries()) {
      const wait = byIndex.get(index)?.feed.push(piece)
      if (wait) waits.push(wait)
    }
    await Promise.all(waits)
  }
  try {
    for await (const segment of segments(req.body, code.segmentSize)) {
      sum.update(segment)
      size += segment.length
      await push(segment)
      if (slots.filter(slot => !slot.final).length < enough) return abort(slots, refuse(503))
    }
  } catch (error) {
    return abort(slots, answer(error))
  }
  etag = sum.digest('hex')
  if (req.length !== null && size !== req.length) return abort(slots, refuse(499))
  const asked = (req.footers?.().etag ?? req.headers.etag)?.replace(/^"|"$/g, '').toLowerCase()
  if (asked && asked !== etag) return abort(slots, refuse(422))
  for (const slot of slots) slot.feed.end()
  const results = await Promise.all(slots.map(slot => slot.result))
  for (const res of results) discard(res)
  const stored = slots.filter((_, i) => results[i].status === 201)
  if (stored.length < enough) {
    if (results.filter(res => res.status === 409).length) return refuse(409)
    return refuse(503)
  }
  return commitAll(cluster, at, req, path, stored, enough, extra, etag)
}

async function commitAll(
  cluster: Cluster,
  at: ObjectAt,
  req: Req,
  path: string,
  stored: Slot[],
  enough: number,
  extra: Headers[],
  etag: string,
): Promise<Res> {
  const commits = stored.map(async (slot): Promise<Res> => {
    const res = await cluster.dial(slot.place as Place, 'object', at.partition, {
      method: 'COMMIT',
      path,
      headers: {
        ...extra[slot.index],
        'x-timestamp': req.headers['x-timestamp'],
        'x-backend-fragment-index': String(slot.index),
        'x-trans-id': req.env.transId,
      },
    })
    discard(res)
    return res
  })
  const results = await gather(commits, enough, cluster.postQuorum)
  if (results.filter(res => ok(res.status)).length >= enough) return reply(201, { etag })
  return best(results, stored.length).status === 503 ? refuse(503) : refuse(503)
}

/** The body in segments of that size, the last one shorter. */
async function* segments(body: AsyncIterable<Buffer> | null, size: number): AsyncGenerator<Buffer> {
  if (!body) return
  let held: Buffer[] = []
  let bytes = 0
  for await (const chunk of body) {
    held.push(chunk)
    bytes += chunk.length
    if (bytes < size) continue
    let all = Buffer.concat(held)
    while (all.length >= size) {
      yield all.subarray(0, size)
      all = all.subarray(size)
    }
    held = all.length ? [all] : []
    bytes = all.length
  }
  if (bytes) yield Buffer.concat(held)
}
