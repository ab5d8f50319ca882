import { type Call, route } from '#kit/http/route.ts'
import * as S from '#kit/http/schema.ts'
import { aggregatesWanted, dated, queryCheck, resourcesOf, traitsWanted, uuidOf } from '../edge.ts'
import { V } from '../versions.ts'
import { type Provider, providerCreate, providerDelete, providerFetch, providerList, providerUpdate } from './store.ts'

/** Path of a provider, as links have it. */
export const providerPath = (id: string): string => `/placement/resource_providers/${id}`

/** A provider as the wire shows it. */
export function providerView(p: Provider, version: number): Record<string, unknown> {
  const rels = [
    'inventories',
    'usages',
    ...(version >= V.aggregates ? ['aggregates'] : []),
    ...(version >= V.traits ? ['traits'] : []),
    ...(version >= V.allocationsLink ? ['allocations'] : []),
  ]
  return {
    uuid: p.id,
    name: p.name,
    generation: p.generation,
    links: [{ rel: 'self', href: providerPath(p.id) }, ...rels.map(rel => ({ rel, href: `${providerPath(p.id)}/${rel}` }))],
    ...(version >= V.nested && { parent_provider_uuid: p.parent_id, root_provider_uuid: p.root_id }),
  }
}

const Name = () => S.String({ maxLength: 200 })
const Parent = () => S.since(V.nested, S.Optional(S.Nullable(S.Uuid())))

const parentOf = (given: string | null | undefined): string | null | undefined =>
  typeof given === 'string' ? uuidOf(given) : given

const listQuery = queryCheck(
  S.Object(
    {
      name: S.Optional(S.String()),
      uuid: S.Optional(S.Uuid()),
      member_of: S.since(V.memberOf, S.Optional(S.String())),
      resources: S.since(V.resourcesFilter, S.Optional(S.String())),
      in_tree: S.since(V.nested, S.Optional(S.Uuid())),
      required: S.since(V.providersRequired, S.Optional(S.String())),
    },
    { additionalProperties: false },
  ),
)

const target = ({ db, params }: Pick<Call, 'db' | 'params'>): Promise<Provider> => providerFetch(db, params.uuid!)

export const providerRoutes = [
  route({
    method: 'GET',
    path: '/resource_providers',
    policy: 'placement:resource_providers:list',
    async handle(call) {
      const { db, search, version } = call
      const query = listQuery(search, version)
      const rows = await providerList(db, {
        uuid: query.uuid && uuidOf(query.uuid),
        name: query.name,
        inTree: query.in_tree && uuidOf(query.in_tree),
        resources: query.resources === undefined ? undefined : resourcesOf(query.resources),
        traits: search.has('required') ? traitsWanted(search.getAll('required'), version) : undefined,
        aggregates: search.has('member_of') ? aggregatesWanted(search.getAll('member_of'), version) : undefined,
      })
      dated(
        call,
        rows.map(p => p.updated_at),
      )
      return { resource_providers: rows.map(p => providerView(p, version)) }
    },
  }),
  route({
    method: 'POST',
    path: '/resource_providers',
    policy: 'placement:resource_providers:create',
    body: S.Object({ name: Name(), uuid: S.Optional(S.Uuid()), parent_provider_uuid: Parent() }, { additionalProperties: false }),
    async handle(call) {
      const { env, body, reply, self, version } = call
      const made = await env.db.tx(tx =>
        providerCreate(tx, {
          id: body.uuid && uuidOf(body.uuid),
          name: body.name,
          parent_id: parentOf(body.parent_provider_uuid) ?? null,
        }),
      )
      reply.headers.Location = self(`/resource_providers/${made.id}`)
      if (version < V.createAnswers) {
        reply.status = 201
        return undefined
      }
      dated(call, [made.updated_at])
      return providerView(made, version)
    },
  }),
  route({
    method: 'GET',
    path: '/resource_providers/:uuid',
    policy: 'placement:resource_providers:show',
    target,
    handle(call) {
      dated(call, [call.target.updated_at])
      return providerView(call.target, call.version)
    },
  }),
  route({
    method: 'PUT',
    path: '/resource_providers/:uuid',
    policy: 'placement:resource_providers:update',
    target,
    body: S.Object({ name: Name(), parent_provider_uuid: Parent() }, { additionalProperties: false }),
    async handle(call) {
      const { env, body, target, version } = call
      const change = { name: body.name, parent_id: parentOf(body.parent_provider_uuid) }
      const row = await env.db.tx(tx => providerUpdate(tx, target.id, change, version >= V.reparent))
      dated(call, [row.updated_at])
      return providerView(row, version)
    },
  }),
  route({
    method: 'DELETE',
    path: '/resource_providers/:uuid',
    success: 204,
    policy: 'placement:resource_providers:delete',
    target,
    handle: ({ env, target }) => env.db.tx(tx => providerDelete(tx, target.id)),
  }),
]
