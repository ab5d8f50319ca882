/** Many objects in one request: `?extract-archive=tar|tar.gz|tar.bz2`, `?bulk-delete`. Answers come while the work goes on. */

import { Readable } from 'node:stream'
import { createGunzip } from 'node:zlib'
import {
  type App,
  discard,
  type Headers,
  ok,
  quote,
  type Req,
  type Res,
  readAll,
  reasonOf,
  refuse,
  subRequest,
  unquote,
} from '../../http/message.ts'
import { pathOf, type Site, type Step } from '../site.ts'
import { bunzip2 } from './bunzip2.ts'
import { escapeXml, formatOf } from './listings.ts'
import { entries } from './tar.ts'

/** The two bulk requests. */
export const bulk: Step = (next, site) => async req => {
  const archive = req.query.get('extract-archive')
  const path = pathOf(req)
  if (archive !== undefined && req.method === 'PUT' && path) {
    if (!['tar', 'tar.gz', 'tar.bz2'].includes(archive)) return refuse(400, `Unsupported archive format ${archive}`)
    return extract(next, site, req, archive)
  }
  if (req.query.has('bulk-delete') && (req.method === 'POST' || req.method === 'DELETE') && path) {
    const listed = await pathsOf(site, req)
    if (!Array.isArray(listed)) return listed
    return deleteMany(next, site, req, path.account, listed, 'BD')
  }
  return next(req)
}

async function pathsOf(site: Site, req: Req): Promise<string[] | Res> {
  if (req.length === 0) return refuse(411)
  const body = (await readAll(req.body, site.settings.bulk.maxDeletes * 3100)).toString()
  const lines = body
    .split('\n')
    .map(line => line.trim())
    .filter(Boolean)
  if (lines.length > site.settings.bulk.maxDeletes)
    return refuse(413, `Maximum Bulk Deletes: ${site.settings.bulk.maxDeletes} per request`)
  return lines.map(line => unquote(line) ?? line).map(line => (line.startsWith('/') ? line : `/${line}`))
}

interface Summary {
  status: string
  body: string
  counts: Record<string, number>
  errors: [string, string][]
}

function format(req: Req, summary: Summary): { type: string; text: string } {
  const wanted = formatOf(req) ?? 'text/plain'
  const fields: Record<string, unknown> = { ...summary.counts, 'Response Body': summary.body, 'Response Status': summary.status }
  if (wanted === 'application/json') return { type: wanted, text: JSON.stringify({ ...fields, Errors: summary.errors }) }
  if (wanted !== 'text/plain') {
    const tags = Object.entries(fields).map(
      ([name, value]) =>
        `<${name.toLowerCase().replaceAll(' ', '_')}>${escapeXml(value)}</${name.toLowerCase().replaceAll(' ', '_')}>\n`,
    )
    const errors = summary.errors.map(
      ([name, status]) => `<object><name>${escapeXml(name)}</name><status>${escapeXml(status)}</status></object>\n`,
    )
    return { type: wanted, text: `<delete>\n${tags.join('')}<errors>\n${errors.join('')}</errors>\n</delete>\n` }
  }
  const lines = Object.entries(fields).map(([name, value]) => `${name}: ${value}`)
  return {
    type: wanted,
    text: `${lines.join('\n')}\nErrors:\n${summary.errors.map(([name, status]) => `${name}, ${status}`).join('\n')}\n`,
  }
}

/** Runs the work behind a response that has begun: spaces while it lasts, the summary at its end. */
function answering(req: Req, work: () => Promise<Summary>): Res {
  const type = formatOf(req) ?? 'text/plain'
  const body = async function* (): AsyncGenerator<Buffer> {
    const running = work()
    let done: Summary | null = null
    let began = false
    while (done === null) {
      let timer: NodeJS.Timeout | undefined
      const tick = new Promise<null>(resolve => {
        timer = setTimeout(() => resolve(null), 10_000)
      })
      done = await Promise.race([running, tick])
      clearTimeout(timer)
      if (done !== null) break
      if (!began && type.endsWith('xml')) yield Buffer.from('<?xml version="1.0" encoding="UTF-8"?>\n')
      began = true
      yield Buffer.from(' ')
    }
    const head = !began && type.endsWith('xml') ? '<?xml version="1.0" encoding="UTF-8"?>\n' : ''
    yield Buffer.from(`${began && !type.endsWith('xml') ? '\r\n\r\n' : ''}${head}${format(req, done).text}`)
  }
  return { status: 200, headers: { 'content-type': type }, body: body() }
}

const TOKENS = ['x-auth-token', 'x-storage-token', 'x-service-token']
const tokens = (req: Req): Headers =>
  Object.fromEntries(TOKENS.filter(name => req.headers[name] !== undefined).map(name => [name, req.headers[name]]))

