import assert from 'node:assert/strict'
import { test } from 'node:test'
import { badRequest, unavailable } from '#kit/fault.ts'
import { ADMIN, FOREIGN, MEMBER } from '#kit/http/test.ts'
import { sagaList } from '#kit/saga/index.ts'
import { computeCloud, IMAGE } from '../testing.ts'

const at = (version: string) => ({ 'openstack-api-version': `compute ${version}` })
const NEW = { name: 'web', flavorRef: 'f1', imageRef: IMAGE, networks: 'none' }

test('a server is created, seen, renamed and deleted, and nothing is left', async t => {
  const { call, settled, hosts, db } = await computeCloud(t)
  const create = await call('POST /compute/v2.1/servers', {
    as: MEMBER,
    body: { server: { ...NEW, metadata: { a: 'b' }, tags: ['x'], description: 'd' } },
    headers: at('2.104'),
  })
  assert.equal(create.status, 202, JSON.stringify(create.body))
  const { id, adminPass } = create.body.server
  assert.match(create.headers.get('location')!, new RegExp(`/compute/v2.1/servers/${id}$`))
  assert.equal(adminPass.length, 12)
  await settled()
  const show = (version: string, as = MEMBER) => call(`GET /compute/v2.1/servers/${id}`, { as, headers: at(version) })
  const { server } = (await show('2.104')).body
  assert.equal(server.status, 'ACTIVE', JSON.stringify(server))
  assert.equal(server['OS-EXT-STS:power_state'], 1)
  assert.equal(server.flavor.original_name, 'small')
  assert.deepEqual(server.tags, ['x'])
  assert.equal(server['OS-EXT-SRV-ATTR:hostname'], 'web')
  assert.ok(!('OS-EXT-SRV-ATTR:host' in server))
  const admin = (await show('2.104', ADMIN)).body.server
  assert.equal(admin['OS-EXT-SRV-ATTR:host'], 'host1')
  assert.equal(admin.host_status, 'UP')
  const old = (await show('2.1')).body.server
  assert.equal(old.flavor.id, 'f1')
  assert.ok(!('description' in old))
  assert.equal(hosts[0]!.guests.size, 1)
  assert.equal((await show('2.1', FOREIGN)).status, 404)

  const renamed = await call(`PUT /compute/v2.1/servers/${id}`, { as: MEMBER, body: { server: { name: 'db' } } })
  assert.equal(renamed.body.server.name, 'db')
  assert.ok(!('OS-EXT-STS:vm_state' in renamed.body.server))
  assert.equal((await call(`DELETE /compute/v2.1/servers/${id}`, { as: FOREIGN })).status, 404)
  assert.equal((await call(`DELETE /compute/v2.1/servers/${id}`, { as: MEMBER })).status, 204)
  await settled()
  assert.equal((await show('2.1')).status, 404)
  assert.equal(hosts[0]!.guests.size, 0)
  assert.deepEqual(await sagaList(db.read), [])
  const gone = await call('GET /compute/v2.1/servers/detail?deleted=true&all_tenants=1')
  assert.equal(gone.body.servers[0].status, 'DELETED')
})

