import type { Context } from '#kit/context.ts'
import { sql, type Tx } from '#kit/db/index.ts'
import { conflict } from '#kit/fault.ts'
import * as S from '#kit/http/schema.ts'
import { parseAddress } from '../address.ts'
import {
  bool, dnsClean, document, idField, macClean, nullableText, nullableUuid, oneOf, project, shown, standard, tagsClean, text, uuid,
} from '../api/attributes.ts' // biome-ignore format: one list
import { type Changing, type Making, type Removing, type Row, resource, seesAll } from '../api/resource.ts'
import { updateRow } from '../api/write.ts'
import { gone, inUse, invalidInput } from '../faults.ts'
import { changed } from '../hosts/changed.ts'
import { type NetworkFacts, networkFacts } from '../networks/facts.ts'
import { qosChange, qosUsable } from '../qos/facts.ts'
import { physicalOfNetwork, pledgePossible, pledgesOf, requestOfRow } from '../qos/request.ts'
import { usableGroups } from '../securitygroups/store.ts'
import { neutronSettings } from '../settings.ts'
import { networkSeen } from '../subnets/subnets.ts'
import type { AddressPair, DhcpOption } from '../tables.ts'
import { trunkFollow } from '../trunks/follow.ts'
import type { FixedIp, WantedIp } from './allocate.ts'
import { dhcpOptsClean, dhcpOptsMerged, fixedIpsClean, groupsClean, pairsClean, pairsLimit, pairsNeedSecurity } from './check.ts'
import { fixedIpsReplace } from './readdress.ts'
import { requestChange } from './request.ts'
import { bindingOf, groupsSet, macInUse, portMake, portRemove, portSecurityOff } from './store.ts'

const VNIC = [
  'normal', 'macvtap', 'direct', 'baremetal', 'direct-physical', 'virtio-forwarder', 'smart-nic', 'vdpa', 'remote-managed',
  'accelerator-direct', 'accelerator-direct-physical',
] // biome-ignore format: one list

const FIXED = sql<
  FixedIp[]
>`coalesce((select jsonb_agg(jsonb_build_object('subnet_id', a.subnet_id, 'ip_address', host(a.ip)) order by a.place)
  from neutron.ip_allocations a where a.port_id = neutron.ports.id), '[]')`
/** What a port carries, where it is a trunk's. */
const TRUNK = sql<Row | null>`(select jsonb_build_object('trunk_id', t.id, 'sub_ports', coalesce((
  select jsonb_agg(jsonb_build_object('port_id', s.port_id, 'segmentation_type', s.segmentation_type, 'segmentation_id', s.segmentation_id,
    'mac_address', c.mac_address) order by s.segmentation_id) from neutron.subports s join neutron.ports c on c.id = s.port_id
  where s.trunk_id = t.id), '[]')) from neutron.trunks t where t.port_id = neutron.ports.id)`
const network = (column: string) =>
  sql`(select ${sql.ref(`n.${column}`)} from neutron.networks n where n.id = neutron.ports.network_id)`

/** What a port asks of Placement, as upstream shows it where a port asks but one provider. */
function requestShown(row: Row): Row | null {
  const request = requestOfRow(row)
  return request && { required: request.required, resources: request.resources }
}

/** The policy that a port follows. */
const POLICY = sql`coalesce(neutron.ports.qos_policy_id, ${network('qos_policy_id')})`

const columns = () => [
  FIXED.as('fixed'),
  sql<string[]>`array(select g.security_group_id from neutron.port_security_groups g where g.port_id = neutron.ports.id
    order by g.security_group_id)`.as('groups'),
  network('project_id').as('network_owner'),
  network('qos_policy_id').as('network_qos'),
  network('dns_domain').as('network_domain'),
  pledgesOf(POLICY).as('pledges'),
  physicalOfNetwork(sql`neutron.ports.network_id`).as('physical'),
  TRUNK.as('trunk'),
]

/** Names that DNS has for a port's addresses. */
function dnsAssignment(row: Row): Row[] {
  const domain = `${String(row.network_domain || 'openstacklocal.').replace(/\.?$/, '.')}`
  return (row.fixed as FixedIp[]).map(({ ip_address }) => {
    const hostname = (row.dns_name as string) || `host-${ip_address.replace(/[.:]/g, '-')}`
    return { ip_address, hostname, fqdn: hostname.endsWith('.') ? hostname : `${hostname}.${domain}` }
  })
}

