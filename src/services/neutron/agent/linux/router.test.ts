import assert from 'node:assert/strict'
import { test } from 'node:test'
import { batch, linkList } from '#host/net/ip.ts'
import { run } from '#host/run.ts'
import type { DesiredRouter, NetDesired } from '../desired.ts'
import { BRIEFLY } from '../driver.contract.ts'
import { routerNetns } from '../names.ts'
import { testDesired, testNetwork, testPort, testRouter, testRule, testSubnet } from '../testing.ts'
import { testGuest, testHost } from './world.ts'

const skip = process.getuid?.() === 0 ? false : 'needs root'

test('routers: between networks, SNAT, floating addresses in, out and back, port forwarding, extra routes, IPv6, metadata', {
  skip,
}, async t => {
  const host = await testHost(t, 'rt', {
    physicalNetworks: { public: { kind: 'own', bridge: 'br-ex' } },
    metadata: async guest => ({ status: 200, body: guest.deviceId }),
  })
  const outside = testGuest(t, host.netns)
  const publicNet = testNetwork([testSubnet('172.24.4.0/24', { gatewayIp: '172.24.4.1', enableDhcp: false })], {
    type: 'flat',
    physicalNetwork: 'public',
    mtu: 1500,
  })
  const one = testNetwork([
    testSubnet('10.1.0.0/24', { gatewayIp: '10.1.0.1', routed: true }),
    testSubnet('fd01::/64', { gatewayIp: 'fd01::1', ipv6RaMode: 'slaac', ipv6AddressMode: 'slaac' }),
  ])
  const two = testNetwork([
    testSubnet('10.2.0.0/24', { gatewayIp: '10.2.0.1', routed: true }),
    testSubnet('fd02::/64', { gatewayIp: 'fd02::1' }),
  ])
  const group = {
    id: '44444444-4444-4444-8444-444444444444',
    stateful: true,
    rules: [4, 6].flatMap(v => ['ingress', 'egress'].map(d => testRule(d as 'ingress', { ipVersion: v as 4 }))),
  }
  const a = testPort(one, ['10.1.0.5', 'fd01::5'], { securityGroups: [group.id] })
  const b = testPort(two, ['10.2.0.5', 'fd02::5'], { securityGroups: [group.id] })
  const leg = (network: typeof one, ips: string[], deviceOwner: string) => testPort(network, ips, { deviceOwner })
  const [l1, l2] = [
    leg(one, ['10.1.0.1', 'fd01::1'], 'network:router_interface'),
    leg(two, ['10.2.0.1', 'fd02::1'], 'network:router_interface'),
  ]
  const lg = leg(publicNet, ['172.24.4.10'], 'network:router_gateway')
  const addresses = (port: typeof a, network: typeof one) =>
    port.fixedIps.map(({ ip, subnetId }) => ({
      ip,
      subnetId,
      prefixLength: Number(network.subnets.find(s => s.id === subnetId)?.cidr.split('/')[1]),
    }))
  const base = testRouter({
    interfaces: [
      { portId: l1.id, networkId: one.id, addresses: addresses(l1, one) },
      { portId: l2.id, networkId: two.id, addresses: addresses(l2, two) },
    ],
    gateway: {
      portId: lg.id,
      networkId: publicNet.id,
      addresses: addresses(lg, publicNet),
      gatewayIps: ['172.24.4.1'],
      enableSnat: true,
    },
    metadata: [a, b].map(port => ({
      ip: port.fixedIps[0]?.ip ?? '',
      networkId: port.networkId,
      portId: port.id,
      deviceId: port.deviceId,
    })),
  })
  const count = (direction: 'ingress' | 'egress', more: object = {}) => ({
    ...{ direction, excluded: false, source: null, destination: null },
    ...more,
  })
  const [all, rest] = ['55555555', '66666666'].map(part => `${part}-5555-4555-8555-555555555555`) as [string, string]
  base.meters = [
    { id: all, rules: [count('ingress', { source: '172.24.4.0/24' }), count('egress', { destination: '172.24.4.0/24' })] },
    {
      id: rest,
      rules: [count('egress', { destination: '172.24.4.0/24' }), count('egress', { source: '10.1.0.5', excluded: true })],
    },
  ]
  const state = (router: Partial<DesiredRouter>, more: Partial<NetDesired> = {}) =>
    testDesired({
      networks: [publicNet, one, two],
      ports: [a, b, l1, l2, lg],
      securityGroups: [group],
      routers: [{ ...base, ...router }],
      ...more,
    })
  const apply = async (desired: NetDesired) => assert.deepEqual((await host.driver.apply(desired)).errors, [])

  const [ga, gb] = [await host.guest(a, one), await host.guest(b, two)]
  await apply(state({}))
  assert.equal(await ga.ping('10.2.0.5'), true, 'between networks')
  assert.equal(await ga.ping('fd02::5'), true, 'between networks, version 6')
  assert.equal(await ga.ping('172.24.4.1'), true, 'to the outside')
  const counted = async (label: string) => {
    const netns = routerNetns(host.config.prefix!, base.id)
    const { stdout } = await run(['nft', 'list', 'chain', 'ip', 'nubo', `meter-${label}`], { netns })
    return [...stdout.matchAll(/counter packets (\d+)/g)].map(([, packets]) => Number(packets))
  }
  const before = await counted(all)
  assert.ok(before.length === 2 && before.every(packets => packets > 0), `counted both ways: ${before}`)
  assert.deepEqual(await counted(rest), [0], 'what is excluded is not counted')
  await outside.listens(80)
  assert.equal(await ga.connects('172.24.4.1', 80), true)
  assert.equal(
    (await ga.run(['curl', '-s', '-m', '10', 'http://169.254.169.254/'])).stdout,
    a.deviceId,
    'metadata through the router',
  )
  assert.equal((await gb.run(['curl', '-s', '-m', '10', 'http://169.254.169.254/'])).stdout, b.deviceId)
  await batch({ netns: host.netns }, [['route', 'add', '169.254.169.254/32', 'via', '172.24.4.10']])
  assert.equal(await outside.connects('169.254.169.254', 80, BRIEFLY), false, 'no metadata for the outside')

  // Guests announce their address by advertisement.
  const c = testPort(one, ['10.1.0.6', 'fd01::f816:3eff:fe77:7777'], { securityGroups: [group.id], mac: 'fa:16:3e:77:77:77' })
  await apply(state({}, { ports: [a, b, c, l1, l2, lg] }))
  const gc = await host.guest(c, one, { bare: true })
  await host.driver.wire([`tap${c.id.slice(0, 11)}`])
  const found = 'until ip -6 addr show dev eth0 | grep -q "fd01::f816:3eff:fe77:7777"; do sleep 0.1; done'
  const six = await gc.run(['timeout', '20', 'bash', '-c', found], [0, 124])
  assert.equal(six.code, 0, 'an address by router advertisement')
  await gc.leaves()

  // A server that says who it saw.
  const seen: string[] = []
  const server = await outside.listens(8000)
  server.on('connection', socket => seen.push((socket.remoteAddress ?? '').replace('::ffff:', '')))
  await ga.connects('172.24.4.1', 8000)
  const floatingIps = [
    { id: 'f1', floating: '172.24.4.50', fixed: '10.1.0.5' },
    { id: 'f2', floating: '172.24.4.51', fixed: '10.2.0.5' },
  ]
  const portForwardings = [
    {
      id: 'p1',
      floating: '172.24.4.60',
      protocol: 'tcp' as const,
      externalMin: 2200,
      externalMax: 2201,
      fixed: '10.2.0.5',
      internalMin: 22,
      internalMax: 23,
    },
  ]
  await apply(state({ floatingIps, portForwardings }))
  await ga.connects('172.24.4.1', 8000)
  assert.deepEqual(seen, ['172.24.4.10', '172.24.4.50'], 'under the router, then under its own floating address')
  assert.equal(await outside.ping('172.24.4.50'), true, 'in by the floating address')
  const inner = await gb.listens(22)
  const callers: string[] = []
  inner.on('connection', socket => callers.push((socket.remoteAddress ?? '').replace('::ffff:', '')))
  assert.equal(await outside.connects('172.24.4.51', 22), true)
  assert.equal(await ga.connects('172.24.4.51', 22), true, 'one guest to the floating address of another')
  assert.equal(await gb.connects('172.24.4.51', 22), true, 'a guest to its own floating address')
  assert.equal(await outside.connects('172.24.4.60', 2200), true, 'a forwarded port')
  assert.equal(await outside.connects('172.24.4.60', 22, BRIEFLY), false)
  assert.deepEqual(callers, ['172.24.4.1', '172.24.4.50', '172.24.4.51', '172.24.4.1'])

  // Under way when the floating address goes: cut.
  const talk = await outside.talks('172.24.4.50')
  await apply(
    state({
      routes: [
        { destination: '10.9.0.0/24', nexthop: '10.1.0.5' },
        { destination: '10.8.0.0/24', nexthop: '10.1.0.5' },
        { destination: '10.8.0.0/24', nexthop: '10.2.0.5' },
      ],
    }),
  )
  assert.equal(await outside.ping('172.24.4.50', BRIEFLY), false)
  const until = talk.answers()
  assert.equal(await outside.ping('172.24.4.50', BRIEFLY), false)
  assert.equal(talk.answers(), until)
  await talk.stop()
  await batch({ netns: ga.netns }, [
    ['addr', 'add', '10.9.0.1/32', 'dev', 'lo'],
    ['link', 'set', 'lo', 'up'],
  ])
  await apply(
    state(
      { routes: [{ destination: '10.9.0.0/24', nexthop: '10.1.0.5' }] },
      { ports: [{ ...a, allowedPairs: [{ ip: '10.9.0.0/24', mac: a.mac }] }, b, l1, l2, lg] },
    ),
  )
  assert.equal(await gb.ping('10.9.0.1'), true, 'an extra route, and an allowed address pair behind it')

  // Without SNAT nothing inner shows outside; inner networks still reach each other.
  await apply(state({ gateway: { ...(base.gateway as NonNullable<typeof base.gateway>), enableSnat: false } }))
  await ga.connects('172.24.4.1', 8000, BRIEFLY)
  assert.notEqual(seen.at(-1), '172.24.4.10')
  assert.equal(await ga.ping('10.2.0.5'), true)

  // One leg goes.
  await apply(state({ interfaces: base.interfaces.slice(0, 1) }, { ports: [a, b, l1, lg] }))
  const links = await linkList({ netns: routerNetns(host.config.prefix ?? '', base.id) })
  assert.deepEqual([...links.keys()].filter(name => name.startsWith('q')).sort(), [
    `qg-${lg.id.slice(0, 11)}`,
    `qr-${l1.id.slice(0, 11)}`,
  ])
  assert.deepEqual(
    (await host.driver.inventory()).filter(thing => !thing.wanted),
    [],
  )
  await apply(testDesired({}))
  assert.deepEqual(
    (await host.driver.inventory()).filter(thing => thing.kind !== 'table' && !thing.name.startsWith('tap')),
    [],
  )
})
