import assert from 'node:assert/strict'
import { test } from 'node:test'
import { testNetwork, testPort, testSubnet } from '../testing.ts'
import { dhcpFiles, parseLeases, staleLeases } from './files.ts'

const v4 = testSubnet('10.0.0.0/22', { gatewayIp: '10.0.0.1', dnsServers: ['9.9.9.9', '1.1.1.1'], routed: true })
const other = testSubnet('10.9.0.0/24', { enableDhcp: false })
const stateful = testSubnet('fd01::/64', { ipv6AddressMode: 'dhcpv6-stateful', ipv6RaMode: 'dhcpv6-stateful' })
const stateless = testSubnet('fd02::/64', {
  ipv6AddressMode: 'dhcpv6-stateless',
  ipv6RaMode: 'dhcpv6-stateless',
  dnsServers: ['fd02::53'],
})
const slaac = testSubnet('fd03::/64', { ipv6AddressMode: 'slaac', ipv6RaMode: 'slaac' })
const base = testNetwork([v4, other, stateful, stateless, slaac])
const server = testPort(base, ['10.0.0.2', '', 'fd01::2', 'fd02::2'].slice(0, 1), { deviceOwner: 'network:dhcp' })
server.fixedIps.push({ subnetId: stateful.id, ip: 'fd01::2' })
const guest = testPort(base, [])
guest.fixedIps = [
  { subnetId: v4.id, ip: '10.0.0.5' },
  { subnetId: stateful.id, ip: 'fd01::5' },
  { subnetId: stateless.id, ip: 'fd02::5' },
  { subnetId: slaac.id, ip: 'fd03::5' },
]
const hostOf = (options: { name: string; value: string; ipVersion: 4 | 6 }[], hostname = 'web') => ({
  portId: guest.id,
  mac: guest.mac,
  hostname,
  fixedIps: guest.fixedIps,
  options,
  deviceId: 'd',
})
const files = (hosts: ReturnType<typeof hostOf>[]) =>
  dhcpFiles(
    { ...base, dhcp: { portId: server.id, domain: 'x.test', metadata: true, forwarders: ['10.0.0.53'], hosts } },
    server,
    '/run/d',
    'ns-1',
    600,
  )

test('ranges: static, each version in its way, none for SLAAC or without DHCP', () => {
  const ranges = files([])
    .conf.split('\n')
    .filter(line => line.startsWith('dhcp-range='))
  assert.deepEqual(ranges, [
    `dhcp-range=set:subnet-${v4.id},10.0.0.0,static,255.255.252.0,600s`,
    `dhcp-range=set:subnet-${stateful.id},fd01::,static,64,600s`,
    `dhcp-range=set:subnet-${stateless.id},fd02::,static,64,600s`,
  ])
  assert.match(files([]).conf, /^server=10\.0\.0\.53$/m)
})

test('hosts: one line a leased address; options by a tag of the port, the client id on the line', () => {
  assert.equal(files([hostOf([])]).hosts, `${guest.mac},web,10.0.0.5\n${guest.mac},tag:dhcpv6,web,[fd01::5]\n`)
  const options = [
    { name: 'client-id', value: '01:02', ipVersion: 4 as const },
    { name: '150', value: '10.0.0.9', ipVersion: 4 as const },
    { name: 'ntp-server', value: 'fd01::7\nevil', ipVersion: 6 as const },
  ]
  const { hosts, opts } = files([hostOf(options, 'we b,"')])
  assert.equal(
    hosts,
    `${guest.mac},id:01:02,set:port-${guest.id},we-b--,10.0.0.5\n${guest.mac},tag:dhcpv6,set:port-${guest.id},we-b--,[fd01::5]\n`,
  )
  assert.deepEqual(opts.split('\n').slice(0, 2), [
    `tag:port-${guest.id},150,10.0.0.9`,
    `tag:port-${guest.id},option6:ntp-server,fd01::7 evil`,
  ])
})

test('options of subnets: name servers, other subnets on the wire, the default route in both places', () => {
  const { opts } = files([])
  const lines = opts.split('\n')
  assert.ok(lines.includes(`tag:subnet-${v4.id},option:dns-server,9.9.9.9,1.1.1.1`))
  // Routed: metadata goes through the router, and needs no route of its own.
  assert.ok(lines.includes(`tag:subnet-${v4.id},option:classless-static-route,10.9.0.0/24,0.0.0.0,0.0.0.0/0,10.0.0.1`))
  assert.ok(lines.includes(`tag:subnet-${v4.id},option:router,10.0.0.1`))
  assert.ok(lines.includes(`tag:subnet-${stateful.id},option6:dns-server,[fd01::2]`))
  assert.ok(lines.includes(`tag:subnet-${stateless.id},option6:dns-server,[fd02::53]`))
})

test('names: every address, whoever leases it', () => {
  assert.equal(files([hostOf([])]).names.split('\n')[3], 'fd03::5\tweb.x.test web')
})

test('leases of addresses that changed hands', () => {
  const leases = parseLeases(
    '1795457788 fa:16:3e:00:00:03 10.0.0.5 web 01:fa:16:3e:00:00:03\n1795457788 fa:16:3e:00:00:04 10.0.0.6 * *\nduid 00:01\n1795457788 12345 fd01::5 web 00:01\n',
  )
  assert.deepEqual(leases, [
    { mac: 'fa:16:3e:00:00:03', ip: '10.0.0.5', clientId: '01:fa:16:3e:00:00:03' },
    { mac: 'fa:16:3e:00:00:04', ip: '10.0.0.6', clientId: null },
  ])
  const stale = staleLeases(leases, [{ ...hostOf([]), mac: 'fa:16:3e:00:00:03' }])
  assert.deepEqual(
    stale.map(lease => lease.ip),
    ['10.0.0.6'],
  )
})
