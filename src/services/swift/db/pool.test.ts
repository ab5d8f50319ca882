import assert from 'node:assert/strict'
import { mkdir, mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'node:test'
import { now } from '../timestamp.ts'
import { openDatabases } from './pool.ts'

test('everything that is asked of one database at once is done in one transaction', async t => {
  const dir = await mkdtemp(join(tmpdir(), 'swift-db-'))
  const databases = openDatabases(1)
  t.after(async () => {
    await databases.close()
    await rm(dir, { recursive: true, force: true })
  })
  await mkdir(join(dir, 'd'))
  const path = join(dir, 'd', 'containers', '1', 'abc', 'hash', 'hash.db')
  const time = now()
  const own = { account: 'a', container: 'c', at: time, put: time }
  const row = (name: string) => ({
    name,
    created_at: now(),
    size: 1,
    content_type: 'x',
    etag: 'e',
    deleted: 0,
    policy: 0,
    type_at: time,
    meta_at: time,
  })
  const remote = {
    id: 'other',
    hash: '0',
    put_timestamp: time,
    delete_timestamp: '0',
    created_at: time,
    status_changed_at: time,
    policy: 0,
    metadata: {},
  }
  const put = { ...own, policy: 0, fallback: 0, metadata: {}, limits: { count: 9, size: 999 } }
  for (let round = 0; round < 3; round++) {
    await Promise.all([
      databases.call('container.put', path, put),
      databases.call('container.rows', path, { rows: [row(`a${round}`)], make: null }),
      databases.call('container.receive', path, { ...own, remote, rows: [row(`b${round}`)], source: 'other' }),
      databases.call('container.put', path, put),
    ])
  }
  assert.equal((await databases.call('container.info', path))?.object_count, 6)
})

test('an audit of a large database delays nothing that is asked of it meanwhile', async t => {
  const dir = await mkdtemp(join(tmpdir(), 'swift-db-'))
  const databases = openDatabases(1)
  t.after(async () => {
    await databases.close()
    await rm(dir, { recursive: true, force: true })
  })
  await mkdir(join(dir, 'd'))
  const path = join(dir, 'd', 'containers', '1', 'abc', 'hash', 'hash.db')
  const make = { account: '.a', container: 'c', at: now(), put: now() }
  const common = {
    created_at: now(),
    size: 1,
    content_type: 'x',
    etag: 'e',
    deleted: 0,
    policy: 0,
    type_at: now(),
    meta_at: now(),
  }
  const rows = Array.from({ length: 20_000 }, (_, i) => ({ ...common, name: `o${i}` }))
  await databases.call('container.rows', path, { rows, make })
  const order: string[] = []
  const audit = databases.call('container.audit', path).then(problem => {
    order.push('audit')
    return problem
  })
  await databases.call('container.rows', path, { rows: [{ ...common, name: 'late' }], make: null })
  order.push('row')
  assert.equal(await audit, null)
  assert.deepEqual(order, ['row', 'audit'])
})