test('what a request names must be there, and what it says must fit', async t => {
  const { call } = await computeCloud(t)
  const refuse = async (change: object, status: number, words: RegExp, version = '2.104') => {
    const answer = await call('POST /compute/v2.1/servers', {
      as: MEMBER,
      body: { server: { ...NEW, ...change } },
      headers: at(version),
    })
    assert.equal(answer.status, status, JSON.stringify(answer.body))
    assert.match(JSON.stringify(answer.body), words)
  }
  await refuse({ flavorRef: 'nope' }, 400, /Flavor nope could not be found/)
  await refuse({ imageRef: 'f0000000-31e7-49b7-b260-868f441e862b' }, 400, /Can not find requested image/)
  await refuse({ imageRef: '' }, 400, /Invalid imageRef/)
  await refuse({ key_name: 'nope' }, 400, /Invalid key_name/)
  await refuse({ name: '' }, 400, /name/)
  await refuse({ name: 'x'.repeat(256) }, 400, /too long/)
  await refuse({ networks: undefined }, 400, /networks/)
  await refuse({ min_count: 3, max_count: 2 }, 400, /min_count must be <= max_count/)
  await refuse({ max_count: 0 }, 400, /max_count/)
  await refuse({ availability_zone: 'mars' }, 400, /zone is not available/)
  await refuse({ availability_zone: 'nova:host1' }, 403, /forced_host/)
  await refuse({ host: 'host1' }, 403, /requested_destination/)
  await refuse({ metadata: { a: 'x'.repeat(256) } }, 400, /too long/)
  await refuse(
    { min_count: 11, max_count: 11 },
    403,
    /Quota exceeded for instances: Requested 11, but already used 0 of 10 instances/,
  )
  await refuse({ user_data: '%%%' }, 400, /base64/)
  await refuse({ personality: [] }, 400, /personality/)
  await refuse({ hostname: 'a', min_count: 2 }, 400, /hostname/)
  await refuse({ block_device_mapping_v2: [{ boot_index: 0, uuid: IMAGE, source_type: 'volume' }] }, 400, /failed to get volume/)
  await refuse(
    { block_device_mapping_v2: [{ source_type: 'blank', destination_type: 'local', volume_size: 5 }] },
    400,
    /larger than/,
  )
})

test('several at once are numbered, and the quota admits what fits', async t => {
  const { call, settled } = await computeCloud(t)
  const create = await call('POST /compute/v2.1/servers', {
    as: MEMBER,
    body: { server: { ...NEW, min_count: 2, max_count: 30, return_reservation_id: true } },
    headers: at('2.37'),
  })
  assert.match(create.body.reservation_id, /^r-/)
  await settled()
  const list = await call('GET /compute/v2.1/servers?sort_key=display_name&sort_dir=asc&limit=3', { as: MEMBER })
  assert.deepEqual(
    list.body.servers.map((s: { name: string }) => s.name),
    ['web-1', 'web-10', 'web-2'],
  )
  assert.equal((await call('GET /compute/v2.1/servers', { as: MEMBER })).body.servers.length, 10)
  const more = await call('POST /compute/v2.1/servers', { as: MEMBER, body: { server: NEW }, headers: at('2.37') })
  assert.equal(more.status, 403)
})

test('a hundred creates over the quota admit exactly the quota', async t => {
  const { call, settled, hosts } = await computeCloud(t)
  const answers = await Promise.all(
    Array.from({ length: 100 }, () =>
      call('POST /compute/v2.1/servers', { as: MEMBER, body: { server: NEW }, headers: at('2.37') }),
    ),
  )
  assert.equal(answers.filter(a => a.status === 202).length, 10)
  assert.equal(answers.filter(a => a.status === 403).length, 90)
  await settled()
  assert.equal(hosts[0]!.guests.size, 10)
})

test('a host that fails is left for another; a bad image fails at once, with its reason', async t => {
  const { call, settled, hosts } = await computeCloud(t, ['host1', 'host2'])
  for (const host of hosts) host.fail = verb => (verb === 'ensure' ? unavailable('no space left on the disk') : undefined)
  const create = async () => {
    const made = await call('POST /compute/v2.1/servers', { body: { server: NEW }, headers: at('2.37') })
    await settled()
    return (await call(`GET /compute/v2.1/servers/${made.body.server.id}`)).body.server
  }
  const both = await create()
  assert.equal(both.status, 'ERROR')
  assert.equal(both.fault.code, 500)
  hosts[1]!.fail = undefined
  const other = await create()
  assert.equal(other.status, 'ACTIVE')
  assert.equal(other['OS-EXT-SRV-ATTR:host'], 'host2')
  for (const host of hosts) host.fail = verb => (verb === 'ensure' ? badRequest('the image has a backing file') : undefined)
  const bad = await create()
  assert.match(bad.fault.message, /'boot'.*backing file/)
  assert.equal(bad['OS-EXT-SRV-ATTR:host'], null)
  await hosts[0]!.close()
  await hosts[1]!.close()
  const none = await create()
  assert.match(none.fault.message, /No valid host was found.*host1: its service is down/)
})

