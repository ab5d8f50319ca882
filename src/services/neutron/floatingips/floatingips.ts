import { randomUUID } from 'node:crypto'
import { isDuplicate, sql } from '#kit/db/index.ts'
import { badRequest, conflict } from '#kit/fault.ts'
import * as S from '#kit/http/schema.ts'
import { address, dnsClean, idField, nullableUuid, project, shown, standard, text, uuid } from '../api/attributes.ts'
import { type Changing, type Making, type Removing, type Row, resource } from '../api/resource.ts'
import { insertRow, updateRow } from '../api/write.ts'
import { gone } from '../faults.ts'
import { changed } from '../hosts/changed.ts'
import type { WantedIp } from '../ports/allocate.ts'
import { portMake, portRemove } from '../ports/store.ts'
import { qosUsable } from '../qos/facts.ts'
import { networkSeen } from '../subnets/subnets.ts'
import { association } from './associate.ts'

const bad = (why: string) => badRequest(why, { type: 'BadRequest' })

const DETAILS = sql<Row | null>`(select jsonb_build_object('name', p.name, 'network_id', p.network_id, 'mac_address', p.mac_address,
  'admin_state_up', p.admin_state_up, 'status', p.status, 'device_id', p.device_id, 'device_owner', p.device_owner)
  from neutron.ports p where p.id = neutron.floating_ips.port_id)`

const FORWARDINGS = sql<Row[]>`coalesce((select jsonb_agg(jsonb_strip_nulls(jsonb_build_object('protocol', w.protocol,
  'internal_ip_address', host(w.internal_ip_address),
  'external_port', case when w.external_first = w.external_last then w.external_first end,
  'internal_port', case when w.internal_first = w.internal_last then w.internal_first end)) order by w.id)
  from neutron.port_forwardings w where w.floatingip_id = neutron.floating_ips.id), '[]')`

/** What holds where a floating IP has no policy of its own. */
const NETWORK_POLICY = sql<
  string | null
>`(select n.qos_policy_id from neutron.networks n where n.id = neutron.floating_ips.floating_network_id)`

/** Floating IPs. */
export const floatingips = resource({
  name: 'floatingip',
  plural: 'floatingips',
  path: '/floatingips',
  table: 'neutron.floating_ips',
  gone: gone.floatingip,
  quota: 'floatingip',
  attributes: {
    id: idField,
    ...project,
    floating_ip_address: address({ update: false }),
    floating_network_id: uuid({ create: 'required', update: false }),
    subnet_id: nullableUuid({ column: null, update: false, show: false, initial: undefined }),
    router_id: shown(S.Nullable(S.String()), { nullable: true }),
    port_id: nullableUuid(),
    fixed_ip_address: address({ nullable: true, initial: null }),
    status: shown(S.String()),
    ...standard,
    dns_name: text('', 255, { clean: dnsClean, update: false }),
    dns_domain: text('', 255, { clean: dnsClean, update: false }),
    qos_policy_id: nullableUuid(),
    qos_network_policy_id: shown(S.Nullable(S.String()), { column: null, read: (_, row) => row.network_policy }),
    port_details: shown(S.Unknown(), { column: null, read: (_, row) => row.details }),
    port_forwardings: shown(S.Array(S.Unknown()), { column: null, read: (_, row) => row.forwardings }),
  },
  columns: () => [DETAILS.as('details'), FORWARDINGS.as('forwardings'), NETWORK_POLICY.as('network_policy')],
  create: floatingMake,
  update: floatingChange,
  remove: floatingRemove,
})

