import { randomUUID } from 'node:crypto'
import type { Kysely, Transaction } from 'kysely'
import { isDuplicate, json, sql, type Tx } from '#kit/db/index.ts'
import { badRequest, conflict, forbidden, notFound } from '#kit/fault.ts'
import { type Call, type Method, type Route, route } from '#kit/http/route.ts'
import { Object as ObjectSchema, Optional, String as StringSchema, type TSchema, toBoolean } from '#kit/http/schema.ts'
import {
  bodyOf,
  changesFor,
  type Field,
  type Noun as FieldTable,
  noun as fieldTable,
  filtered as filteredBy,
  pageOf as paged,
  type Select,
  viewOf,
} from '#kit/noun/index.ts'
import { auditResource } from './audit/notify.ts'
import { identityOf } from './identity.ts'

// What all nouns of identity share beside their tables of fields (kit/noun): five routes, with policy, audit and hooks for what makes a
// noun special; the words of lists, their limits and links.
//
// Identity keeps attributes that it does not know: they go to the column `extra` and come back beside the others. Resource
// options (`options`) are merged, and a null takes one away.

/** A row of any noun. */
export interface Row {
  id: string
  [column: string]: unknown
}

/** What a hook is told. */
export type NounCall = Call<Record<string, unknown>, Record<string, Record<string, unknown>>, Row | null>

export interface Noun {
  one: string
  many: string
  /** words for messages; by default `one` */
  title?: string
  path: string
  table: string
  fields: Record<string, Field>
  /** unknown attributes are kept */
  extra?: boolean
  /** names of resource options */
  options?: Record<string, TSchema>
  /** names of the policy rules after `identity:` */
  rules: { list: string; show: string; create: string; update: string; delete: string }
  /** Verbs for which a missing one is a 404 for everybody; otherwise only for those who could see it. */
  missingFirst?: readonly ('show' | 'update' | 'delete')[]
  /** PUT of a chosen id instead of POST */
  putCreates?: boolean
  /** The filter of a domain-scoped caller: lists show only rows of the domain */
  domainColumn?: string
  /** Policy target of lists; rows are under `target.ONE` otherwise. */
  listTarget?(call: NounCall): Record<string, unknown>
  target?(row: Record<string, unknown>, call: NounCall): Record<string, unknown>
  /** Narrows a list, by parameters that are no fields or by what the caller may see. */
  where?(query: Rows, call: NounCall): Rows
  fetch?(call: Call, id: string): Promise<Row | null>
  /** Work before a list is read. */
  beforeList?(call: NounCall): Promise<void>
  /** values of columns to insert; may change them */
  beforeCreate?(tx: Tx, call: NounCall, values: Record<string, unknown>): Promise<void>
  afterCreate?(tx: Tx, call: NounCall, row: Row): Promise<void>
  beforeUpdate?(tx: Tx, call: NounCall, row: Row, changes: Record<string, unknown>): Promise<void>
  afterUpdate?(tx: Tx, call: NounCall, before: Row, after: Row): Promise<void>
  beforeDelete?(tx: Tx, call: NounCall, row: Row): Promise<void>
  afterDelete?(tx: Tx, call: NounCall, row: Row): Promise<void>
  /** Work before the transaction (hashing); its result is merged into the values. */
  prepare?(call: NounCall, values: Record<string, unknown>): Promise<Record<string, unknown>>
  /** Rows to wire, many at once so that no row costs a query. */
  views?(rows: Row[], call: Call): Promise<Record<string, unknown>[]>
  /** by default a 409 that names the name */
  duplicate?(values: Record<string, unknown>): string
}

export type Rows = Select
type AnyDb = Kysely<Record<string, Row>>
const any = (db: unknown): AnyDb => db as AnyDb

/** A new id: 32 hex digits. */
export const newId = (): string => randomUUID().replaceAll('-', '')

/** `call.self` below the public endpoint that the operator has set, if one is. */
export function selfUrl(call: Pick<Call, 'self' | 'env'>, path: string): string {
  const base = identityOf(call.env).settings.public_endpoint
  return base === undefined ? call.self(path) : `${base.replace(/\/(v3\/?)?$/, '')}/v3${path}`
}

/** What a list is of. */
export type Listed = Pick<Noun, 'table' | 'fields'>

const tables = new WeakMap<Listed['fields'], FieldTable>()

