// Bridges of networks, and what connects them to other hosts: tunnels, VLANs, interfaces, and our own bridge to the outside.
//
// A vxlan link learns nothing: its forwarding entries are exactly the ports that the controller knows on other hosts, plus one flood entry a
// host. The bridge answers ARP and neighbour solicitation for those addresses itself (neigh_suppress with permanent neighbours on the bridge);
// what it does not know (an allowed address pair that moves between guests) is flooded as on a wire.
import { createHash } from 'node:crypto'
import { hostname } from 'node:os'
import { batch, forwardingList, type Line, type Link, neighbourList } from '#host/net/ip.ts'
import { sysctlEnsure } from '#host/net/sysctl.ts'
import type { DesiredNetwork, DesiredPeer } from '../desired.ts'
import { BRIDGE, bridgeName, VXLAN, vlanName, vxlanName } from '../names.ts'
import type { NetConfig } from './config.ts'

/** The bridge that a network's ports are plugged into. Throws Error where a flat or VLAN network's physical network is unknown here. */
export function bridgeOf(network: DesiredNetwork, config: NetConfig): string {
  if (network.type !== 'flat') return bridgeName(network.id)
  const physical = physicalOf(network, config)
  return physical.kind === 'interface' ? bridgeName(network.id) : physical.bridge
}

function physicalOf(network: DesiredNetwork, config: NetConfig) {
  const physical = config.physicalNetworks[network.physicalNetwork ?? '']
  if (!physical) {
    const known = Object.keys(config.physicalNetworks).join(', ') || 'none'
    throw new Error(`physical network ${network.physicalNetwork} is not configured on this host (configured: ${known})`)
  }
  return physical
}

const BRIDGE_OPTIONS = { stp_state: 0, forward_delay: 0, mcast_snooping: 0, nf_call_iptables: 1, nf_call_ip6tables: 1 }

/**
 * Makes one network's bridge and its way to other hosts. `links` is what the host has; new links are not added to it. `peersAreRight`: the entries
 * for other hosts were made for these very peers already and need no look.
 */
export async function bridgeEnsure(
  network: DesiredNetwork,
  config: NetConfig,
  links: ReadonlyMap<string, Link>,
  peersAreRight = false,
): Promise<void> {
  const place = config.place ?? {}
  const bridge = bridgeOf(network, config)
  const physical = network.type === 'flat' || network.type === 'vlan' ? physicalOf(network, config) : null
  const own = network.type !== 'flat' || physical?.kind !== 'bridge'
  const there = links.get(bridge)
  if (!own) {
    if (!there) throw new Error(`bridge ${bridge} of physical network ${network.physicalNetwork} does not exist on this host`)
    // Without this the rules of the guests on it would never see a packet.
    await batch(place, optionLines(there, { nf_call_iptables: 1, nf_call_ip6tables: 1 }))
    return
  }
  const lines: Line[] = []
  const mac = bridgeMac(bridge)
  if (!there) lines.push(['link', 'add', bridge, 'address', mac, 'type', 'bridge', ...Object.entries(BRIDGE_OPTIONS).flat()])
  else lines.push(...optionLines(there, BRIDGE_OPTIONS))
  if (there && there.mac !== mac) lines.push(['link', 'set', bridge, 'address', mac])
  if (there?.mtu !== network.mtu) lines.push(['link', 'set', bridge, 'mtu', network.mtu])
  if (!there) await batch(place, lines.splice(0))
  if (!there) await sysctlEnsure(place, quiet(bridge, physical?.kind === 'own' && network.type === 'flat'))
  if (!there)
    lines.push(['link', 'set', bridge, 'addrgenmode', physical?.kind === 'own' && network.type === 'flat' ? 'eui64' : 'none'])
  if (!there?.up) lines.push(['link', 'set', bridge, 'up'])

  if (network.type === 'flat' && physical?.kind === 'own') lines.push(...outsideLines(network, bridge, there))
  if (network.type === 'flat' && physical?.kind === 'interface')
    lines.push(...plugLines(physical.interface, bridge, links, network.mtu))
  if (network.type === 'vlan' && physical) {
    const parent = physical.kind === 'interface' ? physical.interface : physical.bridge
    const tagged = vlanName(parent, network.segmentationId as number)
    if (!links.has(tagged))
      lines.push(['link', 'add', 'link', parent, 'name', tagged, 'type', 'vlan', 'id', network.segmentationId as number])
    if (links.get(tagged)?.master !== bridge) lines.push(['link', 'set', tagged, 'mtu', network.mtu, 'master', bridge])
    if (!links.get(tagged)?.up) lines.push(['link', 'set', tagged, 'up'])
  }
  await batch(place, lines)
  if (network.type === 'flat' && physical?.kind === 'own') await sysctlEnsure(place, { 'net/ipv4/ip_forward': 1 })
  if (network.type === 'vxlan') await tunnelEnsure(network, bridge, config, links, peersAreRight && there?.mac === mac)
}

