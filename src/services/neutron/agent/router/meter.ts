// Metering labels of a router: a chain each, past which goes whatever is forwarded from or to the outside. A rule is a counter; what is excluded
// leaves the chain before it reaches one. The counters stand in the namespace until the label's rules change.
import type { NftChain } from '#host/net/nft.ts'
import type { DesiredRouter } from '../desired.ts'

const family = (prefix: string) => (prefix.includes(':') ? 'ip6' : 'ip')

/** The chains by name; `outside` is the link of the router's gateway. */
export function meterChains(router: DesiredRouter, outside: string | null): [string, NftChain][] {
  const labels = outside === null ? [] : (router.meters ?? [])
  const chains = labels.map(({ id, rules }): [string, NftChain] => {
    const ordered = [...rules].sort((a, b) => Number(b.excluded) - Number(a.excluded))
    const texts = ordered.map(({ direction, excluded, source, destination }) =>
      [
        direction === 'ingress' ? `iifname "${outside}"` : `oifname "${outside}"`,
        ...(source ? [`${family(source)} saddr ${source}`] : []),
        ...(destination ? [`${family(destination)} daddr ${destination}`] : []),
        excluded ? 'return' : 'counter',
      ].join(' '),
    )
    return [`meter-${id}`, { rules: texts }]
  })
  const jumps = chains.map(([name]) => `jump ${name}`)
  return [['meters', { hook: 'type filter hook forward priority 0; policy accept', rules: jumps }], ...chains]
}
