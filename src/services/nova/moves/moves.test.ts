import assert from 'node:assert/strict'
import { type TestContext, test } from 'node:test'
import { conflict } from '#kit/fault.ts'
import { ADMIN, MEMBER } from '#kit/http/test.ts'
import { computeCloud, IMAGE } from '../testing.ts'

const at = (version: string) => ({ 'openstack-api-version': `compute ${version}` })

async function withServer(t: TestContext, hosts = ['host1', 'host2']) {
  const cloud = await computeCloud(t, hosts)
  await cloud.call('POST /compute/v2.1/flavors', { body: { flavor: { name: 'large', id: 'f2', ram: 1024, vcpus: 2, disk: 2 } } })
  const body = { server: { name: 'web', flavorRef: 'f1', imageRef: IMAGE, networks: 'none' } }
  const { id } = (await cloud.call('POST /compute/v2.1/servers', { as: MEMBER, body, headers: at('2.37') })).body.server
  await cloud.settled()
  const act = (body: object, version = '2.1', as = ADMIN) =>
    cloud.call(`POST /compute/v2.1/servers/${id}/action`, { as, body, headers: at(version) })
  const show = async () => (await cloud.call(`GET /compute/v2.1/servers/${id}`)).body.server
  const done = async (body: object, version?: string) => {
    const answer = await act(body, version)
    assert.ok(answer.status < 300, JSON.stringify(answer.body))
    await cloud.settled()
    return show()
  }
  const at_ = (name: string) => cloud.hosts.find(host => host.name === name)!
  const guests = () => cloud.hosts.filter(host => host.guests.has(id)).map(host => host.name)
  /** Hosts have what they should have. */
  const level = () => Promise.all(cloud.hosts.map(host => host.agent.sync()))
  /** MiB that Placement has given out. */
  const taken = async (): Promise<number> => {
    const rows = await cloud.db.read.selectFrom('placement.allocations').select('used').where('class', '=', 'MEMORY_MB').execute()
    return rows.reduce((sum, row) => sum + row.used, 0)
  }
  return { ...cloud, id, act, show, done, host: at_, guests, taken, level }
}

test('a server is resized, and the resize is reverted and confirmed', async t => {
  const { act, done, guests, taken, call, id, host, show } = await withServer(t)
  assert.equal((await act({ resize: { flavorRef: 'f1' } }, '2.1', MEMBER)).status, 400)
  assert.equal((await act({ confirmResize: null }, '2.1', MEMBER)).status, 409)
  const resized = await done({ resize: { flavorRef: 'f2' } })
  assert.equal(resized.status, 'VERIFY_RESIZE', JSON.stringify(resized))
  assert.equal(resized.flavor.id, 'f2')
  assert.equal(await taken(), 512 + 1024)
  assert.equal((await act({ pause: null })).status, 409)
  const reverted = await done({ revertResize: null })
  assert.equal(reverted.status, 'ACTIVE')
  assert.equal(reverted.flavor.id, 'f1')
  assert.equal(await taken(), 512)
  assert.equal(guests().length, 1)
  assert.equal((await done({ resize: { flavorRef: 'f2' } })).status, 'VERIFY_RESIZE')
  const confirmed = await done({ confirmResize: null })
  assert.equal(confirmed.status, 'ACTIVE')
  assert.equal(confirmed.flavor.id, 'f2')
  assert.equal(await taken(), 1024)
  assert.deepEqual(guests(), [confirmed['OS-EXT-SRV-ATTR:host']])
  assert.equal(host(guests()[0]!).guests.get(id)!.spec.vcpus, 2)
  const { migrations } = (await call('GET /compute/v2.1/os-migrations', { headers: at('2.59') })).body
  assert.deepEqual(
    migrations.map((m: { status: string; migration_type: string }) => [m.migration_type, m.status]),
    [
      ['resize', 'confirmed'],
      ['resize', 'reverted'],
    ],
  )
  assert.equal((await show())['OS-EXT-STS:task_state'], null)
})

test('a server is migrated cold, its disks come along, and one that fails stays where it is', async t => {
  const { done, act, guests, taken, host, id, show } = await withServer(t)
  const [from] = guests()
  const to = from === 'host1' ? 'host2' : 'host1'
  host(to).fail = verb => (verb === 'ensure' ? conflict('no room for its disks') : undefined)
  const failed = await done({ migrate: null })
  assert.equal(failed.status, 'ACTIVE')
  assert.deepEqual(guests(), [from])
  assert.equal(await taken(), 512)
  assert.equal(host(from!).guests.get(id)!.power, 'running')
  host(to).fail = undefined
  assert.equal((await act({ migrate: { host: from } }, '2.56')).status, 400)
  assert.equal((await act({ migrate: { host: 'mars' } }, '2.56')).status, 400)
  const moved = await done({ migrate: { host: to } }, '2.56')
  assert.equal(moved.status, 'VERIFY_RESIZE')
  assert.equal(moved['OS-EXT-SRV-ATTR:host'], to)
  assert.deepEqual(guests(), ['host1', 'host2'])
  assert.equal(host(from!).guests.get(id)!.power, 'off')
  await done({ confirmResize: null })
  assert.deepEqual(guests(), [to])
  assert.equal((await show()).status, 'ACTIVE')
})

