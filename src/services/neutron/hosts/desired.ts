/**
 * What should be on one host, out of rows: the same handful of queries however many ports, groups or routers there are, all of one moment.
 * What a host has none of is not asked for: most hosts run no DHCP server and no router.
 */
import { type Query, type RawBuilder, sql } from '#kit/db/index.ts'
import type { Env } from '#kit/service.ts'
import { type QosRuleRow, qosOf } from '../qos/desired.ts'
import { protocolNumber } from '../securitygroups/check.ts'
import { neutronSettings } from '../settings.ts'
import type { DhcpOption } from '../tables.ts'
import type {
  DesiredAddress,
  DesiredAddressSet,
  DesiredNetwork,
  DesiredPeer,
  DesiredPort,
  DesiredRule,
  DesiredSecurityGroup,
  NetDesired,
} from '../verbs.ts'
import { desiredRouters } from './desired.routers.ts'

/** All that should be on a host. */
export async function desiredOf(env: Env, host: string): Promise<NetDesired> {
  return env.db.tx(async tx => {
    await sql`set transaction isolation level repeatable read read only`.execute(tx)
    const [revision, ports, dhcp, routers] = await Promise.all([
      one<number>(tx, sql`select pg_snapshot_xmax(pg_current_snapshot())::text::bigint as value`),
      portsOn(tx, host),
      one<string[]>(
        tx,
        sql`select array(select network_id from neutron.dhcp_bindings where host = ${host} order by network_id) as value`,
      ),
      desiredRouters(tx, host),
    ])
    const networkIds = [...new Set([...ports.map(port => port.networkId), ...dhcp])]
    const groupIds = [...new Set(ports.flatMap(port => port.securityGroups))]
    const [networks, peers, served, groups] = await Promise.all([
      networksOf(tx, networkIds),
      peersOf(tx, host, networkIds),
      dhcpHosts(tx, dhcp),
      groupsOf(tx, groupIds),
    ])
    const { securityGroups, addressSets } = await withSets(tx, groups)
    const settings = env.config.of(neutronSettings)
    return {
      revision,
      ports,
      routers,
      securityGroups,
      addressSets,
      networks: networks.map(({ domain, ...network }) => ({
        ...network,
        peers: peers.get(network.id) ?? [],
        dhcp: dhcpOf(network, ports, served, domain || settings.dns_domain, settings.dns_forwarders),
      })),
    }
  })
}

async function one<T>(db: Query, query: RawBuilder<unknown>): Promise<T> {
  const { rows } = await (query as RawBuilder<{ value: T }>).execute(db)
  return rows[0]!.value
}

/** Ports bound to the host, but for the legs of routers that are switched off. */
async function portsOn(db: Query, host: string): Promise<DesiredPort[]> {
  const { rows } = await sql<Omit<DesiredPort, 'qos'> & { rules: QosRuleRow[] | null }>`
    select p.id, p.network_id as "networkId", p.mac_address as mac, p.port_security_enabled as "portSecurity",
      p.device_owner as "deviceOwner", p.device_id as "deviceId", (p.admin_state_up and n.admin_state_up) as "adminStateUp",
      coalesce((select jsonb_agg(jsonb_build_object('subnetId', a.subnet_id, 'ip', host(a.ip)) order by a.place)
        from neutron.ip_allocations a where a.port_id = p.id), '[]') as "fixedIps",
      coalesce((select jsonb_agg(jsonb_build_object('ip', x.pair ->> 'ip_address', 'mac', x.pair ->> 'mac_address'))
        from jsonb_array_elements(p.allowed_address_pairs) x (pair)), '[]') as "allowedPairs",
      array(select g.security_group_id from neutron.port_security_groups g where g.port_id = p.id order by 1) as "securityGroups",
      (select jsonb_build_object('parentId', t.port_id, 'tag', s.segmentation_id) from neutron.subports s
        join neutron.trunks t on t.id = s.trunk_id where s.port_id = p.id) as subport,
      (select jsonb_agg(jsonb_build_object('type', q.type, 'direction', q.direction, 'params', q.params)) from neutron.qos_rules q
        where q.policy_id = coalesce(p.qos_policy_id, n.qos_policy_id) and p.device_owner not like 'network:%') as rules
    from neutron.ports p join neutron.networks n on n.id = p.network_id
    where p.host = ${host} and not (p.device_owner like 'network:router%' and exists (
      select from neutron.routers r where r.id = p.device_id and not r.admin_state_up))
    order by p.id`.execute(db)
  return rows.map(({ rules, ...port }) => ({ ...port, qos: rules && qosOf(rules) }))
}

