/** How an object lies in its fragments: segments of a fixed size, each coded by itself; fragment i is all pieces i one after another. */
import type { ErasureCode } from '../policies.ts'

export const EC = {
  etag: 'x-object-sysmeta-ec-etag',
  length: 'x-object-sysmeta-ec-content-length',
  index: 'x-object-sysmeta-ec-frag-index',
  scheme: 'x-object-sysmeta-ec-scheme',
  segment: 'x-object-sysmeta-ec-segment-size',
}

export const schemeOf = (code: ErasureCode): string => `rs_cauchy ${code.data}+${code.parity}`

/** Bytes of the piece of a segment of that size. */
export const pieceSize = (segment: number, code: Pick<ErasureCode, 'data'>): number => Math.ceil(segment / code.data)

/** Bytes of each fragment of an object of that size. */
export function fragmentSize(size: number, segment: number, code: Pick<ErasureCode, 'data'>): number {
  const whole = Math.floor(size / segment)
  return whole * pieceSize(segment, code) + pieceSize(size % segment, code)
}

export interface Span {
  /** Bytes of the object before the first segment needed. */
  before: number
  /** The part of each fragment that holds the segments needed, [from, to). */
  from: number
  to: number
  /** Bytes of each segment needed. */
  segments: number[]
}

/** What of the fragments holds the object's bytes [start, end). */
export function spanOf(start: number, end: number, size: number, segment: number, code: Pick<ErasureCode, 'data'>): Span {
  const first = Math.floor(start / segment)
  const last = Math.ceil(end / segment)
  const piece = pieceSize(segment, code)
  const segments: number[] = []
  for (let i = first; i < last; i++) segments.push(Math.min(segment, size - i * segment))
  return {
    before: first * segment,
    from: first * piece,
    to: first * piece + segments.reduce((sum, bytes) => sum + pieceSize(bytes, code), 0),
    segments,
  }
}
