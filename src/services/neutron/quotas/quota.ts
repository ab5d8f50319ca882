// Quota: limits by project and resource, usage counted over the rows themselves. Whoever counts in order to decide holds the project's
// lock, so that a hundred requests at once cannot all see the last free place.
import { lock, lockIf, type Query, sql, type Tx } from '#kit/db/index.ts'
import { exceeded } from '../faults.ts'

/** Every resource with a limit: its default (-1: none) and the condition-free count of one project's rows. */
export const RESOURCES = {
  network: { limit: 100, table: 'neutron.networks' },
  subnet: { limit: 100, table: 'neutron.subnets' },
  port: { limit: 500, table: 'neutron.ports' },
  router: { limit: 10, table: 'neutron.routers' },
  floatingip: { limit: 50, table: 'neutron.floating_ips' },
  security_group: { limit: 10, table: 'neutron.security_groups' },
  security_group_rule: { limit: 100, table: 'neutron.security_group_rules' },
  subnetpool: { limit: -1, table: 'neutron.subnetpools' },
  rbac_policy: { limit: 10, table: 'neutron.rbac_policies' },
  trunk: { limit: -1, table: 'neutron.trunks' },
} as const

export type Resource = keyof typeof RESOURCES

export const isResource = (name: string): name is Resource => Object.hasOwn(RESOURCES, name)

/** The limit of every resource, from the configuration or our own defaults. */
export function defaultLimits(configured: Record<string, number>): Record<Resource, number> {
  const entries = Object.entries(RESOURCES).map(([name, { limit }]) => [name, configured[name] ?? limit])
  return Object.fromEntries(entries) as Record<Resource, number>
}

/** A project's own limits, where it has any. */
export async function limitsOf(db: Query, projectId: string): Promise<Partial<Record<Resource, number>>> {
  const rows = await db.selectFrom('neutron.quotas').select(['resource', 'limit']).where('project_id', '=', projectId).execute()
  return Object.fromEntries(rows.map(row => [row.resource, row.limit]))
}

/** How much a project has of each of these resources: one query. */
export async function usageOf(db: Query, projectId: string, resources: readonly Resource[]): Promise<Record<string, number>> {
  const counts = resources.map(
    name => sql`(select count(*) from ${sql.table(RESOURCES[name].table)} where project_id = ${projectId}) as ${sql.ref(name)}`,
  )
  const { rows } = await sql<Record<string, number>>`select ${sql.join(counts)}`.execute(db)
  return rows[0]!
}

/** The limit that holds for a project, as SQL. */
const limitOf = (projectId: string, name: Resource, usual: number) => sql<number>`coalesce(
  (select q."limit" from neutron.quotas q where q.project_id = ${projectId} and q.resource = ${name}), ${usual}::int)`

/** What is left of each; null: without limit. What has no limit is not counted: a project may have any number of it. */
async function roomOf(
  db: Query,
  usual: Record<Resource, number>,
  projectId: string,
  names: readonly Resource[],
): Promise<Record<string, number | null>> {
  const rooms = names.map(
    name => sql`(select case when l.most >= 0
      then l.most - (select count(*) from ${sql.table(RESOURCES[name].table)} where project_id = ${projectId}) end
      from (select ${limitOf(projectId, name, usual[name])} as most) l) as ${sql.ref(name)}`,
  )
  const { rows } = await sql<Record<string, number | null>>`select ${sql.join(rooms)}`.execute(db)
  return rows[0]!
}

/** Whether so much of a resource would fit now. Only a claim makes sure of it. */
export async function quotaFits(
  db: Query,
  configured: Record<string, number>,
  projectId: string,
  name: Resource,
): Promise<(wanted: number) => boolean> {
  const { [name]: room } = await roomOf(db, defaultLimits(configured), projectId, [name])
  return wanted => room === null || wanted <= room!
}

/**
 * Claims room for what the transaction is about to write: locks the project's quota, counts, and throws OverQuota (409) naming every
 * resource that would not fit. Those who write what has no limit do not wait for each other, only for a change of the limits. Resources that
 * belong to nobody (a project of '') have no quota.
 */
export async function quotaClaim(
  tx: Tx,
  configured: Record<string, number>,
  projectId: string,
  wanted: Partial<Record<Resource, number>>,
): Promise<void> {
  const names = (Object.keys(wanted) as Resource[]).filter(name => wanted[name]! > 0)
  if (projectId === '' || names.length === 0) return
  const usual = defaultLimits(configured)
  const limits = names.map(name => limitOf(projectId, name, usual[name]))
  // Queued on the transaction's one connection: each runs, and takes its snapshot, after the one before it.
  const [alone, first] = await Promise.all([
    lockIf(tx, quotaLock(projectId), sql<boolean>`greatest(${sql.join(limits)}) >= 0`),
    roomOf(tx, usual, projectId, names),
  ])
  let room = first
  if (!alone && names.some(name => room[name] !== null)) {
    await lock(tx, quotaLock(projectId)) // the limit has come just now
    room = await roomOf(tx, usual, projectId, names)
  }
  const over = names.filter(name => room[name] !== null && wanted[name]! > room[name]!)
  if (over.length > 0) throw exceeded(over)
}

/** The lock of whoever counts in order to decide, and of whoever changes the limits. */
export const quotaLock = (projectId: string): string => `neutron.quota:${projectId}`
