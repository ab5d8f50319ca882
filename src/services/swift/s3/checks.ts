/** What a request says of its body beside the signature: SHA-256, MD5, checksums in headers or trailers. And headers that are not supported. */
import { createHash } from 'node:crypto'
import { crc32 } from 'node:zlib'
import type { Headers, Req } from '../http/message.ts'
import { S3Error } from './errors.ts'

interface Sum {
  update(bytes: Buffer): void
  digest(): Buffer
}

const ofHash = (name: string) => (): Sum => {
  const hash = createHash(name)
  return { update: bytes => void hash.update(bytes), digest: () => hash.digest() }
}
const ofNumber = (add: (bytes: Buffer, sum: number) => number) => (): Sum => {
  let sum = 0
  return {
    update: bytes => {
      sum = add(bytes, sum)
    },
    digest() {
      const out = Buffer.alloc(4)
      out.writeUInt32BE(sum)
      return out
    },
  }
}

/** Castagnoli's polynomial, bit by bit from the low end. */
const TABLE = Uint32Array.from({ length: 256 }, (_, byte) => {
  let value = byte
  for (let bit = 0; bit < 8; bit++) value = value & 1 ? (value >>> 1) ^ 0x82f63b78 : value >>> 1
  return value >>> 0
})
function crc32c(bytes: Buffer, sum: number): number {
  let value = ~sum
  for (const byte of bytes) value = TABLE[(value ^ byte) & 255] ^ (value >>> 8)
  return ~value >>> 0
}

const SUMS: Record<string, { size: number; make: (() => Sum) | null }> = {
  crc32: { size: 4, make: ofNumber(crc32) },
  crc32c: { size: 4, make: ofNumber(crc32c) },
  crc64nvme: { size: 8, make: null },
  sha1: { size: 20, make: ofHash('sha1') },
  sha256: { size: 32, make: ofHash('sha256') },
}

/** A checksum that the body must have; its value is in a header, or comes in a trailer of that name. */
export interface Checksum {
  algorithm: string
  value: string | null
}

/** Refuses headers that say what is not so or not supported. Answers the checksum that the body is to have. `isFour`: signed by headers, version 4. */
export function checkHeaders(req: Req, isFour: boolean): Checksum | null {
  const { headers } = req
  checkConditions(req)
  for (const [name, what] of [
    ['x-amz-mfa', 'MFA Delete is not supported.'],
    ['x-amz-website-redirect-location', 'Website redirection is not supported.'],
    ['x-amz-tagging', 'Object tagging is not supported.'],
  ])
    if (headers[name] !== undefined) throw new S3Error('NotImplemented', { Message: what })
  checkPayloadSum(headers, isFour)
  if (headers['content-md5'] !== undefined) md5Of(headers['content-md5'])
  return checksumOf(headers)
}

/** Only `If-None-Match: *` is known for what is written. */
export function checkConditions(req: Req): void {
  const { headers } = req
  const others = ['if-match', 'if-modified-since', 'if-unmodified-since'].some(name => headers[name] !== undefined)
  if (req.method === 'PUT' && (others || (headers['if-none-match'] ?? '*') !== '*'))
    throw new S3Error('NotImplemented', { Message: 'Conditional object PUTs are not supported.' })
}

function checkPayloadSum(headers: Headers, isFour: boolean): void {
  const sum = headers['x-amz-content-sha256']
  if (!sum) {
    if (!isFour) return
    throw new S3Error('InvalidRequest', { Message: 'Missing required header for this request: x-amz-content-sha256' })
  }
  if (sum.startsWith('STREAMING-')) {
    const length = headers['x-amz-decoded-content-length']
    if (length === undefined || !/^-?\d+$/.test(length)) throw new S3Error('MissingContentLength')
    if (Number(length) < 0)
      throw new S3Error('InvalidArgument', { ArgumentName: 'x-amz-decoded-content-length', ArgumentValue: length })
    if (sum.startsWith('STREAMING-AWS4-ECDSA-'))
      throw new S3Error('NotImplemented', { Message: `Don't know how to validate ${sum} streams` })
  } else if (isFour && sum !== 'UNSIGNED-PAYLOAD' && !/^[0-9a-f]{64}$/i.test(sum)) {
    throw new S3Error('InvalidArgument', {
      Message:
        'x-amz-content-sha256 must be UNSIGNED-PAYLOAD, STREAMING-UNSIGNED-PAYLOAD-TRAILER, STREAMING-AWS4-HMAC-SHA256-PAYLOAD, STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER or a valid sha256 value.',
      ArgumentName: 'x-amz-content-sha256',
      ArgumentValue: sum,
    })
  }
}

