// Marks and packet rates of guests, in the bridge's table beside the filters: a chain for each port that has any, found by the name of its tap, so
// that ports without port security are held to them too. (Bandwidth is tc's: `linux/limits.ts`.)
//
// Marks and limits come after anti-spoofing (-310) on the way in, and after the groups' rules (-5) on the way out: what is dropped anyway
// counts against nobody.
import type { NftSet, NftTable } from '#host/net/nft.ts'
import type { DesiredLimits, DesiredPort } from '../desired.ts'
import { tapName } from '../names.ts'

/** From here on a rate is none that a link could reach (and none that nftables takes). */
const ENDLESS = 1e9

/** The packet rate as a rule's end; none where there is none. */
export function packetLimit({ packets }: DesiredLimits): string[] {
  if (!packets || packets.rate >= ENDLESS) return []
  return [`limit rate over ${packets.rate}/second burst ${Math.min(packets.burst, ENDLESS)} packets drop`]
}

/** Adds what the ports' policies say to the bridge's table. */
export function qosInto(table: NftTable, ports: readonly DesiredPort[]): void {
  const from: NftSet = { definition: 'type ifname : verdict', elements: new Map() }
  const to: NftSet = { definition: 'type ifname : verdict', elements: new Map() }
  table.sets.set('qos_from', from)
  table.sets.set('qos_to', to)
  table.chains.set('qos_sent', {
    hook: 'type filter hook prerouting priority -309; policy accept',
    rules: ['iifname vmap @qos_from'],
  })
  table.chains.set('qos_received', {
    hook: 'type filter hook forward priority 10; policy accept',
    rules: ['oifname vmap @qos_to'],
  })
  for (const { id, qos } of ports) {
    if (!qos) continue
    const tap = tapName(id)
    const marks = qos.dscp === null ? [] : [`ip dscp set ${qos.dscp}`, `ip6 dscp set ${qos.dscp}`]
    for (const [map, name, rules] of [
      [from, `qos-from-${tap}`, [...packetLimit(qos.egress), ...marks]],
      [to, `qos-to-${tap}`, packetLimit(qos.ingress)],
    ] as const) {
      if (rules.length === 0) continue
      table.chains.set(name, { rules })
      map.elements.set(tap, `jump ${name}`)
    }
  }
}
