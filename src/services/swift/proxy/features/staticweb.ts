/** A container as a web site: index pages, error pages, listings, for those who need no token (or ask with `X-Web-Mode`). */
import { createHash } from 'node:crypto'
import {
  type App,
  discard,
  type Headers,
  isTrue,
  ok,
  quote,
  type Req,
  type Res,
  readAll,
  refuse,
  reply,
  subRequest,
  text,
} from '../../http/message.ts'
import { containerInfo } from '../info.ts'
import { pathOf, type Step } from '../site.ts'
import { escapeXml, type Row } from './listings.ts'
import { GENERATOR } from './tempurl.ts'

interface Web {
  index: string
  error: string
  listings: boolean
  css: string
  label: string | null
  directoryType: string
}

const webOf = (headers: Headers): Web => ({
  index: text(headers['x-container-meta-web-index'] ?? '').trim(),
  error: text(headers['x-container-meta-web-error'] ?? '').trim(),
  listings: isTrue(headers['x-container-meta-web-listings']),
  css: text(headers['x-container-meta-web-listings-css'] ?? '').trim(),
  label:
    headers['x-container-meta-web-listings-label'] === undefined ? null : text(headers['x-container-meta-web-listings-label']),
  directoryType: text(headers['x-container-meta-web-directory-type'] ?? '').trim() || 'application/directory',
})

/** Serves pages in place of listings and errors. */
export const staticweb: Step = (next, site) => async req => {
  const path = pathOf(req)
  if (!path?.container || (req.method !== 'GET' && req.method !== 'HEAD') || req.env.source !== null) return next(req)
  const isAnonymous = req.env.who === null || req.env.who.userId === '.tempurl'
  if (!isAnonymous && !isTrue(req.headers['x-web-mode'])) return next(req)
  const info = await containerInfo(site.cluster, req.env, path.account, path.container)
  const web = webOf(info.headers)
  if (!web.index && !web.error && !web.listings) return next(req)
  const page: Page = { next, req, web, account: path.account, container: path.container, object: path.object ?? '' }
  return path.object === null ? ofContainer(page) : ofObject(page)
}

interface Page {
  next: App
  req: Req
  web: Web
  account: string
  container: string
  object: string
}

const base = (page: Page): string => `/v1/${page.account}/${page.container}`
const get = (
  page: Page,
  path: string,
  extra: { query?: Map<string, string>; headers?: Headers; method?: string } = {},
): Promise<Res> => {
  const headers: Headers = { ...extra.headers }
  if (headers.range === '') delete headers.range
  else if (page.req.headers.range !== undefined) headers.range = page.req.headers.range
  for (const name of ['referer', 'if-match', 'if-none-match', 'if-modified-since', 'if-unmodified-since', 'x-auth-token']) {
    if (page.req.headers[name] !== undefined && headers[name] === undefined) headers[name] = page.req.headers[name]
  }
  return page.next(
    subRequest(page.req, { method: extra.method ?? page.req.method, path, query: extra.query, headers, source: 'SW' }),
  )
}

function redirect(page: Page): Res {
  const host = page.req.headers.host ?? 'localhost'
  return reply(
    301,
    {
      location: `${page.req.env.scheme}://${host}${page.req.env.mount}${page.req.rawPath}/${page.req.env.tempUrl ? `?${page.req.env.tempUrl.query}` : ''}`,
      'content-type': 'text/html; charset=UTF-8',
    },
    '',
  )
}

async function ofContainer(page: Page): Promise<Res> {
  const { req, web } = page
  if (req.headers['x-web-mode'] === undefined && !web.index && !web.listings) return errorPage(page, await page.next(req))
  if (!req.rawPath.endsWith('/')) return redirect(page)
  if (!web.index) return listing(page, '')
  const res = await get(page, `${base(page)}/${web.index}`)
  if (ok(res.status) || (res.status >= 300 && res.status < 400)) return res
  if (res.status === 404) {
    discard(res)
    return listing(page, '')
  }
  return errorPage(page, res)
}

async function ofObject(page: Page): Promise<Res> {
  const { req, web, object } = page
  const res = await page.next(req)
  const type = res.headers['content-type']?.split(';')[0]
  const isFolder = ok(res.status) && type === web.directoryType && Number(res.headers['content-length']) <= 1
  if (!isFolder && (ok(res.status) || (res.status >= 300 && res.status < 400))) return res
  if (res.status !== 404 && !isFolder) return errorPage(page, res)
  if (isFolder) discard(res)
  if (!web.listings && !web.index) return errorPage(page, isFolder ? refuse(404) : res)
  const folder = object.endsWith('/') ? object : `${object}/`
  if (!req.rawPath.endsWith('/')) {
    if (web.index && (await exists(page, `${base(page)}/${folder}${web.index}`))) return redirect(page)
    if (web.listings && (await holds(page, folder))) return redirect(page)
    return errorPage(page, isFolder ? refuse(404) : res)
  }
  if (web.index) {
    const index = await get(page, `${base(page)}/${folder}${web.index}`)
    if (ok(index.status) || (index.status >= 300 && index.status < 400)) return index
    discard(index)
  }
  return listing(page, folder)
}

