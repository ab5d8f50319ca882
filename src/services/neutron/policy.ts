// Who may do what: rule name, default, sentence. Names and defaults are those of OpenStack 2025.1 and later, which operators know and
// override. A rule of an attribute (`create_network:shared`) is asked for beside the noun's own whenever the request gives that attribute
// another value than its default, and for every row shown; that a rule has the attribute's name is all it takes.
import type { PolicyRule } from '#kit/policy/index.ts'

const ADMIN = 'rule:admin_only'
const SERVICE = 'rule:service_api'
const READER = 'role:reader'
const SHARED = 'rule:shared'
const ADVSVC = 'rule:context_is_advsvc'
const OWN_READ = '(role:reader and project_id:%(project_id)s)'
const OWN_MEMBER = '(role:member and project_id:%(project_id)s)'
const OF_NETWORK = '(role:member and rule:network_owner)'
const READS_NETWORK = '(role:reader and rule:network_owner)'
const MANAGES_NETWORK = '(role:manager and rule:network_owner)'

const any = (...checks: string[]): string => checks.map(check => (check.startsWith('not ') ? `(${check})` : check)).join(' or ')

const MEMBER = any(ADMIN, OWN_MEMBER)
const MANAGER = any(ADMIN, '(role:manager and project_id:%(project_id)s)')
const OWN_READER = any(ADMIN, OWN_READ)
const PARENT_MANAGER = any(ADMIN, '(role:manager and rule:ext_parent_owner)')
const PARENT_MEMBER = any(ADMIN, '(role:member and rule:ext_parent_owner)')
const PARENT_READER = any(ADMIN, '(role:reader and rule:ext_parent_owner)')
const GROUP_MEMBER = any(ADMIN, '(role:member and rule:sg_owner)')
const GROUP_READER = any(ADMIN, '(role:reader and rule:sg_owner)')
const NETWORK_MEMBER = any(ADMIN, OF_NETWORK)
const ADMIN_OR_SERVICE = any(ADMIN, SERVICE)

const VERBS: Record<string, string> = {
  create: 'Make',
  get: 'See',
  update: 'Change',
  delete: 'Remove',
  add: 'Add to',
  remove: 'Take from',
}

/** A sentence out of the name: `create_network:shared` → "Make network: shared". */
function sentence(name: string): string {
  const [first = '', ...attribute] = name.split(':')
  const [verb = '', ...noun] = first.split('_')
  const words = VERBS[verb] ? `${VERBS[verb]} ${noun.join(' ')}` : `Term of other rules: ${first.replaceAll('_', ' ')}`
  return `${attribute.length > 0 ? `${words}: the attribute ${attribute.join(':')}` : words}.`
}

const rules = (check: string, names: string): PolicyRule[] =>
  names
    .trim()
    .split(/\s+/)
    .map(name => ({
      name,
      check,
      description: sentence(name),
      ...(VERBS[name.split('_')[0]!] && { scopes: ['project'] as const }),
    }))

