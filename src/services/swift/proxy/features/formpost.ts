/** Uploads from an HTML form: `multipart/form-data` with a signature over path, redirect, sizes and time. */
import {
  type App,
  discard,
  type Headers,
  ok,
  type Req,
  type Res,
  reasonOf,
  refuse,
  reply,
  Stop,
  subRequest,
} from '../../http/message.ts'
import { pathOf, type Site, type Step } from '../site.ts'
import { signatureFits } from './discovery.ts'
import { keysOf } from './tempurl.ts'

const MOST_FIELD = 2 * 1024 * 1024

/** Turns each file of a form into a PUT. */
export const formpost: Step = (next, site) => async req => {
  const type = req.headers['content-type'] ?? ''
  if (req.method !== 'POST' || !/^multipart\/form-data\b/i.test(type)) return next(req)
  const boundary = /boundary=(?:"([^"]+)"|([^;]+))/i.exec(type)
  const path = pathOf(req)
  if (!boundary || !path?.container || !req.body) return refuse(400, 'FormPost: invalid starting boundary\n')
  return upload(next, site, req, (boundary[1] ?? boundary[2]).trim())
}

async function upload(next: App, site: Site, req: Req, boundary: string): Promise<Res> {
  const fields: Record<string, string> = {}
  let status = 0
  let message = ''
  let files = 0
  try {
    for await (const part of parts(req.body!, boundary)) {
      if (part.filename === null) {
        if (part.name) fields[part.name.toLowerCase()] = (await small(part.data)).trim()
        continue
      }
      files += 1
      if (files > Number(fields.max_file_count ?? 0)) throw new Refused('max file count exceeded')
      const target = await check(site, req, fields)
      const res = await store(next, req, fields, part, target)
      status = res.status
      if (!ok(status)) {
        message = res.status === 413 ? 'Upload exceeds max_file_size' : `${status} ${reasonOf(status)}`
        break
      }
    }
    if (files === 0) throw new Refused('no files to process')
  } catch (error) {
    if (error instanceof Refused) {
      status = error.status
      message = `FormPost: ${error.message}`
    } else if (error instanceof Stop) {
      status = error.res.status
      message = reasonOf(status)
    } else throw error
  }
  return finish(fields, status, message)
}

class Refused extends Error {
  readonly status: number
  constructor(message: string, status = 400) {
    super(message)
    this.status = status
  }
}

function finish(fields: Record<string, string>, status: number, message: string): Res {
  const redirect = fields.redirect
  if (!redirect) {
    const text = `${status} ${reasonOf(status)}\r\n\r\n${message}`
    if (status === 401 || !ok(status))
      return reply(status, { 'content-type': 'text/plain' }, status === 401 ? `${message}\n` : `${text.trim()}\n`)
    return reply(status, { 'content-type': 'text/html; charset=UTF-8' }, `<html><h1>${status} ${reasonOf(status)}</h1></html>`)
  }
  const url = `${redirect}${redirect.includes('?') ? '&' : '?'}status=${status}&message=${encodeURIComponent(message)}`
  return reply(
    303,
    { location: url, 'content-type': 'text/html; charset=UTF-8' },
    `<html><body><p><a href="${url.replaceAll('&', '&amp;').replaceAll('"', '&quot;')}">Click to continue...</a></p></body></html>`,
  )
}

async function check(site: Site, req: Req, fields: Record<string, string>): Promise<'account' | 'container'> {
  const path = pathOf(req)!
  if (!/^\d+$/.test(fields.expires ?? '')) throw new Refused('expired not an integer')
  if (!/^\d+$/.test(fields.max_file_size ?? '')) throw new Refused('max_file_size not an integer')
  if (!/^\d+$/.test(fields.max_file_count ?? '')) throw new Refused('max_file_count not an integer')
  if (Number(fields.expires) < Date.now() / 1000) throw new Refused('Form Expired', 401)
  const keys = await keysOf(site, req, path.account, path.container!)
  const signed = [req.path, `${req.env.mount}${req.path}`].map(
    one => `${one}\n${fields.redirect ?? ''}\n${fields.max_file_size}\n${fields.max_file_count}\n${fields.expires}`,
  )
  const fits = (list: string[]): boolean =>
    list.length > 0 && signed.some(text => signatureFits(fields.signature ?? '', list, text, site.settings.digests))
  if (fits(keys.account)) return 'account'
  if (fits(keys.container)) return 'container'
  throw new Refused('Invalid Signature', 401)
}