/** `fixed_ips=ip_address=10.0.0.5&fixed_ips=subnet_id=…`: one address of the port must be all of it. */
function fixedFilter(values: string[]) {
  const by = (key: string) => values.flatMap(value => (value.startsWith(`${key}=`) ? [value.slice(key.length + 1)] : []))
  const [ips, subnets, parts] = [by('ip_address'), by('subnet_id'), by('ip_address_substr')]
  if (ips.length + subnets.length + parts.length !== values.length)
    throw invalidInput('fixed_ips', `'${values.join(', ')}' is not a valid filter`)
  const known = ips.filter(ip => parseAddress(ip))
  const conditions = [
    ...(ips.length > 0 ? [sql`a.ip = any(${known}::inet[])`] : []),
    ...(subnets.length > 0 ? [sql`a.subnet_id in (${sql.join(subnets)})`] : []),
    ...parts.map(part => sql`host(a.ip) like ${`%${part.replace(/[\\%_]/g, '\\$&')}%`}`),
  ]
  return sql<boolean>`exists (select from neutron.ip_allocations a where a.port_id = neutron.ports.id and ${sql.join(conditions, sql` and `)})`
}

/** Ports. */
export const ports = resource({
  name: 'port',
  plural: 'ports',
  path: '/ports',
  table: 'neutron.ports',
  gone: gone.port,
  attributes: {
    id: idField,
    name: text(''),
    network_id: uuid({ create: 'required', update: false }),
    ...project,
    mac_address: {
      schema: S.Nullable(S.String()),
      clean: (value, name) => (value === null ? null : macClean(value, name)),
      parse: value => value.toLowerCase(),
    },
    admin_state_up: bool(true),
    status: shown(S.String()),
    device_id: text(''),
    device_owner: text(''),
    fixed_ips: { schema: S.Nullable(S.Array(S.Unknown())), column: null, clean: fixedIpsClean, read: (_, row) => row.fixed },
    ...standard,
    tags: { schema: S.Array(S.String()), clean: tagsClean, update: false, filter: false, sort: false, initial: () => [] },
    security_groups: { schema: S.Nullable(S.Array(S.Unknown())), column: null, clean: groupsClean, read: (_, row) => row.groups },
    port_security_enabled: bool(undefined),
    allowed_address_pairs: document(S.Nullable(S.Array(S.Unknown())), { clean: pairsClean, initial: () => [] }),
    extra_dhcp_opts: document(S.Nullable(S.Array(S.Unknown())), {
      clean: dhcpOptsClean,
      initial: () => [],
      // The version is for the server; clients that know versions see it, as upstream shows it.
      read: value => (value as DhcpOption[]).map(({ opt_name, opt_value, ip_version }) => ({ opt_name, opt_value, ip_version })),
    }),
    'binding:host_id': text('', 255, {
      column: 'host',
      schema: S.Nullable(S.String({ maxLength: 255 })),
      clean: value => value ?? '',
    }),
    'binding:vnic_type': oneOf(VNIC, { column: 'vnic_type', initial: 'normal' }),
    'binding:profile': document(S.Nullable(S.Record(S.String(), S.Unknown())), {
      column: 'profile',
      clean: value => value ?? {},
      initial: () => ({}),
    }),
    'binding:vif_type': shown(S.String(), { column: 'vif_type' }),
    'binding:vif_details': shown(S.Unknown(), { column: 'vif_details', filter: false, sort: false }),
    dns_name: text('', 255, { clean: dnsClean }),
    dns_domain: text('', 255, { clean: dnsClean }),
    dns_assignment: shown(S.Array(S.Unknown()), { column: null, read: (_, row) => dnsAssignment(row) }),
    qos_policy_id: nullableUuid(),
    qos_network_policy_id: shown(S.Nullable(S.String()), { column: null, read: (_, row) => row.network_qos }),
    data_plane_status: oneOf(['ACTIVE', 'DOWN'], { nullable: true, create: 'never' }),
    propagate_uplink_status: bool(true),
    numa_affinity_policy: oneOf(['required', 'preferred', 'legacy', 'socket'], { nullable: true, initial: null }),
    device_profile: nullableText(255, { update: false }),
    hints: document(S.Nullable(S.Record(S.String(), S.Unknown())), { initial: null }),
    ip_allocation: shown(S.String()),
    resource_request: shown(S.Unknown(), { column: null, read: (_, row) => requestShown(row) }),
  },
  columns,
  // The API's schema knows a policy or none at all, no null.
  view: ({ numa_affinity_policy, ...view }, row) => ({
    ...view,
    ...(numa_affinity_policy !== null && { numa_affinity_policy }),
    ...(row.trunk !== null && { trunk_details: row.trunk }),
  }),
  visible: ctx => sql<boolean>`(neutron.ports.project_id = ${ctx.projectId} or ${network('project_id')} = ${ctx.projectId})`,
  filters: {
    fixed_ips: fixedFilter,
    security_groups: values =>
      sql<boolean>`exists (select from neutron.port_security_groups g where g.port_id = neutron.ports.id and g.security_group_id in (${sql.join(values)}))`,
  },
  target: row => ({ 'network:project_id': row.network_owner }),
  async makingTarget({ tx, ctx, given }) {
    const facts = await networkSeen(tx, ctx, given.network_id as string)
    return { 'network:project_id': facts.project_id, shared: facts.shared, ...deviceOf(given) }
  },
  create: portCreateByApi,
  update: portChange,
  remove: portRemoveByApi,
})

