/** The container server: one App for all devices of a host. Paths are `/device/partition/account/container[/object]`. */
import type { AccountInfo } from '../account/broker.ts'
import { checkMetadata } from '../constraints.ts'
import { checkDevice, type DbSite, dbPath, guarded, listOptions, metadataHeaders, metadataOf } from '../db/path.ts'
import { isFull } from '../disk/layout.ts'
import {
  type App,
  answer,
  discard,
  type Headers,
  isTrue,
  type Req,
  type Res,
  readAll,
  refuse,
  reply,
  Stop,
  splitPath,
} from '../http/message.ts'
import { deviceAt } from '../object/updates.ts'
import { base, httpDate, normal, now } from '../timestamp.ts'
import type { ContainerInfo, ObjectRow } from './broker.ts'
import { replicateContainer } from './replicate.ts'
import { redirect, shardListing, shardPut } from './shards.ts'

/** Beside metadata, what a container remembers of a PUT or POST. */
export const SAVED = ['x-container-read', 'x-container-write', 'x-container-sync-key', 'x-container-sync-to']

export interface At {
  device: string
  partition: string
  account: string
  container: string
  path: string
}

/** The App of a container server. */
export function containerServer(site: DbSite): App {
  return async req => {
    try {
      if (req.method === 'REPLICATE') return await replicateContainer(site, req)
      const [device, partition, account, container, object] = splitPath(req.path, 4, 5)
      const at = { device: device!, partition: partition!, account: account!, container: container! }
      const writing = req.method !== 'GET' && req.method !== 'HEAD'
      // a row's database is there or it is not, so the device is looked at only then
      if (object === null || site.mountCheck) await checkDevice(site, at.device, writing && req.method !== 'DELETE')
      const path = dbPath(site, at.device, at.partition, at.account, at.container)
      return await guarded(site, at.device, 'containers', path, () => method(site, { ...at, path }, object, req))
    } catch (error) {
      return answer(error)
    }
  }
}

async function method(site: DbSite, at: At, object: string | null, req: Req): Promise<Res> {
  const time = timestamp(req)
  switch (req.method) {
    case 'PUT':
      if (object !== null) return putRow(site, at, object, req, time, 0)
      if (req.headers['x-backend-record-type'] === 'shard') return shardPut(site, at, req, time)
      return put(site, at, req, time)
    case 'DELETE':
      return object === null ? remove(site, at, req, time) : putRow(site, at, object, req, time, 1)
    case 'POST':
      return post(site, at, req, time)
    case 'UPDATE':
      return update(site, at, req, time)
    case 'HEAD':
    case 'GET':
      return get(site, at, req)
    default:
      return refuse(405)
  }
}

/** `X-Timestamp` in its canonical form, now when absent. 400 when it is none. */
export function timestamp(req: Req): string {
  try {
    return normal(req.headers['x-timestamp'] ?? now())
  } catch (error) {
    throw new Stop(refuse(400, (error as Error).message))
  }
}

const limitsOf = (site: DbSite): { count: number; size: number } => ({
  count: site.limits.max_meta_count,
  size: site.limits.max_meta_overall_size,
})
const own = (at: At, time: string): { account: string; container: string; at: string; put: string } => ({
  account: at.account,
  container: at.container,
  at: now(),
  put: time,
})

async function putRow(site: DbSite, at: At, object: string, req: Req, time: string, deleted: 0 | 1): Promise<Res> {
  const h = req.headers
  if (!deleted && (await isFull({ root: site.root, device: at.device }, site.reserve, 0))) return refuse(507)
  const row: ObjectRow = {
    name: object,
    created_at: time,
    size: deleted ? 0 : Number(h['x-size'] ?? 0),
    content_type: deleted ? 'application/deleted' : (h['x-content-type'] ?? ''),
    etag: deleted ? 'noetag' : (h['x-etag'] ?? ''),
    deleted,
    policy: Number(h['x-backend-storage-policy-index'] ?? 0),
    type_at: h['x-content-type-timestamp'] ? normal(h['x-content-type-timestamp']) : time,
    meta_at: h['x-meta-timestamp'] ? normal(h['x-meta-timestamp']) : time,
  }
  const make = at.account.startsWith('.') ? own(at, time) : null
  const unlessSplit = isTrue(h['x-backend-accept-redirect'])
  const first = await site.databases.call('container.row', at.path, { row, make, unlessSplit })
  if (first === 'split') {
    const elsewhere = await redirect(site, at, object)
    if (elsewhere) return elsewhere
    await site.databases.call('container.row', at.path, { row, make, unlessSplit: false })
  }
  if (first === 'missing') {
    await checkDevice(site, at.device, false)
    return refuse(404)
  }
  site.changed.add(at.path)
  return deleted ? reply(204) : reply(201)
}

async function put(site: DbSite, at: At, req: Req, time: string): Promise<Res> {
  const bad = checkMetadata(req.headers, 'container', site.limits)
  if (bad) return bad
  const asked = req.headers['x-backend-storage-policy-index']
  const result = await site.databases.call('container.put', at.path, {
    ...own(at, time),
    policy: asked === undefined ? null : Number(asked),
    fallback: Number(req.headers['x-backend-storage-policy-default'] ?? 0),
    metadata: metadataOf(req.headers, 'container', time, SAVED),
    limits: limitsOf(site),
  })
  if (result.conflict) return refuse(409, undefined, { 'x-backend-storage-policy-index': String(result.info.policy) })
  if (result.problem) return refuse(400, result.problem)
  site.changed.add(at.path)
  const refused = await tellAccount(site, at, req, result.info)
  if (refused) return refused
  return refuse(result.created ? 201 : 202, undefined, { 'x-backend-storage-policy-index': String(result.info.policy) })
}

