// What a port's policy promises it of its physical network. The host that its server goes to must have that left, which Placement counts; so the
// promise is a request in Placement's words.
import { type Query, sql } from '#kit/db/index.ts'
import { conflict } from '#kit/fault.ts'
import type { Row } from '../api/resource.ts'
import type { NetworkFacts } from '../networks/facts.ts'
import type { QosRuleRow } from './desired.ts'

/** All of it comes from one provider that has the traits. `id` is the port's. */
export interface PortRequest {
  id: string
  required: string[]
  resources: Record<string, number>
}

/** A rule that promises something. */
export type Pledge = QosRuleRow

export interface Asking {
  id: string
  vnicType: string
  /** Of the network's first segment; null: none. */
  physicalNetwork: string | null
  pledges: readonly Pledge[] | null
}

const trait = (kind: string, name: string): string => `CUSTOM_${kind}_${name.toUpperCase().replace(/[^A-Z0-9_]/g, '_')}`

export const physicalTrait = (name: string): string => trait('PHYSNET', name)
export const vnicTrait = (type: string): string => trait('VNIC_TYPE', type)

const CLASSES: Record<string, string> = { egress: 'NET_BW_EGR_KILOBIT_PER_SEC', ingress: 'NET_BW_IGR_KILOBIT_PER_SEC' }

/** What a port asks of its host; null: nothing. */
export function requestOf({ id, vnicType, physicalNetwork, pledges }: Asking): PortRequest | null {
  const asked = (pledges ?? []).filter(rule => rule.params.min_kbps! > 0)
  if (physicalNetwork === null || asked.length === 0) return null
  return {
    id,
    required: [physicalTrait(physicalNetwork), vnicTrait(vnicType)],
    resources: Object.fromEntries(asked.map(rule => [CLASSES[rule.direction!]!, rule.params.min_kbps!])),
  }
}

/** The promises of a policy, as a column; null: none. */
export const pledgesOf = (policy: ReturnType<typeof sql>) => sql<Pledge[] | null>`(
  select jsonb_agg(jsonb_build_object('type', q.type, 'direction', q.direction, 'params', q.params) order by q.id)
  from neutron.qos_rules q where q.policy_id = ${policy} and q.type = 'minimum_bandwidth')`

/** The physical network of a network's first segment, as a column. */
export const physicalOfNetwork = (network: ReturnType<typeof sql>) =>
  sql<string | null>`(select g.physical_network from neutron.segments g where g.network_id = ${network} and g.segment_index = 0)`

/** What these ports ask of their hosts; those that ask nothing are left out. */
export async function portRequests(db: Query, portIds: readonly string[]): Promise<PortRequest[]> {
  if (portIds.length === 0) return []
  const { rows } = await sql<Asking>`
    select p.id, p.vnic_type as "vnicType", ${physicalOfNetwork(sql`p.network_id`)} as "physicalNetwork",
      ${pledgesOf(sql`coalesce(p.qos_policy_id, n.qos_policy_id)`)} as pledges
    from neutron.ports p join neutron.networks n on n.id = p.network_id where p.id = any(${[...portIds]}::text[])`.execute(db)
  return rows.flatMap(row => requestOf(row) ?? [])
}

/** The same of a port's row that has the columns `pledges` and `physical`. */
export const requestOfRow = (row: Row): PortRequest | null =>
  requestOf({
    id: row.id as string,
    vnicType: row.vnic_type as string,
    physicalNetwork: row.physical as string | null,
    pledges: row.pledges as Pledge[] | null,
  })

const unsupported = (port: string) =>
  conflict(`Rule minimum_bandwidth is not supported by port ${port}`, { type: 'QosRuleNotSupported' })

/** Throws where a policy promises bandwidth to a port whose network has no physical one that could be measured. */
export async function pledgePossible(db: Query, policy: string | null, network: NetworkFacts, port: string): Promise<void> {
  if (policy === null || network.physical !== null) return
  const { rows } =
    await sql`select from neutron.qos_rules q where q.policy_id = ${policy} and q.type = 'minimum_bandwidth' limit 1`.execute(db)
  if (rows.length > 0) throw unsupported(port)
}

/** The same for all ports that follow a policy to which a promise is added. */
export async function pledgeAddable(db: Query, policy: string): Promise<void> {
  const { rows } = await sql<{ id: string }>`
    select p.id from neutron.ports p where p.qos_policy_id = ${policy} and ${physicalOfNetwork(sql`p.network_id`)} is null
    union all select p.id from neutron.networks n join neutron.ports p on p.network_id = n.id and p.qos_policy_id is null
      and p.device_owner not like 'network:%'
    where n.qos_policy_id = ${policy} and ${physicalOfNetwork(sql`n.id`)} is null limit 1`.execute(db)
  if (rows[0]) throw unsupported(rows[0].id)
}
