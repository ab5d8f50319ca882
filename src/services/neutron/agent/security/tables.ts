// Security groups and anti-spoofing of a whole host as two nftables tables. Pure: desired state in, tables out.
//
// Frames between guests are bridged, and the kernel's bridge family has no connection tracking on most machines; the bridge can hand its IP
// packets to the IP hooks (nf_call_iptables on our own bridges only), but there a packet no longer says by which bridge port it came.
// So the bridge family writes that into the packet's mark:
//
//   bridge prerouting (-310)  port in `sources`:  mark = SOURCE+n, then anti-spoofing, which may drop
//   inet   prerouting (-300)  zone of the bridge's network, so that equal addresses of two networks never share a connection
//   inet   prerouting (-150)  mark → chain of the guest's groups, outgoing rules
//   bridge forward    (-10)   port in `targets`:    mark = TARGET+n; whatever is not IP or ARP is dropped
//   inet   forward    (-5)    mark → chain of the guest's groups, incoming rules
//   bridge input      (-310)  mark = 0: what goes up to the host itself carries none
//   inet   input      (-5)    from a tenant network's bridge nothing reaches the host itself
//
// Every step is one look-up in a hash, however many ports there are. A chain exists once for each distinct set of groups, not for each port,
// and jumps to one chain a group; a remote group is a set whose elements come and go alone. The number n of a port is its key
// in `sources`: it is read back from the kernel, and only a port that has none gets the lowest free one.
//
// A port without port security is in no map: it has no mark, and nothing here sees its packets.
import type { NftActual, NftChain, NftSet, NftTable } from '#host/net/nft.ts'
import { chainDigest, widest } from '#host/net/nft.ts'
import type { DesiredPort, DesiredRule, NetDesired } from '../desired.ts'
import { bridgeName, hasOwnBridge, TABLE, tapName } from '../names.ts'
import { qosInto } from './qos.ts'
import { alwaysText, ruleText, type SplitSet, setName, splitSet } from './rules.ts'

const SOURCE = 0x4e010000
const TARGET = 0x4e020000

/** What the host has beyond the desired state: networks that use a bridge of the host's, and addresses to be hidden behind the host. */
export interface Surroundings {
  /** Physical networks that map to a bridge. */
  bridged: ReadonlySet<string>
  /** Our own bridges to the outside with the prefixes behind them, for which the host is the gateway. */
  outside: { bridge: string; prefixes: string[] }[]
}

/** A guest's port that is filtered. */
export const isSecured = (port: DesiredPort): boolean => port.portSecurity && !port.deviceOwner.startsWith('network:')

/** Both tables for a desired state, keeping the numbers that `actual` has given already. */
export function securityTables(
  desired: NetDesired,
  around: Surroundings,
  actual: { bridge: NftActual | null; inet: NftActual | null },
): { bridge: NftTable; inet: NftTable } {
  const secured = desired.ports.filter(isSecured)
  const numbers = number(
    secured.map(port => tapName(port.id)),
    actual.bridge?.sets.get('sources'),
    SOURCE,
  )
  const zones = number(
    desired.networks.filter(network => hasOwnBridge(network, around.bridged)).map(network => bridgeName(network.id)),
    actual.inet?.sets.get('zones'),
    0,
  )
  const bridge = bridgeTable(secured, numbers)
  qosInto(bridge, desired.ports)
  return { bridge, inet: inetTable(desired, secured, numbers, zones, around) }
}

/** Gives each name a number from 1 up, keeping what is there. */
function number(names: string[], there: ReadonlyMap<string, string> | undefined, base: number): Map<string, number> {
  const given = new Map<string, number>()
  const used = new Set<number>()
  for (const name of names) {
    const value = Number(there?.get(name)) - base
    if (Number.isInteger(value) && value > 0 && !used.has(value)) {
      given.set(name, value)
      used.add(value)
    }
  }
  let next = 1
  for (const name of names) {
    if (given.has(name)) continue
    while (used.has(next)) next++
    if (next > 0xffff) throw new Error('more than 65535 filtered ports or networks on one host')
    used.add(next)
    given.set(name, next)
  }
  return given
}

