/** Requests for an object: everything but PUT, which is in put.ts. */
import { checkDeleteHeaders, checkMetadata } from '../constraints.ts'
import { ecGet } from '../ec/get.ts'
import type { Call } from '../http/client.ts'
import { type Headers, type Info, isTrue, type Req, type Res, refuse, Stop } from '../http/message.ts'
import { expirerContainer } from '../object/updates.ts'
import type { Policy } from '../policies.ts'
import { partitionFor, primaries, replicas } from '../ring/ring.ts'
import { now } from '../timestamp.ts'
import { backendHeaders, read, write } from './backend.ts'
import { type Cluster, share } from './cluster.ts'
import { containerInfo } from './info.ts'
import { putObject } from './put.ts'
import { resume } from './resume.ts'
import { shardFor } from './shards.ts'

export interface ObjectAt {
  account: string
  container: string
  object: string
  policy: Policy
  partition: number
  info: Info
}

/** Answers a request for `/v1/account/container/object`. */
export async function objectRequest(
  cluster: Cluster,
  req: Req,
  account: string,
  container: string,
  object: string,
): Promise<Res> {
  if (!['GET', 'HEAD', 'PUT', 'POST', 'DELETE'].includes(req.method)) return refuse(405)
  const reading = req.method === 'GET' || req.method === 'HEAD'
  const info = await containerInfo(cluster, req.env, account, container)
  if (req.env.authorize) {
    const refused = await req.env.authorize(req, info.headers[reading ? 'x-container-read' : 'x-container-write'] ?? null)
    if (refused) return refused
  }
  if (info.status !== 200 && !reading) return refuse(info.status === 404 ? 404 : 503)
  const index = Number(req.headers['x-backend-storage-policy-index'] ?? info.headers['x-backend-storage-policy-index'] ?? 0)
  const policy = cluster.policies.find(known => known.index === index)
  if (!policy) return refuse(503)
  if (policy.ring.nextPartPower !== null) req.headers['x-backend-next-part-power'] = String(policy.ring.nextPartPower)
  const partition = partitionFor(policy.ring, cluster.secrets, account, container, object)
  const at: ObjectAt = { account, container, object, policy, partition, info }
  switch (req.method) {
    case 'GET':
    case 'HEAD':
      return info.status !== 200 && info.status !== 404 ? refuse(503) : get(cluster, req, at)
    case 'PUT':
      return putObject(cluster, req, at)
    default:
      return change(cluster, req, at)
  }
}

async function get(cluster: Cluster, req: Req, at: ObjectAt): Promise<Res> {
  const headers = backendHeaders(req.env.transId, null)
  for (const name in req.headers) {
    if (
      name === 'range' ||
      name.startsWith('if-') ||
      (name.startsWith('x-backend-') && name !== 'x-backend-storage-policy-index')
    )
      headers[name] = req.headers[name]
  }
  headers['x-backend-storage-policy-index'] = String(at.policy.index)
  if (cluster.allowOpenExpired && isTrue(req.headers['x-open-expired'])) headers['x-backend-open-expired'] = 'true'
  const path = `/${at.account}/${at.container}/${at.object}`
  const newest = isTrue(req.headers['x-newest'])
  if (at.policy.code) return finish(await ecGet(cluster, req, at, headers))
  const call: Call = { method: req.method, path, headers }
  const found = await read(cluster, 'object', at.policy.ring, at.partition, call, newest)
  return finish(found.place && req.method === 'GET' ? resume(cluster, at, call, found) : found.res)
}

function finish(res: Res): Res {
  const headers: Headers = { ...res.headers }
  headers['content-type'] = headers['content-type']?.replace(/;\s*swift_bytes=\d+/, '')
  if (headers['content-type'] === undefined) delete headers['content-type']
  if (headers['x-timestamp'] && headers['x-backend-timestamp'] === undefined) delete headers['x-timestamp']
  return { ...res, headers }
}

async function change(cluster: Cluster, req: Req, at: ObjectAt): Promise<Res> {
  req.headers['x-timestamp'] ??= now()
  if (req.method === 'POST') {
    const bad = checkMetadata(req.headers, 'object', cluster.limits)
    if (bad) return bad
    checkDeleteHeaders(req.headers)
  }
  const headers = outgoing(req)
  const n = replicas(at.policy.ring)
  const calls = (await perReplica(cluster, req, at, n)).map(
    (hosts): Call => ({
      method: req.method,
      path: `/${at.account}/${at.container}/${at.object}`,
      headers: { ...headers, ...hosts },
    }),
  )
  const res = await write(cluster, 'object', at.policy.ring, at.partition, calls)
  return { ...res, headers: { ...res.headers } }
}

/** Headers of the client's request that object servers are to see. */
export function outgoing(req: Req): Headers {
  const headers = backendHeaders(req.env.transId, req.headers['x-timestamp'])
  for (const name in req.headers) {
    if (
      name.startsWith('x-object-') ||
      name.startsWith('x-backend-') ||
      name.startsWith('x-delete-') ||
      name === 'content-type' ||
      name === 'etag' ||
      name === 'if-none-match' ||
      name === 'x-if-delete-at' ||
      name === 'x-static-large-object' ||
      name === 'content-disposition' ||
      name === 'content-encoding' ||
      name === 'cache-control' ||
      name === 'content-language' ||
      name === 'expires' ||
      name === 'x-robots-tag'
    ) {
      headers[name] = req.headers[name]
    }
  }
  return headers
}

/** For each of `n` replicas the containers (and the queue of expiring objects) that its server tells about the object. */
export async function perReplica(cluster: Cluster, req: Req, at: ObjectAt, n: number): Promise<Headers[]> {
  const shard = await shardFor(cluster, req, at)
  const [account, container] = shard ? shard.split('/') : [at.account, at.container]
  const partition = partitionFor(cluster.containerRing, cluster.secrets, account, container)
  const out = share(primaries(cluster.containerRing, partition), n, 'container', partition)
  for (const headers of out) {
    headers['x-backend-storage-policy-index'] = String(at.policy.index)
    if (shard) headers['x-backend-quoted-container-path'] = encodeURIComponent(shard)
  }
  const deleteAt = req.headers['x-delete-at']
  if (deleteAt !== undefined) {
    const names: [string, string, string] = [at.account, at.container, at.object]
    const queue = expirerContainer(cluster, Number(deleteAt), names)
    const queuePartition = partitionFor(cluster.containerRing, cluster.secrets, '.expiring_objects', queue)
    const hosts = share(primaries(cluster.containerRing, queuePartition), n, 'delete-at', queuePartition)
    for (const [i, headers] of out.entries()) Object.assign(headers, hosts[i], { 'x-delete-at-container': queue })
  }
  return out
}

/** Throws 400 with this sentence. */
export const bad = (text: string): never => {
  throw new Stop(refuse(400, text))
}
