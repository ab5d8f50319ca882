import { randomUUID } from 'node:crypto'
import type { Context } from '#kit/context.ts'
import { lock, type Query, sql, type Tx } from '#kit/db/index.ts'
import { badRequest, conflict } from '#kit/fault.ts'
import * as S from '#kit/http/schema.ts'
import { overlap, type Prefix, parseAddress, parsePrefix, showAddress, showPrefix } from '../address.ts'
import {
  address,
  bool,
  document,
  idField,
  int,
  nullableUuid,
  oneOf,
  project,
  standard,
  text,
  texts,
  uuid,
} from '../api/attributes.ts'
import { type Changing, type Making, type Removing, type Row, resource } from '../api/resource.ts'
import { insertRow, touch, updateRow } from '../api/write.ts'
import { dhcpEnsure } from '../dhcp/dhcp.ts'
import { contradicts, gone, inUse, invalid, told } from '../faults.ts'
import { changed } from '../hosts/changed.ts'
import { granted, type NetworkFacts, networkFacts } from '../networks/facts.ts'
import { isAuto, takeWanted } from '../ports/allocate.ts'
import { neutronSettings } from '../settings.ts'
import { prefixTake } from '../subnetpools/take.ts'
import type { Pool } from '../tables.ts'
import { dnsCheck, gatewayCheck, modesCheck, poolsCheck, poolsFor, routesCheck } from './check.ts'

const MODES = ['dhcpv6-stateful', 'dhcpv6-stateless', 'slaac']
const network = (column: string) =>
  sql`(select ${sql.ref(`n.${column}`)} from neutron.networks n where n.id = neutron.subnets.network_id)`

/** Subnets. */
export const subnets = resource({
  name: 'subnet',
  plural: 'subnets',
  path: '/subnets',
  table: 'neutron.subnets',
  gone: gone.subnet,
  quota: 'subnet',
  attributes: {
    id: idField,
    name: text(''),
    ...project,
    network_id: uuid({ create: 'required', update: false }),
    ip_version: int(4, 6, { update: false }),
    subnetpool_id: nullableUuid({ update: false, initial: undefined }),
    enable_dhcp: bool(true),
    ipv6_ra_mode: oneOf(MODES, { nullable: true, initial: null, update: false }),
    ipv6_address_mode: oneOf(MODES, { nullable: true, initial: null, update: false }),
    gateway_ip: address({ nullable: true }),
    cidr: { schema: S.Nullable(S.String()), update: false },
    allocation_pools: document(S.Array(S.Unknown())),
    host_routes: document(S.Nullable(S.Array(S.Unknown()))),
    dns_nameservers: texts({ schema: S.Nullable(S.Array(S.Unknown())), initial: undefined }),
    ...standard,
    service_types: texts({ schema: S.Array(S.String()), unguarded: true }),
    segment_id: nullableUuid(),
    dns_publish_fixed_ip: bool(false),
    prefixlen: int(0, 128, { column: null, update: false, show: false }),
    use_default_subnetpool: bool(undefined, { column: null, update: false, show: false }),
  },
  columns: ctx => [
    network('external').as('external'),
    network('project_id').as('network_owner'),
    granted('network', 'access_as_shared', 'neutron.subnets.network_id', ctx.projectId).as('shared'),
  ],
  // Not those of an external network, though floating IPs may be asked for on them: extension subnet-external-network would show them.
  visible: ctx => sql<boolean>`(neutron.subnets.project_id = ${ctx.projectId} or ${network('project_id')} = ${ctx.projectId}
    or ${granted('network', 'access_as_shared', 'neutron.subnets.network_id', ctx.projectId)})`,
  filters: {
    shared: (values, ctx) =>
      sql<boolean>`${granted('network', 'access_as_shared', 'neutron.subnets.network_id', ctx.projectId)} = ${S.toBoolean(values[0]) ?? false}`,
    cidr: values =>
      sql<boolean>`neutron.subnets.cidr in (${sql.join(values.map(value => sql`${canonicalPrefix(value)}::cidr`))})`,
  },
  target: row => ({ 'network:project_id': row.network_owner, shared: row.shared, 'router:external': row.external }),
  async makingTarget({ tx, ctx, given }) {
    const facts = await networkSeen(tx, ctx, given.network_id as string)
    return { 'network:project_id': facts.project_id, shared: facts.shared, 'router:external': facts.external }
  },
  create: subnetMake,
  update: subnetChange,
  remove: subnetRemove,
})

