// Address translation of one router, as an nftables table in its namespace. Pure.
//
// Incoming: a floating address becomes the fixed one behind it, whoever asks: the world, or a guest of the same router (hairpin).
// Outgoing, in this order:
//   1. Between internal networks nothing is translated, unless the packet was sent to a floating address (hairpin): then the sender
//      appears under its own floating address, or the router's, so that the answer comes back through the router.
//   2. To the outside, a guest with a floating address appears under it.
//   3. To the outside, everybody else appears under the router's gateway address, if the router does so (enable_snat).
import type { NftChain, NftSet, NftTable } from '#host/net/nft.ts'
import { widest } from '#host/net/nft.ts'
import type { DesiredNetwork, DesiredRouter } from '../desired.ts'
import { gatewayLink, TABLE } from '../names.ts'
import { helperRules } from './helpers.ts'
import { limitRules } from './limits.ts'
import { meterChains } from './meter.ts'

const set = (definition: string, elements: Iterable<readonly [string, string]> = []): NftSet => ({
  definition,
  elements: new Map(elements),
})

const v4 = (ip: string) => !ip.includes(':')

/** `networks` are those of the desired state, for the prefixes behind the router's legs. */
export function routerTable(router: DesiredRouter, networks: ReadonlyMap<string, DesiredNetwork>): NftTable {
  const floating = router.floatingIps.filter(one => v4(one.floating))
  const prefixes = router.interfaces
    .flatMap(leg =>
      leg.addresses.map(({ subnetId }) => networks.get(leg.networkId)?.subnets.find(subnet => subnet.id === subnetId)?.cidr),
    )
    .filter(cidr => cidr !== undefined && v4(cidr)) as string[]
  const gateway = router.gateway
  const gatewayIp = gateway?.addresses.find(one => v4(one.ip))?.ip
  const outside = gateway ? gatewayLink(gateway.portId) : null
  const sets = new Map<string, NftSet>(
    Object.entries({
      floating: set(
        'type ipv4_addr : ipv4_addr',
        floating.map(one => [one.floating, one.fixed]),
      ),
      fixed: set(
        'type ipv4_addr : ipv4_addr',
        floating.map(one => [one.fixed, one.floating]),
      ),
      forward_tcp: set('type ipv4_addr . inet_service : ipv4_addr . inet_service', forwardings(router, 'tcp')),
      forward_udp: set('type ipv4_addr . inet_service : ipv4_addr . inet_service', forwardings(router, 'udp')),
      internal: set(
        'type ipv4_addr; flags interval',
        widest(prefixes).map(prefix => [prefix, '']),
      ),
    }),
  )
  const incoming = [
    'dnat to ip daddr map @floating',
    'dnat to ip daddr . tcp dport map @forward_tcp',
    'dnat to ip daddr . udp dport map @forward_udp',
  ]
  const outgoing = outside
    ? [
        `oifname != "${outside}" ct status and dnat == 0 accept`,
        `oifname != "${outside}" ip saddr != @internal accept`,
        'snat to ip saddr map @fixed',
        ...(gatewayIp ? [`oifname != "${outside}" snat to ${gatewayIp}`] : []),
        ...(gatewayIp && gateway?.enableSnat ? [`oifname "${outside}" snat to ${gatewayIp}`] : []),
      ]
    : []
  const limits = limitRules(router, outside)
  const { helpers, rules } = helperRules(router.helpers)
  const chains = new Map<string, NftChain>(
    Object.entries({
      // Before addresses are translated, and after.
      limits_in: { hook: 'type filter hook prerouting priority -150; policy accept', rules: limits.incoming },
      limits_out: { hook: 'type filter hook postrouting priority 150; policy accept', rules: limits.outgoing },
      helpers: { hook: 'type filter hook prerouting priority -140; policy accept', rules },
      incoming: { hook: 'type nat hook prerouting priority -100; policy accept', rules: incoming },
      outgoing: { hook: 'type nat hook postrouting priority 100; policy accept', rules: outgoing },
      // Metadata is for guests behind the router only, and the router itself offers nothing else to the outside.
      own: {
        hook: 'type filter hook input priority 0; policy accept',
        rules: outside ? [`iifname "${outside}" ip daddr 169.254.169.254 drop`] : [],
      },
    }),
  )
  for (const [name, chain] of meterChains(router, outside)) chains.set(name, chain)
  return { family: 'ip', name: TABLE, sets, chains, helpers }
}

function forwardings(router: DesiredRouter, protocol: 'tcp' | 'udp'): [string, string][] {
  return router.portForwardings
    .filter(one => one.protocol === protocol)
    .flatMap(one =>
      Array.from({ length: one.externalMax - one.externalMin + 1 }, (_, i): [string, string] => [
        `${one.floating} . ${one.externalMin + i}`,
        `${one.fixed} . ${one.internalMin + i}`,
      ]),
    )
}
