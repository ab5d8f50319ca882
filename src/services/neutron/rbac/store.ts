import { randomUUID } from 'node:crypto'
import type { Tx } from '#kit/db/index.ts'

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