/**
 * The address of one of our bridges, the same at every start. Without one of its own a bridge takes the lowest among its ports, anew with each
 * port that comes and goes; and the kernel forgets a link's neighbours, permanent ones too, when its address changes (neigh_changeaddr).
 */
export function bridgeMac(bridge: string): string {
  const tail = createHash('sha256').update(`${hostname()} ${bridge}`).digest('hex')
  return `f6:16:3e:${tail.slice(0, 2)}:${tail.slice(2, 4)}:${tail.slice(4, 6)}`
}

/**
 * A bridge of a tenant network has no address, takes none from what guests announce on it, and answers no ARP for the host's other addresses.
 * (IPv6 itself stays on: without it the bridge could not answer neighbour solicitation for other hosts' guests.)
 */
function quiet(bridge: string, outside: boolean): Record<string, number> {
  const six = `net/ipv6/conf/${bridge}`
  return { [`${six}/accept_ra`]: 0, [`${six}/autoconf`]: 0, ...(!outside && { [`net/ipv4/conf/${bridge}/arp_ignore`]: 8 }) }
}

function optionLines(link: Link, options: Record<string, number>): Line[] {
  const differing = Object.entries(options).filter(([name, value]) => Number(link.data[name]) !== value)
  return differing.length === 0 ? [] : [['link', 'set', link.name, 'type', 'bridge', ...differing.flat()]]
}

/** The host is the gateway of the subnets on our own bridge to the outside. */
function outsideLines(network: DesiredNetwork, bridge: string, there: Link | undefined): Line[] {
  const wanted = network.subnets.filter(s => s.gatewayIp !== null).map(s => `${s.gatewayIp}/${s.cidr.split('/')[1]}`)
  const have = (there?.addresses ?? []).filter(a => a.scope === 'global').map(a => `${a.ip}/${a.prefixLength}`)
  return [
    ...have.filter(one => !wanted.includes(one)).map(one => ['addr', 'del', one, 'dev', bridge]),
    ...wanted
      .filter(one => !have.includes(one))
      .map(one => ['addr', 'add', one, 'dev', bridge, ...(one.includes(':') ? ['nodad'] : [])]),
  ]
}

function plugLines(name: string, bridge: string, links: ReadonlyMap<string, Link>, mtu: number): Line[] {
  const link = links.get(name)
  if (!link) throw new Error(`interface ${name} does not exist on this host`)
  const global = link.addresses.filter(a => a.scope === 'global').map(a => a.ip)
  if (link.master === null && global.length > 0) {
    throw new Error(
      `interface ${name} carries the host's own ${global.join(', ')}: give a spare one, or put it into a bridge and map to that`,
    )
  }
  if (link.master !== null && link.master !== bridge) throw new Error(`interface ${name} is in ${link.master} already`)
  return [
    ...(link.mtu < mtu ? [['link', 'set', name, 'mtu', mtu]] : []),
    ...(link.master === null ? [['link', 'set', name, 'master', bridge]] : []),
    ...(link.up ? [] : [['link', 'set', name, 'up']]),
  ]
}

const FLOOD = '00:00:00:00:00:00'

async function tunnelEnsure(
  network: DesiredNetwork,
  bridge: string,
  config: NetConfig,
  links: ReadonlyMap<string, Link>,
  peersAreRight: boolean,
): Promise<void> {
  if (network.peers.length === 0) return
  const place = config.place ?? {}
  const local = config.overlayAddress
  if (local === null)
    throw new Error('the network has ports on other hosts, but this host has no address for tunnels (overlay address)')
  const name = vxlanName(network.segmentationId as number)
  const port = config.vxlanPort ?? 4789
  let there = links.get(name)
  const lines: Line[] = []
  if (there && ((there.data.local ?? there.data.local6) !== local || there.data.port !== port || there.data.learning !== false)) {
    lines.push(['link', 'del', name])
    there = undefined
  }
  if (!there)
    lines.push([
      'link',
      'add',
      name,
      'type',
      'vxlan',
      'id',
      network.segmentationId as number,
      'local',
      local,
      'dstport',
      port,
      'nolearning',
    ])
  if (there?.mtu !== network.mtu) lines.push(['link', 'set', name, 'mtu', network.mtu, 'addrgenmode', 'none'])
  if (there?.master !== bridge) lines.push(['link', 'set', name, 'master', bridge])
  if (there?.portData.neigh_suppress !== true || there.portData.learning !== false) {
    lines.push(['link', 'set', name, 'type', 'bridge_slave', 'neigh_suppress', 'on', 'learning', 'off'])
  }
  if (!there?.up) lines.push(['link', 'set', name, 'up'])
  await batch(place, lines)
  if (!there || !peersAreRight) await peersEnsure(network.peers, name, bridge, config)
}

