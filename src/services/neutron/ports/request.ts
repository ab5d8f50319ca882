// A port that a server has already follows another policy: what it was promised of its host changes with it.
import { sql, type Tx } from '#kit/db/index.ts'
import { conflict, Fault } from '#kit/fault.ts'
import * as placement from '#services/placement/index.ts'
import type { Row } from '../api/resource.ts'
import type { NetworkFacts } from '../networks/facts.ts'
import { type Pledge, pledgePossible, pledgesOf, type RequestGroup, requestGroups } from '../qos/request.ts'

const isBandwidth = (group: RequestGroup): boolean => Object.keys(group.resources).some(name => name.startsWith('NET_BW_'))

/**
 * Gives a port what its new policy promises of the provider that served the old one; `values` gets the binding's profile that says so. A port
 * to which nothing was promised when it was bound stays so until its server moves. Throws conflict where the provider has not enough.
 */
export async function requestChange(tx: Tx, row: Row, facts: NetworkFacts, values: Row): Promise<void> {
  if (values.qos_policy_id === undefined || values.qos_policy_id === row.qos_policy_id) return
  const policy = (values.qos_policy_id as string | null) ?? facts.qos_policy_id
  const id = row.id as string
  await pledgePossible(tx, policy, facts, id)
  const { allocation, ...profile } = row.profile as Row & { allocation?: Record<string, string> }
  if (!allocation) return
  const asking = { id, vnicType: row.vnic_type as string, physicalNetwork: row.physical as string | null }
  const pledges = (await sql<{ pledges: Pledge[] | null }>`select ${pledgesOf(sql`${policy}::text`)} as pledges`.execute(tx))
    .rows[0]!
  const [before, after] = [
    requestGroups({ ...asking, pledges: row.pledges as Pledge[] | null }),
    requestGroups({ ...asking, ...pledges }),
  ]
  const by: Record<string, Record<string, number>> = {}
  const now: Record<string, string> = {}
  const add = (provider: string, { resources }: RequestGroup, sign: 1 | -1): void => {
    const at = (by[provider] ??= {})
    for (const name in resources) at[name] = (at[name] ?? 0) + sign * resources[name]!
  }
  for (const group of before) if (allocation[group.id]) add(allocation[group.id]!, group, -1)
  for (const group of after) {
    const same = before.find(one => isBandwidth(one) === isBandwidth(group))
    const provider = same && allocation[same.id]
    if (!provider) continue
    add(provider, group, 1)
    now[group.id] = provider
  }
  try {
    await placement.allocationsAdjust(tx, row.device_id as string, by)
  } catch (error) {
    if (!(error instanceof Fault) || error.kind !== 'conflict') throw error
    throw conflict(`The port ${id} cannot be given what policy ${String(policy)} promises: ${error.message}`, {
      type: 'QosPlacementAllocationUpdateConflict',
      cause: error,
    })
  }
  values['binding:profile'] = Object.keys(now).length > 0 ? { ...profile, allocation: now } : profile
}
