/**
 * Schemas of requests: TypeBox to write them, Ajv to run them.
 *
 * A field says with `since` and `until` in which microversions it exists, and `byVersion` gives it another shape from a version on.
 * The JSON schema of one microversion is derived from that by `schemaAt`, and compiled at the first request that needs it: once for
 * each range of versions between which nothing changes, never for each version and never at start.
 */
import { Ajv, type ErrorObject, type ValidateFunction } from 'ajv'
import * as Type from 'typebox'
import { badRequest } from '../fault.ts'
import { addFormats } from './formats.ts'

export type { Static, TSchema } from 'typebox'
export {
  Any,
  Array,
  Boolean,
  Enum,
  Integer,
  Intersect,
  Literal,
  Null,
  Number,
  Object,
  Optional,
  Partial,
  Record,
  String,
  Union,
  Unknown,
  Unsafe,
} from 'typebox'

type Json = { [key: string]: unknown }
interface Range {
  since?: number
  until?: number
}
const RANGE = '~range'
const VARIANTS = '~variants'
const OPTIONAL = '~optional'
const KIND = '~kind'

const own = (schema: object, key: string): unknown => (schema as Json)[key]

function marked<T extends Type.TSchema>(schema: T, key: string, value: unknown): T {
  const copy = Object.create(Object.getPrototypeOf(schema), Object.getOwnPropertyDescriptors(schema)) as T
  Object.defineProperty(copy, key, { value, enumerable: false, configurable: true })
  return copy
}

/** The field exists from this microversion on. Put it outermost: `since(V.tags, Optional(Tags))`. */
export function since<T extends Type.TSchema>(version: number, schema: T): T {
  return marked(schema, RANGE, { ...(own(schema, RANGE) as Range | undefined), since: version })
}

/** The field exists up to and including this microversion. */
export function until<T extends Type.TSchema>(version: number, schema: T): T {
  return marked(schema, RANGE, { ...(own(schema, RANGE) as Range | undefined), until: version })
}

/** A field whose shape changes: pairs of (first microversion, schema), ascending. Its static type is the union of all shapes. */
export function byVersion<T extends Type.TSchema[]>(
  ...variants: { [K in keyof T]: [from: number, schema: T[K]] }
): Type.TUnsafe<Type.Static<T[number]>> {
  return marked(Type.Unsafe<Type.Static<T[number]>>({}), VARIANTS, variants)
}

/** A field that may be null: `Nullable(String())`. */
export function Nullable<T extends Type.TSchema>(schema: T): Type.TUnion<[T, Type.TNull]> {
  return Type.Union([schema, Type.Null()])
}

/** One of these strings. */
export function OneOf<const T extends string>(...values: T[]): Type.TUnsafe<T> {
  return Type.Unsafe<T>({ type: 'string', enum: values })
}

/** A UUID as OpenStack's validators take it: with or without dashes, any case. */
export const Uuid = (options: Type.TStringOptions = {}): Type.TString => Type.String({ format: 'uuid', ...options })

/** A boolean as `oslo_utils.strutils.bool_from_string(strict)` reads it from a body: true, "True", "1", "yes", "on", 1, … */
export const LooseBoolean = (): Type.TUnsafe<boolean | string | number> =>
  Type.Unsafe<boolean | string | number>({ enum: [true, false, ...TRUE_WORDS, ...FALSE_WORDS, 1, 0] })

const words = (list: string[]): string[] =>
  list.flatMap(w => [w, w.toUpperCase(), w[0]!.toUpperCase() + w.slice(1)]).filter((w, i, a) => a.indexOf(w) === i)
const TRUE_WORDS = words(['true', '1', 'on', 'yes', 'y', 't'])
const FALSE_WORDS = words(['false', '0', 'off', 'no', 'n', 'f'])

/** Reads what `LooseBoolean` or a query parameter holds. `undefined` for what is no boolean. */
export function toBoolean(value: unknown): boolean | undefined {
  if (typeof value === 'boolean') return value
  const text = String(value)
  return TRUE_WORDS.includes(text) ? true : FALSE_WORDS.includes(text) ? false : undefined
}

const lives = (schema: object, version: number): boolean => {
  const range = own(schema, RANGE) as Range | undefined
  return !range || ((range.since ?? 0) <= version && version <= (range.until ?? Number.POSITIVE_INFINITY))
}

function variantAt(schema: object, version: number): object | undefined {
  const variants = own(schema, VARIANTS) as [number, object][] | undefined
  if (!variants) return schema
  const chosen = variants.filter(([from]) => from <= version).at(-1)
  return chosen && variantAt(chosen[1], version)
}

