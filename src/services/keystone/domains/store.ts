import type { Query, Tx } from '#kit/db/index.ts'
import { emit } from '#kit/events.ts'
import { forbidden } from '#kit/fault.ts'
import type { Env } from '#kit/service.ts'
import { domainDeleted } from '../events.ts'
import { groupsLetGo } from '../groups/store.ts'
import { identityOf } from '../identity.ts'
import { missing, type Row } from '../noun.ts'
import { projectLetGo } from '../projects/store.ts'
import { revoke } from '../tokens/stale.ts'
import { usersLetGo } from '../users/store.ts'

/** Throws notFound unless there is such a domain. */
export async function domainMustExist(db: Query, id: string): Promise<void> {
  const row = await db
    .selectFrom('keystone.projects')
    .select('id')
    .where('id', '=', id)
    .where('is_domain', '=', true)
    .executeTakeFirst()
  if (!row) throw missing('domain', id)
}

/** Refuses to delete a domain that is in use; else all that lives in it goes. The row itself is the caller's. */
export async function domainGone(tx: Tx, env: Env, row: Row): Promise<void> {
  if (row.enabled) throw forbidden('Cannot delete a domain that is enabled, please disable it first.')
  if (row.id === identityOf(env).settings.identity.default_domain_id)
    throw forbidden('You are not authorized to perform the requested action: delete the default domain.')
  await contentsDelete(tx, row.id)
}

/** Deletes all that lives in a domain: users, groups, projects from the leaves up, limits, assignments. */
async function contentsDelete(tx: Tx, domain: string): Promise<void> {
  const users = await tx.selectFrom('keystone.users').select('id').where('domain_id', '=', domain).execute()
  await usersLetGo(
    tx,
    users.map(user => user.id),
  )
  await tx.deleteFrom('keystone.users').where('domain_id', '=', domain).execute()
  const groups = await tx.selectFrom('keystone.groups').select('id').where('domain_id', '=', domain).execute()
  await groupsLetGo(
    tx,
    groups.map(group => group.id),
  )
  await tx.deleteFrom('keystone.groups').where('domain_id', '=', domain).execute()
  const projects = await tx.selectFrom('keystone.projects').select(['id', 'domain_id']).where('domain_id', '=', domain).execute()
  await projectLetGo(tx, projects)
  // One statement, so that parents and children may go in any order.
  await tx.deleteFrom('keystone.projects').where('domain_id', '=', domain).execute()
  await tx.deleteFrom('keystone.assignments').where('target', '=', 'domain').where('target_id', '=', domain).execute()
  await revoke(tx, { domain_id: domain })
  await emit(tx, domainDeleted, { id: domain })
}
