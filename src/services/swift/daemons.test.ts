import assert from 'node:assert/strict'
import { open, readdir } from 'node:fs/promises'
import { join } from 'node:path'
import { test } from 'node:test'
import { setTimeout as pause } from 'node:timers/promises'
import { login, testStore } from './test-store.ts'

const files = async (dir: string, ending: string): Promise<string[]> =>
  (await readdir(dir, { recursive: true, withFileTypes: true }))
    .filter(entry => entry.isFile() && entry.name.endsWith(ending))
    .map(entry => join(entry.parentPath, entry.name))

test('an object ends at its time, and its queue entry with it', async t => {
  const store = await testStore(t)
  await store.call('PUT', '/c')
  assert.equal((await store.call('PUT', '/c/o', { 'x-delete-after': '2' }, 'x')).status, 201)
  assert.equal((await store.call('PUT', '/c/stays', { 'x-delete-after': '100' }, 'x')).status, 201)
  await store.daemons.once('container-updater-quick')
  await pause(2300)
  assert.equal((await store.call('GET', '/c/o')).status, 404)
  const { counts } = await store.daemons.once('object-expirer')
  assert.equal(counts.expired, 1)
  assert.equal((await store.call('GET', '/c')).text, 'stays\n')
  await store.daemons.once('object-updater')
  assert.equal((await store.daemons.once('object-expirer')).counts.expired, undefined)
})

test('a deleted account is emptied', async t => {
  const store = await testStore(t)
  await store.call('PUT', '/c')
  await store.call('PUT', '/c/o', {}, 'x')
  const admin = await login(store.raw, 'admin:admin')
  assert.equal((await store.raw('DELETE', '/v1/AUTH_test', { 'x-auth-token': admin })).status, 204)
  assert.equal((await store.call('GET', '')).status, 410)
  const { counts } = await store.daemons.once('account-reaper')
  assert.deepEqual([counts.objects, counts.containers], [1, 1])
})

test('a flipped byte is never sent, and the auditor finds it', async t => {
  const store = await testStore(t)
  await store.call('PUT', '/c')
  await store.call('PUT', '/c/small', {}, 'hello')
  await store.call('PUT', '/c/large', {}, 'y'.repeat(300_000))
  const flip = async (path: string, at: number): Promise<void> => {
    const file = await open(path, 'r+')
    const byte = Buffer.alloc(1)
    await file.read(byte, 0, 1, at)
    byte[0] ^= 1
    await file.write(byte, 0, 1, at)
    await file.close()
  }
  for (const path of await files(join(store.dir, 'devices'), '.data')) await flip(path, 2)
  assert.equal((await store.call('GET', '/c/small')).status, 404)
  const { counts } = await store.daemons.once('object-auditor')
  assert.equal(counts.quarantined, 1)
  assert.equal((await files(join(store.dir, 'devices', 'd1', 'quarantined'), '.data')).length, 2)
})

test('counts of the account follow, damaged databases are found', async t => {
  const store = await testStore(t)
  await store.call('PUT', '/c')
  await store.call('PUT', '/c/o', {}, 'hello')
  await store.daemons.once('container-updater-quick')
  const head = await store.call('HEAD', '')
  assert.deepEqual(
    [
      head.headers['x-account-object-count'],
      head.headers['x-account-bytes-used'],
      head.headers['x-account-storage-policy-policy-0-object-count'],
    ],
    ['1', '5', '1'],
  )
  assert.equal((await store.daemons.once('container-auditor')).counts.quarantined, undefined)
  assert.equal((await store.daemons.once('account-auditor')).counts.quarantined, undefined)
})

test('container sync carries objects and deletions to another container', async t => {
  const store = await testStore(t, { settings: { realms: [{ name: 'r', key: 'secret', clusters: {} }] } })
  store.site.settings.realms[0].clusters.here = `http://127.0.0.1:${store.port}/v1/`
  await store.call('PUT', '/b', { 'x-container-sync-key': 'k' })
  await store.call('PUT', '/a', { 'x-container-sync-key': 'k', 'x-container-sync-to': '//r/here/AUTH_test/b' })
  await store.call('PUT', '/a/one', { 'x-object-meta-m': 'v' }, '1')
  await store.call('PUT', '/a/two', {}, '2')
  await store.daemons.once('container-sync')
  const copy = await store.call('GET', '/b/one')
  assert.deepEqual([copy.text, copy.headers['x-object-meta-m']], ['1', 'v'])
  await store.call('DELETE', '/a/one')
  await store.daemons.once('container-sync')
  assert.equal((await store.call('GET', '/b')).text, 'two\n')
})
