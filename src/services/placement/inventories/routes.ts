import { badRequest, conflict, methodNotAllowed, notFound } from '#kit/fault.ts'
import { type Call, route } from '#kit/http/route.ts'
import * as S from '#kit/http/schema.ts'
import { generationsBump } from '../allocations/store.ts'
import { CODE, dated, MAX_INT } from '../edge.ts'
import { classesMissing, type Provider, providerFetch, refuseStale } from '../providers/store.ts'
import { V } from '../versions.ts'
import {
  type Inventory,
  inventoriesKeep,
  inventoriesReplace,
  inventoriesWrite,
  inventoryList,
  refuseCapacity,
  refuseClasses,
} from './store.ts'

const int = (minimum: number) => S.Optional(S.Integer({ minimum, maximum: MAX_INT }))
const fields = {
  total: S.Integer({ minimum: 1, maximum: MAX_INT }),
  reserved: int(0),
  min_unit: int(1),
  max_unit: int(1),
  step_size: int(1),
  /** The largest single-precision float. */
  allocation_ratio: S.Optional(S.Number({ maximum: 3.40282e38 })),
}
const closed = { additionalProperties: false }
const Generation = S.Integer()
/** One inventory of several. */
export const Record = S.Object({ ...fields, resource_provider_generation: S.Optional(Generation) }, closed)
/** All inventories of a provider. */
export const All = S.Object(
  {
    resource_provider_generation: Generation,
    inventories: S.Unsafe<Record<string, S.Static<typeof Record>>>({
      type: 'object',
      patternProperties: { '^[A-Z0-9_]+$': Record },
      additionalProperties: false,
    }),
  },
  closed,
)

const view = (i: Inventory) => ({
  total: i.total,
  reserved: i.reserved,
  min_unit: i.min_unit,
  max_unit: i.max_unit,
  step_size: i.step_size,
  allocation_ratio: i.allocation_ratio,
})

const target = ({ db, params }: Pick<Call, 'db' | 'params'>): Promise<Provider> => providerFetch(db, params.uuid!)

/** All inventories with the generation they belong to, read together. */
async function allView(call: Pick<Call, 'env' | 'reply' | 'version'>, id: string): Promise<unknown> {
  const { rows, generation } = await call.env.db.tx(async tx => ({
    rows: await inventoryList(tx, id),
    generation: (await providerFetch(tx, id)).generation,
  }))
  dated(
    call,
    rows.map(i => i.updated_at),
  )
  return {
    resource_provider_generation: generation,
    inventories: Object.fromEntries(rows.map(i => [i.class, view(i)])),
  }
}

async function oneView(call: Pick<Call, 'db' | 'reply' | 'version'>, id: string, name: string): Promise<unknown> {
  const row = (await inventoryList(call.db, id)).find(i => i.class === name)
  if (!row) throw notFound(`No inventory of class ${name} for ${id}`)
  dated(call, [row.updated_at])
  const { generation } = await providerFetch(call.db, id)
  return { ...view(row), resource_provider_generation: generation }
}

const path = '/resource_providers/:uuid/inventories'
const policy = (verb: string): string => `placement:resource_providers:inventories:${verb}`

export const inventoryRoutes = [
  route({ method: 'GET', path, policy: policy('list'), target, handle: call => allView(call, call.target.id) }),
  route({
    method: 'PUT',
    path,
    policy: policy('update'),
    target,
    body: All,
    async handle(call) {
      const { env, target, body, version } = call
      await env.db.tx(async tx => {
        const provider = await providerFetch(tx, target.id, true)
        refuseStale(provider, body.resource_provider_generation)
        for (const [name, given] of Object.entries(body.inventories))
          refuseCapacity(provider.id, name, given, version, 'Unable to update')
        await inventoriesReplace(tx, provider, body.inventories)
      })
      return allView(call, target.id)
    },
  }),
  route({
    method: 'POST',
    path,
    success: 201,
    policy: policy('create'),
    target,
    body: S.Object(
      { ...fields, resource_class: S.String({ pattern: '^[A-Z0-9_]+$' }), resource_provider_generation: S.Optional(Generation) },
      closed,
    ),
    async handle(call) {
      const { env, target, body, version, reply, self } = call
      const { resource_class: name, ...given } = body
      await env.db.tx(async tx => {
        const provider = await providerFetch(tx, target.id, true)
        if (given.resource_provider_generation !== undefined) refuseStale(provider, given.resource_provider_generation)
        refuseCapacity(provider.id, name, given, version, 'Unable to create')
        const [missing] = await classesMissing(tx, [name])
        if (missing)
          throw badRequest(`Unable to create inventory for resource provider ${target.id}: No such resource class ${name}.`)
        if ((await inventoryList(tx, provider.id)).some(i => i.class === name))
          throw conflict(`Update conflict: there is an inventory of ${name} already`, { code: CODE.concurrentUpdate })
        await inventoriesWrite(tx, provider.id, { [name]: given })
        await generationsBump(tx, [provider.id])
      })
      reply.headers.Location = self(`/resource_providers/${target.id}/inventories/${name}`)
      return oneView(call, target.id, name)
    },
  }),
  route({
    method: 'DELETE',
    path,
    until: V.deleteInventories - 1,
    policy: null,
    handle() {
      throw methodNotAllowed('Inventories are deleted all at once since 1.5.', { headers: { Allow: 'GET, POST, PUT' } })
    },
  }),
  route({
    method: 'DELETE',
    path,
    success: 204,
    since: V.deleteInventories,
    policy: policy('delete'),
    target,
    async handle({ env, target }) {
      await env.db.tx(async tx => {
        const provider = await providerFetch(tx, target.id, true)
        await inventoriesKeep(tx, provider.id, [], 'Unable to delete inventory')
        await generationsBump(tx, [provider.id])
      })
    },
  }),
  route({
    method: 'GET',
    path: `${path}/:class`,
    policy: policy('show'),
    target,
    handle: call => oneView(call, call.target.id, call.params.class!),
  }),
  route({
    method: 'PUT',
    path: `${path}/:class`,
    policy: policy('update'),
    target,
    body: S.Object({ ...fields, resource_provider_generation: Generation }, closed),
    async handle(call) {
      const { env, target, body, version, params } = call
      const name = params.class!
      await env.db.tx(async tx => {
        const provider = await providerFetch(tx, target.id, true)
        refuseStale(provider, body.resource_provider_generation)
        refuseCapacity(provider.id, name, body, version, 'Unable to update')
        await refuseClasses(tx, provider.id, [name])
        if (!(await inventoryList(tx, provider.id)).some(i => i.class === name)) {
          throw badRequest(
            `No inventory record with resource class for resource provider ${target.id}: No inventory for class ${name} found.`,
          )
        }
        await inventoriesWrite(tx, provider.id, { [name]: body })
        await generationsBump(tx, [provider.id])
      })
      return oneView(call, target.id, name)
    },
  }),
  route({
    method: 'DELETE',
    path: `${path}/:class`,
    success: 204,
    policy: policy('delete'),
    target,
    async handle({ env, target, params }) {
      const name = params.class!
      await env.db.tx(async tx => {
        const provider = await providerFetch(tx, target.id, true)
        const all = (await inventoryList(tx, provider.id)).map(i => i.class)
        if (!all.includes(name))
          throw notFound(`No inventory of class ${name} found for delete: No inventory of class ${name} found.`)
        await inventoriesKeep(
          tx,
          provider.id,
          all.filter(other => other !== name),
          `Unable to delete inventory of class ${name}`,
        )
        await generationsBump(tx, [provider.id])
      })
    },
  }),
]
