// Segments: how a network is carried. What makes one segment impossible twice is the unique index; free tags and VNIs are found by trying.
import { randomUUID } from 'node:crypto'
import { codeOf, sql, type Tx } from '#kit/db/index.ts'
import { badRequest, conflict } from '#kit/fault.ts'
import type { Env } from '#kit/service.ts'
import { contradicts, noneLeft } from '../faults.ts'
import { neutronSettings } from '../settings.ts'

export interface Segment {
  network_type: string
  physical_network: string | null
  segmentation_id: number | null
}

const TYPES = ['flat', 'vlan', 'vxlan', 'local'] as const
/** Bytes that a tunnel takes from the MTU below it. */
const OVERHEAD: Record<string, number> = { vxlan: 50 }

export const mtuOf = (env: Env, type: string): number => env.config.of(neutronSettings).global_physnet_mtu - (OVERHEAD[type] ?? 0)

/** Checks what a request says of one segment. Throws 400 for what cannot be. */
export async function segmentCheck(env: Env, tx: Tx, wanted: Partial<Segment>): Promise<Segment> {
  const { network_type: type, physical_network: physical = null, segmentation_id: number = null } = wanted
  if (!type) throw contradicts('network_type required')
  if (!(TYPES as readonly string[]).includes(type)) throw contradicts(`network_type value '${type}' not supported`)
  const named = type === 'flat' || type === 'vlan'
  if (named && physical === null) throw contradicts(`physical_network required for ${type} provider network`)
  if (!named && physical !== null) throw contradicts(`physical_network prohibited for ${type} provider network`)
  if (physical !== null && !(await physicalKnown(env, tx, physical))) {
    throw contradicts(`physical_network '${physical}' unknown for ${type} provider network`)
  }
  if (number !== null) {
    if (type === 'flat' || type === 'local') throw contradicts(`segmentation_id prohibited for ${type} provider network`)
    const max = type === 'vlan' ? 4094 : 16777215
    if (number < 1 || number > max) throw contradicts(`segmentation_id out of range (1 through ${max})`)
  }
  return { network_type: type, physical_network: physical, segmentation_id: number }
}

async function physicalKnown(env: Env, tx: Tx, name: string): Promise<boolean> {
  if (env.config.of(neutronSettings).physical_networks.includes(name)) return true
  const { rows } = await sql`select from neutron.host_networks where physical_networks ? ${name} limit 1`.execute(tx)
  return rows.length > 0
}

const TRIES = 8

/** Takes a segment for a network: the one wanted, or any free tag or VNI of the type's range. */
export async function segmentTake(env: Env, tx: Tx, networkId: string, wanted: Segment, index: number): Promise<void> {
  if (wanted.segmentation_id !== null || wanted.network_type === 'flat' || wanted.network_type === 'local') {
    if (!(await insert(tx, networkId, wanted, index))) throw taken(wanted)
    return
  }
  const settings = env.config.of(neutronSettings)
  const { first, last } = wanted.network_type === 'vlan' ? settings.vlan : settings.vni
  for (let left = TRIES; left > 0; left--) {
    const number = first + Math.floor(Math.random() * (last - first + 1))
    if (await insert(tx, networkId, { ...wanted, segmentation_id: number }, index)) return
  }
  for (;;) {
    const number = await gap(tx, wanted, first, last)
    if (number === undefined)
      throw noneLeft('NoNetworkAvailable', 'Unable to create the network. No tenant network is available for allocation.')
    if (await insert(tx, networkId, { ...wanted, segmentation_id: number }, index)) return
  }
}

async function insert(tx: Tx, networkId: string, segment: Segment, index: number): Promise<boolean> {
  const { numInsertedOrUpdatedRows } = await tx
    .insertInto('neutron.segments')
    .values({ id: randomUUID(), network_id: networkId, ...segment, segment_index: index, name: null })
    .onConflict(on => on.doNothing())
    .executeTakeFirst()
  return numInsertedOrUpdatedRows === 1n
}

/** A number of the range that no visible row has; undefined when there is none. */
async function gap(
  tx: Tx,
  { network_type, physical_network }: Segment,
  first: number,
  last: number,
): Promise<number | undefined> {
  const { rows } = await sql<{ number: number }>`
    select c.number from (
      select ${first}::int as number
      union all
      select s.segmentation_id + 1 from neutron.segments s where s.network_type = ${network_type}
        and s.physical_network is not distinct from ${physical_network}::text and s.segmentation_id >= ${first} and s.segmentation_id < ${last}
    ) c
    where not exists (select from neutron.segments t where t.network_type = ${network_type}
      and coalesce(t.physical_network, '') = coalesce(${physical_network}::text, '') and coalesce(t.segmentation_id, 0) = c.number)
    order by random() limit 1`.execute(tx)
  return rows[0]?.number
}

function taken({ network_type, physical_network, segmentation_id }: Segment) {
  const why =
    network_type === 'vlan'
      ? `The VLAN ${segmentation_id} on physical network ${physical_network} is in use.`
      : network_type === 'flat'
        ? `Physical network ${physical_network} is in use.`
        : `The tunnel ID ${segmentation_id} is in use.`
  const type = { vlan: 'VlanIdInUse', flat: 'FlatNetworkInUse' }[network_type] ?? 'TunnelIdInUse'
  return conflict(`Unable to create the network. ${why}`, { type })
}

/** What POST of a network says of its segments: `segments`, or the provider attributes, or nothing. */
export function segmentsAsked(given: Record<string, unknown>, usual: string): Partial<Segment>[] {
  const provider = {
    network_type: given['provider:network_type'] as string | undefined,
    physical_network: given['provider:physical_network'] as string | null | undefined,
    segmentation_id: given['provider:segmentation_id'] as number | null | undefined,
  }
  const said = Object.values(provider).some(value => value !== undefined && value !== null)
  const many = given.segments as Record<string, unknown>[] | undefined
  if (many && many.length > 0) {
    if (said)
      throw badRequest('Segments and provider values cannot both be set.', { type: 'SegmentsSetInConjunctionWithProviders' })
    return many.map(segment => ({
      network_type: segment['provider:network_type'] as string | undefined,
      physical_network: (segment['provider:physical_network'] ?? null) as string | null,
      segmentation_id: (segment['provider:segmentation_id'] ?? null) as number | null,
    }))
  }
  return [said ? provider : { network_type: usual }]
}

export const isTaken = (error: unknown): boolean => codeOf(error) === '23505'
