import type { Context } from '#kit/context.ts'
import { type Query, sql } from '#kit/db/index.ts'
import { forbidden, notFound } from '#kit/fault.ts'
import { seesAll } from '../api/resource.ts'

export const policyGone = (id: string) => notFound(`QoS policy ${id} could not be found.`, { type: 'QosPolicyNotFound' })

/** Throws QosPolicyNotFound unless the policy is there and the caller may use it. */
export async function qosUsable(db: Query, ctx: Context, id: string): Promise<void> {
  if (!(await isUsable(db, ctx, id))) throw policyGone(id)
}

/**
 * Whether something may follow another policy (null: none; undefined: nothing is asked) than it does. Throws QosPolicyNotFound for one that the
 * caller may not use, and PolicyRemoveNotAuthorized (403) where an administrator put something under one that it may not.
 */
export async function qosChange(db: Query, ctx: Context, before: unknown, after: unknown): Promise<void> {
  if (after === undefined || after === before) return
  if (typeof before === 'string' && !(await isUsable(db, ctx, before))) {
    throw forbidden(`The request to remove policy ${before} is not authorized.`, { type: 'PolicyRemoveNotAuthorized' })
  }
  if (typeof after === 'string') await qosUsable(db, ctx, after)
}

async function isUsable(db: Query, ctx: Context, id: string): Promise<boolean> {
  const shared = sql<boolean>`exists (select from neutron.rbac_policies r where r.object_type = 'qos_policy' and r.object_id = q.id
    and r.target_project in ('*', ${ctx.projectId ?? ''}))`
  const row = await db
    .selectFrom('neutron.qos_policies as q')
    .select('q.id')
    .where('q.id', '=', id)
    .where(eb => (seesAll(ctx) ? eb.lit(true) : eb.or([eb('q.project_id', '=', ctx.projectId ?? ''), shared])))
    .executeTakeFirst()
  return row !== undefined
}

/** The policy that a project's new networks follow; null: none. */
export async function qosDefault(db: Query, projectId: string): Promise<string | null> {
  const row = await db
    .selectFrom('neutron.qos_policies')
    .select('id')
    .where('project_id', '=', projectId)
    .where('is_default', '=', true)
    .executeTakeFirst()
  return row?.id ?? null
}
