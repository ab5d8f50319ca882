// The filters of a host: makes the two tables so, then cuts the connections under way that they would not let begin any more.
import { connectionDelete, connectionDeleteAll, connectionListAll } from '#host/net/conntrack.ts'
import { type NftActual, nftDiff, nftOnce, nftRead } from '#host/net/nft.ts'
import { run } from '#host/run.ts'
import type { DesiredNetwork, NetDesired } from '../desired.ts'
import { bridgeName, hasOwnBridge, TABLE } from '../names.ts'
import { filterOf, forbidden } from '../security/allows.ts'
import { type Surroundings, securityTables } from '../security/tables.ts'
import type { NetConfig } from './config.ts'

/** Beyond this many, a guest's connections are cut by its address in one go: those still allowed go on as new ones. */
const SINGLY = 32

/** What of this host's configuration the filters depend on. */
export function surroundings(networks: readonly DesiredNetwork[], config: NetConfig): Surroundings {
  const physical = Object.entries(config.physicalNetworks)
  const outside = new Map<string, string[]>()
  for (const network of networks) {
    const what = network.type === 'flat' ? config.physicalNetworks[network.physicalNetwork ?? ''] : undefined
    if (what?.kind !== 'own') continue
    const prefixes = network.subnets.filter(subnet => subnet.gatewayIp !== null).map(subnet => subnet.cidr)
    outside.set(what.bridge, [...(outside.get(what.bridge) ?? []), ...prefixes])
  }
  return {
    bridged: new Set(physical.filter(([, p]) => p.kind !== 'interface').map(([name]) => name)),
    outside: [...outside].map(([bridge, prefixes]) => ({ bridge, prefixes })),
  }
}

/** What is in force. */
export interface Filters {
  bridge: NftActual | null
  inet: NftActual | null
}

/** The filters as they are. */
export async function securityRead(config: NetConfig): Promise<Filters> {
  const place = config.place ?? {}
  const [bridge, inet] = await Promise.all([nftRead(place, 'bridge', TABLE), nftRead(place, 'inet', TABLE)])
  return { bridge, inet }
}

/**
 * Puts the filters of a desired state in force, all of them at one instant, and gives them. `actual` are those in force now; `thorough` looks
 * for connections to cut even where no filter changed.
 * @throws RunError: then the old ones are in force still.
 */
export async function securityEnsure(
  desired: NetDesired,
  config: NetConfig,
  actual: Filters,
  thorough = false,
): Promise<Filters> {
  const place = config.place ?? {}
  const { bridge, inet } = actual
  const around = surroundings(desired.networks, config)
  const tables = securityTables(desired, around, { bridge, inet })
  const script = nftDiff(tables.bridge, bridge) + nftDiff(tables.inet, inet)
  if (script !== '') await run(['nft', '-f', '-'], { ...place, input: script })
  // Only less can forbid what was allowed: something taken out of a set or a chain. A thorough pass looks anyway: the last one may have been
  // killed between the filters and the connections.
  if (inet !== null && (thorough || /^(delete|flush) /m.test(script)))
    await cut(desired, tables.inet.sets.get('zones')?.elements ?? new Map(), around, config)
  return { bridge: nftOnce(tables.bridge), inet: nftOnce(tables.inet) }
}

async function cut(
  desired: NetDesired,
  zones: ReadonlyMap<string, string>,
  around: Surroundings,
  config: NetConfig,
): Promise<void> {
  const place = config.place ?? {}
  const all = await connectionListAll(place)
  if (all.length === 0) return
  const filter = filterOf(desired)
  for (const network of desired.networks) {
    const zone = hasOwnBridge(network, around.bridged) ? Number(zones.get(bridgeName(network.id))) : 0
    const ports = desired.ports.filter(port => port.networkId === network.id)
    const bad = forbidden(
      all.filter(connection => connection.zone === zone),
      ports,
      filter,
    )
    if (bad.length <= SINGLY) for (const connection of bad) await connectionDelete(place, connection)
    else {
      const own = new Set(ports.flatMap(port => port.fixedIps.map(one => one.ip)))
      const ips = new Set(bad.flatMap(one => [one.source, one.destination]).filter(ip => own.has(ip)))
      for (const ip of ips) await connectionDeleteAll(place, zone, ip)
    }
  }
}
