import assert from 'node:assert/strict'
import { test } from 'node:test'
import { FOREIGN, MEMBER, testCloud } from '#kit/http/test.ts'
import { neutron } from '../service.ts'

const N = '/networking/v2.0'

/** A network of `p1` with a subnet. */
async function network(cloud: Awaited<ReturnType<typeof testCloud>>, cidr: string, more: object = {}) {
  const { body } = await cloud.call(`POST ${N}/networks`, { as: MEMBER, body: { network: { name: 'n' } } })
  const made = await cloud.call(`POST ${N}/subnets`, {
    as: MEMBER,
    body: { subnet: { network_id: body.network.id, ip_version: cidr.includes(':') ? 6 : 4, cidr, ...more } },
  })
  assert.equal(made.status, 201, JSON.stringify(made.body))
  return { id: body.network.id as string, subnet: made.body.subnet }
}

test('a port is made, shown, filtered, changed and removed', async t => {
  const cloud = await testCloud(t, [neutron])
  const { call } = cloud
  const net = await network(cloud, '10.1.0.0/24')
  const made = await call(`POST ${N}/ports`, {
    as: MEMBER,
    body: { port: { network_id: net.id, name: 'p', extra_dhcp_opts: [{ opt_name: 'mtu', opt_value: '1400' }] } },
  })
  assert.equal(made.status, 201, JSON.stringify(made.body))
  const { port } = made.body
  assert.equal(port.fixed_ips.length, 1)
  assert.equal(port.security_groups.length, 1)
  assert.match(port.mac_address, /^fa:16:3e:/)
  assert.equal(port.status, 'DOWN')
  assert.equal(port['binding:vnic_type'], 'normal')
  assert.ok(!('binding:host_id' in port))
  assert.equal(port.revision_number, 1)
  const ip = port.fixed_ips[0].ip_address
  const ids = async (query: string, as = MEMBER) =>
    (await call(`GET ${N}/ports?${query}`, { as })).body.ports.map((p: { id: string }) => p.id)
  assert.deepEqual(await ids(`fixed_ips=ip_address%3D${ip}`), [port.id])
  assert.deepEqual(await ids(`fixed_ips=ip_address%3D${ip}&fixed_ips=subnet_id%3D${net.subnet.id}`), [port.id])
  assert.deepEqual(await ids('fixed_ips=ip_address%3D10.1.0.255'), [])
  assert.deepEqual(await ids('fixed_ips=ip_address_substr%3D10.1.'), [port.id])
  assert.deepEqual(await ids(`security_groups=${port.security_groups[0]}`), [port.id])
  assert.deepEqual(await ids('name=p', FOREIGN), [])
  const put = await call(`PUT ${N}/ports/${port.id}`, {
    as: MEMBER,
    body: {
      port: {
        fixed_ips: [{ subnet_id: net.subnet.id, ip_address: '10.1.0.77' }, { subnet_id: net.subnet.id }],
        security_groups: [],
        extra_dhcp_opts: [
          { opt_name: 'mtu', opt_value: null },
          { opt_name: 'tftp-server', opt_value: '1.2.3.4' },
        ],
        allowed_address_pairs: [{ ip_address: '10.1.0.200' }],
      },
    },
  })
  assert.equal(put.status, 200, JSON.stringify(put.body))
  assert.deepEqual(new Set(put.body.port.fixed_ips.map((f: { ip_address: string }) => f.ip_address)), new Set(['10.1.0.77', ip]))
  assert.deepEqual(put.body.port.security_groups, [])
  assert.deepEqual(put.body.port.extra_dhcp_opts, [{ opt_name: 'tftp-server', opt_value: '1.2.3.4', ip_version: 4 }])
  assert.deepEqual(put.body.port.allowed_address_pairs, [{ ip_address: '10.1.0.200', mac_address: port.mac_address }])
  const taken = await call(`POST ${N}/ports`, {
    as: MEMBER,
    body: { port: { network_id: net.id, fixed_ips: [{ ip_address: '10.1.0.77' }] } },
  })
  assert.equal(taken.status, 409)
  assert.equal(taken.body.NeutronError.type, 'IpAddressAlreadyAllocated')
  assert.equal((await call(`DELETE ${N}/subnets/${net.subnet.id}`, { as: MEMBER })).status, 409)
  assert.equal((await call(`DELETE ${N}/networks/${net.id}`, { as: MEMBER })).body.NeutronError.type, 'NetworkInUse')
  assert.equal((await call(`DELETE ${N}/ports/${port.id}`, { as: FOREIGN })).status, 404)
  assert.equal((await call(`DELETE ${N}/ports/${port.id}`, { as: MEMBER })).status, 204)
  assert.equal((await call(`DELETE ${N}/networks/${net.id}`, { as: MEMBER })).status, 204)
})