/** The kit's table of a noun's fields. */
function tableOf({ table, fields }: Listed): FieldTable {
  let made = tables.get(fields)
  if (made?.table !== table) {
    const all = { id: ID, ...fields }
    const nullable = Object.entries(all).map(([name, field]) => [name, { nullable: name !== 'id' && name !== 'name', ...field }])
    made = fieldTable({ name: '', plural: '', table, fields: Object.fromEntries(nullable) })
    tables.set(fields, made)
  }
  return made
}

/** Every noun has one; whoever is to be found by it names it among the fields. */
const ID: Field = { schema: StringSchema(), create: 'never', update: false, filter: false }

/** The text of a filter, as Keystone reads it: `?enabled` is true, and so is all but 0 and the words for no. */
function filterText(text: string, types: ReadonlySet<string>): unknown {
  if (types.has('boolean')) return text === '' || (toBoolean(text) ?? text !== '0')
  if (types.has('integer')) return /^-?\d{1,15}$/.test(text) ? Number(text) : undefined
  return text === 'null' || text === 'None' ? null : text
}

/** Adds the conditions that the query string names: `?name=x&description__icontains=y`. Unknown parameters are no filters. */
export const filtered = (query: Rows, search: URLSearchParams, noun: Listed): Rows =>
  filteredBy(tableOf(noun), query, { search, comparisons: true, parse: filterText })

interface Page {
  rows: Row[]
  links: { next: string | null; self: string; previous: string | null }
  truncated: boolean
}

/** Sorts and pages a list as the query string asks: `limit`, `marker`, `sort_key`, `sort_dir` (or `sort=name:desc`). */
export async function pageOf(query: Rows, call: Call, noun: Listed): Promise<Page> {
  const { list_limit: whole, max_page: most } = identityOf(call.env).settings
  const search = new URLSearchParams(call.search)
  for (const item of (search.get('sort') ?? '').split(',').filter(Boolean)) {
    const [name = '', dir = 'asc'] = item.split(':')
    search.append('sort_key', name)
    search.append('sort_dir', dir)
  }
  const asked = search.get('limit')
  const pages = asked !== null && asked !== '0'
  const among = () => any(call.db).selectFrom(noun.table).selectAll() as unknown as Rows
  const { rows, more } = await paged(tableOf(noun), query, among, {
    search,
    maxLimit: pages ? Math.min(most, whole ?? most) : whole,
  })
  const found = rows as Row[]
  return { rows: found, truncated: more, links: pageLinks(call, more && pages ? found.at(-1)!.id : undefined) }
}

/** The links of a list; `marker` when another page follows. */
export function pageLinks(call: Call, marker?: string): Page['links'] {
  const path = new URL(call.url, 'http://x').pathname.replace(/^\/v3/, '')
  const query = call.search.toString()
  const next = new URLSearchParams(call.search)
  if (marker !== undefined) next.set('marker', marker)
  return {
    next: marker === undefined ? null : `${selfUrl(call, path)}?${next}`,
    self: `${selfUrl(call, path)}${query ? `?${query}` : ''}`,
    previous: null,
  }
}

/** A list on the wire. */
export function listView(many: string, entries: unknown[], { links, truncated }: Omit<Page, 'rows'>): Record<string, unknown> {
  return { [many]: entries, links, ...(truncated && { truncated: true }) }
}

/** A row on the wire: its shown fields, then what callers made up, then options and links. */
export function nounView(noun: Noun, row: Row, call: Call): Record<string, unknown> {
  const view = viewOf(tableOf(noun), row)
  if (noun.extra) Object.assign(view, row.extra)
  if (noun.options) view.options = row.options
  view.links = { self: selfUrl(call, `${noun.path}/${encodeURIComponent(row.id)}`) }
  return view
}

export const nounViews = (noun: Noun, rows: Row[], call: Call): Promise<Record<string, unknown>[]> =>
  noun.views ? noun.views(rows, call) : Promise.resolve(rows.map(row => nounView(noun, row, call)))

const title = (noun: Noun): string => noun.title ?? noun.one.replaceAll('_', ' ')

/** The 404 of identity. */
export const missing = (what: string, id: string) => notFound(`Could not find ${what}: ${id}.`)

/** Loads a row by id; null when there is none. */
export async function nounFetch(noun: Noun, call: Call, id: string): Promise<Row | null> {
  if (noun.fetch) return noun.fetch(call, id)
  const row = await any(call.db).selectFrom(noun.table).selectAll().where('id', '=', id).executeTakeFirst()
  return (row as Row | undefined) ?? null
}

/** What policy sees of a row (or of the body of a creation). */
function targetOf(noun: Noun, row: Record<string, unknown> | null, call: NounCall): Record<string, unknown> {
  if (row === null) return { ...call.params }
  return { ...call.params, ...(noun.target ? noun.target(row, call) : { target: { [noun.one]: row } }) }
}

