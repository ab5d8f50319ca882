import assert from 'node:assert/strict'
import { randomBytes } from 'node:crypto'
import { mkdtemp, readdir, readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'node:test'
import { md5 } from '../../hash.ts'
import { testStore } from '../../test-store.ts'

const one = { old: randomBytes(32) }
const both = { ...one, new: randomBytes(32) }

async function bytesBelow(dir: string): Promise<Buffer> {
  const entries = await readdir(dir, { recursive: true, withFileTypes: true })
  const files = entries.filter(entry => entry.isFile())
  return Buffer.concat(await Promise.all(files.map(entry => readFile(join(entry.parentPath, entry.name)))))
}

test('what is on the disk does not show what was stored; clients notice nothing', async t => {
  const store = await testStore(t, { settings: { encryption: { secrets: one, active: 'old' } } })
  await store.call('PUT', '/c')
  const body = Buffer.concat([Buffer.from('a rather recognisable sentence '), randomBytes(200_001)])
  const put = await store.call('PUT', '/c/o', { 'x-object-meta-colour': 'unmistakable', etag: md5(body) }, body)
  assert.deepEqual([put.status, put.headers.etag], [201, md5(body)])
  assert.equal((await store.call('PUT', '/c/lie', { etag: '0'.repeat(32) }, 'x')).status, 422)
  assert.equal((await store.call('GET', '/c/lie')).status, 404)
  assert.equal((await store.call('PUT', '/c/empty', {}, '')).headers.etag, md5(''))

  const disk = await bytesBelow(join(store.dir, 'devices'))
  for (const secret of ['recognisable', 'unmistakable', md5(body)]) assert.ok(!disk.includes(secret), secret)

  const got = await store.call('GET', '/c/o')
  assert.ok(got.body.equals(body))
  assert.deepEqual([got.headers.etag, got.headers['x-object-meta-colour']], [md5(body), 'unmistakable'])
  assert.deepEqual(
    Object.keys(got.headers).filter(name => name.includes('crypto')),
    [],
  )
  for (const [from, to] of [
    [0, 1],
    [15, 17],
    [70_001, 140_000],
  ])
    assert.ok((await store.call('GET', '/c/o', { range: `bytes=${from}-${to - 1}` })).body.equals(body.subarray(from, to)))
  const parts = await store.call('GET', '/c/o', { range: 'bytes=2-7,100000-100004' })
  assert.equal(parts.status, 206)
  assert.ok(parts.body.includes(body.subarray(2, 8)) && parts.body.includes(body.subarray(100_000, 100_005)))
  assert.equal((await store.call('GET', '/c/o', { 'if-none-match': `"${md5(body)}"` })).status, 304)
  assert.equal((await store.call('GET', '/c/o', { 'if-match': 'no' })).status, 412)
  assert.equal((await store.call('GET', '/c/o', { 'if-match': md5(body) })).status, 200)
  const rows = (await store.call('GET', '/c?format=json')).json() as { name: string; hash: string }[]
  assert.deepEqual(
    rows.map(row => [row.name, row.hash]),
    [
      ['empty', md5('')],
      ['o', md5(body)],
    ],
  )

  await store.call('POST', '/c/o', { 'x-object-meta-shape': 'round' })
  assert.equal((await store.call('COPY', '/c/o', { destination: 'c/copy' })).status, 201)
  const copy = await store.call('GET', '/c/copy')
  assert.ok(copy.body.equals(body))
  assert.equal(copy.headers['x-object-meta-shape'], 'round')
})

test('large objects, links and versions of encrypted objects', async t => {
  const store = await testStore(t, { settings: { encryption: { secrets: one, active: 'old' } } })
  await store.call('PUT', '/c')
  await store.call('PUT', '/c/s1', {}, 'first ')
  await store.call('PUT', '/c/s2', {}, 'second')
  const manifest = JSON.stringify([{ path: '/c/s1', etag: md5('first ') }, { path: '/c/s2' }])
  const slo = await store.call('PUT', '/c/slo?multipart-manifest=put', {}, manifest)
  assert.equal(slo.status, 201)
  assert.equal((await store.call('GET', '/c/slo')).text, 'first second')
  assert.equal((await store.call('GET', '/c/slo', { range: 'bytes=4-7' })).text, 't se')
  assert.equal((await store.call('GET', '/c/slo', { 'if-none-match': slo.headers.etag })).status, 304)
  await store.call('PUT', '/c/link', { 'x-symlink-target': 'c/s1', 'x-symlink-target-etag': md5('first ') }, '')
  assert.equal((await store.call('GET', '/c/link')).text, 'first ')
  await store.call('PUT', '/v', { 'x-versions-enabled': 'true' })
  await store.call('PUT', '/v/o', {}, 'one')
  await store.call('PUT', '/v/o', {}, 'two')
  const versions = (await store.call('GET', '/v?versions&format=json')).json() as { hash: string }[]
  assert.deepEqual(
    versions.map(row => row.hash),
    [md5('two'), md5('one')],
  )
  assert.equal(((await store.call('GET', '/v?format=json')).json() as { hash: string }[])[0].hash, md5('two'))
})

test('a new root secret leaves old objects readable', async t => {
  const dir = await mkdtemp(join(tmpdir(), 'swift-secrets-'))
  t.after(() => rm(dir, { recursive: true, force: true }))
  const before = await testStore(t, { dataDir: dir, settings: { encryption: { secrets: one, active: 'old' } } })
  await before.call('PUT', '/c')
  await before.call('PUT', '/c/o', { 'x-object-meta-m': 'v' }, 'kept')
  await before.close()
  const after = await testStore(t, { dataDir: dir, settings: { encryption: { secrets: both, active: 'new' } } })
  await after.call('PUT', '/c/p', {}, 'added')
  const old = await after.call('GET', '/c/o')
  assert.deepEqual([old.text, old.headers['x-object-meta-m']], ['kept', 'v'])
  assert.equal((await after.call('GET', '/c/o', { 'if-none-match': md5('kept') })).status, 304)
  assert.equal((await after.call('GET', '/c/p')).text, 'added')
})
