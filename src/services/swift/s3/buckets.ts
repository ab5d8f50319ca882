/** Buckets: listing, making, removing, versioning, access. */
import { type Headers, ok, type Res, readAll, reply } from '../http/message.ts'
import type { Row } from '../proxy/features/listings.ts'
import { S3Error } from './errors.ts'
import { ask, list, must, owner, rowEtag, rowTime, type S3, small } from './types.ts'
import { child, formatXml, parseXml, type Tree, textOf } from './xml.ts'

const XML: Headers = { 'content-type': 'application/xml' }

/** `GET /`: the buckets. */
export async function serviceRequest(s3: S3): Promise<Res> {
  if (s3.req.method !== 'GET' && s3.req.method !== 'HEAD') throw new S3Error('MethodNotAllowed')
  const res = await ask(s3, 'GET', '', { query: { format: 'json' } })
  if (!ok(res.status)) throw new S3Error('AccessDenied')
  const rows = JSON.parse((await readAll(res.body)).toString() || '[]') as Row[]
  const buckets = rows.filter(row => isName(row.name!)).map(row => ({ Name: row.name, CreationDate: rowTime(row) }))
  return reply(200, XML, formatXml('ListAllMyBucketsResult', { Owner: owner(s3), Buckets: { Bucket: buckets } }))
}

const isName = (name: string): boolean => /^[a-zA-Z0-9][a-zA-Z0-9._-]{1,253}[a-zA-Z0-9]$/.test(name)

const REFUSED = [
  'lifecycle',
  'policy',
  'website',
  'tagging',
  'notification',
  'cors',
  'inventory',
  'accelerate',
  'requestPayment',
  'replication',
  'encryption',
]

/** Requests for `/bucket`. */
export async function bucketRequest(s3: S3): Promise<Res> {
  const { method, query } = s3.req
  if (!isName(s3.bucket!)) throw new S3Error('InvalidBucketName', { BucketName: s3.bucket! })
  if (REFUSED.some(name => query.has(name))) throw new S3Error('NotImplemented')
  if (query.has('location')) return location(s3)
  if (query.has('versioning')) return method === 'PUT' ? setVersioning(s3) : versioning(s3)
  if (query.has('acl')) return acl(s3)
  if (query.has('delete') && method === 'POST') return deleteMany(s3)
  if (query.has('logging')) {
    if (method === 'PUT') throw new S3Error('NotImplemented')
    await must(s3, 'HEAD', s3.bucket!)
    return reply(200, XML, formatXml('BucketLoggingStatus', {}))
  }
  if (query.has('object-lock')) throw new S3Error(method === 'GET' ? 'ObjectLockConfigurationNotFoundError' : 'NotImplemented')
  switch (method) {
    case 'HEAD':
      await must(s3, 'HEAD', s3.bucket!)
      return reply(200, XML)
    case 'GET':
      return query.has('versions') ? listVersions(s3) : listObjects(s3)
    case 'PUT':
      return create(s3)
    case 'DELETE':
      return remove(s3)
    default:
      throw new S3Error('MethodNotAllowed')
  }
}

async function create(s3: S3): Promise<Res> {
  const text = await small(s3)
  if (text) {
    const wanted = textOf(parse(text), 'LocationConstraint')
    if (wanted && wanted !== s3.site.settings.s3!.region && wanted !== 'US')
      throw new S3Error('InvalidLocationConstraint', { LocationConstraint: wanted })
  }
  const headers = canned(s3.req.headers['x-amz-acl'])
  const res = await must(s3, 'PUT', s3.bucket!, { headers })
  if (res.status === 202) throw new S3Error('BucketAlreadyOwnedByYou', { BucketName: s3.bucket! })
  return reply(200, { location: `/${s3.bucket}` })
}

function parse(text: string): ReturnType<typeof parseXml> {
  try {
    return parseXml(text)
  } catch {
    throw new S3Error('MalformedXML')
  }
}

async function remove(s3: S3): Promise<Res> {
  const segments = `${s3.bucket}+segments`
  const uploads = await ask(s3, 'GET', segments, { query: { format: 'json', limit: '1000' } })
  const res = await ask(s3, 'DELETE', s3.bucket!)
  if (!ok(res.status))
    throw new S3Error(res.status === 404 ? 'NoSuchBucket' : res.status === 409 ? 'BucketNotEmpty' : 'AccessDenied')
  if (ok(uploads.status)) {
    for (
      let rows = JSON.parse((await readAll(uploads.body)).toString() || '[]') as Row[];
      rows.length;
      rows = await list(s3, segments, { limit: '1000' })
    ) {
      for (const row of rows) await ask(s3, 'DELETE', `${segments}/${row.name}`)
    }
    await ask(s3, 'DELETE', segments)
  }
  return reply(204)
}

async function location(s3: S3): Promise<Res> {
  await must(s3, 'HEAD', s3.bucket!)
  const { region } = s3.site.settings.s3!
  const text = region === 'us-east-1' ? '' : region
  return reply(
    200,
    XML,
    Buffer.from(
      `<?xml version="1.0" encoding="UTF-8"?>\n<LocationConstraint xmlns="http://s3.amazonaws.com/doc/2006-03-01/">${text}</LocationConstraint>`,
    ),
  )
}