type NetworkRow = Omit<DesiredNetwork, 'peers' | 'dhcp'> & { domain: string }

async function networksOf(db: Query, ids: readonly string[]): Promise<NetworkRow[]> {
  if (ids.length === 0) return []
  const { rows } = await sql<NetworkRow>`
    select n.id, n.mtu, g.network_type as type, g.physical_network as "physicalNetwork", g.segmentation_id as "segmentationId",
      rtrim(n.dns_domain, '.') as domain,
      coalesce((select jsonb_agg(jsonb_build_object('id', s.id, 'cidr', s.cidr, 'ipVersion', s.ip_version, 'gatewayIp', host(s.gateway_ip),
        'enableDhcp', s.enable_dhcp, 'dnsServers', s.dns_nameservers, 'hostRoutes', s.host_routes, 'ipv6RaMode', s.ipv6_ra_mode,
        'ipv6AddressMode', s.ipv6_address_mode, 'routed', exists (select from neutron.ip_allocations a
          join neutron.ports p on p.id = a.port_id and p.device_owner like 'network:router_interface%'
          join neutron.routers r on r.id = p.device_id and r.admin_state_up
          where a.subnet_id = s.id and a.ip = s.gateway_ip)) order by s.id)
        from neutron.subnets s where s.network_id = n.id), '[]') as subnets
    from neutron.networks n join neutron.segments g on g.network_id = n.id and g.segment_index = 0
    where n.id = any(${[...ids]}::text[]) order by n.id`.execute(db)
  return rows
}

/** What lives on other hosts of tunnelled networks, by network. Hosts that share a tunnel end (pretended ones) are no peers. */
async function peersOf(db: Query, host: string, ids: readonly string[]): Promise<Map<string, DesiredPeer[]>> {
  if (ids.length === 0) return new Map()
  const { rows } = await sql<{ network: string; address: string; ports: DesiredPeer['ports'] }>`
    select p.network_id as network, h.overlay_address as address, jsonb_agg(jsonb_build_object('mac', p.mac_address,
      'ips', array(select host(a.ip) from neutron.ip_allocations a where a.port_id = p.id order by a.place)) order by p.id) as ports
    from neutron.host_networks me join neutron.ports p on p.network_id = any(${[...ids]}::text[]) and p.host <> me.host and p.host <> ''
    join neutron.host_networks h on h.host = p.host and h.overlay_address <> me.overlay_address
    join neutron.segments g on g.network_id = p.network_id and g.segment_index = 0 and g.network_type = 'vxlan'
    where me.host = ${host} and me.overlay_address is not null
    group by p.network_id, h.overlay_address order by 1, 2`.execute(db)
  const byNetwork = Map.groupBy(rows, row => row.network)
  return new Map([...byNetwork].map(([id, list]) => [id, list.map(({ address, ports }) => ({ address, ports }))]))
}

interface ServedPort {
  portId: string
  networkId: string
  mac: string
  name: string
  fixedIps: DesiredAddress[]
  options: DhcpOption[]
  deviceId: string
}

/** Every port of these networks with an address where DHCP is on. */
async function dhcpHosts(db: Query, networkIds: readonly string[]): Promise<ServedPort[]> {
  if (networkIds.length === 0) return []
  const { rows } = await sql<ServedPort>`
    select p.id as "portId", p.network_id as "networkId", p.mac_address as mac, p.dns_name as name, p.extra_dhcp_opts as options,
      p.device_id as "deviceId", jsonb_agg(jsonb_build_object('subnetId', a.subnet_id, 'ip', host(a.ip)) order by a.place) as "fixedIps"
    from neutron.ports p join neutron.ip_allocations a on a.port_id = p.id join neutron.subnets s on s.id = a.subnet_id and s.enable_dhcp
    where p.network_id = any(${[...networkIds]}::text[]) and p.device_owner <> 'network:dhcp' group by p.id order by p.id`.execute(
    db,
  )
  return rows
}

