/**
 * What servers need of networking, for the service that runs them: which networks a new server gets, its ports' life, and what is shown
 * of them. Everything works inside the caller's transaction, so a server and its ports commit together.
 */
import { type Query, sql, type Tx } from '#kit/db/index.ts'
import { badRequest, conflict, Fault, forbidden } from '#kit/fault.ts'
import type { Env } from '#kit/service.ts'
import { canonical } from './address.ts'
import { changed } from './hosts/changed.ts'
import { type NetworkFacts, networksFacts, networksUsable } from './networks/facts.ts'
import { bindingOf, type PortGiven, portLock, portMake, portRemove } from './ports/store.ts'
import { quotaFits } from './quotas/quota.ts'
import { usableGroups } from './securitygroups/store.ts'
import { neutronSettings } from './settings.ts'
import { topologyPossible } from './topologies/topologies.ts'
import { trunkFollow } from './trunks/follow.ts'

/** One entry of a server's `networks`. */
export interface WantedNic {
  networkId?: string
  portId?: string
  fixedIp?: string
  tag?: string
}

/** What a request to create servers says: a list, `auto`, `none`, or nothing. */
export type NetworksWanted = readonly WantedNic[] | 'auto' | 'none' | undefined

/** One network card that a server is to have. With a `portId` that port, else a new port of the network. */
export interface NicPlan {
  networkId: string
  portId: string | null
  fixedIp: string | null
  tag: string | null
}

export interface NetworksAsk {
  projectId: string
  /** May use every network and port, and external networks. */
  isAdmin: boolean
  wanted: NetworksWanted
  /** Servers in this request. */
  count: number
}

/**
 * Decides which networks the servers of one request get. Reads only. Throws badRequest for what does not exist, is not theirs or cannot be
 * (a network without subnets, a fixed address for many servers, a port in use by another device: conflict), conflict NetworkAmbiguous
 * where nothing was asked and several networks are there, forbidden for external networks, and overQuota when the ports would not fit.
 */
export async function networksForServer(env: Env, db: Query, ask: NetworksAsk): Promise<NicPlan[]> {
  if (ask.wanted === 'none') return []
  // Asked together with the networks: these are most of what a request for servers reads.
  const room = quotaFits(db, env.config.of(neutronSettings).quota, ask.projectId, 'port')
  room.catch(() => {})
  const plan =
    ask.wanted === undefined || ask.wanted === 'auto' || ask.wanted.length === 0
      ? await usualPlan(db, ask)
      : await wantedPlan(db, ask, ask.wanted)
  const fresh = plan.filter(nic => nic.portId === null).length * ask.count
  if (fresh > 0 && !(await room)(fresh)) throw forbidden('Maximum number of ports exceeded', { type: 'PortLimitExceeded' })
  return plan
}

async function usualPlan(db: Query, { projectId }: NetworksAsk): Promise<NicPlan[]> {
  const networks = await networksUsable(db, projectId)
  if (networks.length > 1)
    throw conflict('Multiple possible networks found, use a Network ID to be more specific.', { type: 'NetworkAmbiguous' })
  const network = networks[0]
  // A network that cannot number its ports is no use to a server that asked for none.
  if (!network || network.subnets.length === 0) return []
  return [{ networkId: network.id, portId: null, fixedIp: null, tag: null }]
}

/**
 * Whether a project that asks for any network has none yet and could be given one. Throws badRequest UnableToAutoAllocateNetwork where it has
 * none and the cloud lacks what one is made of.
 */
export async function networkAwaits(db: Query, projectId: string): Promise<boolean> {
  if ((await networksUsable(db, projectId)).length > 0) return false
  try {
    await topologyPossible(db)
  } catch (error) {
    if (!(error instanceof Fault)) throw error
    throw badRequest(`Unable to automatically allocate a network for project ${projectId}: ${error.message}`, {
      type: 'UnableToAutoAllocateNetwork',
    })
  }
  return true
}

