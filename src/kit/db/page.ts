/**
 * Keyset paging: a page starts after a row that the client names (the marker), not after a number of rows, so that with an index
 * on the sort keys its cost does not grow with the table or with how far one has paged.
 *
 * The rows after the marker m under `a asc, b desc, id asc` are: a > m.a, or a = m.a and b < m.b, or both equal and id > m.id.
 * When all keys go one way and none is nullable this is PostgreSQL's row comparison `(a, id) > (m.a, m.id)`, which an index on
 * (a, id) answers directly. Otherwise the disjunction is used, under a plain bound on the first key, which the index can use.
 */
import type { Expression, SelectQueryBuilder, SqlBool } from 'kysely'
import { sql } from 'kysely'

export interface PageKey {
  /** The column, qualified if needed: `servers.created_at`. Or an expression, which should have an index. */
  column: string | Expression<unknown>
  dir: 'asc' | 'desc'
  /** Whether it can be null. Nulls are last when ascending and first when descending, as PostgreSQL and its indexes have them. */
  nullable?: boolean
  /** The marker row's value; needed when a page follows a marker. */
  after?: unknown
}

const name = (key: PageKey): Expression<unknown> => (typeof key.column === 'string' ? sql.ref(key.column) : key.column)

/** Rows strictly after the marker by this key alone; undefined where no value can be. */
function strictlyAfter(key: PageKey): Expression<SqlBool> | undefined {
  const column = name(key)
  const isNull = key.after === null || key.after === undefined
  if (key.dir === 'asc') {
    if (isNull) return undefined
    return key.nullable ? sql<SqlBool>`(${column} > ${key.after} or ${column} is null)` : sql<SqlBool>`${column} > ${key.after}`
  }
  return isNull ? sql<SqlBool>`${column} is not null` : sql<SqlBool>`${column} < ${key.after}`
}

function same(key: PageKey): Expression<SqlBool> {
  const isNull = key.after === null || key.after === undefined
  return isNull ? sql<SqlBool>`${name(key)} is null` : sql<SqlBool>`${name(key)} = ${key.after}`
}

/** Rows not before the marker by the first key: implied by the rest, but in a form that an index scan can start from. */
function bound(key: PageKey): Expression<SqlBool> | undefined {
  const isNull = key.after === null || key.after === undefined
  if (isNull) return key.dir === 'asc' ? same(key) : undefined
  if (key.dir === 'desc') return sql<SqlBool>`${name(key)} <= ${key.after}`
  return key.nullable ? undefined : sql<SqlBool>`${name(key)} >= ${key.after}`
}

function afterMarker(keys: PageKey[]): Expression<SqlBool> {
  const [first] = keys
  if (keys.every(key => key.dir === first!.dir && !key.nullable)) {
    const columns = sql.join(keys.map(name))
    const values = sql.join(keys.map(key => key.after))
    return first!.dir === 'asc' ? sql<SqlBool>`(${columns}) > (${values})` : sql<SqlBool>`(${columns}) < (${values})`
  }
  const cases = keys.flatMap((key, i) => {
    const last = strictlyAfter(key)
    return last ? [sql<SqlBool>`(${sql.join([...keys.slice(0, i).map(same), last], sql` and `)})`] : []
  })
  const any = cases.length === 0 ? sql<SqlBool>`false` : sql<SqlBool>`(${sql.join(cases, sql` or `)})`
  const start = bound(first!)
  return start ? sql<SqlBool>`(${start} and ${any})` : any
}

/**
 * The query, ordered by the keys, after the marker if there is one, with at most `limit` rows.
 * The last key must be unique and not null (the id), or rows that tie would be skipped. `marker` says whether to continue after
 * the keys' `after` values; ask for limit + 1 rows to know whether more follow.
 */
export function page<DB, TB extends keyof DB, O>(
  query: SelectQueryBuilder<DB, TB, O>,
  keys: PageKey[],
  { marker = false, limit }: { marker?: boolean; limit?: number },
): SelectQueryBuilder<DB, TB, O> {
  if (keys.length === 0 || keys.at(-1)!.nullable) throw new Error('the last sort key must be unique and not null')
  let paged = marker ? query.where(afterMarker(keys)) : query
  for (const key of keys) paged = paged.orderBy(name(key), key.dir)
  return limit === undefined ? paged : paged.limit(limit)
}
