import assert from 'node:assert/strict'
import { test } from 'node:test'
import { batch, forwardingList, neighbourList } from '#host/net/ip.ts'
import type { DesiredPort, NetDesired } from '../desired.ts'
import { BRIEFLY } from '../driver.contract.ts'
import { bridgeName, tapName, vxlanName } from '../names.ts'
import { testDesired, testNetwork, testPort, testRule, testSubnet } from '../testing.ts'
import { testHost } from './world.ts'

const skip = process.getuid?.() === 0 ? false : 'needs root'

test('a network over two hosts: exact entries, remote groups, ports that come and go', { skip }, async t => {
  const [one, two] = [
    await testHost(t, 'va', { overlayAddress: '10.99.0.1' }),
    await testHost(t, 'vb', { overlayAddress: '10.99.0.2' }),
  ]
  await batch({ netns: one.netns }, [['link', 'add', 'und0', 'type', 'veth', 'peer', 'name', 'und0', 'netns', two.netns]])
  for (const host of [one, two]) {
    await batch({ netns: host.netns }, [
      ['addr', 'add', `${host.config.overlayAddress}/24`, 'dev', 'und0'],
      ['link', 'set', 'und0', 'up'],
    ])
  }
  const network = testNetwork([testSubnet('10.1.0.0/24'), testSubnet('fd01::/64')])
  const id = '55555555-5555-4555-8555-555555555555'
  const rules = [4, 6].flatMap(v => [
    testRule('egress', { ipVersion: v as 4 }),
    testRule('ingress', { ipVersion: v as 4, remote: { set: id } }),
  ])
  const port = (n: number, more: Partial<DesiredPort> = {}) =>
    testPort(network, [`10.1.0.${n}`, `fd01::${n}`], { securityGroups: [id], ...more })
  const [a, b, stranger] = [port(5), port(6), port(7, { securityGroups: [], portSecurity: false })]
  const all = { a, b, stranger }
  const state = (here: DesiredPort[], far: DesiredPort[], address: string, members = [a, b]): NetDesired =>
    testDesired({
      networks: [
        {
          ...network,
          peers: far.length ? [{ address, ports: far.map(p => ({ mac: p.mac, ips: p.fixedIps.map(i => i.ip) })) }] : [],
        },
      ],
      ports: here,
      securityGroups: [{ id, stateful: true, rules }],
      addressSets: [{ id, addresses: members.flatMap(p => p.fixedIps.map(i => i.ip)) }],
    })
  const [ga, gb, gs] = [await one.guest(a, network), await two.guest(b, network), await two.guest(stranger, network)]
  assert.deepEqual((await one.driver.apply(state([a], [b, stranger], '10.99.0.2'))).errors, [])
  assert.deepEqual((await two.driver.apply(state([b, stranger], [a], '10.99.0.1'))).errors, [])
  assert.equal(await ga.ping('10.1.0.6'), true)
  assert.equal(await ga.ping('fd01::6'), true)
  assert.equal(await gs.ping('10.1.0.5', BRIEFLY), false, 'not a member of the group')
  assert.equal(await ga.ping('10.1.0.7'), true, 'a port without port security is open')

  const tunnel = vxlanName(network.segmentationId as number)
  const own = (await forwardingList({ netns: one.netns }, tunnel)).filter(entry => entry.destination)
  assert.deepEqual(
    own.map(e => [e.mac, e.destination]).sort(),
    [
      ['00:00:00:00:00:00', '10.99.0.2'],
      [b.mac, '10.99.0.2'],
      [stranger.mac, '10.99.0.2'],
    ].sort(),
  )
  const known = await neighbourList({ netns: one.netns }, bridgeName(network.id))
  assert.deepEqual(known.map(n => n.ip).sort(), ['10.1.0.6', '10.1.0.7', 'fd01::6', 'fd01::7'])

  // The bridge answers for the far guest: the question does not cross the tunnel.
  await gb.run(['ip', 'link', 'set', 'eth0', 'arp', 'off'])
  await ga.run(['ip', 'neigh', 'flush', 'all'])
  const arp = await ga.run(['arping', '-c', '1', '-w', '2', '-I', 'eth0', '10.1.0.6'], [0, 1])
  assert.match(arp.stdout.toLowerCase(), new RegExp(b.mac))
  await gb.run(['ip', 'link', 'set', 'eth0', 'arp', 'on'])

  // A member joins: the set alone changes.
  assert.deepEqual((await one.driver.apply(state([a], [b, stranger], '10.99.0.2', [a, b, all.stranger]))).errors, [])
  assert.equal(await gs.ping('10.1.0.5'), true)

  // A port whose address is lower than the bridge's joins: the bridge keeps its own, and with it what it knows of the other host.
  const low = port(8, { mac: '02:00:00:00:00:01' })
  const gl = await one.guest(low, network)
  await batch({ netns: one.netns }, [['link', 'set', tapName(low.id), 'address', '02:00:00:00:00:02']])
  assert.deepEqual((await one.driver.apply(state([a, low], [b, stranger], '10.99.0.2'))).errors, [])
  assert.equal((await neighbourList({ netns: one.netns }, bridgeName(network.id))).length, 4)
  await gl.leaves()

  // The far port goes; then the whole network leaves this host.
  assert.deepEqual((await one.driver.apply(state([a], [stranger], '10.99.0.2'))).errors, [])
  assert.equal(
    (await forwardingList({ netns: one.netns }, tunnel)).some(entry => entry.mac === b.mac),
    false,
  )
  assert.deepEqual((await one.driver.apply(state([a], [], ''))).errors, [])
  assert.equal(await ga.ping('10.1.0.7', BRIEFLY), false, 'no peers, no tunnel')
  assert.deepEqual(
    (await one.driver.inventory()).filter(thing => !thing.wanted),
    [],
  )
})
