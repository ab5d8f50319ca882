/** Tells accounts what their containers hold, when it has changed since they were told. */
import { type Daemon, databasesHere, type Pass, type Premises } from '../daemons.ts'
import { discard, ok } from '../http/message.ts'
import { quorum } from '../policies.ts'
import { partitionFor, primaries } from '../ring/ring.ts'
import type { ContainerInfo } from './broker.ts'
import { accountRow } from './server.ts'

const changed = (info: ContainerInfo): boolean =>
  info.put_timestamp !== info.reported_put_timestamp ||
  info.delete_timestamp !== info.reported_delete_timestamp ||
  info.object_count !== info.reported_object_count ||
  info.bytes_used !== info.reported_bytes_used

async function report(premises: Premises, pass: Pass, path: string): Promise<void> {
  const { databases, cluster } = premises
  const info = await databases.databases.call('container.info', path)
  if (!info || !changed(info) || info.account.startsWith('.shards_')) return
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
  if (results.filter(status => ok(status) || status === 404).length < quorum(places.length)) return pass.count('failures')
  const { put_timestamp: put, delete_timestamp: deleted, object_count: count, bytes_used: bytes } = info
  await databases.databases.call('container.reported', path, { put, deleted, count, bytes })
  pass.count('reported')
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
    for (const path of paths) await report(premises, pass, path)
  },
})
