/** Facts of accounts and containers that most requests need first, from the cache or by a HEAD. */
import { discard, type Env, type Headers, type Info, ok, type Req } from '../http/message.ts'
import { partitionFor } from '../ring/ring.ts'
import { backendHeaders, read } from './backend.ts'
import type { Cluster } from './cluster.ts'

const key = (account: string, container?: string): string => (container === undefined ? account : `${account}/${container}`)

/** Forgets what is known after a change. */
export function forget(cluster: Cluster, env: Env, account: string, container?: string): void {
  cluster.infos.drop(key(account, container))
  env.infos.delete(key(account, container))
}

/** Keeps the headers of a HEAD or GET that went by. */
export function remember(
  cluster: Cluster,
  account: string,
  container: string | undefined,
  status: number,
  headers: Headers,
): void {
  cluster.infos.set(key(account, container), { status: ok(status) ? 200 : status, headers, at: Date.now() })
}

async function fetch(cluster: Cluster, env: Env, account: string, container?: string): Promise<Info> {
  const role = container === undefined ? 'account' : 'container'
  const ring = container === undefined ? cluster.accountRing : cluster.containerRing
  const partition = partitionFor(ring, cluster.secrets, account, container)
  const path = container === undefined ? `/${account}` : `/${account}/${container}`
  const { res } = await read(cluster, role, ring, partition, { method: 'HEAD', path, headers: backendHeaders(env.transId, null) })
  discard(res)
  const info: Info = { status: ok(res.status) ? 200 : res.status, headers: res.headers, at: Date.now() }
  if (ok(res.status) || res.status === 404) cluster.infos.set(key(account, container), info)
  return info
}

async function info(
  cluster: Cluster,
  env: Env,
  name: string,
  account: string,
  container: string | undefined,
  fresh: boolean,
): Promise<Info> {
  if (!fresh) {
    const known = env.infos.get(name) ?? cluster.infos.get(name)
    if (known) return known
  }
  const found = await fetch(cluster, env, account, container)
  env.infos.set(name, found)
  return found
}

/** An account: status 200 or 404 (or 5xx), and its headers. With autocreation an absent account counts as an empty one. */
export async function accountInfo(cluster: Cluster, env: Env, account: string, fresh = false): Promise<Info> {
  const found = await info(cluster, env, key(account), account, undefined, fresh)
  if (found.status === 404 && cluster.autocreate && found.headers['x-account-status'] !== 'Deleted')
    return { ...found, status: 200, headers: EMPTY }
  return found
}
const EMPTY: Headers = { 'x-account-container-count': '0', 'x-account-object-count': '0', 'x-account-bytes-used': '0' }

/** Whether the account's database exists at all. */
export async function accountExists(cluster: Cluster, env: Env, account: string): Promise<boolean> {
  return ok((await info(cluster, env, key(account), account, undefined, false)).status)
}

/** A container: status and headers, as seen by its servers. */
export const containerInfo = (cluster: Cluster, env: Env, account: string, container: string, fresh = false): Promise<Info> =>
  info(cluster, env, key(account, container), account, container, fresh)

/** What the request's container is, for steps of the pipeline that only have a path. Null when the path names none. */
export async function containerOf(
  cluster: Cluster,
  req: Req,
): Promise<(Info & { account: string; container: string; object: string | null }) | null> {
  const [version, account, container, ...object] = req.path.slice(1).split('/')
  if (!version || !account || !container) return null
  return {
    ...(await containerInfo(cluster, req.env, account, container)),
    account,
    container,
    object: object.length ? object.join('/') : null,
  }
}
