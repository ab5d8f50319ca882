// What every network driver must do, real or pretended: one test for all.
import assert from 'node:assert/strict'
import { type TestContext, test } from 'node:test'
import type { DesiredNetwork, DesiredPort, DesiredRule } from './desired.ts'
import type { NetDriver } from './driver.ts'
import { tapName } from './names.ts'
import { testDesired, testNetwork, testPort, testRouter, testRule, testSubnet } from './testing.ts'

/** How long to wait for an answer that shall not come, in seconds. */
export const BRIEFLY = 0.4

export interface ContractGuest {
  /** Whether an answer comes, waiting so long for it (by default long enough for a busy machine). */
  ping(ip: string, seconds?: number): Promise<boolean>
  connects(ip: string, port: number, seconds?: number): Promise<boolean>
  leaves(): Promise<void>
}

export interface ContractHost {
  /** Knows the physical network 'public', has a tunnel address. */
  driver: NetDriver
  /** A guest whose tap appears now, with its addresses, that accepts TCP on these ports. */
  guest(port: DesiredPort, network: DesiredNetwork, listens?: number[]): Promise<ContractGuest>
}

/** Runs the contract against hosts that `open` makes (and that go with the test). */
export function netContract(name: string, open: (t: TestContext) => Promise<ContractHost>, skip: string | false = false): void {
  test(`${name}: a port is wired when its tap appears, and only then`, { skip }, async t => {
    const { driver, guest } = await open(t)
    const network = testNetwork([testSubnet('10.0.0.0/24')])
    const [a, b] = [testPort(network, ['10.0.0.5']), testPort(network, ['10.0.0.6'], { adminStateUp: false })]
    const desired = testDesired({ networks: [network], ports: [a, b] })
    const events: [string, boolean][] = []
    let heard = () => {}
    const stop = await driver.watch((tap, there) => {
      events.push([tap, there])
      heard()
    })
    const until = async (tap: string, there: boolean) => {
      while (!events.some(event => event[0] === tap && event[1] === there)) await new Promise<void>(resolve => (heard = resolve))
    }
    const first = await driver.apply(desired)
    assert.deepEqual(first.errors, [])
    assert.equal(first.revision, desired.revision)
    assert.deepEqual(first.ports, [
      { id: a.id, status: 'BUILD' },
      { id: b.id, status: 'DOWN' },
    ])
    const ga = await guest(a, network)
    await until(tapName(a.id), true)
    assert.deepEqual(await driver.wire([tapName(a.id), 'tap00000000-00']), [{ id: a.id, status: 'ACTIVE' }])
    assert.deepEqual(await driver.wire([tapName(a.id)]), [{ id: a.id, status: 'ACTIVE' }])
    assert.deepEqual((await driver.apply(desired)).ports[0], { id: a.id, status: 'ACTIVE' })
    await ga.leaves()
    await until(tapName(a.id), false)
    assert.deepEqual((await driver.apply(desired)).ports[0], { id: a.id, status: 'BUILD' })
    await stop()
  })

  test(`${name}: what cannot be done is said, the rest is done`, { skip }, async t => {
    const { driver, guest } = await open(t)
    const good = testNetwork([testSubnet('10.0.0.0/24')])
    const bad = testNetwork([testSubnet('10.1.0.0/24')], { type: 'flat', physicalNetwork: 'nowhere' })
    const [a, b] = [testPort(good, ['10.0.0.5']), testPort(bad, ['10.1.0.5'])]
    await guest(a, good)
    await guest(b, bad)
    const report = await driver.apply(testDesired({ networks: [bad, good], ports: [a, b] }))
    assert.deepEqual(report.ports, [
      { id: a.id, status: 'ACTIVE' },
      { id: b.id, status: 'DOWN' },
    ])
    assert.deepEqual(
      report.errors.map(error => [error.kind, error.id]),
      [['network', bad.id]],
    )
    assert.match(report.errors[0]?.message ?? '', /physical network nowhere is not configured/)
  })

  test(`${name}: filters`, { skip }, async t => {
    const { driver, guest } = await open(t)
    const network = testNetwork([testSubnet('10.0.0.0/24')])
    const [web, open_, own] = ['aaaaaaaa', 'bbbbbbbb', 'cccccccc'].map(part => `${part}-0000-4000-8000-000000000000`) as [
      string,
      string,
      string,
    ]
    const a = testPort(network, ['10.0.0.5'], { securityGroups: [web] })
    const b = testPort(network, ['10.0.0.6'], { securityGroups: [open_] })
    const free = testPort(network, ['10.0.0.7'], { securityGroups: [web], portSecurity: false })
    const mute = testPort(network, ['10.0.0.8'])
    const state = (rules: DesiredRule[], members: string[]) =>
      testDesired({
        networks: [network],
        ports: [a, b, free, mute],
        securityGroups: [
          { id: web, stateful: true, rules: [testRule('egress'), ...rules] },
          { id: open_, stateful: true, rules: [testRule('egress'), testRule('ingress')] },
        ],
        addressSets: [{ id: own, addresses: members }],
      })
    const ga = await guest(a, network, [80, 81])
    const gb = await guest(b, network, [80])
    const gf = await guest(free, network, [80])
    const gm = await guest(mute, network)
    assert.deepEqual((await driver.apply(state([], []))).errors, [])
    assert.equal(await ga.connects('10.0.0.6', 80), true, 'out, and the answers back')
    assert.equal(await gb.connects('10.0.0.5', 80, BRIEFLY), false, 'in by no rule')
    assert.equal(await ga.connects('10.0.0.7', 80), true, 'a port without port security takes all')
    assert.equal(await gm.ping('10.0.0.6', BRIEFLY), false, 'no group, no way out')

    const tcp = testRule('ingress', { protocol: 6, portMin: 80, portMax: 80, remote: { set: own } })
    assert.deepEqual((await driver.apply(state([tcp], ['10.0.0.6']))).errors, [])
    assert.equal(await gb.connects('10.0.0.5', 80), true, 'a member of the remote group')
    assert.equal(await gb.connects('10.0.0.5', 81, BRIEFLY), false, 'another port')
    assert.equal(await gf.connects('10.0.0.5', 80, BRIEFLY), false, 'not a member')
    assert.equal(await gb.ping('10.0.0.5', BRIEFLY), false, 'another protocol')
    assert.deepEqual((await driver.apply(state([tcp], ['10.0.0.0/29']))).errors, [])
    assert.equal(await gf.connects('10.0.0.5', 80), true, 'a prefix in the set')

    const prefix = testRule('ingress', { remote: { prefix: '10.0.0.6/32' } })
    assert.deepEqual((await driver.apply(state([prefix], []))).errors, [])
    assert.equal(await gb.ping('10.0.0.5'), true)
    assert.equal(await gf.ping('10.0.0.5', BRIEFLY), false)
  })

  test(`${name}: DHCP servers and routers are made, listed and removed; nothing is left`, { skip }, async t => {
    const { driver, guest } = await open(t)
    const network = testNetwork([testSubnet('10.0.0.0/24', { gatewayIp: '10.0.0.1', routed: true })])
    const publicNet = testNetwork([testSubnet('172.24.4.0/24', { gatewayIp: '172.24.4.1', enableDhcp: false })], {
      type: 'flat',
      physicalNetwork: 'public',
    })
    const server = testPort(network, ['10.0.0.2'], { deviceOwner: 'network:dhcp' })
    const leg = testPort(network, ['10.0.0.1'], { deviceOwner: 'network:router_interface' })
    const gate = testPort(publicNet, ['172.24.4.9'], { deviceOwner: 'network:router_gateway' })
    const a = testPort(network, ['10.0.0.5'])
    const address = (port: DesiredPort) => port.fixedIps.map(one => ({ ...one, prefixLength: 24 }))
    const router = testRouter({
      interfaces: [{ portId: leg.id, networkId: network.id, addresses: address(leg) }],
      gateway: {
        portId: gate.id,
        networkId: publicNet.id,
        addresses: address(gate),
        gatewayIps: ['172.24.4.1'],
        enableSnat: true,
      },
      floatingIps: [{ id: 'f', floating: '172.24.4.50', fixed: '10.0.0.5' }],
    })
    const dhcp = { portId: server.id, domain: 'x.test', metadata: false, forwarders: [], hosts: [] }
    const desired = testDesired({ networks: [{ ...network, dhcp }, publicNet], ports: [server, leg, gate, a], routers: [router] })
    const ga = await guest(a, network)
    const report = await driver.apply(desired)
    assert.deepEqual(report.errors, [])
    assert.deepEqual(
      report.ports.map(port => port.status),
      ['ACTIVE', 'ACTIVE', 'ACTIVE', 'ACTIVE'],
    )
    assert.deepEqual(report.routers, [{ id: router.id, status: 'ACTIVE' }])
    assert.deepEqual(report.floatingIps, [{ id: 'f', status: 'ACTIVE' }])
    assert.deepEqual(report.dhcp, [{ networkId: network.id, status: 'ACTIVE' }])
    assert.deepEqual(await driver.apply(desired), report, 'twice is once')
    const things = await driver.inventory()
    assert.deepEqual(
      things.filter(thing => !thing.wanted),
      [],
    )
    for (const id of [network.id, router.id]) assert.ok(things.some(thing => thing.kind === 'netns' && thing.id === id))

    // A lost desired row is an orphan to the audit until the next pass.
    const left = await driver.apply(testDesired({}))
    assert.deepEqual(left.errors, [])
    assert.deepEqual(
      (await driver.inventory()).filter(thing => thing.kind !== 'table').map(thing => [thing.name, thing.wanted]),
      [[tapName(a.id), false]],
    )
    assert.deepEqual((await driver.apply(desired, { look: 'all' })).errors, [])
    assert.ok((await driver.destroy()).some(thing => thing.kind === 'netns'))
    await ga.leaves()
    assert.deepEqual(await driver.inventory(), [])
    assert.deepEqual(await driver.destroy(), [])
  })
}
