import { type Query, sql, type Tx } from '#kit/db/index.ts'
import { type Call, route } from '#kit/http/route.ts'
import * as S from '#kit/http/schema.ts'
import { generationsBump } from '../allocations/store.ts'
import { dated, uuidOf } from '../edge.ts'
import { type Provider, providerFetch, refuseStale } from '../providers/store.ts'
import { V } from '../versions.ts'

const target = ({ db, params }: Pick<Call, 'db' | 'params'>): Promise<Provider> => providerFetch(db, params.uuid!)

const list = async (q: Query, id: string): Promise<string[]> => {
  const rows = await q
    .selectFrom('placement.provider_aggregates')
    .select('aggregate')
    .where('provider_id', '=', id)
    .orderBy('aggregate')
    .execute()
  return rows.map(row => row.aggregate)
}

async function replace(tx: Tx, id: string, aggregates: readonly string[]): Promise<void> {
  await tx.deleteFrom('placement.provider_aggregates').where('provider_id', '=', id).execute()
  await sql`
    insert into placement.provider_aggregates (provider_id, aggregate) select ${id}, unnest(${[...new Set(aggregates)]}::text[])`.execute(
    tx,
  )
}

async function view(call: Pick<Call, 'db' | 'reply' | 'version'>, id: string, aggregates?: string[]): Promise<unknown> {
  dated(call)
  const { generation } = await providerFetch(call.db, id)
  return {
    aggregates: aggregates ?? (await list(call.db, id)),
    ...(call.version >= V.aggregateGeneration && { resource_provider_generation: generation }),
  }
}

const path = '/resource_providers/:uuid/aggregates'
const Ids = () => S.Array(S.Uuid(), { uniqueItems: true })
const STALE = "Resource provider's generation already changed. Please update the generation and try again."

export const aggregateRoutes = [
  route({
    method: 'GET',
    path,
    since: V.aggregates,
    policy: 'placement:resource_providers:aggregates:list',
    target,
    handle: call => view(call, call.target.id),
  }),
  route({
    method: 'PUT',
    path,
    since: V.aggregates,
    until: V.aggregateGeneration - 1,
    policy: 'placement:resource_providers:aggregates:update',
    target,
    body: Ids(),
    async handle(call) {
      await call.env.db.tx(async tx => {
        await providerFetch(tx, call.target.id, true)
        await replace(tx, call.target.id, call.body.map(uuidOf))
      })
      return view(call, call.target.id, call.body.map(uuidOf))
    },
  }),
  route({
    method: 'PUT',
    path,
    since: V.aggregateGeneration,
    policy: 'placement:resource_providers:aggregates:update',
    target,
    body: S.Object({ resource_provider_generation: S.Integer(), aggregates: Ids() }, { additionalProperties: false }),
    async handle(call) {
      const { env, target, body } = call
      await env.db.tx(async tx => {
        const provider = await providerFetch(tx, target.id, true)
        refuseStale(provider, body.resource_provider_generation, STALE)
        await replace(tx, target.id, body.aggregates.map(uuidOf))
        await generationsBump(tx, [target.id])
      })
      return view(call, target.id, body.aggregates.map(uuidOf))
    },
  }),
]
