/**
 * How PostgreSQL's values look in JavaScript, decided once for every connection:
 *
 * | PostgreSQL            | JavaScript                                                                     |
 * |-----------------------|--------------------------------------------------------------------------------|
 * | int2, int4, int8      | number; an int8 beyond 2^53 throws instead of losing digits                    |
 * | numeric, float        | number (`sum()` and `avg()` of integers give numeric)                          |
 * | timestamptz           | Date: milliseconds, so columns are `timestamptz(3)`; `migrate` refuses others  |
 * | timestamp             | Date, read as UTC (columns should not use it)                                  |
 * | date, time, interval  | string, as PostgreSQL prints it                                                |
 * | json, jsonb           | the value; write it with `json(value)`                                         |
 * | uuid, text, inet, cidr| string                                                                         |
 * | bytea                 | Buffer                                                                         |
 */
import pg from 'pg'

const OID = { int8: 20, date: 1082, timestamp: 1114, timestamptz: 1184, interval: 1186, numeric: 1700 }
const ARRAY = { int8: 1016, date: 1182, timestamp: 1115, timestamptz: 1185, interval: 1187, numeric: 1231 }

type Parse = (text: string) => unknown

/** pg's own parser of a type; its types know only some of the numbers. */
const parserOf = pg.types.getTypeParser as (oid: number, format?: 'text' | 'binary') => Parse

function parseInt8(text: string): number {
  const value = Number(text)
  if (!Number.isSafeInteger(value)) throw new RangeError(`int8 value ${text} does not fit a JavaScript number`)
  return value
}

/** Sessions run in UTC and print ISO dates: `2026-11-22 17:04:52.123+00`. Years outside 0..9999 and infinity go to pg's slower parser. */
function parseTimestamptz(text: string): unknown {
  if (text.endsWith('+00') && text.charCodeAt(4) === 45) return new Date(`${text.slice(0, 10)}T${text.slice(11, -3)}Z`)
  return parserOf(OID.timestamptz)(text)
}

const scalars: Record<keyof typeof OID, Parse> = {
  int8: parseInt8,
  numeric: Number,
  date: String,
  interval: String,
  timestamp: text => parseTimestamptz(`${text}+00`),
  timestamptz: parseTimestamptz,
}

const parsers = new Map<number, Parse>()
for (const [name, parse] of Object.entries(scalars) as [keyof typeof OID, Parse][]) {
  parsers.set(OID[name], parse)
  // The parser of text[] knows the syntax of every array; the elements are then ours.
  const elements = parserOf(1009) as (text: string) => (string | null)[]
  parsers.set(ARRAY[name], text => elements(text).map(item => (item === null ? null : parse(item))))
}

/** The `types` setting of every pg client of the kit. */
export const types: pg.CustomTypesConfig = {
  getTypeParser: ((oid: number, format?: 'text' | 'binary') =>
    (format !== 'binary' && parsers.get(oid)) || parserOf(oid, format)) as typeof pg.types.getTypeParser,
}
