// What a driver says after a pass over a desired state. Pure.
import type { DesiredNetwork, DesiredPort, NetDesired, NetError, NetReport } from './desired.ts'

export type PortStatus = NetReport['ports'][number]['status']

/** What a finished pass says of every object. */
export function reportOf(desired: NetDesired, statuses: ReadonlyMap<string, PortStatus>, errors: NetError[]): NetReport {
  const failed = (kind: NetError['kind'], id: string) => errors.some(error => error.kind === kind && error.id === id)
  const routerOf = new Map(
    desired.routers.flatMap(r => [...r.interfaces, ...(r.gateway ? [r.gateway] : [])].map(leg => [leg.portId, r.id] as const)),
  )
  const legStatus = (port: DesiredPort): PortStatus => {
    if (!port.adminStateUp || failed('network', port.networkId)) return 'DOWN'
    const router = routerOf.get(port.id)
    if (router !== undefined) return failed('router', router) ? 'DOWN' : 'ACTIVE'
    const serves = desired.networks.some((network: DesiredNetwork) => network.dhcp?.portId === port.id)
    return serves && !failed('dhcp', port.networkId) ? 'ACTIVE' : 'DOWN'
  }
  return {
    revision: desired.revision,
    full: true,
    ports: desired.ports.map(port => ({ id: port.id, status: statuses.get(port.id) ?? legStatus(port) })),
    routers: desired.routers.map(({ id }) => ({ id, status: failed('router', id) ? 'ERROR' : 'ACTIVE' })),
    floatingIps: desired.routers.flatMap(router =>
      router.floatingIps.map(({ id }) => ({
        id,
        status: failed('router', router.id) ? ('ERROR' as const) : ('ACTIVE' as const),
      })),
    ),
    dhcp: desired.networks
      .filter(network => network.dhcp !== null)
      .map(({ id }) => ({ networkId: id, status: failed('dhcp', id) ? ('ERROR' as const) : ('ACTIVE' as const) })),
    errors,
  }
}
