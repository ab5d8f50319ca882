/** One S3 request on its way, and its requests to the store. */
import { createHash } from 'node:crypto'
import { type App, discard, type Headers, ok, type Req, type Res, readAll, subRequest } from '../http/message.ts'
import type { Row } from '../proxy/features/listings.ts'
import type { Site } from '../proxy/site.ts'
import { md5Of } from './checks.ts'
import { S3Error, translated } from './errors.ts'

export interface S3 {
  next: App
  site: Site
  req: Req
  account: string
  bucket: string | null
  key: string | null
}

export interface Asked {
  query?: Record<string, string>
  headers?: Headers
  body?: AsyncIterable<Buffer> | Buffer | null
  length?: number | null
}

/** A request of the asker's for `container[/object]`. */
export function ask(s3: S3, method: string, path: string, { query = {}, headers = {}, body, length }: Asked = {}): Promise<Res> {
  return s3.next(
    subRequest(s3.req, {
      method,
      path: `/v1/${s3.account}/${path}`,
      query: new Map(Object.entries(query)),
      headers,
      body,
      length,
      source: 'S3',
    }),
  )
}

/** The same, throwing S3's error for a failure; the body is let go of. */
export async function must(s3: S3, method: string, path: string, asked: Asked = {}, isKey = path.includes('/')): Promise<Res> {
  const res = await ask(s3, method, path, asked)
  if (method !== 'GET' || !ok(res.status)) discard(res)
  if (!ok(res.status)) throw translated(res.status, isKey)
  return res
}

/** A page of a container. */
export async function list(s3: S3, container: string, query: Record<string, string>): Promise<Row[]> {
  const res = await must(s3, 'GET', container, { query: { format: 'json', ...query } }, false)
  return JSON.parse((await readAll(res.body)).toString() || '[]') as Row[]
}

/** The body of a request for configuration, at most that long. */
export async function small(s3: S3, most = 1024 * 1024): Promise<string> {
  if (s3.req.length !== null && s3.req.length > most) throw new S3Error('EntityTooLarge')
  const bytes = await readAll(s3.req.body, most)
  const digest = s3.req.headers['content-md5']
  if (digest !== undefined && md5Of(digest) !== createHash('md5').update(bytes).digest('hex'))
    throw new S3Error('BadDigest', { ExpectedDigest: digest.trim() })
  return bytes.toString()
}

export const S3_ETAG = 'x-object-sysmeta-s3api-etag'
/** The ETag that S3 shows, in quotes. */
export const etagOf = (headers: Headers): string => `"${(headers[S3_ETAG] ?? headers.etag ?? '').replaceAll('"', '')}"`
export const rowEtag = (row: Row): string => `"${String(row.s3_etag ?? row.slo_etag ?? row.hash).replaceAll('"', '')}"`
/** A row's time in whole seconds, rounded up as `Last-Modified` is: both must say the same. */
export function rowTime(row: Row): string {
  const [whole, fraction = '0'] = String(row.last_modified).split('.')
  return new Date(Date.parse(`${whole}Z`) + (Number(fraction) > 0 ? 1000 : 0)).toISOString()
}
export const owner = (s3: S3): { ID: string; DisplayName: string } => {
  const id = s3.req.env.who?.userId ?? s3.req.env.s3!.accessKey
  return { ID: id, DisplayName: s3.req.env.who?.userName ?? id }
}
