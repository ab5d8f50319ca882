import type { Query } from '#kit/db/index.ts'
import { badRequest, conflict, forbidden } from '#kit/fault.ts'
import { route } from '#kit/http/route.ts'
import { Optional, String } from '#kit/http/schema.ts'
import { type Noun, type NounCall, nounRoutes, nounViews, type Row } from '../noun.ts'
import { Text } from '../shapes.ts'
import { stale } from '../tokens/stale.ts'

/** Regions: a tree that endpoints hang on. Their ids are chosen by the caller. */
export const regions: Noun = {
  one: 'region',
  many: 'regions',
  path: '/regions',
  table: 'keystone.regions',
  fields: {
    description: { schema: Text() },
    parent_region_id: { schema: Text() },
  },
  extra: true,
  rules: { list: 'list_regions', show: 'get_region', create: 'create_region', update: 'update_region', delete: 'delete_region' },
  duplicate: values => `Duplicate ID, ${values.id}.`,
  async beforeCreate(tx, call, values) {
    values.id = regionId(call, values)
    delete (values.extra as Record<string, unknown> | undefined)?.id
    values.description ??= ''
    await parentCheck(tx, values.id as string, values.parent_region_id)
  },
  async beforeUpdate(tx, _call, row, changes) {
    if (changes.description === null) changes.description = ''
    await parentCheck(tx, row.id, changes.parent_region_id)
  },
  async beforeDelete(tx, _call, row) {
    const child = await tx.selectFrom('keystone.regions').select('id').where('parent_region_id', '=', row.id).executeTakeFirst()
    if (child) throw forbidden(`Unable to delete region ${row.id} because it or its child regions have associated endpoints.`)
    const endpoint = await tx.selectFrom('keystone.endpoints').select('id').where('region_id', '=', row.id).executeTakeFirst()
    if (endpoint) throw forbidden(`Unable to delete region ${row.id} because it or its child regions have associated endpoints.`)
    await stale(tx, 'catalog')
  },
}

function regionId(call: NounCall, values: Record<string, unknown>): string {
  const sent = call.body.region!
  const given = call.params.region_id ?? (typeof sent.id === 'string' && sent.id !== '' ? sent.id : undefined)
  return given ?? (values.id as string)
}

/** A parent must exist, and a region cannot stand below itself. */
async function parentCheck(db: Query, id: string, parent: unknown): Promise<void> {
  if (typeof parent !== 'string') return
  const above = await db
    .withRecursive('up', cte =>
      cte
        .selectFrom('keystone.regions')
        .select(['id', 'parent_region_id'])
        .where('id', '=', parent)
        .union(
          cte
            .selectFrom('keystone.regions as r')
            .innerJoin('up as u', 'r.id', 'u.parent_region_id')
            .select(['r.id', 'r.parent_region_id']),
        ),
    )
    .selectFrom('up')
    .select('id')
    .execute()
  if (above.length === 0) throw badRequest(`Could not find parent region: ${parent}.`)
  if (above.some(region => region.id === id)) throw badRequest(`Region ${id} cannot be its own ancestor.`)
}

const derived = nounRoutes(regions)
const post = derived[1]!

export const regionRoutes = [
  ...derived,
  // Before POST there was PUT, with the id in the path.
  route({
    method: 'PUT',
    path: '/regions/:region_id',
    policy: 'identity:create_region',
    policyTarget: call => ({ ...call.params }),
    success: 201,
    body: post.body,
    async handle(call) {
      const sent = (call.body as Record<string, Record<string, unknown>>).region!
      if (sent.id !== undefined && sent.id !== call.params.region_id)
        throw badRequest('The region id in the URL and in the body differ.')
      const there = await call.db
        .selectFrom('keystone.regions')
        .select('id')
        .where('id', '=', call.params.region_id!)
        .executeTakeFirst()
      if (there) throw conflict(`Conflict occurred attempting to store region - Duplicate ID, ${there.id}.`)
      return post.handle(call as never)
    },
  }),
]

/** Rows to wire, for those who list regions elsewhere. */
export const regionViews = (rows: Row[], call: NounCall) => nounViews(regions, rows, call)
export const RegionId = Optional(String({ minLength: 1, maxLength: 255 }))
