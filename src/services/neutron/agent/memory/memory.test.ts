import assert from 'node:assert/strict'
import { test } from 'node:test'
import type { Flow } from '#host/net/conntrack.ts'
import { netContract } from '../driver.contract.ts'
import { tapName } from '../names.ts'
import { testDesired, testNetwork, testPort, testSubnet } from '../testing.ts'
import { memoryNet } from './driver.ts'

netContract('memory', async t => {
  const driver = memoryNet({ overlayAddress: '10.99.0.1', physicalNetworks: { public: 'br-ex' } })
  t.after(() => driver.close())
  const listening = new Map<string, number[]>()
  return {
    driver,
    async guest(port, _network, listens = []) {
      driver.tap(tapName(port.id), true)
      for (const { ip } of port.fixedIps) listening.set(ip, listens)
      const source = port.fixedIps[0]?.ip as string
      const flow: Flow = {
        ipVersion: 4,
        protocol: 6,
        source,
        destination: '',
        sourcePort: 40000,
        destinationPort: null,
        icmpType: null,
        icmpCode: null,
      }
      return {
        ping: async ip =>
          driver.passes(port.id, { ...flow, protocol: 1, sourcePort: null, destination: ip, icmpType: 8, icmpCode: 0 }),
        connects: async (ip, to) =>
          (listening.get(ip) ?? []).includes(to) && driver.passes(port.id, { ...flow, destination: ip, destinationPort: to }),
        leaves: async () => driver.tap(tapName(port.id), false),
      }
    },
  }
})

test('a thousand pretended hosts fit', async () => {
  const network = testNetwork([testSubnet('10.0.0.0/16')])
  const hosts = Array.from({ length: 1000 }, () => memoryNet({ everyTap: true }))
  const reports = await Promise.all(
    hosts.map((host, i) =>
      host.apply(testDesired({ networks: [network], ports: [testPort(network, [`10.0.${i >> 8}.${i & 255}`])] })),
    ),
  )
  assert.ok(reports.every(report => report.ports[0]?.status === 'ACTIVE' && report.errors.length === 0))
})
