/** How the agent of this machine reaches the controllers of its cloud. */
import { type DialOptions, unixWay, type Way, wayOf } from '#kit/link/index.ts'
import { addressTowards, type JoinedHost, joinedWrite } from './joined.ts'
import type { Layout } from './layout.ts'

/** Its name in the cloud, and where to dial. */
export interface LocalWay {
  name: string
  dial: Pick<DialOptions, 'ways' | 'way' | 'onControllers'>
  /** This machine's address towards the other hosts of the cloud; null where there cannot be any. */
  overlay(): Promise<string | null>
}

/** The way of a machine that joined: to each controller that ever announced itself. A plain connection is only for those on this very machine. */
export function joinedWay(layout: Layout, joined: JoinedHost): LocalWay {
  const plain = joined.controllers.every(address => address.startsWith('ws:'))
  const wayTo = (address: string): Way | undefined =>
    address.startsWith('wss:') || plain ? wayOf(address, { host: joined.host, secret: joined.secret, ca: joined.ca }) : undefined
  return {
    name: joined.host,
    dial: {
      ways: joined.controllers.flatMap(address => wayTo(address) ?? []),
      way: wayTo,
      onControllers(addresses) {
        const known = addresses.filter(address => address.startsWith('wss:') || plain)
        if (known.length > 0 && known.join() !== joined.controllers.join()) {
          joined.controllers = known
          joinedWrite(layout, joined)
        }
      },
    },
    overlay: () => addressTowards(new URL(joined.url).hostname),
  }
}

/** The way of this machine's agent: over the unix socket to its own controller, and to the others as they announce themselves. */
export function localWay(
  { socket, host, secret }: { socket: string; host: string; secret: string },
  own: string,
  at: { loopback: boolean; host: string; ca?: string },
): LocalWay {
  return {
    name: host,
    dial: {
      ways: [unixWay(socket, { host, secret })],
      // Twice to one controller would be a fight over which of the two is the host's.
      way: address => (address === own ? undefined : wayOf(address, { host, secret, ca: at.ca })),
    },
    overlay: async () => {
      if (at.loopback) return null
      return at.host === '0.0.0.0' || at.host === '::' ? addressTowards(SOMEWHERE) : at.host
    },
  }
}

/** An address outside, never reached (RFC 5737): the way to it is the machine's default route. */
const SOMEWHERE = '192.0.2.1'