function bodySchema(noun: Noun, verb: 'create' | 'update'): TSchema {
  const more: Record<string, TSchema> = {}
  if (noun.options) {
    const options = Object.fromEntries(Object.entries(noun.options).map(([name, schema]) => [name, Optional(schema)]))
    more.options = Optional(ObjectSchema(options, { additionalProperties: false }))
  }
  return bodyOf({ ...tableOf(noun), name: noun.one }, verb, { open: noun.extra, loose: true, more })
}

/** Splits what was sent into columns, with unknown attributes in `extra` and options merged. */
function columnsOf(noun: Noun, sent: Record<string, unknown>, creating: boolean, before?: Row): Record<string, unknown> {
  const values: Record<string, unknown> = {}
  const extra: Record<string, unknown> = { ...((before?.extra as object) ?? {}) }
  for (const [name, value] of Object.entries(sent)) {
    const field = Object.hasOwn(noun.fields, name) ? noun.fields[name] : undefined
    if (field) {
      if (creating ? field.create !== 'never' : field.update !== false) values[name] = value
    } else if (name === 'options' && noun.options) values.options = mergedOptions(before?.options, value)
    else if (noun.extra && name !== 'id' && name !== 'links') extra[name] = value
  }
  if (noun.extra && (before || Object.keys(extra).length > 0)) values.extra = extra
  return values
}

function mergedOptions(before: unknown, sent: unknown): Record<string, unknown> {
  const merged = { ...((before as object) ?? {}), ...(sent as object) } as Record<string, unknown>
  for (const [name, value] of Object.entries(merged)) if (value === null) delete merged[name]
  return merged
}

/** Values as the database takes them; those of fields without a column are the hooks'. */
function storable(noun: Noun, values: Record<string, unknown>): Record<string, unknown> {
  const out = changesFor(tableOf(noun), values)
  for (const [name, value] of Object.entries(values)) {
    if (!Object.hasOwn(noun.fields, name)) out[name] = name === 'extra' || name === 'options' ? json(value) : value
  }
  return out
}

/** Refuses to change or delete what is marked immutable, unless the change takes just that mark away. */
export function refuseImmutable(noun: Pick<Noun, 'one'>, row: Row, changes?: Record<string, unknown>): void {
  if ((row.options as Record<string, unknown> | undefined)?.immutable !== true) return
  const only = changes && Object.keys(changes).every(name => name === 'options' || name === 'extra')
  if (only && (changes.options as Record<string, unknown> | undefined)?.immutable !== true) return
  const what = changes ? 'update' : 'delete'
  throw forbidden(
    `Cannot ${what} resource ${row.id} of type ${noun.one}: it is immutable. Set the option "immutable" to false first.`,
  )
}

const nameClash = (noun: Noun, values: Record<string, unknown>) =>
  conflict(
    `Conflict occurred attempting to store ${title(noun)} - ${noun.duplicate?.(values) ?? `Duplicate entry found with name ${String(values.name ?? values.id)}`}.`,
  )

async function guarded<T>(noun: Noun, values: Record<string, unknown>, work: () => Promise<T>): Promise<T> {
  try {
    return await work()
  } catch (error) {
    if (isDuplicate(error)) throw nameClash(noun, values)
    throw error
  }
}

