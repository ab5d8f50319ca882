/** One body out of many objects: what static and dynamic large objects share. */
import {
  type App,
  discard,
  type Headers,
  ok,
  type Req,
  type Res,
  refuse,
  Stop,
  type Stream,
  subRequest,
} from '../../http/message.ts'

export interface Segment {
  /** `/container/object` in the account; absent for data in the manifest itself. */
  path?: string
  data?: Buffer
  /** ETag that the segment must have; null when unknown. */
  etag: string | null
  /** Bytes of the whole segment object. */
  size: number
  /** The part of it that counts, [first, end). */
  first: number
  end: number
  /** The segment is itself a static large object. */
  nested: boolean
}

export const lengthOf = (segments: Segment[]): number => segments.reduce((sum, segment) => sum + segment.end - segment.first, 0)

interface Wanted {
  segment: Segment
  from: number
  to: number
}

function within(segments: Segment[], start: number, end: number): Wanted[] {
  const out: Wanted[] = []
  let at = 0
  for (const segment of segments) {
    const size = segment.end - segment.first
    const from = Math.max(start - at, 0)
    const to = Math.min(end - at, size)
    if (from < to) out.push({ segment, from: segment.first + from, to: segment.first + to })
    at += size
  }
  return out
}

const PASSED = ['x-auth-token', 'x-storage-token', 'x-service-token', 'referer', 'x-newest', 'user-agent']

/** Opens one segment. Throws 409 when it is not what the manifest says. */
async function open(next: App, req: Req, account: string, wanted: Wanted, source: string): Promise<Stream | Buffer> {
  const { segment, from, to } = wanted
  if (segment.data) return segment.data.subarray(from, to)
  const headers: Headers = {}
  for (const name of PASSED) if (req.headers[name] !== undefined) headers[name] = req.headers[name]
  if (from !== 0 || to !== segment.size) headers.range = `bytes=${from}-${to - 1}`
  const query = new Map<string, string>()
  if (!segment.nested) query.set('multipart-manifest', 'get')
  const res = await next(subRequest(req, { method: 'GET', path: `/v1/${account}${segment.path}`, headers, query, source }))
  const tag = (res.headers['x-manifest-etag'] ?? res.headers.etag)?.replaceAll('"', '')
  const slo = res.headers.etag?.replaceAll('"', '')
  if (
    !ok(res.status) ||
    (segment.etag !== null && tag !== segment.etag && slo !== segment.etag) ||
    Number(res.headers['content-length']) !== to - from
  ) {
    discard(res)
    // whoever made a static manifest could read its segments; who cannot is told no more than that it does not hold together
    if (source === 'DLO' && (res.status === 401 || res.status === 403)) throw new Stop(refuse(res.status))
    req.env.logInfo.push(`segment ${segment.path} is not as the manifest says: ${res.status}`)
    throw new Stop(refuse(409))
  }
  return res.body ?? Buffer.alloc(0)
}

/** Opens the first segment, so that a broken manifest is refused rather than cut off, and answers how to read any part. */
export async function segmentedBody(
  next: App,
  req: Req,
  account: string,
  segments: Segment[],
  source: string,
): Promise<SegmentReader> {
  const probe = segments.find(segment => segment.path !== undefined && segment.end > segment.first)
  const read = (start: number, end: number, opened: Opened | null): Stream =>
    stream(next, req, account, within(segments, start, end), source, opened)
  if (!probe || req.method !== 'GET' || req.headers.range !== undefined) return { open: (start, end) => read(start, end, null) }
  const first = await open(next, req, account, { segment: probe, from: probe.first, to: probe.end }, source)
  return {
    open: (start, end) => read(start, end, start === 0 ? { segment: probe, body: first } : null),
    discard: () => {
      if (!Buffer.isBuffer(first)) first.discard?.()
    },
  }
}

export interface SegmentReader {
  open(start: number, end: number): Stream
  /** When `open` will not be called. */
  discard?(): void
}
interface Opened {
  segment: Segment
  body: Stream | Buffer
}

function stream(next: App, req: Req, account: string, list: Wanted[], source: string, opened: Opened | null): Stream {
  let current: Stream | Buffer | null = opened?.body ?? null
  const read = async function* (): AsyncGenerator<Buffer> {
    for (const wanted of list) {
      if (opened?.segment !== wanted.segment) current = await open(next, req, account, wanted, source)
      if (Buffer.isBuffer(current)) yield current
      else if (current) yield* current
    }
  }
  return Object.assign(read(), {
    discard: () => {
      if (current && !Buffer.isBuffer(current)) current.discard?.()
    },
  })
}

/** A response for a sub-request that failed, as a line of an error list. */
export const said = (res: Res): string => `${res.status} ${res.reason ?? ''}`.trim()
