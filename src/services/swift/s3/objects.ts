/** Objects: PUT, GET, HEAD, DELETE, copy. */
import { discard, type Headers, ok, type Res, readAll, reply, unquote } from '../http/message.ts'
import { acl, canned } from './buckets.ts'
import { md5Of } from './checks.ts'
import { S3Error, translated } from './errors.ts'
import { ask, etagOf, must, type S3 } from './types.ts'
import { formatXml } from './xml.ts'

/** Requests for `/bucket/key`. */
export async function objectRequest(s3: S3): Promise<Res> {
  const { method, query } = s3.req
  if (query.has('acl')) return acl(s3)
  if (['tagging', 'torrent', 'retention', 'legal-hold', 'select', 'restore'].some(name => query.has(name)))
    throw new S3Error('NotImplemented')
  switch (method) {
    case 'GET':
    case 'HEAD':
      return get(s3)
    case 'PUT':
      return put(s3)
    case 'DELETE':
      return remove(s3)
    default:
      throw new S3Error('MethodNotAllowed')
  }
}

/** S3's metadata headers as Swift's. */
export function metadata(headers: Headers): Headers {
  const out: Headers = {}
  for (const name in headers) if (name.startsWith('x-amz-meta-')) out[`x-object-meta-${name.slice(11)}`] = headers[name]
  for (const name of [
    'content-type',
    'content-encoding',
    'content-disposition',
    'content-language',
    'cache-control',
    'expires',
    'x-delete-at',
    'x-delete-after',
    'x-robots-tag',
  ]) {
    if (headers[name] !== undefined) out[name] = headers[name]
  }
  const storage = headers['x-amz-storage-class']
  if (storage !== undefined && storage !== 'STANDARD') throw new S3Error('InvalidStorageClass')
  out['content-type'] ??= 'binary/octet-stream'
  return out
}

/** Throws KeyTooLongError. */
export function keyCheck(s3: S3): void {
  if (Buffer.byteLength(s3.key!) > s3.site.cluster.limits.max_object_name_length) throw new S3Error('KeyTooLongError')
}

/** When a PUT says that it was, as listings show it. */
export const written = (res: Res): string => new Date(res.headers['last-modified']).toISOString()

async function put(s3: S3): Promise<Res> {
  const { req } = s3
  keyCheck(s3)
  const name = req.headers['x-amz-acl']
  if (name !== undefined && Object.values(canned(name)).some(Boolean)) throw new S3Error('NotImplemented')
  if (req.headers['x-amz-copy-source'] !== undefined) return copy(s3)
  if (
    req.length === null &&
    req.headers['x-amz-decoded-content-length'] === undefined &&
    req.headers['transfer-encoding'] === undefined
  )
    throw new S3Error('MissingContentLength')
  const headers = metadata(req.headers)
  const digest = req.headers['content-md5']
  if (digest !== undefined) headers.etag = md5Of(digest)
  if (req.headers['if-none-match'] !== undefined) headers['if-none-match'] = '*'
  const res = await ask(s3, 'PUT', `${s3.bucket}/${s3.key}`, { headers, body: req.body, length: req.length })
  if (!ok(res.status)) throw await refusal(s3, res, headers.etag)
  return reply(200, { etag: `"${res.headers.etag.replaceAll('"', '')}"`, ...version(res) })
}

/** Why the store did not take an object. */
export async function refusal(s3: S3, res: Res, digest?: string): Promise<S3Error> {
  const text = (await readAll(res.body)).toString()
  for (const name of ['X-Delete-At', 'X-Delete-After'])
    if (res.status === 400 && text.includes(name))
      return new S3Error('InvalidArgument', {
        Message: text,
        ArgumentName: name,
        ArgumentValue: s3.req.headers[name.toLowerCase()] ?? '',
      })
  if (res.status === 404) return new S3Error('NoSuchBucket', { BucketName: s3.bucket! })
  if (res.status === 422 && digest) return new S3Error('BadDigest', { ExpectedDigest: digest })
  return translated(res.status, true)
}

const version = (res: Res): Headers =>
  res.headers['x-object-version-id'] ? { 'x-amz-version-id': res.headers['x-object-version-id'] } : {}

