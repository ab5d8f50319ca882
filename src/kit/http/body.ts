/** Reads and parses JSON request bodies within limits, and refuses text that the database could not store. */
import type { IncomingMessage } from 'node:http'
import { badRequest, Fault, tooLarge, unsupportedMedia } from '../fault.ts'

/** oslo.middleware's default of `max_request_body_size`, in bytes. */
export const BODY_LIMIT = 114_688

/** A request must be read within this time, in ms: a slow client holds no memory for long. */
const READ_TIME = 60_000

/** The whole body. Throws 413 beyond `limit` bytes, 408 when it comes too slowly, 400 when the client breaks off. */
export function readBody(req: IncomingMessage, limit: number): Promise<Buffer> {
  const announced = Number(req.headers['content-length'] ?? 0)
  if (announced > limit) return Promise.reject(tooLarge('Request is too large.'))
  return new Promise((resolve, reject) => {
    const parts: Buffer[] = []
    let size = 0
    const timer = setTimeout(() => finish(new Fault('timeout', 'The request body did not arrive in time.')), READ_TIME)
    const finish = (error?: Error): void => {
      clearTimeout(timer)
      req.off('data', onData).off('end', onEnd).off('close', onClose)
      if (error) reject(error)
      else resolve(parts.length === 1 ? parts[0]! : Buffer.concat(parts, size))
    }
    const onData = (part: Buffer): void => {
      size += part.length
      if (size > limit) finish(tooLarge('Request is too large.'))
      else parts.push(part)
    }
    const onEnd = (): void => finish()
    const onClose = (): void => finish(badRequest('The request body is shorter than announced.'))
    req.on('data', onData).on('end', onEnd).on('close', onClose)
  })
}

/** Whether a Content-Type says JSON (or one of `also`). An absent one counts as JSON, as the services take it. */
function isJson(type: string | undefined, also: readonly string[] | undefined): boolean {
  if (!type) return true
  const media = type.split(';', 1)[0]!.trim().toLowerCase()
  return media === 'application/json' || (also?.includes(media) ?? false)
}

/** Escapes that may make text which PostgreSQL refuses: NUL, and halves of surrogate pairs. */
const SUSPECT = /\\u0000|\\u[dD][89abAB]/

/** No request of any API nests its body deeper; every reader of a body may recurse into it. */
const DEEPEST = 100

/** Whether JSON text nests arrays and objects deeper than {@link DEEPEST}. Looks at brackets outside strings and nothing else. */
function isTooDeep(raw: Buffer): boolean {
  if (raw.length <= DEEPEST) return false
  let depth = 0
  for (let i = 0; i < raw.length; i++) {
    const byte = raw[i]
    if (byte === 0x22 /* " */) {
      for (i++; i < raw.length && raw[i] !== 0x22; i++) if (raw[i] === 0x5c /* \\ */) i++
    } else if (byte === 0x5b /* [ */ || byte === 0x7b /* { */) {
      if (++depth > DEEPEST) return true
    } else if (byte === 0x5d /* ] */ || byte === 0x7d /* } */) depth--
  }
  return false
}

/** Parses a JSON body. An empty one is `undefined`. Throws 400 for what is no JSON, nests too deeply or holds NUL or broken Unicode, 415 for another type. */
export function parseBody(raw: Buffer, type: string | undefined, media?: readonly string[]): unknown {
  if (raw.length === 0) return undefined
  if (!isJson(type, media)) throw unsupportedMedia(`The media type '${type}' is not supported; use application/json.`)
  if (isTooDeep(raw)) throw badRequest('Malformed request body: it is nested too deeply.')
  const text = raw.toString('utf8')
  let value: unknown
  try {
    value = JSON.parse(text, text.includes('"__proto__"') ? noProto : undefined)
  } catch (error) {
    throw badRequest('Malformed request body: it is not valid JSON.', { cause: error })
  }
  if (SUSPECT.test(text) || text.includes('\u0000') || text.includes('\ufffd')) refuseBroken(value)
  return value
}

const noProto = (key: string, value: unknown): unknown => (key === '__proto__' ? undefined : value)

function refuseBroken(value: unknown): void {
  if (typeof value === 'string') {
    if (!isStorable(value)) throw badRequest('Malformed request body: text holds a NUL character or broken Unicode.')
  } else if (typeof value === 'object' && value !== null) {
    for (const [key, member] of Object.entries(value)) {
      refuseBroken(key)
      refuseBroken(member)
    }
  }
}

/** Whether text can be stored: no NUL, no half of a surrogate pair. */
export const isStorable = (text: string): boolean => !text.includes('\u0000') && text.isWellFormed()
