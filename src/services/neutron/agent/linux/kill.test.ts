// The agent is killed at random instants while it turns one state into another and back: the next pass puts everything right, whatever was half done.
import assert from 'node:assert/strict'
import { fork } from 'node:child_process'
import { once } from 'node:events'
import { test } from 'node:test'
import { setTimeout as delay } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import type { NetDesired } from '../desired.ts'
import { testDesired, testNetwork, testPort, testRouter, testRule, testSubnet } from '../testing.ts'
import type { NetConfig } from './config.ts'
import { linuxNet } from './driver.ts'

const KILLS = Number(process.env.NUBO_TEST_KILLS ?? 4)

interface Job {
  config: NetConfig
  states: NetDesired[]
}

if (process.send) {
  // The victim: applies the states in turn, for ever.
  process.once('message', async message => {
    const { config, states } = message as Job
    const driver = linuxNet(config)
    process.send?.('begun')
    for (let i = 0; ; i++)
      await driver.apply(states[i % states.length] as NetDesired, { look: i % 3 === 0 ? 'all' : i % 3 === 1 ? 'some' : 'change' })
  })
} else {
  const skip = process.getuid?.() === 0 ? false : 'needs root'
  test('killed at any instant, the next pass puts it right', { skip }, async t => {
    const { testHost } = await import('./world.ts')
    const host = await testHost(t, 'kill', {
      physicalNetworks: { public: { kind: 'own', bridge: 'br-ex' } },
      overlayAddress: '10.99.0.1',
    })
    const { metadata: _metadata, log: _log, ...config } = host.config
    const publicNet = testNetwork([testSubnet('172.24.4.0/24', { gatewayIp: '172.24.4.1', enableDhcp: false })], {
      type: 'flat',
      physicalNetwork: 'public',
    })
    const network = testNetwork([testSubnet('10.1.0.0/24', { gatewayIp: '10.1.0.1', routed: true })])
    const id = '77777777-7777-4777-8777-777777777777'
    const [a, b] = [
      testPort(network, ['10.1.0.5'], { securityGroups: [id] }),
      testPort(network, ['10.1.0.6'], { securityGroups: [id] }),
    ]
    const server = testPort(network, ['10.1.0.2'], { deviceOwner: 'network:dhcp' })
    const leg = testPort(network, ['10.1.0.1'], { deviceOwner: 'network:router_interface' })
    const gate = testPort(publicNet, ['172.24.4.10'], { deviceOwner: 'network:router_gateway' })
    const address = (one: typeof a) => one.fixedIps.map(fixed => ({ ...fixed, prefixLength: 24 }))
    const router = testRouter({
      interfaces: [{ portId: leg.id, networkId: network.id, addresses: address(leg) }],
      gateway: {
        portId: gate.id,
        networkId: publicNet.id,
        addresses: address(gate),
        gatewayIps: ['172.24.4.1'],
        enableSnat: true,
      },
      floatingIps: [{ id: 'f', floating: '172.24.4.50', fixed: '10.1.0.5' }],
    })
    const hosts = [a, b].map(p => ({
      portId: p.id,
      mac: p.mac,
      hostname: 'x',
      fixedIps: p.fixedIps,
      options: [],
      deviceId: p.deviceId,
    }))
    const full = (
      known = hosts,
      peers = [{ address: '10.99.0.2', ports: [{ mac: 'fa:16:3e:aa:aa:aa', ips: ['10.1.0.9'] }] }],
    ): NetDesired =>
      testDesired({
        networks: [
          { ...network, peers, dhcp: { portId: server.id, domain: 'x.test', metadata: true, forwarders: [], hosts: known } },
          publicNet,
        ],
        ports: [a, b, server, leg, gate],
        routers: [router],
        securityGroups: [{ id, stateful: true, rules: [testRule('egress'), testRule('ingress')] }],
      })
    const half = testDesired({ networks: [network], ports: [a], securityGroups: [{ id, stateful: true, rules: [] }] })
    const states = [full(), half, full(hosts.slice(0, 1), []), testDesired({})]
    const [ga] = [await host.guest(a, network), await host.guest(b, network)]

    for (let kill = 0; kill < KILLS; kill++) {
      const victim = fork(fileURLToPath(import.meta.url), { stdio: ['ignore', 'inherit', 'inherit', 'ipc'] })
      const begun = once(victim, 'message')
      victim.send({ config, states } satisfies Job)
      await begun
      const wait = Math.floor(Math.random() * 900)
      await delay(wait)
      victim.kill('SIGKILL')
      await once(victim, 'exit')
      const after = linuxNet(host.config)
      const report = await after.apply(full())
      assert.deepEqual(report.errors, [], `killed after ${wait} ms`)
      assert.ok(report.ports.every(port => port.status === 'ACTIVE'))
      assert.deepEqual(
        (await after.inventory()).filter(thing => !thing.wanted),
        [],
      )
      assert.equal(await ga.ping('10.1.0.6'), true, `to a guest, killed after ${wait} ms`)
      assert.equal(await ga.ping('172.24.4.1'), true, `to the outside, killed after ${wait} ms`)
    }
  })
}
