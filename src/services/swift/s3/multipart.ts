/**
 * Multipart uploads. Parts are objects `key/uploadId/number` in the container `bucket+segments`, beside a marker `key/uploadId`; completing
 * one makes a static large object of them.
 */
import { createHash, randomBytes } from 'node:crypto'
import { type Headers, ok, type Res, readAll, reply } from '../http/message.ts'
import type { Row } from '../proxy/features/listings.ts'
import { checkConditions, md5Of } from './checks.ts'
import { S3Error, translated } from './errors.ts'
import { copyConditions, copySource, keyCheck, metadata, refusal, written } from './objects.ts'
import { ask, list, must, owner, rowEtag, rowTime, type S3, S3_ETAG, small } from './types.ts'
import { formatXml, parseXml, textOf } from './xml.ts'

const XML: Headers = { 'content-type': 'application/xml' }
const segmentsOf = (s3: S3): string => `${s3.bucket}+segments`

/** Requests with `uploads` or `uploadId`. */
export async function multipartRequest(s3: S3): Promise<Res> {
  const { method, query } = s3.req
  const id = query.get('uploadId')
  if (id === undefined) {
    if (method === 'POST' && s3.key !== null) return begin(s3)
    if (method === 'GET' && s3.key === null) return listUploads(s3)
    throw new S3Error('MethodNotAllowed')
  }
  if (s3.key === null) throw new S3Error('InvalidRequest')
  const marker = await ask(s3, 'HEAD', `${segmentsOf(s3)}/${s3.key}/${id}`)
  if (!ok(marker.status)) {
    await must(s3, 'HEAD', s3.bucket!)
    if (method === 'POST' && (await isDone(s3, id))) return finished(s3)
    throw new S3Error('NoSuchUpload', { UploadId: id })
  }
  switch (method) {
    case 'PUT':
      return putPart(s3, id)
    case 'GET':
      return listParts(s3, id)
    case 'DELETE':
      return abort(s3, id)
    case 'POST':
      return complete(s3, id, marker.headers)
    default:
      throw new S3Error('MethodNotAllowed')
  }
}

async function begin(s3: S3): Promise<Res> {
  keyCheck(s3)
  await must(s3, 'HEAD', s3.bucket!)
  const { headers } = s3.req
  const kept = metadata(headers)
  const id = randomBytes(36).toString('base64url')
  await must(s3, 'PUT', segmentsOf(s3))
  const marker: Headers = { 'content-type': 'application/directory' }
  // how the whole object will look is kept with the marker
  marker['x-object-sysmeta-s3api-upload'] = encodeURIComponent(JSON.stringify(kept))
  await must(s3, 'PUT', `${segmentsOf(s3)}/${s3.key}/${id}`, { headers: marker, length: 0 })
  return reply(200, XML, formatXml('InitiateMultipartUploadResult', { Bucket: s3.bucket, Key: s3.key, UploadId: id }))
}

async function putPart(s3: S3, id: string): Promise<Res> {
  const { req } = s3
  const number = Number(req.query.get('partNumber'))
  const most = s3.site.settings.s3!.maxParts
  if (!Number.isInteger(number) || number < 1 || number > most)
    throw new S3Error('InvalidArgument', {
      ArgumentName: 'partNumber',
      Message: `Part number must be an integer between 1 and ${most}, inclusive`,
    })
  const path = `${segmentsOf(s3)}/${s3.key}/${id}/${number}`
  if (req.headers['x-amz-copy-source'] !== undefined) {
    const source = copySource(s3)
    const headers: Headers = { ...copyConditions(req.headers) }
    if (req.headers['x-amz-copy-source-range'] !== undefined) headers.range = req.headers['x-amz-copy-source-range']
    const from = await ask(s3, 'GET', source.path, { query: source.query, headers })
    if (!ok(from.status)) throw from.status === 304 ? new S3Error('PreconditionFailed') : translated(from.status, true)
    const res = await must(s3, 'PUT', path, {
      headers: { 'content-type': 'application/octet-stream' },
      body: from.body,
      length: Number(from.headers['content-length']),
    })
    return reply(200, XML, formatXml('CopyPartResult', { LastModified: written(res), ETag: `"${res.headers.etag}"` }))
  }
  const headers: Headers = { 'content-type': 'application/octet-stream' }
  if (req.headers['content-md5'] !== undefined) headers.etag = md5Of(req.headers['content-md5'])
  const res = await ask(s3, 'PUT', path, { headers, body: req.body, length: req.length })
  if (!ok(res.status)) throw await refusal(s3, res, headers.etag)
  return reply(200, { etag: `"${res.headers.etag.replaceAll('"', '')}"` })
}

