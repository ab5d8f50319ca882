// Rows as the database gives them; what they mean stands in migrations/0001_base.ts. `inet` and `cidr` are text.
import type { ColumnType, Generated } from '#kit/db/index.ts'

type Json<T> = ColumnType<T, unknown, unknown>

/** The standard attributes: what every noun of the API has. */
export interface Standard {
  description: Generated<string>
  tags: Generated<string[]>
  revision_number: Generated<number>
  created_at: Generated<Date>
  updated_at: Generated<Date>
}

export interface NetworksTable extends Standard {
  id: string
  project_id: string
  name: Generated<string>
  admin_state_up: Generated<boolean>
  status: Generated<string>
  mtu: number
  port_security_enabled: Generated<boolean>
  external: Generated<boolean>
  is_default: Generated<boolean>
  vlan_transparent: boolean | null
  availability_zone_hints: Generated<string[]>
  dns_domain: Generated<string>
  qos_policy_id: string | null
}

export interface SegmentsTable extends Standard {
  id: string
  network_id: string
  network_type: string
  physical_network: string | null
  segmentation_id: number | null
  segment_index: Generated<number>
  name: string | null
}

export interface HostRoute {
  destination: string
  nexthop: string
}

export interface Pool {
  start: string
  end: string
}

export interface SubnetsTable extends Standard {
  id: string
  network_id: string
  project_id: string
  name: Generated<string>
  ip_version: 4 | 6
  cidr: string
  gateway_ip: string | null
  enable_dhcp: Generated<boolean>
  dns_nameservers: Generated<string[]>
  host_routes: Json<HostRoute[]>
  allocation_pools: Json<Pool[]>
  ipv6_ra_mode: string | null
  ipv6_address_mode: string | null
  subnetpool_id: string | null
  segment_id: string | null
  service_types: Generated<string[]>
  dns_publish_fixed_ip: Generated<boolean>
}

export interface SubnetpoolsTable extends Standard {
  id: string
  project_id: string
  name: Generated<string>
  ip_version: number
  prefixes: string[]
  default_prefixlen: number
  min_prefixlen: number
  max_prefixlen: number
  default_quota: number | null
  is_default: Generated<boolean>
  address_scope_id: string | null
}

export interface AddressScopesTable extends Standard {
  id: string
  project_id: string
  name: Generated<string>
  ip_version: number
}

export interface AddressGroupsTable extends Standard {
  id: string
  project_id: string
  name: Generated<string>
  addresses: Generated<string[]>
}

export interface SecurityGroupsTable extends Standard {
  id: string
  project_id: string
  name: string
  stateful: Generated<boolean>
  is_default: Generated<boolean>
}

interface RuleColumns extends Standard {
  id: string
  direction: string
  ethertype: string
  protocol: string | null
  port_range_min: number | null
  port_range_max: number | null
  remote_ip_prefix: string | null
  remote_group_id: string | null
  remote_address_group_id: string | null
}

export interface SecurityGroupRulesTable extends RuleColumns {
  project_id: string
  security_group_id: string
}

export interface DefaultSecurityGroupRulesTable extends RuleColumns {
  used_in_default_sg: Generated<boolean>
  used_in_non_default_sg: Generated<boolean>
}

export interface RoutersTable extends Standard {
  id: string
  project_id: string
  name: Generated<string>
  admin_state_up: Generated<boolean>
  status: Generated<string>
  enable_snat: Generated<boolean>
  distributed: Generated<boolean>
  ha: Generated<boolean>
  flavor_id: string | null
  availability_zone_hints: Generated<string[]>
  routes: Json<HostRoute[]>
  gateway_qos_policy_id: string | null
  enable_default_route_ecmp: Generated<boolean>
  enable_default_route_bfd: Generated<boolean>
}

export interface AddressPair {
  ip_address: string
  mac_address: string
}

export interface DhcpOption {
  opt_name: string
  opt_value: string
  ip_version: 4 | 6
}

export interface PortsTable extends Standard {
  id: string
  network_id: string
  project_id: string
  name: Generated<string>
  mac_address: string
  admin_state_up: Generated<boolean>
  status: Generated<string>
  device_id: Generated<string>
  device_owner: Generated<string>
  port_security_enabled: Generated<boolean>
  host: Generated<string>
  vnic_type: Generated<string>
  profile: Json<Record<string, unknown>>
  vif_type: Generated<string>
  vif_details: Json<Record<string, unknown>>
  ip_allocation: Generated<string>
  allowed_address_pairs: Json<AddressPair[]>
  extra_dhcp_opts: Json<DhcpOption[]>
  dns_name: Generated<string>
  dns_domain: Generated<string>
  qos_policy_id: string | null
  data_plane_status: string | null
  propagate_uplink_status: Generated<boolean>
  numa_affinity_policy: string | null
  device_profile: string | null
  hints: Json<Record<string, unknown> | null>
  /** The saga's resource (`nova.server:ID`) that waits for this port to be wired. */
  wake: string | null
}

