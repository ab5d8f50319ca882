import assert from 'node:assert/strict'
import { test } from 'node:test'
import { FOREIGN, MEMBER, testCloud } from '#kit/http/test.ts'
import { seedNetworks } from '../index.ts'
import { neutron } from '../service.ts'

const N = '/networking/v2.0'

test('a network for who has none: made once, found again, removed whole, and only with what the cloud has', async t => {
  const { call, db, env } = await testCloud(t, [neutron])
  const ask = (as = MEMBER, query = '') => call(`GET ${N}/auto-allocated-topology/p1${query}`, { as })
  const refused = await ask(MEMBER, '?fields=dry-run')
  assert.deepEqual([refused.status, refused.body.NeutronError?.type], [409, 'AutoAllocationFailure'])

  const seed = { project: 'admin-project', adminProject: 'admin-project', externalCidr: '172.24.4.0/24' }
  await db.tx(tx => seedNetworks(env, tx, seed))
  assert.equal((await ask(MEMBER, '?fields=dry-run')).body.auto_allocated_topology.id, 'dry-run=pass')
  const names = async () => {
    const lists = await Promise.all(
      ['networks', 'subnets', 'routers'].map(async noun => (await call(`GET ${N}/${noun}?project_id=p1`)).body[noun]),
    )
    return lists.map(list => list.map((one: { name: string }) => one.name))
  }
  assert.deepEqual(await names(), [[], [], []])
  const [one, two] = await Promise.all([ask(), ask()])
  assert.equal(one.status, 200, JSON.stringify(one.body))
  assert.deepEqual(one.body, two.body)
  const made = [['auto_allocated_network'], ['auto_allocated_subnet_v4'], ['auto_allocated_router']]
  assert.deepEqual(await names(), made)
  const router = (await call(`GET ${N}/routers?project_id=p1`)).body.routers[0]
  assert.notEqual(router.external_gateway_info, null)
  const subnet = (await call(`GET ${N}/subnets?project_id=p1`)).body.subnets[0]
  const legs = (await call(`GET ${N}/ports?device_id=${router.id}&device_owner=network:router_interface`)).body.ports
  assert.equal(legs[0].fixed_ips[0].ip_address, subnet.gateway_ip)

  assert.equal((await ask(FOREIGN)).status, 403)
  assert.equal((await call(`DELETE ${N}/auto-allocated-topology/p1`, { as: FOREIGN })).status, 403)
  const port = await call(`POST ${N}/ports`, { as: MEMBER, body: { port: { network_id: one.body.auto_allocated_topology.id } } })
  const inUse = await call(`DELETE ${N}/auto-allocated-topology/p1`, { as: MEMBER })
  assert.deepEqual([inUse.status, inUse.body.NeutronError?.type], [409, 'NetworkInUse'])
  assert.deepEqual(await names(), made)
  assert.equal((await call(`DELETE ${N}/ports/${port.body.port.id}`, { as: MEMBER })).status, 204)
  assert.equal((await call(`DELETE ${N}/auto-allocated-topology/p1`, { as: MEMBER })).status, 204)
  assert.deepEqual(await names(), [[], [], []])
  assert.equal((await call(`DELETE ${N}/auto-allocated-topology/p1`, { as: MEMBER })).status, 204)
})

test('quota is asked for it as for any other network', async t => {
  const { call, db, env } = await testCloud(t, [neutron])
  const seed = { project: 'admin-project', adminProject: 'admin-project', externalCidr: '172.24.4.0/24' }
  await db.tx(tx => seedNetworks(env, tx, seed))
  assert.equal((await call(`PUT ${N}/quotas/p1`, { body: { quota: { router: 0 } } })).status, 200)
  const { status, body } = await call(`GET ${N}/auto-allocated-topology/p1`, { as: MEMBER })
  assert.deepEqual([status, body.NeutronError?.type], [409, 'OverQuota'])
  assert.deepEqual((await call(`GET ${N}/networks?project_id=p1`)).body.networks, [])
})
