// Kinds of attributes: each gives a field's schema, its reading from a request (clean), its filter and its column.
import { json } from '#kit/db/index.ts'
import * as S from '#kit/http/schema.ts'
import type { Field } from '#kit/noun/index.ts'
import { parseAddress, parseMac, parsePrefix, showAddress, showPrefix } from '../address.ts'
import { invalidInput, told } from '../faults.ts'

/** A field that also says how a given value becomes the value that hooks and columns see. Throws badRequest. */
export interface Attribute extends Field {
  clean?(value: unknown, name: string): unknown
  /** No rule of its own is asked, though policy has one: upstream does not mark the attribute as enforced. */
  unguarded?: true
}

const fixed = { create: 'never', update: false } as const

/** Only shown. */
export const shown = (schema: S.TSchema, more: Partial<Attribute> = {}): Attribute => ({ schema, ...fixed, ...more })

export const idField: Attribute = shown(S.String())

export const text = (initial: string | undefined, max = 255, more: Partial<Attribute> = {}): Attribute => ({
  schema: S.String({ maxLength: max }),
  initial,
  ...more,
})

export const nullableText = (max = 255, more: Partial<Attribute> = {}): Attribute => ({
  schema: S.Nullable(S.String({ maxLength: max })),
  initial: null,
  nullable: true,
  ...more,
})

export const bool = (initial: boolean | undefined, more: Partial<Attribute> = {}): Attribute => ({
  schema: S.LooseBoolean(),
  initial,
  clean: value => S.toBoolean(value)!,
  ...more,
})

const WHOLE = /^-?\d{1,15}$/

/** A whole number, also as text. */
export const int = (min: number, max: number, more: Partial<Attribute> = {}): Attribute => ({
  schema: S.Unsafe<number>({ type: more.nullable ? ['integer', 'string', 'null'] : ['integer', 'string'] }),
  clean: (value, name) => (value === null ? null : whole(value, name, min, max)),
  parse: value => (WHOLE.test(value) ? Number(value) : value === '' && more.nullable ? null : undefined),
  ...more,
})

export function whole(value: unknown, name: string, min: number, max: number): number {
  const read = typeof value === 'string' && WHOLE.test(value) ? Number(value) : value
  if (!Number.isSafeInteger(read)) throw invalidInput(name, `'${told(value)}' is not an integer`)
  if ((read as number) < min) throw invalidInput(name, `'${told(value)}' is too small - must be at least '${min}'`)
  if ((read as number) > max) throw invalidInput(name, `'${told(value)}' is too large - must be no larger than '${max}'`)
  return read as number
}

const UUID = /^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$/i

export const isUuid = (value: unknown): value is string => typeof value === 'string' && UUID.test(value)

export function uuidClean(value: unknown, name: string): string {
  if (!isUuid(value)) throw invalidInput(name, `'${told(value)}' is not a valid UUID`)
  return value.toLowerCase()
}

export const uuid = (more: Partial<Attribute> = {}): Attribute => ({ schema: S.String(), clean: uuidClean, ...more })

export const nullableUuid = (more: Partial<Attribute> = {}): Attribute => ({
  schema: S.Nullable(S.String()),
  initial: null,
  nullable: true,
  clean: (value, name) => (value === null || value === '' ? null : uuidClean(value, name)),
  ...more,
})

export const oneOf = (values: readonly string[], more: Partial<Attribute> = {}): Attribute => ({
  schema: more.nullable ? S.Nullable(S.String()) : S.String(),
  clean(value, name) {
    if (value === null && more.nullable) return null
    if (!values.includes(value as string))
      throw invalidInput(name, `'${told(value)}' is not in [${values.map(v => `'${v}'`).join(', ')}]`)
    return value
  },
  ...more,
})

/** A list of texts in a text[] column. */
export const texts = (more: Partial<Attribute> = {}): Attribute => ({
  schema: S.Array(S.String({ maxLength: 255 })),
  initial: () => [],
  filter: false,
  sort: false,
  ...more,
})

