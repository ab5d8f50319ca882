/** PUT of an object: stream to a temporary file, check length and ETag, make it durable under its name, tell the container. */
import { createHash } from 'node:crypto'
import { checkObjectCreation } from '../constraints.ts'
import { beginWrite, invalidate, look, openFound, type Spot, smallFile, tidy } from '../disk/diskfile.ts'
import { dataName, newest } from '../disk/found.ts'
import { failedWith, hashDir, isDeviceFault, isFull } from '../disk/layout.ts'
import { Corrupt } from '../disk/record.ts'
import { hashName, md5 } from '../hash.ts'
import { Bytes, type Headers, isTrue, type Req, type Res, readAll, refuse, reply } from '../http/message.ts'
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

export interface Target extends Spot {
  names: [account: string, container: string, object: string]
}

/** Bodies up to this size go through the journal as a whole. */
export const SMALL_BODY = 65536

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
  try {
    if (await isFull(at.disk, site.reserve, req.length ?? 0)) return refuse(507)
    return (await putFirst(site, at, req)) ?? (await putBeside(site, at, req))
  } catch (error) {
    if (isDeviceFault(error) || failedWith(error, 'ENOENT')) {
      site.log.warn({ err: error, device: at.disk.device }, 'device refused a write')
      return refuse(507)
    }
    throw error
  }
}

/** A small new object, the most frequent case: no look at what is there, which is nothing. Null when something is, or the request is another. */
async function putFirst(site: ObjectSite, at: Target, req: Req): Promise<Res | null> {
  const isPlain = req.headers['if-none-match'] === undefined && req.headers['x-backend-fragment-index'] === undefined
  if (!isPlain || !(req.body === null || req.body instanceof Bytes)) return null
  const bytes = await readAll(req.body)
  return bytes.length > SMALL_BODY ? null : storeSmall(site, at, req, bytes, 'first')
}

async function putBeside(site: ObjectSite, at: Target, req: Req): Promise<Res> {
  const timestamp = req.headers['x-timestamp']
  const fragment = req.headers['x-backend-fragment-index']
  const found = await look(at.dir, { notDurable: true, fragment: fragment === undefined ? null : Number(fragment) })
  const last = found.data?.timestamp ?? found.tombstone?.timestamp ?? null
  if (req.headers['if-none-match'] === '*' && found.data && !(await isExpired(at, timestamp))) return refuse(412)
  const sameFragment = found.data?.timestamp === timestamp && fragment !== undefined && found.data.fragment !== Number(fragment)
  if (last !== null && last >= timestamp && !(last === timestamp && (sameFragment || (fragment !== undefined && !found.data)))) {
    return refuse(409, undefined, { 'x-backend-timestamp': newest(found)! })
  }
  const isNew = found.all.length === 0
  const before = isNew ? null : await metadataBefore(at)
  if (fragment === undefined && req.length !== null && req.length <= SMALL_BODY)
    return (await storeSmall(site, at, req, await readAll(req.body, site.limits.max_file_size), before))!
  return storeLarge(site, at, req, isNew, before)
}

/** Through the journal. `before`: the metadata of what it replaces; `first`: only where nothing is, null otherwise. */
async function storeSmall(
  site: ObjectSite,
  at: Target,
  req: Req,
  bytes: Buffer,
  before: Headers | null | 'first',
): Promise<Res | null> {
  if (req.length !== null && bytes.length !== req.length) return refuse(499)
  const timestamp = req.headers['x-timestamp']
  const etag = md5(bytes)
  const footers = req.footers?.() ?? {}
  if (isOther(req, footers, etag)) return refuse(422)
  const metadata = describe(at, req, footers, timestamp, etag, bytes.length)
  if (!(await place(site, at, dataName(timestamp), bytes, metadata, before === 'first'))) return null
  await announce(site, at, req, metadata, footers, before === 'first' ? null : before)
  return reply(201, { etag, 'content-type': 'text/html; charset=UTF-8' })
}

/** Puts a small file in an object's folder, durably, and drops what it makes obsolete. False when it was to be the first there and is not. */
export async function place(
  site: ObjectSite,
  at: Target,
  name: string,
  bytes: Buffer | null,
  metadata: Headers,
  first = false,
): Promise<boolean> {
  const outcome = await site.disks.store(at.disk, smallFile(at, name, bytes, metadata, first))
  if (outcome === 'beside') await tidy(at.dir, { notDurable: true })
  return outcome !== 'taken'
}

/** Whether the client, or a step of the pipeline, said another ETag. */
function isOther(req: Req, footers: Headers, etag: string): boolean {
  const asked = (footers.etag ?? req.headers.etag)?.replace(/^"|"$/g, '').toLowerCase()
  return Boolean(asked && asked !== etag)
}

async function storeLarge(site: ObjectSite, at: Target, req: Req, isNew: boolean, before: Headers | null): Promise<Res> {
  const timestamp = req.headers['x-timestamp']
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
    if (isOther(req, footers, etag)) return refuse(422)
    const metadata = describe(at, req, footers, timestamp, etag, writing.size)
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