async function versioning(s3: S3): Promise<Res> {
  const { headers } = await must(s3, 'HEAD', s3.bucket!)
  const enabled = headers['x-versions-enabled']
  return reply(
    200,
    XML,
    formatXml('VersioningConfiguration', {
      Status: enabled === undefined ? undefined : enabled === 'True' ? 'Enabled' : 'Suspended',
    }),
  )
}

async function setVersioning(s3: S3): Promise<Res> {
  const status = textOf(parse(await small(s3)), 'Status')
  if (status !== 'Enabled' && status !== 'Suspended') throw new S3Error('MalformedXML')
  await must(s3, 'POST', s3.bucket!, { headers: { 'x-versions-enabled': status === 'Enabled' ? 'true' : 'false' } })
  return reply(200)
}

/** The container lists of a canned ACL. */
export function canned(name: string | undefined): Headers {
  switch (name) {
    case undefined:
      return {}
    case 'private':
    case 'bucket-owner-read':
    case 'bucket-owner-full-control':
      return { 'x-container-read': '', 'x-container-write': '' }
    case 'public-read':
      return { 'x-container-read': '.r:*,.rlistings', 'x-container-write': '' }
    case 'public-read-write':
    case 'authenticated-read':
    case 'log-delivery-write':
      throw new S3Error('NotImplemented')
    default:
      throw new S3Error('InvalidArgument', { ArgumentName: 'x-amz-acl', ArgumentValue: name })
  }
}

/** Access of a bucket; of an object too, which has that of its bucket. */
export async function acl(s3: S3): Promise<Res> {
  if (s3.req.method === 'PUT') {
    let name = s3.req.headers['x-amz-acl']
    if (name === undefined) {
      const grants = child(parse(await small(s3)), 'AccessControlList')?.children ?? []
      const isPublic = grants.some(
        grant => textOf(child(grant, 'Grantee') ?? grant, 'URI')?.endsWith('/AllUsers') && textOf(grant, 'Permission') === 'READ',
      )
      name = isPublic ? 'public-read' : 'private'
    }
    if (s3.key !== null) {
      await must(s3, 'HEAD', `${s3.bucket}/${s3.key}`)
      if (name !== 'private') throw new S3Error('NotImplemented')
      return reply(200)
    }
    await must(s3, 'POST', s3.bucket!, { headers: canned(name) })
    return reply(200)
  }
  if (s3.key !== null) await must(s3, 'HEAD', `${s3.bucket}/${s3.key}`)
  const { headers } = await must(s3, 'HEAD', s3.bucket!)
  const who = owner(s3)
  const grant = (type: string, grantee: string, permission: string): string =>
    `<Grant><Grantee xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" xsi:type="${type}">${grantee}</Grantee><Permission>${permission}</Permission></Grant>`
  const grants = [grant('CanonicalUser', `<ID>${who.ID}</ID><DisplayName>${who.DisplayName}</DisplayName>`, 'FULL_CONTROL')]
  if (headers['x-container-read']?.includes('.r:*'))
    grants.push(grant('Group', '<URI>http://acs.amazonaws.com/groups/global/AllUsers</URI>', 'READ'))
  const body = `<?xml version="1.0" encoding="UTF-8"?>\n<AccessControlPolicy xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Owner><ID>${who.ID}</ID><DisplayName>${who.DisplayName}</DisplayName></Owner><AccessControlList>${grants.join('')}</AccessControlList></AccessControlPolicy>`
  return reply(200, XML, Buffer.from(body))
}

const limitOf = (s3: S3, name: string): number => {
  const given = s3.req.query.get(name)
  if (given !== undefined && !/^\d+$/.test(given))
    throw new S3Error('InvalidArgument', { ArgumentName: name, ArgumentValue: given })
  return Math.min(given === undefined || given === '' ? 1000 : Number(given), 1000)
}