test('what belongs to an administrator is refused', async t => {
  const cloud = await testCloud(t, [neutron])
  const net = await network(cloud, '10.1.0.0/24')
  const shared = await cloud.call(`POST ${N}/networks`, { body: { network: { shared: true } } })
  const make = (port: object, as = MEMBER) => cloud.call(`POST ${N}/ports`, { as, body: { port } })
  assert.equal((await make({ network_id: net.id, 'binding:host_id': 'h' })).status, 403)
  assert.equal((await make({ network_id: shared.body.network.id, mac_address: 'fa:16:3e:00:00:01' })).status, 403)
  assert.equal((await make({ network_id: shared.body.network.id }, FOREIGN)).status, 201)
  assert.equal((await make({ network_id: net.id }, FOREIGN)).status, 404)
  assert.equal((await make({ network_id: net.id, project_id: 'p2' })).status, 400)
  assert.equal((await make({ network_id: net.id, mac_address: 'nonsense' })).status, 400)
})

test('of a hundred who want the last address one gets it', async t => {
  const cloud = await testCloud(t, [neutron])
  const net = await network(cloud, '10.1.0.0/24', { allocation_pools: [{ start: '10.1.0.10', end: '10.1.0.10' }] })
  const answers = await Promise.all(
    Array.from({ length: 100 }, () => cloud.call(`POST ${N}/ports`, { as: MEMBER, body: { port: { network_id: net.id } } })),
  )
  assert.equal(answers.filter(answer => answer.status === 201).length, 1)
  const refused = answers.filter(answer => answer.status === 409)
  assert.equal(refused.length, 99)
  assert.ok(refused.every(answer => answer.body.NeutronError.type === 'IpAddressGenerationFailure'))
})

test('a pool is used up whole by those who come at once', async t => {
  const cloud = await testCloud(t, [neutron])
  const net = await network(cloud, '10.1.0.0/27', { enable_dhcp: false })
  const answers = await Promise.all(
    Array.from({ length: 40 }, () => cloud.call(`POST ${N}/ports`, { as: MEMBER, body: { port: { network_id: net.id } } })),
  )
  assert.equal(answers.filter(answer => answer.status === 201).length, 29)
})

test('a hundred creates over the quota admit exactly the quota', async t => {
  const cloud = await testCloud(t, [neutron])
  const net = await network(cloud, '10.1.0.0/24')
  await cloud.db.read.insertInto('neutron.quotas').values({ project_id: 'p1', resource: 'port', limit: 7 }).execute()
  const answers = await Promise.all(
    Array.from({ length: 100 }, () => cloud.call(`POST ${N}/ports`, { as: MEMBER, body: { port: { network_id: net.id } } })),
  )
  assert.equal(answers.filter(answer => answer.status === 201).length, 7)
  assert.ok(answers.every(answer => answer.status === 201 || answer.body.NeutronError.type === 'OverQuota'))
})

test('IPv6: addresses out of MAC addresses', async t => {
  const cloud = await testCloud(t, [neutron])
  const modes = { ipv6_ra_mode: 'slaac', ipv6_address_mode: 'slaac' }
  const net = await network(cloud, '2001:db8::/64', modes)
  const { body } = await cloud.call(`POST ${N}/ports`, {
    as: MEMBER,
    body: { port: { network_id: net.id, mac_address: 'fa:16:3e:12:34:56' } },
  })
  assert.deepEqual(body.port.fixed_ips, [{ subnet_id: net.subnet.id, ip_address: '2001:db8::f816:3eff:fe12:3456' }])
})
