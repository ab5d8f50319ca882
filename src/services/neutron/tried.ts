import { hasShape, type Tried } from '#kit/http/tried.ts'

/** One of each noun. Flavors, profiles, agents, segments and the rules of every new group are the administrator's. */
export const tried: Tried = {
  async make({ owner, admin, projectId }) {
    const one = async (plural: string, name: string, body: object, ask = owner): Promise<string> =>
      (await ask(`POST /v2.0/${plural}`, { [name]: body }))[name].id
    const outside = (await owner('GET /v2.0/networks?router:external=true')).networks[0].id
    const network = await one('networks', 'network', { name: 'tried' })
    const scope = await one('address-scopes', 'address_scope', { name: 'tried', ip_version: 4 })
    const pool = await one('subnetpools', 'subnetpool', { name: 'tried', prefixes: ['10.77.0.0/16'], default_prefixlen: 24 })
    const subnet = await one('subnets', 'subnet', { name: 'tried', network_id: network, ip_version: 4, cidr: '10.78.0.0/24' })
    const group = await one('security-groups', 'security_group', { name: 'tried' })
    const rule = await one('security-group-rules', 'security_group_rule', { security_group_id: group, direction: 'ingress' })
    const addresses = await one('address-groups', 'address_group', { name: 'tried', addresses: ['10.0.0.0/8'] })
    const port = await one('ports', 'port', { name: 'tried', network_id: network })
    const router = await one('routers', 'router', { name: 'tried', external_gateway_info: { network_id: outside } })
    await owner(`PUT /v2.0/routers/${router}/add_router_interface`, { subnet_id: subnet })
    const floating = await one('floatingips', 'floatingip', { floating_network_id: outside })
    const forwarding = await one(`floatingips/${floating}/port_forwardings`, 'port_forwarding', {
      protocol: 'tcp',
      internal_port_id: port,
      internal_port: 22,
      external_port: 2222,
      internal_ip_address: (await owner(`GET /v2.0/ports/${port}`)).port.fixed_ips[0].ip_address,
    })
    const reading = { protocol: 'tcp', port: 21, helper: 'ftp' }
    const helper = await one(`routers/${router}/conntrack_helpers`, 'conntrack_helper', reading)
    const policy = { object_type: 'network', object_id: network, action: 'access_as_shared', target_tenant: 'nobody' }
    const share = await one('rbac-policies', 'rbac_policy', policy)
    const segment = (await admin(`GET /v2.0/segments?network_id=${network}`)).segments[0].id
    const profile = await one('service_profiles', 'service_profile', { description: 'tried', metainfo: '{}' }, admin)
    const qos = await one('qos/policies', 'policy', { name: 'tried', project_id: projectId }, admin)
    const rules: Record<string, string> = {}
    for (const [kind, limit] of Object.entries(QOS)) {
      const id = await one(`qos/policies/${qos}/${kind}_rules`, `${kind}_rule`, limit, admin)
      rules[`/qos/policies/:/${kind}_rules/:`] = id
      rules[`/qos/alias_${kind}_rules/:`] = id
    }
    const label = await one('metering/metering-labels', 'metering_label', { name: 'tried', project_id: projectId }, admin)
    const counted = { metering_label_id: label, direction: 'ingress', remote_ip_prefix: '203.0.113.0/24' }
    const counter = await one('metering/metering-label-rules', 'metering_label_rule', counted, admin)
    // Its first reading makes it.
    await owner(`GET /v2.0/auto-allocated-topology/${projectId}`)
    const ids: Record<string, string> = {
      '/metering/metering-labels/:': label,
      '/metering/metering-label-rules/:': counter,
      '/qos/policies/:': qos,
      '/policies/:': qos,
      '/policies/:/tags/:': 'one',
      ...rules,
      '/networks/:': network,
      '/subnets/:': subnet,
      '/subnetpools/:': pool,
      '/address-scopes/:': scope,
      '/address-groups/:': addresses,
      '/ports/:': port,
      '/routers/:': router,
      '/floatingips/:': floating,
      '/floatingips/:/port_forwardings/:': forwarding,
      '/routers/:/conntrack_helpers/:': helper,
      '/security-groups/:': group,
      '/security-group-rules/:': rule,
      '/rbac-policies/:': share,
      '/segments/:': segment,
      '/service_profiles/:': profile,
      '/quotas/:': projectId,
      '/network-ip-availabilities/:': network,
      '/auto-allocated-topology/:': projectId,
    }
    for (const noun of TAGGED) {
      if (ids[`/${noun}/:`]) await owner(`PUT /v2.0/${noun}/${ids[`/${noun}/:`]}/tags/one`).catch(() => {})
      ids[`/${noun}/:/tags/:`] = 'one'
    }
    return ids
  },
  async shared({ admin, made }) {
    const { agents } = await admin('GET /v2.0/agents')
    const { default_security_group_rules: rules } = await admin('GET /v2.0/default-security-group-rules')
    const { flavor } = await admin('POST /v2.0/flavors', { flavor: { name: 'tried', service_type: 'L3_ROUTER_NAT' } })
    return {
      '/extensions/:': 'router',
      '/agents/:': agents[0].id,
      '/agents/:/dhcp-networks/:': made.neutron?.['/networks/:'] ?? agents[0].id,
      '/agents/:/l3-routers/:': made.neutron?.['/routers/:'] ?? agents[0].id,
      '/default-security-group-rules/:': rules[0].id,
      '/default-security-group-rules/:/tags/:': 'one',
      '/flavors/:': flavor.id,
      '/flavors/:/service_profiles/:': flavor.id,
    }
  },
  bodies: ids => {
    const bodies: Record<string, unknown> = {
      'PUT /routers/:id/add_router_interface': { subnet_id: ids['/subnets/:'] },
      'PUT /routers/:id/remove_router_interface': { subnet_id: ids['/subnets/:'] },
      'PUT /routers/:id/add_extraroutes': { router: { routes: [{ destination: '10.9.0.0/24', nexthop: '10.78.0.9' }] } },
      'PUT /routers/:id/remove_extraroutes': { router: { routes: [{ destination: '10.9.0.0/24', nexthop: '10.78.0.9' }] } },
      'PUT /quotas/:project': { quota: { network: 20 } },
      'PUT /subnetpools/:id/add_prefixes': { prefixes: ['10.79.0.0/16'] },
      'PUT /subnetpools/:id/remove_prefixes': { prefixes: ['10.79.0.0/16'] },
      'PUT /subnetpools/:id/onboard_network_subnets': { network_id: ids['/networks/:'] },
      'PUT /address-groups/:id/add_addresses': { address_group: { addresses: ['10.80.0.0/16'] } },
      'PUT /address-groups/:id/remove_addresses': { address_group: { addresses: ['10.80.0.0/16'] } },
      'POST /agents/:id/dhcp-networks': { network_id: ids['/networks/:'] },
      'POST /agents/:id/l3-routers': { router_id: ids['/routers/:'] },
      'POST /flavors/:id/service_profiles': { service_profile: { id: ids['/service_profiles/:'] } },
      'POST /floatingips/:floatingip_id/port_forwardings': {
        port_forwarding: { protocol: 'tcp', internal_port: 80, external_port: 8080, internal_port_id: ids['/ports/:'] },
      },
    }
    for (const [plural, name] of Object.entries(SINGULAR)) bodies[`PUT /${plural}/:id`] = { [name]: { description: 'x' } }
    bodies['PUT /floatingips/:floatingip_id/port_forwardings/:id'] = { port_forwarding: { external_port: 8081 } }
    bodies['POST /routers/:router_id/conntrack_helpers'] = { conntrack_helper: { protocol: 'udp', port: 69, helper: 'tftp' } }
    bodies['PUT /routers/:router_id/conntrack_helpers/:id'] = { conntrack_helper: { port: 2121 } }
    bodies['PUT /agents/:id'] = { agent: { admin_state_up: true } }
    bodies['PUT /rbac-policies/:id'] = { rbac_policy: { target_tenant: 'somebody' } }
    bodies['PUT /address-scopes/:id'] = { address_scope: { name: 'other' } }
    for (const noun of TAGGED) for (const verb of ['PUT', 'POST']) bodies[`${verb} /${noun}/:id/tags`] = { tags: ['two'] }
    return bodies
  },
  borrowing(ids, foreign) {
    const cidr = { ip_version: 4, cidr: '10.90.0.0/24' }
    const rule = { security_group_id: ids['/security-groups/:'], direction: 'ingress' }
    return [
      ['POST /v2.0/ports', { port: { network_id: ids['/networks/:'] } }],
      ['POST /v2.0/subnets', { subnet: { network_id: ids['/networks/:'], ...cidr } }],
      ['POST /v2.0/security-group-rules', { security_group_rule: rule }],
      ['POST /v2.0/floatingips', { floatingip: { floating_network_id: ids['/networks/:'] } }],
      ['POST /v2.0/routers', { router: { external_gateway_info: { network_id: ids['/networks/:'] } } }],
      [
        'POST /v2.0/subnetpools',
        { subnetpool: { name: 'x', prefixes: ['10.91.0.0/16'], address_scope_id: ids['/address-scopes/:'] } },
      ],
      ['POST /v2.0/networks', { network: { name: 'x', tenant_id: ids['/quotas/:'] } }],
      [
        'POST /v2.0/rbac-policies',
        {
          rbac_policy: {
            object_type: 'network',
            object_id: ids['/networks/:'],
            action: 'access_as_shared',
            target_tenant: foreign,
          },
        },
      ],
    ]
  },
  refusal: (body, status) => {
    const { NeutronError, error } = (body ?? {}) as { NeutronError?: unknown; error?: unknown }
    return status === 401
      ? hasShape(error, { code: 'number', message: 'string' })
      : hasShape(NeutronError, { type: 'string', message: 'string', detail: 'string' })
  },
}

const QOS: Record<string, object> = {
  bandwidth_limit: { max_kbps: 1000 },
  dscp_marking: { dscp_mark: 10 },
  minimum_bandwidth: { min_kbps: 1 },
}

const SINGULAR: Record<string, string> = {
  networks: 'network',
  subnets: 'subnet',
  subnetpools: 'subnetpool',
  'address-groups': 'address_group',
  ports: 'port',
  routers: 'router',
  floatingips: 'floatingip',
  'security-groups': 'security_group',
  segments: 'segment',
  flavors: 'flavor',
  service_profiles: 'service_profile',
}

const TAGGED = [
  'networks',
  'subnets',
  'subnetpools',
  'address-groups',
  'ports',
  'routers',
  'floatingips',
  'security-groups',
  'security-group-rules',
  'segments',
  'default-security-group-rules',
]