test('a server is migrated live: it does not boot again', async t => {
  const { done, act, guests, taken, host, id, level } = await withServer(t)
  const [from] = guests()
  const body = { 'os-migrateLive': { host: null, block_migration: 'auto' } }
  const moved = await done(body, '2.25')
  assert.equal(moved.status, 'ACTIVE')
  assert.notEqual(moved['OS-EXT-SRV-ATTR:host'], from)
  await level()
  assert.deepEqual(guests(), [moved['OS-EXT-SRV-ATTR:host']])
  assert.equal(host(guests()[0]!).guests.get(id)!.boots, 0)
  assert.equal(await taken(), 512)
  await done({ pause: null })
  assert.equal((await done(body, '2.25')).status, 'PAUSED')
  assert.equal((await act({ 'os-migrateLive': { host: 'mars', block_migration: 'auto' } }, '2.25')).status, 400)
})

test('a server is evacuated from a host that is down', async t => {
  const { act, done, guests, host, id, taken } = await withServer(t)
  const [from] = guests()
  assert.equal((await act({ evacuate: {} }, '2.95')).status, 400)
  await host(from!).close()
  const moved = await done({ evacuate: {} }, '2.95')
  assert.equal(moved.status, 'SHUTOFF')
  assert.notEqual(moved['OS-EXT-SRV-ATTR:host'], from)
  assert.equal(host(moved['OS-EXT-SRV-ATTR:host']).guests.get(id)!.power, 'off')
  assert.equal(await taken(), 512)
})

test('a server is shelved, leaves its host, and is unshelved', async t => {
  const { act, done, guests, taken, call, settled, id } = await withServer(t)
  const shelved = await done({ shelve: null })
  assert.equal(shelved.status, 'SHELVED_OFFLOADED')
  assert.equal(shelved['OS-EXT-SRV-ATTR:host'], null)
  assert.equal(await taken(), 0)
  assert.equal((await act({ shelve: null })).status, 409)
  const { images } = (await call('GET /image/v2/images')).body
  assert.equal(images[0].name, 'web-shelved')
  const back = await done({ unshelve: null })
  assert.equal(back.status, 'ACTIVE')
  assert.equal(await taken(), 512)
  assert.equal((await call('GET /image/v2/images')).body.images.length, 0)
  await call(`DELETE /compute/v2.1/servers/${id}`)
  await settled()
  assert.deepEqual(guests(), [])
})

test('an image is taken of a server, and backups rotate', async t => {
  const { act, done, call, settled } = await withServer(t)
  const made = await act({ createImage: { name: 'snap', metadata: { a: 'b' } } }, '2.45', MEMBER)
  assert.equal(made.status, 202, JSON.stringify(made.body))
  await settled()
  const image = (await call(`GET /image/v2/images/${made.body.image_id}`)).body
  assert.deepEqual([image.status, image.a, image.image_type, image.name], ['active', 'b', 'snapshot', 'snap'])
  for (const name of ['one', 'two', 'three']) await done({ createBackup: { name, backup_type: 'daily', rotation: 2 } })
  const { images } = (await call('GET /image/v2/images?backup_type=daily&sort=name:asc')).body
  assert.deepEqual(
    images.map((i: { name: string }) => i.name),
    ['three', 'two'],
  )
})

test('a server is rebuilt, in any of the states that allow it', async t => {
  const { act, host, guests, id, settled, show } = await withServer(t)
  const answer = await act({ rebuild: { imageRef: IMAGE, name: 'new', metadata: { a: 'b' } } }, '2.37', MEMBER)
  assert.equal(answer.status, 202, JSON.stringify(answer.body))
  assert.equal(answer.body.server.status, 'REBUILD')
  assert.match(answer.body.server.adminPass, /^\w{12}$/)
  await settled()
  assert.equal((await show()).status, 'ACTIVE')
  assert.equal((await act({ rebuild: { imageRef: 'f0000000-31e7-49b7-b260-868f441e862b' } })).status, 400)
  assert.equal(host(guests()[0]!).guests.get(id)!.boots, 1)
})
