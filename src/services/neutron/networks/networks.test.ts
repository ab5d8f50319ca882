import assert from 'node:assert/strict'
import { test } from 'node:test'
import { FOREIGN, MEMBER, testCloud } from '#kit/http/test.ts'
import { neutron } from '../service.ts'

test('networks and subnets', async t => {
  const { call } = await testCloud(t, [neutron])
  const made = await call('POST /networking/v2.0/networks', { as: MEMBER, body: { network: { name: 'n1' } } })
  assert.equal(made.status, 201, JSON.stringify(made.body))
  const { network } = made.body
  assert.equal(network.project_id, 'p1')
  assert.equal(network.mtu, 1450)
  assert.ok(!('provider:network_type' in network))
  assert.equal(network.shared, false)
  const seen = await call(`GET /networking/v2.0/networks/${network.id}`)
  assert.equal(seen.body.network['provider:network_type'], 'vxlan')
  assert.equal((await call(`GET /networking/v2.0/networks/${network.id}`, { as: FOREIGN })).status, 404)
  assert.equal((await call(`DELETE /networking/v2.0/networks/${network.id}`, { as: FOREIGN })).status, 404)
  const subnet = await call('POST /networking/v2.0/subnets', {
    as: MEMBER,
    body: { subnet: { network_id: network.id, ip_version: 4, cidr: '10.1.0.0/24' } },
  })
  assert.equal(subnet.status, 201, JSON.stringify(subnet.body))
  assert.deepEqual(subnet.body.subnet.allocation_pools, [{ start: '10.1.0.2', end: '10.1.0.254' }])
  assert.equal(subnet.body.subnet.gateway_ip, '10.1.0.1')
  const list = await call('GET /networking/v2.0/networks?name=n1&fields=id&fields=subnets', { as: MEMBER })
  assert.deepEqual(
    list.body.networks,
    [{ subnets: [subnet.body.subnet.id], id: network.id }].map(n => ({ id: n.id, subnets: n.subnets })),
  )
  assert.equal((await call('POST /networking/v2.0/networks', { as: MEMBER, body: { network: { shared: true } } })).status, 403)
  assert.equal((await call('POST /networking/v2.0/networks', { as: MEMBER, body: { network: { nonsense: 1 } } })).status, 400)
  assert.equal((await call('GET /networking/v2.0/networks?nonsense=1', { as: MEMBER })).status, 400)
  const put = await call(`PUT /networking/v2.0/networks/${network.id}`, { as: MEMBER, body: { network: { name: 'n2' } } })
  assert.equal(put.body.network.name, 'n2')
  assert.ok(put.body.network.revision_number > network.revision_number)
  const stale = await call(`PUT /networking/v2.0/networks/${network.id}`, {
    as: MEMBER,
    headers: { 'If-Match': 'revision_number=1' },
    body: { network: { name: 'n3' } },
  })
  assert.equal(stale.status, 412)
  assert.equal((await call(`DELETE /networking/v2.0/networks/${network.id}`, { as: MEMBER })).status, 204)
  assert.equal((await call(`GET /networking/v2.0/subnets/${subnet.body.subnet.id}`, { as: MEMBER })).status, 404)
})

test('bits behind the prefix of a subnet are dropped', async t => {
  const { call } = await testCloud(t, [neutron])
  const { network } = (await call('POST /networking/v2.0/networks', { as: MEMBER, body: { network: {} } })).body
  const subnet = (ip_version: number, cidr: string) =>
    call('POST /networking/v2.0/subnets', { as: MEMBER, body: { subnet: { network_id: network.id, ip_version, cidr } } })
  const made = await subnet(4, '10.99.99.0/16')
  assert.equal(made.status, 201, JSON.stringify(made.body))
  assert.deepEqual([made.body.subnet.cidr, made.body.subnet.gateway_ip], ['10.99.0.0/16', '10.99.0.1'])
  assert.equal((await subnet(6, '2001:db8::5/64')).body.subnet.cidr, '2001:db8::/64')
  assert.equal((await subnet(4, '10.1/16')).status, 400)
})
