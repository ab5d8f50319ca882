// Reading: the rows of a noun with their extra columns, one or many, and what of them is shown.
import type { Kysely, SelectQueryBuilder } from 'kysely'
import type { Context } from '#kit/context.ts'
import { type Query, sql } from '#kit/db/index.ts'
import { badRequest } from '#kit/fault.ts'
import { type Call, type Route, route } from '#kit/http/route.ts'
import { listOf } from '#kit/noun/index.ts'
import { hidden, visibleView } from './authorize.ts'
import { type Resource, type Row, seesAll } from './resource.ts'

// Tables and columns come from the noun's description, so the types of the whole schema say nothing here.
type Loose = Record<string, Row>
export type Select = SelectQueryBuilder<Loose, string, Row>

/** The rows of the noun that the caller may see, with their extra columns. */
export function narrowed(of: Resource, ctx: Context, query: Select): Select {
  let result = of.columns ? query.select([...of.columns(ctx)] as never) : query
  if (of.visible !== null && !seesAll(ctx)) {
    const own = sql<boolean>`${sql.ref(`${of.table}.project_id`)} = ${ctx.projectId}`
    result = result.where(of.visible ? of.visible(ctx) : own)
  }
  if (of.where) result = result.where(of.where())
  return result as Select
}

/** Rows by id, in the order of the ids; those that are not there or not to be seen are left out. */
export async function rowsById(of: Resource, db: Query, ctx: Context, ids: readonly string[], parentId?: string): Promise<Row[]> {
  if (ids.length === 0) return []
  const loose = db as unknown as Kysely<Loose>
  let query = narrowed(of, ctx, loose.selectFrom(of.table).selectAll(of.table) as Select)
  query = query.where(sql<boolean>`${sql.ref(`${of.table}.id`)} in (${sql.join([...ids])})`)
  if (of.parent && parentId !== undefined)
    query = query.where(sql<boolean>`${sql.ref(`${of.table}.${of.parent.column}`)} = ${parentId}`)
  const rows = (await query.execute()) as Row[]
  return ids.length === 1 ? rows : ids.flatMap((id): Row[] => rows.filter(row => row.id === id))
}

/** One row. Throws the noun's 404. */
export async function rowById(of: Resource, db: Query, ctx: Context, id: string, parentId?: string): Promise<Row> {
  const [row] = await rowsById(of, db, ctx, [id], parentId)
  if (!row) throw of.gone(id)
  return row
}

/** The columns that `fields=` asks for; undefined: all. */
export function fieldsOf(search: URLSearchParams): Set<string> | undefined {
  const names = search.getAll('fields').filter(name => name !== '')
  return names.length === 0 ? undefined : new Set(names)
}

const TAGS: Record<string, (column: ReturnType<typeof sql.ref>, tags: string[]) => ReturnType<typeof sql<boolean>>> = {
  tags: (column, tags) => sql<boolean>`${column} @> ${tags}::text[]`,
  'tags-any': (column, tags) => sql<boolean>`${column} && ${tags}::text[]`,
  'not-tags': (column, tags) => sql<boolean>`not ${column} @> ${tags}::text[]`,
  'not-tags-any': (column, tags) => sql<boolean>`not ${column} && ${tags}::text[]`,
}

function standardFilter(of: Resource, query: Select, name: string, values: string[]): Select | undefined {
  const tags = TAGS[name]
  if (tags)
    return query.where(
      tags(
        sql.ref(`${of.table}.tags`),
        values.flatMap(value => value.split(',')),
      ),
    )
  if (name !== 'changed_since') return undefined
  const since = new Date(values[0]!)
  if (Number.isNaN(since.getTime())) {
    throw badRequest(`Invalid input for operation: The value of changed_since filter is invalid: ${values[0]}.`, {
      type: 'InvalidInput',
    })
  }
  return query.where(sql<boolean>`${sql.ref(`${of.table}.updated_at`)} >= ${since}`)
}

