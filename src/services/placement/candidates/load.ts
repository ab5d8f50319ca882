/** The trees that a search for candidates must look at, read at once. */
import { type Query, sql } from '#kit/db/index.ts'
import { FITS } from '../providers/store.ts'
import type { Request } from './request.ts'

export const SHARES = 'MISC_SHARES_VIA_AGGREGATE'

export interface Room {
  capacity: number
  used: number
  min: number
  max: number
  step: number
}

export interface Node {
  id: string
  parent: string | null
  root: string
  traits: Set<string>
  aggregates: Set<string>
  rooms: Map<string, Room>
}

/** Every provider of every tree that may matter, by id. */
export type Forest = Map<string, Node>

interface Row {
  id: string
  parent_id: string | null
  root_id: string
  traits: string[] | null
  aggregates: string[] | null
  rooms: Record<string, Room> | null
}

/**
 * Reads the trees in which each class that is asked for can be had somewhere, in the least amount that a group asks; where providers share, also trees to
 * which a sharing provider can lend it. Trees that can have no candidate are left out by the database, so the cost is that of what may come out.
 */
export async function forestLoad(q: Query, { groups }: Request): Promise<Forest> {
  const least = new Map<string, number>()
  for (const { resources } of groups) {
    for (const [name, amount] of Object.entries(resources)) least.set(name, Math.min(amount, least.get(name) ?? amount))
  }
  const sharers = await q.selectFrom('placement.provider_traits').select('provider_id').where('trait', '=', SHARES).execute()
  const shared = sharers.map(row => row.provider_id)
  const lent = shared.length === 0 ? sql`select null::text as root_id, null::text as class where false` : lentTo(shared, least)
  const having = [...least].map(
    ([name, amount]) => sql`
      select distinct p.root_id, i.class from placement.inventories i join placement.providers p on p.id = i.provider_id
      where i.class = ${name} and ${FITS(amount)}`,
  )
  const { rows } = await sql<Row>`
    with has as (${sql.join(having, sql` union `)} union ${lent}),
    roots as (select root_id from has group by root_id having count(distinct class) = ${least.size}),
    trees as (
      select root_id from roots
      union select p.root_id from placement.providers p where p.id = any(${shared})
    )
    select p.id, p.parent_id, p.root_id,
      (select array_agg(t.trait order by t.trait) from placement.provider_traits t where t.provider_id = p.id) as traits,
      (select array_agg(g.aggregate) from placement.provider_aggregates g where g.provider_id = p.id) as aggregates,
      (select jsonb_object_agg(i.class, jsonb_build_object(
          'capacity', trunc((i.total - i.reserved) * i.allocation_ratio), 'min', i.min_unit, 'max', i.max_unit, 'step', i.step_size,
          'used', coalesce((select sum(a.used) from placement.allocations a where a.provider_id = i.provider_id and a.class = i.class), 0)))
        from placement.inventories i where i.provider_id = p.id) as rooms
    from placement.providers p join trees on trees.root_id = p.root_id order by p.root_id, p.id`.execute(q)
  return new Map(
    rows.map(row => [
      row.id,
      {
        id: row.id,
        parent: row.parent_id,
        root: row.root_id,
        traits: new Set(row.traits ?? []),
        aggregates: new Set(row.aggregates ?? []),
        rooms: new Map(Object.entries(row.rooms ?? {})),
      },
    ]),
  )
}

/** Which trees can be lent which class by a sharing provider: those with a member in one of its aggregates. */
function lentTo(shared: string[], least: Map<string, number>) {
  const each = [...least].map(
    ([name, amount]) => sql`
      select distinct m.root_id, i.class from placement.inventories i
      join placement.provider_aggregates s on s.provider_id = i.provider_id
      join placement.provider_aggregates o on o.aggregate = s.aggregate
      join placement.providers m on m.id = o.provider_id
      where i.provider_id = any(${shared}) and i.class = ${name} and ${FITS(amount)}`,
  )
  return sql.join(each, sql` union `)
}
