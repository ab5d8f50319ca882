/**
 * A noun is a table of its fields. From one entry a field come: what POST and PUT (or PATCH) take, their JSON schema, what GET shows, filters,
 * sorting, policy per field, and the column. What makes a noun special is written by hand, in its hooks and routes.
 *
 *     export const segments = noun({
 *       name: 'segment', plural: 'segments', table: 'neutron.segments',
 *       fields: {
 *         id: { schema: Uuid(), create: 'never', update: false },
 *         name: { schema: String({ maxLength: 255 }), initial: '' },
 *         network_id: { schema: Uuid(), create: 'required', update: false },
 *         'provider:physical_network': { schema: Nullable(String()), column: 'physical_network', policy: { show: 'get_segment:provider' } },
 *       },
 *     })
 *
 * Nothing here knows a service: envelopes, links and the words of refusals are told by `Dialect`.
 */
import * as S from '../http/schema.ts'

/** A row as the database gives it. */
export type Row = Record<string, unknown>

export interface Field {
  /** The value on the wire, in bodies. */
  schema: S.TSchema
  /** The column, where it is not the field's name; null for a field that no column of this table holds. */
  column?: string | null
  /** Whether POST takes it; `optional` unless given. */
  create?: 'required' | 'optional' | 'never'
  /** Whether PUT or PATCH takes it; true unless given. */
  update?: boolean
  /** The value where POST gives none. A function is called for each. Absent and no value given: the column keeps the table's default. */
  initial?: unknown | (() => unknown)
  /** Column value to wire; by default the value itself, dates as the dialect writes them. */
  read?: (value: unknown, row: Row) => unknown
  /** Wire value to column. */
  write?: (value: unknown) => unknown
  /** Whether answers have it; true unless given. */
  show?: boolean
  /** Whether lists can be filtered by it; true unless given, for fields with a column. */
  filter?: boolean
  /** How the text of a filter becomes the column's value; by the schema's type unless given. Returns undefined for a text that no row can match. */
  parse?: (text: string) => unknown
  /** Whether lists can be sorted by it; true unless given, for fields with a column. */
  sort?: boolean
  /** Whether the column may be null: paging must know. */
  nullable?: boolean
  /** Rules asked for beside the noun's own, when the field is given or shown. A field that may not be shown is left out. */
  policy?: { create?: string; update?: string; show?: string }
}

export interface NounSpec {
  /** On the wire: `network`, `networks`. */
  name: string
  plural: string
  /** Qualified: `neutron.networks`. */
  table: string
  fields: Record<string, Field>
}

export interface Noun extends NounSpec {
  /** Field by name, in the order in which answers show them. */
  list: readonly (Field & { name: string; at: string | null })[]
}

/** Declares a noun. */
export function noun(spec: NounSpec): Noun {
  const list = Object.entries(spec.fields).map(([name, field]) => ({
    ...field,
    name,
    at: field.column === undefined ? name : field.column,
  }))
  return { ...spec, list }
}

/**
 * The envelope `{ network: { … } }` that POST or PUT takes. Fields outside are refused, unless `open` lets them through; what stands beside
 * the noun in its envelope too, unless `loose` does. `more` are members that no field describes.
 */
export function bodyOf(
  of: Noun,
  verb: 'create' | 'update',
  options: { open?: boolean; loose?: boolean; more?: Record<string, S.TSchema> } = {},
) {
  const fields: Record<string, S.TSchema> = { ...options.more }
  for (const field of of.list) {
    const mode = verb === 'update' ? (field.update === false ? 'never' : 'optional') : (field.create ?? 'optional')
    if (mode !== 'never') fields[field.name] = mode === 'required' ? field.schema : S.Optional(field.schema)
  }
  const inner = S.Object(fields, { additionalProperties: options.open ?? false })
  return S.Object({ [of.name]: inner }, { additionalProperties: options.loose ?? false }) as unknown as S.TSchema
}

/** The columns of a new row from what POST gave: given fields, else their initial values. Fields without a column are left to the noun. */
export function valuesFor(of: Noun, given: Row): Row {
  const values: Row = {}
  for (const field of of.list) {
    if (field.at === null) continue
    const value =
      field.name in given
        ? given[field.name]
        : typeof field.initial === 'function'
          ? (field.initial as () => unknown)()
          : field.initial
    if (value !== undefined) values[field.at] = field.write ? field.write(value) : value
  }
  return values
}

/** The columns that an update changes. */
export function changesFor(of: Noun, given: Row): Row {
  const values: Row = {}
  for (const field of of.list) {
    if (field.at !== null && field.name in given)
      values[field.at] = field.write ? field.write(given[field.name]) : given[field.name]
  }
  return values
}

/** What decides whether a rule holds for a row: `ctx.can`. */
export type Allows = (rule: string, row: Row) => boolean

export interface ViewOptions {
  /** How a timestamp looks; ISO with milliseconds unless given. */
  date?: (at: Date) => string
  /** Only these fields. */
  only?: ReadonlySet<string>
  /** Fields with a `policy.show` rule appear only where it allows. */
  allows?: Allows
}

/** A row as the wire shows it, without envelope. */
export function viewOf(of: Noun, row: Row, { date, only, allows }: ViewOptions = {}): Row {
  const out: Row = {}
  for (const field of of.list) {
    if (field.show === false || (only && !only.has(field.name))) continue
    if (field.policy?.show && allows && !allows(field.policy.show, row)) continue
    const value = field.at === null ? undefined : row[field.at]
    const shown = field.read ? field.read(value, row) : value
    out[field.name] = shown instanceof Date ? (date ? date(shown) : shown.toISOString()) : shown === undefined ? null : shown
  }
  return out
}

/** The rules that must hold, beside the noun's own, for the fields that a body gives. */
export function rulesFor(of: Noun, verb: 'create' | 'update', given: Row): string[] {
  return of.list.flatMap(field => (field.policy?.[verb] && field.name in given ? [field.policy[verb]!] : []))
}

export { filtered, type Listed, type ListOptions, type Loose, listOf, pageOf, type Select } from './list.ts'
