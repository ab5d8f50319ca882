/**
 * What should be on one host, out of rows of one moment: one statement however many ports, groups or networks there are, as each server that
 * is made asks this of its host. DHCP servers and routers, which most hosts do not run, are two more.
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
  NetDesired,
} from '../verbs.ts'
import { desiredRouters } from './desired.routers.ts'

/** All that should be on a host. */
export async function desiredOf(env: Env, host: string): Promise<NetDesired> {
  const base = await baseOf(env.db.read, host)
  if (base.dhcp.length === 0 && !base.routed) return assembled(env, base, [], [])
  return env.db.tx(async tx => {
    await sql`set transaction isolation level repeatable read read only`.execute(tx)
    const again = await baseOf(tx, host)
    const [served, routers] = await Promise.all([dhcpHosts(tx, again.dhcp), desiredRouters(tx, host)])
    return assembled(env, again, served, routers)
  })
}

function assembled(env: Env, base: Base, served: readonly ServedPort[], routers: NetDesired['routers']): NetDesired {
  const { revision, networks, peers, groups, sets } = base
  const ports = base.ports.map(({ rules, ...port }): DesiredPort => ({ ...port, qos: rules && qosOf(rules) }))
  const settings = env.config.of(neutronSettings)
  const far = Map.groupBy(peers, peer => peer.network)
  return {
    revision,
    ports,
    routers,
    securityGroups: groups.map(({ id, stateful, rules }) => ({ id, stateful, rules: rules.map(ruleOf) })),
    addressSets: sets.map(({ id, addresses }) => ({ id, addresses: [...new Set(addresses)] })),
    networks: networks.map(({ domain, ...network }) => ({
      ...network,
      peers: (far.get(network.id) ?? []).map(({ address, ports }) => ({ address, ports })),
      dhcp: dhcpOf(network, ports, served, domain || settings.dns_domain, settings.dns_forwarders),
    })),
  }
}

type NetworkRow = Omit<DesiredNetwork, 'peers' | 'dhcp'> & { domain: string }

interface Base {
  revision: number
  ports: (Omit<DesiredPort, 'qos'> & { rules: QosRuleRow[] | null })[]
  /** Ids of the networks whose DHCP server runs here. */
  dhcp: string[]
  /** Whether a router runs here. */
  routed: boolean
  networks: NetworkRow[]
  peers: (DesiredPeer & { network: string })[]
  groups: GroupRow[]
  sets: DesiredAddressSet[]
}

/** A column of rows as one JSON list, in this order. */
const listed = (rows: RawBuilder<unknown>, order: string) =>
  sql`coalesce((select json_agg(to_json(x) order by ${sql.raw(order)}) from (${rows}) x), '[]')`

/** Ports bound to the host, but for the legs of routers that are switched off. */
const portsOn = (host: string) => sql`
  select p.id, p.network_id as "networkId", p.mac_address as mac, p.port_security_enabled as "portSecurity",
    p.device_owner as "deviceOwner", p.device_id as "deviceId", (p.admin_state_up and n.admin_state_up) as "adminStateUp",
    coalesce((select json_agg(json_build_object('subnetId', a.subnet_id, 'ip', host(a.ip)) order by a.place)
      from neutron.ip_allocations a where a.port_id = p.id), '[]') as "fixedIps",
    coalesce((select json_agg(json_build_object('ip', x.pair ->> 'ip_address', 'mac', x.pair ->> 'mac_address'))
      from jsonb_array_elements(p.allowed_address_pairs) x (pair)), '[]') as "allowedPairs",
    array(select g.security_group_id from neutron.port_security_groups g where g.port_id = p.id order by 1) as "securityGroups",
    (select json_build_object('parentId', t.port_id, 'tag', s.segmentation_id) from neutron.subports s
      join neutron.trunks t on t.id = s.trunk_id where s.port_id = p.id) as subport,
    (select json_agg(json_build_object('type', q.type, 'direction', q.direction, 'params', q.params)) from neutron.qos_rules q
      where q.policy_id = coalesce(p.qos_policy_id, n.qos_policy_id) and p.device_owner not like 'network:%') as rules
  from neutron.ports p join neutron.networks n on n.id = p.network_id
  where p.host = ${host} and not (p.device_owner like 'network:router%' and exists (
    select from neutron.routers r where r.id = p.device_id and not r.admin_state_up))`

