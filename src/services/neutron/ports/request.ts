// A port that a server has already follows another policy: what it was promised of its host changes with it.
import { sql, type Tx } from '#kit/db/index.ts'
import { conflict, Fault } from '#kit/fault.ts'
import * as placement from '#services/placement/index.ts'
import type { Row } from '../api/resource.ts'
import type { NetworkFacts } from '../networks/facts.ts'
import { type Pledge, pledgePossible, pledgesOf, requestOfRow } from '../qos/request.ts'

/**
 * Gives a port what its new policy promises of the provider that served the old one; `values` gets the binding's profile that says so. A port
 * to which nothing was promised when it was bound stays so until its server moves. Throws conflict where the provider has not enough.
 */
export async function requestChange(tx: Tx, row: Row, facts: NetworkFacts, values: Row): Promise<void> {
  if (values.qos_policy_id === undefined || values.qos_policy_id === row.qos_policy_id) return
  const policy = (values.qos_policy_id as string | null) ?? facts.qos_policy_id
  await pledgePossible(tx, policy, facts, row.id as string)
  const { allocation: provider, ...profile } = row.profile as Row
  if (typeof provider !== 'string') return
  const { rows } = await sql<{ pledges: Pledge[] | null }>`select ${pledgesOf(sql`${policy}::text`)} as pledges`.execute(tx)
  const [before, after] = [requestOfRow(row), requestOfRow({ ...row, ...rows[0] })]
  const by: Record<string, number> = {}
  for (const [name, amount] of Object.entries(before?.resources ?? {})) by[name] = -amount
  for (const [name, amount] of Object.entries(after?.resources ?? {})) by[name] = (by[name] ?? 0) + amount
  try {
    await placement.allocationsAdjust(tx, row.device_id as string, { [provider]: by })
  } catch (error) {
    if (!(error instanceof Fault) || error.kind !== 'conflict') throw error
    throw conflict(`Port ${String(row.id)} cannot be given what policy ${String(policy)} promises: ${error.message}`, {
      type: 'QosPlacementAllocationUpdateConflict',
      cause: error,
    })
  }
  if (!after) values['binding:profile'] = profile
}
