/** What a project may use at most: its own quotas over those of the default class over the settings. Usage is counted, never kept. */
import type { Config } from '#kit/config.ts'
import { lock, lockIf, type Query, sql, type Tx } from '#kit/db/index.ts'
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

const lockOf = (projectId: string): string => `nova.quota:${projectId}`

/** What a transaction does before it counts what a project uses, or changes what it may. */
export const lockProject = (tx: Tx, projectId: string): Promise<void> => lock(tx, lockOf(projectId))

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

const SIZES = ['instances', 'cores', 'ram'] as const
type Size = (typeof SIZES)[number]

/** The limit that holds for a project, as SQL. */
const limitSql = (projectId: string, name: Size, usual: number) => sql<number>`coalesce(
  (select q.hard_limit from nova.quotas q where q.project_id = ${projectId} and q.user_id = '' and q.resource = ${sql.lit(name)}),
  (select c.hard_limit from nova.quota_classes c where c.class_name = 'default' and c.resource = ${sql.lit(name)}), ${usual}::int)`

interface Standing {
  limits: Record<Size, number>
  /** null where nothing has a limit: then it is not counted, as a project may have any number of servers. */
  used: Record<Size, number> | null
}

/** Locks what {@link lockProject} locks, but where nothing has a limit together with others; then reads limits and usage. */
async function standingLocked(tx: Tx, config: Config, projectId: string): Promise<Standing> {
  const usual = config.of(novaSettings).quota
  const [instances, cores, ram] = SIZES.map(name => limitSql(projectId, name, usual[name]))
  const read = async (): Promise<Standing> => {
    const { rows } = await sql<Standing>`
      select json_build_object('instances', l.instances, 'cores', l.cores, 'ram', l.ram) as limits,
        case when greatest(l.instances, l.cores, l.ram) >= 0 then (
          select json_build_object('instances', count(*), 'cores', coalesce(sum(s.vcpus), 0), 'ram', coalesce(sum(s.memory_mb), 0))
          from nova.servers s where s.project_id = ${projectId} and s.vm_state <> 'soft-delete') end as used
      from (select ${instances} as instances, ${cores} as cores, ${ram} as ram) l`.execute(tx)
    return rows[0]!
  }
  const limited = sql<boolean>`greatest(${instances}, ${cores}, ${ram}) >= 0`
  // On one connection: the second runs, and sees what was committed, after the first has the lock.
  const [alone, standing] = await Promise.all([lockIf(tx, lockOf(projectId), limited), read()])
  if (alone || standing.used === null) return standing
  await lockProject(tx, projectId) // the limit has come just now
  return read()
}

/**
 * How many of `count` servers of this size fit, at least `min`, until the transaction ends. Throws overQuota naming what is short. Those who
 * have no limit do not wait for each other.
 */
export async function serversAllowed(
  tx: Tx,
  config: Config,
  projectId: string,
  size: { vcpus: number; memory_mb: number },
  min: number,
  count: number,
): Promise<number> {
  const { limits, used } = await standingLocked(tx, config, projectId)
  if (used === null) return count
  const each = { instances: 1, cores: size.vcpus, ram: size.memory_mb }
  const short: Size[] = []
  let allowed = count
  for (const resource of ['cores', 'instances', 'ram'] as const) {
    if (limits[resource] < 0 || each[resource] === 0) continue
    const room = Math.max(0, Math.floor((limits[resource] - used[resource]) / each[resource]))
    if (room < min) short.push(resource)
    allowed = Math.min(allowed, room)
  }
  if (short.length > 0) {
    const list = (values: (r: Size) => number): string => short.map(values).join(', ')
    throw overQuota(
      `Quota exceeded for ${short.join(', ')}: Requested ${list(r => each[r] * min)}, but already used ${list(r => used[r])} of ` +
        `${list(r => limits[r])} ${short.join(', ')}`,
    )
  }
  return allowed
}
