/** PUT of an object: stream to a temporary file, check length and ETag, make it durable under its name, tell the container. */
import { createHash } from 'node:crypto'
import { checkObjectCreation } from '../constraints.ts'
import { beginWrite, dataName, invalidate, look, newest, openFound, tidy } from '../disk/diskfile.ts'
import { type Disk, failedWith, hashDir, isDeviceFault, isFull } from '../disk/layout.ts'
import { Corrupt } from '../disk/record.ts'
import { hashName } from '../hash.ts'
import { type Headers, isTrue, type Req, type Res, refuse, reply } from '../http/message.ts'
import { seconds } from '../timestamp.ts'
import type { ObjectSite } from './site.ts'
import { updateContainers, updateExpirer } from './updates.ts'

/** Headers of an object that are kept as they are, beside `X-Object-Meta-*` and the store's own. */
export const KEPT = [
  'content-disposition',
  'content-encoding',
  'x-delete-at',
  'x-object-manifest',
  'x-static-large-object',
  'cache-control',
  'content-language',
  'expires',
  'x-robots-tag',
]

/** True for headers that belong to an object's metadata. */
export const isObjectMeta = (name: string): boolean =>
  name.startsWith('x-object-meta-') ||
  name.startsWith('x-object-sysmeta-') ||
  name.startsWith('x-object-transient-sysmeta-') ||
  KEPT.includes(name)

export interface Target {
  disk: Disk
  policy: number
  partition: string
  names: [account: string, container: string, object: string]
  dir: string
  hash: string
}

/** Where an object is on this server. */
export function target(
  site: ObjectSite,
  device: string,
  partition: string,
  names: [string, string, string],
  policy: number,
): Target {
  const disk = { root: site.root, device }
  const hash = hashName(site.secrets, ...names)
  return { disk, policy, partition, names, dir: hashDir(disk, policy, partition, hash), hash }
}

/** Stores an object. 201, or 408, 409, 412, 413, 422, 499, 507. */
export async function put(site: ObjectSite, at: Target, req: Req): Promise<Res> {
  const refused = checkObjectCreation(req, at.names[2], site.limits)
  if (refused) return refused
  const timestamp = req.headers['x-timestamp']
  const fragment = req.headers['x-backend-fragment-index']
  const found = await look(at.dir, { notDurable: true, fragment: fragment === undefined ? null : Number(fragment) })
  const last = found.data?.timestamp ?? found.tombstone?.timestamp ?? null
  if (req.headers['if-none-match'] === '*' && found.data && !(await isExpired(at, timestamp))) return refuse(412)
  const sameFragment = found.data?.timestamp === timestamp && fragment !== undefined && found.data.fragment !== Number(fragment)
  if (last !== null && last >= timestamp && !(last === timestamp && (sameFragment || (fragment !== undefined && !found.data)))) {
    return refuse(409, undefined, { 'x-backend-timestamp': newest(found)! })
  }
  try {
    if (await isFull(at.disk, site.reserve, req.length ?? 0)) return refuse(507)
    return await store(site, at, req, timestamp, found.all.length === 0)
  } catch (error) {
    if (isDeviceFault(error) || failedWith(error, 'ENOENT')) {
      site.log.warn({ err: error, device: at.disk.device }, 'device refused a write')
      return refuse(507)
    }
    throw error
  }
}

async function store(site: ObjectSite, at: Target, req: Req, timestamp: string, isNew: boolean): Promise<Res> {
  const before = isNew ? null : await metadataBefore(at)
  const writing = await beginWrite(at.disk, at.policy)
  try {
    const sum = createHash('md5')
    if (req.body) {
      for await (const chunk of req.body) {
        if (writing.size + chunk.length > site.limits.max_file_size) return refuse(413)
        sum.update(chunk)
        await writing.write(chunk)
      }
    }
    if (req.length !== null && writing.size !== req.length) return refuse(499)
    const etag = sum.digest('hex')
    const footers = req.footers?.() ?? {}
    const metadata = describe(at, req, footers, timestamp, etag, writing.size)
    const asked = (footers.etag ?? req.headers.etag)?.replace(/^"|"$/g, '').toLowerCase()
    if (asked && asked !== etag) return refuse(422)
    const fragment = req.headers['x-backend-fragment-index']
    const durable = fragment !== undefined && !isTrue(req.headers['x-backend-no-commit'])
    const name = dataName(timestamp, fragment === undefined ? null : Number(fragment), durable)
    await writing.commit(at.dir, metadata, name, isNew)
    await afterWrite(at, isNew)
    // a fragment counts for nothing before its COMMIT
    if (fragment === undefined || durable) await announce(site, at, req, metadata, footers, before)
    return reply(201, { etag, 'content-type': 'text/html; charset=UTF-8' })
  } finally {
    await writing.abandon()
  }
}

