import type { Tx } from '#kit/db/index.ts'
import { emit } from '#kit/events.ts'
import { userDeleted } from '../events.ts'
import { revoke } from '../tokens/stale.ts'
import { trustsDelete } from '../trusts/store.ts'

/** Takes away what belongs to users but has no foreign key to them, kills their tokens, and tells the other services. */
export async function usersLetGo(tx: Tx, ids: string[]): Promise<void> {
  if (ids.length === 0) return
  await tx.deleteFrom('keystone.assignments').where('actor', '=', 'user').where('actor_id', 'in', ids).execute()
  await tx.deleteFrom('keystone.memberships').where('user_id', 'in', ids).execute()
  await tx.deleteFrom('keystone.credentials').where('user_id', 'in', ids).execute()
  await tx.deleteFrom('keystone.app_creds').where('user_id', 'in', ids).execute()
  await tx.deleteFrom('keystone.access_rules').where('user_id', 'in', ids).execute()
  await tx.deleteFrom('keystone.access_tokens').where('user_id', 'in', ids).execute()
  const trusts = await tx
    .selectFrom('keystone.trusts')
    .select('id')
    .where(eb => eb.or([eb('trustor_user_id', 'in', ids), eb('trustee_user_id', 'in', ids)]))
    .execute()
  await trustsDelete(
    tx,
    trusts.map(trust => trust.id),
  )
  for (const id of ids) {
    await revoke(tx, { user_id: id })
    await emit(tx, userDeleted, { id })
  }
}