const deviceOf = (given: Row): Row => ({ device_owner: given.device_owner ?? '' })

async function portCreateByApi({ env, tx, ctx, given, explicit }: Making): Promise<string> {
  const network = await networkSeen(tx, ctx, given.network_id as string)
  const settings = env.config.of(neutronSettings)
  const security = given.port_security_enabled as boolean | undefined
  const groups = explicit.has('security_groups') ? (given.security_groups as string[]) : undefined
  const pairs = given.allowed_address_pairs as Partial<AddressPair>[]
  pairsLimit(pairs, settings.max_allowed_address_pair)
  if (pairs.length > 0 && !(security ?? network.port_security_enabled)) throw pairsNeedSecurity()
  if (groups) await groupsUsable(tx, ctx, groups, given.project_id as string)
  if (given.qos_policy_id) await qosUsable(tx, ctx, given.qos_policy_id as string)
  const policy = (given.qos_policy_id as string | null) ?? network.qos_policy_id
  const made = await portMake(
    env,
    tx,
    {
      projectId: given.project_id as string,
      networkId: network.id,
      name: given.name as string,
      description: given.description as string,
      macAddress: (given.mac_address as string | null | undefined) ?? undefined,
      adminStateUp: given.admin_state_up as boolean,
      fixedIps: explicit.has('fixed_ips') ? (given.fixed_ips as WantedIp[]) : undefined,
      securityGroups: groups,
      portSecurity: security,
      deviceId: given.device_id as string,
      deviceOwner: given.device_owner as string,
      host: given['binding:host_id'] as string,
      vnicType: given['binding:vnic_type'] as string,
      profile: given['binding:profile'] as Record<string, unknown>,
      allowedAddressPairs: pairs as AddressPair[],
      extraDhcpOpts: dhcpOptsMerged([], given.extra_dhcp_opts as DhcpOption[]),
      dnsName: given.dns_name as string,
      dnsDomain: given.dns_domain as string,
      qosPolicyId: given.qos_policy_id as string | null,
      propagateUplinkStatus: given.propagate_uplink_status as boolean,
      numaAffinityPolicy: given.numa_affinity_policy as string | null,
      deviceProfile: given.device_profile as string | null,
      hints: given.hints as Record<string, unknown> | null,
      tags: given.tags as string[],
    },
    network,
  )
  await pledgePossible(tx, policy, network, made.id)
  return made.id
}

/** Throws SecurityGroupNotFound for a group that is not there for the caller or the port's project. */
async function groupsUsable(tx: Tx, ctx: Context, groups: readonly string[], projectId: string): Promise<void> {
  const usable = await usableGroups(tx, groups, projectId, seesAll(ctx))
  const missing = groups.find(id => !usable.has(id))
  if (missing !== undefined) throw gone.security_group(missing)
}

/** Makes columns of what an update gives: bindings, options and groups are more than their values. */
async function portChange({ env, tx, ctx, row, changes }: Changing): Promise<void> {
  const id = row.id as string
  const facts = await networkFacts(tx, row.network_id as string, null)
  const values: Row = { ...changes }
  const security = (changes.port_security_enabled as boolean | undefined) ?? (row.port_security_enabled as boolean)
  await groupsChange(tx, ctx, row, changes, security)
  pairsChange(env.config.of(neutronSettings).max_allowed_address_pair, row, values, security)
  if (changes.extra_dhcp_opts !== undefined) {
    values.extra_dhcp_opts = dhcpOptsMerged(row.extra_dhcp_opts as DhcpOption[], changes.extra_dhcp_opts as DhcpOption[])
  }
  await qosChange(tx, ctx, row.qos_policy_id, changes.qos_policy_id)
  await requestChange(tx, row, facts, values)
  if (changes.mac_address !== undefined)
    await macChange(tx, row, changes.mac_address as string | null, values, env.config.of(neutronSettings).base_mac)
  if (changes.fixed_ips !== undefined) await fixedIpsReplace(env, tx, row, facts, changes.fixed_ips as WantedIp[])
  await updateRow(ports, tx, id, values, bindingChange(row, changes, facts))
  const host = changes['binding:host_id'] as string | undefined
  if (row.trunk !== null && host !== undefined && host !== row.host) await trunkFollow(env, tx, id, host)
  const members = [...(row.groups as string[]), ...((changes.security_groups as string[] | undefined) ?? [])]
  changed(env, tx, {
    hosts: [row.host as string, (changes['binding:host_id'] as string | undefined) ?? ''],
    networks: [facts.id],
    members,
  })
}

