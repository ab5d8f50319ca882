/** Lists of a noun: filters, sorting and pages, out of its table of fields. */
import type { Kysely, SelectQueryBuilder } from 'kysely'
import { type PageKey, page, type Query, sql } from '../db/index.ts'
import { badRequest } from '../fault.ts'
import { toBoolean } from '../http/schema.ts'
import type { Noun, Row } from './index.ts'

// Tables and columns come from the noun's own description, so the types of the whole schema say nothing here.
export type Loose = Record<string, Row>
export type Select = SelectQueryBuilder<Loose, string, Row>

export interface ListOptions {
  search: URLSearchParams
  /** Narrows the query to what the caller may see, joins what the view needs. */
  narrow?: (query: Select) => Select
  /** Query parameters that are no filters, beside those of paging. */
  reserved?: readonly string[]
  /** A filter that no field has: `ids`, `tags-any`, `fixed_ips`. Returns undefined where the name means nothing to it. */
  special?: (query: Select, name: string, values: string[]) => Select | undefined
  /** What to do with a filter that nothing knows: ignore (default) or refuse with 400. */
  unknown?: 'ignore' | 'refuse'
  /** Operators after the name (`name__contains`), as the identity API has them. */
  comparisons?: boolean
  /** How the text of a filter is read where its field does not say; `types` are the JSON types of the field. */
  parse?: (text: string, types: ReadonlySet<string>) => unknown
  /** Sort where the request names none, ahead of the id. */
  order?: readonly { field: string; dir: 'asc' | 'desc' }[]
  /** The most rows of one answer; also the limit where none is asked for. None: no limit. */
  maxLimit?: number
  /** The column that makes the order total; `id` unless given. */
  key?: string
}

export interface Listed {
  rows: Row[]
  /** More follow the last row (or precede the first, for a reverse page). */
  more: boolean
  limit: number | undefined
  marker: string | null
  reverse: boolean
}

const PAGING = ['limit', 'marker', 'page_reverse', 'sort_key', 'sort_dir', 'fields']

/** Answers a list request. Throws badRequest for a bad limit, sort key, marker or filter value. */
export async function listOf(of: Noun, db: Query, options: ListOptions): Promise<Listed> {
  const loose = db as unknown as Kysely<Loose>
  const base = (): Select => {
    const query = loose.selectFrom(of.table).selectAll(of.table) as Select
    return options.narrow?.(query) ?? query
  }
  return pageOf(of, filtered(of, base(), options), base, options)
}

/**
 * Sorts and pages a query of the noun's table as the request asks. `among` makes a query of the rows that a marker may name.
 * Throws badRequest for a bad limit, sort key or marker.
 */
export async function pageOf(of: Noun, query: Select, among: () => Select, options: ListOptions): Promise<Listed> {
  const key = options.key ?? 'id'
  const limit = limitOf(options)
  const reverse = toBoolean(options.search.get('page_reverse') ?? false) ?? false
  const keys = sortKeys(of, options, key)
  const marker = options.search.get('marker')
  const after = marker === null || marker === '' ? undefined : await markerRow(of, among(), key, marker, keys)
  const rows = (await page(query, keys, { after, limit: limit === undefined ? undefined : limit + 1, reverse })) as Row[]
  const more = limit !== undefined && rows.length > limit
  if (more) reverse ? rows.shift() : rows.pop()
  return { rows, more, limit, marker, reverse }
}

function limitOf({ search, maxLimit }: ListOptions): number | undefined {
  const text = search.get('limit')
  if (text === null) return maxLimit
  if (!/^\d{1,9}$/.test(text))
    throw badRequest(`limit must be a whole number that is not negative, not '${text}'.`, { field: 'limit' })
  const limit = Number(text)
  if (limit === 0) return maxLimit
  return maxLimit === undefined ? limit : Math.min(limit, maxLimit)
}

function sortKeys(of: Noun, { search, order = [] }: ListOptions, key: string): PageKey[] {
  const names = search.getAll('sort_key').flatMap(k => k.split(','))
  const dirs = search.getAll('sort_dir').flatMap(d => d.split(','))
  if (dirs.length > names.length && names.length > 0)
    throw badRequest('There are more sort_dir than sort_key.', { field: 'sort_dir' })
  for (const dir of dirs) {
    if (dir !== 'asc' && dir !== 'desc') throw badRequest(`sort_dir must be asc or desc, not '${dir}'.`, { field: 'sort_dir' })
  }
  const wanted = names.length > 0 ? names.map((field, i) => ({ field, dir: (dirs[i] ?? 'asc') as 'asc' | 'desc' })) : order
  const keys = wanted.map(({ field, dir }): PageKey => {
    const found = of.list.find(f => f.name === field)
    if (!found || found.at === null || found.sort === false) {
      throw badRequest(`${field} is not a field to sort by.`, { field: 'sort_key' })
    }
    return { column: `${of.table}.${found.at}`, dir, nullable: found.nullable }
  })
  if (!keys.some(k => k.column === `${of.table}.${key}`))
    keys.push({ column: `${of.table}.${key}`, dir: keys.at(-1)?.dir ?? 'asc' })
  return keys
}

