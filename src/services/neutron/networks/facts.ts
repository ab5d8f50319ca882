import { type Query, sql } from '#kit/db/index.ts'
import { gone } from '../faults.ts'
import type { AllocSubnet } from '../ports/allocate.ts'

/** A subnet of it, with what guests are told. */
export interface NetworkSubnet extends AllocSubnet {
  enable_dhcp: boolean
  dns_nameservers: string[]
  host_routes: { destination: string; nexthop: string }[]
}

/** What must be known of a network before something is attached to it. */
export interface NetworkFacts {
  id: string
  name: string
  project_id: string
  admin_state_up: boolean
  external: boolean
  port_security_enabled: boolean
  mtu: number
  dns_domain: string
  qos_policy_id: string | null
  /** Shared with the project that asks. */
  shared: boolean
  /** External to the project that asks: made so for everybody, or for it. */
  external_to: boolean
  physical: string | null
  type: string
  subnets: NetworkSubnet[]
}

/** Rows that say an object is shared (or external) to a project. `object` is a column that holds the object's id. */
export const granted = (type: string, action: string, object: string, projectId: string | null) => sql<boolean>`exists (
  select from neutron.rbac_policies rb where rb.object_type = ${sql.lit(type)} and rb.action = ${sql.lit(action)}
  and rb.object_id = ${sql.ref(object)} and rb.target_project in ('*', ${projectId ?? ''}))`

const SUBNETS = sql<
  NetworkSubnet[]
>`coalesce((select jsonb_agg(jsonb_build_object('id', s.id, 'network_id', s.network_id, 'cidr', s.cidr,
  'ip_version', s.ip_version, 'gateway_ip', host(s.gateway_ip), 'allocation_pools', s.allocation_pools,
  'ipv6_address_mode', s.ipv6_address_mode, 'service_types', s.service_types, 'segment_id', s.segment_id,
  'enable_dhcp', s.enable_dhcp, 'dns_nameservers', s.dns_nameservers, 'host_routes', s.host_routes) order by s.created_at, s.id)
  from neutron.subnets s where s.network_id = n.id), '[]')`

const facts = (db: Query, projectId: string | null) =>
  db
    .selectFrom('neutron.networks as n')
    .leftJoin('neutron.segments as g', on => on.onRef('g.network_id', '=', 'n.id').on('g.segment_index', '=', 0))
    .select([
      'n.id',
      'n.name',
      'n.project_id',
      'n.admin_state_up',
      'n.external',
      'n.port_security_enabled',
      'n.mtu',
      'n.dns_domain',
      'n.qos_policy_id',
      'g.physical_network as physical',
      sql<string>`coalesce(g.network_type, 'local')`.as('type'),
      granted('network', 'access_as_shared', 'n.id', projectId).as('shared'),
      granted('network', 'access_as_external', 'n.id', projectId).as('external_to'),
      SUBNETS.as('subnets'),
    ])

/** One network with its subnets, as a project sees it. Throws NetworkNotFound. */
export async function networkFacts(db: Query, id: string, projectId: string | null): Promise<NetworkFacts> {
  const row = await facts(db, projectId).where('n.id', '=', id).executeTakeFirst()
  if (!row) throw gone.network(id)
  return row as NetworkFacts
}

/** Several networks at once, those that exist. */
export async function networksFacts(db: Query, ids: readonly string[], projectId: string | null): Promise<NetworkFacts[]> {
  if (ids.length === 0) return []
  return (await facts(db, projectId)
    .where('n.id', 'in', [...ids])
    .execute()) as NetworkFacts[]
}

/** The networks that a project may attach servers to without naming one: its own and those shared with it, the oldest first. */
export async function networksUsable(db: Query, projectId: string): Promise<NetworkFacts[]> {
  const rows = await facts(db, projectId)
    .where(eb => eb.or([eb('n.project_id', '=', projectId), granted('network', 'access_as_shared', 'n.id', projectId)]))
    .orderBy('n.created_at')
    .orderBy('n.id')
    .execute()
  return (rows as NetworkFacts[]).filter(network => !network.external || network.shared)
}
