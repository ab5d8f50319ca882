/** What other services may ask of Placement, as plain functions in the caller's transaction. */
import { type Query, sql, type Tx } from '#kit/db/index.ts'
import { allocationsReplace, type Consumer, generationsBump, providersLock, type Resources } from './allocations/store.ts'
import type { InventoriesTable } from './tables.ts'

export type { Consumer, Resources } from './allocations/store.ts'
export { usagesOf } from './allocations/store.ts'
export { allocationList } from './audit.ts'
export { allocationsAdjust, type NestedRequest, nestedFit, nestedServing, nestedTotals } from './nested.ts'
export { placement } from './service.ts'

/** What a provider has of one class. */
export type Inventory = Omit<InventoriesTable, 'provider_id' | 'class' | 'updated_at'>

export interface ProviderState {
  id: string
  name: string
  /** Of a provider below another: the one above it, and the topmost. */
  parent?: string
  root?: string
  /** Class → what there is. Standard or CUSTOM_ names. */
  inventories: Record<string, Inventory>
  traits: readonly string[]
  /** Ids of host aggregates; absent: left as they are. */
  aggregates?: readonly string[]
}

/**
 * Makes a provider be as said: from a host's report. Writes nothing when nothing changed, and tells whether it did. An inventory that is in use is kept at what it
 * was when the report lacks it; one that shrank below its use stays honest (over-used) until guests leave.
 */
export async function providerEnsure(tx: Tx, state: ProviderState): Promise<boolean> {
  const made = await tx
    .insertInto('placement.providers')
    .values({ id: state.id, name: state.name, parent_id: state.parent ?? null, root_id: state.root ?? state.id })
    .onConflict(on => on.column('id').doUpdateSet({ name: state.name }).where('placement.providers.name', '!=', state.name))
    .executeTakeFirst()
  const changed = [
    (made.numInsertedOrUpdatedRows ?? 0n) > 0n,
    await inventoriesEnsure(tx, state),
    await setEnsure(tx, 'trait', state.id, state.traits),
    state.aggregates !== undefined && (await setEnsure(tx, 'aggregate', state.id, state.aggregates)),
  ]
  const any = changed.includes(true)
  if (any) await generationsBump(tx, [state.id])
  return any
}

/** The id of a provider by its name. */
export async function providerNamed(q: Query, name: string): Promise<string | undefined> {
  return (await q.selectFrom('placement.providers').select('id').where('name', '=', name).executeTakeFirst())?.id
}

async function inventoriesEnsure(tx: Tx, { id, inventories }: ProviderState): Promise<boolean> {
  const names = Object.keys(inventories)
  const custom = names.filter(name => name.startsWith('CUSTOM_'))
  if (custom.length > 0) {
    await tx
      .insertInto('placement.classes')
      .values(custom.map(name => ({ name })))
      .onConflict(on => on.doNothing())
      .execute()
  }
  const gone = await sql`
    delete from placement.inventories i where provider_id = ${id} and not class = any(${names})
      and not exists (select from placement.allocations a where a.provider_id = i.provider_id and a.class = i.class)`.execute(tx)
  if (names.length === 0) return (gone.numAffectedRows ?? 0n) > 0n
  const written = await tx
    .insertInto('placement.inventories')
    .values(names.map(name => ({ provider_id: id, class: name, ...inventories[name]! })))
    .onConflict(on =>
      on
        .columns(['provider_id', 'class'])
        .doUpdateSet(eb => ({
          total: eb.ref('excluded.total'),
          reserved: eb.ref('excluded.reserved'),
          min_unit: eb.ref('excluded.min_unit'),
          max_unit: eb.ref('excluded.max_unit'),
          step_size: eb.ref('excluded.step_size'),
          allocation_ratio: eb.ref('excluded.allocation_ratio'),
          updated_at: sql<Date>`now()`,
        }))
        .where(
          sql<boolean>`(inventories.total, inventories.reserved, inventories.min_unit, inventories.max_unit, inventories.step_size, inventories.allocation_ratio)
            is distinct from (excluded.total, excluded.reserved, excluded.min_unit, excluded.max_unit, excluded.step_size, excluded.allocation_ratio)`,
        ),
    )
    .executeTakeFirst()
  return (gone.numAffectedRows ?? 0n) + (written.numInsertedOrUpdatedRows ?? 0n) > 0n
}

