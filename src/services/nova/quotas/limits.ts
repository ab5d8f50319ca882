/** What a project may use at most: its own quotas over those of the default class over the settings. Usage is counted, never kept. */
import type { Config } from '#kit/config.ts'
import { type Query, sql, type Tx } from '#kit/db/index.ts'
import { overQuota } from '#kit/fault.ts'
import { novaSettings } from '../settings.ts'

export const RESOURCES = [
  'instances',
  'cores',
  'ram',
  'metadata_items',
  'injected_files',
  'injected_file_content_bytes',
  'injected_file_path_bytes',
  'key_pairs',
  'server_groups',
  'server_group_members',
] as const
export type Resource = (typeof RESOURCES)[number]
/** -1 is any number. */
export type Limits = Record<Resource, number>

/** The limits of a class; of `default` and of classes nobody set: the settings'. */
export async function classLimits(db: Query, config: Config, name = 'default'): Promise<Limits> {
  const rows = await db.selectFrom('nova.quota_classes').selectAll().where('class_name', '=', name).execute()
  const limits: Limits = { ...config.of(novaSettings).quota }
  for (const row of rows) limits[row.resource as Resource] = row.hard_limit
  return limits
}

/** The limits of a project, of a user in it when named. */
export async function projectLimits(db: Query, config: Config, projectId: string, userId = ''): Promise<Limits> {
  const rows = await db
    .selectFrom('nova.quota_classes')
    .select(['resource', 'hard_limit', sql<number>`0`.as('rank')])
    .where('class_name', '=', 'default')
    .unionAll(
      db
        .selectFrom('nova.quotas')
        .select(['resource', 'hard_limit', sql<number>`case when user_id = '' then 1 else 2 end`.as('rank')])
        .where('project_id', '=', projectId)
        .where('user_id', 'in', ['', userId]),
    )
    .orderBy('rank')
    .execute()
  const limits: Limits = { ...config.of(novaSettings).quota }
  for (const row of rows) limits[row.resource as Resource] = row.hard_limit
  return limits
}

/** The row that a transaction locks before it counts what a project uses. */
export async function lockProject(tx: Tx, projectId: string): Promise<void> {
  const found = await tx
    .selectFrom('nova.projects')
    .select('project_id')
    .where('project_id', '=', projectId)
    .forUpdate()
    .executeTakeFirst()
  if (found) return
  await tx
    .insertInto('nova.projects')
    .values({ project_id: projectId })
    .onConflict(c => c.doNothing())
    .execute()
  await tx.selectFrom('nova.projects').select('project_id').where('project_id', '=', projectId).forUpdate().execute()
}

/** What the servers of a project use, shelved and failed ones included, soft-deleted ones not. */
export async function serverUsage(
  db: Query,
  projectId: string,
  userId?: string,
): Promise<Record<'instances' | 'cores' | 'ram', number>> {
  let query = db
    .selectFrom('nova.servers')
    .select(eb => [
      eb.fn.countAll<number>().as('instances'),
      eb.fn.coalesce(eb.fn.sum<number>('vcpus'), eb.lit(0)).as('cores'),
      eb.fn.coalesce(eb.fn.sum<number>('memory_mb'), eb.lit(0)).as('ram'),
    ])
    .where('project_id', '=', projectId)
    .where('vm_state', '!=', 'soft-delete')
  if (userId !== undefined) query = query.where('user_id', '=', userId)
  return query.executeTakeFirstOrThrow()
}

/** Whether `used` more than none fits under a limit. */
export const fits = (limit: number, used: number): boolean => limit < 0 || used <= limit

/**
 * How many of `count` servers of this size fit, at least `min`. The project's row must be locked. Throws overQuota naming what is short.
 */
export async function serversAllowed(
  tx: Tx,
  config: Config,
  projectId: string,
  size: { vcpus: number; memory_mb: number },
  min: number,
  count: number,
): Promise<number> {
  const [limits, usage] = await Promise.all([projectLimits(tx, config, projectId), serverUsage(tx, projectId)])
  const each = { instances: 1, cores: size.vcpus, ram: size.memory_mb }
  const short: ('instances' | 'cores' | 'ram')[] = []
  let allowed = count
  for (const resource of ['cores', 'instances', 'ram'] as const) {
    if (limits[resource] < 0 || each[resource] === 0) continue
    const room = Math.max(0, Math.floor((limits[resource] - usage[resource]) / each[resource]))
    if (room < min) short.push(resource)
    allowed = Math.min(allowed, room)
  }
  if (short.length > 0) {
    const list = (values: (r: (typeof short)[number]) => number): string => short.map(values).join(', ')
    throw overQuota(
      `Quota exceeded for ${short.join(', ')}: Requested ${list(r => each[r] * min)}, but already used ${list(r => usage[r])} of ` +
        `${list(r => limits[r])} ${short.join(', ')}`,
    )
  }
  return allowed
}