function dhcpOf(
  network: NetworkRow | Omit<NetworkRow, 'domain'>,
  ports: readonly DesiredPort[],
  served: readonly ServedPort[],
  domain: string,
  forwarders: string[],
): DesiredNetwork['dhcp'] {
  const own = ports.find(port => port.networkId === network.id && port.deviceOwner === 'network:dhcp')
  if (!own) return null
  const hosts = served
    .filter(port => port.networkId === network.id)
    .map(({ name, options, networkId: _network, ...host }) => ({
      ...host,
      hostname: name || `host-${host.fixedIps[0]!.ip.replace(/[.:]/g, '-')}`,
      options: options.map(option => ({ name: option.opt_name, value: option.opt_value, ipVersion: option.ip_version })),
    }))
  // Guests behind a router of ours ask the router.
  const metadata = network.subnets.some(subnet => subnet.enableDhcp && subnet.ipVersion === 4 && !subnet.routed)
  return { portId: own.id, domain, metadata, hosts, forwarders }
}

interface GroupRow {
  id: string
  stateful: boolean
  rules: {
    direction: 'ingress' | 'egress'
    ethertype: string
    protocol: string | null
    port_range_min: number | null
    port_range_max: number | null
    prefix: string | null
    set: string | null
  }[]
}

async function groupsOf(db: Query, ids: readonly string[]): Promise<GroupRow[]> {
  if (ids.length === 0) return []
  const { rows } = await sql<GroupRow>`
    select g.id, g.stateful, coalesce((select jsonb_agg(jsonb_build_object('direction', r.direction, 'ethertype', r.ethertype,
      'protocol', r.protocol, 'port_range_min', r.port_range_min, 'port_range_max', r.port_range_max,
      'prefix', network(r.remote_ip_prefix::inet), 'set', coalesce(r.remote_group_id, r.remote_address_group_id)) order by r.id)
      from neutron.security_group_rules r where r.security_group_id = g.id), '[]') as rules
    from neutron.security_groups g where g.id = any(${[...ids]}::text[]) order by g.id`.execute(db)
  return rows
}

function ruleOf(rule: GroupRow['rules'][number]): DesiredRule {
  const remote = rule.set !== null ? { set: rule.set } : rule.prefix !== null ? { prefix: rule.prefix } : null
  return {
    direction: rule.direction,
    ipVersion: rule.ethertype === 'IPv6' ? 6 : 4,
    protocol: protocolNumber(rule.protocol),
    portMin: rule.port_range_min,
    portMax: rule.port_range_max,
    remote,
  }
}

/** Groups with the address sets that their rules name: the addresses of all members, wherever they are, and what address groups list. */
async function withSets(
  db: Query,
  groups: readonly GroupRow[],
): Promise<{ securityGroups: DesiredSecurityGroup[]; addressSets: DesiredAddressSet[] }> {
  const ids = [...new Set(groups.flatMap(group => group.rules.flatMap(rule => rule.set ?? [])))]
  const securityGroups = groups.map(({ id, stateful, rules }) => ({ id, stateful, rules: rules.map(ruleOf) }))
  if (ids.length === 0) return { securityGroups, addressSets: [] }
  const { rows } = await sql<DesiredAddressSet>`
    select g.id, array(
      select host(a.ip) from neutron.port_security_groups m join neutron.ip_allocations a on a.port_id = m.port_id where m.security_group_id = g.id
      union
      select x.pair ->> 'ip_address' from neutron.port_security_groups m join neutron.ports p on p.id = m.port_id
        cross join lateral jsonb_array_elements(p.allowed_address_pairs) x (pair) where m.security_group_id = g.id) as addresses
    from neutron.security_groups g where g.id = any(${ids}::text[])
    union all
    select id, addresses::text[] from neutron.address_groups where id = any(${ids}::text[])
    order by 1`.execute(db)
  return { securityGroups, addressSets: rows }
}
