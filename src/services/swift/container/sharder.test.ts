import assert from 'node:assert/strict'
import { test } from 'node:test'
import { login, type Store, testStore } from '../test-store.ts'

const names = (count: number): string[] =>
  Array.from({ length: count }, (_, i) => `f${String(i % 7)}/${String(i).padStart(4, '0')}`)

async function sharded(store: Store): Promise<void> {
  for (let i = 0; i < 3; i++) {
    for (const daemon of ['object-updater', 'container-replicator', 'container-sharder', 'container-updater-quick'])
      await store.daemons.once(daemon)
  }
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
  await sharded(store)
  assert.equal((await store.call('HEAD', '/c')).headers['x-container-sharding'], undefined)
  const admin = await login(store.raw, 'admin:admin')
  const post = await store.raw('POST', '/v1/AUTH_test/c', { 'x-auth-token': admin, 'x-container-sharding': 'on' })
  assert.equal(post.status, 204)
  await sharded(store)

  store.site.cluster.infos.drop('AUTH_test/c')
  const sorted = [...all].sort()
  assert.deepEqual(await listed(store), sorted)
  const head = await store.call('HEAD', '/c')
  assert.deepEqual([head.headers['x-container-object-count'], head.headers['x-container-bytes-used']], ['50', '100'])
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
  assert.deepEqual(await listed(store), [...sorted.slice(1), 'f2/new'].sort())
  await sharded(store)
  assert.equal((await store.call('HEAD', '/c')).headers['x-container-object-count'], '50')
  assert.equal((await store.call('DELETE', '/c')).status, 409)

  // a shard that grows is split itself
  for (let i = 0; i < 25; i++) await store.call('PUT', `/c/f6/more-${i}`, {}, 'x')
  await sharded(store)
  await sharded(store)
  assert.equal((await listed(store)).length, 75)
  assert.equal((await store.call('HEAD', '/c')).headers['x-container-object-count'], '75')

  for (const name of await listed(store)) await store.call('DELETE', `/c/${name}`)
  await sharded(store) // what went by a proxy's older table of shards follows
  assert.deepEqual(await listed(store), [])
  for (let i = 0; i < 5; i++) await sharded(store)
  await store.call('PUT', '/c/last', {}, 'x')
  await sharded(store)
  assert.deepEqual(await listed(store), ['last'])
  await store.call('DELETE', '/c/last')
  await sharded(store)
  assert.equal((await store.call('DELETE', '/c')).status, 204)
})