const PAGING = new Set(['limit', 'marker', 'page_reverse', 'sort_key', 'sort_dir', 'fields'])

function filtersKnown(of: Resource, search: URLSearchParams): void {
  const known = (name: string): boolean => {
    if (PAGING.has(name) || (of.filters && Object.hasOwn(of.filters, name))) return true
    if (of.standard && (Object.hasOwn(TAGS, name) || name === 'changed_since')) return true
    const field = Object.hasOwn(of.attributes, name) ? of.attributes[name] : undefined
    return field !== undefined && field.filter !== false && field.column !== null
  }
  const unknown = [...new Set(search.keys())].filter(name => !known(name))
  if (unknown.length === 0) return
  const names = unknown.map(name => `'${name}'`).join(', ')
  throw badRequest(`Invalid input for operation: [${names}] is invalid attribute for filtering.`, { type: 'HTTPBadRequest' })
}

/** Answers a list request. */
export async function list(of: Resource, call: Call, parentId?: string): Promise<Row> {
  const { ctx, search } = call
  filtersKnown(of, search)
  const { rows, limit, reverse } = await listOf(of.noun, call.db, {
    search,
    narrow: query => {
      const seen = narrowed(of, ctx, query as unknown as Select)
      const all = of.parent ? seen.where(sql<boolean>`${sql.ref(`${of.table}.${of.parent.column}`)} = ${parentId}`) : seen
      return all as unknown as typeof query
    },
    special: (query, name, values) => {
      const own = of.filters && Object.hasOwn(of.filters, name) ? of.filters[name] : undefined
      if (own) return query.where(own(values, ctx))
      return of.standard ? (standardFilter(of, query as unknown as Select, name, values) as unknown as typeof query) : undefined
    },
  })
  const only = fieldsOf(search)
  const views = rows.flatMap(row => visibleView(ctx, of, row, only) ?? [])
  const links = limit === undefined ? undefined : linksOf(call, rows, limit, reverse)
  return links && links.length > 0 ? { [of.plural]: views, [of.links]: links } : { [of.plural]: views }
}

/** Links to the pages beside this one, as Neutron gives them: also where the next one turns out to be empty. */
function linksOf(call: Call, rows: Row[], limit: number, reverse: boolean): { rel: string; href: string }[] {
  const path = call.self(new URL(call.url, 'http://x').pathname.replace(/^\/v2\.0/, ''))
  const link = (rel: string, row: Row | undefined, back: boolean) => {
    const query = new URLSearchParams(call.search)
    query.delete('marker')
    query.delete('page_reverse')
    if (row) query.set('marker', row.id as string)
    if (back) query.set('page_reverse', 'True')
    return { rel, href: `${path}?${query}` }
  }
  const short = rows.length < limit
  return [
    ...(short && !reverse ? [] : [link('next', rows.at(-1), false)]),
    ...(short && reverse ? [] : [link('previous', rows[0], true)]),
  ]
}

/** The parent's id out of the path, once it is known to be there. */
export async function parentOf(of: Resource, call: Call): Promise<{ id?: string; row?: Row }> {
  if (!of.parent) return {}
  const id = call.params[of.parent.param]!
  return { id, row: await of.parent.fetch(call.db, call.ctx, id) }
}

/** Routes that read. */
export function readRoutes(of: Resource): Route[] {
  const one = route({
    method: 'GET',
    path: `${of.path}/:id`,
    policy: null,
    async handle(call) {
      const parent = await parentOf(of, call)
      const row = await rowById(of, call.db, call.ctx, call.params.id!, parent.id)
      const view = visibleView(call.ctx, of, row, fieldsOf(call.search))
      if (!view) throw hidden()
      return { [of.name]: view }
    },
  })
  const many = route({
    method: 'GET',
    path: of.path,
    policy: null,
    async handle(call) {
      const parent = await parentOf(of, call)
      return list(of, call, parent.id)
    },
  })
  return [...(of.verbs?.includes('list') === false ? [] : [many]), ...(of.verbs?.includes('show') === false ? [] : [one])]
}
