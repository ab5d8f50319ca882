/** The account server: one App for all devices of a host. Paths are `/device/partition/account[/container]`. */
import { checkMetadata } from '../constraints.ts'
import { timestamp } from '../container/server.ts'
import { checkDevice, type DbSite, dbPath, guarded, listOptions, metadataHeaders, metadataOf } from '../db/path.ts'
import { type App, answer, type Headers, isTrue, type Req, type Res, refuse, reply, splitPath } from '../http/message.ts'
import { base, normal, now } from '../timestamp.ts'
import type { AccountInfo, ContainerRow } from './broker.ts'
import { replicateAccount } from './replicate.ts'

interface At {
  device: string
  partition: string
  account: string
  path: string
}

/** The App of an account server. */
export function accountServer(site: DbSite): App {
  return async req => {
    try {
      if (req.method === 'REPLICATE') return await replicateAccount(site, req)
      const [device, partition, account, container] = splitPath(req.path, 3, 4)
      const at = { device: device!, partition: partition!, account: account! }
      await checkDevice(site, at.device, req.method === 'PUT' || req.method === 'POST')
      const path = dbPath(site, at.device, at.partition, at.account)
      return await guarded(site, at.device, 'accounts', path, () => method(site, { ...at, path }, container, req))
    } catch (error) {
      return answer(error)
    }
  }
}

async function method(site: DbSite, at: At, container: string | null, req: Req): Promise<Res> {
  switch (req.method) {
    case 'PUT':
      return container === null ? put(site, at, req) : putContainer(site, at, container, req)
    case 'POST':
      return post(site, at, req)
    case 'DELETE': {
      const gone = await site.databases.call('account.delete', at.path, { at: timestamp(req) })
      return gone ? reply(204, { 'content-type': 'text/html; charset=UTF-8' }) : refuse(404)
    }
    case 'HEAD':
    case 'GET':
      return get(site, at, req)
    default:
      return refuse(405)
  }
}

const limitsOf = (site: DbSite): { count: number; size: number } => ({
  count: site.limits.max_meta_count,
  size: site.limits.max_meta_overall_size,
})

async function put(site: DbSite, at: At, req: Req): Promise<Res> {
  const bad = checkMetadata(req.headers, 'account', site.limits)
  if (bad) return bad
  const time = timestamp(req)
  const metadata = metadataOf(req.headers, 'account', time, [])
  const result = await site.databases.call('account.put', at.path, {
    account: at.account,
    at: now(),
    put: time,
    metadata,
    limits: limitsOf(site),
  })
  if (result.recently) return refuse(403, 'Recently deleted', { 'x-account-status': 'Deleted' })
  if (result.problem) return refuse(400, result.problem)
  return refuse(result.created ? 201 : 202)
}

async function putContainer(site: DbSite, at: At, container: string, req: Req): Promise<Res> {
  const h = req.headers
  const row: ContainerRow = {
    name: container,
    put_timestamp: normal(h['x-put-timestamp'] ?? '0'),
    delete_timestamp: normal(h['x-delete-timestamp'] ?? '0'),
    object_count: Number(h['x-object-count'] ?? 0),
    bytes_used: Number(h['x-bytes-used'] ?? 0),
    deleted: 0,
    policy: Number(h['x-backend-storage-policy-index'] ?? 0),
  }
  const make = at.account.startsWith('.') ? { account: at.account, at: now() } : null
  if (!isTrue(h['x-account-override-deleted'])) {
    const info = await site.databases.call('account.info', at.path)
    if (info?.is_deleted) return refuse(404)
  }
  const result = await site.databases.call('account.rows', at.path, { rows: [row], make })
  if (result === 'missing') return refuse(404)
  return row.delete_timestamp > row.put_timestamp ? reply(204) : refuse(201)
}

async function post(site: DbSite, at: At, req: Req): Promise<Res> {
  const bad = checkMetadata(req.headers, 'account', site.limits)
  if (bad) return bad
  const metadata = metadataOf(req.headers, 'account', timestamp(req), [])
  const result = await site.databases.call('account.post', at.path, { metadata, limits: limitsOf(site) })
  if (!result.found) return refuse(404, undefined, result.deleted ? { 'x-account-status': 'Deleted' } : {})
  if (result.problem) return refuse(400, result.problem)
  return reply(204, { 'content-type': 'text/html; charset=UTF-8' })
}

async function get(site: DbSite, at: At, req: Req): Promise<Res> {
  if (req.method === 'HEAD') {
    const info = await site.databases.call('account.info', at.path)
    if (!info || info.is_deleted) return missing(info)
    return reply(204, {
      ...infoHeaders(info),
      ...metadataHeaders(info.metadata),
      'content-type': 'application/json; charset=utf-8',
    })
  }
  const options = listOptions(req.query, site.limits.account_listing_limit)
  const result = await site.databases.call('account.list', at.path, {
    options,
    reserved: isTrue(req.headers['x-backend-allow-reserved-names']),
  })
  if (!result || result.info.is_deleted) return missing(result?.info ?? null)
  const headers = {
    ...infoHeaders(result.info),
    ...metadataHeaders(result.info.metadata),
    'content-type': 'application/json; charset=utf-8',
  }
  return reply(200, headers, result.listing)
}

const missing = (info: AccountInfo | null): Res =>
  refuse(404, undefined, info?.status === 'DELETED' ? { 'x-account-status': 'Deleted' } : {})

/** The facts of an account as response headers; counts of each policy under its index, which the proxy turns into names. */
function infoHeaders(info: AccountInfo): Headers {
  const headers: Headers = {
    'x-account-container-count': String(info.container_count),
    'x-account-object-count': String(info.object_count),
    'x-account-bytes-used': String(info.bytes_used),
    'x-timestamp': base(info.created_at),
    'x-put-timestamp': base(info.put_timestamp),
    'x-backend-timestamp': info.created_at,
    'x-backend-policies': JSON.stringify(info.policies),
  }
  return headers
}
