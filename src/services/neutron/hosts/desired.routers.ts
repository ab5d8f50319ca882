// The routers that should run on a host: legs, addresses translated, routes, and who may ask them for metadata.
import { type Query, sql } from '#kit/db/index.ts'
import { type QosRuleRow, qosOf } from '../qos/desired.ts'
import type {
  DesiredHelper,
  DesiredMetadataGuest,
  DesiredMeter,
  DesiredPortForwarding,
  DesiredRouter,
  DesiredRouterPort,
} from '../verbs.ts'

interface RouterRow {
  id: string
  enableSnat: boolean
  routes: DesiredRouter['routes']
  legs: (DesiredRouterPort & { owner: string; gatewayIps: string[] })[]
  floatingIps: DesiredRouter['floatingIps']
  portForwardings: DesiredPortForwarding[]
  meters: DesiredMeter[]
  /** Outer addresses that follow a policy, with its rules. */
  limited: { ip: string; rules: QosRuleRow[] }[]
  helpers: DesiredHelper[]
}

/** Addresses of the router `r` on outside networks, with the policy of each: its own or the network's. */
const LIMITED = sql`
  select host(f.floating_ip_address) as ip, coalesce(f.qos_policy_id, n.qos_policy_id) as policy
  from neutron.floating_ips f join neutron.networks n on n.id = f.floating_network_id where f.router_id = r.id
  union all
  select host(a.ip), coalesce(r.gateway_qos_policy_id, n.qos_policy_id)
  from neutron.ports p join neutron.ip_allocations a on a.port_id = p.id join neutron.networks n on n.id = p.network_id
  where p.device_id = r.id and p.device_owner = 'network:router_gateway'`

/** Routers of a host that are switched on. */
export async function desiredRouters(db: Query, host: string): Promise<DesiredRouter[]> {
  const { rows } = await sql<RouterRow>`
    select r.id, r.enable_snat as "enableSnat", r.routes,
      coalesce((select jsonb_agg(jsonb_build_object('portId', p.id, 'networkId', p.network_id, 'owner', p.device_owner,
        'addresses', (select coalesce(jsonb_agg(jsonb_build_object('ip', host(a.ip), 'prefixLength', masklen(s.cidr), 'subnetId', s.id)
          order by a.place), '[]') from neutron.ip_allocations a join neutron.subnets s on s.id = a.subnet_id where a.port_id = p.id),
        'gatewayIps', array(select host(s.gateway_ip) from neutron.ip_allocations a join neutron.subnets s on s.id = a.subnet_id
          where a.port_id = p.id and s.gateway_ip is not null order by a.place)) order by p.id)
        from neutron.ports p where p.device_id = r.id and p.device_owner like 'network:router%' and p.host = ${host}), '[]') as legs,
      coalesce((select jsonb_agg(jsonb_build_object('id', f.id, 'floating', host(f.floating_ip_address), 'fixed', host(f.fixed_ip_address))
        order by f.id) from neutron.floating_ips f where f.router_id = r.id and f.port_id is not null), '[]') as "floatingIps",
      coalesce((select jsonb_agg(jsonb_build_object('id', w.id, 'floating', host(f.floating_ip_address), 'protocol', w.protocol,
        'externalMin', w.external_first, 'externalMax', w.external_last, 'fixed', host(w.internal_ip_address),
        'internalMin', w.internal_first, 'internalMax', w.internal_last) order by w.id)
        from neutron.port_forwardings w join neutron.floating_ips f on f.id = w.floatingip_id where f.router_id = r.id), '[]') as "portForwardings",
      coalesce((select jsonb_agg(jsonb_build_object('id', l.id, 'rules', (select coalesce(jsonb_agg(jsonb_build_object(
          'direction', m.direction, 'excluded', m.excluded,
          'source', case m.direction when 'ingress' then coalesce(m.source_ip_prefix, m.remote_ip_prefix) else m.source_ip_prefix end,
          'destination', case m.direction when 'egress' then coalesce(m.destination_ip_prefix, m.remote_ip_prefix)
            else m.destination_ip_prefix end) order by m.id), '[]')
        from neutron.metering_label_rules m where m.metering_label_id = l.id
          and family(coalesce(m.remote_ip_prefix, m.source_ip_prefix, m.destination_ip_prefix)) = 4)) order by l.id)
        from neutron.metering_labels l where l.project_id = r.project_id or l.shared), '[]') as meters,
      coalesce((select jsonb_agg(jsonb_build_object('ip', o.ip, 'rules', (select jsonb_agg(jsonb_build_object('type', q.type,
          'direction', q.direction, 'params', q.params)) from neutron.qos_rules q where q.policy_id = o.policy)) order by o.ip)
        from (${LIMITED}) o where exists (select from neutron.qos_rules q where q.policy_id = o.policy)), '[]') as limited,
      coalesce((select jsonb_agg(jsonb_build_object('helper', c.helper, 'protocol', c.protocol, 'port', c.port) order by c.id)
        from neutron.conntrack_helpers c where c.router_id = r.id), '[]') as helpers
    from neutron.router_bindings b join neutron.routers r on r.id = b.router_id
    where b.host = ${host} and r.admin_state_up order by r.id`.execute(db)
  if (rows.length === 0) return []
  const guests = await guestsOf(
    db,
    rows.map(row => row.id),
  )
  return rows.map(row => routerOf(row, guests.get(row.id) ?? []))
}

function routerOf(row: RouterRow, metadata: DesiredMetadataGuest[]): DesiredRouter {
  const gateway = row.legs.find(leg => leg.owner === 'network:router_gateway')
  const plain = ({ portId, networkId, addresses }: DesiredRouterPort): DesiredRouterPort => ({ portId, networkId, addresses })
  return {
    id: row.id,
    interfaces: row.legs.filter(leg => leg !== gateway).map(plain),
    gateway: gateway ? { ...plain(gateway), gatewayIps: gateway.gatewayIps, enableSnat: row.enableSnat } : null,
    floatingIps: row.floatingIps,
    portForwardings: row.portForwardings,
    routes: row.routes,
    metadata,
    meters: row.meters,
    limits: row.limited.flatMap(({ ip, rules }) => {
      const qos = qosOf(rules)
      return qos ? [{ ip, egress: qos.egress, ingress: qos.ingress }] : []
    }),
    helpers: row.helpers,
  }
}

/** Ports behind each router, by address: who it is that asks for metadata. */
async function guestsOf(db: Query, routerIds: readonly string[]): Promise<Map<string, DesiredMetadataGuest[]>> {
  const { rows } = await sql<DesiredMetadataGuest & { router: string }>`
    select l.device_id as router, host(a.ip) as ip, a.network_id as "networkId", p.id as "portId", p.device_id as "deviceId"
    from neutron.ports l join neutron.ip_allocations la on la.port_id = l.id join neutron.ip_allocations a on a.subnet_id = la.subnet_id
    join neutron.ports p on p.id = a.port_id and p.device_owner not like 'network:%' and p.device_id <> ''
    where l.device_id = any(${[...routerIds]}::text[]) and l.device_owner like 'network:router_interface%' order by 1, a.ip`.execute(
    db,
  )
  const byRouter = Map.groupBy(rows, row => row.router)
  return new Map([...byRouter].map(([id, list]) => [id, list.map(({ router: _router, ...guest }) => guest)]))
}
