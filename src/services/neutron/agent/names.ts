// Names on the host, derived from ids, so that whoever finds one can tell whose it is. The same as operators know from Linux bridge set-ups:
// interface names hold 15 characters, so they carry the first eleven of the id.
import type { DesiredNetwork } from './desired.ts'

const short = (id: string) => id.slice(0, 11)

/** The guest's tap, and the host's end of the pair to a DHCP server or router. */
export const tapName = (portId: string): string => `tap${short(portId)}`
/** The link that a guest's packets wait in, where what it sends is limited. */
export const limitLink = (tap: string): string => `ifb${tap.slice(3)}`
/** The bridge of a network. */
export const bridgeName = (networkId: string): string => `brq${short(networkId)}`
export const vxlanName = (vni: number): string => `vxlan-${vni}`
export const vlanName = (parent: string, tag: number): string => `${parent}.${tag}`
/** Inner ends: of a DHCP server, of a router's leg, of a router's gateway. */
export const dhcpLink = (portId: string): string => `ns-${short(portId)}`
export const routerLink = (portId: string): string => `qr-${short(portId)}`
export const gatewayLink = (portId: string): string => `qg-${short(portId)}`

export const TAP = /^tap[0-9a-f]{8}-[0-9a-f]{2}$/
export const LIMIT = /^ifb[0-9a-f]{8}-[0-9a-f]{2}$/
export const BRIDGE = /^brq[0-9a-f]{8}-[0-9a-f]{2}$/
export const VXLAN = /^vxlan-\d+$/

/** The name of our nftables tables, in whatever family and namespace. */
export const TABLE = 'nubo'

/** Namespaces. The prefix is '' but where several agents share one machine (tests). */
export const dhcpNetns = (prefix: string, networkId: string): string => `${prefix}qdhcp-${networkId}`
export const routerNetns = (prefix: string, routerId: string): string => `${prefix}qrouter-${routerId}`

/** Whether a network has a bridge of its own (and with it a connection tracking zone), and does not use one that the host has. */
export const hasOwnBridge = (network: DesiredNetwork, bridged: ReadonlySet<string>): boolean =>
  network.type !== 'flat' || network.physicalNetwork === null || !bridged.has(network.physicalNetwork)