async function setEnsure(tx: Tx, kind: 'trait' | 'aggregate', id: string, wanted: readonly string[]): Promise<boolean> {
  const table = sql.table(`placement.provider_${kind}s`)
  const column = sql.ref(kind)
  if (kind === 'trait') {
    const custom = wanted.filter(name => name.startsWith('CUSTOM_'))
    await sql`insert into placement.traits (name) select unnest(${custom}::text[]) on conflict do nothing`.execute(tx)
  }
  const gone = await sql`delete from ${table} where provider_id = ${id} and not ${column} = any(${wanted})`.execute(tx)
  const added = await sql`
    insert into ${table} (provider_id, ${column}) select ${id}, unnest(${wanted}::text[]) on conflict do nothing`.execute(tx)
  return (gone.numAffectedRows ?? 0n) + (added.numAffectedRows ?? 0n) > 0n
}

/** Sets or clears one trait of a provider (COMPUTE_STATUS_DISABLED, say). */
export async function providerTraitSet(tx: Tx, id: string, trait: string, present: boolean): Promise<void> {
  if (trait.startsWith('CUSTOM_'))
    await sql`insert into placement.traits (name) values (${trait}) on conflict do nothing`.execute(tx)
  const done = present
    ? await sql`insert into placement.provider_traits (provider_id, trait)
        select id, ${trait} from placement.providers where id = ${id} on conflict do nothing`.execute(tx)
    : await sql`delete from placement.provider_traits where provider_id = ${id} and trait = ${trait}`.execute(tx)
  if ((done.numAffectedRows ?? 0n) > 0n) await generationsBump(tx, [id])
}

/** Puts a provider into these aggregates and no others. */
export async function providerAggregatesSet(tx: Tx, id: string, aggregates: readonly string[]): Promise<void> {
  if (await setEnsure(tx, 'aggregate', id, aggregates)) await generationsBump(tx, [id])
}

/** Removes a root provider with what is below it. Returns false, and leaves it, while something is allocated from any of them. */
export async function providerRemove(tx: Tx, id: string): Promise<boolean> {
  const { rows } = await sql`select from placement.allocations a join placement.providers p on p.id = a.provider_id
    where p.root_id = ${id} limit 1`.execute(tx)
  if (rows.length > 0) return false
  // Whoever refers to whom among them is looked at when the statement ends.
  await tx.deleteFrom('placement.providers').where('root_id', '=', id).execute()
  return true
}

export interface CandidateQuery {
  resources: Resources
  required?: readonly string[]
  forbidden?: readonly string[]
  /** Provider is in one of each group's aggregates. */
  memberOf?: readonly (readonly string[])[]
  notMemberOf?: readonly string[]
  /** Only these providers. */
  among?: readonly string[]
  /** So many at most, chosen at random. */
  limit: number
}

export interface Candidate {
  id: string
  name: string
  /** Class → capacity and what is used of it. */
  summary: Record<string, { capacity: number; used: number }>
}

/**
 * Providers that have room, chosen at random among all that have: for the scheduler of whole servers on whole hosts. Reads only as many as it
 * needs: a random point in the order of ids, from there on, then from the start.
 */
export async function candidates(q: Query, query: CandidateQuery): Promise<Candidate[]> {
  const found = new Map<string, Candidate>()
  const start = query.among
    ? ''
    : Math.floor(Math.random() * 65536)
        .toString(16)
        .padStart(4, '0')
  for (const row of await candidateRows(q, query, start, query.limit, '>=')) found.set(row.id, row)
  if (found.size < query.limit && start !== '') {
    for (const row of await candidateRows(q, query, start, query.limit - found.size, '<')) found.set(row.id, row)
  }
  return [...found.values()]
}