async function partsOf(s3: S3, id: string): Promise<(Row & { number: number })[]> {
  const prefix = `${s3.key}/${id}/`
  const rows = await list(s3, segmentsOf(s3), { prefix, limit: '10000' })
  return rows.map(row => ({ ...row, number: Number(row.name!.slice(prefix.length)) })).sort((a, b) => a.number - b.number)
}

async function listParts(s3: S3, id: string): Promise<Res> {
  const { query } = s3.req
  const most = Math.min(Number(query.get('max-parts') ?? 1000), 1000)
  const after = Number(query.get('part-number-marker') ?? 0)
  const parts = (await partsOf(s3, id)).filter(part => part.number > after)
  const shown = parts.slice(0, most)
  return reply(
    200,
    XML,
    formatXml('ListPartsResult', {
      Bucket: s3.bucket,
      Key: s3.key,
      UploadId: id,
      Initiator: owner(s3),
      Owner: owner(s3),
      StorageClass: 'STANDARD',
      PartNumberMarker: after,
      NextPartNumberMarker: shown.at(-1)?.number ?? 0,
      MaxParts: most,
      IsTruncated: parts.length > most,
      Part: shown.map(part => ({
        PartNumber: part.number,
        LastModified: rowTime(part),
        ETag: rowEtag(part),
        Size: Number(part.bytes),
      })),
    }),
  )
}

async function listUploads(s3: S3): Promise<Res> {
  await must(s3, 'HEAD', s3.bucket!)
  const { query } = s3.req
  const most = Math.min(Number(query.get('max-uploads') ?? 1000), 1000)
  const prefix = query.get('prefix') ?? ''
  const there = await ask(s3, 'HEAD', segmentsOf(s3))
  const rows = ok(there.status)
    ? await list(s3, segmentsOf(s3), { prefix, ...(query.get('key-marker') ? { marker: `${query.get('key-marker')}/~` } : {}) })
    : []
  const uploads = rows.filter(row => row.content_type === 'application/directory')
  return reply(
    200,
    XML,
    formatXml('ListMultipartUploadsResult', {
      Bucket: s3.bucket,
      KeyMarker: query.get('key-marker') ?? '',
      UploadIdMarker: query.get('upload-id-marker') ?? '',
      Prefix: prefix,
      MaxUploads: most,
      IsTruncated: uploads.length > most,
      Upload: uploads.slice(0, most).map(row => {
        const cut = row.name!.lastIndexOf('/')
        return {
          Key: row.name!.slice(0, cut),
          UploadId: row.name!.slice(cut + 1),
          Initiator: owner(s3),
          Owner: owner(s3),
          StorageClass: 'STANDARD',
          Initiated: rowTime(row),
        }
      }),
    }),
  )
}

async function abort(s3: S3, id: string): Promise<Res> {
  for (const part of await partsOf(s3, id)) await ask(s3, 'DELETE', `${segmentsOf(s3)}/${part.name}`)
  await ask(s3, 'DELETE', `${segmentsOf(s3)}/${s3.key}/${id}`)
  return reply(204)
}

