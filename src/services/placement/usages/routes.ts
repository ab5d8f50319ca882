import { sql } from '#kit/db/index.ts'
import { type Call, route } from '#kit/http/route.ts'
import * as S from '#kit/http/schema.ts'
import { usagesOf } from '../allocations/store.ts'
import { dated, queryCheck } from '../edge.ts'
import { type Provider, providerFetch } from '../providers/store.ts'
import { V } from '../versions.ts'

const target = ({ db, params }: Pick<Call, 'db' | 'params'>): Promise<Provider> => providerFetch(db, params.uuid!)
const Id = () => S.String({ minLength: 1, maxLength: 255 })

const totals = queryCheck(
  S.Object(
    {
      project_id: Id(),
      user_id: S.Optional(Id()),
      consumer_type: S.since(
        V.consumerTypes,
        S.Optional(S.String({ pattern: '^[A-Z0-9_]+$|^all|^unknown$', minLength: 1, maxLength: 255 })),
      ),
    },
    { additionalProperties: false },
  ),
)

interface Used {
  type: string
  class: string
  used: number
  consumers: number
}

export const usageRoutes = [
  route({
    method: 'GET',
    path: '/resource_providers/:uuid/usages',
    policy: 'placement:resource_providers:usages',
    target,
    async handle(call) {
      dated(call)
      const usages = await usagesOf(call.db, call.target.id)
      return { resource_provider_generation: call.target.generation, usages }
    },
  }),
  route({
    method: 'GET',
    path: '/usages',
    since: V.usages,
    policy: 'placement:usages',
    policyTarget: ({ search }) => ({ project_id: search.get('project_id') }),
    async handle(call) {
      const { db, search, version } = call
      const query = totals(search, version)
      dated(call)
      const all = query.consumer_type === 'all'
      const type = all ? sql`'all'` : sql`coalesce(c.type, 'unknown')`
      const { rows } = await sql<Used>`
        with mine as (select c.id, ${type} as type from placement.consumers c where c.project_id = ${query.project_id}
          ${query.user_id === undefined ? sql`` : sql`and c.user_id = ${query.user_id}`})
        select m.type, a.class, sum(a.used)::bigint as used,
          (select count(distinct b.consumer_id) from placement.allocations b join mine n on n.id = b.consumer_id where n.type = m.type) as consumers
        from mine m join placement.allocations a on a.consumer_id = m.id
        ${query.consumer_type === undefined || all ? sql`` : sql`where m.type = ${query.consumer_type}`}
        group by m.type, a.class order by m.type, a.class`.execute(db)
      if (version < V.consumerTypes) {
        const sums: Record<string, number> = {}
        for (const row of rows) sums[row.class] = (sums[row.class] ?? 0) + row.used
        return { usages: sums }
      }
      const usages: Record<string, Record<string, number>> = {}
      for (const row of rows) {
        const of = (usages[row.type] ??= { consumer_count: row.consumers })
        of[row.class] = row.used
      }
      return { usages }
    },
  }),
]