async function wantedPlan(db: Query, ask: NetworksAsk, wanted: readonly WantedNic[]): Promise<NicPlan[]> {
  const ports = await wantedPorts(db, ask, wanted)
  const ids = [...new Set(wanted.map(nic => (nic.portId ? ports.get(nic.portId)!.network_id : nic.networkId!)))]
  const facts = new Map((await networksFacts(db, ids, ask.projectId)).map(network => [network.id, network]))
  return wanted.map(nic => {
    if (nic.portId)
      return { networkId: ports.get(nic.portId)!.network_id, portId: nic.portId, fixedIp: null, tag: nic.tag ?? null }
    networkFits(ask, nic, facts.get(nic.networkId!))
    return {
      networkId: nic.networkId!,
      portId: null,
      fixedIp: nic.fixedIp === undefined ? null : canonical(nic.fixedIp)!,
      tag: nic.tag ?? null,
    }
  })
}

function networkFits(ask: NetworksAsk, nic: WantedNic, network: NetworkFacts | undefined): asserts network is NetworkFacts {
  const visible = network && (ask.isAdmin || network.project_id === ask.projectId || network.shared || network.external_to)
  if (!visible) throw badRequest(`Network ${nic.networkId} could not be found.`, { type: 'NetworkNotFound' })
  if (network.external && !network.shared && !ask.isAdmin) {
    throw forbidden(`It is not allowed to create an interface on external network ${network.id}`, {
      type: 'ExternalNetworkAttachForbidden',
    })
  }
  if (network.subnets.length === 0) {
    throw badRequest(`Network ${network.id} requires a subnet in order to boot instances on.`, { type: 'NetworkRequiresSubnet' })
  }
  if (nic.fixedIp === undefined) return
  if (canonical(nic.fixedIp) === undefined)
    throw badRequest(`Fixed IP address (${nic.fixedIp}) is invalid.`, { type: 'FixedIpInvalid' })
  if (ask.count > 1)
    throw badRequest('Invalid fixedIp: one address cannot be given to several servers.', {
      type: 'InvalidFixedIpAndMaxCountRequest',
    })
}

async function wantedPorts(db: Query, ask: NetworksAsk, wanted: readonly WantedNic[]) {
  const ids = wanted.flatMap(nic => nic.portId ?? [])
  const rows =
    ids.length === 0
      ? []
      : await db
          .selectFrom('neutron.ports as p')
          .select(['p.id', 'p.network_id', 'p.project_id', 'p.device_id', 'p.vif_type'])
          .select(sql<number>`(select count(*) from neutron.ip_allocations a where a.port_id = p.id)`.as('addresses'))
          .where('p.id', 'in', ids)
          .execute()
  const found = new Map(rows.map(row => [row.id, row]))
  for (const id of ids) {
    const port = found.get(id)
    if (!port || (!ask.isAdmin && port.project_id !== ask.projectId))
      throw badRequest(`Port id ${id} could not be found.`, { type: 'PortNotFound' })
    if (port.device_id !== '') throw conflict(`Port ${id} is still in use.`, { type: 'PortInUse' })
    if (port.addresses === 0)
      throw badRequest(`Port ${id} requires a FixedIP in order to be used.`, { type: 'PortRequiresFixedIP' })
  }
  if (new Set(ids).size !== ids.length) throw conflict('A port is named twice.', { type: 'PortInUse' })
  if (ids.length > 0 && ask.count > 1)
    throw badRequest('Unable to launch multiple instances with a single configured port ID.', {
      type: 'MultiplePortsNotApplicable',
    })
  return found
}

/** Where a port is to be wired, for whom. */
export interface PortBinding {
  host: string
  deviceId: string
  /** `compute:AVAILABILITY_ZONE`. */
  deviceOwner: string
  /** Resource of the saga that waits for the wiring: it is poked (`sagaPoke`) when the host reports the port ACTIVE. */
  wake?: string
  profile?: Record<string, unknown>
  /** The provider from which the port has what it is promised; null: it is promised nothing. */
  allocation?: string | null
}

