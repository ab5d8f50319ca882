import assert from 'node:assert/strict'
import { test } from 'node:test'
import { ADMIN, FOREIGN, MEMBER, testCloud } from '#kit/http/test.ts'
import { nova } from '../service.ts'
import { computeCloud } from '../testing.ts'

const at = (version: string) => ({ 'openstack-api-version': `compute ${version}` })

test('flavors are created, listed in pages, shown by version, described and deleted', async t => {
  const { call } = await testCloud(t, [nova])
  const make = (flavor: object, headers = at('2.1')) => call('POST /compute/v2.1/flavors', { body: { flavor }, headers })
  const tiny = await make({ name: 'tiny', ram: '512', vcpus: 1, disk: 1, id: 1 })
  assert.equal(tiny.status, 200)
  assert.deepEqual(Object.keys(tiny.body.flavor).sort(), [
    'OS-FLV-DISABLED:disabled',
    'OS-FLV-EXT-DATA:ephemeral',
    'disk',
    'id',
    'links',
    'name',
    'os-flavor-access:is_public',
    'ram',
    'rxtx_factor',
    'swap',
    'vcpus',
  ])
  assert.equal(tiny.body.flavor.swap, '')
  assert.equal(tiny.body.flavor.id, '1')
  assert.match(tiny.body.flavor.links[1].href, /\/compute\/flavors\/1$/)
  assert.equal((await make({ name: 'tiny', ram: 512, vcpus: 1, disk: 1 })).status, 409)
  assert.match((await make({ name: 'x', ram: 512, vcpus: 1, disk: 1, id: '1' })).body.conflictingRequest.message, /ID 1 already/)
  assert.equal((await make({ name: 'x', ram: 0, vcpus: 1, disk: 1 })).status, 400)
  assert.equal((await make({ name: 'x', ram: '0', vcpus: 1, disk: 1 })).status, 400)
  assert.equal((await make({ name: ' x', ram: 1, vcpus: 1, disk: 1 })).status, 400)
  assert.equal((await make({ name: 'x', ram: 1, vcpus: 1, disk: 1, rxtx_factor: 1 }, at('2.102'))).status, 400)
  assert.equal((await make({ name: 'big', ram: 4096, vcpus: 4, disk: 40, id: '2', description: 'd' }, at('2.55'))).status, 200)
  assert.equal((await call('POST /compute/v2.1/flavors', { as: MEMBER, body: { flavor: {} } })).status, 403)

  const first = await call('GET /compute/v2.1/flavors?limit=1')
  assert.deepEqual(
    first.body.flavors.map((f: { id: string }) => f.id),
    ['1'],
  )
  assert.match(first.body.flavors_links[0].href, /\/compute\/v2.1\/flavors\?limit=1&marker=1$/)
  const next = await call('GET /compute/v2.1/flavors/detail?limit=1&marker=1', { headers: at('2.61') })
  assert.equal(next.body.flavors[0].description, 'd')
  assert.deepEqual(next.body.flavors[0].extra_specs, {})
  assert.equal((await call('GET /compute/v2.1/flavors?marker=nobody')).status, 400)
  assert.equal((await call('GET /compute/v2.1/flavors?minRam=1024')).body.flavors.length, 1)
  assert.equal((await call('GET /compute/v2.1/flavors?minRam=x')).status, 400)
  assert.equal((await call('GET /compute/v2.1/flavors?name=tiny', { headers: at('2.102') })).body.flavors.length, 1)
  assert.equal((await call('GET /compute/v2.1/flavors?what=1', { headers: at('2.75') })).status, 400)
  assert.equal((await call('GET /compute/v2.1/flavors?what=1&sort_key=vcpus&sort_dir=desc')).body.flavors[0].id, '2')

  assert.equal((await call('PUT /compute/v2.1/flavors/1', { body: { flavor: { description: 'new' } } })).status, 404)
  const described = await call('PUT /compute/v2.1/flavors/1', { body: { flavor: { description: 'new' } }, headers: at('2.102') })
  assert.equal(described.body.flavor.description, 'new')
  assert.equal(described.body.flavor.swap, 0)
  assert.ok(!('rxtx_factor' in described.body.flavor))
  assert.equal((await call('DELETE /compute/v2.1/flavors/1')).status, 202)
  assert.match((await call('GET /compute/v2.1/flavors/1')).body.itemNotFound.message, /Flavor 1 could not be found/)
})