function describe(at: Target, req: Req, footers: Headers, timestamp: string, etag: string, size: number): Headers {
  const metadata: Headers = {
    name: `/${at.names.join('/')}`,
    'x-timestamp': timestamp,
    'content-type': req.headers['content-type'],
    'content-length': String(size),
    etag,
  }
  for (const headers of [req.headers, footers]) for (const name in headers) if (isObjectMeta(name)) metadata[name] = headers[name]
  for (const name of (req.headers['x-backend-replication-headers'] ?? '').split(' ')) {
    if (name && req.headers[name] !== undefined) metadata[name] = req.headers[name]
  }
  return metadata
}

/** Drops what the new file replaces and marks the suffix as changed. */
export async function afterWrite(at: Target, isNew: boolean): Promise<void> {
  if (!isNew) await tidy(at.dir, { notDurable: true })
  await invalidate(at.disk, at.policy, at.partition, at.hash)
}

/** Tells the container and the expirer's queue what is stored now. */
export async function announce(
  site: ObjectSite,
  at: Target,
  req: Req,
  metadata: Headers,
  footers: Headers,
  before: Headers | null,
): Promise<void> {
  const row: Headers = {
    'x-size': metadata['content-length'],
    'x-content-type': metadata['content-type'],
    'x-timestamp': metadata['x-timestamp'],
    'x-etag': metadata.etag,
  }
  override(row, req.headers)
  override(row, footers)
  await moveExpiry(site, at, req, Number(before?.['x-delete-at'] ?? 0), Number(metadata['x-delete-at'] ?? 0))
  await updateContainers(site, at.disk, at.policy, 'PUT', at.names, req, row)
}

const OVERRIDE = 'x-object-sysmeta-container-update-override-'
const BACKEND_OVERRIDE = 'x-backend-container-update-override-'

/** Applies what the proxy wants the container to see in place of the stored size, ETag or type. */
export function override(row: Headers, headers: Headers): void {
  for (const name in headers) {
    if (name.startsWith(OVERRIDE)) row[`x-${name.slice(OVERRIDE.length)}`] = headers[name]
    else if (name.startsWith(BACKEND_OVERRIDE)) row[`x-${name.slice(BACKEND_OVERRIDE.length)}`] = headers[name]
  }
}

/** Keeps the expirer's queue right when an object's end changes from `before` to `after` (0: none). */
export async function moveExpiry(site: ObjectSite, at: Target, req: Req, before: number, after: number): Promise<void> {
  if (before === after) return
  if (after) await updateExpirer(site, at.disk, 'PUT', after, at.names, req)
  if (before) await updateExpirer(site, at.disk, 'DELETE', before, at.names, req)
}

/** Metadata of what is here now; null when nothing is, or nothing readable. */
export async function metadataBefore(at: Target): Promise<Headers | null> {
  const found = await look(at.dir, { notDurable: true })
  if (!found.data) return null
  try {
    const open = await openFound(at.dir, found)
    await open.file?.close()
    return open.headers
  } catch (error) {
    if (error instanceof Corrupt || failedWith(error, 'ENOENT')) return null
    throw error
  }
}

async function isExpired(at: Target, timestamp: string): Promise<boolean> {
  const headers = await metadataBefore(at)
  return headers === null || (headers['x-delete-at'] !== undefined && Number(headers['x-delete-at']) <= seconds(timestamp))
}