/** A port that was just made for a server, with all that is told to its guest. */
export interface NewPort
  extends Pick<ServerPort, 'id' | 'networkId' | 'networkName' | 'macAddress' | 'mtu' | 'fixedIps' | 'securityGroups'> {
  subnets: SubnetFacts[]
}

/** Makes a port; see `PortGiven`. Quota is claimed unless `free`. */
export async function portCreate(env: Env, tx: Tx, given: PortGiven): Promise<NewPort> {
  const { id, network, macAddress, fixedIps, securityGroups, defaultGroup } = await portMake(env, tx, given)
  const groups =
    securityGroups.length === 0 || defaultGroup !== undefined
      ? securityGroups.map(id => ({ id, name: 'default' }))
      : await tx.selectFrom('neutron.security_groups').select(['id', 'name']).where('id', 'in', securityGroups).execute()
  const ipOf = ({ subnet_id, ip_address }: (typeof fixedIps)[number]): ServerPort['fixedIps'][number] => ({
    subnetId: subnet_id,
    ip: ip_address,
    version: ip_address.includes(':') ? 6 : 4,
    floatingIps: [],
  })
  return {
    id,
    networkId: network.id,
    networkName: network.name,
    macAddress,
    mtu: network.mtu,
    fixedIps: fixedIps.map(ipOf),
    securityGroups: groups,
    subnets: network.subnets.map(subnet => ({
      id: subnet.id,
      networkId: network.id,
      version: subnet.ip_version,
      cidr: subnet.cidr,
      gatewayIp: subnet.gateway_ip,
      enableDhcp: subnet.enable_dhcp,
      dnsServers: subnet.dns_nameservers,
      hostRoutes: subnet.host_routes,
      ipv6AddressMode: subnet.ipv6_address_mode,
    })),
  }
}

/** Whether the port that is written is a trunk's: most are not, and cost no statement of their own. */
const PARENT = sql<boolean>`exists (select from neutron.trunks t where t.port_id = neutron.ports.id)`.as('parent')

/**
 * Gives a port to a server on a host. Throws PortNotFound, and conflict PortInUse when it is another device's. Safe to run twice: a port
 * that is bound so already keeps its status.
 */
export async function portBind(env: Env, tx: Tx, portId: string, binding: PortBinding): Promise<void> {
  const port = await portLock(tx, portId)
  if (port.device_id !== '' && port.device_id !== binding.deviceId)
    throw conflict(`Port ${portId} is still in use.`, { type: 'PortInUse' })
  const [network] = await networksFacts(tx, [port.network_id], null)
  const same = port.host === binding.host && port.device_id === binding.deviceId && port.vif_type !== 'binding_failed'
  const { parent } = await tx
    .updateTable('neutron.ports')
    .set({
      device_id: binding.deviceId,
      device_owner: binding.deviceOwner,
      wake: binding.wake ?? null,
      ...(binding.profile && { profile: JSON.stringify(binding.profile) }),
      ...(binding.allocation !== undefined && { profile: JSON.stringify(allocated(port.profile, binding.allocation)) }),
      ...(!same && { ...bindingOf(binding.host, port.vnic_type, network!), status: 'DOWN' }),
      revision_number: sql`revision_number + 1`,
      updated_at: sql`now()`,
    })
    .where('id', '=', portId)
    .returning(PARENT)
    .executeTakeFirstOrThrow()
  if (parent) await trunkFollow(env, tx, portId, binding.host)
  changed(env, tx, { hosts: [binding.host, port.host], networks: [port.network_id] })
}

function allocated({ allocation: _before, ...profile }: Record<string, unknown>, allocation: string | null) {
  return allocation === null ? profile : { ...profile, allocation }
}

