import assert from 'node:assert/strict'
import test from 'node:test'
import { FOREIGN, MEMBER } from '#kit/http/test.ts'
import { imageCloud } from '../testing.ts'

const N = '/image/v2/metadefs/namespaces'

test('a namespace with all that is in it', async t => {
  const { call } = await imageCloud(t)
  const body = {
    namespace: 'OS::Test::One',
    owner: 'p1',
    resource_type_associations: [{ name: 'OS::Nova::Server', prefix: 'hw:' }],
    properties: { size: { title: 'Size', type: 'integer', minimum: 1 } },
    objects: [{ name: 'thing', required: ['a'], properties: { a: { title: 'A', type: 'string', pattern: '^a' } } }],
    tags: [{ name: 'one' }],
  }
  const made = await call(`POST ${N}`, { body })
  assert.equal(made.status, 201)
  assert.equal(made.headers.get('location'), '/v2/metadefs/namespaces/OS%3A%3ATest%3A%3AOne')
  assert.equal(made.body.visibility, 'private')
  assert.equal(made.body.protected, false)
  assert.equal((await call(`POST ${N}`, { body })).status, 409)
  assert.equal((await call(`POST ${N}`, { body, as: MEMBER })).status, 403)
  assert.equal((await call(`POST ${N}`, { body: { namespace: 'x', self: '/x' } })).status, 403)
  assert.equal((await call(`POST ${N}`, { body: { namespace: 'x'.repeat(81) } })).status, 400)
  const bad = { namespace: 'x', properties: { a: { title: 'A', type: 'string', pattern: '(' } } }
  assert.equal((await call(`POST ${N}`, { body: bad })).status, 400)

  const seen = (await call(`GET ${N}/OS::Test::One?resource_type=OS::Nova::Server`, { as: MEMBER })).body
  assert.deepEqual(Object.keys(seen.properties), ['hw:size'])
  assert.deepEqual(seen.objects[0].required, ['hw:a'])
  assert.deepEqual(seen.tags, [{ name: 'one' }])
  assert.equal((await call(`GET ${N}/OS::Test::One`, { as: FOREIGN })).status, 404)
  assert.deepEqual((await call(`GET ${N}`, { as: FOREIGN })).body.namespaces, [])
  const listed = (await call(`GET ${N}?resource_types=OS::Nova::Server`, { as: MEMBER })).body
  assert.equal(listed.namespaces[0].resource_type_associations[0].prefix, 'hw:')
  assert.deepEqual((await call(`GET ${N}?resource_types=OS::Nothing`, { as: MEMBER })).body.namespaces, [])

  const property = `${N}/OS::Test::One/properties`
  assert.equal((await call(`GET ${property}/hw:size?resource_type=OS::Nova::Server`)).body.minimum, 1)
  assert.equal((await call(`GET ${property}/size?resource_type=OS::Nova::Server`)).status, 404)

  const other = { namespace: 'OS::Test::Two', visibility: 'public', protected: true }
  assert.equal((await call(`PUT ${N}/OS::Test::One`, { body: other })).body.namespace, 'OS::Test::Two')
  assert.equal((await call(`GET ${N}/OS::Test::Two`, { as: FOREIGN })).body.tags[0].name, 'one')
  assert.equal((await call(`DELETE ${N}/OS::Test::Two`)).status, 403)
  assert.equal((await call(`DELETE ${N}/OS::Test::Two/tags/one`)).status, 403)
  await call(`PUT ${N}/OS::Test::Two`, { body: { ...other, protected: false } })
  assert.equal((await call(`DELETE ${N}/OS::Test::Two`)).status, 204)
  assert.equal((await call(`GET ${N}/OS::Test::Two`)).status, 404)
})

test('definitions one by one, and tags as a whole', async t => {
  const { call } = await imageCloud(t)
  await call(`POST ${N}`, { body: { namespace: 'n' } })
  const at = `${N}/n`
  assert.equal((await call(`POST ${at}/objects`, { body: { name: 'o' } })).status, 201)
  assert.equal((await call(`POST ${at}/objects`, { body: { name: 'o' } })).status, 409)
  const changed = await call(`PUT ${at}/objects/o`, { body: { name: 'o2', description: 'd' } })
  assert.equal(changed.body.description, 'd')
  assert.equal((await call(`GET ${at}/objects/o`)).status, 404)
  assert.deepEqual(
    (await call(`GET ${at}/objects`)).body.objects.map((o: { name: string }) => o.name),
    ['o2'],
  )

  const size = { name: 'size', title: 'Size', type: 'integer' }
  assert.equal((await call(`POST ${at}/properties`, { body: size })).status, 201)
  assert.deepEqual((await call(`GET ${at}/properties`)).body, { properties: { size: { title: 'Size', type: 'integer' } } })

  const tags = { tags: [{ name: 'a' }, { name: 'b' }] }
  assert.deepEqual((await call(`POST ${at}/tags`, { body: tags })).body, tags)
  assert.equal((await call(`POST ${at}/tags/c`)).body.name, 'c')
  await call(`POST ${at}/tags`, { body: { tags: [{ name: 'd' }] }, headers: { 'x-openstack-append': 'true' } })
  const names = async (query: string) =>
    (await call(`GET ${at}/tags?${query}`)).body.tags.map((tag: { name: string }) => tag.name)
  assert.deepEqual(await names('sort_key=name&sort_dir=asc'), ['a', 'b', 'c', 'd'])
  assert.deepEqual(await names('sort_key=name&sort_dir=asc&marker=b&limit=1'), ['c'])
  assert.equal((await call(`GET ${at}/tags?limit=-1`)).status, 400)
  await call(`POST ${at}/tags`, { body: { tags: [{ name: 'e' }] } })
  assert.deepEqual(await names(''), ['e'])
  assert.equal((await call(`DELETE ${at}/tags`)).status, 204)
  assert.deepEqual(await names(''), [])

  const types = (await call('GET /image/v2/metadefs/resource_types')).body.resource_types
  assert.ok(types.some((type: { name: string }) => type.name === 'OS::Glance::Image'))
  assert.equal((await call(`POST ${at}/resource_types`, { body: { name: 'OS::New::Thing' } })).status, 201)
  assert.equal((await call(`GET ${at}/resource_types`)).body.resource_type_associations[0].name, 'OS::New::Thing')
  assert.equal((await call(`DELETE ${at}/resource_types/OS::New::Thing`)).status, 204)
  assert.equal((await call(`DELETE ${at}/resource_types/OS::New::Thing`)).status, 404)
})
