/** Servers in the database. */
import type { Context } from '#kit/context.ts'
import { type Insertable, json, type Query, type Selectable, sql, type Tx } from '#kit/db/index.ts'
import { conflict, type Fault, notFound } from '#kit/fault.ts'
import type { FaultKept, ServersTable } from '../tables.ts'

export type Server = Selectable<ServersTable>

/** What a saga of this server is filed under: one at a time. */
export const serverResource = (id: string): string => `nova.server:${id}`

export const noServer = (id: string): Fault => notFound(`Instance ${id} could not be found.`)

/** A server of the caller's project, of any for an administrator. Throws notFound. */
export async function serverFetch(db: Query, ctx: Pick<Context, 'isAdmin' | 'projectId'>, id: string): Promise<Server> {
  const row = await serverRow(db, id)
  if (!row || (!ctx.isAdmin && row.project_id !== ctx.projectId)) throw noServer(id)
  return row
}

/** A server by id, or undefined. */
export const serverRow = (db: Query, id: string): Promise<Server | undefined> =>
  db.selectFrom('nova.servers').selectAll().where('id', '=', id).executeTakeFirst()

/** A server by id, locked until the transaction ends, or undefined. */
export const serverLock = (tx: Tx, id: string): Promise<Server | undefined> =>
  tx.selectFrom('nova.servers').selectAll().where('id', '=', id).forUpdate().executeTakeFirst()

/** As {@link serverFetch} for one who will change it: the row is locked. */
export async function serverTake(tx: Tx, ctx: Pick<Context, 'isAdmin' | 'projectId'>, id: string): Promise<Server> {
  const row = await serverLock(tx, id)
  if (!row || (!ctx.isAdmin && row.project_id !== ctx.projectId)) throw noServer(id)
  return row
}

/** Values of columns to be written. */
export type ServerValues = Partial<Insertable<ServersTable>>

const JSON_COLUMNS = ['flavor', 'image', 'metadata', 'build', 'nics', 'security_groups', 'fault', 'resize', 'rescue'] as const

/** A row's values as parameters: jsonb columns as JSON. */
function parameters<T extends Partial<Insertable<ServersTable>>>(values: T): T {
  const out = { ...values } as Record<string, unknown>
  for (const column of JSON_COLUMNS) if (out[column] !== undefined && out[column] !== null) out[column] = json(out[column])
  return out as T
}

/** Writes new servers. */
export async function serversInsert(tx: Tx, rows: readonly Insertable<ServersTable>[]): Promise<void> {
  await tx
    .insertInto('nova.servers')
    .values(rows.map(row => parameters(row)))
    .execute()
}

/** Changes a server's row, and the time at which it was changed. */
export async function serverUpdate(tx: Tx, id: string, values: ServerValues): Promise<void> {
  await tx
    .updateTable('nova.servers')
    .set({ updated_at: sql`now()`, ...(parameters(values) as object) })
    .where('id', '=', id)
    .execute()
}

/** As {@link serverUpdate}, and the guest is to be another: its revision grows. Returns the new revision. */
export async function serverChange(tx: Tx, id: string, values: ServerValues): Promise<number> {
  const row = await tx
    .updateTable('nova.servers')
    .set({ updated_at: sql`now()`, revision: sql`revision + 1`, ...(parameters(values) as object) })
    .where('id', '=', id)
    .returning('revision')
    .executeTakeFirst()
  if (!row) throw noServer(id)
  return row.revision
}

/** Takes a server's row to those of deleted servers. */
export async function serverBury(tx: Tx, id: string): Promise<void> {
  await sql`
    with gone as (delete from nova.servers where id = ${id} returning *)
    insert into nova.deleted_servers select * from gone on conflict do nothing`.execute(tx)
  await sql`
    update nova.deleted_servers set vm_state = 'deleted', task_state = null, power_state = 0, nics = '[]', deleted_at = now(),
      updated_at = now(), terminated_at = coalesce(terminated_at, now()) where id = ${id}`.execute(tx)
}

/** Why a server is in error, in the form that is kept. `details` is for administrators where the code is 500. */
export function faultKept(code: number, message: string, details: string | null): FaultKept {
  return { code, message: message.slice(0, 255), details, created: new Date().toISOString() }
}

/** Refuses what a locked server does not allow; administrators may always. */
export function mustBeUnlocked(ctx: Pick<Context, 'isAdmin'>, server: Pick<Server, 'id' | 'locked_by'>): void {
  if (server.locked_by !== null && !ctx.isAdmin) throw conflict(`Instance ${server.id} is locked`)
}

/** Refuses an action in a state that does not allow it, in the words that clients know. */
export const stateConflict = (action: string, id: string, attribute: string, state: string | null): Fault =>
  conflict(`Cannot '${action}' instance ${id} while it is in ${attribute} ${state}`)
