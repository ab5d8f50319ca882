import assert from 'node:assert/strict'
import { test } from 'node:test'
import { run } from '#host/run.ts'
import type { DesiredRouter, NetDesired } from '../desired.ts'
import { routerNetns } from '../names.ts'
import { testDesired, testNetwork, testPort, testRouter, testSubnet } from '../testing.ts'
import { testGuest, testHost } from './world.ts'

const skip = process.getuid?.() === 0 ? false : 'needs root'

test('routers: what an outer address may carry, and connections that are read along', { skip }, async t => {
  const host = await testHost(t, 'rl', { physicalNetworks: { public: { kind: 'own', bridge: 'br-ex' } } })
  const outside = testGuest(t, host.netns)
  const outer = { gatewayIp: '172.24.4.1', enableDhcp: false }
  const publicNet = testNetwork([testSubnet('172.24.4.0/24', outer)], { type: 'flat', physicalNetwork: 'public', mtu: 1500 })
  const inner = testNetwork([testSubnet('10.1.0.0/24', { gatewayIp: '10.1.0.1', routed: true })])
  const a = testPort(inner, ['10.1.0.5'], { portSecurity: false })
  const li = testPort(inner, ['10.1.0.1'], { deviceOwner: 'network:router_interface' })
  const lg = testPort(publicNet, ['172.24.4.10'], { deviceOwner: 'network:router_gateway' })
  const leg = (port: typeof a) => ({
    portId: port.id,
    networkId: port.networkId,
    addresses: port.fixedIps.map(one => ({ ...one, prefixLength: 24 })),
  })
  const base = testRouter({
    interfaces: [leg(li)],
    gateway: { ...leg(lg), gatewayIps: ['172.24.4.1'], enableSnat: true },
    floatingIps: [{ id: 'f', floating: '172.24.4.50', fixed: '10.1.0.5' }],
  })
  const state = (router: Partial<DesiredRouter>): NetDesired =>
    testDesired({ networks: [publicNet, inner], ports: [a, li, lg], routers: [{ ...base, ...router }] })
  const apply = async (router: Partial<DesiredRouter>) => assert.deepEqual((await host.driver.apply(state(router))).errors, [])
  const guest = await host.guest(a, inner)
  await apply({})
  assert.equal(await outside.ping('172.24.4.50'), true)

  const flood = async () => {
    const { stdout } = await outside.run(['ping', '-c', '40', '-i', '0.01', '-W', '4', '172.24.4.50'], [0, 1])
    return Number(/(\d+) received/.exec(stdout)?.[1])
  }
  const none = { bandwidth: null, packets: null }
  const slow = { bandwidth: { kbps: 1, burst: 1 }, packets: null }
  const few = { bandwidth: null, packets: { rate: 1, burst: 2 } }
  const big = ['ping', '-c', '20', '-i', '0.01', '-s', '1400', '-W', '4', '172.24.4.50']
  for (const limits of [
    { ip: '172.24.4.50', ingress: few, egress: none },
    { ip: '172.24.4.50', ingress: none, egress: few },
  ]) {
    await apply({ limits: [limits] })
    const answered = await flood()
    assert.ok(answered >= 1 && answered < 35, `${answered} of 40 came back`)
  }
  await apply({ limits: [{ ip: '172.24.4.50', ingress: none, egress: slow }] })
  const large = Number(/(\d+) received/.exec((await outside.run(big, [0, 1])).stdout)?.[1])
  assert.ok(large >= 1 && large < 15, `${large} of 20 large ones came back`)
  await apply({ limits: [{ ip: '172.24.4.10', ingress: few, egress: few }] })
  assert.equal(await flood(), 40, 'what limits another address limits this one not')

  const reads = async (port: number) => {
    await outside.listens(port)
    assert.equal(await guest.connects('172.24.4.1', port), true)
    const { stdout } = await run(['conntrack', '-L', '-p', 'tcp', '--dport', String(port)], {
      netns: routerNetns(host.config.prefix!, base.id),
    })
    return stdout.includes('helper=ftp')
  }
  await apply({ helpers: [{ helper: 'ftp', protocol: 'tcp', port: 21 }] })
  assert.deepEqual([await reads(21), await reads(2121)], [true, false])
  const wrong = await host.driver.apply(state({ helpers: [{ helper: 'nosuch', protocol: 'tcp', port: 5 }] }))
  assert.deepEqual(
    wrong.errors.map(error => error.kind),
    ['router'],
  )
  assert.equal(await outside.ping('172.24.4.50'), true, 'a helper that the kernel lacks keeps nothing else from being there')
  await apply({})
})
