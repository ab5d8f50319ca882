/**
 * An object server tells container servers what it stored. An update that does not get through is kept on the device
 * (`async_pending/SUF/HASH-TIME`) until the updater delivers it; the client's request has succeeded all the same.
 */
import { join } from 'node:path'
import { type Disk, deviceDir, putFile, withPolicy } from '../disk/layout.ts'
import { hashName } from '../hash.ts'
import type { Device } from '../http/client.ts'
import { discard, type Headers, isTrue, ok, type Req } from '../http/message.ts'
import type { ObjectSite } from './site.ts'

export interface Pending {
  op: 'PUT' | 'DELETE'
  account: string
  container: string
  object: string
  headers: Headers
  /** Where the row belongs when the container is sharded: `.shards_a/c-…`. */
  shard?: string
  /** Places (`ip:port/device`) that have it already. */
  done?: string[]
}

/** A device as far as it can be told from `ip:port` and a name. */
export function deviceAt(host: string, device: string): Device {
  const colon = host.lastIndexOf(':')
  const ip = host.slice(0, colon).replace(/^\[|\]$/g, '')
  const port = Number(host.slice(colon + 1))
  return { id: -1, region: 0, zone: 0, ip, port, replicationIp: ip, replicationPort: port, device, weight: 0, meta: '' }
}

const list = (header: string | undefined): string[] =>
  (header ?? '')
    .split(',')
    .map(item => item.trim())
    .filter(Boolean)

/** Tells the containers named by the request's `X-Container-*` headers about a PUT or DELETE. Waits at most `updateTimeout`. */
export async function updateContainers(
  site: ObjectSite,
  disk: Disk,
  policy: number,
  op: 'PUT' | 'DELETE',
  names: [string, string, string],
  req: Req,
  row: Headers,
): Promise<void> {
  const hosts = list(req.headers['x-container-host'])
  const devices = list(req.headers['x-container-device'])
  const partition = req.headers['x-container-partition']
  if (!partition || hosts.length !== devices.length || hosts.length === 0) return
  const quoted = req.headers['x-backend-quoted-container-path']
  const shard = quoted ? decodeURIComponent(quoted) : undefined
  const [account, container, object] = names
  const headers: Headers = {
    ...row,
    'x-trans-id': req.headers['x-trans-id'] ?? '-',
    'x-backend-storage-policy-index': String(policy),
  }
  const path = shard ? `/${shard}/${object}` : `/${account}/${container}/${object}`
  await sendOrKeep(
    site,
    disk,
    policy,
    { op, account, container, object, headers, shard },
    hosts.map((host, i) => deviceAt(host, devices[i])),
    partition,
    path,
  )
}

async function sendOrKeep(
  site: ObjectSite,
  disk: Disk,
  policy: number,
  pending: Pending,
  places: Device[],
  partition: string,
  path: string,
): Promise<void> {
  const sends = places.map(async place => {
    const res = await site.dial(place, 'container', partition, {
      method: pending.op,
      path,
      headers: { ...pending.headers, 'x-backend-accept-redirect': 'true' },
      timeout: 10,
    })
    discard(res)
    if (ok(res.status)) return
    // 301: the container has been sharded since the proxy looked; the updater follows
    if (res.status === 409 && pending.op === 'DELETE') return
    await keep(site, disk, policy, pending)
  })
  const all = Promise.all(sends)
  let timer: NodeJS.Timeout | undefined
  const late = new Promise<'late'>(resolve => {
    timer = setTimeout(() => resolve('late'), site.updateTimeout * 1000)
  })
  const first = await Promise.race([all, late])
  clearTimeout(timer)
  if (first === 'late') all.catch(error => site.log.error({ err: error, path }, 'container update lost'))
}

/** Writes the update to the device for the updater. */
export async function keep(site: ObjectSite, disk: Disk, policy: number, pending: Pending): Promise<void> {
  const hash = hashName(site.secrets, pending.account, pending.container, pending.object)
  const name = `${hash}-${pending.headers['x-timestamp']}`
  const dir = join(deviceDir(disk), withPolicy('async_pending', policy), hash.slice(-3))
  await putFile(disk, join(dir, name), JSON.stringify(pending))
}

export const EXPIRING_ACCOUNT = '.expiring_objects'

/** The container of the expirer's queue for an object that ends at that time, spread over 100 neighbours by the object's hash. */
export function expirerContainer(
  site: Pick<ObjectSite, 'secrets' | 'expirerDivisor'>,
  at: number,
  names: [string, string, string],
): string {
  const spread = Number.parseInt(hashName(site.secrets, ...names).slice(0, 8), 16) % 100
  const slot = Math.floor(at / site.expirerDivisor) * site.expirerDivisor - spread
  return String(Math.max(0, slot)).padStart(10, '0')
}

export const expirerObject = (at: number, names: [string, string, string]): string =>
  `${String(at).padStart(10, '0')}-${names.join('/')}`

/** Enters an object into, or takes it out of, the queue of objects that end at a time. */
export async function updateExpirer(
  site: ObjectSite,
  disk: Disk,
  op: 'PUT' | 'DELETE',
  at: number,
  names: [string, string, string],
  req: Req,
): Promise<void> {
  if (isTrue(req.headers['x-backend-replication'])) return
  const pending: Pending = {
    op,
    account: EXPIRING_ACCOUNT,
    container: expirerContainer(site, at, names),
    object: expirerObject(at, names),
    headers: {
      'x-timestamp': req.headers['x-timestamp'],
      'x-trans-id': req.headers['x-trans-id'] ?? '-',
      'x-backend-storage-policy-index': '0',
    },
  }
  if (op === 'DELETE') {
    if (req.headers['x-backend-clean-expiring-object-queue'] === 'f') return
    return keep(site, disk, 0, pending)
  }
  if (req.headers['x-delete-at-host'] === undefined) return
  Object.assign(pending.headers, {
    'x-size': '0',
    'x-content-type': 'application/x-deleted;swift_bytes=0',
    'x-etag': 'd41d8cd98f00b204e9800998ecf8427e',
  })
  const hosts = list(req.headers['x-delete-at-host'])
  const devices = list(req.headers['x-delete-at-device'])
  const partition = req.headers['x-delete-at-partition']
  if (!partition || hosts.length === 0 || hosts.length !== devices.length) return keep(site, disk, 0, pending)
  const places = hosts.map((host, i) => deviceAt(host, devices[i]))
  await sendOrKeep(site, disk, 0, pending, places, partition, `/${pending.account}/${pending.container}/${pending.object}`)
}
