/** GET of an erasure-coded object: as many fragments as needed, from different servers, decoded segment by segment. */
import type { Place } from '../http/client.ts'
import { respond } from '../http/conditional.ts'
import { discard, type Headers, ok, type Req, type Res, refuse, type Stream } from '../http/message.ts'
import type { ErasureCode } from '../policies.ts'
import { note, places, read } from '../proxy/backend.ts'
import type { Cluster } from '../proxy/cluster.ts'
import type { ObjectAt } from '../proxy/object.ts'
import { EC, pieceSize, spanOf } from './layout.ts'
import { decode } from './reed-solomon.ts'

/** Finds the object by a HEAD, then gathers and decodes what the request asks for. */
export async function ecGet(cluster: Cluster, req: Req, at: ObjectAt, headers: Headers): Promise<Res> {
  const code = at.policy.code!
  const path = `/${at.account}/${at.container}/${at.object}`
  const plain: Headers = {}
  for (const name in headers) if (name !== 'range' && !name.startsWith('if-')) plain[name] = headers[name]
  const { res } = await read(cluster, 'object', at.policy.ring, at.partition, { method: 'HEAD', path, headers: plain }, true)
  discard(res)
  // the answer to a HEAD has the length of a page but not the page
  if (!ok(res.status))
    return refuse(
      res.status,
      undefined,
      res.headers['x-backend-timestamp'] ? { 'x-backend-timestamp': res.headers['x-backend-timestamp'] } : {},
    )
  if (res.headers[EC.etag] === undefined) return refuse(503)
  const size = Number(res.headers[EC.length])
  const segment = Number(res.headers[EC.segment])
  const shown: Headers = { ...res.headers, etag: res.headers[EC.etag] }
  const tag = (headers['x-backend-etag-is-at'] ?? '')
    .split(',')
    .map(name => res.headers[name.trim().toLowerCase()])
    .find(value => value !== undefined)
  const ignoreRange = (headers['x-backend-ignore-range-if-metadata-present'] ?? '')
    .split(',')
    .some(name => name.trim() && res.headers[name.trim().toLowerCase()] !== undefined)
  return respond(req, shown, {
    size,
    tag,
    ignoreRange,
    lastModified: Date.parse(res.headers['last-modified']) / 1000,
    open: (start, end) =>
      end > start
        ? decoded(
            { cluster, at, code, path, headers: plain, time: res.headers['x-backend-data-timestamp'] },
            start,
            end,
            size,
            segment,
          )
        : Buffer.alloc(0),
  })
}

export interface Source {
  cluster: Pick<Cluster, 'dial' | 'errors' | 'attempts' | 'readAffinity' | 'log'>
  at: Pick<ObjectAt, 'policy' | 'partition'>
  code: ErasureCode
  path: string
  headers: Headers
  /** Which version. */
  time: string
}

/** The bytes [start, end) of an object. */
function decoded(source: Source, start: number, end: number, size: number, segment: number): Stream {
  const span = spanOf(start, end, size, segment, source.code)
  const group = gather(source, span.from, span.to)
  const read = async function* (): AsyncGenerator<Buffer> {
    let at = span.before
    try {
      for (const bytes of span.segments) {
        const pieces = await group.next(pieceSize(bytes, source.code))
        const whole = Buffer.concat(decode(pieces, source.code.data)).subarray(0, bytes)
        yield whole.subarray(Math.max(0, start - at), Math.min(bytes, end - at))
        at += bytes
      }
    } finally {
      group.discard()
    }
  }
  return Object.assign(read(), { discard: () => group.discard() })
}

interface Fragment {
  index: number
  reader: { exactly(n: number): Promise<Buffer>; discard(): void }
}

export interface Group {
  /** The next piece of that size of each of as many fragments as are needed. Throws Error when too few are left. */
  next(size: number): Promise<Map<number, Buffer>>
  discard(): void
}

/** Reads the part [from, to) of enough fragments side by side; one that fails is replaced by another from where it stopped. */
export function gather(source: Source, from: number, to: number, skip: (place: Place) => boolean = () => false): Group {
  const { cluster, at, code } = source
  const open = new Map<number, Fragment>()
  const spent = new Set<number>()
  let position = from
  let iterator = places(cluster as Cluster, at.policy.ring, at.partition, false)
  let again = false
  const nextPlace = (): Place | null => {
    for (;;) {
      const next = iterator.next()
      if (!next.done) {
        if (!skip(next.value)) return next.value
      } else if (again) return null
      else {
        // fragments whose server was not told in time that they are durable
        again = true
        iterator = places(cluster as Cluster, at.policy.ring, at.partition, false)
      }
    }
  }
  const openOne = async (): Promise<boolean> => {
    for (let place = nextPlace(); place; place = nextPlace()) {
      const headers: Headers = { ...source.headers, 'x-backend-fragment-timestamp': source.time }
      if (again) headers['x-backend-no-durable'] = 'true'
      if (to > from) headers.range = `bytes=${position}-${to - 1}`
      const res = await cluster.dial(place, 'object', at.partition, { method: 'GET', path: source.path, headers })
      note(cluster as Cluster, place, res)
      const index = Number(res.headers[EC.index])
      if (
        !ok(res.status) ||
        !res.body ||
        res.headers['x-backend-data-timestamp'] !== source.time ||
        open.has(index) ||
        spent.has(index)
      ) {
        discard(res)
        continue
      }
      open.set(index, { index, reader: reader(res) })
      return true
    }
    return false
  }
  const fill = async (): Promise<void> => {
    while (open.size < code.data) {
      const opened = await Promise.all(Array.from({ length: code.data - open.size }, openOne))
      if (!opened.some(Boolean)) throw new Error(`only ${open.size} of ${code.data} fragments of ${source.path} can be read`)
    }
  }
  return {
    async next(size) {
      const pieces = new Map<number, Buffer>()
      for (;;) {
        await fill()
        await Promise.all(
          [...open.values()].map(async fragment => {
            if (pieces.has(fragment.index)) return
            try {
              pieces.set(fragment.index, await fragment.reader.exactly(size))
            } catch (error) {
              cluster.log.warn(
                { err: error, object: source.path, fragment: fragment.index },
                'a fragment failed while it was read',
              )
              fragment.reader.discard()
              open.delete(fragment.index)
              spent.add(fragment.index)
            }
          }),
        )
        if (pieces.size >= code.data) break
      }
      position += size
      return pieces
    },
    discard: () => {
      for (const fragment of open.values()) fragment.reader.discard()
    },
  }
}

function reader(res: Res): Fragment['reader'] {
  const { body } = res
  let held: Buffer = Buffer.isBuffer(body) ? body : Buffer.alloc(0)
  const iterator = body && !Buffer.isBuffer(body) ? body[Symbol.asyncIterator]() : null
  return {
    async exactly(n) {
      const parts: Buffer[] = []
      let bytes = 0
      while (bytes + held.length < n) {
        if (held.length) parts.push(held)
        bytes += held.length
        const next = iterator ? await iterator.next() : { done: true as const, value: undefined }
        if (next.done) throw new Error('the fragment ended early')
        held = next.value
      }
      parts.push(held.subarray(0, n - bytes))
      held = held.subarray(n - bytes)
      return parts.length === 1 ? parts[0] : Buffer.concat(parts)
    },
    discard: () => {
      if (iterator && body && !Buffer.isBuffer(body)) body.discard?.()
    },
  }
}
