/** What bodies of metadata definitions take: the documents that `/v2/schemas/metadefs/…` shows, as checks. */
import { forbidden } from '#kit/fault.ts'
import * as S from '#kit/http/schema.ts'
import { metadefSchemas } from '../schemas/metadefs.ts'
import type { Doc } from '../schemas/parts.ts'

/** References resolved, so that each part stands for itself; values that nobody gave are not filled in. */
function resolved(value: unknown, definitions: Doc): unknown {
  if (Array.isArray(value)) return value.map(item => resolved(item, definitions))
  if (typeof value !== 'object' || value === null) return value
  const { $ref, ...rest } = value as { $ref?: string }
  if ($ref !== undefined) return resolved(definitions[$ref.split('/').at(-1)!], definitions)
  return Object.fromEntries(
    Object.entries(rest)
      .filter(([key, inner]) => !(key === 'default' && typeof inner !== 'object'))
      .map(([key, inner]) => [key, resolved(inner, definitions)]),
  )
}

/** The schema of a body: without what only answers have. */
function bodyOf(name: keyof typeof metadefSchemas, without: readonly string[] = []): S.TSchema {
  const { properties, required, definitions } = metadefSchemas[name] as Doc
  const entries = Object.entries(properties as Doc).filter(([key]) => !without.includes(key))
  const { name: _, ...shape } = resolved(
    { name: '', type: 'object', properties: Object.fromEntries(entries), required, additionalProperties: false },
    (definitions as Doc | undefined) ?? {},
  ) as Doc
  return S.Unsafe<Record<string, unknown>>(shape)
}

export const Bodies = {
  namespace: bodyOf('namespace'),
  object: bodyOf('object'),
  property: bodyOf('property'),
  tag: bodyOf('tag'),
  resource_type: bodyOf('resource_type'),
  tags: S.Object({ tags: S.Array(S.Object({ name: S.String({ minLength: 1, maxLength: 80 }) })) }),
}

const READ_ONLY = ['self', 'schema', 'created_at', 'updated_at']

/** What a client said, without what it may not say. Throws forbidden for that. */
export function said(body: unknown): Record<string, unknown> {
  const given = body as Record<string, unknown>
  const barred = READ_ONLY.find(key => key in given)
  if (barred !== undefined) throw forbidden(`Attribute '${barred}' is read-only.`)
  return given
}
