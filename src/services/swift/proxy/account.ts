/** Requests for an account. */
import { checkMetadata } from '../constraints.ts'
import { type Headers, ok, type Req, type Res, refuse, reply } from '../http/message.ts'
import { partitionFor, replicas } from '../ring/ring.ts'
import { now } from '../timestamp.ts'
import { backendHeaders, read, write } from './backend.ts'
import type { Cluster } from './cluster.ts'
import { dropOwners, transfer, withoutOwners } from './headers.ts'
import { forget, remember } from './info.ts'

/** Answers a request for `/v1/account`. */
export async function accountRequest(cluster: Cluster, req: Req, account: string): Promise<Res> {
  if (Buffer.byteLength(account) > cluster.limits.max_account_name_length && req.method !== 'DELETE') {
    return refuse(
      400,
      `Account name length of ${Buffer.byteLength(account)} longer than ${cluster.limits.max_account_name_length}`,
      { 'content-type': 'text/html; charset=UTF-8' },
    )
  }
  const refused = req.env.authorize ? await req.env.authorize(req, null) : null
  if (refused) return refused
  dropOwners(req)
  switch (req.method) {
    case 'GET':
    case 'HEAD':
      return get(cluster, req, account)
    case 'PUT':
      return req.env.resellerRequest || req.env.authorize === null
        ? put(cluster, req, account)
        : refuse(405, undefined, { allow: 'HEAD, GET, POST, OPTIONS' })
    case 'POST':
      return post(cluster, req, account)
    case 'DELETE':
      if (req.query.size && req.env.authorize !== null && req.query.has('bulk-delete')) return refuse(405)
      return req.env.resellerRequest || req.env.authorize === null ? remove(cluster, req, account) : refuse(405)
    default:
      return refuse(405)
  }
}

async function get(cluster: Cluster, req: Req, account: string): Promise<Res> {
  const ring = cluster.accountRing
  const partition = partitionFor(ring, cluster.secrets, account)
  const query = new URLSearchParams([...req.query])
  const headers = backendHeaders(req.env.transId, null, pick(req.headers, ['x-backend-allow-reserved-names']))
  const newest = req.headers['x-newest'] === 'true'
  const { res } = await read(
    cluster,
    'account',
    ring,
    partition,
    { method: req.method, path: `/${account}`, query: query.toString(), headers },
    newest,
  )
  if (res.status === 404) {
    if (res.headers['x-account-status'] === 'Deleted') return { ...res, status: 410 }
    if (cluster.autocreate) return empty(req)
    return res
  }
  if (!ok(res.status)) return res
  remember(cluster, account, undefined, res.status, res.headers)
  const shown = {
    ...res.headers,
    ...policyCounts(cluster, res.headers),
    'accept-ranges': 'bytes',
    'x-backend-listing': 'account',
  }
  return { ...res, headers: withoutOwners(shown, req) }
}

/** The answer for an account that will make itself when it is first written to. */
function empty(req: Req): Res {
  const headers: Headers = {
    'x-account-container-count': '0',
    'x-account-object-count': '0',
    'x-account-bytes-used': '0',
    'x-timestamp': now(),
    'accept-ranges': 'bytes',
    'content-type': 'application/json; charset=utf-8',
    'x-backend-listing': 'account',
  }
  return req.method === 'HEAD' ? reply(204, headers) : reply(200, headers, '[]')
}

function policyCounts(cluster: Cluster, headers: Headers): Headers {
  const out: Headers = {}
  for (const stat of JSON.parse(headers['x-backend-policies'] ?? '[]') as {
    policy: number
    container_count: number
    object_count: number
    bytes_used: number
  }[]) {
    const name = cluster.policies.find(policy => policy.index === stat.policy)?.name
    if (!name) continue
    out[`x-account-storage-policy-${name.toLowerCase()}-container-count`] = String(stat.container_count)
    out[`x-account-storage-policy-${name.toLowerCase()}-object-count`] = String(stat.object_count)
    out[`x-account-storage-policy-${name.toLowerCase()}-bytes-used`] = String(stat.bytes_used)
  }
  return out
}

const pick = (headers: Headers, names: string[]): Headers =>
  Object.fromEntries(names.filter(name => headers[name] !== undefined).map(name => [name, headers[name]]))

async function put(cluster: Cluster, req: Req, account: string): Promise<Res> {
  const bad = checkMetadata(req.headers, 'account', cluster.limits)
  if (bad) return bad
  return writeAccount(cluster, req, account, 'PUT', transfer(req, 'account'))
}

async function post(cluster: Cluster, req: Req, account: string): Promise<Res> {
  const bad = checkMetadata(req.headers, 'account', cluster.limits)
  if (bad) return bad
  const headers = transfer(req, 'account')
  const res = await writeAccount(cluster, req, account, 'POST', headers)
  if (res.status !== 404 || !cluster.autocreate || res.headers['x-account-status'] === 'Deleted') return res
  await createAccount(cluster, req, account)
  return writeAccount(cluster, req, account, 'POST', headers)
}

const remove = (cluster: Cluster, req: Req, account: string): Promise<Res> => writeAccount(cluster, req, account, 'DELETE', {})

async function writeAccount(cluster: Cluster, req: Req, account: string, method: string, extra: Headers): Promise<Res> {
  const ring = cluster.accountRing
  const partition = partitionFor(ring, cluster.secrets, account)
  const headers = backendHeaders(req.env.transId, req.headers['x-timestamp'] ?? now(), extra)
  const res = await write(
    cluster,
    'account',
    ring,
    partition,
    Array.from({ length: replicas(ring) }, () => ({ method, path: `/${account}`, headers })),
  )
  forget(cluster, req.env, account)
  return res
}

/** Makes the account as a first write to it demands. Throws nothing; a failure shows in the write that follows. */
export async function createAccount(cluster: Cluster, req: Req, account: string): Promise<void> {
  const res = await writeAccount(cluster, { ...req, headers: {} }, account, 'PUT', {})
  if (!ok(res.status)) cluster.log.warn({ account, status: res.status }, 'could not create the account')
}
