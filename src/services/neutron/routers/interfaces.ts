// A router's legs on its project's subnets: added and taken away by subnet or by port.
import type { Context } from '#kit/context.ts'
import { sql, type Tx } from '#kit/db/index.ts'
import { badRequest, conflict, notFound } from '#kit/fault.ts'
import { type Call, route } from '#kit/http/route.ts'
import type { Env } from '#kit/service.ts'
import { uuidClean } from '../api/attributes.ts'
import { mayDo, targetOf } from '../api/authorize.ts'
import { rowById } from '../api/read.ts'
import type { Row } from '../api/resource.ts'
import { lockedRow, touch } from '../api/write.ts'
import { changed } from '../hosts/changed.ts'
import { networkFacts } from '../networks/facts.ts'
import { takeWanted } from '../ports/allocate.ts'
import { ports } from '../ports/ports.ts'
import { portFixedIps, portMake, portRemove } from '../ports/store.ts'
import { subnets } from '../subnets/subnets.ts'
import type { HostRoute } from '../tables.ts'
import { routers } from './routers.ts'
import { INTERFACE, type Leg, legFits, legsOf, routerEnsure, routesNeed } from './store.ts'

const bad = (why: string) => badRequest(why, { type: 'BadRequest' })

/** A subnet or a port. */
export interface Asked {
  subnetId?: string
  portId?: string
}

function askedOf(call: Call): Asked {
  const body = (call.body ?? {}) as Row
  const asked: Asked = {}
  if (body.subnet_id !== undefined && body.subnet_id !== null) asked.subnetId = uuidClean(body.subnet_id, 'subnet_id')
  if (body.port_id !== undefined && body.port_id !== null) asked.portId = uuidClean(body.port_id, 'port_id')
  if (asked.subnetId === undefined && asked.portId === undefined) throw bad('Either subnet_id or port_id must be specified')
  return asked
}

const answer = (router: Row, port: { id: string; networkId: string }, subnetIds: string[]): Row => ({
  id: router.id,
  tenant_id: router.project_id,
  project_id: router.project_id,
  port_id: port.id,
  network_id: port.networkId,
  subnet_id: subnetIds[0],
  subnet_ids: subnetIds,
})

async function byPort(_env: Env, tx: Tx, ctx: Context, router: Row, legs: Leg[], portId: string): Promise<Row> {
  const port = await rowById(ports, tx, ctx, portId)
  if (port.device_id !== '' || (port.device_owner as string) !== '') {
    const why = `Port already has an attached device ${String(port.device_id)}.`
    throw conflict(`Unable to complete operation on port ${portId} for network ${String(port.network_id)}. ${why}`, {
      type: 'PortInUse',
    })
  }
  const fixed = await portFixedIps(tx, portId)
  if (fixed.length === 0) throw bad('Router port must have at least one fixed IP')
  const rows = await tx
    .selectFrom('neutron.subnets')
    .select(['id', 'cidr', 'ip_version'])
    .where(
      'id',
      'in',
      fixed.map(ip => ip.subnet_id),
    )
    .execute()
  if (rows.filter(row => row.ip_version === 4).length > 1) throw bad('Cannot have multiple IPv4 subnets on router port')
  for (const row of rows) legFits(router.id as string, legs, row)
  await tx.deleteFrom('neutron.port_security_groups').where('port_id', '=', portId).execute()
  await tx
    .updateTable('neutron.ports')
    .set({
      device_id: router.id as string,
      device_owner: INTERFACE,
      name: port.name as string,
      port_security_enabled: false,
      revision_number: sql`revision_number + 1`,
      updated_at: sql`now()`,
    })
    .where('id', '=', portId)
    .execute()
  return answer(
    router,
    { id: portId, networkId: port.network_id as string },
    fixed.map(ip => ip.subnet_id),
  )
}

async function bySubnet(env: Env, tx: Tx, ctx: Context, router: Row, legs: Leg[], subnetId: string): Promise<Row> {
  const subnet = await rowById(subnets, tx, ctx, subnetId)
  const gateway = (subnet.gateway_ip as string | null)?.replace(/\/\d+$/, '')
  if (!gateway) throw bad('Subnet for router interface must have a gateway IP')
  if (subnet.ip_version === 6 && subnet.ipv6_ra_mode === null && subnet.ipv6_address_mode !== null) {
    throw bad(`IPv6 subnet ${subnetId} configured to receive RAs from an external router cannot be added to Neutron Router.`)
  }
  legFits(router.id as string, legs, { id: subnetId, cidr: subnet.cidr as string })
  const facts = await networkFacts(tx, subnet.network_id as string, null)
  const wanted = { subnet_id: subnetId, ip_address: gateway }
  // IPv6 subnets of one network share a leg.
  const sibling =
    subnet.ip_version === 6
      ? legs.find(leg => leg.network_id === facts.id && leg.owner === INTERFACE && leg.cidr.includes(':'))
      : undefined
  if (sibling) {
    const place = legs.filter(leg => leg.port_id === sibling.port_id).length
    const taking = { networkId: facts.id, portId: sibling.port_id, mac: '', deviceOwner: INTERFACE }
    await takeWanted(tx, taking, facts.subnets, [wanted], place)
    await touch(tx, 'neutron.ports', [sibling.port_id])
    return answer(router, { id: sibling.port_id, networkId: facts.id }, [subnetId])
  }
  const made = await portMake(
    env,
    tx,
    {
      projectId: router.project_id as string,
      networkId: facts.id,
      deviceId: router.id as string,
      deviceOwner: INTERFACE,
      fixedIps: [wanted],
    },
    facts,
  )
  return answer(router, { id: made.id, networkId: facts.id }, [subnetId])
}

