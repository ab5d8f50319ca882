/** Migrations: a row for each move of a server from one host to another (or to another flavor), kept when the move is over. */
import { randomUUID } from 'node:crypto'
import { type Insertable, json, type Query, type Selectable, sql, type Tx } from '#kit/db/index.ts'
import { conflict } from '#kit/fault.ts'
import type { Server } from '../servers/store.ts'
import type { FlavorKept, MigrationsTable } from '../tables.ts'

export type Migration = Selectable<MigrationsTable>
export type MigrationType = 'resize' | 'migration' | 'live-migration' | 'evacuation'

/** Statuses of moves that are not over. */
export const IN_PROGRESS = ['accepted', 'queued', 'preparing', 'running', 'pre-migrating', 'migrating', 'post-migrating']

/** A migration as sagas name it: its number, and the id under which it holds resources. */
export interface Moving {
  id: number
  uuid: string
}

/** Notes that a server is to be moved. */
export async function migrationBegin(
  tx: Tx,
  server: Server,
  type: MigrationType,
  more: { status?: string; flavor?: FlavorKept } = {},
): Promise<Moving> {
  const uuid = randomUUID()
  const { id } = await tx
    .insertInto('nova.migrations')
    .values({
      uuid,
      server_id: server.id,
      project_id: server.project_id,
      user_id: server.user_id,
      migration_type: type,
      status: more.status ?? 'pre-migrating',
      source_compute: server.host,
      source_node: server.node,
      old_flavor: json(server.flavor),
      new_flavor: json(more.flavor ?? server.flavor),
    } as Insertable<MigrationsTable>)
    .returning('id')
    .executeTakeFirstOrThrow()
  return { id, uuid }
}

/** Changes a migration. */
export async function migrationSet(tx: Tx, id: number, values: Partial<Insertable<MigrationsTable>>): Promise<void> {
  await tx
    .updateTable('nova.migrations')
    .set({ ...values, updated_at: sql<Date>`now()` })
    .where('id', '=', id)
    .execute()
}

/** A migration by number, or undefined. */
export const migrationRow = (db: Query, id: number): Promise<Migration | undefined> =>
  db.selectFrom('nova.migrations').selectAll().where('id', '=', id).executeTakeFirst()

/** The resource provider of a host. Throws conflict where the host is not known any more. */
export async function providerOf(db: Query, host: string): Promise<string> {
  const row = await db.selectFrom('nova.hypervisors').select('id').where('host', '=', host).executeTakeFirst()
  if (!row) throw conflict(`Compute host ${host} could not be found.`)
  return row.id
}
