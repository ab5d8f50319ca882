import { randomUUID } from 'node:crypto'
import type { Context } from '#kit/context.ts'
import { sql, type Tx } from '#kit/db/index.ts'
import { conflict } from '#kit/fault.ts'
import * as S from '#kit/http/schema.ts'
import type { Env } from '#kit/service.ts'

import { bool, dnsClean, idField, int, nullableUuid, project, shown, standard, text, texts } from '../api/attributes.ts'
import { type Changing, type Making, type Removing, type Row, resource } from '../api/resource.ts'
import { insertRow, updateRow } from '../api/write.ts'
import { dhcpRelease } from '../dhcp/dhcp.ts'
import { contradicts, gone, inUse, invalidInput } from '../faults.ts'
import { changed } from '../hosts/changed.ts'
import { portRemove } from '../ports/store.ts'
import { qosChange, qosDefault, qosUsable } from '../qos/facts.ts'
import { rbacShare, rbacUnshare } from '../rbac/store.ts'
import { neutronSettings } from '../settings.ts'
import { granted } from './facts.ts'
import { mtuOf, segmentCheck, segmentsAsked, segmentTake } from './segments.ts'

const SEGMENTS = sql<Row[]>`coalesce((select jsonb_agg(jsonb_build_object('provider:network_type', g.network_type,
  'provider:physical_network', g.physical_network, 'provider:segmentation_id', g.segmentation_id) order by g.segment_index, g.id)
  from neutron.segments g where g.network_id = neutron.networks.id), '[]')`

const scopeOf = (version: 4 | 6) => sql<string | null>`(select sp.address_scope_id from neutron.subnets s
  join neutron.subnetpools sp on sp.id = s.subnetpool_id where s.network_id = neutron.networks.id and s.ip_version = ${sql.lit(version)}
  and sp.address_scope_id is not null limit 1)`

const columns = (ctx: Context) => [
  sql<
    string[]
  >`array(select s.id from neutron.subnets s where s.network_id = neutron.networks.id order by s.created_at, s.id)`.as('subnets'),
  granted('network', 'access_as_shared', 'neutron.networks.id', ctx.projectId).as('shared'),
  SEGMENTS.as('segs'),
  sql<string[]>`array(select distinct a.availability_zone from neutron.dhcp_bindings d join neutron.agents a on a.host = d.host
    and a.agent_type = 'DHCP agent' where d.network_id = neutron.networks.id and a.availability_zone is not null)`.as('zones'),
  scopeOf(4).as('scope4'),
  scopeOf(6).as('scope6'),
]

const segment = (row: Row, name: string): unknown => (row.segs as Row[])[0]?.[name] ?? null
const provider = (schema: S.TSchema, name: string) => ({
  schema: S.Nullable(schema),
  column: null,
  read: (_: unknown, row: Row) => segment(row, name),
})

const segmentFilter = (column: string) => (values: string[]) =>
  sql<boolean>`exists (select from neutron.segments g where g.network_id = neutron.networks.id
    and ${sql.ref(`g.${column}`)}::text in (${sql.join(values)}))`

const wanted = (values: string[]): boolean => {
  const value = S.toBoolean(values[0])
  if (value === undefined) throw invalidInput('shared', `'${values[0]}' cannot be converted to boolean`)
  return value
}

