// Desired states for tests: short to write, whole.
import { randomUUID } from 'node:crypto'
import type { DesiredNetwork, DesiredPort, DesiredRouter, DesiredRule, DesiredSubnet, NetDesired } from './desired.ts'

let numbers = 0

/** A MAC address that no other test object of this process has. */
export function testMac(): string {
  const n = ++numbers
  return `fa:16:3e:00:${(n >> 8).toString(16).padStart(2, '0')}:${(n & 255).toString(16).padStart(2, '0')}`
}

export function testSubnet(cidr: string, more: Partial<DesiredSubnet> = {}): DesiredSubnet {
  const base = {
    id: randomUUID(),
    cidr,
    ipVersion: cidr.includes(':') ? (6 as const) : (4 as const),
    gatewayIp: null,
    enableDhcp: true,
    dnsServers: [],
    hostRoutes: [],
    ipv6RaMode: null,
    ipv6AddressMode: null,
    routed: false,
  }
  return { ...base, ...more }
}

export function testNetwork(subnets: DesiredSubnet[], more: Partial<DesiredNetwork> = {}): DesiredNetwork {
  const base = { id: randomUUID(), type: 'vxlan' as const, physicalNetwork: null, segmentationId: 1000 + ++numbers, mtu: 1450 }
  return { ...base, subnets, peers: [], dhcp: null, ...more }
}

/** A guest's port with the given addresses, each on the subnet of its place in the list. */
export function testPort(network: DesiredNetwork, ips: string[], more: Partial<DesiredPort> = {}): DesiredPort {
  return {
    id: randomUUID(),
    networkId: network.id,
    mac: testMac(),
    fixedIps: ips.map((ip, i) => ({ ip, subnetId: network.subnets[i]?.id ?? '' })),
    allowedPairs: [],
    portSecurity: true,
    securityGroups: [],
    deviceOwner: 'compute:nova',
    deviceId: randomUUID(),
    adminStateUp: true,
    ...more,
  }
}

export function testRouter(more: Partial<DesiredRouter> = {}): DesiredRouter {
  return {
    id: randomUUID(),
    interfaces: [],
    gateway: null,
    floatingIps: [],
    portForwardings: [],
    routes: [],
    metadata: null,
    ...more,
  }
}

export const testRule = (direction: 'ingress' | 'egress', more: Partial<DesiredRule> = {}): DesiredRule => ({
  direction,
  ipVersion: 4,
  protocol: null,
  portMin: null,
  portMax: null,
  remote: null,
  ...more,
})

export const testDesired = (more: Partial<NetDesired>): NetDesired => ({
  revision: ++numbers,
  networks: [],
  ports: [],
  securityGroups: [],
  addressSets: [],
  routers: [],
  ...more,
})
