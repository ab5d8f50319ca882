import { randomUUID } from 'node:crypto'
import { json, sql } from '#kit/db/index.ts'
import { badRequest } from '#kit/fault.ts'
import { type Call, route } from '#kit/http/route.ts'
import * as S from '#kit/http/schema.ts'
import { bool, document, idField, nullableUuid, project, shown, standard, text, texts } from '../api/attributes.ts'
import { mayDo, targetOf, visibleView } from '../api/authorize.ts'
import { rowById } from '../api/read.ts'
import { type Changing, type Making, type Removing, type Row, resource } from '../api/resource.ts'
import { bodyUnder, insertRow, lockedRow, updateRow } from '../api/write.ts'
import { gone, inUse, invalidInput, told } from '../faults.ts'
import { changed } from '../hosts/changed.ts'
import { portRemove } from '../ports/store.ts'
import { neutronSettings } from '../settings.ts'
import { routesCheck } from '../subnets/check.ts'
import type { HostRoute } from '../tables.ts'
import { GATEWAY_INFO, type GatewayGiven, gatewayClean, gatewaySet } from './gateway.ts'
import { legsOf, routerEnsure, routesFit } from './store.ts'

/** Routers. */
export const routers = resource({
  name: 'router',
  plural: 'routers',
  path: '/routers',
  table: 'neutron.routers',
  gone: gone.router,
  quota: 'router',
  attributes: {
    id: idField,
    name: text(''),
    ...project,
    admin_state_up: bool(true),
    status: shown(S.String()),
    external_gateway_info: {
      schema: S.Unknown(),
      column: null,
      initial: null,
      clean: value => gatewayClean(value),
      read: (_, row) => row.gateway,
    },
    ...standard,
    availability_zone_hints: texts({ update: false }),
    availability_zones: shown(S.Array(S.String()), { column: null, read: (_, row) => row.zones }),
    routes: document(S.Unknown(), { create: 'never', clean: value => value ?? [] }),
    distributed: bool(undefined),
    ha: bool(undefined),
    flavor_id: nullableUuid({ update: false }),
    enable_default_route_ecmp: bool(false),
    enable_default_route_bfd: bool(false),
    conntrack_helpers: shown(S.Array(S.Unknown()), { column: null, read: (_, row) => row.helpers }),
  },
  columns: () => [
    GATEWAY_INFO.as('gateway'),
    sql<
      Row[]
    >`coalesce((select jsonb_agg(jsonb_build_object('protocol', c.protocol, 'port', c.port, 'helper', c.helper) order by c.id)
      from neutron.conntrack_helpers c where c.router_id = neutron.routers.id), '[]')`.as('helpers'),
    sql<
      string[]
    >`array(select distinct a.availability_zone from neutron.router_bindings b join neutron.agents a on a.host = b.host
      and a.agent_type = 'L3 agent' where b.router_id = neutron.routers.id and a.availability_zone is not null)`.as('zones'),
  ],
  create: routerMake,
  update: routerChange,
  remove: routerRemove,
})

/** Throws for what no host here can do. */
function possible(given: Row): void {
  if (given.enable_default_route_bfd === true) {
    throw badRequest('Bidirectional forwarding detection is not available.', { type: 'HTTPBadRequest' })
  }
}

async function routerMake({ env, tx, ctx, given }: Making): Promise<string> {
  const id = randomUUID()
  possible(given)
  if (given.flavor_id) {
    const flavor = await tx
      .selectFrom('neutron.flavors')
      .select(['enabled', 'service_type'])
      .where('id', '=', given.flavor_id as string)
      .executeTakeFirst()
    if (!flavor) throw badRequest(`Flavor ${told(given.flavor_id)} could not be found.`, { type: 'FlavorNotFound', status: 404 })
    if (!flavor.enabled) throw badRequest('Flavor is not enabled.', { type: 'FlavorDisabled' })
    if (flavor.service_type !== 'L3_ROUTER_NAT')
      throw badRequest(`Invalid Service Type ${flavor.service_type}.`, { type: 'InvalidServiceType' })
  }
  await insertRow(routers, tx, given, { id })
  if (given.external_gateway_info) {
    const columns = await gatewaySet(env, tx, ctx, id, given.external_gateway_info as GatewayGiven)
    await updateRow({ ...routers, standard: false }, tx, id, {}, columns)
    await routerEnsure(env, tx, id)
  }
  return id
}

