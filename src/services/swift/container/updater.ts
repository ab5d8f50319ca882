/** Tells accounts what their containers hold, when it has changed since they were told. */
import { type Daemon, databasesHere, type Pass, type Premises } from '../daemons.ts'
import { discard, ok, text, unquote } from '../http/message.ts'
import { quorum } from '../policies.ts'
import { partitionFor, primaries } from '../ring/ring.ts'
import { now } from '../timestamp.ts'
import type { ContainerInfo } from './broker.ts'
import { accountRow } from './server.ts'

const changed = (info: ContainerInfo): boolean =>
  info.put_timestamp !== info.reported_put_timestamp ||
  info.delete_timestamp !== info.reported_delete_timestamp ||
  info.object_count !== info.reported_object_count ||
  info.bytes_used !== info.reported_bytes_used

/** Answers whether the account (or the root of a shard) knows all now. */
async function report(premises: Premises, pass: Pass, path: string): Promise<boolean> {
  const { databases, cluster } = premises
  const info = await databases.databases.call('container.info', path)
  if (!info || !changed(info)) return true
  if (info.account.startsWith('.shards_')) return reportShard(premises, pass, path, info)
  const partition = partitionFor(cluster.accountRing, cluster.secrets, info.account)
  const places = primaries(cluster.accountRing, partition)
  const results = await Promise.all(
    places.map(async place => {
      const res = await cluster.dial(place, 'account', partition, {
        method: 'PUT',
        path: `/${info.account}/${info.container}`,
        headers: accountRow(info),
      })
      discard(res)
      return res.status
    }),
  )
  // an account that is gone need not be told
  if (results.filter(status => ok(status) || status === 404).length < quorum(places.length)) {
    pass.count('failures')
    return false
  }
  const { put_timestamp: put, delete_timestamp: deleted, object_count: count, bytes_used: bytes } = info
  await databases.databases.call('container.reported', path, { put, deleted, count, bytes })
  pass.count('reported')
  return true
}

/** A shard tells its root instead of its account, as a part of the root's table of ranges. */
async function reportShard(premises: Premises, pass: Pass, path: string, info: ContainerInfo): Promise<boolean> {
  const { databases, cluster } = premises
  const self = `${info.account}/${info.container}`
  const own = (await databases.databases.call('shards.ranges', path, { all: true })).find(range => range.name === self)
  const root = unquote(text(info.metadata['x-container-sysmeta-shard-quoted-root']?.[0] ?? ''))
  if (!own || own.deleted || !root || info.state === 'sharded') return true
  const [account, container] = root.split('/')
  const partition = partitionFor(cluster.containerRing, cluster.secrets, account, container)
  const places = primaries(cluster.containerRing, partition)
  const counted = { ...own, object_count: info.object_count, bytes_used: info.bytes_used, meta_timestamp: now() }
  const results = await Promise.all(
    places.map(async place => {
      const res = await cluster.dial(place, 'container', partition, {
        method: 'PUT',
        path: `/${root}`,
        headers: { 'x-backend-record-type': 'shard', 'x-backend-shard-counts': 'true' },
        body: Buffer.from(JSON.stringify([counted])),
      })
      discard(res)
      return ok(res.status)
    }),
  )
  if (results.filter(Boolean).length < quorum(places.length)) return false // not yet in the root's table
  const { put_timestamp: put, delete_timestamp: deleted, object_count: count, bytes_used: bytes } = info
  await databases.databases.call('container.reported', path, { put, deleted, count, bytes })
  pass.count('reported')
  return true
}

/** All databases, at an interval. */
export const containerUpdater = (every: number): Daemon => ({
  name: 'container-updater',
  every,
  async pass(premises, pass) {
    for await (const found of databasesHere(premises, 'containers', pass)) {
      await pass.pace(500)
      pass.count('seen')
      await report(premises, pass, found.path)
    }
  },
})

/** Those that changed here just now, within a second: counts and quotas follow closely. */
export const containerUpdaterQuick = (): Daemon => ({
  name: 'container-updater-quick',
  every: 1,
  async pass(premises, pass) {
    const paths = [...premises.databases.changed]
    premises.databases.changed.clear()
    for (const path of paths) if (!(await report(premises, pass, path))) premises.databases.changed.add(path)
  },
})