/** Makes the entries for what lives on other hosts exactly those. */
async function peersEnsure(peers: DesiredPeer[], tunnel: string, bridge: string, config: NetConfig): Promise<void> {
  const place = config.place ?? {}
  const [entries, neighbours] = await Promise.all([forwardingList(place, tunnel), neighbourList(place, bridge)])
  const far = new Map(peers.flatMap(peer => peer.ports.map(port => [port.mac, peer.address] as const)))
  const flood = new Set(peers.map(peer => peer.address))
  const tunnelled = entries.filter(entry => entry.destination !== null)
  const bridged = new Set(entries.filter(entry => entry.master === bridge && entry.state === 'static').map(entry => entry.mac))
  const lines: Line[] = []
  for (const { mac, destination } of tunnelled) {
    const wanted = mac === FLOOD ? flood.has(destination as string) : far.has(mac)
    if (!wanted) lines.push(['fdb', 'del', mac, 'dev', tunnel, 'dst', destination as string, 'self'])
  }
  for (const mac of bridged) if (!far.has(mac)) lines.push(['fdb', 'del', mac, 'dev', tunnel, 'master'])
  for (const address of flood) {
    if (!tunnelled.some(e => e.mac === FLOOD && e.destination === address))
      lines.push(['fdb', 'append', FLOOD, 'dev', tunnel, 'dst', address, 'self'])
  }
  for (const [mac, address] of far) {
    if (!tunnelled.some(e => e.mac === mac && e.destination === address))
      lines.push(['fdb', 'replace', mac, 'dev', tunnel, 'dst', address, 'self'])
    if (!bridged.has(mac)) lines.push(['fdb', 'replace', mac, 'dev', tunnel, 'master', 'static'])
  }
  await batch(place, lines, 'bridge')

  const known = new Map(peers.flatMap(peer => peer.ports.flatMap(port => port.ips.map(ip => [ip, port.mac] as const))))
  await batch(place, [
    ...neighbours.filter(n => !known.has(n.ip)).map(n => ['neigh', 'del', n.ip, 'dev', bridge]),
    ...[...known]
      .filter(([ip, mac]) => !neighbours.some(n => n.ip === ip && n.mac === mac))
      .map(([ip, mac]) => ['neigh', 'replace', ip, 'lladdr', mac, 'dev', bridge, 'nud', 'permanent']),
  ])
}

/** Removes bridges and tunnels of ours that no network wants. Guests' taps that are still in one are unplugged by that, not removed. */
export async function bridgesSweep(
  networks: readonly DesiredNetwork[],
  config: NetConfig,
  links: ReadonlyMap<string, Link>,
): Promise<void> {
  const { bridges, tunnels } = wantedLinks(networks, config)
  const gone = [...links.values()].filter(link => {
    if (link.kind === 'bridge' && isOurBridge(link.name, config)) return !bridges.has(link.name)
    if (link.kind === 'vxlan' && VXLAN.test(link.name))
      return !tunnels.has(link.name) && (link.master === null || isOurBridge(link.master, config))
    return link.kind === 'vlan' && link.master !== null && BRIDGE.test(link.master) && !bridges.has(link.master)
  })
  await batch(
    config.place ?? {},
    gone.map(link => ['link', 'del', link.name]),
  )
}

/** Names of the bridges and tunnels that these networks need. */
export function wantedLinks(
  networks: readonly DesiredNetwork[],
  config: NetConfig,
): { bridges: Set<string>; tunnels: Set<string> } {
  const bridges = new Set<string>()
  const tunnels = new Set<string>()
  for (const network of networks) {
    if (network.type !== 'flat' || config.physicalNetworks[network.physicalNetwork ?? '']) bridges.add(bridgeOf(network, config))
    if (network.type === 'vxlan' && network.peers.length > 0) tunnels.add(vxlanName(network.segmentationId as number))
  }
  return { bridges, tunnels }
}

/** Whether a vxlan link is one that we make: in a bridge of ours or, left over from a failure, in none but made as only we make them. */
export function isOurTunnel(link: Link, config: NetConfig): boolean {
  if (!VXLAN.test(link.name)) return false
  if (link.master !== null) return isOurBridge(link.master, config)
  return (
    link.data.learning === false &&
    link.data.port === (config.vxlanPort ?? 4789) &&
    (link.data.local ?? link.data.local6) === config.overlayAddress
  )
}

/** Whether a bridge is one that we make: named after a network, or configured as our own. */
export function isOurBridge(name: string, config: NetConfig): boolean {
  return BRIDGE.test(name) || Object.values(config.physicalNetworks).some(p => p.kind === 'own' && p.bridge === name)
}