test('extra specs are merged, checked from 2.86, and deleted', async t => {
  const { call } = await testCloud(t, [nova])
  await call('POST /compute/v2.1/flavors', { body: { flavor: { name: 'f', ram: 1, vcpus: 1, disk: 0, id: 'f' } } })
  const specs = '/compute/v2.1/flavors/f/os-extra_specs'
  const added = await call(`POST ${specs}`, { body: { extra_specs: { 'hw:numa_nodes': 1, mine: 'x' } } })
  assert.deepEqual(added.body, { extra_specs: { 'hw:numa_nodes': 1, mine: 'x' } })
  assert.deepEqual((await call(`GET ${specs}`, { as: MEMBER })).body, { extra_specs: { 'hw:numa_nodes': '1', mine: 'x' } })
  assert.equal((await call(`PUT ${specs}/mine`, { body: { mine: 'y' } })).status, 200)
  assert.equal((await call(`PUT ${specs}/mine`, { body: { other: 'y' } })).status, 400)
  for (const [name, value, ok] of [
    ['hw:numa_nodes', '0', false],
    ['hw:numa_nodes', 'many', false],
    ['hw:nonsense', '1', false],
    ['hw:numa_cpus.0', '0-3', true],
    ['hw:boot_menu', 'perhaps', false],
    ['trait1:HW_CPU_X86_AVX', 'required', true],
    ['resources:VCPU', '2', true],
    ['mine:anything', '1', true],
    ['hw:cpu_policy', 'dedicated', true],
  ] as const) {
    const answer = await call(`POST ${specs}`, { body: { extra_specs: { [name]: value } }, headers: at('2.86') })
    assert.equal(answer.status, ok ? 200 : 400, name)
  }
  assert.equal((await call(`DELETE ${specs}/mine`)).status, 200)
  assert.equal((await call(`DELETE ${specs}/mine`)).status, 404)
  assert.equal((await call(`GET ${specs}/mine`)).status, 404)
})

test('a private flavor is for those who were given it', async t => {
  const { call } = await computeCloud(t)
  await call('DELETE /compute/v2.1/flavors/f1')
  const flavor = { name: 'p', ram: 1, vcpus: 1, disk: 0, id: 'p', 'os-flavor-access:is_public': false }
  await call('POST /compute/v2.1/flavors', { body: { flavor } })
  const act = (body: object, headers = {}) => call('POST /compute/v2.1/flavors/p/action', { body, headers })
  assert.equal((await call('GET /compute/v2.1/flavors/p', { as: MEMBER })).status, 404)
  assert.deepEqual((await act({ addTenantAccess: { tenant: 'p1' } })).body, {
    flavor_access: [{ flavor_id: 'p', tenant_id: 'p1' }],
  })
  assert.equal((await act({ addTenantAccess: { tenant: 'p1' } })).status, 409)
  assert.equal((await call('GET /compute/v2.1/flavors/p', { as: MEMBER })).status, 200)
  assert.equal((await call('GET /compute/v2.1/flavors', { as: MEMBER })).body.flavors.length, 1)
  assert.equal((await call('GET /compute/v2.1/flavors', { as: FOREIGN })).body.flavors.length, 0)
  assert.equal((await call('GET /compute/v2.1/flavors?is_public=None', { as: ADMIN })).body.flavors.length, 1)
  assert.equal((await call('GET /compute/v2.1/flavors/p/os-flavor-access')).body.flavor_access.length, 1)
  assert.equal((await act({ removeTenantAccess: { tenant: 'p1' } })).status, 200)
  assert.equal((await act({ removeTenantAccess: { tenant: 'p1' } })).status, 404)
})

test('versions are told without a token, and negotiated', async t => {
  const { call } = await testCloud(t, [nova])
  assert.equal((await call('GET /compute/')).body.versions[1].version, '2.104')
  assert.equal((await call('GET /compute/v2.1')).body.version.id, 'v2.1')
  assert.equal((await call('GET /compute/v2.1/flavors', { headers: at('2.105') })).status, 406)
  assert.equal((await call('GET /compute/v2.1/other/flavors')).status, 400)
  assert.equal((await call('GET /compute/v2.1/admin-project/flavors')).status, 200)
  assert.ok((await call('GET /compute/v2.1/extensions')).body.extensions.length > 90)
})