/** Takes a port from its host and server and keeps it: for ports that the user brought. Does nothing where there is none. */
export async function portUnbind(env: Env, tx: Tx, portId: string, options: { keepDevice?: boolean } = {}): Promise<void> {
  const port = await tx
    .selectFrom('neutron.ports')
    .select(['host', 'network_id'])
    .where('id', '=', portId)
    .forNoKeyUpdate()
    .executeTakeFirst()
  if (!port) return
  const { parent } = await tx
    .updateTable('neutron.ports')
    .set({
      ...(options.keepDevice ? {} : { device_id: '', device_owner: '' }),
      host: '',
      vif_type: 'unbound',
      vif_details: '{}',
      profile: '{}',
      status: 'DOWN',
      wake: null,
      revision_number: sql`revision_number + 1`,
      updated_at: sql`now()`,
    })
    .where('id', '=', portId)
    .returning(PARENT)
    .executeTakeFirstOrThrow()
  if (parent) await trunkFollow(env, tx, portId, '')
  changed(env, tx, { hosts: [port.host], networks: [port.network_id] })
}

/** Removes a port with its addresses. Does nothing where there is none. */
export const portDelete = (env: Env, tx: Tx, portId: string): Promise<void> => portRemove(env, tx, portId)

/** A server's port, with all that its server's view, metadata and guest need of it. */
export interface ServerPort {
  id: string
  deviceId: string
  networkId: string
  networkName: string
  projectId: string
  macAddress: string
  status: string
  adminStateUp: boolean
  host: string
  vnicType: string
  vifType: string
  mtu: number
  profile: Record<string, unknown>
  portSecurity: boolean
  createdAt: Date
  fixedIps: { subnetId: string; ip: string; version: 4 | 6; floatingIps: string[] }[]
  securityGroups: { id: string; name: string }[]
}

const FIXED = sql<ServerPort['fixedIps']>`coalesce((
  select jsonb_agg(jsonb_build_object('subnetId', a.subnet_id, 'ip', host(a.ip), 'version', family(a.ip), 'floatingIps',
    coalesce((select jsonb_agg(host(f.floating_ip_address) order by f.created_at) from neutron.floating_ips f
      where f.port_id = p.id and f.fixed_ip_address = a.ip), '[]')) order by a.place)
  from neutron.ip_allocations a where a.port_id = p.id), '[]')`

const GROUPS = sql<ServerPort['securityGroups']>`coalesce((
  select jsonb_agg(jsonb_build_object('id', s.id, 'name', s.name) order by s.name, s.id)
  from neutron.port_security_groups g join neutron.security_groups s on s.id = g.security_group_id where g.port_id = p.id), '[]')`

const serverPorts = (db: Query) =>
  db
    .selectFrom('neutron.ports as p')
    .innerJoin('neutron.networks as n', 'n.id', 'p.network_id')
    .select([
      'p.id',
      'p.device_id as deviceId',
      'p.network_id as networkId',
      'n.name as networkName',
      'p.project_id as projectId',
      'p.mac_address as macAddress',
      'p.status',
      'p.admin_state_up as adminStateUp',
      'p.host',
      'p.vnic_type as vnicType',
      'p.vif_type as vifType',
      'n.mtu',
      'p.profile',
      'p.port_security_enabled as portSecurity',
      'p.created_at as createdAt',
      FIXED.as('fixedIps'),
      GROUPS.as('securityGroups'),
    ])
    .orderBy('p.created_at')
    .orderBy('p.id')

/** The ports of a page of servers, by server, in order of age: one query. */
export async function portsOfServers(db: Query, serverIds: readonly string[]): Promise<Map<string, ServerPort[]>> {
  if (serverIds.length === 0) return new Map()
  return Map.groupBy(
    await serverPorts(db)
      .where(sql<boolean>`p.device_id = any(${[...serverIds]}::text[])`)
      .execute(),
    port => port.deviceId,
  )
}

/** Whether every port of a device is wired on its host, but for those that are switched off. */
export async function deviceWired(db: Query, deviceId: string): Promise<boolean> {
  const { rows } = await sql<{ wired: boolean }>`
    select not exists (select from neutron.ports where device_id = ${deviceId} and status <> 'ACTIVE' and admin_state_up) as wired`.execute(
    db,
  )
  return rows[0]!.wired
}