async function routerChange({ env, tx, ctx, row, changes }: Changing): Promise<void> {
  const id = row.id as string
  possible(changes)
  downFirst(row, changes)
  let columns: Row = {}
  if ('external_gateway_info' in changes) {
    columns = await gatewaySet(env, tx, ctx, id, changes.external_gateway_info as GatewayGiven | null)
    await routerEnsure(env, tx, id)
  }
  const values = { ...changes }
  if ('routes' in changes) {
    values.routes = routesRead(changes.routes, env.config.of(neutronSettings).max_routes, id)
    routesFit(values.routes as HostRoute[], await legsOf(tx, id))
  }
  await updateRow(routers, tx, id, values, columns)
  changed(env, tx, { routers: [id] })
}

/** What a router is made of changes only while it is down. */
function downFirst(row: Row, changes: Row): void {
  const up = (changes.admin_state_up ?? row.admin_state_up) === true
  for (const flag of ['distributed', 'ha']) {
    if (!up || !(flag in changes) || changes[flag] === row[flag]) continue
    throw badRequest(`Cannot change ${flag} of an active router. Please set router admin_state_up to False prior to upgrade.`, {
      type: 'BadRequest',
    })
  }
}

function routesRead(given: unknown, max: number, id: string): HostRoute[] {
  if (Array.isArray(given) && given.length > max) {
    throw badRequest(`Unable to complete operation for ${id}. The number of routes exceeds the maximum ${max}.`, {
      type: 'RoutesExhausted',
    })
  }
  return routesCheck(given, max, 'routes')
}

async function routerRemove({ env, tx, row }: Removing): Promise<void> {
  const id = row.id as string
  const legs = await tx
    .selectFrom('neutron.ports')
    .select(['id', 'device_owner'])
    .where('device_id', '=', id)
    .where('device_owner', 'like', 'network:router%')
    .execute()
  if (legs.some(leg => leg.device_owner !== 'network:router_gateway')) throw inUse('RouterInUse', `Router ${id} still has ports`)
  const floating = await tx
    .selectFrom('neutron.floating_ips')
    .select('id')
    .where('router_id', '=', id)
    .limit(1)
    .executeTakeFirst()
  if (floating) throw inUse('RouterInUse', `Router ${id} still has floating IPs`)
  const hosts = await tx.selectFrom('neutron.router_bindings').select('host').where('router_id', '=', id).execute()
  for (const leg of legs) await portRemove(env, tx, leg.id)
  await tx.deleteFrom('neutron.routers').where('id', '=', id).execute()
  changed(env, tx, { hosts: hosts.map(({ host }) => host) })
}

const same = (a: HostRoute, b: HostRoute): boolean => a.destination === b.destination && a.nexthop === b.nexthop

/** Changes the extra routes atomically: what others add at the same time stays. */
async function routesChange(
  call: Call,
  rule: string,
  change: (before: HostRoute[], given: HostRoute[]) => HostRoute[],
): Promise<Row> {
  const body = bodyUnder(call, 'router')
  if (!('routes' in body)) throw invalidInput('routes', 'routes is required')
  const max = call.env.config.of(neutronSettings).max_routes
  return call.env.db.tx(async tx => {
    const row = await lockedRow(routers, tx, call, call.params.id!)
    mayDo(call.ctx, routers, targetOf(routers, row), rule)
    const id = row.id as string
    const after = change(row.routes as HostRoute[], routesRead(body.routes, max, id))
    if (after.length > max) routesRead(after, max, id)
    routesFit(after, await legsOf(tx, id))
    await updateRow(routers, tx, id, {}, { routes: json(after) })
    changed(call.env, tx, { routers: [id] })
    return rowById(routers, tx, call.ctx, id)
  })
}

const routesRoute = (
  verb: 'add_extraroutes' | 'remove_extraroutes',
  change: (before: HostRoute[], given: HostRoute[]) => HostRoute[],
) =>
  route({
    method: 'PUT',
    path: `/routers/:id/${verb}`,
    policy: null,
    handle: async call => ({ router: visibleView(call.ctx, routers, await routesChange(call, verb, change)) }),
  })

export const extraRoutes = [
  routesRoute('add_extraroutes', (before, given) => [...before, ...given.filter(one => !before.some(other => same(one, other)))]),
  routesRoute('remove_extraroutes', (before, given) => before.filter(one => !given.some(other => same(one, other)))),
]
