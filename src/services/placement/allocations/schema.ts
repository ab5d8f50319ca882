/** Bodies that say who uses what, in the shapes that they have had. */
import * as S from '#kit/http/schema.ts'
import { V } from '../versions.ts'

const closed = { additionalProperties: false }
const Id = () => S.String({ minLength: 1, maxLength: 255 })

/** Class → amount. */
const Resources = S.Unsafe<Record<string, number>>({
  type: 'object',
  minProperties: 1,
  patternProperties: { '^[A-Z0-9_]+$': { type: 'integer', minimum: 1 } },
  additionalProperties: false,
})

/** Up to 1.11: a list. */
export const Listed = S.Object(
  {
    allocations: S.Array(S.Object({ resource_provider: S.Object({ uuid: S.Uuid() }, closed), resources: Resources }, closed), {
      minItems: 1,
    }),
    project_id: S.since(V.allocationOwner, Id()),
    user_id: S.since(V.allocationOwner, Id()),
  },
  closed,
)

type ByProvider = Record<string, { generation?: number; resources: Record<string, number> }>

const UUID_KEY = '^[0-9a-fA-F-]{36}$'
const byProvider = (minProperties: number) =>
  S.Unsafe<ByProvider>({
    type: 'object',
    minProperties,
    patternProperties: { [UUID_KEY]: S.Object({ generation: S.Optional(S.Integer()), resources: Resources }, closed) },
    additionalProperties: false,
  })

const Mappings = S.Unsafe<Record<string, string[]>>({
  type: 'object',
  minProperties: 1,
  patternProperties: { '[a-zA-Z0-9_-]{1,64}': { type: 'array', minItems: 1, items: { type: 'string', format: 'uuid' } } },
})

const owned = {
  project_id: Id(),
  user_id: Id(),
  consumer_generation: S.since(V.consumerGeneration, S.Nullable(S.Integer())),
  mappings: S.since(V.mappings, S.Optional(Mappings)),
  consumer_type: S.since(V.consumerTypes, S.String({ pattern: '^[A-Z0-9_]+$', minLength: 1, maxLength: 255 })),
}

/** From 1.12: by provider. Before consumers had generations nobody could ask for nothing. */
export const Keyed = S.Object(
  { allocations: S.byVersion([V.allocationDict, byProvider(1)], [V.consumerGeneration, byProvider(0)]), ...owned },
  closed,
)
export type KeyedBody = S.Static<typeof Keyed>

const Deletable = S.Object({ allocations: byProvider(0), ...owned }, closed)

/** Those of several consumers, by consumer. */
export const Many = (minProperties: number) =>
  S.Unsafe<Record<string, KeyedBody>>({
    type: 'object',
    minProperties,
    patternProperties: { [UUID_KEY]: Deletable },
    additionalProperties: false,
  })
