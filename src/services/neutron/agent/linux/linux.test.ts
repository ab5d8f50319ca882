import assert from 'node:assert/strict'
import { randomUUID } from 'node:crypto'
import { mkdir, stat, writeFile } from 'node:fs/promises'
import { test } from 'node:test'
import { run } from '#host/run.ts'
import { BRIEFLY } from '../driver.contract.ts'
import { bridgeName, dhcpNetns, tapName } from '../names.ts'
import { testDesired, testNetwork, testPort, testRule, testSubnet } from '../testing.ts'
import { testHost } from './world.ts'

const skip = process.getuid?.() === 0 ? false : 'needs root'

test('security groups: closed until allowed, both directions, stateful, cut when the rule goes', { skip }, async t => {
  const host = await testHost(t, 'sg')
  const network = testNetwork([testSubnet('10.0.0.0/24'), testSubnet('fd00::/64')])
  const group = {
    id: '11111111-1111-4111-8111-111111111111',
    stateful: true,
    rules: [testRule('egress'), testRule('egress', { ipVersion: 6 })],
  }
  const a = testPort(network, ['10.0.0.5', 'fd00::5'], { securityGroups: [group.id] })
  const b = testPort(network, ['10.0.0.6', 'fd00::6'], { securityGroups: [group.id] })
  const state = (rules = group.rules) =>
    testDesired({ networks: [network], ports: [a, b], securityGroups: [{ ...group, rules }] })

  const before = await host.driver.apply(state())
  assert.deepEqual(before.errors, [])
  assert.deepEqual(
    before.ports.map(p => p.status),
    ['BUILD', 'BUILD'],
  )
  const [ga, gb] = [await host.guest(a, network), await host.guest(b, network)]
  const wired = await host.driver.wire([`tap${a.id.slice(0, 11)}`, `tap${b.id.slice(0, 11)}`])
  assert.deepEqual(
    wired.map(p => p.status),
    ['ACTIVE', 'ACTIVE'],
  )
  await gb.listens(22)
  await gb.listens(23)
  assert.equal(await ga.ping('10.0.0.6', BRIEFLY), false, 'nothing comes in by default')
  assert.equal(await ga.connects('10.0.0.6', 22, BRIEFLY), false)

  const ssh = testRule('ingress', { protocol: 6, portMin: 22, portMax: 22 })
  const icmp = testRule('ingress', { protocol: 1, portMin: 8, portMax: 0 })
  const icmp6 = testRule('ingress', { protocol: 58, ipVersion: 6 })
  const ssh6 = testRule('ingress', { protocol: 6, ipVersion: 6, portMin: 20, portMax: 22, remote: { prefix: 'fd00::/64' } })
  const change = (rules: typeof group.rules) => host.driver.apply(state(rules), { look: 'change' })
  assert.deepEqual((await change([...group.rules, ssh, icmp, icmp6, ssh6])).errors, [])
  assert.equal(await ga.ping('10.0.0.6'), true, 'icmp is let in')
  assert.equal(await ga.ping('fd00::6'), true, 'icmpv6 is let in')
  assert.equal(await ga.connects('10.0.0.6', 22), true)
  assert.equal(await ga.connects('10.0.0.6', 23, BRIEFLY), false, 'another port stays closed')
  assert.equal(await ga.connects('fd00::6', 22), true)
  assert.equal(await ga.connects('fd00::6', 23, BRIEFLY), false)

  // A connection under way ends with its rule.
  const talk = await ga.talks('10.0.0.6')
  assert.deepEqual((await change([...group.rules, ssh])).errors, [])
  assert.equal(await ga.ping('10.0.0.6', BRIEFLY), false)
  const until = talk.answers()
  assert.equal(await ga.ping('10.0.0.6', BRIEFLY), false)
  assert.equal(talk.answers(), until, 'cut in the middle')
  await talk.stop()

  // Somebody takes the filters away: the next change finds it and puts all in force.
  await run(['nft', 'flush', 'ruleset'], { netns: host.netns })
  assert.deepEqual((await change([...group.rules, icmp])).errors, [])
  assert.equal(await ga.connects('10.0.0.6', 22, BRIEFLY), false)
  assert.equal(await ga.ping('10.0.0.6'), true)

  // Nothing goes out without an egress rule.
  assert.deepEqual((await host.driver.apply(state([ssh, icmp]))).errors, [])
  assert.equal(await ga.ping('10.0.0.6', BRIEFLY), false)
})

