import { randomUUID } from 'node:crypto'
import { type Query, sql, type Tx } from '#kit/db/index.ts'

/** How many rules a new group that is not the default one begins with. */
export async function templateCount(tx: Tx): Promise<number> {
  const { n } = await tx
    .selectFrom('neutron.default_security_group_rules')
    .select(sql<number>`count(*)::int`.as('n'))
    .where('used_in_non_default_sg', '=', true)
    .executeTakeFirstOrThrow()
  return n
}

/**
 * Writes a new group's rules out of the templates. `PARENT` in a template stands for the group itself.
 */
export async function templateRules(tx: Tx, group: { id: string; projectId: string; isDefault: boolean }): Promise<void> {
  const used = group.isDefault ? sql`used_in_default_sg` : sql`used_in_non_default_sg`
  await sql`
    insert into neutron.security_group_rules
      (id, project_id, security_group_id, direction, ethertype, protocol, port_range_min, port_range_max, remote_ip_prefix,
       remote_group_id, remote_address_group_id)
    select gen_random_uuid()::text, ${group.projectId}, ${group.id}, direction, ethertype, protocol, port_range_min, port_range_max,
      remote_ip_prefix, case remote_group_id when 'PARENT' then ${group.id} else remote_group_id end, remote_address_group_id
    from neutron.default_security_group_rules where ${used}`.execute(tx)
}

/** The id of a project's default group, if it has been made. */
export const defaultGroupFind = async (db: Query, projectId: string): Promise<string | undefined> =>
  (
    await db
      .selectFrom('neutron.security_groups')
      .select('id')
      .where('project_id', '=', projectId)
      .where('is_default', '=', sql.lit(true)) // in the text, so that the index of those is used by prepared statements too
      .executeTakeFirst()
  )?.id

/** The id of a project's default group, which is made on first use. */
export async function defaultGroup(tx: Tx, projectId: string): Promise<string> {
  const there = await defaultGroupFind(tx, projectId)
  if (there !== undefined) return there
  const id = randomUUID()
  const made = await tx
    .insertInto('neutron.security_groups')
    .values({ id, project_id: projectId, name: 'default', description: 'Default security group', is_default: true })
    .onConflict(on => on.doNothing())
    .returning('id')
    .executeTakeFirst()
  // Somebody else made it meanwhile: the insert waited for them to commit.
  if (!made) return (await defaultGroupFind(tx, projectId))!
  await templateRules(tx, { id, projectId, isDefault: true })
  return id
}

/** The ids among these that the project may use: its own, and those shared with it. */
export async function usableGroups(
  db: Query,
  ids: readonly string[],
  projectId: string,
  everything: boolean,
): Promise<Set<string>> {
  if (ids.length === 0) return new Set()
  const shared = sql<boolean>`exists (select from neutron.rbac_policies r where r.object_type = 'security_group'
    and r.object_id = g.id and r.action = 'access_as_shared' and r.target_project in ('*', ${projectId}))`
  const rows = await db
    .selectFrom('neutron.security_groups as g')
    .select('g.id')
    .where('g.id', 'in', [...ids])
    .where(eb => (everything ? eb.lit(true) : eb.or([eb('g.project_id', '=', projectId), shared])))
    .execute()
  return new Set(rows.map(row => row.id))
}
