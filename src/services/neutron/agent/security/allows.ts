// What the filters of a host let pass, computed from the desired state alone: for cutting connections, and for the pretended host.
import type { Flow } from '#host/net/conntrack.ts'
import { within } from '#host/net/nft.ts'
import type { DesiredPort, DesiredSecurityGroup, NetDesired } from '../desired.ts'
import { alwaysAllows, ruleAllows, type SplitSet, splitSet } from './rules.ts'
import { isSecured, linkLocal } from './tables.ts'

/** The groups and sets of a desired state, ready to be asked. */
export interface Filter {
  groups: ReadonlyMap<string, DesiredSecurityGroup>
  sets: ReadonlyMap<string, SplitSet>
}

export function filterOf(desired: Pick<NetDesired, 'securityGroups' | 'addressSets'>): Filter {
  return {
    groups: new Map(desired.securityGroups.map(group => [group.id, group])),
    sets: new Map(desired.addressSets.map(set => [set.id, splitSet(set)])),
  }
}

/** Whether a port's groups keep track of connections: all of them must. */
export const isStateful = (port: DesiredPort, filter: Filter): boolean =>
  port.securityGroups.every(id => filter.groups.get(id)?.stateful !== false)

/** Whether the first packet of a flow may leave (egress) or reach (ingress) a port. */
export function portAllows(port: DesiredPort, direction: 'ingress' | 'egress', flow: Flow, filter: Filter): boolean {
  if (!isSecured(port)) return true
  if (alwaysAllows(direction, flow)) return true
  return port.securityGroups.some(id =>
    (filter.groups.get(id)?.rules ?? []).some(rule => rule.direction === direction && ruleAllows(rule, flow, filter.sets)),
  )
}

/** Whether a port may send from these addresses. */
export function portMaySend(port: DesiredPort, mac: string, ip: string): boolean {
  if (!isSecured(port)) return true
  const pairs = [...port.fixedIps.map(one => ({ ip: one.ip, mac: port.mac })), ...port.allowedPairs]
  return (
    pairs.some(pair => pair.mac === mac && within(ip, pair.ip)) || (ip === linkLocal(mac) && pairs.some(pair => pair.mac === mac))
  )
}

/**
 * Connections of one network that some filtered port of it would not let begin now. A connection is judged by its first packet, since
 * what follows passes as established.
 */
export function forbidden<F extends Flow>(connections: readonly F[], ports: readonly DesiredPort[], filter: Filter): F[] {
  const byAddress = new Map<string, DesiredPort>()
  for (const port of ports)
    if (isSecured(port) && isStateful(port, filter)) for (const { ip } of port.fixedIps) byAddress.set(ip, port)
  return connections.filter(flow => {
    const sender = byAddress.get(flow.source)
    const receiver = byAddress.get(flow.destination)
    return (
      (sender !== undefined && !portAllows(sender, 'egress', flow, filter)) ||
      (receiver !== undefined && !portAllows(receiver, 'ingress', flow, filter))
    )
  })
}