async function store(
  next: App,
  req: Req,
  fields: Record<string, string>,
  part: Part,
  scope: 'account' | 'container',
): Promise<Res> {
  const own = pathOf(req)!
  const most = Number(fields.max_file_size)
  let path = req.path
  if (own.object === null && !path.endsWith('/')) path += '/'
  path += part.filename || 'filename'
  const headers: Headers = {}
  if (part.type) headers['content-type'] = part.type
  if (part.encoding) headers['content-encoding'] = part.encoding
  for (const name of ['x-delete-at', 'x-delete-after']) {
    if (fields[name] === undefined) continue
    if (!/^\d+$/.test(fields[name])) throw new Refused(`${name} not an integer`)
    headers[name] = fields[name]
  }
  if (!headers['content-type']) headers['x-detect-content-type'] = 'true'
  const limited = async function* (): AsyncGenerator<Buffer> {
    let size = 0
    for await (const chunk of part.data) {
      size += chunk.length
      if (size > most) throw new Stop(refuse(413))
      yield chunk
    }
  }
  const sub = subRequest(req, { method: 'PUT', path, headers, body: limited(), length: null, source: 'FP', preauthorized: true })
  sub.env.who = {
    userId: '.formpost',
    userName: '.formpost',
    projectId: null,
    projectName: null,
    roles: [],
    groups: ['.formpost'],
  }
  sub.env.owner = false
  sub.env.authorize = asked => {
    const target = pathOf(asked)
    return target?.account === own.account && (scope === 'account' || target.container === own.container) ? null : refuse(401)
  }
  const res = await next(sub)
  discard(res)
  return res
}

interface Part {
  name: string | null
  filename: string | null
  type: string | null
  encoding: string | null
  data: AsyncGenerator<Buffer>
}

async function small(data: AsyncGenerator<Buffer>): Promise<string> {
  const out: Buffer[] = []
  let size = 0
  for await (const chunk of data) {
    size += chunk.length
    if (size > MOST_FIELD) throw new Refused('a field is too long')
    out.push(chunk)
  }
  return Buffer.concat(out).toString()
}

/** The parts of a form as they stream by. Each part's data must be read before the next one is asked for; what is left is skipped. */
export async function* parts(source: AsyncIterable<Buffer>, boundary: string): AsyncGenerator<Part> {
  const iterator = source[Symbol.asyncIterator]()
  let held: Buffer = Buffer.alloc(0)
  let ended = false
  const more = async (): Promise<void> => {
    const next = await iterator.next()
    if (next.done) ended = true
    else held = held.length ? Buffer.concat([held, next.value]) : next.value
  }
  const first = Buffer.from(`--${boundary}`)
  const between = Buffer.from(`\r\n--${boundary}`)
  while (held.length < first.length + 2 && !ended) await more()
  if (!held.subarray(0, first.length).equals(first)) throw new Refused('invalid starting boundary')
  held = held.subarray(first.length)
  for (;;) {
    while (held.length < 2 && !ended) await more()
    if (held.subarray(0, 2).toString() === '--' || (ended && held.length < 2)) return
    held = held.subarray(2)
    while (!held.includes('\r\n\r\n') && !held.subarray(0, 2).equals(Buffer.from('\r\n')) && !ended) {
      if (held.length > 65536) throw new Refused('headers of a part are too long')
      await more()
    }
    const cut = held.indexOf('\r\n\r\n')
    if (cut < 0) throw new Refused('unexpected end of the form')
    const head = headersOf(held.subarray(0, cut).toString())
    held = held.subarray(cut + 4)
    let done = false
    const data = async function* (): AsyncGenerator<Buffer> {
      while (!done) {
        const at = held.indexOf(between)
        if (at >= 0) {
          const chunk = held.subarray(0, at)
          held = held.subarray(at + between.length)
          done = true
          if (chunk.length) yield chunk
          return
        }
        if (ended) throw new Stop(refuse(499))
        const safe = held.length - between.length
        if (safe > 0) {
          const chunk = held.subarray(0, safe)
          held = held.subarray(safe)
          yield chunk
        }
        await more()
      }
    }
    yield { ...head, data: data() }
    if (!done) for await (const _ of data());
  }
}

function headersOf(text: string): Omit<Part, 'data'> {
  const headers = new Map(
    text
      .split('\r\n')
      .map(line => [line.slice(0, line.indexOf(':')).trim().toLowerCase(), line.slice(line.indexOf(':') + 1).trim()]),
  )
  const disposition = headers.get('content-disposition') ?? ''
  const value = (name: string): string | null =>
    new RegExp(`[;\\s]${name}="((?:[^"\\\\]|\\\\.)*)"`, 'i').exec(disposition)?.[1] ??
    new RegExp(`[;\\s]${name}=([^;]+)`, 'i').exec(disposition)?.[1] ??
    null
  return {
    name: value('name'),
    filename: value('filename'),
    type: headers.get('content-type') ?? null,
    encoding: headers.get('content-encoding') ?? null,
  }
}
