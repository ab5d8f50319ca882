/**
 * One process of a cluster: `node src/services/swift/node.ts CONFIG.json`. A storage node serves the devices of one host and runs their
 * daemons; a proxy speaks to clients; one process may be both. The configuration names ring files as `swift-ring-builder` writes them.
 */
import { readFile } from 'node:fs/promises'
import { pathToFileURL } from 'node:url'
import { type Log, openLog } from '#kit/log.ts'
import { allDaemons } from './daemon-list.ts'
import { type Premises, type Running, runDaemons } from './daemons.ts'
import { type Databases, openDatabases } from './db/pool.ts'
import type { Disks } from './disk/threads.ts'
import type { HashSecrets } from './hash.ts'
import { dialer, type Role } from './http/client.ts'
import type { App } from './http/message.ts'
import { type Listening, listen } from './http/serve.ts'
import type { ErasureCode, Policy } from './policies.ts'
import { siteInfo } from './proxy/info-page.ts'
import { pipeline } from './proxy/pipeline.ts'
import type { ProxySettings, Site, TempUser } from './proxy/site.ts'
import { reconApp } from './recon.ts'
import { watchRings } from './ring/watch.ts'
import { DEFAULTS } from './settings.ts'
import { hostApp, makeCluster, startDisks, startHost } from './start.ts'

export interface NodeConfig {
  secrets: HashSecrets
  rings: { account: string; container: string }
  policies: {
    index: number
    name: string
    aliases?: string[]
    default?: boolean
    deprecated?: boolean
    ring: string
    code?: ErasureCode
  }[]
  /** A storage node: the folder of its devices and the address that the rings know it by. */
  storage?: { root: string; ip: string; port: number; mountCheck?: boolean; reserve?: number }
  proxy?: { ip: string; port: number; users?: TempUser[]; settings?: Partial<ProxySettings> }
  /** Seconds between passes of daemons; none run by themselves without it. */
  intervals?: { quick: number; audit: number }
  /** Seconds after which a fragment that never became durable is removed. */
  fragmentGrace?: number
  logLevel?: 'debug' | 'info' | 'warn' | 'error'
  databaseThreads?: number
  connectTimeout?: number
  nodeTimeout?: number
}

export interface Node {
  site: Site
  /** The store as a client of it, everything allowed. */
  client: App
  daemons: Running | null
  close(): Promise<void>
}

/** Starts what the configuration says. */
export async function startNode(config: NodeConfig, log: Log): Promise<Node> {
  const local = new Map<string, Record<Role, App>>()
  const dial = dialer({ local, connectTimeout: config.connectTimeout, nodeTimeout: config.nodeTimeout })
  const rings = watchRings(log)
  const policies = await Promise.all(
    config.policies.map(
      async (one): Promise<Policy> => ({
        index: one.index,
        name: one.name,
        aliases: one.aliases ?? [],
        default: one.default ?? false,
        deprecated: one.deprecated ?? false,
        ring: await rings.load(one.ring),
        code: one.code ?? null,
      }),
    ),
  )
  const [accountRing, containerRing] = await Promise.all([rings.load(config.rings.account), rings.load(config.rings.container)])
  const cluster = makeCluster({ accountRing, containerRing, policies, secrets: config.secrets, log, dial })
  const settings: ProxySettings = {
    ...DEFAULTS,
    accessLog: false,
    tempauth: config.proxy?.users ? { users: config.proxy.users, tokenLife: 86400 } : null,
    ...config.proxy?.settings,
  }
  const site: Site = { cluster, settings, info: {} }
  site.info = siteInfo(site)
  const client = pipeline(site)
  const open: Listening[] = []
  let databases: Databases | null = null
  let disks: Disks | null = null
  let daemons: Running | null = null
  if (config.storage) {
    const { root, ip, port, mountCheck, reserve } = config.storage
    databases = openDatabases(config.databaseThreads ?? 1)
    const address = `${ip}:${port}`
    disks = await startDisks(root, log)
    const shared = { root, secrets: config.secrets, log, local, address, dial }
    const host = startHost({ ...shared, databases, disks, mountCheck, reserve })
    const premises: Premises = { objects: host.objectSite, databases: host.dbSite, cluster, log, address, client, site }
    daemons = runDaemons(
      premises,
      allDaemons({ ...(config.intervals ?? { quick: 30, audit: 3600 }), fragmentGrace: config.fragmentGrace }),
      config.intervals === undefined,
    )
    open.push(await listen(reconApp(premises, daemons, hostApp(host.servers)), ip, port, { log, clientTimeout: 60 }))
  }
  if (config.proxy) open.push(await listen(client, config.proxy.ip, config.proxy.port, { log }))
  return {
    site,
    client,
    daemons,
    async close() {
      rings.stop()
      await daemons?.stop()
      await Promise.all(open.map(one => one.close()))
      dial.close()
      await Promise.all([databases?.close(), disks?.close()])
    },
  }
}

if (process.argv[1] && import.meta.url === pathToFileURL(process.argv[1]).href) {
  const config = JSON.parse(await readFile(process.argv[2], 'utf8')) as NodeConfig
  const log = openLog({ level: config.logLevel ?? 'info' })
  const node = await startNode(config, log)
  process.stdout.write('ready\n')
  const stop = (): void => {
    void node.close().then(() => process.exit(0))
  }
  process.once('SIGTERM', stop)
  process.once('SIGINT', stop)
}