/** Networks. */
export const networks = resource({
  name: 'network',
  plural: 'networks',
  path: '/networks',
  table: 'neutron.networks',
  gone: gone.network,
  quota: 'network',
  attributes: {
    id: idField,
    name: text(''),
    ...project,
    admin_state_up: bool(true),
    mtu: int(68, 65535, { nullable: true }),
    status: shown(S.String()),
    subnets: shown(S.Array(S.String()), { column: null, read: (_, row) => row.subnets }),
    shared: bool(false, { column: null, read: (_, row) => row.shared }),
    availability_zone_hints: texts({ update: false }),
    availability_zones: shown(S.Array(S.String()), { column: null, read: (_, row) => row.zones }),
    ipv4_address_scope: shown(S.Nullable(S.String()), { column: null, read: (_, row) => row.scope4 }),
    ipv6_address_scope: shown(S.Nullable(S.String()), { column: null, read: (_, row) => row.scope6 }),
    'router:external': bool(false, { column: 'external' }),
    ...standard,
    is_default: bool(false),
    port_security_enabled: bool(true),
    dns_domain: text('', 255, { clean: dnsClean }),
    vlan_transparent: {
      schema: S.Nullable(S.LooseBoolean()),
      initial: null,
      update: false,
      nullable: true,
      clean: value => (value === null ? null : S.toBoolean(value)),
    },
    qos_policy_id: nullableUuid(),
    l2_adjacency: shown(S.Boolean(), { column: null, read: () => true }),
    'provider:network_type': provider(S.String(), 'provider:network_type'),
    'provider:physical_network': provider(S.String(), 'provider:physical_network'),
    'provider:segmentation_id': int(1, 16777215, {
      column: null,
      nullable: true,
      read: (_, row) => segment(row, 'provider:segmentation_id'),
    }),
    segments: { schema: S.Array(S.Record(S.String(), S.Unknown())), column: null, filter: false, read: (_, row) => row.segs },
  },
  columns,
  visible: ctx => sql<boolean>`(neutron.networks.project_id = ${ctx.projectId}
    or ${granted('network', 'access_as_shared', 'neutron.networks.id', ctx.projectId)}
    or ${granted('network', 'access_as_external', 'neutron.networks.id', ctx.projectId)})`,
  filters: {
    shared: (values, ctx) =>
      sql<boolean>`${granted('network', 'access_as_shared', 'neutron.networks.id', ctx.projectId)} = ${wanted(values)}`,
    'provider:network_type': segmentFilter('network_type'),
    'provider:physical_network': segmentFilter('physical_network'),
    'provider:segmentation_id': segmentFilter('segmentation_id'),
    subnets: values =>
      sql<boolean>`exists (select from neutron.subnets s where s.network_id = neutron.networks.id and s.id in (${sql.join(values)}))`,
  },
  // One segment is told by the provider attributes, several by the list.
  view(view, row) {
    const several = (row.segs as Row[]).length > 1
    // Said only where it was asked for, as by clouds without that extension.
    if (view.vlan_transparent === null) delete view.vlan_transparent
    for (const name of Object.keys(view)) if (several ? name.startsWith('provider:') : name === 'segments') delete view[name]
    return view
  },
  create: networkMake,
  update: networkChange,
  remove: networkRemove,
})

async function networkMake({ env, tx, ctx, given, explicit }: Making): Promise<string> {
  const id = randomUUID()
  const asked = segmentsAsked(given, env.config.of(neutronSettings).tenant_network_type)
  const external = given['router:external'] === true
  if (given.qos_policy_id) await qosUsable(tx, ctx, given.qos_policy_id as string)
  if (!explicit.has('qos_policy_id')) given.qos_policy_id = await qosDefault(tx, given.project_id as string)
  if (given.is_default === true) await onlyDefault(tx, id)
  const segments = []
  for (const one of asked) segments.push(await segmentCheck(env, tx, one))
  const most = Math.min(...segments.map(one => mtuOf(env, one.network_type)))
  await insertRow(networks, tx, given, { id, mtu: mtuFor(given.mtu as number | null | undefined, most) })
  for (const [index, one] of segments.entries()) await segmentTake(env, tx, id, one, index)
  const owner = given.project_id as string
  if (given.shared === true) await rbacShare(tx, owner, 'network', id, 'access_as_shared')
  if (external) await rbacShare(tx, owner, 'network', id, 'access_as_external')
  return id
}

function mtuFor(asked: number | null | undefined, most: number): number {
  if (asked === undefined || asked === null || asked === 0) return most
  if (asked > most) throw contradicts(`Requested MTU is too big, maximum is ${most}`)
  return asked
}

async function onlyDefault(tx: Tx, id: string): Promise<void> {
  const other = await tx
    .selectFrom('neutron.networks')
    .select('id')
    .where('is_default', '=', true)
    .where('id', '!=', id)
    .executeTakeFirst()
  if (other) throw conflict(`A default external network already exists: ${other.id}.`, { type: 'DefaultExternalNetworkExists' })
}

const PROVIDER = ['provider:network_type', 'provider:physical_network', 'provider:segmentation_id', 'segments']