/** Deletes paths of an account (`/c` or `/c/o`), objects before containers as they come. */
export async function deleteMany(
  next: App,
  site: Site,
  req: Req,
  account: string,
  paths: string[],
  source: string,
): Promise<Res> {
  return answering(req, async () => {
    const counts = { 'Number Deleted': 0, 'Number Not Found': 0 }
    const errors: [string, string][] = []
    let denied = 0
    const remove = async (path: string): Promise<void> => {
      if (errors.length >= site.settings.bulk.maxFailed) return
      const query = source === 'SLO' ? new Map<string, string>() : new Map<string, string>()
      const res = await next(
        subRequest(req, { method: 'DELETE', path: `/v1/${account}${path}`, headers: { ...tokens(req) }, query, source }),
      )
      discard(res)
      if (ok(res.status)) counts['Number Deleted'] += 1
      else if (res.status === 404) counts['Number Not Found'] += 1
      else {
        if (res.status === 401) denied += 1
        errors.push([quote(path), `${res.status} ${reasonOf(res.status)}`])
      }
    }
    const isObject = (path: string): boolean => path.indexOf('/', 1) > 0 && path.indexOf('/', 1) < path.length - 1
    for (let at = 0; at < paths.length; ) {
      let to = at
      while (to < paths.length && to - at < 8 && isObject(paths[to])) to += 1
      if (to === at) to += 1
      await Promise.all(paths.slice(at, to).map(remove))
      at = to
    }
    let status = '200 OK'
    let body = ''
    if (denied) status = '401 Unauthorized'
    else if (errors.length) status = '400 Bad Request'
    else if (counts['Number Deleted'] === 0 && counts['Number Not Found'] === 0) {
      status = '400 Bad Request'
      body = 'Invalid bulk delete.'
    }
    return { status, body, counts, errors }
  })
}

async function extract(next: App, site: Site, req: Req, kind: string): Promise<Res> {
  if (!req.body) return refuse(400, 'Invalid Tar File: nothing in it')
  const plain =
    kind === 'tar'
      ? req.body
      : kind === 'tar.gz'
        ? (Readable.from(req.body).pipe(createGunzip()) as AsyncIterable<Buffer>)
        : bunzip2(req.body)
  return answering(req, async () => {
    const counts = { 'Number Files Created': 0 }
    const errors: [string, string][] = []
    const containers = new Set<string>()
    let status = ''
    let body = ''
    const base = req.path.replace(/\/+$/, '')
    try {
      for await (const entry of entries(plain)) {
        if (!entry.isFile) continue
        const path = `${base}/${entry.name.replace(/^(\.?\/)+/, '').replaceAll('/./', '/')}`
        const parts = path.split('/')
        if (parts.length < 5 || !parts.slice(4).join('/')) continue
        const name = quote(`/${parts.slice(3).join('/')}`)
        const container = parts.slice(0, 4).join('/')
        if (!containers.has(container)) {
          if (containers.size >= site.settings.bulk.maxExtract)
            throw new Error('More than the allowed number of containers in the archive.')
          const made = await makeContainer(next, req, container)
          if (made) {
            errors.push([name, made])
            if (made.startsWith('401')) throw new Error('Unauthorized')
            continue
          }
          containers.add(container)
        }
        const headers: Headers = { ...tokens(req) }
        for (const header in req.headers)
          if (header.startsWith('x-object-meta-') || header === 'x-delete-at' || header === 'x-delete-after')
            headers[header] = req.headers[header]
        for (const [key, value] of Object.entries(entry.attributes)) {
          if (key === 'user.mime_type') headers['content-type'] = value
          else if (key.startsWith('user.meta.')) headers[`x-object-meta-${key.slice(10).toLowerCase()}`] = value
        }
        if (!headers['content-type'] || req.headers['x-detect-content-type']) headers['x-detect-content-type'] = 'true'
        const res = await next(
          subRequest(req, { method: 'PUT', path, headers, body: entry.data(), length: entry.size, source: 'EA' }),
        )
        discard(res)
        if (ok(res.status)) counts['Number Files Created'] += 1
        else {
          errors.push([name, `${res.status} ${reasonOf(res.status)}`])
          if (res.status === 401) throw new Error('Unauthorized')
          if (errors.length >= site.settings.bulk.maxFailed) throw new Error('Too many failures')
        }
      }
    } catch (error) {
      status = errors.some(([, what]) => what.startsWith('401')) ? '401 Unauthorized' : '400 Bad Request'
      body = `Invalid Tar File: ${(error as Error).message}`
    }
    if (!status && errors.length) status = '400 Bad Request'
    else if (!status && counts['Number Files Created'] === 0) {
      status = '400 Bad Request'
      body = 'Invalid Tar File: No Valid Files'
    }
    return { status: status || '201 Created', body, counts, errors }
  })
}

async function makeContainer(next: App, req: Req, path: string): Promise<string | null> {
  const there = await next(subRequest(req, { method: 'HEAD', path, headers: tokens(req), source: 'EA' }))
  discard(there)
  if (ok(there.status)) return null
  const res = await next(subRequest(req, { method: 'PUT', path, headers: tokens(req), source: 'EA' }))
  discard(res)
  return ok(res.status) ? null : `${res.status} ${reasonOf(res.status)}`
}
