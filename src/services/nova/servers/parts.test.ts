import assert from 'node:assert/strict'
import { test } from 'node:test'
import { FOREIGN, MEMBER } from '#kit/http/test.ts'
import { computeCloud, IMAGE } from '../testing.ts'

const at = (version: string) => ({ 'openstack-api-version': `compute ${version}` })
const BODY = { server: { name: 'x', flavorRef: 'f1', imageRef: IMAGE, networks: 'none' } }

test('metadata and tags of a server are read and changed', async t => {
  const { call, settled } = await computeCloud(t)
  const { id } = (await call('POST /compute/v2.1/servers', { as: MEMBER, body: BODY, headers: at('2.37') })).body.server
  await settled()
  const on = (methodAndPath: string, body?: object, as = MEMBER) =>
    call(methodAndPath.replace(' ', ` /compute/v2.1/servers/${id}`), { as, body, headers: at('2.26') })
  assert.deepEqual((await on('POST /metadata', { metadata: { a: '1', b: '2' } })).body, { metadata: { a: '1', b: '2' } })
  assert.deepEqual((await on('PUT /metadata/a', { meta: { a: '3' } })).body, { meta: { a: '3' } })
  assert.equal((await on('PUT /metadata/a', { meta: { c: '3' } })).status, 400)
  assert.equal((await on('PUT /metadata/a', { meta: { a: '3', c: '3' } })).status, 400)
  assert.equal((await on('DELETE /metadata/b')).status, 204)
  assert.equal((await on('DELETE /metadata/b')).status, 404)
  assert.deepEqual((await on('GET /metadata')).body, { metadata: { a: '3' } })
  assert.deepEqual((await on('PUT /metadata', { metadata: { z: 'z' } })).body, { metadata: { z: 'z' } })
  assert.equal((await on('GET /metadata/a')).status, 404)
  assert.equal((await on('GET /metadata', undefined, FOREIGN)).status, 404)
  const many = Object.fromEntries(Array.from({ length: 129 }, (_, i) => [`k${i}`, 'v']))
  assert.equal((await on('POST /metadata', { metadata: many })).status, 403)

  const put = await on('PUT /tags/blue')
  assert.equal(put.status, 201)
  assert.match(put.headers.get('location')!, /\/tags\/blue$/)
  assert.equal((await on('PUT /tags/blue')).status, 204)
  assert.equal((await on('PUT /tags/a%2Cb')).status, 400)
  assert.equal((await on('GET /tags/blue')).status, 204)
  assert.deepEqual((await on('PUT /tags', { tags: ['x', 'y'] })).body, { tags: ['x', 'y'] })
  assert.equal((await on('DELETE /tags/blue')).status, 404)
  assert.equal((await on('DELETE /tags')).status, 204)
  assert.deepEqual((await on('GET /tags')).body, { tags: [] })
  assert.equal((await call(`GET /compute/v2.1/servers/${id}/tags`, { as: MEMBER })).status, 404)
  assert.deepEqual((await on('GET /ips')).body, { addresses: {} })
  assert.deepEqual((await on('GET /os-server-password')).body, { password: '' })
  const diagnostics = await call(`GET /compute/v2.1/servers/${id}/diagnostics`, { headers: at('2.48') })
  assert.equal(diagnostics.body.state, 'running', JSON.stringify(diagnostics.body))
})