/** Any JSON value in a jsonb column. */
export const document = (schema: S.TSchema, more: Partial<Attribute> = {}): Attribute => ({
  schema,
  write: value => (value === null ? null : json(value)),
  filter: false,
  sort: false,
  ...more,
})

/** An inet column: canonical on the way in, without prefix length on the way out. */
export const address = (more: Partial<Attribute> = {}): Attribute => ({
  schema: S.Nullable(S.String()),
  clean: (value, name) => (value === null || value === '' ? null : addressClean(value, name)),
  read: value => (typeof value === 'string' ? value.replace(/\/\d+$/, '') : (value ?? null)),
  parse: value => (parseAddress(value) ? value : undefined),
  sort: true,
  ...more,
})

export function addressClean(value: unknown, name: string): string {
  const read = parseAddress(value)
  if (!read) throw invalidInput(name, `'${told(value)}' is not a valid IP address`)
  return showAddress(read)
}

/** A prefix without bits after it, in its one spelling. */
export function prefixClean(value: unknown, name: string): string {
  const read = typeof value === 'string' && value.includes('/') ? parsePrefix(value) : undefined
  if (!read) throw invalidInput(name, `'${told(value)}' is not a valid IP subnet`)
  if (read.host !== 0n)
    throw invalidInput(name, `'${told(value)}' isn't a recognized IP subnet cidr, '${showPrefix(read)}' is recommended`)
  return showPrefix(read)
}

export function macClean(value: unknown, name: string): string {
  const read = parseMac(value)
  if (!read || read === '00:00:00:00:00:00') throw invalidInput(name, `'${told(value)}' is not a valid MAC address`)
  return read
}

const NAME = /^(?!-)[a-zA-Z0-9-]{1,63}(?<!-)$/

/** A DNS name of one or more labels, in lower case; '' is none. A final dot is kept. */
export function dnsClean(value: unknown, name: string): string {
  const read = String(value ?? '').toLowerCase()
  if (read === '') return ''
  const labels = read.replace(/\.$/, '').split('.')
  if (read.length > 255 || !labels.every(label => NAME.test(label))) {
    throw invalidInput(name, `'${told(value)}' not a valid PQDN or FQDN. Reason: Name must be a sequence of DNS labels`)
  }
  if (labels.length > 1 && /^\d+$/.test(labels.at(-1)!)) {
    throw invalidInput(name, `'${told(value)}' not a valid PQDN or FQDN. Reason: TLD '${labels.at(-1)}' must not be all numeric`)
  }
  return read
}

const TAG = /^[^,/]+$/

export function tagsClean(value: unknown, name = 'tags'): string[] {
  if (!Array.isArray(value)) throw invalidInput(name, `'${told(value)}' is not a list`)
  for (const tag of value) {
    if (typeof tag !== 'string' || tag.length > 255 || !TAG.test(tag))
      throw invalidInput(name, `'${told(tag)}' is not a valid tag`)
  }
  if (value.length > 50) throw invalidInput(name, 'the number of tags exceeds the limit of 50')
  return [...new Set(value as string[])]
}

/** The project: two names for one column. */
export const project: Record<string, Attribute> = {
  tenant_id: text(undefined, 255, { column: 'project_id', update: false }),
  project_id: text(undefined, 255, { update: false }),
}

const seconds = (at: unknown): string => (at as Date).toISOString().replace(/\.\d+Z$/, 'Z')

/** What every noun has beside its own. */
export const standard: Record<string, Attribute> = {
  description: text('', 255),
  tags: shown(S.Array(S.String()), { filter: false, sort: false }),
  created_at: shown(S.String(), { read: seconds, filter: false }),
  updated_at: shown(S.String(), { read: seconds, filter: false }),
  revision_number: shown(S.Integer()),
}
