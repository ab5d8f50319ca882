// What one host's network driver is told once.
import type { RunPlace } from '#host/run.ts'
import type { Bandwidth } from '../desired.ts'
import type { MetadataSource } from '../driver.ts'

/** What a physical network is on this host. */
export type Physical =
  /** A bridge of our own, whose gateway address the host holds and behind which everything leaves under the host's address. */
  | { kind: 'own'; bridge: string }
  /** A bridge that the operator made. */
  | { kind: 'bridge'; bridge: string }
  /** A spare interface. */
  | { kind: 'interface'; interface: string }

export interface NetConfig {
  /** Folder for the files of DHCP servers and routers; best on a tmpfs, since it lives as long as the namespaces do. */
  stateDir: string
  /** Address of this host's tunnel end; null: no vxlan across hosts. */
  overlayAddress: string | null
  vxlanPort?: number
  physicalNetworks: Record<string, Physical>
  bandwidths?: Record<string, Bandwidth>
  /** Seconds. */
  leaseTime?: number
  metadata?: MetadataSource
  /** The namespace that is this host's root (tests run several hosts on one machine), and what its inner namespaces' names begin with. */
  place?: RunPlace
  prefix?: string
  log?: { debug(fields: object, message: string): void; warn(fields: object, message: string): void }
}

/** Parses 'public:br-ex' (a bridge of our own), 'physnet1:=br0' (an existing bridge), 'physnet2:@eth1' (an interface). Throws Error. */
export function physicalOf(text: string): [string, Physical] {
  const found = /^([^:\s]+):([=@]?)([\w.-]{1,15})$/.exec(text)
  if (!found)
    throw new Error(`physical network '${text}': give NAME:BRIDGE (made by Nubo), NAME:=BRIDGE (existing) or NAME:@INTERFACE`)
  const [, name = '', sign, device = ''] = found
  if (sign === '@') return [name, { kind: 'interface', interface: device }]
  return [name, { kind: sign === '=' ? 'bridge' : 'own', bridge: device }]
}

/** Parses 'public:10000000:5000000': what leaves and what comes in, in kbit/s. Throws Error. */
export function bandwidthOf(text: string): [string, Bandwidth] {
  const [, name, egress, ingress] = /^([^:\s]+):(\d{1,9}):(\d{1,9})$/.exec(text) ?? []
  if (!name) throw new Error(`bandwidth '${text}': give NAME:EGRESS:INGRESS, in kbit/s`)
  return [name, { egress: Number(egress), ingress: Number(ingress) }]
}