/** A prefix for a filter: one that no subnet has, where the text is none. */
const canonicalPrefix = (value: string): string => {
  const read = parsePrefix(value)
  return read ? showPrefix(read) : '::/128'
}

/** A network as the caller sees it. Throws NetworkNotFound where it sees none. */
export async function networkSeen(db: Query, ctx: Context, id: string): Promise<NetworkFacts> {
  const facts = await networkFacts(db, id, ctx.projectId)
  const seen = ctx.isAdmin || ctx.can('service_api') || facts.project_id === ctx.projectId || facts.shared || facts.external_to
  if (!seen) throw gone.network(id)
  return facts
}

async function subnetMake(making: Making): Promise<string> {
  const { env, tx, ctx, given } = making
  const settings = env.config.of(neutronSettings)
  const facts = await networkSeen(tx, ctx, given.network_id as string)
  // Who makes subnets of one network looks at the others first.
  await lock(tx, `neutron.subnets:${facts.id}`)
  const id = randomUUID()
  const { prefix, poolId } = await prefixOf(making, id)
  await overlapCheck(tx, facts.id, prefix, poolId)
  const [ra, mode] = [given.ipv6_ra_mode as string | null, given.ipv6_address_mode as string | null]
  modesCheck(prefix, given.enable_dhcp as boolean, ra, mode)
  if (prefix.version === 6 && facts.mtu < 1280) {
    throw conflict(`Invalid input for operation: the network's MTU ${facts.mtu} is too small for IPv6`, {
      type: 'NetworkMTUSubnetConflict',
    })
  }
  const gateway = 'gateway_ip' in given ? (given.gateway_ip as string | null) : firstOf(prefix)
  const pools = given.allocation_pools === undefined ? poolsFor(prefix, gateway) : poolsCheck(prefix, given.allocation_pools)
  gatewayCheck(prefix, gateway, pools)
  if (given.segment_id) await segmentOf(tx, given.segment_id as string, facts.id)
  serviceTypesCheck(given.service_types as string[])
  const values = {
    ...given,
    ip_version: prefix.version,
    cidr: showPrefix(prefix),
    gateway_ip: gateway,
    allocation_pools: pools,
    dns_nameservers: dnsCheck(given.dns_nameservers ?? [], settings.max_dns_nameservers),
    host_routes: routesCheck(given.host_routes ?? [], settings.max_subnet_host_routes, 'host_routes', prefix.version),
    subnetpool_id: poolId,
  }
  await insertRow(subnets, tx, values, { id })
  await autoAddresses(tx, id, facts)
  await dhcpEnsure(env, tx, facts.id)
  await touch(tx, 'neutron.networks', [facts.id])
  changed(env, tx, { networks: [facts.id], wholes: [facts.id] })
  return id
}

/** The subnet's prefix: as given, or out of a pool. */
async function prefixOf(making: Making, subnetId: string): Promise<{ prefix: Prefix; poolId: string | null }> {
  const { given } = making
  const text = given.cidr as string | null | undefined
  const version = given.ip_version as number | undefined
  if (version !== undefined && version !== 4 && version !== 6)
    throw invalid('HTTPBadRequest', `Invalid input for ip_version. Reason: '${version}' is not in [4, 6].`)
  if (given.prefixlen !== undefined && text)
    throw badRequest('cidr and prefixlen must not be supplied together', { type: 'BadRequest' })
  const prefix = text === undefined || text === null ? undefined : readPrefix(text)
  if (prefix && version !== undefined && prefix.version !== version) {
    throw contradicts(`cidr '${text}' does not match the ip_version '${version}'`)
  }
  if (given.gateway_ip && version !== undefined && parseAddress(given.gateway_ip)!.version !== version) {
    throw contradicts(`gateway_ip '${told(given.gateway_ip)}' does not match the ip_version '${version}'`)
  }
  const pooled = given.use_default_subnetpool === true || (given.subnetpool_id !== undefined && given.subnetpool_id !== null)
  if (!pooled && !prefix) throw badRequest('A cidr must be specified in the absence of a subnet pool', { type: 'BadRequest' })
  if (!pooled) {
    if (version === undefined)
      throw badRequest('An ip_version must be specified in the absence of a subnetpool', { type: 'HTTPBadRequest' })
    return { prefix: prefix!, poolId: null }
  }
  if (given.allocation_pools !== undefined && !prefix) {
    throw badRequest('allocation_pools allowed only for specific subnet requests.', { type: 'BadRequest' })
  }
  return prefixTake(making, subnetId, prefix)
}

