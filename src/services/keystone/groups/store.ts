import type { Tx } from '#kit/db/index.ts'
import { emit } from '#kit/events.ts'
import { groupDeleted } from '../events.ts'
import { stale } from '../tokens/stale.ts'

/** Takes away what belongs to groups but has no foreign key to them, and makes their members' tokens be looked at again. */
export async function groupsLetGo(tx: Tx, ids: string[]): Promise<void> {
  if (ids.length === 0) return
  const members = await tx.selectFrom('keystone.memberships').select('user_id').distinct().where('group_id', 'in', ids).execute()
  await tx.deleteFrom('keystone.assignments').where('actor', '=', 'group').where('actor_id', 'in', ids).execute()
  await stale(tx, ...members.map(member => `user:${member.user_id}`))
  for (const id of ids) await emit(tx, groupDeleted, { id })
}