const set = (definition: string): NftSet => ({ definition, elements: new Map() })

/** The link-local address that a guest makes of its MAC address, in canonical text. */
export function linkLocal(mac: string): string {
  const bytes = mac.split(':').map(part => Number.parseInt(part, 16))
  const [a = 0, b = 0, c = 0, d = 0, e = 0, f = 0] = bytes
  const groups = [((a ^ 2) << 8) | b, (c << 8) | 0xff, 0xfe00 | d, (e << 8) | f].map(g => g.toString(16))
  // The URL parser is the runtime's own canonical printer of IPv6 addresses.
  return new URL(`http://[fe80::${groups.join(':')}]`).hostname.slice(1, -1)
}

const hex = (ip: string) => {
  const [head = '', tail = ''] = ip.split('::')
  const parts = (text: string) => (text === '' ? [] : text.split(':'))
  const middle = ip.includes('::') ? Array<string>(8 - parts(head).length - parts(tail).length).fill('0') : []
  const digits = [...parts(head), ...middle, ...parts(tail)].map(part => part.padStart(4, '0')).join('')
  return `0x${digits.replace(/^0+/, '') || '0'}`
}

function bridgeTable(secured: DesiredPort[], numbers: ReadonlyMap<string, number>): NftTable {
  const from = set('type ifname : mark')
  const to = set('type ifname : mark')
  const mac = set('type mark . ether_addr')
  const exact = { 4: set('type mark . ether_addr . ipv4_addr'), 6: set('type mark . ether_addr . ipv6_addr') }
  const prefixed = {
    4: set('type mark . ether_addr . ipv4_addr; flags interval'),
    6: set('type mark . ether_addr . ipv6_addr; flags interval'),
  }
  // Addresses that a port may announce as its own by ICMPv6; ports with a prefix pair are not in `guarded`, since any of many would be right.
  const neighbour = set('typeof meta mark . @th,64,128')
  const guarded = set('type mark')
  for (const port of secured) {
    const n = numbers.get(tapName(port.id)) as number
    const mark = String(SOURCE + n)
    from.elements.set(tapName(port.id), mark)
    to.elements.set(tapName(port.id), String(TARGET + n))
    const pairs = [...port.fixedIps.map(({ ip }) => ({ ip, mac: port.mac })), ...port.allowedPairs]
    const macs = new Set([port.mac, ...port.allowedPairs.map(pair => pair.mac)])
    for (const one of macs) {
      mac.elements.set(`${mark} . ${one}`, '')
      pairs.push({ ip: linkLocal(one), mac: one })
    }
    for (const one of macs) {
      for (const version of [4, 6] as const) {
        const own = pairs.filter(pair => pair.mac === one && pair.ip.includes(':') === (version === 6)).map(pair => pair.ip)
        const wide = own.filter(ip => ip.includes('/') && !ip.endsWith(version === 4 ? '/32' : '/128'))
        const single = own.filter(ip => !wide.includes(ip)).map(ip => ip.split('/')[0] as string)
        for (const ip of single) exact[version].elements.set(`${mark} . ${one} . ${ip}`, '')
        for (const ip of widest(wide)) prefixed[version].elements.set(`${mark} . ${one} . ${ip}`, '')
      }
    }
    const six = pairs.map(pair => pair.ip).filter(ip => ip.includes(':'))
    if (six.every(ip => !ip.includes('/') || ip.endsWith('/128'))) {
      guarded.elements.set(mark, '')
      for (const ip of six) neighbour.elements.set(`${mark} . ${hex(ip.split('/')[0] as string)}`, '')
    }
  }
  const sets = new Map(
    Object.entries({
      sources: from,
      targets: to,
      macs: mac,
      exact4: exact[4],
      exact6: exact[6],
      wide4: prefixed[4],
      wide6: prefixed[6],
      neighbours: neighbour,
      guarded,
    }),
  )
  return { family: 'bridge', name: TABLE, sets, chains: new Map(BRIDGE_CHAINS) }
}