/** The routes of a noun, in the order list, create, show, update, delete. */
export function nounRoutes(noun: Noun): Route[] {
  const one = `${noun.path}/:${noun.one}_id`
  const rule = (name: keyof Noun['rules']) => `identity:${noun.rules[name]}`
  const common = (verb: 'show' | 'update' | 'delete') => ({
    async target(call: Call) {
      const id = call.params[`${noun.one}_id`]!
      const row = await nounFetch(noun, call, id)
      if (!row && noun.missingFirst?.includes(verb)) throw missing(title(noun), id)
      return row
    },
    policyTarget: (call: Call) => targetOf(noun, (call as NounCall).target, call as NounCall),
  })
  const present = (call: NounCall): Row => {
    if (!call.target) throw missing(title(noun), call.params[`${noun.one}_id`]!)
    return call.target
  }
  const show = async (row: Row, call: Call) => ({ [noun.one]: (await nounViews(noun, [row], call))[0] })
  const make = (method: Method, path: string, name: keyof Noun['rules'], rest: object): Route =>
    route({ method, path, policy: rule(name), ...rest } as never)
  return [
    make('GET', noun.path, 'list', {
      policyTarget: (call: NounCall) => noun.listTarget?.(call) ?? {},
      async handle(call: NounCall) {
        await noun.beforeList?.(call)
        let query = filtered(any(call.db).selectFrom(noun.table).selectAll(noun.table) as unknown as Rows, call.search, noun)
        if (noun.domainColumn && call.ctx.domainId)
          query = query.where(`${noun.table}.${noun.domainColumn}`, '=', call.ctx.domainId)
        if (noun.where) query = noun.where(query, call)
        const found = await pageOf(query, call, noun)
        return listView(noun.many, await nounViews(noun, found.rows, call), found)
      },
    }),
    make(noun.putCreates ? 'PUT' : 'POST', noun.putCreates ? one : noun.path, 'create', {
      success: 201,
      body: bodySchema(noun, 'create'),
      policyTarget: (call: NounCall) => targetOf(noun, sentOf(noun, call), call),
      handle: (call: NounCall) => create(noun, call).then(row => show(row, call)),
    }),
    make('GET', one, 'show', { ...common('show'), handle: (call: NounCall) => show(present(call), call) }),
    make('PATCH', one, 'update', {
      ...common('update'),
      body: bodySchema(noun, 'update'),
      handle: (call: NounCall) => update(noun, call, present(call)).then(row => show(row, call)),
    }),
    make('DELETE', one, 'delete', {
      ...common('delete'),
      success: 204,
      async handle(call: NounCall) {
        const row = present(call)
        await call.env.db.tx(async tx => {
          const locked = await lockRow(noun, tx, row)
          refuseImmutable(noun, locked)
          await noun.beforeDelete?.(tx, call, locked)
          await any(tx).deleteFrom(noun.table).where('id', '=', row.id).execute()
          await noun.afterDelete?.(tx, call, locked)
          await auditResource(tx, call, 'deleted', noun.one, row.id)
        })
      },
    }),
  ]
}

/** The member of the body, before its schema has been checked. */
function sentOf(noun: Noun, call: NounCall): Record<string, unknown> {
  const sent = (call.body as Record<string, unknown> | undefined)?.[noun.one]
  return typeof sent === 'object' && sent !== null ? (sent as Record<string, unknown>) : {}
}

async function create(noun: Noun, call: NounCall): Promise<Row> {
  const sent = call.body[noun.one]!
  const values = columnsOf(noun, sent, true)
  values.id = noun.putCreates ? call.params[`${noun.one}_id`] : newId()
  Object.assign(values, await noun.prepare?.(call, values))
  return guarded(noun, values, () =>
    call.env.db.tx(async tx => {
      const mine = { ...values }
      await noun.beforeCreate?.(tx, call, mine)
      const row = await any(tx as unknown as Transaction<Record<string, Row>>)
        .insertInto(noun.table)
        .values(storable(noun, mine) as never)
        .returningAll()
        .executeTakeFirstOrThrow()
      await noun.afterCreate?.(tx, call, { ...mine, ...row } as Row)
      await auditResource(tx, call, 'created', noun.one, (row as unknown as Row).id)
      return row as unknown as Row
    }),
  )
}

async function lockRow(noun: Noun, tx: Tx, row: Row): Promise<Row> {
  const locked = await any(tx).selectFrom(noun.table).selectAll().where('id', '=', row.id).forUpdate().executeTakeFirst()
  if (!locked) throw missing(title(noun), row.id)
  return locked as Row
}

async function update(noun: Noun, call: NounCall, row: Row): Promise<Row> {
  const sent = call.body[noun.one]!
  if (sent.id !== undefined && sent.id !== row.id) throw badRequest(`Cannot change ${title(noun)} ID`)
  const prepared = (await noun.prepare?.(call, { ...sent })) ?? {}
  return guarded(noun, sent, () =>
    call.env.db.tx(async tx => {
      const locked = await lockRow(noun, tx, row)
      const changes = { ...columnsOf(noun, sent, false, locked), ...prepared }
      refuseImmutable(noun, locked, changes)
      await noun.beforeUpdate?.(tx, call, locked, changes)
      const values = storable(noun, changes)
      const after =
        Object.keys(values).length === 0
          ? locked
          : await any(tx)
              .updateTable(noun.table)
              .set(values as never)
              .where('id', '=', row.id)
              .returningAll()
              .executeTakeFirstOrThrow()
      await noun.afterUpdate?.(tx, call, locked, after as unknown as Row)
      await auditResource(tx, call, 'updated', noun.one, row.id)
      return after as unknown as Row
    }),
  )
}

/** An array of texts as a parameter. */
export const texts = (list: string[]) => sql<string[]>`${list}::text[]`
