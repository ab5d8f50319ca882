import assert from 'node:assert/strict'
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { test } from 'node:test'
import { batch } from '#host/net/ip.ts'
import { netnsPids } from '#host/net/netns.ts'
import type { DesiredDhcpHost, DesiredPort, NetDesired } from '../desired.ts'
import type { MetadataGuest } from '../driver.ts'
import { dhcpNetns, tapName } from '../names.ts'
import { testDesired, testNetwork, testPort, testRule, testSubnet } from '../testing.ts'
import { readText } from './daemon.ts'
import { type TestGuest, testHost } from './world.ts'

const skip = process.getuid?.() === 0 ? false : 'needs root'

const group = {
  id: '22222222-2222-4222-8222-222222222222',
  stateful: true,
  rules: [testRule('egress'), testRule('egress', { ipVersion: 6 })],
}

const dhcpHost = (port: DesiredPort, hostname: string, options: DesiredDhcpHost['options'] = []): DesiredDhcpHost => ({
  portId: port.id,
  mac: port.mac,
  hostname,
  fixedIps: port.fixedIps,
  options,
  deviceId: port.deviceId,
})

/** Asks for a lease with busybox's client and gives what it was told; sets the address as a guest would. */
async function lease(guest: TestGuest, t: { after(fn: () => Promise<void>): void }, tries = 8): Promise<Record<string, string>> {
  const folder = await mkdtemp(`${tmpdir()}/nubo-lease-`)
  t.after(() => rm(folder, { recursive: true, force: true }))
  await writeFile(`${folder}/script`, '#!/bin/sh\n[ "$1" = bound ] && env\nexit 0\n', { mode: 0o755 })
  const argv = [
    'udhcpc',
    '-f',
    '-n',
    '-q',
    '-i',
    'eth0',
    '-t',
    String(tries),
    '-T',
    '1',
    '-s',
    `${folder}/script`,
    '-O',
    'staticroutes',
    '-O',
    'mtu',
    '-O',
    'bootfile',
  ]
  const { stdout } = await guest.run(argv, [0, 1])
  return Object.fromEntries(
    stdout
      .split('\n')
      .filter(line => line.includes('='))
      .map(line => line.split(/=(.*)/s).slice(0, 2) as [string, string]),
  )
}

