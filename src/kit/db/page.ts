/**
 * Keyset paging: a page starts after a row that the client names (the marker), not after a number of rows, so that with an index
 * on the sort keys its cost does not grow with the table, with how far one has paged or with how many rows tie.
 *
 * The rows after the marker m under the keys a, b, id are, in this order: those with a = m.a, b = m.b and id after m.id; those with
 * a = m.a and b after m.b; those with a after m.a. Each is one range of an index on (a, b, id); "after" is split once more where
 * nulls come last. A single WHERE with `or` between them could not be answered as a range, so the ranges are read one after the
 * other until the page is full. Neighbouring keys at the end that go the same way and are never null are one range together, by
 * row comparison: `(a, id) > (m.a, m.id)`. So the usual list is one query.
 *
 * Nulls are last when ascending and first when descending, as PostgreSQL and its indexes have them.
 */
import type { Expression, SelectQueryBuilder, Simplify, SqlBool } from 'kysely'
import { sql } from 'kysely'

export interface PageKey {
  /** The column, qualified if needed: `servers.created_at`. Or an expression, which should have an index. */
  column: string | Expression<unknown>
  dir: 'asc' | 'desc'
  nullable?: boolean
}

export interface PageOptions {
  /** The marker row's values, in the order of the keys. None: the first page. */
  after?: readonly unknown[]
  /** At most so many rows; ask for one more than you show to know whether more follow. None: all. */
  limit?: number
  /** The page before the marker (or the last page) instead, still in the order of the keys. */
  reverse?: boolean
}

type Range = Expression<SqlBool>[]
interface Bound extends PageKey {
  name: Expression<unknown>
  value: unknown
}

const same = ({ name, value }: Bound): Expression<SqlBool> =>
  value === null ? sql<SqlBool>`${name} is null` : sql<SqlBool>`${name} = ${value}`

/** The values after the marker's by this key alone, as ranges in order. */
function afterOne({ name, value, dir, nullable }: Bound): Expression<SqlBool>[] {
  if (dir === 'desc') return [value === null ? sql<SqlBool>`${name} is not null` : sql<SqlBool>`${name} < ${value}`]
  if (value === null) return []
  const greater = sql<SqlBool>`${name} > ${value}`
  return nullable ? [greater, sql<SqlBool>`${name} is null`] : [greater]
}

/** The values after the marker's by keys that all go one way and are never null. */
function afterRow(keys: Bound[]): Expression<SqlBool> {
  const [names, values] = [sql.join(keys.map(key => key.name)), sql.join(keys.map(key => key.value))]
  return keys[0]!.dir === 'asc' ? sql<SqlBool>`(${names}) > (${values})` : sql<SqlBool>`(${names}) < (${values})`
}

/** The ranges that hold the rows after the marker, in the order of the keys; each is a list of conditions. */
function rangesAfter(keys: Bound[]): Range[] {
  let alike = keys.length - 1
  while (alike > 0 && keys[alike - 1]!.dir === keys[alike]!.dir && !keys[alike - 1]!.nullable) alike--
  const ranges: Range[] = [[...keys.slice(0, alike).map(same), afterRow(keys.slice(alike))]]
  for (let i = alike - 1; i >= 0; i--) for (const one of afterOne(keys[i]!)) ranges.push([...keys.slice(0, i).map(same), one])
  return ranges
}

/** The queries whose rows, one after the other, are the page and what follows it. Exported for tests of their cost. */
export function pageQueries<DB, TB extends keyof DB, O>(
  query: SelectQueryBuilder<DB, TB, O>,
  keys: readonly PageKey[],
  { after, reverse }: PageOptions,
): SelectQueryBuilder<DB, TB, O>[] {
  if (keys.length === 0 || keys.at(-1)!.nullable) throw new Error('the last sort key must be unique and not null')
  if (after && after.length !== keys.length) throw new Error('the marker must have one value for each sort key')
  const bounds = keys.map((key, i): Bound => {
    const dir = reverse ? (key.dir === 'asc' ? 'desc' : 'asc') : key.dir
    return { ...key, dir, name: typeof key.column === 'string' ? sql.ref(key.column) : key.column, value: after?.[i] ?? null }
  })
  const ranges = after ? rangesAfter(bounds) : [[]]
  return ranges.map(range => {
    let ranged = query
    for (const condition of range) ranged = ranged.where(condition)
    for (const { name, dir } of bounds) ranged = ranged.orderBy(name, dir)
    return ranged
  })
}

/**
 * Runs the query for one page: its rows after the marker, in the order of the keys, at most `limit`. The last key must be unique
 * and not null (the id), or rows that tie would be lost between pages. The query must have no order or limit of its own.
 *
 *     await page(query, [{ column: 'servers.created_at', dir: 'desc' }, { column: 'servers.id', dir: 'desc' }],
 *       { after: marker && [marker.created_at, marker.id], limit: limit + 1 })
 */
export async function page<DB, TB extends keyof DB, O>(
  query: SelectQueryBuilder<DB, TB, O>,
  keys: readonly PageKey[],
  options: PageOptions = {},
): Promise<Simplify<O>[]> {
  const rows: Simplify<O>[] = []
  for (const ranged of pageQueries(query, keys, options)) {
    const left = options.limit === undefined ? undefined : options.limit - rows.length
    if (left !== undefined && left <= 0) break
    rows.push(...(await (left === undefined ? ranged : ranged.limit(left)).execute()))
  }
  return options.reverse ? rows.reverse() : rows
}
