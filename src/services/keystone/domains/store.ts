import type { Query } from '#kit/db/index.ts'
import { missing } from '../noun.ts'

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