/** Where a copy comes from: `container/object` and its version. */
export function copySource(s3: S3): { path: string; query: Record<string, string> } {
  const [path, query = ''] = s3.req.headers['x-amz-copy-source'].split('?')
  const plain = unquote(path)?.replace(/^\//, '')
  if (!plain || !/^[^/]+\/.+$/s.test(plain))
    throw new S3Error('InvalidArgument', { ArgumentName: 'x-amz-copy-source', ArgumentValue: path })
  const named = new URLSearchParams(query)
  if ([...named.keys()].some(name => name !== 'versionId'))
    throw new S3Error('InvalidArgument', { ArgumentName: 'x-amz-copy-source', ArgumentValue: path })
  const id = named.get('versionId')
  return { path: plain, query: id ? { 'version-id': id } : {} }
}

/** The conditions on a copy's source. */
export function copyConditions(headers: Headers): Headers {
  const out: Headers = {}
  for (const name of ['if-match', 'if-none-match', 'if-modified-since', 'if-unmodified-since']) {
    const given = headers[`x-amz-copy-source-${name}`]
    if (given !== undefined) out[name] = given
  }
  return out
}

async function copy(s3: S3): Promise<Res> {
  const { req } = s3
  const source = copySource(s3)
  const directive = req.headers['x-amz-metadata-directive'] ?? 'COPY'
  if (directive !== 'COPY' && directive !== 'REPLACE')
    throw new S3Error('InvalidArgument', { ArgumentName: 'x-amz-metadata-directive', ArgumentValue: directive })
  const replace = directive === 'REPLACE'
  if (!replace && source.path === `${s3.bucket}/${s3.key}`)
    throw new S3Error('InvalidRequest', {
      Message: 'This copy request is illegal because it is trying to copy an object to itself without changing its metadata.',
    })
  const from = await ask(s3, 'GET', source.path, { query: source.query, headers: copyConditions(req.headers) })
  if (!ok(from.status)) throw from.status === 304 ? new S3Error('PreconditionFailed') : translated(from.status, true)
  const headers = replace ? metadata(req.headers) : kept(from.headers)
  const res = await ask(s3, 'PUT', `${s3.bucket}/${s3.key}`, {
    headers,
    body: from.body,
    length: Number(from.headers['content-length']),
  })
  if (!ok(res.status)) throw res.status === 404 ? new S3Error('NoSuchBucket') : translated(res.status, true)
  const body = formatXml('CopyObjectResult', {
    LastModified: written(res),
    ETag: `"${res.headers.etag.replaceAll('"', '')}"`,
  })
  return reply(200, { 'content-type': 'application/xml', ...version(res) }, body)
}

function kept(headers: Headers): Headers {
  const out: Headers = {}
  for (const name in headers) {
    if (
      name.startsWith('x-object-meta-') ||
      ['content-type', 'content-encoding', 'content-disposition', 'content-language', 'cache-control', 'expires'].includes(name)
    )
      out[name] = headers[name]
  }
  return out
}

async function get(s3: S3): Promise<Res> {
  const { req } = s3
  const headers: Headers = {}
  for (const name in req.headers) if (name === 'range' || name.startsWith('if-')) headers[name] = req.headers[name]
  const id = req.query.get('versionId')
  // the store has no ranges of what is not sent
  const method = headers.range === undefined ? req.method : 'GET'
  const found = await ask(s3, method, `${s3.bucket}/${s3.key}`, { headers, query: id ? { 'version-id': id } : {} })
  if (method !== req.method) discard(found)
  const res = method === req.method ? found : { ...found, body: null }
  if (res.status !== 304 && !ok(res.status)) {
    if (res.status === 404) {
      const box = await ask(s3, 'HEAD', s3.bucket!)
      if (!ok(box.status)) throw new S3Error('NoSuchBucket')
      throw new S3Error(id ? 'NoSuchVersion' : 'NoSuchKey', { Key: s3.key! })
    }
    throw translated(res.status, true)
  }
  const out: Headers = { etag: etagOf(res.headers), ...version(res) }
  for (const name in res.headers) {
    if (name.startsWith('x-object-meta-')) out[`x-amz-meta-${name.slice(14)}`] = res.headers[name]
    else if (
      [
        'content-type',
        'content-length',
        'content-range',
        'content-encoding',
        'content-disposition',
        'content-language',
        'cache-control',
        'expires',
        'last-modified',
        'accept-ranges',
        'x-robots-tag',
      ].includes(name)
    )
      out[name] = res.headers[name]
  }
  const end = res.headers['x-delete-at']
  if (end !== undefined)
    out['x-amz-expiration'] = `expiry-date="${new Date(Number(end) * 1000).toUTCString()}", rule-id="swift-object-expiration"`
  for (const [name, value] of req.query) if (name.startsWith('response-') && ok(res.status)) out[name.slice(9)] = value
  return { ...res, headers: out }
}

async function remove(s3: S3): Promise<Res> {
  const id = s3.req.query.get('versionId')
  await must(s3, 'HEAD', s3.bucket!)
  const path = `${s3.bucket}/${s3.key}`
  const query: Record<string, string> = id ? { 'version-id': id } : {}
  const head = await ask(s3, 'HEAD', path, { query })
  if (head.headers['x-static-large-object'] !== undefined && head.headers['x-object-version-id'] === undefined)
    query['multipart-manifest'] = 'delete'
  const res = await ask(s3, 'DELETE', path, { query })
  if (query['multipart-manifest']) await readAll(res.body)
  if (!ok(res.status) && res.status !== 404) throw translated(res.status, true)
  return reply(204, {
    ...version(res),
    ...(res.headers['x-backend-delete-marker'] || (!id && res.headers['x-object-version-id'])
      ? { 'x-amz-delete-marker': 'true' }
      : {}),
  })
}
