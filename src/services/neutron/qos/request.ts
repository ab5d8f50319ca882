// What a port's policy pledges it: bandwidth on its physical network, packets per second. The host that its server goes to must have that left, which
// Placement counts; so the promise is a request in Placement's words.
import { createHash } from 'node:crypto'
import { type Query, sql } from '#kit/db/index.ts'
import { conflict } from '#kit/fault.ts'
import type { Row } from '../api/resource.ts'
import type { NetworkFacts } from '../networks/facts.ts'
import type { QosRuleRow } from './desired.ts'

/** All of it comes from one provider. */
export interface RequestGroup {
  id: string
  required: string[]
  resources: Record<string, number>
}

/** A rule that pledges something. */
export type Pledge = QosRuleRow & { id: string }

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

const WAYS: Record<string, string> = { egress: 'EGR_', ingress: 'IGR_', any: '' }

/** A UUID of version 5: the same for the same port and rules. */
function groupId(port: string, rules: readonly Pledge[]): string {
  const hash = createHash('sha1').update(Buffer.from(port.replaceAll('-', ''), 'hex'))
  const bytes = hash.update(rules.map(rule => rule.id).join()).digest()
  bytes[6] = (bytes[6]! & 0x0f) | 0x50
  bytes[8] = (bytes[8]! & 0x3f) | 0x80
  return bytes.toString('hex', 0, 16).replace(/^(.{8})(.{4})(.{4})(.{4})(.{12})$/, '$1-$2-$3-$4-$5')
}

/** The requests of one port, bandwidth first. */
export function requestGroups({ id, vnicType, physicalNetwork, pledges }: Asking): RequestGroup[] {
  const group = (type: string, value: string, what: string, unit: string, required: string[]): RequestGroup[] => {
    const rules = (pledges ?? []).filter(rule => rule.type === type && rule.params[value]! > 0)
    if (rules.length === 0) return []
    const of = (rule: Pledge): [string, number] => [
      `NET_${what}_${WAYS[rule.direction ?? 'any']}${unit}_PER_SEC`,
      rule.params[value]!,
    ]
    return [{ id: groupId(id, rules), required, resources: Object.fromEntries(rules.map(of)) }]
  }
  const vnic = vnicTrait(vnicType)
  return [
    ...(physicalNetwork === null
      ? []
      : group('minimum_bandwidth', 'min_kbps', 'BW', 'KILOBIT', [physicalTrait(physicalNetwork), vnic])),
    ...group('minimum_packet_rate', 'min_kpps', 'PACKET_RATE', 'KILOPACKET', [vnic]),
  ]
}

/** The pledges of a policy, as a column; null: none. */
export const pledgesOf = (policy: ReturnType<typeof sql>) => sql<Pledge[] | null>`(
  select jsonb_agg(jsonb_build_object('id', q.id, 'type', q.type, 'direction', q.direction, 'params', q.params) order by q.id)
  from neutron.qos_rules q where q.policy_id = ${policy} and q.type in ('minimum_bandwidth', 'minimum_packet_rate'))`

/** The physical network of a network's first segment, as a column. */
export const physicalOfNetwork = (network: ReturnType<typeof sql>) =>
  sql<string | null>`(select g.physical_network from neutron.segments g where g.network_id = ${network} and g.segment_index = 0)`

/** What these ports ask of their hosts, by port; those that ask nothing are left out. */
export async function portRequests(db: Query, portIds: readonly string[]): Promise<Map<string, RequestGroup[]>> {
  if (portIds.length === 0) return new Map()
  const { rows } = await sql<Asking>`
    select p.id, p.vnic_type as "vnicType", ${physicalOfNetwork(sql`p.network_id`)} as "physicalNetwork",
      ${pledgesOf(sql`coalesce(p.qos_policy_id, n.qos_policy_id)`)} as pledges
    from neutron.ports p join neutron.networks n on n.id = p.network_id where p.id = any(${[...portIds]}::text[])`.execute(db)
  const asked = rows.map((row): [string, RequestGroup[]] => [row.id, requestGroups(row)])
  return new Map(asked.filter(([, groups]) => groups.length > 0))
}

/** `resource_request` of a port's row that has the columns `pledges` and `physical`. */
export function requestShown(row: Row): Row | null {
  const groups = requestGroups({
    id: row.id as string,
    vnicType: row.vnic_type as string,
    physicalNetwork: row.physical as string | null,
    pledges: row.pledges as Pledge[] | null,
  })
  return groups.length === 0 ? null : { request_groups: groups, same_subtree: groups.map(group => group.id) }
}

const unsupported = (port: string) =>
  conflict(`Rule minimum_bandwidth is not supported by port ${port}`, { type: 'QosRuleNotSupported' })

/** Throws where a policy pledges bandwidth to a port whose network has no physical one that could be measured. */
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
