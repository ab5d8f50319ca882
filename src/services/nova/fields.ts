/** Shapes of values that many of nova's requests share, and how such values are read. */
import ipaddr from 'ipaddr.js'
import { badRequest } from '#kit/fault.ts'
import * as S from '#kit/http/schema.ts'
import { V } from './versions.ts'

const MAX_INT = 0x7fffffff

/** Printable, no white space around it (nova's format `name`). `u` regular expressions know Unicode's categories. */
const NAME = '^(?![\\p{Z}\\p{C}])[\\p{L}\\p{M}\\p{N}\\p{P}\\p{S}\\p{Zs}]*(?<![\\p{Z}\\p{C}])$'

export const Name = () => S.String({ minLength: 1, maxLength: 255, pattern: NAME })
export const NameOrNull = () => S.Nullable(S.String({ minLength: 1, maxLength: 255 }))
/** A zone's name: no colon, which separates zone, host and node. */
export const ZoneName = () => S.String({ minLength: 1, maxLength: 255, pattern: NAME.replace('(?!', '(?!.*:)(?!') })
export const Description = (maxLength = 255) =>
  S.Nullable(S.String({ maxLength, pattern: '^[\\p{L}\\p{M}\\p{N}\\p{P}\\p{S}\\p{Zs}]*$' }))
export const Hostname = () => S.String({ minLength: 2, maxLength: 63, pattern: '^[a-zA-Z0-9]+[a-zA-Z0-9-]*[a-zA-Z0-9]+$' })
export const Fqdn = () => S.String({ minLength: 1, maxLength: 255, pattern: '^[a-zA-Z0-9-._]*$' })
export const Flag = () =>
  S.Unsafe<boolean | string>({
    enum: ['True', 'TRUE', 'true', '1', 'ON', 'On', 'on', 'YES', 'Yes', 'yes', true]
      .concat(['False', 'FALSE', 'false', '0', 'OFF', 'Off', 'off', 'NO', 'No', 'no', false])
      .filter(unique),
  })
export const Metadata = () => S.Unsafe<Record<string, string>>(METADATA)
export const Tag = () => S.String({ minLength: 1, maxLength: 60, pattern: '^[^,/]*$' })
export const IpAddress = () => S.Union([S.String({ format: 'ipv4' }), S.String({ format: 'ipv6' })])
export const ProjectId = () => S.String({ minLength: 1, maxLength: 255, pattern: '^[a-zA-Z0-9-]*$' })
/** A whole number, as a number or as text. */
export const Whole = (minimum: number, maximum = MAX_INT) =>
  S.Unsafe<number | string>({ type: ['integer', 'string'], pattern: '^-?[0-9]+$', minimum, maximum })
export const Base64 = (maxLength?: number) => S.String({ format: 'base64', ...(maxLength ? { maxLength } : {}) })
/** The value of an action that takes none; nova takes anything. */
export const Anything = () => S.Unsafe<unknown>({})
export const FlavorRef = () => S.Unsafe<string | number>({ type: ['string', 'integer'], minLength: 1 })

const METADATA = {
  type: 'object',
  patternProperties: { '^[a-zA-Z0-9-_:. ]{1,255}$': { type: 'string', maxLength: 255 } },
  additionalProperties: false,
}

function unique<T>(value: T, at: number, all: T[]): boolean {
  return all.indexOf(value) === at
}

/** An object that takes nothing else. */
export const Closed = <T extends S.TSchema>(fields: Record<string, T>) =>
  S.Object(fields as Record<string, S.TSchema>, { additionalProperties: false })

/** An address in its shortest form, as answers show it; null and nothing stay so. */
export const addressText = <T extends string | null | undefined>(text: T): T =>
  text ? (ipaddr.parse(text).toString() as T) : text

/** The number in a `Whole`. Throws badRequest for one out of range, which text can be. */
export function wholeOf(value: number | string, field: string, minimum: number, maximum = MAX_INT): number {
  const number = Number(value)
  if (number < minimum || number > maximum) {
    throw badRequest(
      `Invalid input for field/attribute ${field}. Value: ${value}. ${value} is not between ${minimum} and ${maximum}`,
    )
  }
  return number
}

/**
 * A query string's schema: each parameter may be there several times. Unknown ones are let through below `strictSince`, refused from
 * there on, as nova did service by service.
 */
export function query(parameters: Record<string, object>, strictSince: number = V.cleanup) {
  const properties: Record<string, object> = {}
  for (const [name, item] of Object.entries(parameters)) properties[name] = { anyOf: [item, { type: 'array', items: item }] }
  const open = { type: 'object', properties }
  const closed = { ...open, additionalProperties: false }
  return S.byVersion(
    [0, S.Unsafe<Record<string, string | string[]>>(open)],
    [strictSince, S.Unsafe<Record<string, string | string[]>>(closed)],
  )
}

export const TEXT = { type: 'string' }
export const REGEX = { type: 'string', format: 'regex' }
export const COUNT = { type: 'string', pattern: '^[0-9]*$', minLength: 1 }
export const DATE = { type: 'string', format: 'date-time' }
export const PAGING = { limit: COUNT, marker: TEXT }

/** The page that a query asks for: at most `max` items, after the marker. A limit of 0 means none but is the largest where `zero` says so. */
export function pageOf(search: URLSearchParams, max: number): { limit: number; marker: string | null } {
  const text = search.get('limit')
  if (text === null) return { limit: max, marker: search.get('marker') }
  if (!/^\d{1,15}$/.test(text)) {
    throw badRequest(`Invalid input for field/attribute limit. Value: ${text}. '${text}' does not match '^[0-9]*$'`)
  }
  return { limit: Math.min(Number(text), max), marker: search.get('marker') }
}