async function exists(page: Page, path: string): Promise<boolean> {
  const res = await get(page, path, { method: 'HEAD' })
  discard(res)
  return ok(res.status)
}

async function rows(page: Page, prefix: string, limit: number): Promise<Row[] | Res> {
  const query = new Map([
    ['format', 'json'],
    ['delimiter', '/'],
    ['limit', String(limit)],
    ...(prefix ? [['prefix', prefix] as [string, string]] : []),
  ])
  const res = await get(page, base(page), { method: 'GET', query, headers: { range: '' } })
  if (!ok(res.status)) return res
  return JSON.parse((await readAll(res.body)).toString() || '[]') as Row[]
}

async function holds(page: Page, folder: string): Promise<boolean> {
  const found = await rows(page, folder, 1)
  return Array.isArray(found) && found.length > 0
}

async function listing(page: Page, prefix: string): Promise<Res> {
  const { web, req } = page
  if (!web.listings) return errorPage(page, refuse(404))
  const found = await rows(page, prefix, 10000)
  if (!Array.isArray(found)) return errorPage(page, found)
  if (prefix && found.length === 0) return errorPage(page, refuse(404))
  const label = web.label === null ? req.path : `${web.label}${prefix ? `/${prefix}` : ''}`
  const depth = prefix.split('/').length - 1
  const css = web.css
    ? `  <link rel="stylesheet" type="text/css" href="${cssPath(web.css, depth)}" />\n`
    : '  <style type="text/css">\n   h1 {font-size: 1em; font-weight: bold;}\n   th {text-align: left; padding: 0px 1em 0px 1em;}\n   td {padding: 0px 1em 0px 1em;}\n   a {text-decoration: none;}\n  </style>\n'
  const { tempUrl } = req.env
  const query = tempUrl?.prefix === undefined ? '' : `?${tempUrl.query}`
  const line = (kind: string, href: string, name: string, size: string, date: string): string =>
    `   <tr class="item ${kind}">\n    <td class="colname"><a href="${escapeXml(href + query)}">${escapeXml(name)}</a></td>\n    <td class="colsize">${size}</td>\n    <td class="coldate">${date}</td>\n   </tr>\n`
  const body = [
    ...(prefix.length > (tempUrl?.prefix ?? '').length ? [line('', '../', '../', '&nbsp;', '&nbsp;')] : []),
    ...found
      .filter(row => row.subdir !== undefined)
      .map(row =>
        line('subdir', `./${quote(row.subdir!.slice(prefix.length))}`, row.subdir!.slice(prefix.length), '&nbsp;', '&nbsp;'),
      ),
    ...found
      .filter(row => row.subdir === undefined && row.name !== prefix)
      .map(row =>
        line(
          `type-${String(row.content_type)
            .replace(/[^\w]+/g, ' type-')
            .toLowerCase()}`,
          `./${quote(row.name!.slice(prefix.length))}`,
          row.name!.slice(prefix.length),
          human(Number(row.bytes)),
          escapeXml(String(row.last_modified).split('.')[0].replace('T', ' ')),
        ),
      ),
  ]
  const html = `<!DOCTYPE html>\n<html>\n <head>\n  <title>Listing of ${escapeXml(label)}</title>\n${css} </head>\n <body>\n  <h1 id="title">Listing of ${escapeXml(label)}</h1>\n  <table id="listing">\n   <tr id="heading">\n    <th class="colname">Name</th>\n    <th class="colsize">Size</th>\n    <th class="coldate">Date</th>\n   </tr>\n${body.join('')}  </table>\n </body>\n</html>\n`
  const etag = createHash('md5').update(html).digest('hex')
  return reply(200, { 'content-type': 'text/html; charset=UTF-8', etag, [GENERATOR]: 'staticweb' }, html)
}

const cssPath = (css: string, depth: number): string =>
  /^https?:|^\//.test(css) ? quote(css).replaceAll('%3A', ':') : '../'.repeat(depth) + quote(css)

const human = (bytes: number): string => {
  const units = ['', 'K', 'M', 'G', 'T', 'P']
  let value = bytes
  let unit = 0
  while (value >= 1024 && unit < units.length - 1) {
    value /= 1024
    unit += 1
  }
  return `${unit === 0 ? value : value.toFixed(1)}${units[unit]}`
}

async function errorPage(page: Page, res: Res): Promise<Res> {
  if (!page.web.error || res.status < 400 || !page.web.error) return res
  const body = await get(page, `${base(page)}/${res.status}${page.web.error}`, { method: 'GET', headers: { range: '' } })
  if (!ok(body.status)) {
    discard(body)
    return res
  }
  discard(res)
  return {
    ...body,
    status: res.status,
    headers: {
      ...body.headers,
      ...(res.headers['www-authenticate'] ? { 'www-authenticate': res.headers['www-authenticate'] } : {}),
    },
  }
}
