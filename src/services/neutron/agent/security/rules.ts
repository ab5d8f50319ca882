// One security group rule, two readings: as text of nftables, and as a predicate over a connection. The second tells which connections that
// are under way must be cut when rules go; it also is the filter of the pretended host. They must mean the same: the contract test compares them.
import type { Flow } from '#host/net/conntrack.ts'
import { within } from '#host/net/nft.ts'
import type { DesiredAddressSet, DesiredRule } from '../desired.ts'

/** Protocols whose header begins with a source and a destination port: tcp, udp, dccp, sctp, udplite. */
const PORTED = new Set([6, 17, 33, 132, 136])
const ICMP = 1
const ICMPV6 = 58

/** IPv6's own messages, without which an address does not work: allowed whatever the rules say, as OpenStack does. */
export const NEIGHBOUR_OUT = [130, 131, 132, 133, 135, 136, 143]
export const NEIGHBOUR_IN = [130, 134, 135, 136]

/** The rule's protocol number; 'icmp' of an IPv6 rule is ICMPv6. */
export const protocolOf = (rule: DesiredRule): number | null =>
  rule.protocol === ICMP && rule.ipVersion === 6 ? ICMPV6 : rule.protocol

/** An address set in two: exact addresses (a hash) and prefixes (an interval tree that may not hold overlaps). */
export interface SplitSet {
  4: { exact: string[]; prefixes: string[] }
  6: { exact: string[]; prefixes: string[] }
}

/** Sorts a set's addresses by version and kind. A prefix as long as an address is one. */
export function splitSet(set: DesiredAddressSet): SplitSet {
  const split: SplitSet = { 4: { exact: [], prefixes: [] }, 6: { exact: [], prefixes: [] } }
  for (const entry of set.addresses) {
    const version = entry.includes(':') ? 6 : 4
    const [ip = entry, length] = entry.split('/')
    if (length === undefined || Number(length) === (version === 4 ? 32 : 128)) split[version].exact.push(ip)
    else split[version].prefixes.push(entry)
  }
  return split
}

export const setName = (version: 4 | 6, kind: 'exact' | 'prefixes', id: string): string =>
  `${kind === 'exact' ? 'a' : 'n'}${version}-${id}`

/**
 * The rule in nftables' language: one line, or two where its remote set holds prefixes besides addresses.
 * `sets` are the address sets by id; a rule whose set is unknown matches nobody.
 */
export function ruleText(rule: DesiredRule, sets: ReadonlyMap<string, SplitSet>): string[] {
  const words = [`meta nfproto ipv${rule.ipVersion}`]
  const side = rule.direction === 'ingress' ? 'saddr' : 'daddr'
  const family = rule.ipVersion === 4 ? 'ip' : 'ip6'
  const protocol = protocolOf(rule)
  const tail: string[] = []
  if (protocol !== null) tail.push(`meta l4proto ${protocol}`)
  if (protocol !== null && PORTED.has(protocol) && rule.portMin !== null) {
    const max = rule.portMax ?? rule.portMin
    tail.push(`th dport ${rule.portMin === max ? max : `${rule.portMin}-${max}`}`)
  }
  if ((protocol === ICMP || protocol === ICMPV6) && rule.portMin !== null) {
    const name = protocol === ICMP ? 'icmp' : 'icmpv6'
    tail.push(`${name} type ${rule.portMin}`)
    if (rule.portMax !== null) tail.push(`${name} code ${rule.portMax}`)
  }
  tail.push('accept')
  const line = (remote: string[]) => [...words, ...remote, ...tail].join(' ')
  if (rule.remote === null) return [line([])]
  if ('prefix' in rule.remote) return [line(/\/0$/.test(rule.remote.prefix) ? [] : [`${family} ${side} ${rule.remote.prefix}`])]
  const { set } = rule.remote
  const split = sets.get(set)?.[rule.ipVersion]
  if (!split) return []
  const kinds = (['exact', 'prefixes'] as const).filter(kind => kind === 'exact' || split.prefixes.length > 0)
  return kinds.map(kind => line([`${family} ${side} @${setName(rule.ipVersion, kind, set)}`]))
}

/** Whether the rule lets the first packet of a flow pass. Means what {@link ruleText} means. */
export function ruleAllows(rule: DesiredRule, flow: Flow, sets: ReadonlyMap<string, SplitSet>): boolean {
  if (rule.ipVersion !== flow.ipVersion) return false
  const protocol = protocolOf(rule)
  if (protocol !== null && protocol !== flow.protocol) return false
  if (protocol !== null && rule.portMin !== null) {
    if (PORTED.has(protocol)) {
      const port = flow.destinationPort
      if (port === null || port < rule.portMin || port > (rule.portMax ?? rule.portMin)) return false
    } else if (protocol === ICMP || protocol === ICMPV6) {
      if (flow.icmpType !== rule.portMin || (rule.portMax !== null && flow.icmpCode !== rule.portMax)) return false
    }
  }
  if (rule.remote === null) return true
  const far = rule.direction === 'ingress' ? flow.source : flow.destination
  if ('prefix' in rule.remote) return within(far, rule.remote.prefix)
  const split = sets.get(rule.remote.set)?.[rule.ipVersion]
  return split !== undefined && (split.exact.includes(far) || split.prefixes.some(prefix => within(far, prefix)))
}

/** What passes whatever the rules say: asking for an address, and IPv6's neighbour messages. Means what {@link alwaysText} means. */
export function alwaysAllows(direction: 'ingress' | 'egress', flow: Flow): boolean {
  const [from, to] = direction === 'egress' ? [0, 1] : [1, 0]
  const ports = (flow.ipVersion === 4 ? [68, 67] : [546, 547]) as [number, number]
  if (flow.protocol === 17 && flow.sourcePort === ports[from] && flow.destinationPort === ports[to]) return true
  const types = direction === 'egress' ? NEIGHBOUR_OUT : NEIGHBOUR_IN
  return flow.protocol === ICMPV6 && flow.icmpType !== null && types.includes(flow.icmpType)
}

export function alwaysText(direction: 'ingress' | 'egress'): string[] {
  const [v4, v6] =
    direction === 'egress'
      ? ['sport 68 udp dport 67', 'sport 546 udp dport 547']
      : ['sport 67 udp dport 68', 'sport 547 udp dport 546']
  const types = direction === 'egress' ? NEIGHBOUR_OUT : NEIGHBOUR_IN
  return [
    `meta nfproto ipv4 udp ${v4} accept`,
    `meta nfproto ipv6 udp ${v6} accept`,
    `meta nfproto ipv6 icmpv6 type { ${types.join(', ')} } accept`,
  ]
}
