/**
 * Each owner (a service, the kit) has a PostgreSQL schema of its name and an ordered list of migrations. What was applied is
 * journalled in `kit.migrations`. Each migration is one transaction, DDL and journal row together, under a lock: any number of
 * processes may migrate at once, and one that is killed leaves a state between two migrations.
 */
import { sql } from 'kysely'
import type { Db, Query, Tx } from './index.ts'
import { codeOf, lock } from './index.ts'

export type { ColumnType, Generated } from 'kysely'

export interface Migration {
  /** Sorts with its neighbours: `0001_base`. Never changed once released. */
  name: string
  up(tx: Tx): Promise<void>
  /** Takes back exactly what `up` did. */
  down(tx: Tx): Promise<void>
}

export interface MigrationSet {
  /** The PostgreSQL schema and its owner's name: `nova`, `kit`. */
  schema: string
  migrations: Migration[]
}

const LOCK = 'kit.migrations'

/** The applied names of each schema, in order; none when the journal does not exist yet. */
async function journal(db: Query): Promise<Map<string, string[]>> {
  const applied = new Map<string, string[]>()
  let rows: { schema: string; name: string }[]
  try {
    rows = (
      await sql<{ schema: string; name: string }>`select schema, name from kit.migrations order by schema, name`.execute(db)
    ).rows
  } catch (error) {
    const code = codeOf(error)
    if (code === '42P01' || code === '3F000') return applied
    throw error
  }
  for (const { schema, name } of rows) applied.set(schema, [...(applied.get(schema) ?? []), name])
  return applied
}

/** The next migration to apply. Names in the journal that the code does not know are of a newer version and are left alone. */
function nextUp(set: MigrationSet, applied: string[]): Migration | undefined {
  const done = new Set(applied)
  const next = set.migrations.findIndex(m => !done.has(m.name))
  if (next === -1) return undefined
  const late = set.migrations.slice(next).find(m => done.has(m.name))
  if (late)
    throw new Error(`${set.schema}: migration ${late.name} is applied, but ${set.migrations[next]!.name} before it is not`)
  return set.migrations[next]
}

function checkNames(set: MigrationSet): void {
  set.migrations.forEach((m, i) => {
    if (i > 0 && set.migrations[i - 1]!.name >= m.name) throw new Error(`${set.schema}: migration ${m.name} is out of order`)
  })
}

/** Which migrations of these sets the database lacks, as `schema/name`. One query. */
export async function migratePending(db: Query, sets: MigrationSet[]): Promise<string[]> {
  const applied = await journal(db)
  return sets.flatMap(set => {
    const done = new Set(applied.get(set.schema))
    return set.migrations.filter(m => !done.has(m.name)).map(m => `${set.schema}/${m.name}`)
  })
}

/** Columns of timestamptz keep microseconds, a Date does not: a page that continues after such a value would skip or repeat rows. */
async function checkColumns(tx: Tx, schema: string): Promise<void> {
  const { rows } = await sql<{ at: string }>`
    select table_name || '.' || column_name as at from information_schema.columns
    where table_schema = ${schema} and data_type like 'timestamp%' and not (data_type = 'timestamp with time zone' and datetime_precision = 3)`.execute(
    tx,
  )
  if (rows.length > 0) throw new Error(`${schema}: ${rows.map(r => r.at).join(', ')} must be timestamptz(3)`)
}

/** Applies the next migration of the set, if there is one: false when there was none. */
async function stepUp(db: Db, set: MigrationSet): Promise<boolean> {
  return db.tx(async tx => {
    await lock(tx, LOCK)
    await sql`create schema if not exists kit`.execute(tx)
    await sql`create table if not exists kit.migrations (
      schema text not null, name text not null, applied_at timestamptz(3) not null default now(), primary key (schema, name))`.execute(
      tx,
    )
    const next = nextUp(set, (await journal(tx)).get(set.schema) ?? [])
    if (!next) return false
    await sql`create schema if not exists ${sql.id(set.schema)}`.execute(tx)
    await sql`set local statement_timeout = 0`.execute(tx)
    await next.up(tx)
    await checkColumns(tx, set.schema)
    await sql`insert into kit.migrations (schema, name) values (${set.schema}, ${next.name})`.execute(tx)
    return true
  })
}

/** Undoes the last applied migration of the set that comes after `to`: false when there was none. */
async function stepDown(db: Db, set: MigrationSet, to: string | null): Promise<boolean> {
  return db.tx(async tx => {
    await lock(tx, LOCK)
    const last = ((await journal(tx)).get(set.schema) ?? []).filter(name => to === null || name > to).at(-1)
    if (last === undefined) return false
    const migration = set.migrations.find(m => m.name === last)
    if (!migration) throw new Error(`${set.schema}: migration ${last} is of a newer version, which must take it back`)
    await sql`set local statement_timeout = 0`.execute(tx)
    await migration.down(tx)
    await sql`delete from kit.migrations where schema = ${set.schema} and name = ${last}`.execute(tx)
    return true
  })
}

/**
 * Brings every set forward to its last migration, in the order given. One query when there is nothing to do.
 * With `to`, the one set given goes forward or back to just after the migration of that name; `null` is before the first.
 */
export async function migrate(db: Db, sets: MigrationSet[], to?: string | null): Promise<void> {
  sets.forEach(checkNames)
  if (to !== undefined) {
    const [set, ...more] = sets
    if (!set || more.length > 0) throw new Error('migrating to a version takes exactly one set')
    if (to !== null && !set.migrations.some(m => m.name === to)) throw new Error(`${set.schema}: no migration ${to}`)
    while (await stepDown(db, set, to));
    const wanted = { ...set, migrations: set.migrations.filter(m => to !== null && m.name <= to) }
    while (await stepUp(db, wanted));
    return
  }
  if ((await migratePending(db.read, sets)).length === 0) return
  for (const set of sets) while (await stepUp(db, set));
}
