/** Conditional and range requests over anything of known size (RFC 9110, with Swift's limits on abusive ranges). */
import { randomBytes } from 'node:crypto'
import { type Body, type Headers, type Req, type Res, refuse, reply, type Stream } from './message.ts'

export type Range = [start: number | null, end: number | null]

/** The ranges of a `Range` header: first and last byte, null for an open end. Null when the header is to be ignored. */
export function parseRange(header: string | undefined): Range[] | null {
  if (header === undefined) return null
  const match = /^\s*bytes\s*=(.*)$/i.exec(header)
  if (!match) return null
  const ranges: Range[] = []
  for (const piece of match[1].split(',')) {
    const bounds = /^\s*(\d*)\s*-\s*(\d*)\s*$/.exec(piece)
    if (!bounds) return null
    const start = bounds[1] ? Number(bounds[1]) : null
    const end = bounds[2] ? Number(bounds[2]) : null
    if (start === null && end === null) return null
    if (start !== null && end !== null && start > end) return null
    ranges.push([start, end])
  }
  return ranges.length ? ranges : null
}

/** The ranges as [start, end) within that many bytes: null to send all, an empty list for 416. */
export function rangesFor(ranges: Range[] | null, size: number): [number, number][] | null {
  if (!ranges) return null
  const out: [number, number][] = []
  for (const [start, end] of ranges) {
    if (start === null) {
      if (end === 0) continue
      out.push([Math.max(0, size - end!), size])
    } else if (end === null) {
      if (start < size) out.push([start, size])
    } else if (start < size) out.push([start, Math.min(end + 1, size)])
  }
  if (size === 0) return []
  if (out.length <= 1) return out
  if (out.length > 50) return []
  let overlaps = 0
  let descents = 0
  for (let i = 1; i < out.length; i++) {
    if (out[i][0] < out[i - 1][0]) descents += 1
    if (out.slice(0, i).some(([from, to]) => from < out[i][1] && out[i][0] < to)) overlaps += 1
  }
  return descents >= 8 || overlaps > 2 ? [] : out
}

/** True when the header (a list of entity tags, or `*`) names the tag. Weak marks are ignored as Swift does. */
export function tagMatches(header: string, etag: string): boolean {
  for (const piece of header.split(',')) {
    const tag = piece.trim().replace(/^W\//, '').replace(/^"|"$/g, '')
    if (tag === '*' || (tag && tag === etag.replace(/^"|"$/g, ''))) return true
  }
  return false
}

/** The status that the conditions of a request ask for instead of the object: 304, 412, or null. `etag` without quotes. */
export function condition(headers: Headers, etag: string | null, lastModified: number | null): 304 | 412 | null {
  const noneMatch = headers['if-none-match']
  if (noneMatch !== undefined && etag !== null && tagMatches(noneMatch, etag)) return 304
  const match = headers['if-match']
  if (match !== undefined && etag !== null && !tagMatches(match, etag)) return 412
  if (lastModified === null) return null
  const modifiedSince = Date.parse(headers['if-modified-since'] ?? '')
  if (!Number.isNaN(modifiedSince) && lastModified * 1000 <= modifiedSince) return 304
  const unmodifiedSince = Date.parse(headers['if-unmodified-since'] ?? '')
  if (!Number.isNaN(unmodifiedSince) && lastModified * 1000 > unmodifiedSince) return 412
  return null
}

export interface Source {
  size: number
  /** What conditions compare with, when it is not the `etag` header. */
  tag?: string | null
  /** Whole seconds since 1970. */
  lastModified: number | null
  /** The bytes from `start` up to (not with) `end`. */
  open(start: number, end: number): Body
  /** Called when `open` will not be. */
  discard?(): void
  /** Answer everything with 200 and all bytes, whatever `Range` says. */
  ignoreRange?: boolean
}

/** The answer to a GET or HEAD of a source with these headers: 200, 206, 304, 412 or 416. */
export function respond(req: Req, headers: Headers, source: Source): Res {
  const refused = condition(req.headers, source.tag ?? headers.etag ?? null, source.lastModified)
  if (refused) {
    source.discard?.()
    return { status: refused, headers: { ...headers, 'accept-ranges': 'bytes', 'content-length': '0' }, body: null }
  }
  const ranges = req.method === 'GET' && !source.ignoreRange ? rangesFor(parseRange(req.headers.range), source.size) : null
  if (ranges?.length === 0) {
    source.discard?.()
    const page = refuse(416)
    const kept = { ...headers }
    delete kept['content-type']
    delete kept['content-length']
    return reply(416, { ...kept, ...page.headers, 'content-range': `bytes */${source.size}` }, page.body)
  }
  const all: Headers = { ...headers, 'accept-ranges': 'bytes' }
  if (!ranges) {
    all['content-length'] = String(source.size)
    if (req.method === 'HEAD') {
      source.discard?.()
      return { status: 200, headers: all, body: null }
    }
    return { status: 200, headers: all, body: source.open(0, source.size) }
  }
  if (ranges.length === 1) {
    const [start, end] = ranges[0]
    all['content-length'] = String(end - start)
    all['content-range'] = `bytes ${start}-${end - 1}/${source.size}`
    return { status: 206, headers: all, body: source.open(start, end) }
  }
  return multipart(all, ranges, source)
}

function multipart(headers: Headers, ranges: [number, number][], source: Source): Res {
  const boundary = randomBytes(16).toString('hex')
  const type = headers['content-type'] ?? 'application/octet-stream'
  const heads = ranges.map(
    ([start, end]) => `--${boundary}\r\nContent-Type: ${type}\r\nContent-Range: bytes ${start}-${end - 1}/${source.size}\r\n\r\n`,
  )
  const last = `--${boundary}--`
  const length =
    ranges.reduce((sum, [start, end], i) => sum + Buffer.byteLength(heads[i], 'latin1') + (end - start) + 2, 0) + last.length
  const body = async function* (): AsyncGenerator<Buffer> {
    for (const [i, [start, end]] of ranges.entries()) {
      yield Buffer.from(heads[i], 'latin1')
      const part = source.open(start, end)
      if (Buffer.isBuffer(part)) yield part
      else if (part) yield* part
      yield Buffer.from('\r\n')
    }
    yield Buffer.from(last)
  }
  const stream: Stream = Object.assign(body(), { discard: source.discard })
  return {
    status: 206,
    headers: { ...headers, 'content-type': `multipart/byteranges;boundary=${boundary}`, 'content-length': String(length) },
    body: stream,
  }
}