async function candidateRows(
  q: Query,
  query: CandidateQuery,
  start: string,
  limit: number,
  side: '>=' | '<',
): Promise<Candidate[]> {
  const names = Object.keys(query.resources)
  const amounts = names.map(name => query.resources[name]!)
  const conditions = [
    side === '>=' ? sql`p.id >= ${start}` : sql`p.id < ${start}`,
    ...(query.among ? [sql`p.id = any(${query.among})`] : []),
    ...(query.required?.length
      ? [
          sql`(select count(*) from placement.provider_traits t where t.provider_id = p.id and t.trait = any(${query.required})) = ${new Set(query.required).size}`,
        ]
      : []),
    ...(query.forbidden?.length
      ? [
          sql`not exists (select from placement.provider_traits t where t.provider_id = p.id and t.trait = any(${query.forbidden}))`,
        ]
      : []),
    ...(query.memberOf ?? []).map(
      group =>
        sql`exists (select from placement.provider_aggregates g where g.provider_id = p.id and g.aggregate = any(${group}))`,
    ),
    ...(query.notMemberOf?.length
      ? [
          sql`not exists (select from placement.provider_aggregates g where g.provider_id = p.id and g.aggregate = any(${query.notMemberOf}))`,
        ]
      : []),
  ]
  const { rows } = await sql<Candidate>`
    select p.id, p.name, s.summary
    from placement.providers p
    cross join lateral (
      select count(*) filter (where
          w.amount is not null and w.amount between i.min_unit and i.max_unit and w.amount % i.step_size = 0
          and u.used + w.amount <= trunc((i.total - i.reserved) * i.allocation_ratio)) as fits,
        jsonb_object_agg(i.class, jsonb_build_object('capacity', trunc((i.total - i.reserved) * i.allocation_ratio), 'used', u.used)) as summary
      from placement.inventories i
      left join unnest(${names}::text[], ${amounts}::int[]) w (class, amount) on w.class = i.class
      cross join lateral (
        select coalesce(sum(a.used), 0)::int as used from placement.allocations a where a.provider_id = i.provider_id and a.class = i.class
      ) u
      where i.provider_id = p.id
    ) s
    where s.fits = ${names.length} and ${sql.join(conditions, sql` and `)}
    order by p.id limit ${limit}`.execute(q)
  return rows
}

/** Claims resources for a consumer, replacing what it had. Throws conflict, naming provider and class, when there is no room (any more). */
export async function claim(tx: Tx, consumerId: string, consumer: Consumer, wants: Record<string, Resources>): Promise<void> {
  await allocationsReplace(tx, [{ consumerId, consumer, wants }])
}

/** Gives back all that a consumer has. Fine when it has nothing. */
export async function release(tx: Tx, consumerId: string): Promise<void> {
  const rows = await tx
    .selectFrom('placement.allocations')
    .select('provider_id')
    .distinct()
    .where('consumer_id', '=', consumerId)
    .execute()
  const ids = rows.map(row => row.provider_id)
  if (ids.length > 0) {
    await providersLock(tx, ids)
    await tx.deleteFrom('placement.allocations').where('consumer_id', '=', consumerId).execute()
    await generationsBump(tx, ids)
  }
  await tx.deleteFrom('placement.consumers').where('id', '=', consumerId).execute()
}

/** Allocations of these consumers: consumer → provider → amounts. */
export async function allocationsOf(q: Query, consumers: readonly string[]): Promise<Map<string, Record<string, Resources>>> {
  const out = new Map<string, Record<string, Resources>>()
  if (consumers.length === 0) return out
  const rows = await q
    .selectFrom('placement.allocations')
    .select(['consumer_id', 'provider_id', 'class', 'used'])
    .where('consumer_id', 'in', [...consumers])
    .execute()
  for (const row of rows) {
    const of = out.get(row.consumer_id) ?? {}
    const at = (of[row.provider_id] ??= {})
    at[row.class] = row.used
    out.set(row.consumer_id, of)
  }
  return out
}
