/** The object store inside Nubo: Keystone's tokens in front, device folders in the data folder. */
import { randomBytes } from 'node:crypto'
import { mkdir, readdir, readFile, readlink, rename, symlink, writeFile } from 'node:fs/promises'
import { basename, join, resolve } from 'node:path'
import type { Who as KitWho } from '#kit/context.ts'
import { reason } from '#kit/fault.ts'
import type { Env } from '#kit/service.ts'
import { authenticate, signerOf } from '#services/keystone/index.ts'
import { swiftSettings } from './config.ts'
import { failedWith } from './disk/layout.ts'
import type { Who } from './http/message.ts'
import type { Policy } from './policies.ts'
import type { Realm } from './proxy/site.ts'
import { evenRing } from './ring/ring.ts'
import { DEFAULTS } from './settings.ts'
import { type Alone, startAlone } from './standalone.ts'
import type { deviceHere } from './start.ts'

const stores = new WeakMap<Env, Alone>()

/** The running store of a process. Throws Error before `start`. */
export function storeOf(env: Env): Alone {
  const store = stores.get(env)
  if (!store) throw new Error('the object store is not running in this process')
  return store
}
export const storeIn = (env: Env): Alone | undefined => stores.get(env)

/** Starts it with the configuration's `swift` section; answers what stops it. */
export async function start(env: Env): Promise<() => Promise<void>> {
  const options = env.config.of(swiftSettings)
  const dataDir = join(env.config.dataDir, 'swift')
  const { devices, replicas } = await place(dataDir, options.devices, options.replicas)
  const check = authenticate(env)
  const key = options.encryption_key ? Buffer.from(options.encryption_key, 'base64') : null
  if (key && key.length < 32) throw new Error('swift.encryption_key must be the base64 of at least 32 bytes')
  const store = await startAlone({
    dataDir,
    log: env.log.child({ service: 'swift' }),
    devices,
    replicas,
    policies: list => (options.erasure_code ? [erasure(options.erasure_code, list)] : []),
    intervals: { quick: options.interval, audit: options.audit_interval },
    reserve: options.reserve,
    settings: {
      prefixes: ['AUTH_', 'SERVICE_'],
      keystone: {
        authenticate: async token => whoOf(await valid(check, token)),
        async ec2(access) {
          const signer = await signerOf(env, access)
          return signer && { secret: signer.secret, who: whoOf(signer.who) }
        },
        operatorRoles: options.operator_roles,
        resellerRoles: options.reseller_roles,
        serviceRoles: options.service_roles,
      },
      realms: options.realms.length
        ? options.realms.map(
            (realm): Realm => ({
              ...realm,
              clusters: globalThis.Object.fromEntries(realm.clusters.map(one => [one.name, one.url])),
            }),
          )
        : [{ name: 'realm1', key: randomBytes(24).toString('hex'), clusters: { name1: 'local:/v1/' } }],
      currentRealm: options.current_realm ?? (options.realms.length ? null : 'realm1/name1'),
      storageDomain: options.storage_domain ?? null,
      readOnly: options.read_only,
      sharding: { ...DEFAULTS.sharding, auto: options.auto_shard },
      encryption: key ? { secrets: { default: key }, active: 'default' } : null,
      s3: {
        region: options.region,
        domain: options.s3_domain ?? null,
        minPartSize: 5 * 1024 * 1024,
        maxParts: 10000,
        checkClock: 900,
      },
      accessLog: false,
    },
  })
  stores.set(env, store)
  return async () => {
    stores.delete(env)
    await store.close()
  }
}

function erasure(text: string, devices: ReturnType<typeof deviceHere>[]): Policy {
  const [data, parity] = text.split('+').map(Number)
  if (devices.length < data + parity)
    throw new Error(`swift.erasure_code ${text} needs ${data + parity} devices, there are ${devices.length}`)
  return {
    index: 1,
    name: 'ec',
    aliases: [],
    default: false,
    deprecated: false,
    ring: evenRing(devices, data + parity, 10),
    code: { data, parity, segmentSize: 1024 * 1024, duplication: 1 },
  }
}

interface Placed {
  devices: string[]
  replicas: number
}

/**
 * Names for the device folders; folders elsewhere are linked to. The name of a device belongs to its data for ever, and which devices there
 * are is remembered: a start that names none must not look for the objects elsewhere.
 */
async function place(dataDir: string, folders: string[], replicas: number): Promise<Placed> {
  const root = join(dataDir, 'devices')
  const list = join(dataDir, 'devices.json')
  await mkdir(root, { recursive: true })
  const known = await readFile(list, 'utf8').catch(error => (failedWith(error, 'ENOENT') ? null : Promise.reject(error)))
  if (folders.length === 0) return known === null ? { devices: ['d1'], replicas } : (JSON.parse(known) as Placed)
  const before = known === null ? [] : (JSON.parse(known) as Placed).devices
  const devices: string[] = []
  for (const folder of folders) {
    const target = resolve(folder)
    const stem = basename(target).replace(/[^\w.-]/g, '_')
    const at = (name: string): Promise<string | null> =>
      readlink(join(root, name)).catch(error => (failedWith(error, 'ENOENT', 'EINVAL') ? null : Promise.reject(error)))
    const there = await Promise.all(before.map(async name => ((await at(name)) === target ? name : null)))
    let name = there.find(one => one !== null)
    for (let i = 1; !name; i++) if ((await at(`${stem}-${i}`)) === null) name = `${stem}-${i}`
    if ((await at(name)) === null) await symlink(target, join(root, name))
    devices.push(name)
  }
  // the folder of the beginning stays a device while it holds anything: the replicator empties it
  const first = await readdir(join(root, 'd1')).catch(error => (failedWith(error, 'ENOENT') ? [] : Promise.reject(error)))
  if (first.length && !devices.includes('d1')) devices.push('d1')
  const placed: Placed = { devices, replicas }
  await writeFile(`${list}.new`, JSON.stringify(placed))
  await rename(`${list}.new`, list)
  return placed
}

async function valid(check: ReturnType<typeof authenticate>, token: string): Promise<KitWho | null> {
  try {
    return await check(token)
  } catch (error) {
    if (error instanceof Error && 'status' in error && (error.status === 401 || error.status === 404)) return null
    throw new Error(`could not check a token: ${reason(error)}`, { cause: error })
  }
}

function whoOf(who: KitWho): Who
function whoOf(who: KitWho | null): Who | null
function whoOf(who: KitWho | null): Who | null {
  if (!who) return null
  return {
    userId: who.userId,
    userName: who.userName ?? who.userId,
    userDomainId: who.userDomainId ?? undefined,
    userDomainName: who.userDomainName,
    projectId: who.projectId,
    projectName: who.projectName ?? null,
    projectDomainId: who.projectDomainId,
    projectDomainName: who.projectDomainName,
    roles: [...who.roles],
  }
}
