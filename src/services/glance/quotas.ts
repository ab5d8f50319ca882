/**
 * Quotas of images: Keystone's unified limits, of those resources that are registered for the image service. What counts is what the rows say.
 *
 * Counts are checked with what is asked for added. Sizes are checked as Glance does: who is not over the limit yet may store one more image, whose size
 * nobody knows in advance.
 */
import { lock, type Query, sql, type Tx } from '#kit/db/index.ts'
import { overQuota } from '#kit/fault.ts'
import { route } from '#kit/http/route.ts'
import { limitsOf } from '#services/keystone/index.ts'

export const RESOURCES = ['image_size_total', 'image_stage_total', 'image_count_total', 'image_count_uploading'] as const
export type Resource = (typeof RESOURCES)[number]

/** What a project uses: sizes in MiB. */
export async function usageOf(db: Query, projectId: string): Promise<Record<Resource, number>> {
  const { rows } = await sql<Record<Resource, number>>`
    select
      coalesce(sum(size * (select count(*) from jsonb_array_elements(locations) l where l ->> 'file' is not null)), 0)::bigint / 1048576
        as image_size_total,
      coalesce(sum(stage_size), 0)::bigint / 1048576 as image_stage_total,
      count(*) as image_count_total,
      count(*) filter (where status in ('saving', 'uploading', 'importing')) as image_count_uploading
    from glance.images where owner = ${projectId}`.execute(db)
  return rows[0]!
}

/**
 * Throws overQuota when the project has no room for what is added (0: when it is over the limit already). Projects come one after the other until the
 * transaction ends, so that two requests cannot both take the last place.
 */
export async function quotaEnforce(tx: Tx, projectId: string | null, added: Partial<Record<Resource, number>>): Promise<void> {
  if (projectId === null) return
  const limits = await limitsOf(tx, { serviceType: 'image', projectId })
  if (!RESOURCES.some(name => limits.has(name) && name in added)) return
  await lock(tx, `glance.quota:${projectId}`)
  const used = await usageOf(tx, projectId)
  for (const [name, more] of Object.entries(added) as [Resource, number][]) {
    const limit = limits.get(name)
    if (limit === undefined || limit < 0 || used[name] + more <= limit) continue
    throw overQuota(
      `Project ${projectId} is over a limit for [Resource ${name} is over limit of ${limit} due to current usage ${used[name]} and delta ${more}]`,
    )
  }
}

export const usageRoute = route({
  method: 'GET',
  path: '/info/usage',
  policy: null,
  async handle({ db, ctx }) {
    if (ctx.projectId === null) return { usage: {} }
    const limits = await limitsOf(db, { serviceType: 'image', projectId: ctx.projectId })
    const used = await usageOf(db, ctx.projectId)
    const shown = RESOURCES.filter(name => limits.has(name))
    return { usage: Object.fromEntries(shown.map(name => [name, { usage: used[name], limit: limits.get(name) }])) }
  },
})
