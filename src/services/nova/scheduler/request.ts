/** What the scheduler is asked. */

import type { Aggregate, Hypervisor } from '../hosts/store.ts'
import type { PortRequest, Resources } from '../neighbours.ts'
import type { FlavorKept, ImageKept } from '../tables.ts'

export interface ScheduleRequest {
  serverId: string
  projectId: string
  flavor: FlavorKept
  image: ImageKept | null
  resources: Resources
  /** What its ports ask of parts of the host. */
  portRequests: readonly PortRequest[]
  /** The zone the server must be in; null: any. */
  zone: string | null
  hints: Record<string, unknown>
  group: { policy: string; rules: Record<string, number>; hosts: string[] } | null
  /** Hosts of the servers that the hints same_host and different_host name. */
  sameHosts: string[] | null
  differentHosts: string[] | null
  /** The administrator says where: nothing else is asked. */
  forcedHost: string | null
  forcedNode: string | null
  /** The administrator says where: filters are asked all the same. */
  requestedHost: string | null
  requestedNode: string | null
  /** Hosts that failed already. */
  excluded: string[]
}

/** A host as filters and weighers see it. */
export interface HostState {
  id: string
  host: string
  node: string
  zone: string
  up: boolean
  disabled: boolean
  disabledReason: string | null
  hypervisor: Hypervisor
  aggregates: Aggregate[]
  free: Resources
  /** Servers on the host, and those that are being built or moved there. */
  servers: number
  busy: number
}

/** What the scheduler answers. */
export interface Placed {
  host: string
  node: string
  zone: string
}