async function listObjects(s3: S3): Promise<Res> {
  const { query } = s3.req
  const two = query.get('list-type') === '2'
  const limit = limitOf(s3, 'max-keys')
  const prefix = query.get('prefix') ?? ''
  const delimiter = query.get('delimiter')
  const token = query.get('continuation-token')
  const marker = two
    ? token
      ? Buffer.from(token, 'base64').toString()
      : (query.get('start-after') ?? '')
    : (query.get('marker') ?? '')
  const rows = await list(s3, s3.bucket!, {
    limit: String(limit + 1),
    prefix,
    ...(delimiter ? { delimiter } : {}),
    ...(marker ? { marker } : {}),
  })
  const shown = rows.slice(0, limit)
  const isCut = rows.length > limit && limit > 0
  const last = shown.at(-1)
  const lastName = last ? (last.name ?? last.subdir!) : ''
  const encode = encoder(s3)
  const contents = shown
    .filter(row => row.subdir === undefined)
    .map(row => ({
      Key: encode(row.name!),
      LastModified: rowTime(row),
      ETag: rowEtag(row),
      Size: Number(row.bytes),
      ...(two && query.get('fetch-owner') !== 'true' ? {} : { Owner: owner(s3) }),
      StorageClass: 'STANDARD',
    }))
  const tree: Tree = {
    Name: s3.bucket,
    Prefix: encode(prefix),
    ...(two
      ? {
          StartAfter: query.get('start-after'),
          ContinuationToken: token,
          NextContinuationToken: isCut ? Buffer.from(lastName).toString('base64') : undefined,
          KeyCount: shown.length,
        }
      : { Marker: encode(marker), NextMarker: isCut && delimiter ? encode(lastName) : undefined }),
    MaxKeys: limit,
    Delimiter: delimiter ? encode(delimiter) : undefined,
    EncodingType: query.get('encoding-type'),
    IsTruncated: isCut,
    Contents: contents,
    CommonPrefixes: shown.filter(row => row.subdir !== undefined).map(row => ({ Prefix: encode(row.subdir!) })),
  }
  return reply(200, XML, formatXml('ListBucketResult', tree))
}

const encoder = (s3: S3): ((text: string) => string) => {
  const wanted = s3.req.query.get('encoding-type')
  if (wanted !== undefined && wanted !== 'url')
    throw new S3Error('InvalidArgument', { ArgumentName: 'encoding-type', ArgumentValue: wanted })
  return wanted === 'url' ? text => encodeURIComponent(text).replaceAll('%2F', '/') : text => text
}

async function listVersions(s3: S3): Promise<Res> {
  const { query } = s3.req
  const limit = limitOf(s3, 'max-keys')
  const [marker, version] = [query.get('key-marker') ?? '', query.get('version-id-marker') ?? '']
  const options: Record<string, string> = { versions: '', limit: String(limit + 1), prefix: query.get('prefix') ?? '' }
  if (query.get('delimiter')) options.delimiter = query.get('delimiter')!
  if (marker) options.marker = marker
  if (version) options.version_marker = version
  const rows = await list(s3, s3.bucket!, options)
  const shown = rows.slice(0, limit)
  const encode = encoder(s3)
  const entry = (row: Row): Tree => ({
    Key: encode(row.name!),
    VersionId: String(row.version_id ?? 'null'),
    IsLatest: row.is_latest !== false,
    LastModified: rowTime(row),
    Owner: owner(s3),
  })
  const isMarker = (row: Row): boolean => String(row.content_type).startsWith('application/x-deleted')
  const named = shown.filter(row => row.subdir === undefined)
  const last = shown.at(-1)
  const tree: Tree = {
    Name: s3.bucket,
    Prefix: encode(query.get('prefix') ?? ''),
    KeyMarker: encode(marker),
    VersionIdMarker: version,
    NextKeyMarker: rows.length > limit && last ? encode(last.name ?? last.subdir!) : undefined,
    NextVersionIdMarker: rows.length > limit && last ? String(last.version_id ?? 'null') : undefined,
    MaxKeys: limit,
    IsTruncated: rows.length > limit,
    Version: named
      .filter(row => !isMarker(row))
      .map(row => ({ ...entry(row), ETag: rowEtag(row), Size: Number(row.bytes), StorageClass: 'STANDARD' })),
    DeleteMarker: named.filter(isMarker).map(entry),
    CommonPrefixes: shown.filter(row => row.subdir !== undefined).map(row => ({ Prefix: encode(row.subdir!) })),
  }
  return reply(200, XML, formatXml('ListVersionsResult', tree))
}

async function deleteMany(s3: S3): Promise<Res> {
  await must(s3, 'HEAD', s3.bucket!)
  const document = parse(await small(s3, 4 * 1024 * 1024))
  const objects = document.children.filter(one => one.name === 'Object')
  if (objects.length > 1000) throw new S3Error('MalformedXML')
  const quiet = textOf(document, 'Quiet') === 'true'
  const deleted: Tree[] = []
  const errors: Tree[] = []
  for (const object of objects) {
    const key = textOf(object, 'Key')
    const version = textOf(object, 'VersionId')
    if (!key) throw new S3Error('MalformedXML')
    const query: Record<string, string> = { ...(version ? { 'version-id': version } : {}) }
    const head = await ask(s3, 'HEAD', `${s3.bucket}/${key}`, { query })
    if (head.headers['x-static-large-object'] !== undefined && head.headers['x-object-version-id'] === undefined)
      query['multipart-manifest'] = 'delete'
    const res = await ask(s3, 'DELETE', `${s3.bucket}/${key}`, { query })
    if (query['multipart-manifest']) await readAll(res.body)
    if (ok(res.status) || res.status === 404)
      deleted.push({ Key: key, VersionId: version, ...(res.headers['x-backend-delete-marker'] ? { DeleteMarker: true } : {}) })
    else errors.push({ Key: key, VersionId: version, Code: 'AccessDenied', Message: 'Access Denied.' })
  }
  return reply(200, XML, formatXml('DeleteResult', { Deleted: quiet ? [] : deleted, Error: errors }))
}
