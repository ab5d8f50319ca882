/**
 * Records HTTP exchanges for conformance checks and bug reports: one HAR 1.2 `entry` object a line
 * (http://www.softwareishard.com/blog/har-12-spec/#entries). Secrets are masked on the way in, with values of the same type, so that
 * a recording still fits the schemas but holds nothing to steal. Bodies that are long or not text are left out, with their size told.
 */

import { isUtf8 } from 'node:buffer'
import { createWriteStream, openSync } from 'node:fs'
import { isSecretHeader, MASK, maskBody, maskUrl } from '../mask.ts'
import { type Exchange, originOf } from './app.ts'

type Headers = Readonly<Record<string, string | number | readonly string[] | undefined>>

/** One request with its answer, as recorded. */
export interface HarExchange {
  /** When the request came, in milliseconds of Unix time. */
  startedAt: number
  /** How long it took. */
  ms: number
  method: string
  /** Absolute. */
  url: string
  /** '1.1' */
  httpVersion?: string
  requestHeaders: Headers
  /** Absent: there was none, or it was a stream. */
  requestBody?: Uint8Array | string
  status: number
  statusText?: string
  responseHeaders: Headers
  /** Absent: there was none, or it was a stream; the Content-Length then tells the size. */
  responseBody?: Uint8Array | string
}

/** Writes a recording. */
export interface HarRecorder {
  /** Adds an exchange. Returns at once; the line is written behind it. */
  record(exchange: HarExchange): void
  /** Resolves when all lines are in the file; rejects with the first error of writing. */
  close(): Promise<void>
}

/** The longest body that is recorded, in bytes. */
export const HAR_BODY_LIMIT = 256 * 1024

/**
 * Starts a recording, appending to the file if there is one; the file is readable by its owner only. Throws the system's error when
 * it cannot be opened. `failed` is called once when a write fails later; what follows is then not recorded.
 */
export function harRecorder(file: string | number, failed: (error: Error) => void = () => {}): HarRecorder {
  const stream = createWriteStream('', { fd: typeof file === 'number' ? file : openSync(file, 'a', 0o600) })
  let broken: Error | undefined
  stream.on('error', error => {
    if (!broken) failed(error)
    broken ??= error
  })
  return {
    record(exchange) {
      if (!broken && !stream.writableEnded) stream.write(`${JSON.stringify(harEntry(exchange))}\n`)
    },
    async close() {
      await new Promise<void>(done => (stream.closed ? done() : stream.once('close', done).end()))
      if (broken) throw broken
    },
  }
}

/** What to record of an exchange that a service's API has just answered: `onAnswer: x => recorder.record(harOf(x))`. */
export function harOf(x: Exchange): HarExchange {
  return {
    startedAt: Date.now() - x.ms,
    ms: x.ms,
    method: x.method,
    url: originOf(x.req) + x.req.url!,
    httpVersion: x.req.httpVersion,
    requestHeaders: x.req.headers,
    requestBody: x.requestBody,
    status: x.status,
    statusText: x.res.statusMessage,
    responseHeaders: x.responseHeaders ?? {},
    responseBody: x.method === 'HEAD' ? undefined : x.responseBody,
  }
}

/** The HAR entry of an exchange, masked. */
export function harEntry(x: HarExchange): object {
  const url = maskUrl(x.url)
  const httpVersion = `HTTP/${x.httpVersion ?? '1.1'}`
  const request = bodyOf(x.requestBody, x.requestHeaders)
  const response = bodyOf(x.responseBody, x.responseHeaders)
  const unseen = x.responseBody === undefined && x.method !== 'HEAD' ? Number(first(x.responseHeaders, 'content-length') ?? 0) : 0
  return {
    startedDateTime: new Date(x.startedAt).toISOString(),
    time: x.ms,
    request: {
      method: x.method,
      url,
      httpVersion,
      cookies: [],
      headers: headerList(x.requestHeaders),
      queryString: queryList(url),
      ...(request.text === undefined ? {} : { postData: { mimeType: request.type, text: request.text } }),
      headersSize: -1,
      bodySize: request.size,
    },
    response: {
      status: x.status,
      statusText: x.statusText ?? '',
      httpVersion,
      cookies: [],
      headers: headerList(x.responseHeaders),
      content: {
        size: response.size || unseen,
        mimeType: response.type,
        ...(response.text === undefined ? {} : { text: response.text }),
      },
      redirectURL: maskUrl(first(x.responseHeaders, 'location') ?? ''),
      headersSize: -1,
      bodySize: response.size || unseen,
    },
    cache: {},
    timings: { send: 0, wait: x.ms, receive: 0 },
  }
}

function first(headers: Headers, name: string): string | undefined {
  for (const [key, value] of Object.entries(headers))
    if (key.toLowerCase() === name && value !== undefined) return String(Array.isArray(value) ? value[0] : value)
  return undefined
}

function headerList(headers: Headers): { name: string; value: string }[] {
  return Object.entries(headers).flatMap(([name, value]) =>
    (value === undefined ? [] : [value].flat()).map(one => ({ name, value: isSecretHeader(name) ? MASK : maskUrl(String(one)) })),
  )
}

function queryList(url: string): { name: string; value: string }[] {
  const mark = url.indexOf('?')
  return mark < 0 ? [] : [...new URLSearchParams(url.slice(mark + 1))].map(([name, value]) => ({ name, value }))
}

function bodyOf(body: Uint8Array | string | undefined, headers: Headers): { size: number; type: string; text?: string } {
  const type = first(headers, 'content-type') ?? ''
  if (body === undefined) return { size: 0, type }
  const bytes = typeof body === 'string' ? Buffer.from(body) : body
  const readable = bytes.length <= HAR_BODY_LIMIT && isText(type) && isUtf8(bytes)
  if (!readable) return { size: bytes.length, type }
  const text = maskBody(Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength).toString('utf8'), type)
  return { size: Buffer.byteLength(text), type, text }
}

const isText = (type: string) => type === '' || /json|text\/|xml|x-www-form-urlencoded|yaml|javascript/i.test(type)
