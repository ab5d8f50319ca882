/** Bytes that somebody else keeps: read by HTTP, within deadlines, following few redirects. */
import { type IncomingMessage, request as plainRequest } from 'node:http'
import { request as tlsRequest } from 'node:https'
import { Readable } from 'node:stream'
import { unavailable } from '#kit/fault.ts'

/** A server must begin to answer within this time, in ms. */
const ANSWER_MS = 30_000
/** And may pause no longer than this. */
const PAUSE_MS = 60_000
const REDIRECTS = 5

export interface HttpOptions {
  /** Asked before each request, redirects included. Throws to refuse. */
  allow?: (url: URL) => void
  signal?: AbortSignal
}

/** Opens a URL. Throws `unavailable` with the server's words when it does not give the bytes. */
export async function httpOpen(
  url: string,
  { allow, signal, headers, method = 'GET' }: HttpOptions & { headers?: Record<string, string>; method?: string } = {},
): Promise<Response> {
  let at = new URL(url)
  at.hash = ''
  for (let hop = 0; hop <= REDIRECTS; hop++) {
    allow?.(at)
    const answered = AbortSignal.timeout(ANSWER_MS)
    const begun = new AbortController()
    const onLate = (): void => begun.abort(new Error(`no answer within ${ANSWER_MS / 1000} s`))
    answered.addEventListener('abort', onLate)
    let response: Response
    try {
      response = await ask(at, {
        method,
        headers: { 'accept-encoding': 'identity', ...headers },
        signal: signal ? AbortSignal.any([signal, begun.signal]) : begun.signal,
      })
    } catch (error) {
      throw unavailable(`${at.origin} cannot be reached: ${said(error)}`, { cause: error })
    } finally {
      answered.removeEventListener('abort', onLate)
    }
    const location = response.headers.get('location')
    if (response.status < 300 || response.status > 399 || location === null) return response
    await response.body?.cancel()
    at = new URL(location, at)
  }
  throw unavailable(`${url} redirects more than ${REDIRECTS} times.`)
}

interface Asked {
  method: string
  headers: Record<string, string>
  signal: AbortSignal
}

/**
 * One request. Not by `fetch`: its parser (undici, Node 24) throws past every handler, and so ends the process, when a server closes the
 * connection at the end of a body while that body is read slower than it comes.
 */
async function ask(at: URL, { method, headers, signal }: Asked): Promise<Response> {
  const message = await new Promise<IncomingMessage>((resolve, reject) => {
    const send = at.protocol === 'https:' ? tlsRequest : plainRequest
    send(at, { method, headers, signal, agent: false }).on('response', resolve).on('error', reject).end()
  })
  const status = message.statusCode!
  const isEmpty = method === 'HEAD' || status === 204 || status === 304
  if (isEmpty) message.resume()
  const told = new Headers()
  for (let i = 0; i < message.rawHeaders.length; i += 2) told.append(message.rawHeaders[i]!, message.rawHeaders[i + 1]!)
  const body = isEmpty ? null : (Readable.toWeb(message) as ReadableStream<Uint8Array>)
  return new Response(body, { status, statusText: message.statusMessage, headers: told })
}

const said = (error: unknown): string => {
  const { message, cause } = error as Error
  return cause instanceof Error ? `${message}: ${cause.message}` : message
}

/** The bytes of a URL, or a range of them (both ends included). Throws `unavailable`. */
export async function httpRead(
  url: string,
  range?: { start: number; end: number },
  options: HttpOptions = {},
): Promise<Readable> {
  const headers: Record<string, string> = range ? { range: `bytes=${range.start}-${range.end}` } : {}
  const response = await httpOpen(url, { ...options, headers })
  if (response.status !== 200 && response.status !== 206) {
    await response.body?.cancel()
    throw unavailable(`${url} answers ${response.status} ${response.statusText}`)
  }
  if (!response.body) return Readable.from([])
  const whole = Readable.from(patient(response.body))
  return range && response.status === 200 ? Readable.from(cut(whole, range)) : whole
}

/** What a server says of a URL without its bytes: how many there are. Throws `unavailable`. */
export async function httpSize(url: string, options: HttpOptions = {}): Promise<number | null> {
  const response = await httpOpen(url, { ...options, method: 'HEAD' })
  if (response.status !== 200) throw unavailable(`${url} answers ${response.status} ${response.statusText}`)
  const length = response.headers.get('content-length')
  return length === null ? null : Number(length)
}

/** Chunks as they come; throws when none comes for too long. */
async function* patient(body: ReadableStream<Uint8Array>): AsyncGenerator<Buffer> {
  const reader = body.getReader()
  try {
    for (;;) {
      let timer: NodeJS.Timeout | undefined
      const late = new Promise<never>((_, reject) => {
        timer = setTimeout(() => reject(unavailable(`The server sent nothing for ${PAUSE_MS / 1000} s.`)), PAUSE_MS)
      })
      try {
        const { done, value } = await Promise.race([reader.read(), late])
        if (done) return
        yield Buffer.from(value.buffer, value.byteOffset, value.byteLength)
      } finally {
        clearTimeout(timer)
      }
    }
  } finally {
    await reader.cancel().catch(() => {}) // the stream may have failed already, and said so
  }
}

/** A server that knows no ranges sends everything: only the wanted part is passed on. */
async function* cut(source: AsyncIterable<Buffer>, { start, end }: { start: number; end: number }): AsyncGenerator<Buffer> {
  let at = 0
  for await (const chunk of source) {
    const from = Math.max(0, start - at)
    const to = Math.min(chunk.length, end + 1 - at)
    if (to > from) yield chunk.subarray(from, to)
    at += chunk.length
    if (at > end) return
  }
}