const NETWORKS = sql`
  select n.id, n.mtu, g.network_type as type, g.physical_network as "physicalNetwork", g.segmentation_id as "segmentationId",
    rtrim(n.dns_domain, '.') as domain,
    coalesce((select json_agg(json_build_object('id', s.id, 'cidr', s.cidr, 'ipVersion', s.ip_version, 'gatewayIp', host(s.gateway_ip),
      'enableDhcp', s.enable_dhcp, 'dnsServers', s.dns_nameservers, 'hostRoutes', s.host_routes, 'ipv6RaMode', s.ipv6_ra_mode,
      'ipv6AddressMode', s.ipv6_address_mode, 'routed', exists (select from neutron.ip_allocations a
        join neutron.ports p on p.id = a.port_id and p.device_owner like 'network:router_interface%'
        join neutron.routers r on r.id = p.device_id and r.admin_state_up
        where a.subnet_id = s.id and a.ip = s.gateway_ip)) order by s.id)
      from neutron.subnets s where s.network_id = n.id), '[]') as subnets
  from here join neutron.networks n on n.id = here.id join neutron.segments g on g.network_id = n.id and g.segment_index = 0`

/** What lives on other hosts of tunnelled networks. Hosts that share a tunnel end (pretended ones) are no peers. */
const peersOf = (host: string) => sql`
  select p.network_id as network, h.overlay_address as address, json_agg(json_build_object('mac', p.mac_address,
    'ips', array(select host(a.ip) from neutron.ip_allocations a where a.port_id = p.id order by a.place)) order by p.id) as ports
  from neutron.host_networks me
  join neutron.host_networks h on h.overlay_address <> me.overlay_address
  join here on true
  join neutron.segments g on g.network_id = here.id and g.segment_index = 0 and g.network_type = 'vxlan'
  join neutron.ports p on p.network_id = here.id and p.host = h.host
  where me.host = ${host} and me.overlay_address is not null
  group by p.network_id, h.overlay_address`

const GROUPS = sql`
  select g.id, g.stateful, coalesce((select json_agg(json_build_object('direction', r.direction, 'ethertype', r.ethertype,
    'protocol', r.protocol, 'port_range_min', r.port_range_min, 'port_range_max', r.port_range_max,
    'prefix', network(r.remote_ip_prefix::inet), 'set', coalesce(r.remote_group_id, r.remote_address_group_id)) order by r.id)
    from neutron.security_group_rules r where r.security_group_id = g.id), '[]') as rules
  from used join neutron.security_groups g on g.id = used.id`

/** The addresses of all members, wherever they are, of the groups that rules name, and what address groups list. */
const SETS = sql`
  select g.id, array(
    select host(a.ip) from neutron.port_security_groups m join neutron.ip_allocations a on a.port_id = m.port_id where m.security_group_id = g.id
    union all
    select x.pair ->> 'ip_address' from neutron.ports p
      join neutron.port_security_groups m on m.port_id = p.id and m.security_group_id = g.id
      cross join lateral jsonb_array_elements(p.allowed_address_pairs) x (pair) where p.allowed_address_pairs <> '[]') as addresses
  from named join neutron.security_groups g on g.id = named.id
  union all
  select g.id, g.addresses::text[] from named join neutron.address_groups g on g.id = named.id`

async function baseOf(db: Query, host: string): Promise<Base> {
  const { rows } = await sql<Base>`
    with own as materialized (${portsOn(host)}),
      served as materialized (select network_id as id from neutron.dhcp_bindings where host = ${host}),
      here as materialized (select "networkId" as id from own union select id from served),
      used as materialized (select distinct unnest("securityGroups") as id from own),
      named as materialized (select distinct coalesce(r.remote_group_id, r.remote_address_group_id) as id
        from used join neutron.security_group_rules r on r.security_group_id = used.id)
    select pg_snapshot_xmax(pg_current_snapshot())::text::bigint as revision,
      coalesce((select json_agg(to_json(own) order by id) from own), '[]') as ports,
      array(select id from served order by id) as dhcp,
      exists (select from neutron.router_bindings where host = ${host}) as routed,
      ${listed(NETWORKS, 'id')} as networks,
      ${listed(peersOf(host), 'network, address')} as peers,
      ${listed(GROUPS, 'id')} as groups,
      ${listed(SETS, 'id')} as sets`.execute(db)
  return rows[0]!
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
