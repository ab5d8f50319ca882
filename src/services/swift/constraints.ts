/** Limits of names, metadata and sizes (SW-005), and the checks of a request against them. Numbers are Swift's defaults. */
import { type Headers, isTrue, type Req, type Res, refuse, Stop, text } from './http/message.ts'
import { now, seconds } from './timestamp.ts'

export const LIMITS = {
  max_file_size: 5 * 1024 ** 3 + 2,
  max_meta_name_length: 128,
  max_meta_value_length: 256,
  max_meta_count: 90,
  max_meta_overall_size: 4096,
  max_header_size: 8192,
  max_object_name_length: 1024,
  container_listing_limit: 10000,
  account_listing_limit: 10000,
  max_account_name_length: 256,
  max_container_name_length: 256,
  extra_header_count: 0,
}
export type Limits = typeof LIMITS

/** Header values too long and bad metadata of one kind: the 400, or null. */
export function checkMetadata(headers: Headers, kind: 'account' | 'container' | 'object', limits: Limits): Res | null {
  const prefix = `x-${kind}-meta-`
  let count = 0
  let size = 0
  for (const name in headers) {
    const value = headers[name]
    if (value.length > limits.max_header_size)
      return refuse(400, `Header value too long: ${name.slice(0, limits.max_meta_name_length)}`)
    if (!name.startsWith(prefix)) continue
    const key = name.slice(prefix.length)
    if (!key) return refuse(400, 'Metadata name cannot be empty')
    if (kind !== 'object' && (!isUtf8(key) || !isUtf8(value))) return refuse(400, 'Metadata must be valid UTF-8')
    count += 1
    size += key.length + value.length
    if (key.length > limits.max_meta_name_length) return refuse(400, `Metadata name too long: ${prefix}${key}`)
    if (value.length > limits.max_meta_value_length)
      return refuse(400, `Metadata value longer than ${limits.max_meta_value_length}: ${prefix}${key}`)
    if (count > limits.max_meta_count) return refuse(400, `Too many metadata items; max ${limits.max_meta_count}`)
    if (size > limits.max_meta_overall_size) return refuse(400, `Total metadata too large; max ${limits.max_meta_overall_size}`)
  }
  return null
}

/** The checks of a new object: length, name, content type, deletion time, metadata. The refusal, or null. */
export function checkObjectCreation(req: Req, name: string, limits: Limits): Res | null {
  if (req.length !== null && req.length > limits.max_file_size) return refuse(413, 'Your request is too large.')
  const bytes = Buffer.byteLength(name)
  if (bytes > limits.max_object_name_length)
    return refuse(400, `Object name length of ${bytes} longer than ${limits.max_object_name_length}`)
  if (req.headers['content-type'] === undefined) return refuse(400, 'No content type')
  checkDeleteHeaders(req.headers)
  if (!isUtf8(req.headers['content-type'])) return refuse(400, 'Invalid Content-Type')
  return checkMetadata(req.headers, 'object', limits)
}

/** A client must say how long its body is, or send it in chunks: 400, 411 or 501; else null. */
export function checkLength(req: Req): Res | null {
  const transfer = req.headers['transfer-encoding']
  if (transfer !== undefined && transfer !== 'chunked')
    return refuse(501, `Unsupported Transfer-Coding header value specified in Transfer-Encoding header`)
  const length = req.headers['content-length']
  if (length !== undefined && !/^\d+$/.test(length)) return refuse(400, 'Invalid Content-Length header value')
  if (length === undefined && transfer === undefined) return refuse(411, 'Missing Content-Length header.')
  return null
}

/** Turns `X-Delete-After` into `X-Delete-At`, in place. Throws 400 for a time that is none or is past. */
export function checkDeleteHeaders(headers: Headers): void {
  const time = seconds(headers['x-timestamp'] ?? now())
  if (headers['x-delete-after'] !== undefined) {
    if (!/^\s*[+-]?\d+\s*$/.test(headers['x-delete-after'])) throw new Stop(refuse(400, 'Non-integer X-Delete-After'))
    const at = deleteAt(time + Number(headers['x-delete-after']))
    if (at <= time) throw new Stop(refuse(400, 'X-Delete-After in past'))
    headers['x-delete-at'] = String(at)
    delete headers['x-delete-after']
  }
  if (headers['x-delete-at'] !== undefined) {
    if (!/^\s*[+-]?\d+\s*$/.test(headers['x-delete-at'])) throw new Stop(refuse(400, 'Non-integer X-Delete-At'))
    const at = deleteAt(Number(headers['x-delete-at']))
    if (at <= time && !isTrue(headers['x-backend-replication'])) throw new Stop(refuse(400, 'X-Delete-At in past'))
    headers['x-delete-at'] = String(at)
  }
}

const deleteAt = (time: number): number => Math.min(Math.max(0, Math.trunc(time)), 9999999999)

/** True when a latin-1 string carries UTF-8 without NUL. */
export function isUtf8(value: string): boolean {
  for (let i = 0; i < value.length; i++) {
    const code = value.charCodeAt(i)
    if (code === 0) return false
    if (code >= 0x80) return !text(value).includes('\ufffd')
  }
  return true
}

/** Separates the parts of the store's own hidden names. */
export const RESERVED = '\x00'

/** Refuses paths with NUL unless the asker may use the reserved namespace; 412 as Swift. */
export function checkPath(path: string, internal: boolean): Res | null {
  if (!path.includes('\0') || internal) return null
  return refuse(412, 'Invalid UTF8 or contains NULL')
}
