import assert from 'node:assert/strict'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { test } from 'node:test'
import { testDesired, testNetwork, testPort, testRouter, testRule, testSubnet } from '../testing.ts'
import { testHost } from './world.ts'

const skip = process.getuid?.() === 0 ? false : 'needs root'

test('DHCPv6: the address of the port, and a router that says so', { skip }, async t => {
  const host = await testHost(t, 'd6')
  const stateful = testSubnet('fd01::/64', {
    gatewayIp: 'fd01::1',
    ipv6AddressMode: 'dhcpv6-stateful',
    ipv6RaMode: 'dhcpv6-stateful',
    routed: true,
  })
  const network = testNetwork([stateful])
  const group = '88888888-8888-4888-8888-888888888888'
  const a = testPort(network, ['fd01::5'], { securityGroups: [group] })
  const server = testPort(network, ['fd01::2'], { deviceOwner: 'network:dhcp' })
  const leg = testPort(network, ['fd01::1'], { deviceOwner: 'network:router_interface' })
  const router = testRouter({
    interfaces: [
      { portId: leg.id, networkId: network.id, addresses: [{ ip: 'fd01::1', prefixLength: 64, subnetId: stateful.id }] },
    ],
  })
  const hosts = [{ portId: a.id, mac: a.mac, hostname: 'six', fixedIps: a.fixedIps, options: [], deviceId: 'd' }]
  const report = await host.driver.apply(
    testDesired({
      networks: [{ ...network, dhcp: { portId: server.id, domain: 'x.test', metadata: false, forwarders: [], hosts } }],
      ports: [a, server, leg],
      routers: [router],
      securityGroups: [{ id: group, stateful: true, rules: [testRule('egress', { ipVersion: 6 })] }],
    }),
  )
  assert.deepEqual(report.errors, [])
  const ga = await host.guest(a, network, { bare: true })
  await host.driver.wire([`tap${a.id.slice(0, 11)}`])
  const folder = await mkdtemp(`${tmpdir()}/nubo-d6-`)
  t.after(() => rm(folder, { recursive: true, force: true }))
  // The link-local address must be ready before the client may speak.
  await ga.run([
    'timeout',
    '20',
    'bash',
    '-c',
    'while ip -6 addr show dev eth0 scope link | grep -q tentative; do sleep 0.1; done',
  ])
  const { stderr } = await ga.run(
    [
      'timeout',
      '40',
      'dhclient',
      '-6',
      '-1',
      '-v',
      '-D',
      'LL',
      '-sf',
      '/bin/true',
      '-lf',
      `${folder}/leases`,
      '-pf',
      `${folder}/pid`,
      'eth0',
    ],
    [0, 2, 124],
  )
  assert.match(stderr, /fd01::5/)
  await ga.run(['bash', '-c', `kill $(cat ${folder}/pid)`], [0, 1])
  // The router says so too: managed addresses.
  const found = 'until ip -6 route show default | grep -q "proto ra"; do sleep 0.1; done'
  assert.equal((await ga.run(['timeout', '20', 'bash', '-c', found], [0, 124])).code, 0, 'a default route by advertisement')
})
