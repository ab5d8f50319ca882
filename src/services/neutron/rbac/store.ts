import { randomUUID } from 'node:crypto'
import { type RawBuilder, sql, type Tx } from '#kit/db/index.ts'

/** Shares an object with every project. Does nothing where it is. */
export async function rbacShare(tx: Tx, owner: string, type: string, id: string, action: string, target = '*'): Promise<void> {
  await tx
    .insertInto('neutron.rbac_policies')
    .values({ id: randomUUID(), project_id: owner, object_type: type, object_id: id, action, target_project: target })
    .onConflict(on => on.doNothing())
    .execute()
}

/** Takes back that an object is shared with every project. */
export async function rbacUnshare(tx: Tx, type: string, id: string, action: string): Promise<void> {
  await tx
    .deleteFrom('neutron.rbac_policies')
    .where('object_type', '=', type)
    .where('object_id', '=', id)
    .where('action', '=', action)
    .where('target_project', '=', '*')
    .execute()
}

/** Forgets all sharing of an object that is gone. */
export async function rbacForget(tx: Tx, type: string, id: string): Promise<void> {
  await tx.deleteFrom('neutron.rbac_policies').where('object_type', '=', type).where('object_id', '=', id).execute()
}

/**
 * Whether a project uses an object by one sharing alone: one of those in `bound` (a query that gives `project_id`) that `target` reaches and no
 * other sharing does, nor `next`, whom it reaches afterwards. For '*' the owner counts as any other, as upstream.
 */
export async function sharingUsed(
  tx: Tx,
  sharing: { type: string; id: string; action: string; target: string },
  bound: RawBuilder<unknown>,
  next = '',
): Promise<boolean> {
  const { type, id, action, target } = sharing
  const { rows } = await sql`
    select from (${bound}) u where (${target === '*'} or u.project_id = ${target}) and ${next} not in ('*', u.project_id) and not exists (
      select from neutron.rbac_policies o where o.object_type = ${type} and o.object_id = ${id} and o.action = ${action}
        and o.target_project <> ${target} and o.target_project in ('*', u.project_id)) limit 1`.execute(tx)
  return rows.length > 0
}

/** The projects whose networks and ports follow a QoS policy. */
export const boundToQos = (id: string) => sql`select project_id from neutron.networks where qos_policy_id = ${id}
  union all select project_id from neutron.ports where qos_policy_id = ${id}`
