// The files of one network's dnsmasq, from the desired state. Pure.
//
//   conf    what it reads once: a change means a restart
//   hosts   who gets which address and name       ┐
//   opts    options of subnets and of ports       ├ read again on SIGHUP
//   names   what its DNS answers                  ┘
//
// Every address is fixed: a range is 'static', so dnsmasq serves only the ports in `hosts`. Options are tied to tags: one a subnet, set
// by the range, and one a port that has options of its own, set by its line in `hosts`. A port's option stands before its subnet's and wins.
import type { DesiredDhcpHost, DesiredNetwork, DesiredPort, DesiredSubnet } from '../desired.ts'

export interface DhcpFiles {
  conf: string
  hosts: string
  opts: string
  names: string
}

const METADATA = '169.254.169.254'
const LEASES_MOST = 16_777_216

/** Subnets for which the server hands out addresses or options. SLAAC alone needs no server. */
const served = (subnet: DesiredSubnet) => subnet.enableDhcp && (subnet.ipVersion === 4 || subnet.ipv6AddressMode !== 'slaac')

/** Subnets whose addresses the server leases: all but those where guests make their own. */
const leased = (subnet: DesiredSubnet) =>
  served(subnet) &&
  (subnet.ipVersion === 4 || subnet.ipv6AddressMode === 'dhcpv6-stateful' || (!subnet.ipv6AddressMode && !subnet.ipv6RaMode))

const subnetTag = (id: string) => `subnet-${id}`
const portTag = (id: string) => `port-${id}`

/** `port` is the server's own; `folder` is where the files will be; `link` its interface. */
export function dhcpFiles(
  network: DesiredNetwork,
  port: DesiredPort,
  folder: string,
  link: string,
  leaseTime: number,
): DhcpFiles {
  const dhcp = network.dhcp
  if (!dhcp) throw new Error(`network ${network.id} has no DHCP server here`)
  return {
    conf: conf(network, folder, link, leaseTime),
    hosts: lines(dhcp.hosts.flatMap(host => hostLines(host, network))),
    opts: lines([
      ...dhcp.hosts.flatMap(portOptions),
      ...network.subnets.filter(served).flatMap(subnet => subnetOptions(subnet, network, port)),
    ]),
    names: lines(
      dhcp.hosts.flatMap(host =>
        host.fixedIps.map(({ ip }) => `${ip}\t${clean(host.hostname)}.${dhcp.domain} ${clean(host.hostname)}`),
      ),
    ),
  }
}

const lines = (all: string[]) => all.map(line => `${line}\n`).join('')

function conf(network: DesiredNetwork, folder: string, link: string, leaseTime: number): string {
  const dhcp = network.dhcp as NonNullable<DesiredNetwork['dhcp']>
  const ranges = network.subnets.filter(served).map(subnet => {
    const [address = '', length = ''] = subnet.cidr.split('/')
    if (subnet.ipVersion === 6) return `dhcp-range=set:${subnetTag(subnet.id)},${address},static,${length},${leaseTime}s`
    return `dhcp-range=set:${subnetTag(subnet.id)},${address},static,${mask(Number(length))},${leaseTime}s`
  })
  return lines([
    'no-hosts',
    'no-resolv',
    'no-poll',
    'strict-order',
    'local-service',
    'bind-dynamic',
    `interface=${link}`,
    'except-interface=lo',
    `pid-file=${folder}/pid`,
    `dhcp-hostsfile=${folder}/hosts`,
    `dhcp-optsfile=${folder}/opts`,
    `addn-hosts=${folder}/names`,
    `dhcp-leasefile=${folder}/leases`,
    'dhcp-match=set:ipxe,175',
    'dhcp-userclass=set:ipxe6,iPXE',
    `dhcp-lease-max=${LEASES_MOST}`,
    'dhcp-authoritative',
    `dhcp-option-force=option:mtu,${network.mtu}`,
    `domain=${dhcp.domain}`,
    `local=/${dhcp.domain}/`,
    'expand-hosts',
    ...dhcp.forwarders.map(server => `server=${server}`),
    ...ranges,
  ])
}

function mask(length: number): string {
  const bits = length === 0 ? 0 : (0xffffffff << (32 - length)) >>> 0
  return [24, 16, 8, 0].map(shift => (bits >>> shift) & 255).join('.')
}

/** A host name is letters, digits and hyphens; anything else would break the line it stands in. */
const clean = (name: string) => name.replace(/[^A-Za-z0-9-]/g, '-').slice(0, 63) || 'host'

/** An option's value may not end its line. Commas are part of dnsmasq's syntax for lists, so they stay. */
const value = (text: string) => text.replace(/[\r\n]+/g, ' ')

const CLIENT_ID = new Set(['client-id', '61'])

