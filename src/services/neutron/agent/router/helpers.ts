// Helpers of connection tracking in one router: connections to their ports are read along, so that the further ones which they arrange
// (FTP's data, say) are translated too.
import type { NftHelper } from '#host/net/nft.ts'
import type { DesiredHelper } from '../desired.ts'

/** What the kernel calls H.323's two halves. */
const KERNEL: Record<string, string> = { 'h323-udp': 'RAS', 'h323-tcp': 'Q.931' }

const nameOf = ({ helper, protocol }: DesiredHelper): string => `${helper}-${protocol}`

/** The helpers of nftables by name, and the rules that give connections to them. */
export function helperRules(wanted: readonly DesiredHelper[] = []): { helpers: Map<string, NftHelper>; rules: string[] } {
  const kinds = wanted.map(({ helper, protocol }): [string, NftHelper] => {
    const name = nameOf({ helper, protocol, port: 0 })
    return [name, { type: KERNEL[name] ?? helper, protocol }]
  })
  return {
    helpers: new Map(kinds),
    rules: wanted.map(one => `${one.protocol} dport ${one.port} ct helper set "${nameOf(one)}"`),
  }
}