async function floatingMake({ env, tx, ctx, given }: Making): Promise<string> {
  const network = await networkSeen(tx, ctx, given.floating_network_id as string)
  if (!network.external) throw bad(`Network ${network.id} is not a valid external network`)
  const v4 = network.subnets.filter(subnet => subnet.ip_version === 4)
  if (v4.length === 0) throw bad(`Network ${network.id} does not contain any IPv4 subnet`)
  if (given.qos_policy_id) await qosUsable(tx, ctx, given.qos_policy_id as string)
  const id = randomUUID()
  const want: WantedIp = {}
  if (given.floating_ip_address) want.ip_address = given.floating_ip_address as string
  if (given.subnet_id) want.subnet_id = given.subnet_id as string
  const port = await portMake(
    env,
    tx,
    {
      projectId: '',
      networkId: network.id,
      deviceId: id,
      deviceOwner: 'network:floatingip',
      free: true,
      ...(Object.keys(want).length > 0 && { fixedIps: [want] }),
    },
    { ...network, subnets: v4 },
  )
  const floating_ip_address = port.fixedIps[0]!.ip_address
  const leads = await leadsTo(
    { tx, ctx, id, networkId: network.id, address: floating_ip_address, projectId: given.project_id as string },
    given,
  )
  try {
    await insertRow(
      floatingips,
      tx,
      { ...given, floating_ip_address, fixed_ip_address: null },
      { id, floating_port_id: port.id, ...leads },
    )
  } catch (error) {
    throw isDuplicate(error, 'floating_ips_fixed') ? taken(floating_ip_address) : error
  }
  if (leads.router_id) changed(env, tx, { routers: [leads.router_id] })
  return id
}

const taken = (floating: string) =>
  conflict(`Cannot associate floating IP ${floating}, as that fixed IP has just been given another floating IP.`, {
    type: 'FloatingIPPortAlreadyAssociated',
  })

interface Leading extends Pick<Making, 'tx' | 'ctx'> {
  id: string
  networkId: string
  address: string
  projectId: string
}

/** The columns that say where a floating IP leads. */
async function leadsTo({ tx, ctx, id, networkId, address, projectId }: Leading, given: Row) {
  const portId = given.port_id as string | null
  if (!portId) {
    if (given.fixed_ip_address) throw bad('fixed_ip_address cannot be specified without a port_id')
    return { port_id: null, fixed_ip_address: null, router_id: null, status: 'DOWN' }
  }
  const found = await association(
    tx,
    ctx,
    { id, projectId, networkId, address },
    portId,
    (given.fixed_ip_address as string | null) ?? null,
  )
  return { ...found, status: 'DOWN' }
}

async function floatingChange({ env, tx, ctx, row, changes }: Changing): Promise<void> {
  const id = row.id as string
  const { port_id, fixed_ip_address, ...rest } = changes
  if (rest.qos_policy_id) await qosUsable(tx, ctx, rest.qos_policy_id as string)
  let leads: Row = {}
  // At first an association was all that a floating IP had: an update that says nothing ends it still.
  if ('port_id' in changes || 'fixed_ip_address' in changes || Object.keys(changes).length === 0) {
    const wanted = 'port_id' in changes ? port_id : null
    if (!('port_id' in changes) && fixed_ip_address) throw bad('fixed_ip_address cannot be specified without a port_id')
    await forwardingsNone(id, row)
    const address = (row.floating_ip_address as string).replace(/\/\d+$/, '')
    const networkId = row.floating_network_id as string
    const fixed = fixed_ip_address ?? null
    leads = await leadsTo(
      { tx, ctx, id, networkId, address, projectId: row.project_id as string },
      { port_id: wanted, fixed_ip_address: fixed },
    )
    const same =
      leads.port_id === row.port_id &&
      leads.fixed_ip_address === ((row.fixed_ip_address as string | null)?.replace(/\/\d+$/, '') ?? null)
    if (same) leads.status = row.status
  }
  try {
    await updateRow(floatingips, tx, id, rest, leads)
  } catch (error) {
    throw isDuplicate(error, 'floating_ips_fixed') ? taken(row.floating_ip_address as string) : error
  }
  const routers = [row.router_id, leads.router_id].filter((router): router is string => typeof router === 'string')
  if (routers.length > 0) changed(env, tx, { routers })
}

async function forwardingsNone(id: string, row: Row): Promise<void> {
  if ((row.forwardings as Row[]).length === 0) return
  const why = `Floating IP ${id} in use by port forwarding resources.`
  throw conflict(why, { type: 'FipInUseByPortForwarding' })
}

async function floatingRemove({ env, tx, row }: Removing): Promise<void> {
  const id = row.id as string
  await forwardingsNone(id, row)
  await tx.deleteFrom('neutron.floating_ips').where('id', '=', id).execute()
  await portRemove(env, tx, row.floating_port_id as string)
  if (row.router_id) changed(env, tx, { routers: [row.router_id as string] })
}