export interface IpAllocationsTable {
  subnet_id: string
  ip: string
  port_id: string
  network_id: string
  /** Order of the port's addresses. */
  place: Generated<number>
}

export interface FloatingIpsTable extends Standard {
  id: string
  project_id: string
  floating_network_id: string
  floating_port_id: string
  floating_ip_address: string
  port_id: string | null
  fixed_ip_address: string | null
  router_id: string | null
  status: Generated<string>
  dns_name: Generated<string>
  dns_domain: Generated<string>
  qos_policy_id: string | null
}

export interface PortForwardingsTable extends Standard {
  id: string
  floatingip_id: string
  protocol: string
  external_first: number
  external_last: number
  internal_first: number
  internal_last: number
  internal_port_id: string
  internal_ip_address: string
}

export interface RbacPoliciesTable {
  id: string
  project_id: string
  object_type: string
  object_id: string
  action: string
  target_project: string
}

export interface AgentsTable {
  id: string
  host: string
  agent_type: string
  binary: string
  topic: string
  availability_zone: string | null
  admin_state_up: Generated<boolean>
  description: string | null
  configurations: Json<Record<string, unknown>>
  created_at: Generated<Date>
  started_at: Generated<Date>
  heartbeat_at: Generated<Date>
}

/** What a host's network agent said of it, and how its last round went. */
export interface HostNetworksTable {
  host: string
  overlay_address: string | null
  physical_networks: Json<Record<string, string>>
  features: Json<Record<string, boolean>>
  problems: Json<string[]>
  revision: number | null
  errors: Json<object[]>
  reported_at: Date | null
}

declare module '#kit/db/index.ts' {
  interface Tables {
    'neutron.networks': NetworksTable
    'neutron.segments': SegmentsTable
    'neutron.subnets': SubnetsTable
    'neutron.subnetpools': SubnetpoolsTable
    'neutron.address_scopes': AddressScopesTable
    'neutron.address_groups': AddressGroupsTable
    'neutron.security_groups': SecurityGroupsTable
    'neutron.security_group_rules': SecurityGroupRulesTable
    'neutron.default_security_group_rules': DefaultSecurityGroupRulesTable
    'neutron.routers': RoutersTable
    'neutron.ports': PortsTable
    'neutron.ip_allocations': IpAllocationsTable
    'neutron.port_security_groups': { port_id: string; security_group_id: string }
    'neutron.floating_ips': FloatingIpsTable
    'neutron.port_forwardings': PortForwardingsTable
    'neutron.conntrack_helpers': { id: string; router_id: string; protocol: string; port: number; helper: string }
    'neutron.rbac_policies': RbacPoliciesTable
    'neutron.quotas': { project_id: string; resource: string; limit: number }
    'neutron.agents': AgentsTable
    'neutron.dhcp_bindings': { network_id: string; host: string }
    'neutron.router_bindings': { router_id: string; host: string }
    'neutron.host_networks': HostNetworksTable
    'neutron.trunks': Standard & {
      id: string
      project_id: string
      name: Generated<string>
      port_id: string
      admin_state_up: Generated<boolean>
      status: Generated<string>
    }
    'neutron.subports': { trunk_id: string; port_id: string; segmentation_type: string; segmentation_id: number }
    'neutron.flavors': { id: string; name: string; description: string; enabled: boolean; service_type: string }
    'neutron.service_profiles': { id: string; description: string; driver: string; enabled: boolean; metainfo: string }
    'neutron.flavor_profiles': { flavor_id: string; service_profile_id: string }
    'neutron.auto_topologies': { project_id: string; network_id: string; router_id: string | null }
    'neutron.metering_labels': {
      id: string
      project_id: string
      name: Generated<string>
      description: Generated<string>
      shared: Generated<boolean>
    }
    'neutron.metering_label_rules': {
      id: string
      metering_label_id: string
      direction: string
      excluded: Generated<boolean>
      remote_ip_prefix: string | null
      source_ip_prefix: string | null
      destination_ip_prefix: string | null
    }
    'neutron.qos_policies': Standard & { id: string; project_id: string; name: Generated<string>; is_default: Generated<boolean> }
    'neutron.qos_rules': {
      id: string
      policy_id: string
      type: string
      direction: string | null
      params: Json<Record<string, unknown>>
      created_at: Generated<Date>
    }
  }
}
