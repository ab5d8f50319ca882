/** Turns the store's JSON listings into what the client asked for: text, JSON or XML. */
import { RESERVED } from '../../constraints.ts'
import { isTrue, ok, type Req, type Res, readAll, refuse, reply } from '../../http/message.ts'
import { pathOf, type Step } from '../site.ts'

type Format = 'text/plain' | 'application/json' | 'application/xml' | 'text/xml'
const FORMATS: Format[] = ['text/plain', 'application/json', 'application/xml', 'text/xml']

/** The format by `?format=` or `Accept`. Null: none of ours will do (406). */
export function formatOf(req: Req): Format | null {
  const asked = req.query.get('format')?.toLowerCase()
  if (asked) return asked === 'json' ? 'application/json' : asked === 'xml' ? 'application/xml' : 'text/plain'
  const accept = req.headers.accept
  if (!accept) return 'text/plain'
  let best: { format: Format; q: number; exact: number } | null = null
  for (const item of accept.split(',')) {
    const [type, ...params] = item.split(';').map(part => part.trim().toLowerCase())
    const given = params.find(param => param.startsWith('q='))
    const q = given === undefined ? 1 : Number(given.slice(2))
    if (Number.isNaN(q)) return null
    if (q <= 0) continue
    for (const format of FORMATS) {
      const [group] = format.split('/')
      const exact = type === format ? 2 : type === `${group}/*` ? 1 : type === '*/*' ? 0 : -1
      if (exact < 0) continue
      if (!best || q > best.q || (q === best.q && exact > best.exact)) best = { format, q, exact }
    }
  }
  return best?.format ?? null
}

export const escapeXml = (value: unknown): string =>
  String(value)
    .replaceAll('&', '&amp;')
    .replaceAll('<', '&lt;')
    .replaceAll('>', '&gt;')
    .replaceAll('"', '&quot;')
    // biome-ignore lint/suspicious/noControlCharactersInRegex: characters that XML 1.0 cannot hold
    .replace(/[\u0000-\u0008\u000b\u000c\u000e-\u001f]/g, '')

export type Row = Record<string, unknown> & { name?: string; subdir?: string }

function xml(rows: Row[], kind: 'account' | 'container', name: string): string {
  const item = kind === 'account' ? 'container' : 'object'
  const fields =
    kind === 'account'
      ? ['name', 'count', 'bytes', 'last_modified', 'storage_policy']
      : ['name', 'hash', 'bytes', 'content_type', 'last_modified']
  const body = rows.map(row => {
    if (row.subdir !== undefined)
      return `<subdir name="${escapeXml(row.subdir)}">${kind === 'container' ? `<name>${escapeXml(row.subdir)}</name>` : ''}</subdir>`
    return `<${item}>${fields
      .filter(field => row[field] !== undefined)
      .map(field => `<${field}>${escapeXml(row[field])}</${field}>`)
      .join('')}</${item}>`
  })
  return `<?xml version="1.0" encoding="UTF-8"?>\n<${kind} name="${escapeXml(name)}">${kind === 'account' ? '\n' : ''}${body.join(kind === 'account' ? '\n' : '')}</${kind}>`
}

function takesJson(req: Req): boolean {
  const format = req.query.get('format')?.toLowerCase()
  if (format) return format === 'json'
  const { accept } = req.headers
  if (!accept) return true
  const types = accept.split(',').map(item => item.split(';')[0].trim().toLowerCase())
  return types.some(type => ['application/json', 'application/*', '*/*'].includes(type))
}

/** Before the step the store only knows JSON; behind it, what was asked for. */
export const listings: Step = next => async req => {
  const path = pathOf(req)
  if (!path || path.object !== null || (req.method !== 'GET' && req.method !== 'HEAD')) return next(req)
  // listings of versions are JSON, whatever is asked for; who takes none gets none
  const isVersions = path.container !== null && req.query.has('versions')
  const format = isVersions ? (takesJson(req) ? 'application/json' : null) : formatOf(req)
  if (!format) return refuse(406)
  const wanted = req.query.get('format')
  req.query.set('format', 'json')
  const res = await next(req)
  if (wanted === undefined) req.query.delete('format')
  else req.query.set('format', wanted)
  if (!ok(res.status) || res.headers['x-backend-listing'] === undefined) return res
  const type = `${format}; charset=utf-8`
  const vary = { ...res.headers, 'content-type': type, vary: 'Accept' }
  if (req.method === 'HEAD') return { ...res, headers: vary }
  const bytes = await readAll(res.body)
  const hasReserved = bytes.includes('\\u0000') && !isTrue(req.headers['x-backend-allow-reserved-names'])
  return render(
    vary,
    bytes,
    format,
    path.container === null ? 'account' : 'container',
    path.container ?? path.account,
    hasReserved,
  )
}

function render(
  headers: Res['headers'],
  bytes: Buffer,
  format: Format,
  kind: 'account' | 'container',
  name: string,
  hasReserved: boolean,
): Res {
  const kept = { ...headers }
  delete kept['content-length']
  if (format === 'application/json' && !hasReserved) return reply(200, kept, bytes)
  let rows = JSON.parse(bytes.toString()) as Row[]
  if (hasReserved) rows = rows.filter(row => !(row.name ?? row.subdir)!.startsWith(RESERVED))
  if (format === 'application/json') return reply(200, kept, Buffer.from(JSON.stringify(rows)))
  if (format !== 'text/plain') return reply(200, kept, Buffer.from(xml(rows, kind, name)))
  const lines = rows.map(row => `${row.name ?? row.subdir}\n`).join('')
  return reply(lines ? 200 : 204, kept, Buffer.from(lines))
}
