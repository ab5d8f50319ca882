/** Tokens that open a console once. The database has their hashes only. */
import { createHash, randomBytes } from 'node:crypto'
import { type Query, type Selectable, sql, type Tx } from '#kit/db/index.ts'
import type { ConsoleTokensTable } from '../tables.ts'

export type ConsoleToken = Selectable<ConsoleTokensTable>

const hashOf = (token: string): string => createHash('sha256').update(token).digest('hex')

/** Makes a token for a server's console. Returns it; it is kept nowhere. */
export async function consoleTokenMake(
  tx: Tx,
  of: { serverId: string; host: string; kind: 'vnc' | 'serial'; consoleType: string },
  seconds: number,
): Promise<string> {
  const token = randomBytes(32).toString('base64url')
  await tx.deleteFrom('nova.console_tokens').where('expires_at', '<', sql<Date>`now()`).execute()
  await tx
    .insertInto('nova.console_tokens')
    .values({
      hash: hashOf(token),
      server_id: of.serverId,
      host: of.host,
      kind: of.kind,
      console_type: of.consoleType,
      expires_at: sql<Date>`now() + ${seconds} * interval '1 second'`,
    })
    .execute()
  return token
}

/** What a token opens; undefined when it is unknown, used or expired. */
export const consoleTokenFind = (db: Query, token: string): Promise<ConsoleToken | undefined> =>
  db
    .selectFrom('nova.console_tokens')
    .selectAll()
    .where('hash', '=', hashOf(token))
    .where('expires_at', '>', sql<Date>`now()`)
    .executeTakeFirst()

/** Uses a token up. Of several who try at once, one gets it. */
export const consoleTokenTake = (tx: Tx, token: string, kind: string): Promise<ConsoleToken | undefined> =>
  tx
    .deleteFrom('nova.console_tokens')
    .where('hash', '=', hashOf(token))
    .where('kind', '=', kind)
    .where('expires_at', '>', sql<Date>`now()`)
    .returningAll()
    .executeTakeFirst()
