import assert from 'node:assert/strict'
import { readdir } from 'node:fs/promises'
import { join } from 'node:path'
import { test } from 'node:test'
import { builderOf, increasePower, ringOf } from '../ring/builder.ts'
import { testStore } from '../test-store.ts'

test('a part power grows: every object is read at every step, and in the end each is at one place only', async t => {
  const store = await testStore(t, { partPower: 4 })
  const [policy] = store.site.cluster.policies
  const builder = builderOf(policy.ring, 1)
  const give = (step: 1 | 2 | 3): void => {
    increasePower(builder, step)
    policy.ring = { ...ringOf(builder) }
  }
  const names = Array.from({ length: 12 }, (_, i) => `o${i}`)
  const check = async (step: string): Promise<void> => {
    for (const name of names) assert.equal((await store.call('GET', `/c/${name}`)).text, name, `${name} ${step}`)
    assert.equal((await store.call('GET', '/c/gone')).status, 404, step)
  }
  await store.call('PUT', '/c')
  for (const name of names.slice(0, 6)) await store.call('PUT', `/c/${name}`, {}, name)
  await store.call('PUT', '/c/gone', {}, 'x')
  give(1)
  assert.ok((await store.daemons.once('object-relinker')).counts.linked > 0)
  // what comes after the relinker's pass, and before all have the next ring
  for (const name of names.slice(6)) await store.call('PUT', `/c/${name}`, {}, name)
  await store.call('POST', '/c/o0', { 'x-object-meta-color': 'red' })
  await store.call('DELETE', '/c/gone')
  await check('announced')
  give(2)
  await check('grown')
  assert.equal((await store.call('HEAD', '/c/o0')).headers['x-object-meta-color'], 'red')
  assert.ok((await store.daemons.once('object-relinker')).counts.removed > 0)
  await check('cleaned up')
  assert.equal((await store.daemons.once('object-relinker')).counts.linked, undefined)
  give(3)
  await check('ended')
  const files = await readdir(join(store.dir, 'devices', 'd1', 'objects'), { recursive: true })
  const data = files.filter(file => file.endsWith('.data'))
  assert.equal(data.length, names.length)
  for (const file of data) {
    const [partition, , hash] = file.split('/')
    assert.equal(Number(partition), Number.parseInt(hash.slice(0, 8), 16) >>> 27)
  }
})
