/** A server's group: its members are the servers that name it. */
import type { Context } from '#kit/context.ts'
import type { Query, Tx } from '#kit/db/index.ts'
import { badRequest, overQuota } from '#kit/fault.ts'
import type { Env } from '#kit/service.ts'
import { fits, projectLimits } from '../quotas/limits.ts'

/** Checks that servers may join the group, and locks it. Throws badRequest for an unknown group, overQuota for a full one. */
export async function groupJoin(
  tx: Tx,
  env: Env,
  ctx: Pick<Context, 'projectId'>,
  groupId: string,
  count: number,
): Promise<void> {
  const group = await tx
    .selectFrom('nova.server_groups')
    .select('id')
    .where('id', '=', groupId)
    .where('project_id', '=', ctx.projectId)
    .forUpdate()
    .executeTakeFirst()
  if (!group) throw badRequest(`Instance group ${groupId} could not be found.`)
  const limits = await projectLimits(tx, env.config, ctx.projectId ?? '')
  const { members } = await tx
    .selectFrom('nova.servers')
    .select(eb => eb.fn.countAll<number>().as('members'))
    .where('group_id', '=', groupId)
    .executeTakeFirstOrThrow()
  if (!fits(limits.server_group_members, members + count)) throw overQuota('Quota exceeded, too many servers in group')
}

/** The group with the hosts of its members, as the scheduler needs it; null for no group. */
export async function groupHosts(db: Query, groupId: string | null, except: string) {
  if (groupId === null) return null
  const group = await db.selectFrom('nova.server_groups').select(['policy', 'rules']).where('id', '=', groupId).executeTakeFirst()
  if (!group) return null
  const rows = await db
    .selectFrom('nova.servers')
    .select('host')
    .where('group_id', '=', groupId)
    .where('id', '!=', except)
    .where('host', 'is not', null)
    .execute()
  return { ...group, hosts: rows.map(row => row.host!) }
}
