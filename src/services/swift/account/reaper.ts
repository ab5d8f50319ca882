/** Empties accounts that were deleted: their objects, then their containers. The database goes when the tombstones are reclaimed. */
import { type Daemon, databasesHere, type Pass, type Premises } from '../daemons.ts'
import { discard, ok, readAll } from '../http/message.ts'
import { request } from '../internal.ts'
import { partitionFor, primaries } from '../ring/ring.ts'

/** Accounts whose first replica is here. `delay`: seconds that a deleted account may still be brought back. */
export const accountReaper = (every: number, delay = 0): Daemon => ({
  name: 'account-reaper',
  every,
  async pass(premises, pass) {
    for await (const found of databasesHere(premises, 'accounts', pass)) {
      const info = await premises.databases.databases.call('account.info', found.path)
      if (info?.status !== 'DELETED' || Number(info.delete_timestamp) > Date.now() / 1000 - delay) continue
      const { cluster } = premises
      const [first] = primaries(cluster.accountRing, partitionFor(cluster.accountRing, cluster.secrets, info.account))
      if (first.device !== found.device || `${first.ip}:${first.port}` !== premises.address) continue
      if (info.container_count > 0) await reap(premises, pass, info.account, found.path)
    }
  },
})

async function reap(premises: Premises, pass: Pass, account: string, path: string): Promise<void> {
  for (let row = -1; ; ) {
    const containers = await premises.databases.databases.call('account.since', path, { row, count: 1000 })
    for (const container of containers) {
      row = container.rowid!
      if (!container.deleted) await empty(premises, pass, account, container.name)
    }
    if (containers.length < 1000) return
  }
}

async function empty(premises: Premises, pass: Pass, account: string, container: string): Promise<void> {
  const allow = { 'x-backend-allow-reserved-names': 'true' }
  for (;;) {
    const res = await premises.client(
      request('GET', `/v1/${account}/${container}`, {
        query: new Map([
          ['format', 'json'],
          ['limit', '1000'],
        ]),
        headers: allow,
      }),
    )
    if (!ok(res.status)) {
      discard(res)
      break
    }
    const names = (JSON.parse((await readAll(res.body)).toString() || '[]') as { name: string }[]).map(item => item.name)
    if (names.length === 0) break
    let gone = 0
    for (const name of names) {
      await pass.pace(200)
      const deleted = await premises.client(request('DELETE', `/v1/${account}/${container}/${name}`, { headers: { ...allow } }))
      discard(deleted)
      if (ok(deleted.status) || deleted.status === 404) gone += 1
    }
    pass.count('objects', gone)
    if (gone === 0) return pass.count('failures')
  }
  const res = await premises.client(
    request('DELETE', `/v1/${account}/${container}`, { headers: { ...allow, 'x-account-override-deleted': 'yes' } }),
  )
  discard(res)
  pass.count(ok(res.status) || res.status === 404 ? 'containers' : 'failures')
}