async function remove(site: DbSite, at: At, req: Req, time: string): Promise<Res> {
  const result = await site.databases.call('container.delete', at.path, { at: time })
  if (result.outcome === 'busy') return refuse(409)
  if (result.info) {
    site.changed.add(at.path)
    const refused = await tellAccount(site, at, req, result.info)
    if (refused) return refused
  }
  if (result.outcome === 'missing') return refuse(result.stale ? 409 : 404)
  return reply(204, { 'content-type': 'text/html; charset=UTF-8' })
}

async function post(site: DbSite, at: At, req: Req, time: string): Promise<Res> {
  const bad = checkMetadata(req.headers, 'container', site.limits)
  if (bad) return bad
  const metadata = metadataOf(req.headers, 'container', time, SAVED)
  const result = await site.databases.call('container.post', at.path, { metadata, limits: limitsOf(site) })
  if (!result.found) return refuse(404)
  if (result.problem) return refuse(400, result.problem)
  return reply(204, { 'content-type': 'text/html; charset=UTF-8' })
}

/** Rows in bulk, from the reconciler and the sharder. */
async function update(site: DbSite, at: At, req: Req, time: string): Promise<Res> {
  const rows = JSON.parse((await readAll(req.body, 64 * 1024 * 1024)).toString()) as ObjectRow[]
  const there = await site.databases.call('container.rows', at.path, {
    rows,
    make: at.account.startsWith('.') ? own(at, time) : null,
  })
  if (there) site.changed.add(at.path)
  return there ? refuse(202) : refuse(404)
}

async function get(site: DbSite, at: At, req: Req): Promise<Res> {
  if (req.method === 'HEAD') {
    const info = await site.databases.call('container.info', at.path)
    if (!info || info.is_deleted) return refuse(404, undefined, info ? infoHeaders(info) : {})
    return reply(204, {
      ...infoHeaders(info),
      ...metadataHeaders(info.metadata),
      'content-type': 'application/json; charset=utf-8',
    })
  }
  if (req.headers['x-backend-record-type'] === 'row') {
    const [row, count] = [Number(req.query.get('row') ?? -1), Number(req.query.get('limit') ?? 1000)]
    const rows = await site.databases.call('container.since', at.path, { row, count })
    return reply(200, { 'content-type': 'application/json; charset=utf-8' }, JSON.stringify(rows))
  }
  const shards = await shardListing(site, at, req)
  if (shards) return shards
  const asked = req.headers['x-backend-storage-policy-index']
  const options = listOptions(req.query, site.limits.container_listing_limit)
  const result = await site.databases.call('container.list', at.path, {
    options,
    policy: asked === undefined ? null : Number(asked),
  })
  if (!result || result.info.is_deleted) return refuse(404, undefined, result ? infoHeaders(result.info) : {})
  const headers = {
    ...infoHeaders(result.info),
    ...metadataHeaders(result.info.metadata),
    'content-type': 'application/json; charset=utf-8',
  }
  return reply(200, { ...headers, 'x-backend-record-type': 'object' }, result.listing)
}

/** The facts of a container as response headers. */
export function infoHeaders(info: ContainerInfo): Headers {
  const headers: Headers = {
    'x-backend-timestamp': info.created_at,
    'x-backend-put-timestamp': info.put_timestamp,
    'x-backend-delete-timestamp': info.delete_timestamp,
    'x-backend-status-changed-at': info.status_changed_at,
    'x-backend-storage-policy-index': String(info.policy),
  }
  if (info.is_deleted) return headers
  return {
    ...headers,
    'x-container-object-count': String(info.object_count),
    'x-container-bytes-used': String(info.bytes_used),
    'x-timestamp': base(info.created_at),
    'x-put-timestamp': base(info.put_timestamp),
    'last-modified': httpDate(info.put_timestamp),
    'x-backend-sharding-state': info.state,
  }
}

/** Tells the accounts named by the request's `X-Account-*` headers. 404 when none of them knows the account; other failures are the updater's to mend. */
async function tellAccount(site: DbSite, at: At, req: Req, info: ContainerInfo): Promise<Res | null> {
  const hosts = (req.headers['x-account-host'] ?? '').split(',').filter(Boolean)
  const devices = (req.headers['x-account-device'] ?? '').split(',').filter(Boolean)
  const partition = req.headers['x-account-partition']
  if (!partition || hosts.length === 0) return null
  if (hosts.length !== devices.length) return refuse(400)
  const headers = accountRow(info, req.headers['x-trans-id'])
  if (isTrue(req.headers['x-account-override-deleted'])) headers['x-account-override-deleted'] = 'yes'
  const results = await Promise.all(
    hosts.map(async (host, i) => {
      const place = deviceAt(host.trim(), devices[i].trim())
      const res = await site.dial(place, 'account', partition, {
        method: 'PUT',
        path: `/${at.account}/${at.container}`,
        headers,
        timeout: 5,
      })
      discard(res)
      return res.status
    }),
  )
  return results.every(status => status === 404) ? refuse(404) : null
}

/** What an account is told of a container. */
export const accountRow = (info: ContainerInfo, transId = '-'): Headers => ({
  'x-put-timestamp': info.put_timestamp,
  'x-delete-timestamp': info.delete_timestamp,
  'x-object-count': String(info.object_count),
  'x-bytes-used': String(info.bytes_used),
  'x-trans-id': transId,
  'x-backend-storage-policy-index': String(info.policy),
})

export type { AccountInfo }