/** Bits behind the prefix are dropped, as Neutron does: `10.0.0.5/24` is `10.0.0.0/24`. */
function readPrefix(value: string): Prefix {
  const read = parsePrefix(value)
  if (!read || !value.includes('/'))
    throw invalid('HTTPBadRequest', `Invalid input for cidr. Reason: '${value}' is not a valid IP subnet.`)
  if (read.length === 0) throw contradicts('0 is not allowed as CIDR prefix length')
  const [low, high] = read.version === 4 ? [0xe0000000n, 0xf0000000n] : [0xffn << 120n, 1n << 128n]
  if (read.value >= low && read.value < high) throw contradicts('Multicast IP subnet is not supported')
  const loop = read.version === 4 ? read.value >> 24n === 127n : read.value === 1n
  if (loop) throw contradicts('Loopback IP subnet is not supported')
  return read
}

async function overlapCheck(tx: Tx, networkId: string, prefix: Prefix, poolId: string | null): Promise<void> {
  const others = await tx
    .selectFrom('neutron.subnets')
    .select(['id', 'cidr', 'subnetpool_id', 'ip_version'])
    .where('network_id', '=', networkId)
    .execute()
  for (const other of others) {
    if (!overlap(parsePrefix(other.cidr)!, prefix)) continue
    throw contradicts(`Requested subnet with cidr: ${showPrefix(prefix)} for network: ${networkId} overlaps with another subnet`)
  }
  if (others.some(other => other.ip_version === prefix.version && other.subnetpool_id !== poolId)) {
    const why = 'Subnets hosted on the same network must be allocated from the same subnet pool.'
    throw badRequest(why, { type: 'NetworkSubnetPoolAffinityError' })
  }
}

const firstOf = (prefix: Prefix): string =>
  showAddress({ version: prefix.version, value: prefix.value + (prefix.length >= (prefix.version === 4 ? 31 : 127) ? 0n : 1n) })

async function segmentOf(tx: Tx, id: string, networkId: string): Promise<void> {
  const row = await tx.selectFrom('neutron.segments').select('network_id').where('id', '=', id).executeTakeFirst()
  if (row?.network_id !== networkId) throw contradicts(`segment ${id} does not belong to network ${networkId}`)
}

function serviceTypesCheck(types: readonly string[] | undefined): void {
  for (const type of types ?? []) {
    if (!/^(network|compute|baremetal|neutron|trunk|distributed):/.test(type)) {
      throw invalid('InvalidSubnetServiceType', `Subnet service type ${type} does not correspond to a valid device owner.`)
    }
  }
}

/** Ports that are there already hear the announcements of a new self-numbering subnet, so they get their addresses in it. */
async function autoAddresses(tx: Tx, subnetId: string, facts: NetworkFacts): Promise<void> {
  const [subnet] = (await networkFacts(tx, facts.id, null)).subnets.filter(one => one.id === subnetId)
  if (!subnet || !isAuto(subnet)) return
  const ports = await tx
    .selectFrom('neutron.ports as p')
    .select(['p.id', 'p.mac_address', 'p.device_owner'])
    .select(sql<number>`(select count(*) from neutron.ip_allocations a where a.port_id = p.id)`.as('place'))
    .where('p.network_id', '=', facts.id)
    .where('p.device_owner', 'not like', 'network:router%')
    .where('p.device_owner', 'not in', ['network:floatingip', 'network:dhcp'])
    .execute()
  for (const port of ports) {
    const taking = { networkId: facts.id, portId: port.id, mac: port.mac_address, deviceOwner: port.device_owner }
    await takeWanted(tx, taking, [subnet], [{ subnet_id: subnet.id }], port.place)
  }
  await touch(
    tx,
    'neutron.ports',
    ports.map(port => port.id),
  )
}