test('a tap that cannot be plugged is tried once a pass, not once an event that the trial causes', { skip }, async t => {
  const host = await testHost(t, 'gone')
  const network = testNetwork([testSubnet('10.0.0.0/24')])
  const port = testPort(network, ['10.0.0.5'])
  const desired = testDesired({ networks: [network], ports: [port] })
  await host.driver.apply(desired)
  await host.guest(port, network)
  const wire = async () => (await host.driver.wire([tapName(port.id)])).map(({ status }) => status)
  assert.deepEqual(await wire(), ['ACTIVE'])

  await run(['ip', 'link', 'del', bridgeName(network.id)], { netns: host.netns })
  assert.deepEqual(await wire(), ['DOWN'])
  assert.deepEqual(await wire(), [])

  const { ports } = await host.driver.apply(desired)
  assert.deepEqual(
    ports.map(({ status }) => status),
    ['ACTIVE'],
  )
  assert.deepEqual(await wire(), ['ACTIVE'])
})

test('one that fails keeps nobody else from being served; what stands in the way of nothing is taken away', { skip }, async t => {
  const host = await testHost(t, 'bad')
  const [bad, good] = [testNetwork([testSubnet('10.1.0.0/24')]), testNetwork([testSubnet('10.2.0.0/24')])]
  const ports = [bad, good].map((network, i) => testPort(network, [`10.${i + 1}.0.2`], { deviceOwner: 'network:dhcp' }))
  const networks = [bad, good].map((network, i) => ({
    ...network,
    dhcp: { portId: ports[i]!.id, domain: 'x.test', metadata: false, forwarders: [], hosts: [] },
  }))
  // A file where the folder of its server should be, and one where a namespace was.
  await mkdir(`${host.config.stateDir}/dhcp`)
  await writeFile(`${host.config.stateDir}/dhcp/${bad.id}`, '')
  const stale = `/run/netns/${dhcpNetns(host.config.prefix!, randomUUID())}`
  await writeFile(stale, '')
  const report = await host.driver.apply(testDesired({ networks, ports }))
  assert.deepEqual(
    report.errors.map(({ kind, id }) => [kind, id]),
    [['dhcp', bad.id]],
  )
  assert.match(report.errors[0]!.message, /EEXIST.*\/dhcp\//)
  assert.deepEqual(report.dhcp, [
    { networkId: bad.id, status: 'ERROR' },
    { networkId: good.id, status: 'ACTIVE' },
  ])
  await assert.rejects(stat(stale), { code: 'ENOENT' })
})

test('a pass reports what a tap has become while it went on', { skip }, async t => {
  const host = await testHost(t, 'late')
  // Servers for several networks: the pass goes on for long after it looked at the taps.
  const networks = Array.from({ length: 8 }, (_, i) => testNetwork([testSubnet(`10.0.${i}.0/24`)]))
  const legs = networks.map((network, i) => testPort(network, [`10.0.${i}.2`], { deviceOwner: 'network:dhcp' }))
  for (const [i, network] of networks.entries()) network.dhcp = { portId: legs[i]!.id } as typeof network.dhcp
  const network = networks[0]!
  const port = testPort(network, ['10.0.0.5'])
  let ended = false
  const applying = host.driver.apply(testDesired({ networks, ports: [port, ...legs] })).then(report => {
    ended = true
    return report
  })
  // The last of them is made: the look at the taps was before that.
  for (let made = false; !made; ) {
    const { code } = await run(['ip', 'link', 'show', bridgeName(networks.at(-1)!.id)], { netns: host.netns, codes: [0, 1] })
    made = code === 0
  }
  await host.guest(port, network)
  assert.deepEqual(await host.driver.wire([tapName(port.id)]), [{ id: port.id, status: 'ACTIVE' }])
  assert.equal(ended, false, 'the pass goes on')
  const report = await applying
  assert.equal(report.ports.find(one => one.id === port.id)?.status, 'ACTIVE')
})
