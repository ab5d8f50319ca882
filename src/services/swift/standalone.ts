/** A whole object store in one process, without Keystone and PostgreSQL: device folders, servers, proxy. */
import { mkdir } from 'node:fs/promises'
import { join } from 'node:path'
import type { Log } from '#kit/log.ts'
import { allDaemons } from './daemon-list.ts'
import { type Premises, type Running, runDaemons } from './daemons.ts'
import { type Databases, openDatabases } from './db/pool.ts'
import { dialer, type Role } from './http/client.ts'
import type { App } from './http/message.ts'
import { type Listening, listen } from './http/serve.ts'
import type { Policy } from './policies.ts'
import { siteInfo } from './proxy/info-page.ts'
import { pipeline } from './proxy/pipeline.ts'
import type { ProxySettings, Site } from './proxy/site.ts'
import { evenRing } from './ring/ring.ts'
import { DEFAULTS } from './settings.ts'
import { deviceHere, type Host, keepSecrets, makeCluster, startDisks, startHost } from './start.ts'

export interface AloneOptions {
  /** Holds `devices/` and the hash secrets. */
  dataDir: string
  log: Log
  /** Names of device folders below `devices/`; made when missing. */
  devices?: string[]
  /** Copies of each object, at most the number of devices. */
  replicas?: number
  partPower?: number
  settings?: Partial<ProxySettings>
  /** Further policies beside the replicated one. */
  policies?: (devices: ReturnType<typeof deviceHere>[]) => Policy[]
  /** Where to listen; without it only `app` is there. */
  listen?: { ip: string; port: number }
  mount?: string
  databaseThreads?: number
  /** Free space kept on each device: bytes, or a share when below 1. */
  reserve?: number
  /** Seconds that a request waits for container servers, and for the replicas behind a quorum. */
  patience?: { updates: number; replicas: number }
  /** Seconds between passes of quick daemons and of auditors. Without it no daemon runs by itself. */
  intervals?: { quick: number; audit: number }
}

export interface Alone {
  app: App
  site: Site
  host: Host
  databases: Databases
  daemons: Running
  port: number
  close(): Promise<void>
}

/** Starts it; ready when it returns. */
export async function startAlone(options: AloneOptions): Promise<Alone> {
  const names = options.devices ?? ['d1']
  const root = join(options.dataDir, 'devices')
  for (const name of names) await mkdir(join(root, name), { recursive: true })
  const secrets = await keepSecrets(options.dataDir)
  const local = new Map<string, Record<Role, App>>()
  const dial = dialer({ local })
  const databases = openDatabases(options.databaseThreads ?? (names.length === 1 ? 2 : 1))
  const disks = await startDisks(root, options.log)
  const host = startHost({
    disks,
    reserve: options.reserve,
    root,
    secrets,
    log: options.log,
    local,
    address: '127.0.0.1:6200',
    dial,
    databases,
    updateTimeout: options.patience?.updates,
  })
  const devices = names.map((name, i) => deviceHere(i, name))
  const ring = evenRing(devices, options.replicas ?? 1, options.partPower ?? 10)
  const policies: Policy[] = [
    { index: 0, name: 'Policy-0', aliases: [], default: true, deprecated: false, ring, code: null },
    ...(options.policies?.(devices) ?? []),
  ]
  const cluster = makeCluster({ accountRing: ring, containerRing: ring, policies, secrets, log: options.log, dial })
  if (options.patience) cluster.postQuorum = options.patience.replicas
  const site: Site = { cluster, settings: { ...DEFAULTS, ...options.settings }, info: {} }
  site.info = siteInfo(site)
  const app = pipeline(site)
  const premises: Premises = {
    objects: host.objectSite,
    databases: host.dbSite,
    cluster,
    log: options.log,
    address: '127.0.0.1:6200',
    client: app,
    site,
  }
  const daemons = runDaemons(
    premises,
    allDaemons(options.intervals ?? { quick: 30, audit: 3600 }),
    options.intervals === undefined,
  )
  const listening: Listening | null = options.listen
    ? await listen(app, options.listen.ip, options.listen.port, { log: options.log, mount: options.mount })
    : null
  const close = async (): Promise<void> => {
    await daemons.stop()
    await listening?.close()
    dial.close()
    await Promise.all([databases.close(), disks.close()])
  }
  let closed: Promise<void> | undefined
  return {
    app,
    site,
    host,
    databases,
    daemons,
    port: listening?.port ?? 0,
    close() {
      closed ??= close()
      return closed
    },
  }
}