async function networkChange({ env, tx, ctx, row, changes }: Changing): Promise<void> {
  const id = row.id as string
  const frozen = PROVIDER.filter(name => name in changes)
  if (frozen.length > 0) {
    throw contradicts(`Plugin does not support updating the following provider network attributes: ${frozen.join(', ')}`)
  }
  await qosChange(tx, ctx, row.qos_policy_id, changes.qos_policy_id)
  if (changes.is_default === true) await onlyDefault(tx, id)
  if ('mtu' in changes)
    await mtuCheck(
      tx,
      id,
      (changes.mtu = mtuFor(changes.mtu as number | null, mtuOf(env, String(segment(row, 'provider:network_type'))))),
    )
  const owner = row.project_id as string
  if (changes.shared === true) await rbacShare(tx, owner, 'network', id, 'access_as_shared')
  if (changes.shared === false) {
    await unshareCheck(tx, id, owner)
    await rbacUnshare(tx, 'network', id, 'access_as_shared')
  }
  if (changes['router:external'] === true) await rbacShare(tx, owner, 'network', id, 'access_as_external')
  if (changes['router:external'] === false && row.external) {
    await externalCheck(tx, id)
    await rbacUnshare(tx, 'network', id, 'access_as_external')
  }
  await updateRow(networks, tx, id, changes)
  changed(env, tx, { networks: [id], wholes: [id] })
}

/** IPv6 does not work below 1280. */
async function mtuCheck(tx: Tx, id: string, mtu: number): Promise<void> {
  const versions = await tx.selectFrom('neutron.subnets').select('ip_version').where('network_id', '=', id).execute()
  if (mtu < 1280 && versions.some(subnet => subnet.ip_version === 6)) {
    throw conflict(`Invalid input for operation: MTU ${mtu} is too small for IPv6 subnets`, { type: 'NetworkMTUSubnetConflict' })
  }
}

/** Throws InvalidSharedSetting (409) when others than the owner, and those it is still shared with by name, use the network. */
export async function unshareCheck(tx: Tx, id: string, owner: string): Promise<void> {
  const { rows } = await sql`
    select from (select project_id from neutron.ports where network_id = ${id} and device_owner not like 'network:router_gateway%'
        and device_owner <> 'network:floatingip'
      union all select project_id from neutron.subnets where network_id = ${id}) u
    where u.project_id not in ('', ${owner}) and not exists (select from neutron.rbac_policies r where r.object_type = 'network'
      and r.object_id = ${id} and r.action = 'access_as_shared' and r.target_project = u.project_id) limit 1`.execute(tx)
  if (rows.length === 0) return
  throw conflict(`Unable to reconfigure sharing settings for network ${id}. Multiple tenants are using it.`, {
    type: 'InvalidSharedSetting',
  })
}

/** Throws ExternalNetworkInUse (409) while routers or floating IPs stand on the network. */
export async function externalCheck(tx: Tx, id: string): Promise<void> {
  const used = await tx
    .selectFrom('neutron.ports')
    .select('id')
    .where('network_id', '=', id)
    .where('device_owner', 'in', ['network:router_gateway', 'network:floatingip'])
    .limit(1)
    .executeTakeFirst()
  if (!used) return
  const why = `External network ${id} cannot be updated to be made non-external, since it has existing gateway ports.`
  throw inUse('ExternalNetworkInUse', why)
}

/** Floating IPs that lead nowhere go with their network. */
async function floatingsDrop(env: Env, tx: Tx, id: string): Promise<void> {
  const idle = await tx
    .deleteFrom('neutron.floating_ips')
    .where('floating_network_id', '=', id)
    .where('port_id', 'is', null)
    .where('router_id', 'is', null)
    .returning('floating_port_id')
    .execute()
  for (const { floating_port_id } of idle) await portRemove(env, tx, floating_port_id)
}

async function networkRemove({ env, tx, row }: Removing): Promise<void> {
  const id = row.id as string
  await floatingsDrop(env, tx, id)
  const ports = await tx
    .selectFrom('neutron.ports')
    .select('id')
    .where('network_id', '=', id)
    .where('device_owner', '!=', 'network:dhcp')
    .limit(10)
    .execute()
  if (ports.length > 0) {
    const ids = ports.map(port => port.id).join(', ')
    const why = 'There are one or more ports still in use on the network, id for these ports is'
    throw inUse('NetworkInUse', `Unable to complete operation on network ${id}. ${why} ${ids}.`)
  }
  await dhcpRelease(env, tx, id)
  await tx.deleteFrom('neutron.subnets').where('network_id', '=', id).execute()
  await tx.deleteFrom('neutron.rbac_policies').where('object_type', '=', 'network').where('object_id', '=', id).execute()
  await tx.deleteFrom('neutron.networks').where('id', '=', id).execute()
  changed(env, tx, { networks: [id] })
}
