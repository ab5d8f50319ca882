// Limits of what goes through one outer address of a router: a floating IP's policy, or the gateway's. What is over the rate is dropped on the way
// in before its address is translated, and on the way out after it was: there the address is the outer one.
import type { DesiredLimits, DesiredRouter } from '../desired.ts'
import { packetLimit } from '../security/qos.ts'

/** 100 Gbit/s and more is no limit (nor one that nftables takes). */
const ENDLESS = 1e8
/** Of bytes at once: room for a few large packets, and what nftables takes. */
const [LEAST_BURST, MOST_BURST] = [10_000, 4_000_000_000]

function byteLimit({ bandwidth }: DesiredLimits): string[] {
  if (!bandwidth || bandwidth.kbps >= ENDLESS) return []
  const burst = Math.min(Math.max(bandwidth.burst * 125, LEAST_BURST), MOST_BURST)
  return [`limit rate over ${bandwidth.kbps * 125} bytes/second burst ${burst} bytes drop`]
}

/** The rules for packets that come in and that go out by the link `outside`. */
export function limitRules(router: DesiredRouter, outside: string | null): { incoming: string[]; outgoing: string[] } {
  const rules = (side: 'ingress' | 'egress', match: string): string[] =>
    (router.limits ?? [])
      .filter(({ ip }) => !ip.includes(':'))
      .flatMap(one => [...byteLimit(one[side]), ...packetLimit(one[side])].map(limit => `${match} ${one.ip} ${limit}`))
  if (outside === null) return { incoming: [], outgoing: [] }
  return {
    incoming: rules('ingress', `iifname "${outside}" ip daddr`),
    outgoing: rules('egress', `oifname "${outside}" ip saddr`),
  }
}