function bindingChange(row: Row, changes: Row, facts: NetworkFacts): Row {
  if (changes['binding:host_id'] === undefined && changes['binding:vnic_type'] === undefined) return {}
  const host = (changes['binding:host_id'] ?? row.host) as string
  const vnic = (changes['binding:vnic_type'] ?? row.vnic_type) as string
  if (host === row.host && vnic === row.vnic_type) return {}
  return { ...bindingOf(host, vnic, facts), status: 'DOWN' }
}

async function groupsChange(tx: Tx, ctx: Context, row: Row, changes: Row, security: boolean): Promise<void> {
  const groups = changes.security_groups as string[] | undefined
  const after = groups ?? (row.groups as string[])
  if (!security && after.length > 0) {
    if (groups && groups.length > 0) throw portSecurityOff()
    if (!groups) {
      throw conflict(
        'Port has security group associated. Cannot disable port security or IP address until security group is removed.',
        {
          type: 'PortSecurityPortHasSecurityGroup',
        },
      )
    }
  }
  if (!groups) return
  await groupsUsable(tx, ctx, groups, row.project_id as string)
  await tx
    .deleteFrom('neutron.port_security_groups')
    .where('port_id', '=', row.id as string)
    .execute()
  await groupsSet(tx, row.id as string, groups)
}

function pairsChange(max: number, row: Row, values: Row, security: boolean): void {
  const pairs = (values.allowed_address_pairs ?? row.allowed_address_pairs) as Partial<AddressPair>[]
  if (pairs.length > 0 && !security) throw pairsNeedSecurity()
  if (values.allowed_address_pairs === undefined) return
  pairsLimit(pairs, max)
  values.allowed_address_pairs = pairs.map(pair => ({
    ip_address: pair.ip_address,
    mac_address: pair.mac_address ?? row.mac_address,
  }))
}

async function macChange(tx: Tx, row: Row, wanted: string | null, values: Row, base: string): Promise<void> {
  if (wanted === row.mac_address) return
  const mac = wanted ?? `${base}:${(row.id as string).slice(0, 6).match(/../g)!.join(':')}`
  values.mac_address = mac
  if (row.host !== '' && row.vif_type !== 'unbound' && (row.device_owner as string).startsWith('compute:')) {
    const why = `Unable to complete operation on port ${String(row.id)}, port is already bound, port type: ${String(row.vif_type)}`
    throw conflict(`${why}, old_mac ${String(row.mac_address)}, new_mac ${mac}.`, { type: 'PortBound' })
  }
  const other = await tx
    .selectFrom('neutron.ports')
    .select('id')
    .where('network_id', '=', row.network_id as string)
    .where('mac_address', '=', mac)
    .executeTakeFirst()
  if (other) throw macInUse(mac, row.network_id as string)
}

const OWNED = /^network:(router_interface|router_gateway|floatingip|ha_router|router_centralized_snat)/

async function portRemoveByApi({ env, tx, row }: Removing): Promise<void> {
  const id = row.id as string
  if (OWNED.test(row.device_owner as string)) {
    const why = `has device owner ${String(row.device_owner)}`
    throw inUse('ServicePortInUse', `Port ${id} cannot be deleted directly via the port API: ${why}.`)
  }
  const trunk = await tx.selectFrom('neutron.trunks').select('id').where('port_id', '=', id).executeTakeFirst()
  if (trunk) throw inUse('PortInUseAsTrunkParent', `Port ${id} is currently a parent port for trunk ${trunk.id}.`)
  const sub = await tx.selectFrom('neutron.subports').select('trunk_id').where('port_id', '=', id).executeTakeFirst()
  if (sub) throw inUse('PortInUseAsSubPort', `Port ${id} is currently a subport for trunk ${sub.trunk_id}.`)
  await portRemove(env, tx, id)
}
