/** Bodies for trials: what a sane client would send to a route, as its service says it, else out of the route's schema. */
import { schemaAt } from '#kit/http/schema.ts'
import type { Entry, TrialCloud } from './cloud.ts'

type Json = Record<string, unknown>

/** The JSON schema of a route's body at the version of {@link versionFor}. */
export function bodySchema({ service, route }: Pick<Entry, 'service' | 'route'>): Json | undefined {
  const schema = route?.body ?? route?.takes
  if (!schema) return undefined
  return schemaAt(schema, Math.min(route?.until ?? Infinity, service.microversions?.max ?? 0))
}

/** A body that the route's service would take if the ids were the caller's; undefined where the method has none. */
export function bodyFor(cloud: TrialCloud, entry: Entry): unknown {
  const { service, tried, method, key, path } = entry
  if (['GET', 'HEAD', 'DELETE'].includes(method)) return undefined
  const told = tried.bodies?.(cloud.owned[service.name]!)
  if (told && key in told) return told[key]
  const known = cloud.sane.get(`${service.name} ${method} ${path}`)
  if (known !== undefined) return known
  if (entry.route?.raw) return 'bytes'
  const schema = bodySchema(entry)
  if (schema) return sample(schema)
  return entry.route?.action ? { [entry.route.action]: null } : {}
}

/** Whether {@link bodyFor} knows from the service what it sends, and does not guess. */
export function bodyIsTold(cloud: TrialCloud, { service, tried, method, key, path }: Entry): boolean {
  if (['GET', 'HEAD', 'DELETE'].includes(method)) return true
  return key in (tried.bodies?.(cloud.owned[service.name]!) ?? {}) || cloud.sane.has(`${service.name} ${method} ${path}`)
}

/** A value that fits a schema, as small as it can be. */
export function sample(schema: Json): unknown {
  if ('default' in schema) return schema.default
  if ('const' in schema) return schema.const
  if (Array.isArray(schema.enum)) return schema.enum[0]
  for (const key of ['anyOf', 'oneOf']) if (Array.isArray(schema[key])) return sample(schema[key][0] as Json)
  const merged = Array.isArray(schema.allOf) ? Object.assign({}, schema, ...(schema.allOf as Json[])) : schema
  const type = Array.isArray(merged.type) ? merged.type[0] : (merged.type ?? (merged.properties ? 'object' : undefined))
  if (type === 'object') {
    const properties = (merged.properties ?? {}) as Record<string, Json>
    const names = [...((merged.required as string[] | undefined) ?? [])]
    const fewest = (merged.minProperties as number | undefined) ?? 0
    for (const name of Object.keys(properties)) if (names.length < fewest && !names.includes(name)) names.push(name)
    return Object.fromEntries(names.map(name => [name, sample(properties[name] ?? {})]))
  }
  if (type === 'array') {
    const items = (merged.items ?? {}) as Json
    return Array.from({ length: (merged.minItems as number | undefined) ?? 0 }, () => sample(items))
  }
  if (type === 'integer' || type === 'number') return (merged.minimum as number | undefined) ?? 1
  if (type === 'boolean') return true
  if (type === 'string') return text(merged)
  return null
}

const FORMATS: Record<string, string> = {
  uuid: 'd0000000-0000-4000-8000-000000000000',
  ipv4: '192.0.2.9',
  ipv6: '2001:db8::9',
  uri: 'http://192.0.2.9/',
  'date-time': '2030-01-01T00:00:00Z',
}

function text(schema: Json): string {
  const { format, pattern, minLength } = schema as { format?: string; pattern?: string; minLength?: number }
  if (format && FORMATS[format]) return FORMATS[format]
  const candidates = ['x', '1', '', 'x1', 'http://192.0.2.9/', '192.0.2.9', 'CUSTOM_X', '0'.repeat(32), FORMATS.uuid!]
  const fits = candidates.filter(c => c.length >= (minLength ?? 0) && (!pattern || new RegExp(pattern, 'u').test(c)))
  return fits[0] ?? 'x'.repeat(minLength ?? 1)
}
