import { type Query, sql, type Tx } from '#kit/db/index.ts'
import { forbidden, notFound } from '#kit/fault.ts'
import { denied } from '../auth/locate.ts'
import { stale } from '../tokens/stale.ts'
import { trustChain } from '../tokens/token.ts'

/** What a login in the name of a trust needs of it. */
export interface TrustScope {
  id: string
  trustorId: string
  projectId?: string
  impersonation: boolean
  /** seconds since 1970 */
  expires?: number
  limited: boolean
}

const alive = (row: { deleted_at: Date | null; expires_at: Date | null; remaining_uses: number | null }): boolean =>
  row.deleted_at === null && (row.expires_at === null || row.expires_at.getTime() > Date.now()) && row.remaining_uses !== 0

/** The trust, if `userId` is its trustee and it can be used. Throws unauthorized or forbidden. */
export async function trustForAuth(db: Query, id: string, userId: string): Promise<TrustScope> {
  const chain = await trustChain(db, id)
  const [trust] = chain
  if (
    !trust ||
    !chain.every(row => row.deleted_at === null && (row.expires_at === null || row.expires_at.getTime() > Date.now()))
  )
    throw denied()
  if (!alive(trust)) throw denied()
  if (trust.trustee_user_id !== userId)
    throw forbidden('You are not authorized to perform the requested action: User is not a trustee.')
  return {
    id,
    trustorId: trust.trustor_user_id,
    ...(trust.project_id !== null && { projectId: trust.project_id }),
    impersonation: trust.impersonation,
    ...(trust.expires_at && { expires: trust.expires_at.getTime() / 1000 }),
    limited: trust.remaining_uses !== null,
  }
}

/** Takes one use from a trust with a limited number. Throws forbidden when another login took the last. */
export async function trustConsume(tx: Tx, id: string): Promise<void> {
  const done = await tx
    .updateTable('keystone.trusts')
    .set({ remaining_uses: sql<number>`remaining_uses - 1` })
    .where('id', '=', id)
    .where('remaining_uses', '>', 0)
    .executeTakeFirst()
  if (done.numUpdatedRows === 0n)
    throw forbidden('You are not authorized to perform the requested action: The trust has no remaining uses.')
}

/** Marks trusts deleted, with all that were passed on from them, and kills their tokens. */
export async function trustsDelete(tx: Tx, ids: string[]): Promise<void> {
  if (ids.length === 0) return
  const rows = await tx
    .withRecursive('doomed', cte =>
      cte
        .selectFrom('keystone.trusts')
        .select('id')
        .where('id', 'in', ids)
        .union(cte.selectFrom('keystone.trusts as t').innerJoin('doomed as d', 't.redelegated_trust_id', 'd.id').select('t.id')),
    )
    .updateTable('keystone.trusts')
    .set({ deleted_at: sql<Date>`now()` })
    .where('id', 'in', eb => eb.selectFrom('doomed').select('id'))
    .where('deleted_at', 'is', null)
    .returning('id')
    .execute()
  await stale(tx, ...rows.map(row => `trust:${row.id}`))
}

/** A trust that is neither deleted nor expired. Throws notFound. */
export async function trustFetch(db: Query, id: string) {
  const row = await db
    .selectFrom('keystone.trusts')
    .selectAll()
    .where('id', '=', id)
    .where('deleted_at', 'is', null)
    .executeTakeFirst()
  if (!row || row.remaining_uses === 0 || (row.expires_at && row.expires_at.getTime() <= Date.now()))
    throw notFound(`Could not find trust: ${id}.`)
  return row
}
