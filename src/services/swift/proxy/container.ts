/** Requests for a container. */
import { cleanAcl } from '../auth/acl.ts'
import { checkMetadata, RESERVED } from '../constraints.ts'
import type { Call } from '../http/client.ts'
import { type Headers, isTrue, ok, type Req, type Res, refuse } from '../http/message.ts'
import { defaultPolicy, policyNamed } from '../policies.ts'
import { partitionFor, primaries, replicas } from '../ring/ring.ts'
import { now } from '../timestamp.ts'
import { createAccount } from './account.ts'
import { backendHeaders, read, write } from './backend.ts'
import { type Cluster, share } from './cluster.ts'
import { dropOwners, transfer, withoutOwners } from './headers.ts'
import { accountExists, accountInfo, forget, remember } from './info.ts'
import { listShards } from './shards.ts'

const HTML = { 'content-type': 'text/html; charset=UTF-8' }
const PASSED = ['x-container-read', 'x-container-write', 'x-container-sync-key', 'x-container-sync-to']

/** Answers a request for `/v1/account/container`. */
export async function containerRequest(cluster: Cluster, req: Req, account: string, container: string): Promise<Res> {
  switch (req.method) {
    case 'GET':
    case 'HEAD':
      return get(cluster, req, account, container)
    case 'PUT':
    case 'POST':
    case 'DELETE':
    case 'UPDATE': {
      if (req.method === 'UPDATE' && req.env.authorize !== null) return refuse(405)
      const refused = req.env.authorize ? await req.env.authorize(req, null) : null
      if (refused) return refused
      dropOwners(req)
      if (req.method === 'PUT') return put(cluster, req, account, container)
      return req.method === 'POST' ? post(cluster, req, account, container) : other(cluster, req, account, container)
    }
    default:
      return refuse(405)
  }
}

async function get(cluster: Cluster, req: Req, account: string, container: string): Promise<Res> {
  if (req.env.authorize !== null && (await accountInfo(cluster, req.env, account)).status === 404) {
    const refused = req.env.authorize ? await req.env.authorize(req, null) : null
    return refused ?? refuse(404)
  }
  const ring = cluster.containerRing
  const partition = partitionFor(ring, cluster.secrets, account, container)
  const query = new URLSearchParams([...req.query]).toString()
  const extra: Headers = {}
  for (const name in req.headers) if (name.startsWith('x-backend-')) extra[name] = req.headers[name]
  if (req.method === 'GET') extra['x-backend-record-type'] ??= 'auto'
  const call = {
    method: req.method,
    path: `/${account}/${container}`,
    query,
    headers: backendHeaders(req.env.transId, null, extra),
  }
  let { res } = await read(cluster, 'container', ring, partition, call, req.headers['x-newest'] === 'true')
  if (ok(res.status) || res.status === 404) remember(cluster, account, container, res.status, res.headers)
  if (req.env.authorize) {
    const refused = await req.env.authorize(req, res.headers['x-container-read'] ?? null)
    if (refused) return refused
  }
  if (!ok(res.status)) return res
  if (res.headers['x-backend-record-type'] === 'shard' && extra['x-backend-record-type'] === 'auto')
    res = await listShards(cluster, req, account, container, res)
  const headers: Headers = { ...withoutOwners(res.headers, req), 'accept-ranges': 'bytes', 'x-backend-listing': 'container' }
  const policy = cluster.policies.find(known => String(known.index) === res.headers['x-backend-storage-policy-index'])
  if (policy) headers['x-storage-policy'] = policy.name
  delete headers['x-put-timestamp']
  if (req.env.resellerRequest && headers[SHARDING] !== undefined) headers['x-container-sharding'] = headers[SHARDING]
  return { ...res, headers }
}

/** The policy that a client asks for by name: its index, null for none asked, or the refusal. */
function askedPolicy(cluster: Cluster, req: Req): number | null | Res {
  const name = req.headers['x-storage-policy']
  if (!name) return null
  const policy = policyNamed(cluster.policies, name)
  if (!policy) return refuse(400, `Invalid X-Storage-Policy '${name}'`)
  if (policy.deprecated) return refuse(400, `Storage Policy '${policy.name}' is deprecated`)
  return policy.index
}