test('a server that is being built can be deleted', async t => {
  const { call, settled, hosts, db } = await computeCloud(t)
  hosts[0]!.slow = verb => (verb === 'ensure' ? 60_000 : 0)
  const made = await call('POST /compute/v2.1/servers', { body: { server: NEW }, headers: at('2.37') })
  const { id } = made.body.server
  while ((await sagaList(db.read))[0]?.step !== 'boot') await new Promise(resolve => setImmediate(resolve))
  assert.equal((await call(`GET /compute/v2.1/servers/${id}`)).body.server.status, 'BUILD')
  assert.equal((await call(`DELETE /compute/v2.1/servers/${id}`)).status, 204)
  await settled()
  assert.equal((await call(`GET /compute/v2.1/servers/${id}`)).status, 404)
  assert.equal(hosts[0]!.guests.size, 0)
})

test('lists are filtered, sorted and paged', async t => {
  const { call, settled } = await computeCloud(t)
  for (const name of ['alpha', 'beta', 'gamma']) {
    await call('POST /compute/v2.1/servers', {
      as: MEMBER,
      body: { server: { ...NEW, name, tags: [name, 'all'] } },
      headers: at('2.52'),
    })
  }
  await settled()
  const names = async (query: string, version = '2.104', as = MEMBER): Promise<string> => {
    const answer = await call(`GET /compute/v2.1/servers?${query}`, { as, headers: at(version) })
    if (answer.status !== 200) return String(answer.status)
    return answer.body.servers.map((s: { name: string }) => s.name).join(',')
  }
  assert.equal(await names(''), 'gamma,beta,alpha')
  assert.equal(await names('name=a$'), 'gamma,beta,alpha')
  assert.equal(await names('name=^a'), 'alpha')
  assert.equal(await names('name=('), '400')
  assert.equal(await names('status=active'), 'gamma,beta,alpha')
  assert.equal(await names('status=shutoff'), '')
  assert.equal(await names('status=nonsense'), '400')
  assert.equal(await names('status=nonsense', '2.37'), '')
  assert.equal(await names('status=deleted'), '403')
  assert.equal(await names(`flavor=f1&image=${IMAGE}`), 'gamma,beta,alpha')
  assert.equal(await names('flavor=f2'), '')
  assert.equal(await names('tags=all,beta'), 'beta')
  assert.equal(await names('tags-any=alpha,beta'), 'beta,alpha')
  assert.equal(await names('not-tags=all,beta'), 'gamma,alpha')
  assert.equal(await names('not-tags-any=alpha,beta'), 'gamma')
  assert.equal(await names('locked=true'), '')
  assert.equal(await names('locked=maybe'), '400')
  assert.equal(await names('limit=2&sort_key=display_name&sort_dir=asc'), 'alpha,beta')
  assert.equal(await names('limit=0'), '')
  assert.equal(await names('limit=-1'), '400')
  assert.equal(await names('marker=nobody'), '400')
  assert.equal(await names('sort_key=nonsense'), '400')
  assert.equal(await names('sort_key=vcpus', '2.1'), 'gamma,beta,alpha')
  assert.equal(await names('sort_key=host', '2.1'), '403')
  assert.equal(await names('nonsense=1'), '400')
  assert.equal(await names('nonsense=1', '2.74'), 'gamma,beta,alpha')
  assert.equal(await names('changes-since=2001-01-01T00:00:00Z'), 'gamma,beta,alpha')
  assert.equal(await names('changes-since=2999-01-01T00:00:00Z'), '')
  assert.equal(await names('changes-since=yesterday'), '400')
  assert.equal(await names('all_tenants=1'), '403')
  assert.equal(await names('all_tenants=1', '2.104', ADMIN), 'gamma,beta,alpha')
  assert.equal(await names('', '2.104', FOREIGN), '')
  const first = await call('GET /compute/v2.1/servers?limit=2&sort_key=display_name&sort_dir=asc', { as: MEMBER })
  const next = new URL(first.body.servers_links[0].href)
  assert.equal((await call(`GET ${next.pathname}${next.search}`, { as: MEMBER })).body.servers[0].name, 'gamma')
})
