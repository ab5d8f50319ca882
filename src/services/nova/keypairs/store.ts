/** Key pairs in the database. They belong to users, not to projects. */
import { isDuplicate, lock, page, type Query, type Selectable, type Tx } from '#kit/db/index.ts'
import { badRequest, conflict, notFound, overQuota } from '#kit/fault.ts'
import type { KeypairsTable } from '../tables.ts'

export type Keypair = Selectable<KeypairsTable>

/** A user's key pair. Throws notFound. */
export async function keypairFetch(db: Query, userId: string, name: string): Promise<Keypair> {
  const row = await db
    .selectFrom('nova.keypairs')
    .selectAll()
    .where('user_id', '=', userId)
    .where('name', '=', name)
    .executeTakeFirst()
  if (!row) throw notFound(`Keypair ${name} not found for user ${userId}`)
  return row
}

/** A page of a user's key pairs by name. Throws badRequest for an unknown marker. */
export async function keypairList(
  db: Query,
  userId: string,
  { limit, marker }: { limit: number; marker: string | null },
): Promise<Keypair[]> {
  const query = db.selectFrom('nova.keypairs').selectAll().where('user_id', '=', userId)
  if (marker !== null && !(await query.where('name', '=', marker).executeTakeFirst())) {
    throw badRequest(`Marker ${marker} could not be found.`)
  }
  return page(query, [{ column: 'name', dir: 'asc' }], { after: marker === null ? undefined : [marker], limit }) as Promise<
    Keypair[]
  >
}

export const keypairCount = async (db: Query, userId: string): Promise<number> =>
  (
    await db
      .selectFrom('nova.keypairs')
      .select(eb => eb.fn.countAll<number>().as('count'))
      .where('user_id', '=', userId)
      .executeTakeFirstOrThrow()
  ).count

/** Writes a key pair within the user's limit (-1: none). Throws overQuota, and conflict when the name is taken. */
export async function keypairCreate(
  tx: Tx,
  key: Pick<Keypair, 'user_id' | 'name' | 'type' | 'fingerprint' | 'public_key'>,
  limit: number,
): Promise<Keypair> {
  await lock(tx, `nova.keypairs ${key.user_id}`)
  if (limit >= 0 && (await keypairCount(tx, key.user_id)) >= limit) {
    throw overQuota('Quota exceeded, too many key pairs.')
  }
  try {
    return await tx.insertInto('nova.keypairs').values(key).returningAll().executeTakeFirstOrThrow()
  } catch (error) {
    if (!isDuplicate(error)) throw error
    throw conflict(`Key pair '${key.name}' already exists.`, { cause: error })
  }
}

/** Deletes a user's key pair. Throws notFound. */
export async function keypairDelete(tx: Tx, userId: string, name: string): Promise<void> {
  const { numDeletedRows } = await tx
    .deleteFrom('nova.keypairs')
    .where('user_id', '=', userId)
    .where('name', '=', name)
    .executeTakeFirstOrThrow()
  if (numDeletedRows === 0n) throw notFound(`Keypair ${name} not found for user ${userId}`)
}
