/**
 * Brings the databases of accounts and containers in line: each replica remembers up to which row it has taken over every other one's
 * rows, so a pass sends only what is new. A database that does not belong here is sent to its primaries and removed.
 */
import { rm } from 'node:fs/promises'
import { join } from 'node:path'
import { type Daemon, databasesHere, type FoundDb, type Pass, type Premises } from '../daemons.ts'
import type { Place } from '../http/client.ts'
import { discard, type Req, type Res, readAll, refuse, reply, splitPath } from '../http/message.ts'
import { primaries } from '../ring/ring.ts'
import { now } from '../timestamp.ts'
import { checkDevice, type DbSite, dbDir, guarded } from './path.ts'

type Kind = 'account' | 'container'
const PER_CALL = 1000

interface Package {
  account: string
  container?: string
  remote: {
    id: string
    hash: string
    put_timestamp: string
    delete_timestamp: string
    created_at: string
    status_changed_at: string
    metadata: object
    status?: string
    policy?: number
    state?: string
    epoch?: string | null
    ranges?: object[]
  }
  max_row: number
  /** Absent in the question with which a round begins. */
  rows?: object[]
}
interface Reply {
  id: string
  hash: string
  max_row: number
  point: number
}

/** The replicator of one kind. */
export const dbReplicator = (kind: Kind, every: number): Daemon => ({
  name: `${kind}-replicator`,
  every,
  async pass(premises, pass) {
    for await (const found of databasesHere(premises, `${kind}s`, pass)) {
      await pass.pace(200)
      await replicate(premises, pass, kind, found)
    }
  },
})

async function replicate(premises: Premises, pass: Pass, kind: Kind, found: FoundDb): Promise<void> {
  const { cluster, databases: site } = premises
  const ring = kind === 'account' ? cluster.accountRing : cluster.containerRing
  const places = primaries(ring, found.partition)
  const others = places.filter(place => !(place.device === found.device && `${place.ip}:${place.port}` === premises.address))
  const belongs = others.length < places.length
  if (belongs && others.length === 0) return
  const results: boolean[] = []
  for (const place of others) results.push(await bring(premises, pass, kind, found, place))
  if (belongs || !results.every(Boolean)) return
  await site.databases.call('close', found.path)
  await rm(join(found.path, '..'), { recursive: true, force: true })
  pass.count('removed')
}

async function bring(premises: Premises, pass: Pass, kind: Kind, found: FoundDb, place: Place): Promise<boolean> {
  const { databases } = premises.databases
  const info =
    kind === 'account' ? await databases.call('account.info', found.path) : await databases.call('container.info', found.path)
  if (!info) return true
  const ranges =
    'state' in info && info.epoch !== null ? await databases.call('shards.ranges', found.path, { all: true }) : undefined
  // rows of a sharded container go to its shards only, from each replica by itself: see sharder.ts
  const isSharded = 'state' in info && (info.state === 'sharding' || info.state === 'sharded')
  const { id, hash, put_timestamp, delete_timestamp, created_at, status_changed_at, metadata } = info
  const base: Package = {
    account: info.account,
    container: 'container' in info ? info.container : undefined,
    remote: {
      id,
      hash,
      put_timestamp,
      delete_timestamp,
      created_at,
      status_changed_at,
      metadata,
      ...('status' in info ? { status: info.status } : {}),
      ...('policy' in info ? { policy: info.policy, state: info.state, epoch: info.epoch, ranges } : {}),
    },
    max_row: info.max_row,
  }
  const tell = async (rows?: object[]): Promise<Reply | null> => {
    const res = await premises.cluster.dial(place, kind, found.partition, {
      method: 'REPLICATE',
      path: `/${found.hash}`,
      body: Buffer.from(JSON.stringify({ ...base, rows })),
      replication: true,
      timeout: 60,
    })
    if (res.status === 200) return JSON.parse((await readAll(res.body)).toString()) as Reply
    discard(res)
    pass.count('failures')
    return null
  }
  let there = await tell()
  while (there && !isSharded && there.hash !== hash && there.point < info.max_row) {
    const rows =
      kind === 'account'
        ? await databases.call('account.since', found.path, { row: there.point, count: PER_CALL })
        : await databases.call('container.since', found.path, { row: there.point, count: PER_CALL })
    if (rows.length === 0) break
    there = await tell(rows)
    pass.count('rows', rows.length)
  }
  if (there) {
    pass.count('synced')
    await databases.call('sent', found.path, { id: there.id, row: info.max_row, at: now() })
  }
  if (isSharded && (await databases.call('container.since', found.path, { row: -1, count: 1 })).length) return false
  return there !== null
}

/** `REPLICATE /device/partition/hash` with a package: takes it over. */
export async function receive(site: DbSite, kind: Kind, req: Req): Promise<Res> {
  const [device, partition, hash] = splitPath(req.path, 3, 3) as string[]
  await checkDevice(site, device, true)
  const given = JSON.parse((await readAll(req.body, 256 * 1024 * 1024)).toString()) as Package
  const path = join(dbDir({ root: site.root, device }, `${kind}s`, partition, hash), `${hash}.db`)
  const shared = {
    account: given.account,
    at: now(),
    put: given.remote.put_timestamp,
    rows: (given.rows ?? []) as never[],
    source: given.remote.id,
  }
  const points = given.rows && given.rows.length === 0 ? [{ remote_id: given.remote.id, sync_point: given.max_row }] : undefined
  const result = await guarded(site, device, `${kind}s`, path, () =>
    kind === 'account'
      ? site.databases.call('account.receive', path, { ...shared, remote: given.remote as never, points })
      : site.databases.call('container.receive', path, {
          ...shared,
          container: given.container!,
          remote: given.remote as never,
          points,
        }),
  )
  if (kind === 'container' && (given.rows?.length ?? 0) > 0) site.changed.add(path)
  return result ? reply(200, { 'content-type': 'application/json' }, JSON.stringify(result)) : refuse(500)
}