/** The ids of devices that have an address like this (a regular expression, as Nova's `ip` and `ip6` filters are). */
export async function devicesByAddress(db: Query, version: 4 | 6, pattern: string): Promise<string[]> {
  const { rows } = await sql<{ id: string }>`
    select distinct p.device_id as id from neutron.ip_allocations a join neutron.ports p on p.id = a.port_id
    where family(a.ip) = ${version} and host(a.ip) ~ ${pattern} and p.device_id <> ''`.execute(db)
  return rows.map(row => row.id)
}

/** What a guest is told of a subnet (network_data.json). */
export interface SubnetFacts {
  id: string
  networkId: string
  version: 4 | 6
  cidr: string
  gatewayIp: string | null
  enableDhcp: boolean
  dnsServers: string[]
  hostRoutes: { destination: string; nexthop: string }[]
  ipv6AddressMode: string | null
}

/** Subnets by id, those that exist. */
export async function subnetsByIds(db: Query, ids: readonly string[]): Promise<SubnetFacts[]> {
  if (ids.length === 0) return []
  return db
    .selectFrom('neutron.subnets')
    .select([
      'id',
      'network_id as networkId',
      'ip_version as version',
      'cidr',
      sql<string | null>`host(gateway_ip)`.as('gatewayIp'),
      'enable_dhcp as enableDhcp',
      'dns_nameservers as dnsServers',
      'host_routes as hostRoutes',
      'ipv6_address_mode as ipv6AddressMode',
    ])
    .where('id', 'in', [...new Set(ids)])
    .execute()
}

/**
 * Security groups of a project by name or id. Throws badRequest SecurityGroupNotFound for one that is not there, conflict
 * NoUniqueMatch for a name of several.
 */
export async function securityGroupsByName(
  db: Query,
  projectId: string,
  names: readonly string[],
): Promise<{ id: string; name: string }[]> {
  if (names.length === 0) return []
  const wanted = [...new Set(names)]
  const rows = await db
    .selectFrom('neutron.security_groups')
    .select(['id', 'name'])
    .where('project_id', '=', projectId)
    .where(eb => eb.or([eb('name', 'in', wanted), eb('id', 'in', wanted)]))
    .execute()
  const shared = await usableGroups(db, wanted, projectId, false)
  return wanted.map(name => {
    const byId = rows.find(row => row.id === name)
    if (byId) return byId
    if (shared.has(name)) return { id: name, name }
    const byName = rows.filter(row => row.name === name)
    if (byName.length > 1) {
      throw conflict(`Multiple security groups found matching '${name}'. Use an ID to be more specific.`, {
        type: 'NoUniqueMatch',
      })
    }
    if (byName.length === 0) {
      throw badRequest(`Unable to find security_group with name or id '${name}'`, { type: 'SecurityGroupNotFound' })
    }
    return byName[0]!
  })
}

/** Adds a group to every port of a server, or takes it away. Returns how many ports the server has (that filter at all). */
export async function securityGroupOfServer(
  env: Env,
  tx: Tx,
  serverId: string,
  groupId: string,
  verb: 'add' | 'remove',
): Promise<number> {
  const ports = await tx
    .selectFrom('neutron.ports')
    .select(['id', 'host', 'network_id'])
    .where('device_id', '=', serverId)
    .where('port_security_enabled', '=', true)
    .orderBy('id')
    .forNoKeyUpdate()
    .execute()
  const ids = ports.map(port => port.id)
  if (ids.length === 0) return 0
  if (verb === 'add') {
    await tx
      .insertInto('neutron.port_security_groups')
      .values(ids.map(port_id => ({ port_id, security_group_id: groupId })))
      .onConflict(on => on.doNothing())
      .execute()
  } else
    await tx
      .deleteFrom('neutron.port_security_groups')
      .where('port_id', 'in', ids)
      .where('security_group_id', '=', groupId)
      .execute()
  await tx
    .updateTable('neutron.ports')
    .set({ revision_number: sql`revision_number + 1`, updated_at: sql`now()` })
    .where('id', 'in', ids)
    .execute()
  changed(env, tx, { hosts: ports.map(port => port.host), members: [groupId] })
  return ids.length
}

/** The name and id of the default group, made on first use. */
export { defaultGroup } from './securitygroups/store.ts'
