/** What routes share: names of what is wrong, how queries are read, the headers that tell when something changed. */
import { badRequest } from '#kit/fault.ts'
import type { Call } from '#kit/http/route.ts'
import { type Check, checker } from '#kit/http/schema.ts'
import { V } from './versions.ts'

/** Machine codes of faults. Source: the API reference, "Error codes". */
export const CODE = {
  inventoryInUse: 'placement.inventory.inuse',
  concurrentUpdate: 'placement.concurrent_update',
  duplicateName: 'placement.duplicate_name',
  providerInUse: 'placement.resource_provider.inuse',
  providerIsParent: 'placement.resource_provider.cannot_delete_parent',
  providerNotFound: 'placement.resource_provider.not_found',
  duplicateKey: 'placement.query.duplicate_key',
  badValue: 'placement.query.bad_value',
  missingValue: 'placement.query.missing_value',
} as const

export const UUID = /^[0-9a-f]{8}-?([0-9a-f]{4}-?){3}[0-9a-f]{12}$/i
/** Classes and traits that clients make. */
export const CUSTOM = /^CUSTOM_[A-Z0-9_]+$/
export const MAX_INT = 2_147_483_647

/** The usual form of a UUID: lower case, with dashes. */
export const uuidOf = (text: string): string =>
  text
    .replaceAll('-', '')
    .toLowerCase()
    .replace(/^(.{8})(.{4})(.{4})(.{4})(.{12})$/, '$1-$2-$3-$4-$5')

const complain = (_field: string, _value: unknown, why: string): string => `Invalid query string parameters: ${why}`

/** Checks a query as the API does: the last of repeated parameters counts. Returns the last of each. */
export function queryCheck(schema: object): (search: URLSearchParams, version: number) => Record<string, string> {
  let check: Check | undefined
  return (search, version) => {
    const last: Record<string, string> = {}
    for (const [key, value] of search) last[key] = value
    check ??= checker(schema, 'body', complain)
    check(last, version)
    return last
  }
}

/** Headers that answers have since 1.15: when what they show was last changed. Now, where nothing shown has a time. */
export function dated({ reply, version }: Pick<Call, 'reply' | 'version'>, times: Iterable<Date> = []): void {
  if (version < V.lastModified) return
  let latest: Date | undefined
  for (const at of times) if (!latest || at > latest) latest = at
  reply.headers['Last-Modified'] = (latest ?? new Date()).toUTCString()
  reply.headers['Cache-Control'] = 'no-cache'
}

/** Reads `VCPU:2,MEMORY_MB:1024`. Throws badRequest. */
export function resourcesOf(text: string): Record<string, number> {
  const expected = 'Expected resources query string parameter in form: ?resources=VCPU:2,MEMORY_MB:1024.'
  if (text.trim() === '') throw badRequest(`Badly formed resources parameter. ${expected} Got: empty string.`)
  const resources: Record<string, number> = {}
  for (const part of text.split(',')) {
    const [name, amount, ...more] = part.split(':')
    if (!name || amount === undefined || more.length > 0)
      throw badRequest(`Badly formed resources parameter. ${expected} Got: ${part}.`)
    if (!/^\s*[+-]?\d{1,15}\s*$/.test(amount))
      throw badRequest(`Requested resource ${name} expected positive integer amount. Got: ${amount}.`)
    if (Number(amount) < 1) throw badRequest(`Requested resource ${name} requires amount >= 1. Got: ${Number(amount)}.`)
    resources[name] = Number(amount)
  }
  return resources
}

/** Traits wanted: one of each list; and none of the forbidden. */
export interface TraitsWanted {
  required: string[][]
  forbidden: string[]
}

const BAD = 'Invalid query string parameters'

function traitsOfOne(text: string, version: number): TraitsWanted {
  if (text.startsWith('in:')) {
    if (version < V.anyTraits) {
      throw badRequest(`${BAD}: The format 'in:HW_CPU_X86_VMX,CUSTOM_MAGIC' only supported since microversion 1.39. Got: ${text}`)
    }
    const any = text
      .slice(3)
      .split(',')
      .map(t => t.trim())
    if (any.includes('')) {
      throw badRequest(
        `${BAD}: Expected 'required' parameter value of the form: in:HW_CPU_X86_VMX,CUSTOM_MAGIC. Got an empty trait in: ${text}`,
      )
    }
    if (any.some(t => t.startsWith('!'))) {
      throw badRequest(`${BAD}: The format 'in:HW_CPU_X86_VMX,CUSTOM_MAGIC' does not support forbidden traits. Got: ${text}`)
    }
    return { required: [[...new Set(any)]], forbidden: [] }
  }
  const all = text.split(',').map(t => t.trim())
  const forbidden = all.filter(t => t.startsWith('!')).map(t => t.replace(/^!+/, ''))
  const form = version < V.forbidden ? 'HW_CPU_X86_VMX,CUSTOM_MAGIC' : 'HW_CPU_X86_VMX,!CUSTOM_MAGIC'
  const expected = `${BAD}: Expected 'required' parameter value of the form: ${form}. Got`
  if (all.includes('') || forbidden.includes('')) throw badRequest(`${expected} an empty trait in: ${text}`)
  if (forbidden.length > 0 && version < V.forbidden) throw badRequest(`${expected}: ${text}`)
  return { required: all.filter(t => !t.startsWith('!')).map(t => [t]), forbidden: [...new Set(forbidden)] }
}

/** Reads `required` parameters: `T,!U`, and `in:T,U` since 1.39, when they may also be repeated. Throws badRequest. */
export function traitsWanted(values: readonly string[], version: number): TraitsWanted {
  const read = version < V.anyTraits ? values.slice(-1) : values
  const parts = read.map(value => traitsOfOne(value, version))
  return { required: parts.flatMap(p => p.required), forbidden: [...new Set(parts.flatMap(p => p.forbidden))] }
}

/** Aggregates wanted: one of each list; and none of the forbidden. */
export interface AggregatesWanted {
  required: string[][]
  forbidden: string[]
}

/** Reads `member_of` parameters. `suffix` is that of their group, for messages. Throws badRequest. */
export function aggregatesWanted(values: readonly string[], version: number, suffix = ''): AggregatesWanted {
  if (version < V.repeatedMemberOf && values.length > 1)
    throw badRequest(`Multiple member_of${suffix} parameters are not supported`)
  const wanted: AggregatesWanted = { required: [], forbidden: [] }
  for (const value of values) {
    if (value.includes(',') && !/^!?in:/.test(value)) {
      throw badRequest(
        `Multiple values for 'member_of' must be prefixed with the 'in:' or '!in:' keyword using the valid microversion. Got: ${value}`,
      )
    }
    const negative = value.startsWith('!')
    const ids = value.replace(/^!?(in:)?/, '').split(',')
    const wrong = ids.find(id => !UUID.test(id))
    if (wrong !== undefined) throw badRequest(`${BAD}: Expected 'member_of' parameter to contain valid UUID(s). Got: ${wrong}`)
    if (!negative) wanted.required.push(ids.map(uuidOf))
    else if (version < V.forbiddenAggregates)
      throw badRequest(`Forbidden member_of${suffix} parameters are not supported in the specified microversion`)
    else wanted.forbidden.push(...ids.map(uuidOf))
  }
  return wanted
}
