/** Addresses of controllers, as agents are told them. */
import type { Way } from './agent.ts'
import type { Claim } from './identity.ts'
import { unixWay } from './unix.ts'
import { webSocketWay } from './websocket.ts'

/** The way that an address means: `unix:/run/nubo/agent.sock` or `wss://controller:5000/agent`. Throws Error for any other. */
export function wayOf(address: string, claim: Claim & { ca?: string }): Way {
  if (address.startsWith('unix:')) return unixWay(address.slice('unix:'.length), { host: claim.host, secret: claim.secret })
  return webSocketWay(address, claim)
}