test('leases with options, names, changes without restart, metadata', { skip }, async t => {
  const asked: { guest: MetadataGuest; path: string; forwarded: unknown }[] = []
  const host = await testHost(t, 'dhcp', {
    metadata: async (guest, request) => {
      asked.push({ guest, path: request.path, forwarded: request.headers['x-forwarded-for'] })
      if (request.path === '/slow') await new Promise(resolve => request.signal.addEventListener('abort', resolve))
      return { status: 200, body: `you are ${guest.deviceId}` }
    },
  })
  const subnet = testSubnet('10.1.0.0/24', {
    gatewayIp: '10.1.0.1',
    hostRoutes: [{ destination: '10.77.0.0/16', nexthop: '10.1.0.9' }],
  })
  const network = testNetwork([subnet])
  const server = testPort(network, ['10.1.0.2'], { deviceOwner: 'network:dhcp' })
  const a = testPort(network, ['10.1.0.5'], { securityGroups: [group.id] })
  const b = testPort(network, ['10.1.0.6'], { securityGroups: [group.id] })
  const state = (hosts: DesiredDhcpHost[], more: Partial<NetDesired> = {}) =>
    testDesired({
      networks: [{ ...network, dhcp: { portId: server.id, domain: 'example.test', metadata: true, hosts, forwarders: [] } }],
      ports: [server, a, b],
      securityGroups: [group],
      ...more,
    })
  const [ga, gb] = [await host.guest(a, network, { bare: true }), await host.guest(b, network, { bare: true })]
  const report = await host.driver.apply(state([dhcpHost(a, 'web', [{ name: 'bootfile-name', value: 'x.pxe', ipVersion: 4 }])]))
  assert.deepEqual(report.errors, [])
  assert.deepEqual(
    report.ports.map(p => p.status),
    ['ACTIVE', 'ACTIVE', 'ACTIVE'],
  )

  const told = await lease(ga, t)
  assert.equal(told.ip, '10.1.0.5')
  assert.equal(told.dns, '10.1.0.2')
  assert.equal(told.mtu, '1450')
  assert.equal(told.domain, 'example.test')
  assert.equal(told.boot_file ?? told.bootfile, 'x.pxe')
  assert.equal(told.staticroutes, '10.77.0.0/16 10.1.0.9 169.254.169.254/32 10.1.0.2 0.0.0.0/0 10.1.0.1')
  assert.deepEqual(await lease(gb, t, 1), {}, 'nobody unknown gets an address')

  const netns = dhcpNetns(host.config.prefix ?? '', network.id)
  assert.deepEqual((await host.driver.apply(state([dhcpHost(a, 'web')]))).errors, [])
  const [pid] = await netnsPids(netns)
  assert.deepEqual((await host.driver.apply(state([dhcpHost(a, 'web'), dhcpHost(b, 'db')]))).errors, [])
  assert.equal((await lease(gb, t)).ip, '10.1.0.6')
  assert.deepEqual(await netnsPids(netns), [pid], 'the same dnsmasq runs on')

  // The address of a guest that is gone goes to another, in spite of the lease.
  const c = { ...b, id: '33333333-3333-4333-8333-333333333333', mac: 'fa:16:3e:99:99:99' }
  await gb.leaves()
  assert.deepEqual(
    (await host.driver.apply(state([dhcpHost(a, 'web'), dhcpHost(c, 'db2')], { ports: [server, a, c] }))).errors,
    [],
  )
  const gc = await host.guest(c, network, { bare: true })
  await host.driver.wire([tapName(c.id)])
  assert.equal((await lease(gc, t)).ip, '10.1.0.6')
  assert.deepEqual(await netnsPids(netns), [pid])

  // Names and metadata, as a guest uses them.
  await batch({ netns: ga.netns }, [
    ['addr', 'add', '10.1.0.5/24', 'dev', 'eth0'],
    ['route', 'add', '169.254.169.254/32', 'via', '10.1.0.2'],
  ])
  const dig = await ga.run(['busybox', 'nslookup', 'db2.example.test', '10.1.0.2'], [0, 1])
  assert.match(dig.stdout, /10\.1\.0\.6/)
  const curl = await ga.run(['curl', '-s', '-m', '10', '-H', 'X-Forwarded-For: 10.1.0.6', 'http://169.254.169.254/openstack'])
  assert.equal(curl.stdout, `you are ${a.deviceId}`)
  assert.equal(asked[0]?.guest.ip, '10.1.0.5')
  const six = await ga.run(['curl', '-s', '-m', '10', '-g', 'http://[fe80::a9fe:a9fe%25eth0]/v6'])
  assert.equal(six.stdout, `you are ${a.deviceId}`)
  const large = await ga.run(
    [
      'curl',
      '-s',
      '-m',
      '10',
      '-w',
      '%{http_code}',
      '-o',
      '/dev/null',
      '--data-binary',
      '@/usr/bin/bash',
      'http://169.254.169.254/x',
    ],
    [0, 55, 56],
  )
  assert.match(large.stdout, /413/)

  // A pretender cannot take the other's address.
  await batch({ netns: ga.netns }, [['addr', 'add', '10.1.0.6/24', 'dev', 'eth0']])
  const forged = await ga.run(['curl', '-s', '-m', '1', '--interface', '10.1.0.6', 'http://169.254.169.254/'], [28, 7])
  assert.equal(forged.stdout, '')

  // An agent that starts anew finds all of it and touches nothing.
  const { linuxNet } = await import('./driver.ts')
  await host.driver.close()
  const again = linuxNet(host.config)
  t.after(() => again.close())
  const before = await readFile(`${host.config.stateDir}/dhcp/${network.id}/pid`, 'utf8')
  assert.deepEqual((await again.apply(state([dhcpHost(a, 'web'), dhcpHost(c, 'db2')], { ports: [server, a, c] }))).errors, [])
  assert.equal(await readFile(`${host.config.stateDir}/dhcp/${network.id}/pid`, 'utf8'), before)
  assert.deepEqual(await netnsPids(netns), [pid])
  assert.ok((await again.inventory()).every(thing => thing.wanted))
  assert.equal((await ga.run(['curl', '-s', '-m', '10', 'http://169.254.169.254/'])).stdout, `you are ${a.deviceId}`)

  // A server that ended is missed by the next look, however brief.
  process.kill(pid!, 'SIGKILL')
  const same = state([dhcpHost(a, 'web'), dhcpHost(c, 'db2')], { ports: [server, a, c] })
  assert.deepEqual((await again.apply(same, { look: 'some' })).errors, [])
  const [anew] = await netnsPids(netns)
  assert.ok(anew !== undefined && anew !== pid)

  // Nothing is left when the network goes.
  assert.deepEqual((await again.apply(testDesired({}))).errors, [])
  assert.deepEqual(
    (await again.inventory()).filter(thing => thing.kind !== 'table' && !thing.name.startsWith('tap')),
    [],
  )
  assert.equal((await readText(`/proc/${pid}/cmdline`)) ?? '', '', 'ended')
})