const known = (field: string, sets: string[]) => sets.map(name => `${field} @${name} accept`)

const BRIDGE_CHAINS: Map<string, NftChain> = new Map(
  Object.entries({
    prerouting: {
      hook: 'type filter hook prerouting priority -310; policy accept',
      rules: ['meta mark set iifname map @sources goto guest'],
    },
    input: {
      hook: 'type filter hook input priority -310; policy accept',
      rules: ['meta mark and 0xfffc0000 == 0x4e000000 meta mark set 0'],
    },
    forward: {
      hook: 'type filter hook forward priority -10; policy accept',
      rules: ['meta mark set oifname map @targets goto towards'],
    },
    // Anything but IP and ARP would pass the IP hooks unseen: VLAN tags and PPPoE around IP above all.
    towards: { rules: ['ether type { ip, ip6, arp } accept', 'drop'] },
    guest: { rules: ['ether type arp goto guest_arp', 'ether type ip goto guest_ip4', 'ether type ip6 goto guest_ip6', 'drop'] },
    guest_arp: {
      rules: [
        'meta mark . ether saddr != @macs drop',
        ...known('meta mark . arp saddr ether . arp saddr ip', ['exact4', 'wide4']),
        // A probe for an address in use has no sender yet.
        'arp saddr ip 0.0.0.0 meta mark . arp saddr ether @macs accept',
        'drop',
      ],
    },
    guest_ip4: {
      rules: [
        'udp sport 67 udp dport 68 drop',
        ...known('meta mark . ether saddr . ip saddr', ['exact4', 'wide4']),
        'ip saddr 0.0.0.0 udp sport 68 udp dport 67 meta mark . ether saddr @macs accept',
        'drop',
      ],
    },
    guest_ip6: {
      rules: [
        'udp sport 547 udp dport 546 drop',
        'icmpv6 type { nd-router-advert, nd-redirect } drop',
        'icmpv6 type nd-neighbor-advert meta mark @guarded meta mark . @th,64,128 != @neighbours drop',
        ...known('meta mark . ether saddr . ip6 saddr', ['exact6', 'wide6']),
        // Looking whether an address is free, and joining groups, come from no address.
        'ip6 saddr :: ip6 daddr ff02::/16 icmpv6 type { 131, 135, 143 } meta mark . ether saddr @macs accept',
        'drop',
      ],
    },
  }),
)

/** The name of the chain for a set of groups: the same for all ports that are in the same groups. */
function comboName(direction: 'ingress' | 'egress', groups: string[], stateful: boolean): string {
  return `${direction === 'ingress' ? 'in' : 'out'}-${chainDigest([...groups].sort())}${stateful ? '' : '-stateless'}`
}