function checkAcls(req: Req): Res | null {
  for (const name of ['x-container-read', 'x-container-write']) {
    const value = req.headers[name]
    if (value === undefined) continue
    const cleaned = cleanAcl(name, value)
    if (typeof cleaned !== 'string') return refuse(400, cleaned.problem)
    req.headers[name] = cleaned
  }
  return null
}

const SHARDING = 'x-container-sysmeta-sharding'

/** `X-Container-Sharding`, for resellers only. In place. */
function shardingAsked(req: Req): void {
  const value = req.headers['x-container-sharding']
  if (value !== undefined && req.env.resellerRequest) req.headers[SHARDING] = isTrue(value) ? 'True' : 'False'
}

async function put(cluster: Cluster, req: Req, account: string, container: string): Promise<Res> {
  const bad = checkMetadata(req.headers, 'container', cluster.limits) ?? checkAcls(req)
  if (bad) return bad
  const policy = askedPolicy(cluster, req)
  if (policy !== null && typeof policy !== 'number') return policy
  const bytes = Buffer.byteLength(container)
  const most = cluster.limits.max_container_name_length
  if (!container.startsWith(RESERVED) && bytes > most)
    return refuse(400, `Container name length of ${bytes} longer than ${most}`, HTML)
  if (!(await accountExists(cluster, req.env, account))) {
    if (!cluster.autocreate && !account.startsWith('.')) return refuse(404)
    if ((await accountInfo(cluster, req.env, account)).headers['x-account-status'] === 'Deleted') return refuse(404)
    await createAccount(cluster, req, account)
    forget(cluster, req.env, account)
  }
  shardingAsked(req)
  const extra = transfer(req, 'container', PASSED)
  if (policy !== null) extra['x-backend-storage-policy-index'] = String(policy)
  else if (req.headers['x-backend-storage-policy-index'] !== undefined) {
    extra['x-backend-storage-policy-index'] = req.headers['x-backend-storage-policy-index']
  } else extra['x-backend-storage-policy-default'] = String(defaultPolicy(cluster.policies).index)
  return writeContainer(cluster, req, account, container, extra)
}

async function post(cluster: Cluster, req: Req, account: string, container: string): Promise<Res> {
  const bad = checkMetadata(req.headers, 'container', cluster.limits) ?? checkAcls(req)
  if (bad) return bad
  if (req.env.authorize !== null && (await accountInfo(cluster, req.env, account)).status === 404) return refuse(404)
  shardingAsked(req)
  return writeContainer(cluster, req, account, container, transfer(req, 'container', PASSED))
}

async function other(cluster: Cluster, req: Req, account: string, container: string): Promise<Res> {
  if (req.env.authorize !== null && (await accountInfo(cluster, req.env, account)).status === 404) return refuse(404)
  return writeContainer(cluster, req, account, container, {})
}

async function writeContainer(cluster: Cluster, req: Req, account: string, container: string, extra: Headers): Promise<Res> {
  const ring = cluster.containerRing
  const partition = partitionFor(ring, cluster.secrets, account, container)
  const accountPart = partitionFor(cluster.accountRing, cluster.secrets, account)
  const n = replicas(ring)
  const hosts = share(primaries(cluster.accountRing, accountPart), n, 'account', accountPart)
  for (const name in req.headers) if (name.startsWith('x-backend-') && extra[name] === undefined) extra[name] = req.headers[name]
  const headers = backendHeaders(req.env.transId, req.headers['x-timestamp'] ?? now(), extra)
  const { method } = req
  const calls = hosts.map(
    (host): Call => ({ method, path: `/${account}/${container}`, headers: { ...headers, ...(method === 'POST' ? {} : host) } }),
  )
  const res = await write(cluster, 'container', ring, partition, calls)
  forget(cluster, req.env, account, container)
  if (method !== 'POST') forget(cluster, req.env, account)
  return res
}
