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
  if (Object.keys(bandwidths).length === 0) return
  const parent = root ?? (await placement.providerNamed(tx, host))
  if (!parent) return
  const agent = providerId(parent, BRIDGE_AGENT)
  const name = `${host}:${BRIDGE_AGENT}`
  await placement.providerEnsure(tx, { id: agent, name, parent, root: parent, inventories: {}, traits: [vnicTrait('normal')] })
  for (const [physical, { egress, ingress }] of Object.entries(bandwidths)) {
    const device = devices[physical] ?? physical
    await placement.providerEnsure(tx, {
      id: providerId(parent, device),
      name: `${name}:${device}`,
      parent: agent,
      root: parent,
      inventories: { NET_BW_EGR_KILOBIT_PER_SEC: amount(egress), NET_BW_IGR_KILOBIT_PER_SEC: amount(ingress) },
      traits: [physicalTrait(physical), vnicTrait('normal')],
    })
  }
}
