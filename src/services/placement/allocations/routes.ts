import { badRequest, notFound } from '#kit/fault.ts'
import { type Call, route } from '#kit/http/route.ts'
import { dated, UUID, uuidOf } from '../edge.ts'
import { type Provider, providerFetch } from '../providers/store.ts'
import { V } from '../versions.ts'
import { allocationsChange, askedOf } from './change.ts'
import { Keyed, Listed, Many } from './schema.ts'
import { providersLock, type Resources } from './store.ts'

function consumerId({ params }: Pick<Call, 'params'>): string {
  if (!UUID.test(params.consumer!)) throw badRequest(`Malformed consumer_uuid: ${params.consumer}`)
  return uuidOf(params.consumer!)
}

interface Row {
  provider_id: string
  class: string
  used: number
  updated_at: Date
  generation: number
  project_id: string
  user_id: string
  type: string | null
  consumer_generation: number
}

const target = ({ db, params }: Pick<Call, 'db' | 'params'>): Promise<Provider> => providerFetch(db, params.uuid!)

export const allocationRoutes = [
  route({
    method: 'GET',
    path: '/allocations/:consumer',
    policy: 'placement:allocations:list',
    async handle(call) {
      const { db, params, version } = call
      const rows: Row[] = await db
        .selectFrom('placement.allocations as a')
        .innerJoin('placement.providers as p', 'p.id', 'a.provider_id')
        .innerJoin('placement.consumers as c', 'c.id', 'a.consumer_id')
        .select(['a.provider_id', 'a.class', 'a.used', 'a.updated_at', 'p.generation'])
        .select(['c.project_id', 'c.user_id', 'c.type', 'c.generation as consumer_generation'])
        .where('a.consumer_id', '=', params.consumer!.toLowerCase())
        .orderBy('a.provider_id')
        .orderBy('a.class')
        .execute()
      dated(
        call,
        rows.map(r => r.updated_at),
      )
      const allocations: Record<string, { resources: Resources; generation: number }> = {}
      for (const row of rows) {
        const at = (allocations[row.provider_id] ??= { resources: {}, generation: row.generation })
        at.resources[row.class] = row.used
      }
      const first = rows[0]
      if (!first || version < V.allocationDict) return { allocations }
      return {
        allocations,
        project_id: first.project_id,
        user_id: first.user_id,
        ...(version >= V.consumerGeneration && { consumer_generation: first.consumer_generation }),
        ...(version >= V.consumerTypes && { consumer_type: first.type ?? 'unknown' }),
      }
    },
  }),
  route({
    method: 'PUT',
    path: '/allocations/:consumer',
    success: 204,
    until: V.allocationDict - 1,
    policy: 'placement:allocations:update',
    body: Listed,
    async handle(call) {
      const { env, body, version } = call
      const id = consumerId(call)
      const allocations = Object.fromEntries(
        body.allocations.map(({ resource_provider: { uuid }, resources }) => [uuid, { resources }]),
      )
      const { project_id, user_id } = body as { project_id?: string; user_id?: string }
      await env.db.tx(tx => allocationsChange(tx, [askedOf(id, { allocations, project_id, user_id }, version)]))
    },
  }),
  route({
    method: 'PUT',
    path: '/allocations/:consumer',
    success: 204,
    since: V.allocationDict,
    policy: 'placement:allocations:update',
    body: Keyed,
    async handle(call) {
      const { env, body, version } = call
      const id = consumerId(call)
      await env.db.tx(tx => allocationsChange(tx, [askedOf(id, body, version)]))
    },
  }),
  route({
    method: 'POST',
    path: '/allocations',
    success: 204,
    since: V.manyAllocations,
    policy: 'placement:allocations:manage',
    body: Many(1),
    async handle({ env, body, version }) {
      const asked = Object.entries(body).map(([id, one]) => askedOf(id, one, version))
      await env.db.tx(tx => allocationsChange(tx, asked))
    },
  }),
  route({
    method: 'DELETE',
    path: '/allocations/:consumer',
    success: 204,
    policy: 'placement:allocations:delete',
    async handle({ env, params }) {
      const id = params.consumer!.toLowerCase()
      await env.db.tx(async tx => {
        await tx.selectFrom('placement.consumers').select('id').where('id', '=', id).forUpdate().execute()
        const rows = await tx
          .selectFrom('placement.allocations')
          .select('provider_id')
          .distinct()
          .where('consumer_id', '=', id)
          .execute()
        if (rows.length === 0) throw notFound(`No allocations for consumer '${params.consumer}'`)
        const providers = rows.map(row => row.provider_id)
        await providersLock(tx, providers)
        await tx.deleteFrom('placement.allocations').where('consumer_id', '=', id).execute()
        await tx.deleteFrom('placement.consumers').where('id', '=', id).execute()
      })
    },
  }),
  route({
    method: 'GET',
    path: '/resource_providers/:uuid/allocations',
    policy: 'placement:resource_providers:allocations:list',
    target,
    async handle(call) {
      const { db, target, version } = call
      const rows = await db
        .selectFrom('placement.allocations as a')
        .innerJoin('placement.consumers as c', 'c.id', 'a.consumer_id')
        .select(['a.consumer_id', 'a.class', 'a.used', 'a.updated_at', 'c.generation'])
        .where('a.provider_id', '=', target.id)
        .orderBy('a.consumer_id')
        .orderBy('a.class')
        .execute()
      dated(
        call,
        rows.map(r => r.updated_at),
      )
      const allocations: Record<string, { resources: Resources; consumer_generation?: number }> = {}
      for (const row of rows) {
        const of = (allocations[row.consumer_id] ??= {
          resources: {},
          ...(version >= V.consumerGeneration && { consumer_generation: row.generation }),
        })
        of.resources[row.class] = row.used
      }
      return { allocations, resource_provider_generation: target.generation }
    },
  }),
]
