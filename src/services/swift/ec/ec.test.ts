import assert from 'node:assert/strict'
import { randomBytes } from 'node:crypto'
import { readdir, rm } from 'node:fs/promises'
import { join } from 'node:path'
import { test } from 'node:test'
import { evenRing } from '../ring/ring.ts'
import { testStore } from '../test-store.ts'
import { decode, encode, rebuild } from './reed-solomon.ts'

test('any data pieces give back all, and every other piece', () => {
  for (const [data, parity] of [
    [4, 2],
    [2, 1],
    [10, 4],
  ]) {
    const segment = randomBytes(1000)
    const pieces = encode(segment, data, parity)
    for (let round = 0; round < 20; round++) {
      const left = [...pieces.entries()].sort(() => Math.random() - 0.5).slice(0, data)
      assert.ok(
        Buffer.concat(decode(new Map(left), data))
          .subarray(0, 1000)
          .equals(segment),
      )
      for (let wanted = 0; wanted < data + parity; wanted++)
        assert.ok(rebuild(new Map(left), data, wanted).equals(pieces[wanted]))
    }
  }
})

test('an erasure-coded object survives the loss of as many devices as it has parity, and is made whole again', async t => {
  const devices = ['d1', 'd2', 'd3', 'd4', 'd5', 'd6']
  const store = await testStore(t, {
    devices,
    replicas: 3,
    partPower: 2,
    policies: list => [
      {
        index: 1,
        name: 'ec',
        aliases: [],
        default: false,
        deprecated: false,
        ring: evenRing(list, 6, 2),
        code: { data: 4, parity: 2, segmentSize: 10_000, duplication: 1 },
      },
    ],
  })
  await store.call('PUT', '/c', { 'x-storage-policy': 'ec' })
  const bytes = randomBytes(123_456)
  const put = await store.call('PUT', '/c/o', { 'x-object-meta-m': 'v' }, bytes)
  assert.equal(put.status, 201)
  await store.call('PUT', '/c/empty', {}, '')
  assert.equal((await store.call('PUT', '/c/bad', { etag: '0'.repeat(32) }, 'x')).status, 422)
  const row = ((await store.call('GET', '/c?format=json&prefix=o')).json() as { bytes: number; hash: string }[])[0]
  assert.deepEqual([row.bytes, row.hash], [123_456, put.headers.etag])
  const check = async (): Promise<void> => {
    const got = await store.call('GET', '/c/o')
    assert.equal(got.status, 200)
    assert.ok(got.body.equals(bytes))
    assert.equal(got.headers['x-object-meta-m'], 'v')
    assert.ok((await store.call('GET', '/c/o', { range: 'bytes=9990-30010' })).body.equals(bytes.subarray(9990, 30_011)))
    assert.equal((await store.call('GET', '/c/empty')).status, 200)
    assert.equal((await store.call('GET', '/c/bad')).status, 404)
  }
  await check()
  for (const device of ['d2', 'd5']) await rm(join(store.dir, 'devices', device, 'objects-1'), { recursive: true })
  await check()
  const { counts } = await store.daemons.once('object-reconstructor')
  assert.ok(counts.rebuilt >= 4, JSON.stringify(counts))
  for (const device of ['d1', 'd3']) await rm(join(store.dir, 'devices', device, 'objects-1'), { recursive: true })
  await check()
  assert.equal((await store.call('DELETE', '/c/o')).status, 204)
  assert.equal((await store.call('GET', '/c/o')).status, 404)
  assert.ok((await readdir(join(store.dir, 'devices', 'd2', 'objects-1'))).length > 0)
})
