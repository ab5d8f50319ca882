import assert from 'node:assert/strict'
import { test } from 'node:test'
import { FOREIGN, MEMBER, testCloud } from '#kit/http/test.ts'
import { neutron } from '../service.ts'

const N = '/networking/v2.0'

test('what is shared is seen, kept while it is used, and only its owner shares it on', async t => {
  const { call } = await testCloud(t, [neutron])
  const { network } = (await call(`POST ${N}/networks`, { as: MEMBER, body: { network: { name: 'own' } } })).body
  const share = (as: typeof MEMBER, action: string, target_tenant: string) =>
    call(`POST ${N}/rbac-policies`, {
      as,
      body: { rbac_policy: { object_type: 'network', object_id: network.id, action, target_tenant } },
    })
  assert.equal((await share(FOREIGN, 'access_as_shared', 'p3')).status, 404, 'what they do not see is not there')
  assert.equal((await share(MEMBER, 'access_as_external', '*')).status, 403)
  const given = await share(MEMBER, 'access_as_shared', 'p2')
  assert.equal(given.status, 201, JSON.stringify(given.body))
  assert.deepEqual((await share(FOREIGN, 'access_as_shared', 'p3')).body.NeutronError.type, 'InvalidInput')
  const seen = await call(`GET ${N}/networks/${network.id}`, { as: FOREIGN })
  assert.ok(seen.body.network.revision_number > network.revision_number)
  const port = await call(`POST ${N}/ports`, { as: FOREIGN, body: { port: { network_id: network.id } } })
  assert.equal(port.status, 201)
  const path = `${N}/rbac-policies/${given.body.rbac_policy.id}`
  assert.equal((await call(`DELETE ${path}`, { as: MEMBER })).body.NeutronError.type, 'RbacPolicyInUse')
  await call(`DELETE ${N}/ports/${port.body.port.id}`, { as: FOREIGN })
  assert.equal((await call(`DELETE ${path}`, { as: MEMBER })).status, 204)
})

test('an external network for all becomes one for the only project that uses it', async t => {
  const { call } = await testCloud(t, [neutron])
  const { network } = (await call(`POST ${N}/networks`, { body: { network: { name: 'out', 'router:external': true } } })).body
  const subnet = { network_id: network.id, ip_version: 4, cidr: '203.0.113.0/24', name: 'pool' }
  await call(`POST ${N}/subnets`, { body: { subnet } })
  for (const path of ['floatingip-pools', 'floatingip_pools']) {
    const { floatingip_pools } = (await call(`GET ${N}/${path}`, { as: FOREIGN })).body
    assert.deepEqual(
      floatingip_pools.map((pool: Record<string, string>) => [pool.network_id, pool.subnet_name, pool.cidr]),
      [[network.id, 'pool', '203.0.113.0/24']],
    )
  }
  const router = await call(`POST ${N}/routers`, {
    as: FOREIGN,
    body: { router: { external_gateway_info: { network_id: network.id } } },
  })
  assert.equal(router.status, 201, JSON.stringify(router.body))
  const [entry] = (await call(`GET ${N}/rbac-policies?object_id=${network.id}`)).body.rbac_policies
  const to = (target_tenant: string) => call(`PUT ${N}/rbac-policies/${entry.id}`, { body: { rbac_policy: { target_tenant } } })
  assert.equal((await to('p3')).status, 409)
  assert.equal((await to('p2')).status, 200)
  assert.deepEqual((await call(`GET ${N}/floatingip-pools`, { as: MEMBER })).body.floatingip_pools, [])
})

test('a QoS policy for all does not become one for a project that uses it', async t => {
  const { call } = await testCloud(t, [neutron])
  const { policy } = (await call(`POST ${N}/qos/policies`, { body: { policy: { name: 'all', shared: true } } })).body
  const network = await call(`POST ${N}/networks`, { as: FOREIGN, body: { network: { qos_policy_id: policy.id } } })
  assert.equal(network.status, 201, JSON.stringify(network.body))
  const [entry] = (await call(`GET ${N}/rbac-policies?object_id=${policy.id}`)).body.rbac_policies
  const to = (target_tenant: string) => call(`PUT ${N}/rbac-policies/${entry.id}`, { body: { rbac_policy: { target_tenant } } })
  assert.equal((await to('p2')).body.NeutronError?.type, 'RbacPolicyInUse')
  assert.equal((await call(`DELETE ${N}/networks/${network.body.network.id}`, { as: FOREIGN })).status, 204)
  assert.equal((await to('p2')).status, 200)
})
