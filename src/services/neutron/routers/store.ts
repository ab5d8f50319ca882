// Routers: their legs, placement and routes, inside the caller's transaction.
import { json, type Query, sql, type Tx } from '#kit/db/index.ts'
import { badRequest, conflict } from '#kit/fault.ts'
import type { Env } from '#kit/service.ts'
import { contains, overlap, parseAddress, parsePrefix } from '../address.ts'
import { gone, invalid } from '../faults.ts'
import { changed } from '../hosts/changed.ts'
import { hostsFor } from '../hosts/pick.ts'

import type { HostRoute } from '../tables.ts'

export const GATEWAY = 'network:router_gateway'
export const INTERFACE = 'network:router_interface'

/** One address of a router on one subnet. */
export interface Leg {
  port_id: string
  network_id: string
  subnet_id: string
  ip: string
  cidr: string
  owner: string
}

/** Every address of a router, its gateway's included, in order of age. */
export async function legsOf(db: Query, routerId: string): Promise<Leg[]> {
  const { rows } = await sql<Leg>`
    select p.id as port_id, p.network_id, a.subnet_id, host(a.ip) as ip, s.cidr::text as cidr, p.device_owner as owner
    from neutron.ports p join neutron.ip_allocations a on a.port_id = p.id join neutron.subnets s on s.id = a.subnet_id
    where p.device_id = ${routerId} and p.device_owner like 'network:router%' order by p.created_at, p.id, a.place`.execute(db)
  return rows
}

/** Locks a router: who changes its legs, routes or gateway looks one after the other. Throws RouterNotFound. */
export async function routerLock(tx: Tx, id: string) {
  const row = await tx.selectFrom('neutron.routers').selectAll().where('id', '=', id).forNoKeyUpdate().executeTakeFirst()
  if (!row) throw gone.router(id)
  return row
}

/**
 * Places a router on a host, if it has a leg and no host has it yet, and binds its legs there. Where no host can take it, the task
 * `neutron.schedule` does when one comes.
 */
export async function routerEnsure(env: Env, tx: Tx, routerId: string): Promise<void> {
  const bound = await tx.selectFrom('neutron.router_bindings').select('host').where('router_id', '=', routerId).executeTakeFirst()
  const router = await tx
    .selectFrom('neutron.routers')
    .select('availability_zone_hints')
    .where('id', '=', routerId)
    .executeTakeFirst()
  const [host] = bound ? [bound.host] : await hostsFor(tx, 'L3 agent', 1, router?.availability_zone_hints ?? [])
  if (host === undefined) return
  if (!bound) await tx.insertInto('neutron.router_bindings').values({ router_id: routerId, host }).execute()
  await legsBind(tx, routerId, host)
  changed(env, tx, { hosts: [host], routers: [routerId] })
}

/** Binds a router's legs to the host that runs it; '' takes them from where they are. */
export async function legsBind(tx: Tx, routerId: string, host: string): Promise<void> {
  await tx
    .updateTable('neutron.ports')
    .set({
      host,
      vif_type: host === '' ? 'unbound' : 'bridge',
      vif_details: host === '' ? json({}) : json({ connectivity: 'l2', port_filter: true }),
      status: 'DOWN',
    })
    .where('device_id', '=', routerId)
    .where('device_owner', 'like', 'network:router%')
    .where('host', '!=', host)
    .execute()
}

/** Throws InvalidRoutes where a next hop is not a neighbour, or is the router itself. */
export function routesFit(routes: readonly HostRoute[], legs: readonly Leg[]): void {
  for (const { nexthop } of routes) {
    const hop = parseAddress(nexthop)!
    const bad = (why: string) => invalid('InvalidRoutes', `Invalid format for routes: ${JSON.stringify(routes)}, ${why}`)
    if (!legs.some(leg => contains(parsePrefix(leg.cidr)!, hop))) throw bad('the nexthop is not connected with router')
    if (legs.some(leg => leg.ip === nexthop)) throw bad('the nexthop is used by router')
  }
}

/** Throws RouterInterfaceInUseByRoute (409) where an extra route goes through this subnet. */
export function routesNeed(routerId: string, routes: readonly HostRoute[], subnet: { id: string; cidr: string }): void {
  const prefix = parsePrefix(subnet.cidr)!
  if (!routes.some(({ nexthop }) => contains(prefix, parseAddress(nexthop)!))) return
  const why = `Router interface for subnet ${subnet.id} on router ${routerId} cannot be deleted, as it is required by one or more routes.`
  throw conflict(why, { type: 'RouterInterfaceInUseByRoute' })
}

/** Throws where a new leg's subnet is on the router already, or overlaps with one that is. */
export function legFits(_routerId: string, legs: readonly Leg[], subnet: { id: string; cidr: string }): void {
  if (legs.some(leg => leg.subnet_id === subnet.id)) {
    throw badRequest(`Router already has a port on subnet ${subnet.id}`, { type: 'BadRequest' })
  }
  const prefix = parsePrefix(subnet.cidr)!
  const other = legs.find(leg => overlap(parsePrefix(leg.cidr)!, prefix))
  if (!other) return
  const why = `Cidr ${subnet.cidr} of subnet ${subnet.id} overlaps with cidr ${other.cidr} of subnet ${other.subnet_id}`
  throw badRequest(why, { type: 'BadRequest' })
}