export const policies: PolicyRule[] = [
  // address group
  ...rules('field:address_groups:shared=True', 'shared_address_groups'),
  ...rules(MEMBER, 'create_address_group update_address_group delete_address_group add_addresses remove_addresses'),
  ...rules(any(ADMIN, OWN_READ, 'rule:shared_address_groups'), 'get_address_group'),
  // address scope
  ...rules('field:address_scopes:shared=True', 'shared_address_scopes'),
  ...rules(MEMBER, 'create_address_scope update_address_scope delete_address_scope'),
  ...rules(ADMIN, 'create_address_scope:shared update_address_scope:shared'),
  ...rules(any(ADMIN, OWN_READ, 'rule:shared_address_scopes'), 'get_address_scope'),
  // agent
  ...rules(
    ADMIN,
    `
    create_agent get_agent update_agent delete_agent create_dhcp-network get_dhcp-networks delete_dhcp-network
    create_l3-router get_l3-routers update_l3-router delete_l3-router get_dhcp-agents get_l3-agents`,
  ),
  // auto allocated topology
  ...rules(OWN_READER, 'get_auto_allocated_topology'),
  ...rules(MEMBER, 'delete_auto_allocated_topology'),
  // availability zone
  ...rules(READER, 'get_availability_zone'),
  // base
  ...rules('role:admin', 'context_is_admin'),
  ...rules('!', 'context_with_global_access'),
  ...rules('role:service', 'service_api'),
  ...rules('project_id:%(project_id)s', 'owner'),
  ...rules(any('rule:context_is_admin', 'rule:owner'), 'admin_or_owner'),
  ...rules('role:advsvc', 'context_is_advsvc'),
  ...rules(any('rule:context_is_admin', 'project_id:%(network:project_id)s'), 'admin_or_network_owner'),
  ...rules(any('rule:owner', 'rule:admin_or_network_owner'), 'admin_owner_or_network_owner'),
  ...rules('project_id:%(network:project_id)s', 'network_owner'),
  ...rules('rule:context_is_admin', 'admin_only'),
  ...rules('', 'regular_user'),
  ...rules('field:networks:shared=True', 'shared'),
  ...rules('rule:admin_or_owner', 'default'),
  ...rules(any('rule:context_is_admin', 'project_id:%(ext_parent:project_id)s'), 'admin_or_ext_parent_owner'),
  ...rules('project_id:%(ext_parent:project_id)s', 'ext_parent_owner'),
  ...rules('project_id:%(security_group:project_id)s', 'sg_owner'),
  // conntrack helper
  ...rules(PARENT_MEMBER, 'create_router_conntrack_helper update_router_conntrack_helper delete_router_conntrack_helper'),
  ...rules(PARENT_READER, 'get_router_conntrack_helper'),
  // default security group rules
  ...rules(ADMIN, 'create_default_security_group_rule delete_default_security_group_rule'),
  ...rules(READER, 'get_default_security_group_rule'),
  // flavor
  ...rules(
    ADMIN,
    `
    create_flavor update_flavor delete_flavor create_service_profile get_service_profile update_service_profile
    delete_service_profile create_flavor_service_profile delete_flavor_service_profile`,
  ),
  ...rules(READER, 'get_flavor'),
  ...rules(OWN_READER, 'get_flavor_service_profile'),
  // floatingip
  ...rules(
    MEMBER,
    `
    create_floatingip create_floatingip:tags update_floatingip update_floatingip:tags delete_floatingip
    delete_floatingip:tags`,
  ),
  ...rules(MANAGER, 'create_floatingip:floating_ip_address'),
  ...rules(OWN_READER, 'get_floatingip get_floatingip:tags'),
  // floatingip pools
  ...rules(OWN_READER, 'get_floatingip_pool'),
  // floatingip port forwarding
  ...rules(
    PARENT_MEMBER,
    `
    create_floatingip_port_forwarding update_floatingip_port_forwarding delete_floatingip_port_forwarding`,
  ),
  ...rules(PARENT_READER, 'get_floatingip_port_forwarding'),
  // metering
  ...rules(MANAGER, 'create_metering_label delete_metering_label create_metering_label_rule delete_metering_label_rule'),
  ...rules(OWN_READER, 'get_metering_label get_metering_label_rule'),
  // network
  ...rules('field:networks:router:external=True', 'external'),
  ...rules(
    MEMBER,
    `
    create_network create_network:port_security_enabled create_network:tags update_network
    update_network:port_security_enabled update_network:tags delete_network delete_network:tags`,
  ),
  ...rules(
    ADMIN,
    `
    create_network:shared create_network:router:external create_network:is_default create_network:segments
    create_network:provider:network_type create_network:provider:physical_network create_network:provider:segmentation_id
    get_network:segments get_network:provider:network_type get_network:provider:physical_network
    get_network:provider:segmentation_id update_network:segments update_network:shared
    update_network:provider:network_type update_network:provider:physical_network update_network:provider:segmentation_id
    update_network:router:external update_network:is_default`,
  ),
  ...rules(any(ADMIN, OWN_READ, SERVICE, SHARED, 'rule:external', ADVSVC), 'get_network'),
  ...rules(any(ADMIN, OWN_READ, SHARED, 'rule:external', ADVSVC), 'get_network:tags'),
  // network ip availability
  ...rules(ADMIN_OR_SERVICE, 'get_network_ip_availability'),
  // port
  ...rules('field:port:device_owner=~^network:', 'network_device'),
  ...rules(any('rule:context_is_admin', 'role:data_plane_integrator'), 'admin_or_data_plane_int'),
  ...rules(
    any(ADMIN, SERVICE, OF_NETWORK, SHARED),
    `
    create_port create_port:fixed_ips create_port:fixed_ips:subnet_id update_port:fixed_ips:subnet_id`,
  ),
  ...rules(any(ADMIN, OWN_MEMBER, SERVICE), 'create_port:device_id create_port:binding:vnic_type update_port:device_id'),
  ...rules(any('not rule:network_device', ADMIN, SERVICE, OF_NETWORK), 'create_port:device_owner update_port:device_owner'),
  ...rules(
    any(ADMIN, SERVICE, OF_NETWORK),
    `
    create_port:mac_address create_port:fixed_ips:ip_address create_port:port_security_enabled update_port:fixed_ips
    update_port:fixed_ips:ip_address update_port:port_security_enabled`,
  ),
  ...rules(
    ADMIN_OR_SERVICE,
    `
    create_port:binding:host_id get_port:binding:vif_type get_port:binding:vif_details get_port:binding:host_id
    get_port:binding:profile update_port:binding:host_id`,
  ),
  ...rules(SERVICE, 'create_port:binding:profile update_port:binding:profile'),
  ...rules(
    any(ADMIN, OF_NETWORK, SERVICE),
    `
    create_port:allowed_address_pairs create_port:allowed_address_pairs:mac_address
    create_port:allowed_address_pairs:ip_address update_port:allowed_address_pairs
    update_port:allowed_address_pairs:mac_address update_port:allowed_address_pairs:ip_address`,
  ),
  ...rules(
    ADMIN,
    `
    create_port:hints create_port:trusted get_port:resource_request get_port:hints get_port:trusted update_port:hints
    update_port:trusted`,
  ),
  ...rules(any(ADMIN, OWN_MEMBER, ADVSVC), 'create_port:tags update_port:tags'),
  ...rules(any(ADMIN, SERVICE, READS_NETWORK, OWN_READ), 'get_port'),
  ...rules(any(ADVSVC, ADMIN, READS_NETWORK, OWN_READ), 'get_port:tags'),
  ...rules(any(ADMIN, SERVICE, OWN_MEMBER), 'update_port update_port:binding:vnic_type'),
  ...rules(any(ADMIN, SERVICE, MANAGES_NETWORK), 'update_port:mac_address'),
  ...rules(any(ADMIN, 'role:data_plane_integrator'), 'update_port:data_plane_status'),
  ...rules(any(ADMIN, SERVICE, OF_NETWORK, OWN_MEMBER), 'delete_port'),
  ...rules(any(ADVSVC, OWN_MEMBER, ADMIN, OF_NETWORK), 'delete_port:tags'),
  // port bindings
  ...rules(ADMIN_OR_SERVICE, 'get_port_binding'),
  ...rules(SERVICE, 'create_port_binding delete_port_binding activate'),
  // qos
  ...rules('field:policies:shared=True', 'shared_qos_policy'),
  ...rules(any(ADMIN, OWN_READ, 'rule:shared_qos_policy'), 'get_policy get_policy:tags'),
  ...rules(MANAGER, 'create_policy create_policy:tags update_policy update_policy:tags delete_policy delete_policy:tags'),
  ...rules(READER, 'get_rule_type'),
  // Who sees a policy sees its rules in it.
  ...rules(
    any(PARENT_READER, 'rule:shared_qos_policy'),
    `
    get_policy_bandwidth_limit_rule get_policy_packet_rate_limit_rule get_policy_dscp_marking_rule
    get_policy_minimum_bandwidth_rule get_policy_minimum_packet_rate_rule get_alias_bandwidth_limit_rule
    get_alias_dscp_marking_rule get_alias_minimum_bandwidth_rule`,
  ),
  ...rules(
    PARENT_MANAGER,
    `
    create_policy_bandwidth_limit_rule update_policy_bandwidth_limit_rule delete_policy_bandwidth_limit_rule
    create_policy_packet_rate_limit_rule update_policy_packet_rate_limit_rule delete_policy_packet_rate_limit_rule
    create_policy_dscp_marking_rule update_policy_dscp_marking_rule delete_policy_dscp_marking_rule
    create_policy_minimum_bandwidth_rule update_policy_minimum_bandwidth_rule delete_policy_minimum_bandwidth_rule
    create_policy_minimum_packet_rate_rule update_policy_minimum_packet_rate_rule delete_policy_minimum_packet_rate_rule
    update_alias_bandwidth_limit_rule delete_alias_bandwidth_limit_rule update_alias_dscp_marking_rule
    delete_alias_dscp_marking_rule update_alias_minimum_bandwidth_rule delete_alias_minimum_bandwidth_rule`,
  ),
  ...rules('rule:get_policy_minimum_packet_rate_rule', 'get_alias_minimum_packet_rate_rule'),
  ...rules('rule:update_policy_minimum_packet_rate_rule', 'update_alias_minimum_packet_rate_rule'),
  ...rules('rule:delete_policy_minimum_packet_rate_rule', 'delete_alias_minimum_packet_rate_rule'),
  // quotas
  ...rules(MANAGER, 'get_quota'),
  ...rules(ADMIN, 'update_quota delete_quota'),
  // rbac
  ...rules(
    any('not field:rbac_policy:target_tenant=* and not field:rbac_policy:target_project=*', ADMIN),
    `
    restrict_wildcard`,
  ),
  ...rules(MEMBER, 'create_rbac_policy update_rbac_policy delete_rbac_policy'),
  ...rules(
    any(ADMIN, 'not field:rbac_policy:target_tenant=* and not field:rbac_policy:target_project=*'),
    `
    create_rbac_policy:target_tenant update_rbac_policy:target_tenant`,
  ),
  ...rules(
    any(ADMIN, 'not field:rbac_policy:target_project=*'),
    `
    create_rbac_policy:target_project update_rbac_policy:target_project`,
  ),
  ...rules(OWN_READER, 'get_rbac_policy'),
  // router
  ...rules(
    MEMBER,
    `
    create_router create_router:external_gateway_info create_router:external_gateway_info:network_id create_router:tags
    update_router update_router:external_gateway_info update_router:external_gateway_info:network_id update_router:tags
    delete_router delete_router:tags add_router_interface remove_router_interface add_extraroutes remove_extraroutes
    add_external_gateways add_external_gateways:external_gateways add_external_gateways:external_gateways:network_id
    update_external_gateways update_external_gateways:external_gateways
    update_external_gateways:external_gateways:network_id remove_external_gateways
    remove_external_gateways:external_gateways`,
  ),
  ...rules(
    ADMIN,
    `
    create_router:distributed create_router:ha create_router:external_gateway_info:enable_snat
    create_router:external_gateway_info:external_fixed_ips create_router:enable_default_route_bfd
    create_router:enable_default_route_ecmp get_router:distributed get_router:ha update_router:distributed
    update_router:ha update_router:external_gateway_info:enable_snat
    update_router:external_gateway_info:external_fixed_ips update_router:enable_default_route_bfd
    update_router:enable_default_route_ecmp add_external_gateways:external_gateways:enable_snat
    add_external_gateways:external_gateways:external_fixed_ips update_external_gateways:external_gateways:enable_snat
    update_external_gateways:external_gateways:external_fixed_ips`,
  ),
  ...rules(OWN_READER, 'get_router get_router:tags'),
  // security group
  ...rules(any('rule:context_is_admin', 'project_id:%(security_group:project_id)s'), 'admin_or_sg_owner'),
  ...rules(any('rule:owner', 'rule:admin_or_sg_owner'), 'admin_owner_or_sg_owner'),
  ...rules('field:security_groups:shared=True', 'shared_security_group'),
  ...rules('field:security_group_rules:belongs_to_default_sg=True', 'rule_default_sg'),
  ...rules(
    MEMBER,
    `
    create_security_group create_security_group:tags update_security_group update_security_group:tags
    delete_security_group delete_security_group:tags`,
  ),
  ...rules(any(ADMIN, OWN_READ, 'rule:shared_security_group'), 'get_security_group get_security_group:tags'),
  ...rules(GROUP_MEMBER, 'create_security_group_rule delete_security_group_rule'),
  ...rules(GROUP_READER, 'get_security_group_rule'),
  // segment
  ...rules(
    ADMIN,
    `
    create_segment create_segments_tags get_segment get_segments_tags update_segment update_segments_tags delete_segment
    delete_segments_tags`,
  ),
  // service type
  ...rules(READER, 'get_service_provider'),
  // subnet
  ...rules('field:subnets:router:external=True', 'external_network'),
  ...rules(NETWORK_MEMBER, 'create_subnet'),
  ...rules(
    ADMIN,
    `
    create_subnet:segment_id create_subnet:service_types get_subnet:segment_id update_subnet:segment_id
    update_subnet:service_types`,
  ),
  ...rules(
    any(OWN_MEMBER, ADMIN, OF_NETWORK),
    `
    create_subnet:tags update_subnet update_subnet:tags delete_subnet delete_subnet:tags`,
  ),
  ...rules(any(OWN_READ, SHARED, 'rule:external_network', ADMIN, READS_NETWORK, SERVICE), 'get_subnet'),
  ...rules(any(OWN_READ, SHARED, 'rule:external_network', ADMIN, READS_NETWORK), 'get_subnet:tags'),
  // subnetpool
  ...rules('field:subnetpools:shared=True', 'shared_subnetpools'),
  ...rules(
    MEMBER,
    `
    create_subnetpool create_subnetpool:tags update_subnetpool update_subnetpool:tags delete_subnetpool
    delete_subnetpool:tags onboard_network_subnets add_prefixes remove_prefixes`,
  ),
  ...rules(ADMIN, 'create_subnetpool:shared create_subnetpool:is_default update_subnetpool:is_default'),
  ...rules(any(ADMIN, OWN_READ, 'rule:shared_subnetpools'), 'get_subnetpool get_subnetpool:tags'),
  // trunk
  ...rules(
    MEMBER,
    `
    create_trunk create_trunk:tags update_trunk update_trunk:tags delete_trunk delete_trunk:tags add_subports
    remove_subports`,
  ),
  ...rules(OWN_READER, 'get_trunk get_trunk:tags get_subports'),
]

const NAMES = new Set(policies.map(rule => rule.name))

/** Whether there is a rule of this name: attributes without one are as free as their noun. */
export const isRule = (name: string): boolean => NAMES.has(name)