async function markerRow(of: Noun, base: Select, key: string, marker: string, keys: PageKey[]): Promise<unknown[]> {
  const row = await base.where(`${of.table}.${key}` as never, '=', marker as never).executeTakeFirst()
  if (!row) throw badRequest(`The marker '${marker}' is not in the list.`, { field: 'marker' })
  return keys.map(k => row[(k.column as string).split('.').at(-1)!])
}

/** Adds the conditions of a request's filters to a query of the noun's table. Throws badRequest for a value that cannot be one. */
export function filtered(of: Noun, start: Select, options: ListOptions): Select {
  const skip = new Set([...PAGING, ...(options.reserved ?? [])])
  let query = start
  for (const name of new Set(options.search.keys())) {
    if (skip.has(name)) continue
    const values = options.search.getAll(name)
    const special = options.special?.(query, name, values)
    if (special) query = special
    else query = byField(of, query, name, values, options)
  }
  return query
}

function byField(of: Noun, query: Select, name: string, values: string[], options: ListOptions): Select {
  const [plain, operator] = options.comparisons ? splitOperator(name) : [name, undefined]
  const field = of.list.find(f => f.name === plain)
  if (!field || field.at === null || field.filter === false) {
    if (options.unknown === 'refuse') throw badRequest(`'${name}' is not a filter of ${of.plural}.`, { field: name })
    return query
  }
  const column = sql.ref(`${of.table}.${field.at}`)
  if (operator) return query.where(compare(column, operator, values[0]!))
  const parse = field.parse ?? parserOf(field.schema, options.parse)
  const wanted = values.map(parse).filter(v => v !== undefined)
  if (wanted.length === 0) return query.where(sql<boolean>`false`)
  const some = wanted.filter(v => v !== null)
  const isNull = wanted.length > some.length
  if (some.length === 0) return query.where(sql<boolean>`${column} is null`)
  return query.where(
    isNull
      ? sql<boolean>`(${column} is null or ${column} in (${sql.join(some)}))`
      : sql<boolean>`${column} in (${sql.join(some)})`,
  )
}

const OPERATORS = [
  'contains',
  'icontains',
  'startswith',
  'istartswith',
  'endswith',
  'iendswith',
  'iexact',
  'exact',
  'iequals',
  'ne',
] as const
type Operator = (typeof OPERATORS)[number]

function splitOperator(name: string): [string, Operator | undefined] {
  const at = name.lastIndexOf('__')
  const operator = OPERATORS.find(o => o === name.slice(at + 2))
  return at > 0 && operator ? [name.slice(0, at), operator] : [name, undefined]
}

function compare(column: ReturnType<typeof sql.ref>, operator: Operator, value: string) {
  if (operator === 'ne') return sql<boolean>`${column} is distinct from ${value}`
  const fold = operator.startsWith('i')
  const escaped = value.replace(/[\\%_]/g, '\\$&')
  const kind = fold ? operator.slice(1) : operator
  const pattern =
    kind === 'contains' ? `%${escaped}%` : kind === 'startswith' ? `${escaped}%` : kind === 'endswith' ? `%${escaped}` : escaped
  return fold ? sql<boolean>`${column} ilike ${pattern}` : sql<boolean>`${column} like ${pattern}`
}

/** How a filter's text is read, by the JSON type of the field. */
function parserOf(schema: object, dialect: ListOptions['parse']): (text: string) => unknown {
  const types = typesOf(schema)
  if (dialect) return text => dialect(text, types)
  if (types.has('boolean')) {
    return text => {
      const value = toBoolean(text)
      if (value === undefined) throw badRequest(`'${text}' is no boolean.`)
      return value
    }
  }
  if (types.has('integer') || types.has('number')) {
    return text => (/^-?\d{1,15}$/.test(text) ? Number(text) : types.has('null') && text === '' ? null : undefined)
  }
  return types.has('null') ? text => (text === '' ? null : text) : text => text
}

function typesOf(schema: object): Set<string> {
  const { type, anyOf, enum: values } = schema as { type?: string | string[]; anyOf?: object[]; enum?: unknown[] }
  return new Set([
    ...[type ?? []].flat(),
    ...(anyOf ?? []).flatMap(s => [...typesOf(s)]),
    ...(values?.some(v => v === true) ? ['boolean'] : []),
  ])
}