function hostLines(host: DesiredDhcpHost, network: DesiredNetwork): string[] {
  const tag = host.options.some(option => !CLIENT_ID.has(option.name)) ? [`set:${portTag(host.portId)}`] : []
  const clientId = host.options.find(option => CLIENT_ID.has(option.name))
  const addresses = host.fixedIps.flatMap(({ subnetId, ip }) => {
    const subnet = network.subnets.find(one => one.id === subnetId)
    return subnet && leased(subnet) ? [ip] : []
  })
  if (addresses.length === 0) return tag.length > 0 ? [`${host.mac},${tag[0]}`] : []
  const id = clientId ? [`id:${value(clientId.value)}`] : []
  const name = `${clean(host.hostname)}`
  return addresses.map(ip =>
    // Version 6 clients that came by way of a relay or another link type are known by the tag that dnsmasq itself sets.
    ip.includes(':')
      ? [host.mac, 'tag:dhcpv6', ...tag, name, `[${ip}]`].join(',')
      : [host.mac, ...id, ...tag, name, ip].join(','),
  )
}

function portOptions(host: DesiredDhcpHost): string[] {
  return host.options
    .filter(option => !CLIENT_ID.has(option.name))
    .map(option => {
      const name = /^\d+$/.test(option.name) ? option.name : clean(option.name)
      const kind = option.ipVersion === 6 ? `option6:${name}` : /^\d+$/.test(name) ? name : `option:${name}`
      return `tag:${portTag(host.portId)},${kind},${value(option.value)}`
    })
}

function subnetOptions(subnet: DesiredSubnet, network: DesiredNetwork, port: DesiredPort): string[] {
  const tag = `tag:${subnetTag(subnet.id)}`
  const own = port.fixedIps.find(one => one.subnetId === subnet.id)?.ip
  const options: string[] = []
  // 0.0.0.0 (or ::) as the only server means: tell guests none.
  const none = subnet.dnsServers.length === 1 && /^(0\.0\.0\.0|::)$/.test(subnet.dnsServers[0] as string)
  if (subnet.ipVersion === 6) {
    if (none) return [`${tag},option6:dns-server`]
    const servers = subnet.dnsServers.length > 0 ? subnet.dnsServers : own ? [own] : []
    return [
      ...(servers.length > 0 ? [`${tag},option6:dns-server,${servers.map(ip => `[${ip}]`).join(',')}`] : []),
      `${tag},option6:domain-search,${network.dhcp?.domain}`,
    ]
  }
  const servers = subnet.dnsServers.length > 0 ? subnet.dnsServers : own ? [own] : []
  if (none) options.push(`${tag},option:dns-server`)
  else if (servers.length > 0) options.push(`${tag},option:dns-server,${servers.join(',')}`)
  const routes = subnet.hostRoutes.map(route => ({ ...route }))
  const wantsMetadata = network.dhcp?.metadata === true && !subnet.routed && own !== undefined
  if (wantsMetadata && !routes.some(route => route.destination === `${METADATA}/32`)) {
    routes.push({ destination: `${METADATA}/32`, nexthop: own })
  }
  // Other subnets on the same wire are reached directly.
  for (const other of network.subnets) {
    if (other.ipVersion === 4 && other.id !== subnet.id) routes.push({ destination: other.cidr, nexthop: '0.0.0.0' })
  }
  if (routes.length > 0) {
    // A client that takes option 121 ignores the router option, so the default route stands in it too.
    if (subnet.gatewayIp && !routes.some(route => route.destination === '0.0.0.0/0')) {
      routes.push({ destination: '0.0.0.0/0', nexthop: subnet.gatewayIp })
    }
    const text = routes.map(route => `${route.destination},${route.nexthop}`).join(',')
    options.push(`${tag},option:classless-static-route,${text}`, `${tag},249,${text}`)
  }
  options.push(subnet.gatewayIp ? `${tag},option:router,${subnet.gatewayIp}` : `${tag},option:router`)
  return options
}

/** A lease that dnsmasq holds, from its lease file. */
export interface Lease {
  mac: string
  ip: string
  clientId: string | null
}

/** Parses dnsmasq's lease file: version 4 leases only (those of version 6 name no MAC address). */
export function parseLeases(text: string): Lease[] {
  return text.split('\n').flatMap(line => {
    const [time, mac = '', ip = '', , id] = line.split(' ')
    return time && /^\d+$/.test(time) && /^[0-9a-f:]{17}$/.test(mac) && ip.includes('.')
      ? [{ mac, ip, clientId: id === '*' || !id ? null : id }]
      : []
  })
}

/** Leases whose address now belongs to nobody or to another: dnsmasq would refuse it to its new owner. */
export function staleLeases(leases: readonly Lease[], hosts: readonly DesiredDhcpHost[]): Lease[] {
  const owner = new Map(hosts.flatMap(host => host.fixedIps.map(({ ip }) => [ip, host.mac] as const)))
  return leases.filter(lease => owner.get(lease.ip) !== lease.mac)
}
