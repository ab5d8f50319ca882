import assert from 'node:assert/strict'
import { test } from 'node:test'
import { FOREIGN, MEMBER, type TestCloud, testCloud } from '#kit/http/test.ts'
import { neutron } from '../service.ts'

const N = '/networking/v2.0'

async function made(cloud: TestCloud, path: string, body: object, as?: typeof MEMBER) {
  const answer = await cloud.call(`POST ${N}/${path}`, { body, ...(as && { as }) })
  assert.equal(answer.status, 201, JSON.stringify(answer.body))
  return Object.values(answer.body)[0] as Record<string, never> & { id: string }
}

/** An external network, and a network of `p1` behind a router of `p1`. */
async function world(cloud: TestCloud) {
  const external = await made(cloud, 'networks', { network: { name: 'public', 'router:external': true } })
  await made(cloud, 'subnets', { subnet: { network_id: external.id, ip_version: 4, cidr: '172.24.4.0/24', enable_dhcp: false } })
  const network = await made(cloud, 'networks', { network: {} }, MEMBER)
  const subnet = await made(cloud, 'subnets', { subnet: { network_id: network.id, ip_version: 4, cidr: '10.0.0.0/24' } }, MEMBER)
  const router = await made(
    cloud,
    'routers',
    { router: { name: 'r', external_gateway_info: { network_id: external.id } } },
    MEMBER,
  )
  return { external, network, subnet, router }
}

test('router, interface, floating IP: their whole life', async t => {
  const cloud = await testCloud(t, [neutron])
  const { call } = cloud
  const { external, network, subnet, router } = await world(cloud)
  assert.equal((router.external_gateway_info as { external_fixed_ips: unknown[] }).external_fixed_ips.length, 1)
  assert.ok(!('ha' in router))
  const port = await made(cloud, 'ports', { port: { network_id: network.id } }, MEMBER)
  const floating = (more: object = {}, as = MEMBER) =>
    call(`POST ${N}/floatingips`, { as, body: { floatingip: { floating_network_id: external.id, ...more } } })
  assert.equal((await floating({ port_id: port.id })).body.NeutronError.type, 'ExternalGatewayForFloatingIPNotFound')
  const added = await call(`PUT ${N}/routers/${router.id}/add_router_interface`, { as: MEMBER, body: { subnet_id: subnet.id } })
  assert.equal(added.status, 200, JSON.stringify(added.body))
  assert.deepEqual(added.body.subnet_ids, [subnet.id])
  const twice = await call(`PUT ${N}/routers/${router.id}/add_router_interface`, { as: MEMBER, body: { subnet_id: subnet.id } })
  assert.equal(twice.status, 400)
  const { body, status } = await floating({ port_id: port.id })
  assert.equal(status, 201, JSON.stringify(body))
  assert.equal(body.floatingip.router_id, router.id)
  assert.equal(body.floatingip.port_details.network_id, network.id)
  assert.equal((await floating({ port_id: port.id })).body.NeutronError.type, 'FloatingIPPortAlreadyAssociated')
  assert.equal((await floating({ port_id: port.id }, FOREIGN)).status, 404)
  const remove = () =>
    call(`PUT ${N}/routers/${router.id}/remove_router_interface`, { as: MEMBER, body: { subnet_id: subnet.id } })
  assert.equal((await remove()).body.NeutronError.type, 'RouterInterfaceInUseByFloatingIP')
  const clear = { router: { external_gateway_info: null } }
  const inUse = await call(`PUT ${N}/routers/${router.id}`, { as: MEMBER, body: clear })
  assert.equal(inUse.body.NeutronError.type, 'RouterExternalGatewayInUseByFloatingIp')
  const off = await call(`PUT ${N}/floatingips/${body.floatingip.id}`, { as: MEMBER, body: { floatingip: { port_id: null } } })
  assert.equal(off.body.floatingip.port_id, null)
  assert.equal(off.body.floatingip.router_id, null)
  const routes = [{ destination: '192.168.0.0/16', nexthop: '10.0.0.99' }]
  const extra = await call(`PUT ${N}/routers/${router.id}/add_extraroutes`, { as: MEMBER, body: { router: { routes } } })
  assert.deepEqual(extra.body.router.routes, routes)
  assert.equal((await remove()).body.NeutronError.type, 'RouterInterfaceInUseByRoute')
  const far = await call(`PUT ${N}/routers/${router.id}`, {
    as: MEMBER,
    body: { router: { routes: [{ destination: '192.168.0.0/16', nexthop: '10.9.0.1' }] } },
  })
  assert.equal(far.body.NeutronError.type, 'InvalidRoutes')
  await call(`PUT ${N}/routers/${router.id}/remove_extraroutes`, { as: MEMBER, body: { router: { routes } } })
  assert.equal((await call(`DELETE ${N}/routers/${router.id}`, { as: MEMBER })).body.NeutronError.type, 'RouterInUse')
  assert.equal((await remove()).status, 200)
  assert.equal((await call(`PUT ${N}/routers/${router.id}`, { as: MEMBER, body: clear })).body.router.external_gateway_info, null)
  assert.equal((await call(`DELETE ${N}/floatingips/${body.floatingip.id}`, { as: MEMBER })).status, 204)
  assert.equal((await call(`DELETE ${N}/routers/${router.id}`, { as: MEMBER })).status, 204)
  const left = await call(`GET ${N}/ports?network_id=${external.id}`)
  assert.deepEqual(left.body.ports, [])
})

test('of fifty who want one fixed address one gets it; a port that goes frees its floating IP', async t => {
  const cloud = await testCloud(t, [neutron])
  const { call } = cloud
  const { external, network, subnet, router } = await world(cloud)
  await call(`PUT ${N}/routers/${router.id}/add_router_interface`, { as: MEMBER, body: { subnet_id: subnet.id } })
  const port = await made(cloud, 'ports', { port: { network_id: network.id } }, MEMBER)
  const floating = { floatingip: { floating_network_id: external.id, port_id: port.id } }
  const answers = await Promise.all(
    Array.from({ length: 50 }, () => call(`POST ${N}/floatingips`, { as: MEMBER, body: floating })),
  )
  assert.equal(answers.filter(answer => answer.status === 201).length, 1)
  assert.ok(answers.every(answer => [201, 409].includes(answer.status)))
  await call(`DELETE ${N}/ports/${port.id}`, { as: MEMBER })
  const { body } = await call(`GET ${N}/floatingips`, { as: MEMBER })
  assert.deepEqual(
    body.floatingips.map((f: { port_id: null; status: string }) => [f.port_id, f.status]),
    [[null, 'DOWN']],
  )
})

test('what only administrators may say of gateways', async t => {
  const cloud = await testCloud(t, [neutron])
  const { external } = await world(cloud)
  const router = (info: object) =>
    cloud.call(`POST ${N}/routers`, {
      as: MEMBER,
      body: { router: { external_gateway_info: { network_id: external.id, ...info } } },
    })
  assert.equal((await router({ enable_snat: false })).status, 403)
  assert.equal((await router({ external_fixed_ips: [{ ip_address: '172.24.4.9' }] })).status, 403)
  assert.equal((await cloud.call(`POST ${N}/routers`, { as: MEMBER, body: { router: { distributed: true } } })).status, 403)
})
