/** Puts the object store together in one process: its servers on device folders here, and the proxy in front. */

import { randomBytes } from 'node:crypto'
import { mkdir, readdir, readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import type { Log } from '#kit/log.ts'
import { accountServer } from './account/server.ts'
import { LIMITS } from './constraints.ts'
import { containerServer } from './container/server.ts'
import type { DbSite } from './db/path.ts'
import { type Databases, openDatabases } from './db/pool.ts'
import { failedWith } from './disk/layout.ts'
import { type Disks, openDisks } from './disk/threads.ts'
import type { HashSecrets } from './hash.ts'
import { type Device, type Dialer, dialer, type Role } from './http/client.ts'
import type { App } from './http/message.ts'
import { objectServer } from './object/server.ts'
import type { ObjectSite } from './object/site.ts'
import type { Policy } from './policies.ts'
import { type Cluster, errorLimiter, infoCache } from './proxy/cluster.ts'
import type { Ring } from './ring/ring.ts'

export interface HostOptions {
  /** The folder that holds the devices of this host. */
  root: string
  secrets: HashSecrets
  log: Log
  /** Servers of this process, by `ip:port`; the host adds its own under `address`. */
  local: Map<string, Record<Role, App>>
  address: string
  dial: Dialer
  databases: Databases
  disks: Disks
  reserve?: number
  mountCheck?: boolean
  reclaimAge?: number
  expirerDivisor?: number
  updateTimeout?: number
}

export interface Host {
  servers: Record<Role, App>
  objectSite: ObjectSite
  dbSite: DbSite
}

/** The account, container and object servers of one host. */
export function startHost(options: HostOptions): Host {
  const shared = {
    root: options.root,
    secrets: options.secrets,
    dial: options.dial,
    limits: LIMITS,
    log: options.log,
    reserve: options.reserve ?? 0.01,
    mountCheck: options.mountCheck ?? false,
    reclaimAge: options.reclaimAge ?? 604800,
  }
  const dbSite: DbSite = { ...shared, databases: options.databases, changed: new Set() }
  const objectSite: ObjectSite = {
    ...shared,
    disks: options.disks,
    updateTimeout: options.updateTimeout ?? 1,
    expirerDivisor: options.expirerDivisor ?? 86400,
  }
  const servers = { account: accountServer(dbSite), container: containerServer(dbSite), object: objectServer(objectSite) }
  options.local.set(options.address, servers)
  return { servers, objectSite, dbSite }
}

/** One App for a host that listens: the server is told apart by the caller's `X-Backend-Role`. */
export function hostApp(servers: Record<Role, App>): App {
  return req => {
    const { 'x-backend-role': role, 'x-backend-method': method } = req.headers
    if (method) req.method = method
    return servers[role === 'account' || role === 'container' ? role : 'object'](req)
  }
}

export interface ClusterOptions {
  accountRing: Ring
  containerRing: Ring
  policies: Policy[]
  secrets: HashSecrets
  log: Log
  dial: Dialer
  region?: string
  autocreate?: boolean
  readAffinity?: Record<string, number>
}

/** What a proxy knows of its cluster, with caches of its own. */
export function makeCluster(options: ClusterOptions): Cluster {
  return {
    accountRing: options.accountRing,
    containerRing: options.containerRing,
    policies: options.policies,
    secrets: options.secrets,
    dial: options.dial,
    limits: LIMITS,
    log: options.log,
    errors: errorLimiter(),
    infos: infoCache(),
    autocreate: options.autocreate ?? true,
    attempts: 2,
    postQuorum: 0.5,
    expirerDivisor: 86400,
    readAffinity: options.readAffinity ?? {},
    region: options.region ?? 'RegionOne',
    allowOpenExpired: false,
  }
}

/** The cluster's hash secrets, made at first use and kept beside the data: whoever loses them loses the way to every name. */
export async function keepSecrets(dir: string): Promise<HashSecrets> {
  const file = join(dir, 'hash.json')
  try {
    return JSON.parse(await readFile(file, 'utf8')) as HashSecrets
  } catch (error) {
    if (!failedWith(error, 'ENOENT')) throw error
  }
  await mkdir(dir, { recursive: true })
  const secrets = { prefix: randomBytes(16).toString('hex'), suffix: randomBytes(16).toString('hex') }
  await writeFile(file, JSON.stringify(secrets), { mode: 0o600, flag: 'wx' })
  return secrets
}

/** A device of this machine. */
export const deviceHere = (id: number, device: string, ip = '127.0.0.1', port = 6200): Device => ({
  id,
  region: 1,
  zone: 1,
  ip,
  port,
  replicationIp: ip,
  replicationPort: port,
  device,
  weight: 100,
  meta: '',
})

/** The threads of a host's devices; what a loss of power took from the devices that are there is in place again when this returns. */
export async function startDisks(root: string, log: Log): Promise<Disks> {
  const disks = openDisks((device, trouble) => log.error({ device, trouble }, 'device could not be synced'))
  const devices = await readdir(root).catch(error => (failedWith(error, 'ENOENT') ? [] : Promise.reject(error)))
  const restore = async (device: string): Promise<void> => {
    const restored = await disks.recover({ root, device })
    if (restored) log.warn({ device, restored }, 'files restored from the journal')
  }
  await Promise.all(devices.map(restore))
  return disks
}

export { dialer, openDatabases }