function inetTable(
  desired: NetDesired,
  secured: DesiredPort[],
  numbers: ReadonlyMap<string, number>,
  zoneNumbers: ReadonlyMap<string, number>,
  around: Surroundings,
): NftTable {
  const zones = set('typeof iifname : ct zone')
  for (const [bridge, zone] of zoneNumbers) zones.elements.set(bridge, String(zone))
  const bridges = set('type ifname')
  for (const bridge of zoneNumbers.keys()) bridges.elements.set(bridge, '')
  const egress = set('type mark : verdict')
  const ingress = set('type mark : verdict')
  const sets = new Map<string, NftSet>(Object.entries({ zones, bridges, egress, ingress }))
  const chains = new Map<string, NftChain>(
    Object.entries({
      raw: { hook: 'type filter hook prerouting priority -300; policy accept', rules: ['ct zone set iifname map @zones'] },
      outgoing: { hook: 'type filter hook prerouting priority -150; policy accept', rules: ['meta mark vmap @egress'] },
      incoming: {
        hook: 'type filter hook forward priority -5; policy accept',
        // The host is not a router between tenant networks and its own, whatever a guest addresses to the bridge.
        rules: [
          'iifname @bridges oifname != @bridges drop',
          'iifname != @bridges oifname @bridges drop',
          'meta mark vmap @ingress',
        ],
      },
      // Nor is it a guest's neighbour.
      host: { hook: 'type filter hook input priority -5; policy accept', rules: ['iifname @bridges drop'] },
    }),
  )

  const split = new Map<string, SplitSet>(desired.addressSets.map(one => [one.id, splitSet(one)]))
  for (const [id, versions] of split) {
    for (const version of [4, 6] as const) {
      const { exact, prefixes } = versions[version]
      const entry = (items: string[]) => new Map(items.map(ip => [ip, ''] as const))
      sets.set(setName(version, 'exact', id), { definition: `type ipv${version}_addr`, elements: entry(exact), transient: true })
      if (prefixes.length > 0) {
        const definition = `type ipv${version}_addr; flags interval`
        sets.set(setName(version, 'prefixes', id), { definition, elements: entry(widest(prefixes)), transient: true })
      }
    }
  }

  const groups = new Map(desired.securityGroups.map(group => [group.id, group]))
  const groupChain = (direction: 'ingress' | 'egress', id: string): string | undefined => {
    const rules = (groups.get(id)?.rules ?? []).filter(rule => rule.direction === direction)
    if (rules.length === 0) return undefined
    const name = `${direction === 'ingress' ? 'gi' : 'ge'}-${id}`
    if (!chains.has(name)) chains.set(name, { rules: distinct(rules, split) })
    return name
  }
  for (const port of secured) {
    const n = numbers.get(tapName(port.id)) as number
    const stateful = port.securityGroups.every(id => groups.get(id)?.stateful !== false)
    for (const direction of ['ingress', 'egress'] as const) {
      const name = comboName(direction, port.securityGroups, stateful)
      if (!chains.has(name)) {
        const jumps = [...port.securityGroups]
          .sort()
          .map(id => groupChain(direction, id))
          .filter(one => one !== undefined)
        const state = stateful ? ['ct state vmap { established : accept, related : accept, invalid : drop }'] : []
        chains.set(name, { rules: [...state, ...alwaysText(direction), ...jumps.map(one => `jump ${one}`), 'drop'] })
      }
      const map = direction === 'ingress' ? ingress : egress
      map.elements.set(String((direction === 'ingress' ? TARGET : SOURCE) + n), `goto ${name}`)
    }
  }
  hideOutside(around, sets, chains)
  return { family: 'inet', name: TABLE, sets, chains }
}

/** The text of a group's rules, each once. Order means nothing: they only allow. */
function distinct(rules: DesiredRule[], split: ReadonlyMap<string, SplitSet>): string[] {
  return [...new Set(rules.flatMap(rule => ruleText(rule, split)))].sort()
}

/** Addresses behind our own outside bridges leave the host under the host's address. */
function hideOutside(around: Surroundings, sets: Map<string, NftSet>, chains: Map<string, NftChain>): void {
  const outside = set('type ifname . ipv4_addr; flags interval')
  for (const { bridge, prefixes } of around.outside) {
    for (const prefix of widest(prefixes.filter(one => !one.includes(':')))) outside.elements.set(`${bridge} . ${prefix}`, '')
  }
  const bridges = set('type ifname')
  for (const { bridge } of around.outside) bridges.elements.set(bridge, '')
  sets.set('outside', outside)
  sets.set('outside_bridges', bridges)
  chains.set('leaving', {
    hook: 'type nat hook postrouting priority 100; policy accept',
    rules: ['oifname != @outside_bridges iifname . ip saddr @outside masquerade'],
  })
}
