// A router's gateway: its leg on an external network.
import type { Context } from '#kit/context.ts'
import { sql, type Tx } from '#kit/db/index.ts'
import { badRequest, conflict } from '#kit/fault.ts'
import * as S from '#kit/http/schema.ts'
import type { Env } from '#kit/service.ts'
import { overlap, parsePrefix } from '../address.ts'
import { uuidClean } from '../api/attributes.ts'
import type { Row } from '../api/resource.ts'
import { invalidInput, told } from '../faults.ts'
import { networkFacts } from '../networks/facts.ts'
import type { FixedIp, WantedIp } from '../ports/allocate.ts'
import { fixedIpsClean } from '../ports/check.ts'
import { fixedIpsReplace } from '../ports/readdress.ts'
import { portFixedIps, portLock, portMake, portRemove } from '../ports/store.ts'
import { qosUsable } from '../qos/facts.ts'
import { networkSeen } from '../subnets/subnets.ts'
import { GATEWAY, legsOf } from './store.ts'

export interface GatewayGiven {
  network_id: string
  enable_snat?: boolean
  external_fixed_ips?: WantedIp[]
  qos_policy_id?: string | null
}

/** `external_gateway_info` as a request gives it; null: no gateway. */
export function gatewayClean(value: unknown, name = 'external_gateway_info'): GatewayGiven | null {
  if (value === null) return null
  if (typeof value !== 'object' || Array.isArray(value))
    throw invalidInput(name, `'${JSON.stringify(value)}' is not a dictionary`)
  const given = value as Row
  if (Object.keys(given).length === 0) return null
  const unknown = Object.keys(given).filter(
    key => !['network_id', 'enable_snat', 'external_fixed_ips', 'qos_policy_id'].includes(key),
  )
  if (unknown.length > 0) throw invalidInput(name, `Unexpected keys supplied: ${unknown.join(', ')}`)
  if (given.network_id === null) return null
  if (given.network_id === undefined)
    throw invalidInput(name, "Validation of dictionary's keys failed. Expected keys: {'network_id'}")
  const clean: GatewayGiven = { network_id: uuidClean(given.network_id, name) }
  if (given.enable_snat !== undefined) {
    const snat = S.toBoolean(given.enable_snat)
    if (snat === undefined) throw invalidInput(name, `'${told(given.enable_snat)}' cannot be converted to boolean`)
    clean.enable_snat = snat
  }
  if (given.external_fixed_ips !== undefined && given.external_fixed_ips !== null)
    clean.external_fixed_ips = fixedIpsClean(given.external_fixed_ips)
  if (given.qos_policy_id !== undefined)
    clean.qos_policy_id = given.qos_policy_id === null ? null : uuidClean(given.qos_policy_id, name)
  return clean
}

/** Gives a router the gateway that is wanted, and takes away another that it had. Returns the router's columns that go with it. */
export async function gatewaySet(env: Env, tx: Tx, ctx: Context, routerId: string, wanted: GatewayGiven | null): Promise<Row> {
  const there = await tx
    .selectFrom('neutron.ports')
    .select(['id', 'network_id'])
    .where('device_id', '=', routerId)
    .where('device_owner', '=', GATEWAY)
    .executeTakeFirst()
  if (wanted?.qos_policy_id) await qosUsable(tx, ctx, wanted.qos_policy_id)
  const columns: Row = {
    // A gateway that says nothing of it translates addresses.
    enable_snat: wanted?.enable_snat ?? true,
    ...(wanted === null
      ? { gateway_qos_policy_id: null }
      : wanted.qos_policy_id !== undefined && { gateway_qos_policy_id: wanted.qos_policy_id }),
  }
  if (wanted && there && there.network_id === wanted.network_id) {
    if (wanted.external_fixed_ips) await readdress(env, tx, there.id, wanted)
    return columns
  }
  if (wanted) await externalSeen(tx, ctx, wanted.network_id)
  if (there) await gatewayDrop(env, tx, routerId, there)
  if (wanted) await gatewayMake(env, tx, routerId, wanted)
  return columns
}

async function externalSeen(tx: Tx, ctx: Context, id: string): Promise<void> {
  const network = await networkSeen(tx, ctx, id)
  if (!network.external) throw badRequest(`Network ${id} is not an external network`, { type: 'BadRequest' })
}

async function gatewayMake(env: Env, tx: Tx, routerId: string, wanted: GatewayGiven): Promise<void> {
  const network = await networkFacts(tx, wanted.network_id, null)
  const legs = await legsOf(tx, routerId)
  for (const subnet of network.subnets) {
    const other = legs.find(leg => overlap(parsePrefix(leg.cidr)!, parsePrefix(subnet.cidr)!))
    if (!other) continue
    const why = `Cidr ${subnet.cidr} of subnet ${subnet.id} overlaps with cidr ${other.cidr} of subnet ${other.subnet_id}`
    throw badRequest(why, { type: 'BadRequest' })
  }
  // Nobody's: a gateway is no port of its project, and no project's quota pays for it.
  const port = {
    projectId: '',
    networkId: network.id,
    deviceId: routerId,
    deviceOwner: GATEWAY,
    free: true,
    ...(wanted.external_fixed_ips && wanted.external_fixed_ips.length > 0 && { fixedIps: wanted.external_fixed_ips }),
  }
  await portMake(env, tx, port, network)
}

async function readdress(env: Env, tx: Tx, portId: string, wanted: GatewayGiven): Promise<void> {
  const port = await portLock(tx, portId)
  const fixed: FixedIp[] = await portFixedIps(tx, portId)
  const network = await networkFacts(tx, wanted.network_id, null)
  await fixedIpsReplace(env, tx, { ...port, fixed }, network, wanted.external_fixed_ips!)
}

async function gatewayDrop(env: Env, tx: Tx, routerId: string, port: { id: string; network_id: string }): Promise<void> {
  const used = await tx
    .selectFrom('neutron.floating_ips')
    .select('id')
    .where('router_id', '=', routerId)
    .where('floating_network_id', '=', port.network_id)
    .limit(1)
    .executeTakeFirst()
  if (used) {
    const why = `since a gateway to external network ${port.network_id} is required by one or more floating IPs.`
    throw conflict(`Gateway cannot be updated for router ${routerId}, ${why}`, { type: 'RouterExternalGatewayInUseByFloatingIp' })
  }
  await portRemove(env, tx, port.id)
}

/** `external_gateway_info` as SQL: an object or null. */
export const GATEWAY_INFO = sql<Row | null>`(
  select jsonb_build_object('network_id', p.network_id, 'enable_snat', neutron.routers.enable_snat,
    'qos_policy_id', neutron.routers.gateway_qos_policy_id,
    'external_fixed_ips', coalesce((select jsonb_agg(jsonb_build_object('subnet_id', a.subnet_id, 'ip_address', host(a.ip)) order by a.place)
      from neutron.ip_allocations a where a.port_id = p.id), '[]'))
  from neutron.ports p where p.device_id = neutron.routers.id and p.device_owner = 'network:router_gateway' limit 1)`