test('server groups keep servers apart, and say so when they cannot', async t => {
  const { call, settled } = await computeCloud(t, ['host1', 'host2'])
  const make = (server_group: object, version: string) =>
    call('POST /compute/v2.1/os-server-groups', { as: MEMBER, body: { server_group }, headers: at(version) })
  assert.equal((await make({ name: 'g', policies: ['soft-affinity'] }, '2.14')).status, 400)
  assert.deepEqual((await make({ name: 'g', policies: ['affinity'] }, '2.1')).body.server_group.policies, ['affinity'])
  assert.equal((await make({ name: 'g', policy: 'affinity', rules: { max_server_per_host: 2 } }, '2.64')).status, 400)
  const made = await make({ name: 'apart', policy: 'anti-affinity' }, '2.64')
  const { id } = made.body.server_group
  for (let i = 0; i < 3; i++) {
    const body = { ...BODY, 'os:scheduler_hints': { group: id } }
    await call('POST /compute/v2.1/servers', { as: MEMBER, body, headers: at('2.37') })
    await settled()
  }
  const { servers } = (await call('GET /compute/v2.1/servers/detail?all_tenants=1&sort_key=created_at&sort_dir=asc')).body
  assert.deepEqual(
    servers
      .slice(0, 2)
      .map((s: Record<string, string>) => s['OS-EXT-SRV-ATTR:host'])
      .sort(),
    ['host1', 'host2'],
  )
  assert.match(servers[2].fault.message, /ServerGroupAntiAffinityFilter/)
  const shown = await call(`GET /compute/v2.1/os-server-groups/${id}`, { as: MEMBER, headers: at('2.64') })
  assert.equal(shown.body.server_group.members.length, 3)
  assert.equal((await call(`GET /compute/v2.1/os-server-groups/${id}`, { as: FOREIGN })).status, 404)
  assert.equal((await call('GET /compute/v2.1/os-server-groups', { as: MEMBER })).body.server_groups.length, 2)
  assert.equal((await call(`DELETE /compute/v2.1/os-server-groups/${id}`, { as: MEMBER })).status, 204)
  const bad = { ...BODY, 'os:scheduler_hints': { group: id } }
  assert.equal((await call('POST /compute/v2.1/servers', { as: MEMBER, body: bad, headers: at('2.37') })).status, 400)
})

test('aggregates make zones, and servers are placed in them', async t => {
  const { call, settled } = await computeCloud(t, ['host1', 'host2'])
  const post = (path: string, body: object, version = '2.41') =>
    call(`POST /compute/v2.1/os-aggregates${path}`, { body, headers: at(version) })
  const made = await post('', { aggregate: { name: 'a', availability_zone: 'az1' } })
  assert.equal(made.status, 200, JSON.stringify(made.body))
  const { id } = made.body.aggregate
  assert.equal((await post('', { aggregate: { name: 'a' } })).status, 409)
  assert.deepEqual((await post(`/${id}/action`, { add_host: { host: 'host2' } })).body.aggregate.hosts, ['host2'])
  assert.equal((await post(`/${id}/action`, { add_host: { host: 'host2' } })).status, 409)
  assert.equal((await post(`/${id}/action`, { add_host: { host: 'nowhere' } })).status, 404)
  const zones = (await call('GET /compute/v2.1/os-availability-zone', { as: MEMBER })).body.availabilityZoneInfo
  assert.deepEqual(zones.map((z: { zoneName: string }) => z.zoneName).sort(), ['az1', 'nova'])
  const body = { server: { ...BODY.server, availability_zone: 'az1' } }
  const { id: server } = (await call('POST /compute/v2.1/servers', { body, headers: at('2.37') })).body.server
  await settled()
  const shown = (await call(`GET /compute/v2.1/servers/${server}`, { headers: at('2.96') })).body.server
  assert.equal(shown['OS-EXT-SRV-ATTR:host'], 'host2')
  assert.equal(shown.pinned_availability_zone, 'az1')
  assert.equal(
    (await call(`PUT /compute/v2.1/os-aggregates/${id}`, { body: { aggregate: { availability_zone: 'az2' } } })).status,
    400,
  )
  assert.equal((await post(`/${id}/action`, { set_metadata: { metadata: { ssd: 'true' } } })).body.aggregate.metadata.ssd, 'true')
  assert.equal((await call(`DELETE /compute/v2.1/os-aggregates/${id}`)).status, 400)
  assert.equal((await post(`/${id}/action`, { remove_host: { host: 'host2' } })).status, 200)
  assert.equal((await call(`DELETE /compute/v2.1/os-aggregates/${id}`)).status, 200)
  assert.equal((await call(`GET /compute/v2.1/os-aggregates/${id}`)).status, 404)
  assert.equal((await call('GET /compute/v2.1/os-aggregates/x')).status, 400)
  const detail = (await call('GET /compute/v2.1/os-availability-zone/detail')).body.availabilityZoneInfo
  assert.ok(detail.some((z: { zoneName: string }) => z.zoneName === 'internal'))
})