/** `Content-MD5` in hex. Throws InvalidDigest. */
export function md5Of(value: string): string {
  const text = value.trim()
  const bytes = decoded(text, 16)
  if (!bytes) throw new S3Error('InvalidDigest', { ContentMD5: text })
  return bytes.toString('hex')
}

/** Base64 of exactly that many bytes, or null. */
function decoded(text: string, size: number): Buffer | null {
  const bytes = Buffer.from(text, 'base64')
  return bytes.length === size && bytes.toString('base64') === text ? bytes : null
}

const PREFIX = 'x-amz-checksum-'

function checksumOf(headers: Headers): Checksum | null {
  const given = Object.keys(headers).filter(
    name => name.startsWith(PREFIX) && !['x-amz-checksum-algorithm', 'x-amz-checksum-type', 'x-amz-checksum-mode'].includes(name),
  )
  const known = (name: string): boolean => name.startsWith(PREFIX) && SUMS[name.slice(PREFIX.length)] !== undefined
  const refuse = (Message: string): never => {
    throw new S3Error('InvalidRequest', { Message })
  }
  if (!given.every(known)) refuse('The algorithm type you specified in x-amz-checksum- header is invalid.')
  const trailers = (headers['x-amz-trailer'] ?? '')
    .toLowerCase()
    .replace(/,\s*$/, '')
    .split(',')
    .map(name => name.trim())
    .filter(Boolean)
  if (!trailers.every(known)) refuse('The value specified in the x-amz-trailer header is not supported')
  if (given.length > 1 || trailers.length > 1)
    refuse('Expecting a single x-amz-checksum- header. Multiple checksum Types are not allowed.')
  if (given.length + trailers.length > 1) refuse('Expecting a single x-amz-checksum- header')
  const name = given[0] ?? trailers[0]
  const said = headers['x-amz-sdk-checksum-algorithm']
  if (name === undefined) {
    if (said !== undefined)
      refuse('x-amz-sdk-checksum-algorithm specified, but no corresponding x-amz-checksum-* or x-amz-trailer headers were found.')
    return null
  }
  const algorithm = name.slice(PREFIX.length)
  if (!SUMS[algorithm].make) throw new S3Error('NotImplemented', { Message: `The ${name} algorithm is not supported.` })
  const value = given.length ? headers[name].trim() : null
  if (value !== null && !decoded(value, SUMS[algorithm].size)) refuse(`Value for ${name} header is invalid.`)
  if (said !== undefined && said.toLowerCase() !== algorithm) refuse('Value for x-amz-sdk-checksum-algorithm header is invalid.')
  return { algorithm, value }
}

/** The body, failing at its end when it has another checksum than was said. `trailers` are there when it has been read. */
export async function* checked(
  body: AsyncIterable<Buffer>,
  { algorithm, value }: Checksum,
  trailers: Headers,
): AsyncGenerator<Buffer> {
  const sum = SUMS[algorithm].make!()
  for await (const chunk of body) {
    sum.update(chunk)
    yield chunk
  }
  const name = PREFIX + algorithm
  const expected = decoded(value ?? trailers[name] ?? '', SUMS[algorithm].size)
  if (!expected) throw new S3Error('InvalidRequest', { Message: `Value for ${name} trailing header is invalid.` })
  if (!sum.digest().equals(expected))
    throw new S3Error('BadDigest', {
      Message: `The ${algorithm.toUpperCase()} you specified did not match the calculated checksum.`,
    })
}
