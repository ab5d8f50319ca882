import assert from 'node:assert/strict'
import { randomUUID } from 'node:crypto'
import { test } from 'node:test'
import { MEMBER, type TestCloud, testCloud } from '#kit/http/test.ts'
import { placement } from './index.ts'

const at = (version: string) => ({ 'openstack-api-version': `placement 1.${version}` })
const headers = at('39')

async function provider(call: TestCloud['call'], inventories: Record<string, object>, more = {}): Promise<string> {
  const { body } = await call('POST /placement/resource_providers', { headers, body: { name: randomUUID(), ...more } })
  const answer = await call(`PUT /placement/resource_providers/${body.uuid}/inventories`, {
    headers,
    body: { resource_provider_generation: 0, inventories },
  })
  assert.equal(answer.status, 200)
  return body.uuid
}

const claim = (id: string, resources: object, generation: number | null = null) => ({
  allocations: { [id]: { resources } },
  project_id: 'p',
  user_id: 'u',
  consumer_generation: generation,
  consumer_type: 'INSTANCE',
})

test('inventory, claim, usage, and the generations that guard them', async t => {
  const { call } = await testCloud(t, [placement])
  const id = await provider(call, { VCPU: { total: 4 } })
  const consumer = randomUUID()
  const put = (body: object) => call(`PUT /placement/allocations/${consumer}`, { headers, body })
  assert.equal((await put(claim(id, { VCPU: 5 }))).status, 409)
  assert.equal((await put(claim(id, { VCPU: 3 }))).status, 204)
  const stale = await put(claim(id, { VCPU: 1 }))
  assert.deepEqual([stale.status, stale.body.errors[0].code], [409, 'placement.concurrent_update'])
  assert.equal((await put(claim(id, { VCPU: 4 }, 1))).status, 204)
  const { body } = await call('GET /placement/usages?project_id=p', { headers })
  assert.deepEqual(body.usages, { INSTANCE: { consumer_count: 1, VCPU: 4 } })
  const path = `/placement/resource_providers/${id}`
  const inUse = await call(`DELETE ${path}/inventories/VCPU`, { headers })
  assert.deepEqual([inUse.status, inUse.body.errors[0].code], [409, 'placement.inventory.inuse'])
  assert.equal((await call(`DELETE ${path}`, { headers })).status, 409)
  assert.equal((await call(`DELETE /placement/allocations/${consumer}`, { headers })).status, 204)
  assert.equal((await call(`DELETE ${path}`, { headers })).status, 204)
})

test('trees: a parent is not deleted before its children, nor put below itself', async t => {
  const { call } = await testCloud(t, [placement])
  const root = await provider(call, {})
  const child = await provider(call, {}, { parent_provider_uuid: root })
  const path = `/placement/resource_providers/${root}`
  assert.equal((await call(`DELETE ${path}`, { headers })).status, 409)
  const loop = await call(`PUT ${path}`, { headers, body: { name: 'x', parent_provider_uuid: child } })
  assert.deepEqual([loop.status, /loop/.test(loop.body.errors[0].detail)], [400, true])
  const free = await call(`PUT /placement/resource_providers/${child}`, {
    headers,
    body: { name: 'y', parent_provider_uuid: null },
  })
  assert.deepEqual([free.status, free.body.root_provider_uuid], [200, child])
})

test('a reshape moves inventories and allocations together', async t => {
  const { call } = await testCloud(t, [placement])
  const root = await provider(call, { VCPU: { total: 8 } })
  const child = await provider(call, {}, { parent_provider_uuid: root })
  const consumer = randomUUID()
  await call(`PUT /placement/allocations/${consumer}`, { headers, body: claim(root, { VCPU: 8 }) })
  const generation = async (id: string) => (await call(`GET /placement/resource_providers/${id}`, { headers })).body.generation
  const body = {
    inventories: {
      [root]: { resource_provider_generation: await generation(root), inventories: {} },
      [child]: { resource_provider_generation: await generation(child), inventories: { VCPU: { total: 8 } } },
    },
    allocations: { [consumer]: claim(child, { VCPU: 8 }, 1) },
  }
  assert.equal((await call('POST /placement/reshaper', { headers, body })).status, 403)
  const as = { userId: 'nova', projectId: 'service', roles: ['service'] }
  assert.equal((await call('POST /placement/reshaper', { as, headers, body })).status, 204)
  const usage = async (id: string) => (await call(`GET /placement/resource_providers/${id}/usages`, { headers })).body.usages
  assert.deepEqual([await usage(root), await usage(child)], [{}, { VCPU: 8 }])
})

test('versions, and who may ask', async t => {
  const { call } = await testCloud(t, [placement])
  assert.equal((await call('GET /placement/traits', { headers: at('5') })).status, 404)
  assert.equal((await call('GET /placement/traits', { headers: at('6') })).status, 200)
  assert.equal((await call('GET /placement/traits', { headers: at('40') })).status, 406)
  assert.equal((await call('GET /placement/resource_providers', { as: MEMBER, headers })).status, 403)
  assert.equal((await call('GET /placement/usages?project_id=p1', { as: MEMBER, headers })).status, 200)
  assert.equal((await call('GET /placement/usages?project_id=p2', { as: MEMBER, headers })).status, 403)
  assert.equal((await call('POST /placement/resource_providers', { headers: at('19'), body: { name: 'a' } })).status, 201)
})