async function complete(s3: S3, id: string, marker: Headers): Promise<Res> {
  checkConditions({ ...s3.req, method: 'PUT' })
  let document: ReturnType<typeof parseXml>
  try {
    document = parseXml(await small(s3, 2 * 1024 * 1024))
  } catch (error) {
    if (error instanceof S3Error) throw error
    throw new S3Error('MalformedXML')
  }
  const asked = document.children
    .filter(one => one.name === 'Part')
    .map(one => ({ number: Number(textOf(one, 'PartNumber')), etag: (textOf(one, 'ETag') ?? '').replaceAll('"', '').trim() }))
  if (asked.length === 0) throw new S3Error('MalformedXML')
  if (asked.some((part, i) => i > 0 && part.number <= asked[i - 1].number))
    throw new S3Error('InvalidPartOrder', { UploadId: id })
  const have = new Map((await partsOf(s3, id)).map(part => [part.number, part]))
  const sum = createHash('md5')
  const manifest = asked.map((part, i) => {
    const row = have.get(part.number)
    if (!row || rowEtag(row) !== `"${part.etag}"`)
      throw new S3Error('InvalidPart', { PartNumber: String(part.number), ETag: part.etag, UploadId: id })
    if (i < asked.length - 1 && Number(row.bytes) < s3.site.settings.s3!.minPartSize)
      throw new S3Error('EntityTooSmall', { PartNumber: String(part.number), ETag: part.etag })
    sum.update(Buffer.from(part.etag, 'hex'))
    return { path: `/${segmentsOf(s3)}/${row.name}`, etag: part.etag, size_bytes: Number(row.bytes) }
  })
  const etag = `${sum.digest('hex')}-${asked.length}`
  const headers: Headers = {
    ...(JSON.parse(decodeURIComponent(marker['x-object-sysmeta-s3api-upload'])) as Headers),
    [S3_ETAG]: etag,
    'x-object-sysmeta-s3api-upload-id': id,
    ...(s3.req.headers['if-none-match'] === undefined ? {} : { 'if-none-match': '*' }),
  }
  const body = Buffer.from(JSON.stringify(manifest))
  headers['x-object-sysmeta-container-update-override-etag'] = `${createHash('md5').update(body).digest('hex')}; s3_etag=${etag}`
  const res = await ask(s3, 'PUT', `${s3.bucket}/${s3.key}`, { query: { 'multipart-manifest': 'put' }, headers, body })
  if (!ok(res.status)) {
    await readAll(res.body)
    throw res.status === 400 ? new S3Error('InvalidPart', { UploadId: id }) : translated(res.status, true)
  }
  const used = new Set(asked.map(part => part.number))
  for (const part of have.values()) if (!used.has(part.number)) await ask(s3, 'DELETE', `${segmentsOf(s3)}/${part.name}`)
  await ask(s3, 'DELETE', `${segmentsOf(s3)}/${s3.key}/${id}`)
  return done(s3, etag, res.headers['x-object-version-id'])
}

const done = (s3: S3, etag: string, version?: string): Res =>
  reply(
    200,
    { ...XML, ...(version ? { 'x-amz-version-id': version } : {}) },
    formatXml('CompleteMultipartUploadResult', {
      Location: `${s3.req.env.scheme}://${s3.req.headers.host ?? 'localhost'}${s3.req.env.mount}/${s3.bucket}/${s3.key}`,
      Bucket: s3.bucket,
      Key: s3.key,
      ETag: `"${etag}"`,
    }),
  )

/** A completion sent twice: the object is there already, made by this very upload. */
async function isDone(s3: S3, id: string): Promise<boolean> {
  const head = await ask(s3, 'HEAD', `${s3.bucket}/${s3.key}`)
  return ok(head.status) && head.headers['x-object-sysmeta-s3api-upload-id'] === id
}

async function finished(s3: S3): Promise<Res> {
  const head = await must(s3, 'HEAD', `${s3.bucket}/${s3.key}`)
  return done(s3, head.headers[S3_ETAG])
}
