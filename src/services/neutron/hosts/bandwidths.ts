// What hosts say that their physical networks carry, told to Placement: a provider for the agent below the host's, and one below that for each
// bridge or interface, from which ports take what their policies promise them.
import { createHash } from 'node:crypto'
import type { Query, Tx } from '#kit/db/index.ts'
import * as placement from '#services/placement/index.ts'
import { physicalTrait, vnicTrait } from '../qos/request.ts'
import type { Bandwidth } from '../verbs.ts'

export const BRIDGE_AGENT = 'Linux bridge agent'

/** The same for the same host and name. */
function providerId(root: string, name: string): string {
  const hex = createHash('sha256').update(`${root} ${name}`).digest('hex')
  return hex.replace(/^(.{8})(.{4}).(.{3}).(.{3})(.{12}).*$/, '$1-$2-5$3-8$4-$5')
}

const amount = (total: number): placement.Inventory => ({
  total,
  reserved: 0,
  min_unit: 1,
  max_unit: total,
  step_size: 1,
  allocation_ratio: 1,
})

interface Said {
  resource_provider_bandwidths?: Record<string, Bandwidth>
  interface_mappings?: Record<string, string>
}

async function saidBy(db: Query, host: string): Promise<Said> {
  const agent = await db
    .selectFrom('neutron.agents')
    .select('configurations')
    .where('host', '=', host)
    .where('agent_type', '=', BRIDGE_AGENT)
    .executeTakeFirst()
  return (agent?.configurations ?? {}) as Said
}

/**
 * Makes the providers of a host's physical networks what its agent said. `root` is the provider of the host, by default the one of its name:
 * whoever comes last of the host's two halves, its compute and its network agent, finds the other's word. Does nothing where one is missing.
 */
export async function bandwidthsTell(tx: Tx, host: string, root?: string): Promise<void> {
  const { resource_provider_bandwidths: bandwidths = {}, interface_mappings: devices = {} } = await saidBy(tx, host)
  const parent = root ?? (await placement.providerNamed(tx, host))
  if (!parent) return
  const there = await placement.nestedTotals(tx, parent)
  const agent = providerId(parent, BRIDGE_AGENT)
  const name = `${host}:${BRIDGE_AGENT}`
  const below = { parent: agent, root: parent }
  const wanted = new Map(
    Object.entries(bandwidths).map(([physical, { egress, ingress }]): [string, Wanted] => {
      const device = devices[physical] ?? physical
      const totals = { NET_BW_EGR_KILOBIT_PER_SEC: egress, NET_BW_IGR_KILOBIT_PER_SEC: ingress }
      return [providerId(parent, device), { name: `${name}:${device}`, physical, totals }]
    }),
  )
  const missing = [...wanted].filter(([id, { totals }]) => !same(there.get(id)?.totals, totals))
  if (missing.length > 0)
    await placement.providerEnsure(tx, { id: agent, name, parent, root: parent, inventories: {}, traits: [vnicTrait('normal')] })
  for (const [id, { name, physical, totals }] of missing) {
    const inventories = Object.fromEntries(Object.entries(totals).map(([of, total]) => [of, amount(total)]))
    await placement.providerEnsure(tx, {
      id,
      name,
      ...below,
      inventories,
      traits: [physicalTrait(physical), vnicTrait('normal')],
    })
  }
  // What is not said any more has nothing left to give, but for what is taken of it.
  for (const [id, { name: of }] of there)
    if (!wanted.has(id) && of.startsWith(`${name}:`))
      await placement.providerEnsure(tx, { id, name: of, ...below, inventories: {}, traits: [] })
}

interface Wanted {
  name: string
  physical: string
  totals: Record<string, number>
}

const same = (a: Record<string, number> | undefined, b: Record<string, number>): boolean =>
  a !== undefined && Object.keys(b).every(name => a[name] === b[name])
