import type { Tx } from '#kit/db/index.ts'
import { type Event, emit } from '#kit/events.ts'
import { projectDeleted } from '../events.ts'
import { revoke, stale } from '../tokens/stale.ts'
import { trustsDelete } from '../trusts/store.ts'

/** Takes away what belongs to projects but has no foreign key to them, kills their tokens, and tells the other services. */
export async function projectLetGo(tx: Tx, rows: { id: string; domain_id: string | null }[]): Promise<void> {
  const ids = rows.map(row => row.id)
  if (ids.length === 0) return
  await tx.deleteFrom('keystone.assignments').where('target', 'in', ['project', 'domain']).where('target_id', 'in', ids).execute()
  await tx.deleteFrom('keystone.credentials').where('project_id', 'in', ids).execute()
  await tx.updateTable('keystone.users').set({ default_project_id: null }).where('default_project_id', 'in', ids).execute()
  const trusts = await tx.selectFrom('keystone.trusts').select('id').where('project_id', 'in', ids).execute()
  await trustsDelete(
    tx,
    trusts.map(trust => trust.id),
  )
  for (const { id, domain_id } of rows) {
    await revoke(tx, { project_id: id })
    await emit(tx, projectDeleted as Event<{ id: string; domainId: string | null }>, { id, domainId: domain_id })
  }
  await stale(tx, 'catalog')
}
