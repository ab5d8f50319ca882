import { type Migration, sql } from '#kit/db/index.ts'

// Facts stand once: a port's addresses are rows of ip_allocations, whose primary key is what makes two ports with one address impossible;
// a network's segments are rows of segments, whose unique index does the same for VLAN tags and VNIs; a router's legs are the ports that
// name it as their device. Usage and quota are counted over these rows, never kept beside them.

/** What every noun of the API has (Neutron calls these the standard attributes). */
const STANDARD = `
  description text not null default '', tags text[] not null default '{}', revision_number integer not null default 1,
  created_at timestamptz(3) not null default now(), updated_at timestamptz(3) not null default now()`

const TABLES = `
create table neutron.qos_policies (
  id text primary key, project_id text not null, name text not null default '', is_default boolean not null default false, ${STANDARD});
create unique index qos_policies_default on neutron.qos_policies (project_id) where is_default;
create index qos_policies_project on neutron.qos_policies (project_id, id);

create table neutron.qos_rules (
  id text primary key, policy_id text not null references neutron.qos_policies on delete cascade, type text not null,
  direction text, params jsonb not null, created_at timestamptz(3) not null default now());
create unique index qos_rules_of on neutron.qos_rules (policy_id, type, coalesce(direction, ''));

create table neutron.address_scopes (
  id text primary key, project_id text not null, name text not null default '', ip_version smallint not null, ${STANDARD});
create index address_scopes_project on neutron.address_scopes (project_id, id);

create table neutron.subnetpools (
  id text primary key, project_id text not null, name text not null default '', ip_version smallint not null, prefixes cidr[] not null,
  default_prefixlen integer not null, min_prefixlen integer not null, max_prefixlen integer not null, default_quota integer,
  is_default boolean not null default false, address_scope_id text references neutron.address_scopes, ${STANDARD});
create unique index subnetpools_default on neutron.subnetpools (ip_version) where is_default;
create index subnetpools_project on neutron.subnetpools (project_id, id);

create table neutron.networks (
  id text primary key, project_id text not null, name text not null default '', admin_state_up boolean not null default true,
  status text not null default 'ACTIVE', mtu integer not null, port_security_enabled boolean not null default true,
  external boolean not null default false, is_default boolean not null default false, vlan_transparent boolean,
  availability_zone_hints text[] not null default '{}', dns_domain text not null default '',
  qos_policy_id text references neutron.qos_policies, ${STANDARD});
create index networks_project on neutron.networks (project_id, id);
create index networks_name on neutron.networks (name, id);
create index networks_external on neutron.networks (id) where external;
create index networks_tags on neutron.networks using gin (tags);

create table neutron.segments (
  id text primary key, network_id text not null references neutron.networks on delete cascade, network_type text not null,
  physical_network text, segmentation_id integer, segment_index integer not null default 0, name text, ${STANDARD});
create unique index segments_taken on neutron.segments (network_type, coalesce(physical_network, ''), coalesce(segmentation_id, 0))
  where network_type <> 'local';
create index segments_network on neutron.segments (network_id, segment_index);

create table neutron.subnets (
  id text primary key, network_id text not null references neutron.networks, project_id text not null, name text not null default '',
  ip_version smallint not null, cidr cidr not null, gateway_ip inet, enable_dhcp boolean not null default true,
  dns_nameservers text[] not null default '{}', host_routes jsonb not null default '[]', allocation_pools jsonb not null default '[]',
  ipv6_ra_mode text, ipv6_address_mode text, subnetpool_id text references neutron.subnetpools,
  segment_id text references neutron.segments, service_types text[] not null default '{}',
  dns_publish_fixed_ip boolean not null default false, ${STANDARD});
create index subnets_network on neutron.subnets (network_id, id);
create index subnets_project on neutron.subnets (project_id, id);
create index subnets_pool on neutron.subnets (subnetpool_id) where subnetpool_id is not null;

create table neutron.security_groups (
  id text primary key, project_id text not null, name text not null, stateful boolean not null default true,
  is_default boolean not null default false, ${STANDARD});
create unique index security_groups_default on neutron.security_groups (project_id) where is_default;
create index security_groups_project on neutron.security_groups (project_id, id);

create table neutron.address_groups (
  id text primary key, project_id text not null, name text not null default '', addresses cidr[] not null default '{}', ${STANDARD});
create index address_groups_project on neutron.address_groups (project_id, id);

create table neutron.security_group_rules (
  id text primary key, project_id text not null, security_group_id text not null references neutron.security_groups on delete cascade,
  direction text not null, ethertype text not null, protocol text, port_range_min integer, port_range_max integer,
  remote_ip_prefix text, remote_group_id text references neutron.security_groups on delete cascade,
  remote_address_group_id text references neutron.address_groups, ${STANDARD});
create index security_group_rules_group on neutron.security_group_rules (security_group_id, id);
create index security_group_rules_remote on neutron.security_group_rules (remote_group_id) where remote_group_id is not null;
create index security_group_rules_remote_set on neutron.security_group_rules (remote_address_group_id)
  where remote_address_group_id is not null;
create index security_group_rules_project on neutron.security_group_rules (project_id, id);

create table neutron.default_security_group_rules (
  id text primary key, direction text not null, ethertype text not null, protocol text, port_range_min integer, port_range_max integer,
  remote_ip_prefix text, remote_group_id text, remote_address_group_id text references neutron.address_groups,
  used_in_default_sg boolean not null default false, used_in_non_default_sg boolean not null default true, ${STANDARD});

create table neutron.routers (
  id text primary key, project_id text not null, name text not null default '', admin_state_up boolean not null default true,
  status text not null default 'ACTIVE', enable_snat boolean not null default true, distributed boolean not null default false,
  ha boolean not null default false, flavor_id text, availability_zone_hints text[] not null default '{}',
  routes jsonb not null default '[]', gateway_qos_policy_id text references neutron.qos_policies,
  enable_default_route_ecmp boolean not null default false, enable_default_route_bfd boolean not null default false, ${STANDARD});
create index routers_project on neutron.routers (project_id, id);

create table neutron.ports (
  id text primary key, network_id text not null references neutron.networks, project_id text not null, name text not null default '',
  mac_address text not null, admin_state_up boolean not null default true, status text not null default 'DOWN',
  device_id text not null default '', device_owner text not null default '', port_security_enabled boolean not null default true,
  host text not null default '', vnic_type text not null default 'normal', profile jsonb not null default '{}',
  vif_type text not null default 'unbound', vif_details jsonb not null default '{}', ip_allocation text not null default 'immediate',
  allowed_address_pairs jsonb not null default '[]', extra_dhcp_opts jsonb not null default '[]', dns_name text not null default '',
  dns_domain text not null default '', qos_policy_id text references neutron.qos_policies, data_plane_status text,
  propagate_uplink_status boolean not null default true, numa_affinity_policy text, device_profile text, hints jsonb,
  wake text, ${STANDARD});
create unique index ports_mac on neutron.ports (network_id, mac_address);
create index ports_project on neutron.ports (project_id, id);
create index ports_device on neutron.ports (device_id) where device_id <> '';
create index ports_host on neutron.ports (host, id) where host <> '';
create index ports_name on neutron.ports (name, id);

create table neutron.ip_allocations (
  subnet_id text not null references neutron.subnets, ip inet not null, port_id text not null references neutron.ports on delete cascade,
  network_id text not null, place smallint not null default 0, primary key (subnet_id, ip));
create index ip_allocations_port on neutron.ip_allocations (port_id, place);
create index ip_allocations_ip on neutron.ip_allocations (ip);

create table neutron.port_security_groups (
  port_id text not null references neutron.ports on delete cascade,
  security_group_id text not null references neutron.security_groups, primary key (port_id, security_group_id));
create index port_security_groups_group on neutron.port_security_groups (security_group_id);

create table neutron.floating_ips (
  id text primary key, project_id text not null, floating_network_id text not null references neutron.networks,
  floating_port_id text not null references neutron.ports, floating_ip_address inet not null,
  port_id text references neutron.ports on delete set null, fixed_ip_address inet, router_id text references neutron.routers,
  status text not null default 'DOWN', dns_name text not null default '', dns_domain text not null default '',
  qos_policy_id text references neutron.qos_policies, ${STANDARD});
create unique index floating_ips_fixed on neutron.floating_ips (floating_network_id, port_id, fixed_ip_address) where port_id is not null;
create index floating_ips_project on neutron.floating_ips (project_id, id);
create index floating_ips_port on neutron.floating_ips (port_id) where port_id is not null;
create index floating_ips_router on neutron.floating_ips (router_id) where router_id is not null;
create unique index floating_ips_own_port on neutron.floating_ips (floating_port_id);

create table neutron.port_forwardings (
  id text primary key, floatingip_id text not null references neutron.floating_ips, protocol text not null,
  external_first integer not null, external_last integer not null, internal_first integer not null, internal_last integer not null,
  internal_port_id text not null references neutron.ports, internal_ip_address inet not null, ${STANDARD});
create index port_forwardings_floating on neutron.port_forwardings (floatingip_id, id);
create index port_forwardings_port on neutron.port_forwardings (internal_port_id);

create table neutron.rbac_policies (
  id text primary key, project_id text not null, object_type text not null, object_id text not null, action text not null,
  target_project text not null, unique (object_type, object_id, action, target_project));
create index rbac_policies_project on neutron.rbac_policies (project_id, id);
create index rbac_policies_target on neutron.rbac_policies (object_type, action, target_project);

create table neutron.quotas (
  project_id text not null, resource text not null, "limit" integer not null, primary key (project_id, resource));

create table neutron.agents (
  id text primary key, host text not null, agent_type text not null, "binary" text not null, topic text not null,
  availability_zone text, admin_state_up boolean not null default true, description text,
  configurations jsonb not null default '{}', created_at timestamptz(3) not null default now(),
  started_at timestamptz(3) not null default now(), heartbeat_at timestamptz(3) not null default now(), unique (host, agent_type));

create table neutron.dhcp_bindings (
  network_id text not null references neutron.networks on delete cascade, host text not null, primary key (network_id, host));
create index dhcp_bindings_host on neutron.dhcp_bindings (host);

create table neutron.router_bindings (
  router_id text not null references neutron.routers on delete cascade, host text not null, primary key (router_id, host));
create index router_bindings_host on neutron.router_bindings (host);

create table neutron.host_networks (
  host text primary key, overlay_address text, physical_networks jsonb not null default '{}', features jsonb not null default '{}',
  problems jsonb not null default '[]', revision integer, errors jsonb not null default '[]', reported_at timestamptz(3));

create table neutron.trunks (
  id text primary key, project_id text not null, name text not null default '', port_id text not null references neutron.ports,
  admin_state_up boolean not null default true, status text not null default 'DOWN', ${STANDARD});
create unique index trunks_port on neutron.trunks (port_id);
create index trunks_project on neutron.trunks (project_id, id);

create table neutron.subports (
  trunk_id text not null references neutron.trunks on delete cascade, port_id text primary key references neutron.ports,
  segmentation_type text not null, segmentation_id integer not null, unique (trunk_id, segmentation_type, segmentation_id));

create table neutron.flavors (
  id text primary key, name text not null default '', description text not null default '', enabled boolean not null default true,
  service_type text not null);
create table neutron.service_profiles (
  id text primary key, description text not null default '', driver text not null default '', enabled boolean not null default true,
  metainfo text not null default '');
create table neutron.flavor_profiles (
  flavor_id text not null references neutron.flavors on delete cascade,
  service_profile_id text not null references neutron.service_profiles, primary key (flavor_id, service_profile_id));
alter table neutron.routers add foreign key (flavor_id) references neutron.flavors;

create sequence neutron.revisions;

insert into neutron.default_security_group_rules (id, direction, ethertype, remote_group_id, used_in_default_sg, used_in_non_default_sg)
values (gen_random_uuid(), 'egress', 'IPv4', null, true, true), (gen_random_uuid(), 'egress', 'IPv6', null, true, true),
  (gen_random_uuid(), 'ingress', 'IPv4', 'PARENT', true, false), (gen_random_uuid(), 'ingress', 'IPv6', 'PARENT', true, false);
`

const ALL = [
  'subports', 'trunks', 'flavor_profiles', 'host_networks', 'router_bindings', 'dhcp_bindings', 'agents', 'quotas', 'rbac_policies', 'port_forwardings', 'floating_ips', 'port_security_groups', 'ip_allocations', 'ports', 'routers', 'flavors',
  'service_profiles', 'default_security_group_rules', 'security_group_rules', 'address_groups', 'security_groups', 'subnets', 'segments',
  'networks', 'subnetpools', 'address_scopes', 'qos_rules', 'qos_policies',
] // biome-ignore format: one list

export const base: Migration = {
  name: '0001_base',
  async up(tx) {
    for (const statement of TABLES.split(/;\s*\n/)) if (statement.trim() !== '') await sql.raw(statement).execute(tx)
  },
  async down(tx) {
    for (const table of ALL) await sql.raw(`drop table neutron.${table}`).execute(tx)
    await sql`drop sequence neutron.revisions`.execute(tx)
  },
}
