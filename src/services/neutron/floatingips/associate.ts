// To which fixed address a floating IP leads, and through which router.
import type { Context } from '#kit/context.ts'
import { sql, type Tx } from '#kit/db/index.ts'
import { badRequest, conflict, notFound } from '#kit/fault.ts'
import { rowById } from '../api/read.ts'
import type { Row } from '../api/resource.ts'
import type { FixedIp } from '../ports/allocate.ts'
import { ports } from '../ports/ports.ts'

const bad = (why: string) => badRequest(why, { type: 'BadRequest' })

export interface Associated {
  port_id: string
  fixed_ip_address: string
  router_id: string
}

export interface Floating {
  id: string
  projectId: string
  networkId: string
  address: string
}

/** Finds what a floating IP is to lead to. The port is locked, so its addresses stay. Throws what each mistake is called. */
export async function association(
  tx: Tx,
  ctx: Context,
  floating: Floating,
  portId: string,
  fixed: string | null,
): Promise<Associated> {
  const port = await rowById(ports, tx, ctx, portId)
  await sql`select from neutron.ports where id = ${portId} for no key update`.execute(tx)
  if (port.project_id !== floating.projectId && !ctx.isAdmin) {
    const why = `Port ${portId} is associated with a different tenant than Floating IP ${floating.id} and therefore cannot be bound.`
    throw bad(why)
  }
  const { subnet_id, ip_address } = fixedOf(port, fixed)
  const routerId = await routerFor(tx, subnet_id, floating.networkId, portId)
  await onlyOne(tx, floating, portId, ip_address)
  return { port_id: portId, fixed_ip_address: ip_address, router_id: routerId }
}

function fixedOf(port: Row, wanted: string | null): FixedIp {
  const id = String(port.id)
  const v4 = (port.fixed as FixedIp[]).filter(ip => !ip.ip_address.includes(':'))
  if (wanted !== null) {
    const found = (port.fixed as FixedIp[]).find(ip => ip.ip_address === wanted)
    if (!found) throw bad(`Port ${id} does not have fixed ip ${wanted}`)
    if (wanted.includes(':')) throw bad(`Floating IP cannot be associated with the IPv6 address ${wanted}`)
    return found
  }
  if (v4.length === 0) throw bad(`Cannot add floating IP to port ${id} that has no fixed IPv4 addresses`)
  if (v4.length > 1) {
    throw bad(`Port ${id} has multiple fixed IPv4 addresses. Must provide a specific IPv4 address when assigning a floating IP`)
  }
  return v4[0]!
}

/** The router between a subnet and an external network. Throws ExternalGatewayForFloatingIPNotFound (404). */
export async function routerFor(tx: Tx, subnetId: string, networkId: string, portId: string): Promise<string> {
  const { rows } = await sql<{ id: string }>`
    select i.device_id as id from neutron.ip_allocations a
    join neutron.ports i on i.id = a.port_id and i.device_owner = 'network:router_interface'
    join neutron.ports g on g.device_id = i.device_id and g.device_owner = 'network:router_gateway' and g.network_id = ${networkId}
    join neutron.subnets s on s.id = a.subnet_id
    where a.subnet_id = ${subnetId} order by (a.ip = s.gateway_ip) desc nulls last, i.created_at limit 1`.execute(tx)
  if (rows[0]) return rows[0].id
  const why = `External network ${networkId} is not reachable from subnet ${subnetId}. Therefore, cannot associate Port ${portId} with a Floating IP.`
  throw notFound(why, { type: 'ExternalGatewayForFloatingIPNotFound' })
}

async function onlyOne(tx: Tx, floating: Floating, portId: string, fixed: string): Promise<void> {
  const other = await tx
    .selectFrom('neutron.floating_ips')
    .select('id')
    .where('port_id', '=', portId)
    .where(sql<boolean>`fixed_ip_address = ${fixed}::inet`)
    .where('floating_network_id', '=', floating.networkId)
    .where('id', '!=', floating.id)
    .executeTakeFirst()
  if (!other) return
  const why = `using fixed IP ${fixed}, as that fixed IP already has a floating IP on external network ${floating.networkId}.`
  throw conflict(`Cannot associate floating IP ${floating.address} (${floating.id}) with port ${portId} ${why}`, {
    type: 'FloatingIPPortAlreadyAssociated',
  })
}