async function subnetChange({ env, tx, row, changes }: Changing): Promise<void> {
  const settings = env.config.of(neutronSettings)
  const id = row.id as string
  const prefix = parsePrefix(row.cidr)!
  const values: Row = { ...changes }
  if ('dns_nameservers' in changes) values.dns_nameservers = dnsCheck(changes.dns_nameservers ?? [], settings.max_dns_nameservers)
  if ('host_routes' in changes)
    values.host_routes = routesCheck(changes.host_routes ?? [], settings.max_subnet_host_routes, 'host_routes', prefix.version)
  if ('allocation_pools' in changes) values.allocation_pools = poolsCheck(prefix, changes.allocation_pools)
  if ('service_types' in changes) serviceTypesCheck(changes.service_types as string[])
  if (changes.segment_id) await segmentOf(tx, changes.segment_id as string, row.network_id as string)
  const before = (row.gateway_ip as string | null)?.replace(/\/\d+$/, '') ?? null
  const gateway = 'gateway_ip' in changes ? (changes.gateway_ip as string | null) : before
  if (gateway !== before) await gatewayFree(tx, id, before)
  if ('gateway_ip' in changes || 'allocation_pools' in changes) {
    gatewayCheck(prefix, gateway, (values.allocation_pools ?? row.allocation_pools) as Pool[])
  }
  if (changes.enable_dhcp === false)
    modesCheck(prefix, false, row.ipv6_ra_mode as string | null, row.ipv6_address_mode as string | null)
  await updateRow(subnets, tx, id, values)
  if ('enable_dhcp' in changes) await dhcpEnsure(env, tx, row.network_id as string)
  changed(env, tx, { networks: [row.network_id as string], wholes: [row.network_id as string] })
}

/** Throws GatewayIpInUse (409) while a router's leg has the gateway's address. */
async function gatewayFree(tx: Tx, subnetId: string, gateway: string | null): Promise<void> {
  if (gateway === null) return
  const { rows } = await sql<{ id: string }>`
    select p.id from neutron.ip_allocations a join neutron.ports p on p.id = a.port_id
    where a.subnet_id = ${subnetId} and a.ip = ${gateway}::inet and p.device_owner like 'network:router_interface%'`.execute(tx)
  if (rows.length === 0) return
  throw conflict(`Current gateway ip ${gateway} already in use by port ${rows[0]!.id}. Unable to update.`, {
    type: 'GatewayIpInUse',
  })
}

async function subnetRemove(removing: Removing): Promise<void> {
  const { env, tx, row } = removing
  const id = row.id as string
  const networkId = row.network_id as string
  await lock(tx, `neutron.subnets:${networkId}`)
  const { rows } = await sql`
    select from neutron.ip_allocations a join neutron.ports p on p.id = a.port_id where a.subnet_id = ${id}
      and (p.device_owner like 'network:router%' or p.device_owner = 'network:floatingip'
        or (p.device_owner <> 'network:dhcp' and not ${isAuto(row as never)})) limit 1`.execute(tx)
  if (rows.length > 0) {
    throw inUse(
      'SubnetInUse',
      `Unable to complete operation on subnet ${id}: One or more ports have an IP allocation from this subnet.`,
    )
  }
  await tx.deleteFrom('neutron.ip_allocations').where('subnet_id', '=', id).execute()
  await tx.deleteFrom('neutron.subnets').where('id', '=', id).execute()
  await dhcpEnsure(env, tx, networkId)
  await touch(tx, 'neutron.networks', [networkId])
  changed(env, tx, { networks: [networkId], wholes: [networkId] })
}
