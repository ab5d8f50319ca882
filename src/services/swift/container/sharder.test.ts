import assert from 'node:assert/strict'
import { test } from 'node:test'
import { ownEnv } from '../http/message.ts'
import { containerInfo } from '../proxy/info.ts'
import { login, type Store, testStore } from '../test-store.ts'

const names = (count: number): string[] =>
  Array.from({ length: count }, (_, i) => `f${String(i % 7)}/${String(i).padStart(4, '0')}`)

/** Passes of the daemons until it is so: rows that went by an older table of shards move on by one shard a pass. */
async function until(store: Store, what: string, isSo: () => Promise<boolean>): Promise<void> {
  for (let round = 0; round < 20; round++) {
    if (await isSo()) return
    for (const daemon of ['object-updater', 'container-replicator', 'container-sharder', 'container-updater-quick'])
      await store.daemons.once(daemon)
  }
  assert.fail(`${what}: not after 20 passes`)
}

async function counted(store: Store): Promise<string> {
  return (await store.call('HEAD', '/c')).headers['x-container-object-count']
}

async function listed(store: Store, query = ''): Promise<string[]> {
  const res = await store.call('GET', `/c${query}`)
  assert.ok(res.status === 200 || res.status === 204, `${res.status} ${res.text}`)
  return res.text.split('\n').filter(Boolean)
}

test('a container is split, listed and written as one, and joined again', async t => {
  const sharding = { auto: false, threshold: 20, rowsPerShard: 10, shrinkPoint: 0.5 }
  const store = await testStore(t, { devices: ['d1', 'd2'], replicas: 2, partPower: 2, settings: { sharding } })
  await store.call('PUT', '/c')
  const all = names(50)
  for (const name of all) await store.call('PUT', `/c/${name}`, {}, 'xy')
  const isSplit = async (): Promise<boolean> => {
    store.site.cluster.infos.drop('AUTH_test/c')
    const { headers } = await containerInfo(store.site.cluster, ownEnv('test'), 'AUTH_test', 'c')
    return headers['x-backend-sharding-state'] === 'sharded'
  }
  const same = async (names_: string[]): Promise<boolean> => (await listed(store)).join() === names_.join()
  const admin = await login(store.raw, 'admin:admin')
  const post = await store.raw('POST', '/v1/AUTH_test/c', { 'x-auth-token': admin, 'x-container-sharding': 'on' })
  assert.equal(post.status, 204)
  await until(store, 'split', isSplit)

  const sorted = [...all].sort()
  assert.deepEqual(await listed(store), sorted)
  await until(store, 'counts', async () => (await counted(store)) === '50')
  assert.equal((await store.call('HEAD', '/c')).headers['x-container-bytes-used'], '100')
  assert.deepEqual(await listed(store, '?reverse=on'), sorted.toReversed())
  assert.deepEqual(await listed(store, '?delimiter=/'), ['f0/', 'f1/', 'f2/', 'f3/', 'f4/', 'f5/', 'f6/'])
  assert.deepEqual(
    await listed(store, '?prefix=f3/'),
    sorted.filter(name => name.startsWith('f3/')),
  )
  const paged: string[] = []
  for (let marker = ''; ; ) {
    const page = await listed(store, `?limit=7&marker=${encodeURIComponent(marker)}`)
    paged.push(...page)
    if (page.length < 7) break
    marker = page.at(-1)!
  }
  assert.deepEqual(paged, sorted)
  assert.deepEqual(await listed(store, `?marker=${sorted[10]}&end_marker=${sorted[40]}`), sorted.slice(11, 40))

  // written and deleted in the shards
  assert.equal((await store.call('PUT', '/c/f2/new', {}, 'x')).status, 201)
  assert.equal((await store.call('DELETE', `/c/${sorted[0]}`)).status, 204)
  await until(store, 'one more, one less', () => same([...sorted.slice(1), 'f2/new'].sort()))
  await until(store, 'counts again', async () => (await counted(store)) === '50')
  assert.equal((await store.call('DELETE', '/c')).status, 409)

  // a shard that grows is split itself
  for (let i = 0; i < 25; i++) await store.call('PUT', `/c/f6/more-${i}`, {}, 'x')
  await until(store, 'grown', async () => (await listed(store)).length === 75 && (await counted(store)) === '75')

  for (const name of await listed(store)) await store.call('DELETE', `/c/${name}`)
  await until(store, 'empty', () => same([]))
  await store.call('PUT', '/c/last', {}, 'x')
  await until(store, 'one again', () => same(['last']))
  await store.call('DELETE', '/c/last')
  await until(store, 'empty again', async () => (await same([])) && (await counted(store)) === '0')
  await until(store, 'deleted', async () => (await store.call('DELETE', '/c')).status === 204)
})