/** The plain JSON schema of a request at one microversion: fields outside their range are gone, the rest is complete. */
export function schemaAt(schema: object, version: number): Json {
  const here = variantAt(schema, version)
  if (!here) return {}
  const out: Json = {}
  for (const [key, value] of Object.entries(here)) {
    if (key === 'properties' || key === 'patternProperties') {
      const fields: Json = {}
      const required: string[] = []
      for (const [name, field] of Object.entries(value as Record<string, object>)) {
        const shape = lives(field, version) ? variantAt(field, version) : undefined
        if (!shape || !lives(shape, version)) continue
        fields[name] = schemaAt(shape, version)
        if (own(field, OPTIONAL) === undefined && own(shape, OPTIONAL) === undefined) required.push(name)
      }
      out[key] = fields
      // TypeBox marks optional fields; a schema written as plain JSON lists the required ones itself.
      if (key === 'properties')
        out.required = own(here, KIND) === 'Object' ? required : (((here as Json).required as string[]) ?? [])
    } else if (key === 'anyOf' || key === 'allOf' || key === 'oneOf' || key === 'prefixItems') {
      out[key] = (value as object[]).filter(s => lives(s, version)).map(s => schemaAt(s, version))
    } else if (key === 'items' || key === 'not' || key === 'propertyNames' || key === 'contains') {
      out[key] = Array.isArray(value) ? value.map(s => schemaAt(s, version)) : schemaAt(value as object, version)
    } else if (key === 'additionalProperties' && typeof value === 'object' && value !== null) {
      out[key] = schemaAt(value, version)
    } else if (key !== 'required' || !('properties' in here)) {
      out[key] = value
    }
  }
  return out
}

/** The versions at which something in the schema changes, ascending. */
export function breakpoints(schema: object): number[] {
  const found = new Set<number>()
  const walk = (node: unknown): void => {
    if (typeof node !== 'object' || node === null) return
    const range = own(node, RANGE) as Range | undefined
    if (range?.since !== undefined) found.add(range.since)
    if (range?.until !== undefined) found.add(range.until + 1)
    for (const [from, variant] of (own(node, VARIANTS) as [number, object][] | undefined) ?? []) {
      found.add(from)
      walk(variant)
    }
    for (const child of Object.values(node)) walk(child)
  }
  walk(schema)
  return [...found].sort((a, b) => a - b)
}

const bodies = addFormats(new Ajv({ strict: false, useDefaults: true, verbose: true, allowUnionTypes: true }))
const queries = addFormats(
  new Ajv({ strict: false, useDefaults: true, verbose: true, allowUnionTypes: true, coerceTypes: 'array' }),
)

/** How a schema violation is told. `field` is a dotted path, `why` names the rule that was broken. */
export type Complaint = (field: string, value: unknown, why: string) => string

const nova: Complaint = (field, value, why) =>
  `Invalid input for field/attribute ${field || '(body)'}. Value: ${show(value)}. ${why}`

const show = (value: unknown): string => {
  const text = typeof value === 'string' ? value : JSON.stringify(value)
  return (text ?? 'None').length > 200 ? `${text?.slice(0, 200)}…` : (text ?? 'None')
}

/** A compiled checker for one request part over all microversions. */
export type Check = (value: unknown, version: number) => void

/**
 * Makes the check of a body or a query. Defaults are filled into the value; query values are converted to the schema's types.
 * Throws `badRequest` with the path of the first wrong field.
 */
export function checker(schema: object, part: 'body' | 'query', complain: Complaint = nova): Check {
  const edges = breakpoints(schema)
  const compiled: (ValidateFunction | undefined)[] = []
  return (value, version) => {
    let slot = 0
    while (slot < edges.length && edges[slot]! <= version) slot++
    const validate = (compiled[slot] ??= (part === 'body' ? bodies : queries).compile(schemaAt(schema, version)))
    if (!validate(value)) throw complaint(validate.errors!, complain)
  }
}

function complaint(errors: ErrorObject[], complain: Complaint): Error {
  const deepest = [...errors].sort((a, b) => b.instancePath.length - a.instancePath.length || rank(a) - rank(b))[0]!
  const path = deepest.instancePath
    .split('/')
    .slice(1)
    .map(part => part.replaceAll('~1', '/').replaceAll('~0', '~'))
  const extra = deepest.params as Record<string, unknown>
  const named = extra.additionalProperty ?? extra.unevaluatedProperty
  const field = path.join('.')
  const why = named
    ? `Additional properties are not allowed ('${named}' was unexpected)`
    : deepest.keyword === 'required'
      ? `'${extra.missingProperty}' is a required property`
      : sentence(deepest)
  return badRequest(complain(field, deepest.data, why), { field: named ? [...path, String(named)].join('.') : field })
}

const rank = (e: ErrorObject): number => (e.keyword === 'anyOf' || e.keyword === 'oneOf' ? 1 : 0)

function sentence(e: ErrorObject): string {
  const value = typeof e.data === 'string' ? `'${show(e.data)}'` : show(e.data)
  const p = e.params as Record<string, unknown>
  switch (e.keyword) {
    case 'type':
      return `${value} is not of type '${[p.type].flat().join("', '")}'`
    case 'enum':
      return `${value} is not one of ${JSON.stringify(p.allowedValues)}`
    case 'maxLength':
      return `${value} is too long`
    case 'minLength':
      return `${value} is too short`
    case 'pattern':
      return `${value} does not match '${p.pattern}'`
    case 'format':
      return `${value} is not a '${p.format}'`
    case 'minimum':
      return `${value} is less than the minimum of ${p.limit}`
    case 'maximum':
      return `${value} is greater than the maximum of ${p.limit}`
    default:
      return `${value} ${e.message ?? 'is invalid'}`
  }
}