/** Gives a locked router a leg. */
export async function interfaceAdd(env: Env, tx: Tx, ctx: Context, router: Row, asked: Asked): Promise<Row> {
  const id = router.id as string
  const legs = await legsOf(tx, id)
  const made =
    asked.portId !== undefined
      ? await byPort(env, tx, ctx, router, legs, asked.portId)
      : await bySubnet(env, tx, ctx, router, legs, asked.subnetId!)
  await routerEnsure(env, tx, id)
  await touch(tx, 'neutron.routers', [id])
  changed(env, tx, { networks: [made.network_id as string], wholes: [made.network_id as string], routers: [id] })
  return made
}

const add = route({
  method: 'PUT',
  path: '/routers/:id/add_router_interface',
  policy: null,
  async handle(call) {
    const { env, ctx } = call
    const asked = askedOf(call)
    if (asked.subnetId !== undefined && asked.portId !== undefined) throw bad('Cannot specify both subnet-id and port-id')
    return env.db.tx(async tx => {
      const router = await lockedRow(routers, tx, call, call.params.id!)
      mayDo(ctx, routers, targetOf(routers, router), 'add_router_interface')
      return interfaceAdd(env, tx, ctx, router, asked)
    })
  },
})

const noLeg = (routerId: string, portId: string) =>
  notFound(`Router ${routerId} does not have an interface with id ${portId}`, { type: 'RouterInterfaceNotFound' })

/** The leg's port and the subnets that go. */
function legOf(
  router: Row,
  legs: Leg[],
  asked: Asked,
): { portId: string; networkId: string; subnetIds: string[]; whole: boolean } {
  const own = legs.filter(leg => leg.owner === INTERFACE)
  const routerId = router.id as string
  if (asked.portId !== undefined) {
    const mine = own.filter(leg => leg.port_id === asked.portId)
    if (mine.length === 0) throw noLeg(routerId, asked.portId)
    if (asked.subnetId !== undefined && !mine.some(leg => leg.subnet_id === asked.subnetId)) {
      throw conflict(`Subnet on port ${asked.portId} does not match the requested subnet ${asked.subnetId}.`, {
        type: 'SubnetMismatchForPort',
      })
    }
    return { portId: asked.portId, networkId: mine[0]!.network_id, subnetIds: mine.map(leg => leg.subnet_id), whole: true }
  }
  const leg = own.find(one => one.subnet_id === asked.subnetId)
  if (!leg) {
    throw notFound(`Router ${routerId} has no interface on subnet ${asked.subnetId}`, {
      type: 'RouterInterfaceNotFoundForSubnet',
    })
  }
  const whole = own.filter(one => one.port_id === leg.port_id).length === 1
  return { portId: leg.port_id, networkId: leg.network_id, subnetIds: [leg.subnet_id], whole }
}

/** Throws RouterInterfaceInUseByFloatingIP (409) while a floating IP leads to an address of the subnet. */
async function floatingNeed(tx: Tx, routerId: string, subnetId: string): Promise<void> {
  const { rows } = await sql`
    select from neutron.floating_ips f join neutron.ip_allocations a on a.port_id = f.port_id and a.ip = f.fixed_ip_address
    where f.router_id = ${routerId} and a.subnet_id = ${subnetId}
    union all
    select from neutron.port_forwardings w join neutron.floating_ips f on f.id = w.floatingip_id
    join neutron.ip_allocations a on a.port_id = w.internal_port_id and a.ip = w.internal_ip_address
    where f.router_id = ${routerId} and a.subnet_id = ${subnetId} limit 1`.execute(tx)
  if (rows.length === 0) return
  const why = `Router interface for subnet ${subnetId} on router ${routerId} cannot be deleted, as it is required by one or more floating IPs.`
  throw conflict(why, { type: 'RouterInterfaceInUseByFloatingIP' })
}

/** Takes a leg from a locked router. */
export async function interfaceRemove(env: Env, tx: Tx, ctx: Context, router: Row, asked: Asked): Promise<Row> {
  const routerId = router.id as string
  if (asked.subnetId !== undefined && asked.portId === undefined) await rowById(subnets, tx, ctx, asked.subnetId)
  const legs = await legsOf(tx, routerId)
  const leg = legOf(router, legs, asked)
  for (const id of leg.subnetIds) {
    routesNeed(routerId, router.routes as HostRoute[], { id, cidr: legs.find(one => one.subnet_id === id)!.cidr })
    await floatingNeed(tx, routerId, id)
  }
  if (leg.whole) await portRemove(env, tx, leg.portId)
  else {
    await tx
      .deleteFrom('neutron.ip_allocations')
      .where('port_id', '=', leg.portId)
      .where('subnet_id', 'in', leg.subnetIds)
      .execute()
    await touch(tx, 'neutron.ports', [leg.portId])
  }
  await touch(tx, 'neutron.routers', [routerId])
  changed(env, tx, { networks: [leg.networkId], wholes: [leg.networkId], routers: [routerId] })
  return answer(router, { id: leg.portId, networkId: leg.networkId }, leg.subnetIds)
}

const remove = route({
  method: 'PUT',
  path: '/routers/:id/remove_router_interface',
  policy: null,
  async handle(call) {
    const { env, ctx } = call
    const asked = askedOf(call)
    return env.db.tx(async tx => {
      const router = await lockedRow(routers, tx, call, call.params.id!)
      mayDo(ctx, routers, targetOf(routers, router), 'remove_router_interface')
      return interfaceRemove(env, tx, ctx, router, asked)
    })
  },
})

export const interfaceRoutes = [add, remove]
