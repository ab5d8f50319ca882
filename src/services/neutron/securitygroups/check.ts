// What a rule of a security group may say.
import type { Fault } from '#kit/fault.ts'
import { parsePrefix, showPrefix } from '../address.ts'
import { invalid, told } from '../faults.ts'

/** IP protocols that go by name, with their numbers (IANA). */
export const PROTOCOLS: Record<string, number> = {
  hopopt: 0, icmp: 1, igmp: 2, ipip: 4, tcp: 6, egp: 8, udp: 17, dccp: 33, 'ipv6-encap': 41, 'ipv6-route': 43, 'ipv6-frag': 44,
  rsvp: 46, gre: 47, esp: 50, ah: 51, 'ipv6-icmp': 58, icmpv6: 58, 'ipv6-nonxt': 59, 'ipv6-opts': 60, ospf: 89, pgm: 113, vrrp: 112,
  sctp: 132, udplite: 136,
} // biome-ignore format: one list

const ONLY_V6 = new Set(['ipv6-icmp', 'icmpv6', 'ipv6-encap', 'ipv6-route', 'ipv6-frag', 'ipv6-nonxt', 'ipv6-opts'])
const ONLY_V6_NUMBERS = new Set([...ONLY_V6].map(name => PROTOCOLS[name]))
const WITH_PORTS = new Set([6, 17, 33, 132, 136])

/** The number of a protocol as a rule says it; null for any. */
export const protocolNumber = (protocol: string | null): number | null =>
  protocol === null ? null : (PROTOCOLS[protocol] ?? Number(protocol))

/** A protocol by name or number, in lower case; null and 'any' are any. */
export function protocolClean(value: unknown): string | null {
  if (value === null || value === undefined) return null
  const text = String(value).toLowerCase()
  if (text === 'any') return null
  const known = Object.hasOwn(PROTOCOLS, text) || (/^\d{1,3}$/.test(text) && Number(text) <= 255)
  if (known) return text
  const names = Object.keys(PROTOCOLS).map(name => `'${name}'`)
  const why = `Only protocol values [${names.join(', ')}] and integer representations [0 to 255] are supported.`
  throw invalid('SecurityGroupRuleInvalidProtocol', `Security group rule protocol ${told(value)} not supported. ${why}`)
}

export function ethertypeClean(value: unknown): string {
  const found = ['IPv4', 'IPv6'].find(type => type.toLowerCase() === String(value).toLowerCase())
  if (found) return found
  throw invalid(
    'SecurityGroupRuleInvalidEtherType',
    `Security group rule for ethertype '${told(value)}' not supported. Allowed values are ['IPv4', 'IPv6'].`,
  )
}

export function portClean(value: unknown): number | null {
  if (value === null || value === undefined) return null
  const number = typeof value === 'string' && /^\d+$/.test(value) ? Number(value) : value
  if (Number.isInteger(number) && (number as number) >= 0 && (number as number) <= 65535) return number as number
  throw invalid('SecurityGroupInvalidPortValue', `Invalid value for port ${told(value)}`)
}

/** A remote prefix, as it was given; an address alone gets its length. */
export function remoteClean(value: unknown): string | null {
  if (value === null || value === undefined || value === '') return null
  const read = parsePrefix(value)
  if (!read)
    throw invalid('HTTPBadRequest', `Invalid input for remote_ip_prefix. Reason: '${told(value)}' is not a valid IP subnet.`)
  return String(value).includes('/') ? String(value) : `${String(value)}/${read.length}`
}

/** A remote prefix without bits after it. */
export const normalized = (prefix: string | null): string | null => (prefix === null ? null : showPrefix(parsePrefix(prefix)!))

export interface RuleGiven {
  direction: string
  ethertype: string
  protocol: string | null
  port_range_min: number | null
  port_range_max: number | null
  remote_ip_prefix: string | null
  remote_group_id: string | null
  remote_address_group_id: string | null
}

/** Checks a rule whole, and gives ICMP its name in IPv6. Throws 400 in the words of each mistake. */
export function ruleCheck(given: RuleGiven): RuleGiven {
  const rule = { ...given }
  if (rule.ethertype === 'IPv6' && ['icmp', 'icmpv6', '1'].includes(rule.protocol ?? '')) rule.protocol = 'ipv6-icmp'
  if (rule.ethertype === 'IPv4' && rule.protocol !== null && ONLY_V6_NUMBERS.has(protocolNumber(rule.protocol)!)) {
    const why = `Invalid ethertype ${rule.ethertype} for protocol ${rule.protocol}.`
    throw invalid('SecurityGroupEthertypeConflictWithProtocol', why)
  }
  portsCheck(rule)
  if ([rule.remote_ip_prefix, rule.remote_group_id, rule.remote_address_group_id].filter(remote => remote !== null).length > 1) {
    const why = 'Only one of remote_ip_prefix, remote_group_id or remote_address_group_id may be provided.'
    throw invalid('SecurityGroupMultipleRemoteEntites', why)
  }
  const version = rule.remote_ip_prefix === null ? undefined : parsePrefix(rule.remote_ip_prefix)!.version
  if (version !== undefined && `IPv${version}` !== rule.ethertype) {
    const why = `Conflicting value ethertype ${rule.ethertype} for CIDR ${rule.remote_ip_prefix}`
    throw invalid('SecurityGroupRuleParameterConflict', why)
  }
  return rule
}

function portsCheck({ protocol, port_range_min: min, port_range_max: max }: RuleGiven): void {
  if (min === null && max === null) return
  const number = protocolNumber(protocol)
  if (number === null)
    throw invalid('SecurityGroupProtocolRequiredWithPorts', 'Must also specify protocol if port range is given.')
  if (WITH_PORTS.has(number)) {
    if (min === 0 || max === 0) throw invalid('SecurityGroupInvalidPortValue', 'Invalid value for port 0')
    if (min === null || max === null || min > max) {
      throw invalid('SecurityGroupInvalidPortRange', 'For TCP/UDP protocols, port_range_min must be <= port_range_max')
    }
    return
  }
  if (number === 1 || number === 58) {
    const over = [min, max].find(value => value !== null && value > 255)
    if (over !== undefined) throw icmpValue(min! > 255 ? 'type (port_range_min)' : 'code (port_range_max)', over!)
    if (min === null)
      throw invalid(
        'SecurityGroupMissingIcmpType',
        `ICMP code (port-range-max) ${max} is provided but ICMP type (port-range-min) is missing.`,
      )
    return
  }
  throw invalid('SecurityGroupInvalidProtocolForPort', `Ports cannot be specified for protocol ${protocol}.`)
}

const icmpValue = (field: string, value: number): Fault =>
  invalid('SecurityGroupInvalidIcmpValue', `Invalid value for ICMP ${field} ${value}. It must be 0 to 255.`)
