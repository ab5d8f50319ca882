/** What is in a namespace: objects, properties, tags, and the kinds of things that it applies to. */
import { badRequest, notFound } from '#kit/fault.ts'
import { type Call, type Route, route } from '#kit/http/route.ts'
import * as S from '#kit/http/schema.ts'
import type { DefinitionKind } from '../tables.ts'
import { Bodies, said } from './bodies.ts'
import { namespaceTarget } from './namespaces.routes.ts'
import {
  type Definition,
  definitionAdd,
  definitionFetch,
  definitionReplace,
  definitionsOf,
  definitionsRemove,
  namespaceFetch,
  namespaceOpen,
} from './store.ts'
import { associationView, objectView, propertyView, tagView } from './view.ts'

const PATH = '/metadefs/namespaces/:namespace'

/** A kind of definition as its routes need it. */
interface Kind {
  kind: DefinitionKind
  plural: string
  body: S.TSchema
  view: (d: Definition) => Record<string, unknown>
  rules: { list: string; show: string; add: string; modify: string; remove: string; removeAll: string }
  /** How a list is shown. */
  list: (rows: readonly Definition[]) => Record<string, unknown>
}

const ruled = (one: string, plural: string, remove = 'delete') => ({
  list: `get_metadef_${plural}`,
  show: `get_metadef_${one}`,
  add: `add_metadef_${one}`,
  modify: `modify_metadef_${one}`,
  remove: `${remove}_metadef_${one}`,
  // Emptying a namespace of them is a change of the namespace, but for tags.
  removeAll: one === 'tag' ? 'delete_metadef_tags' : 'delete_metadef_namespace',
})

const objects: Kind = {
  kind: 'object',
  plural: 'objects',
  body: Bodies.object,
  view: objectView,
  rules: ruled('object', 'objects'),
  list: rows => ({
    objects: rows.map(objectView),
    first: `/v2/metadefs/namespaces/${rows[0]?.namespace ?? ''}/objects`,
    schema: '/v2/schemas/metadefs/objects',
  }),
}

const properties: Kind = {
  kind: 'property',
  plural: 'properties',
  body: Bodies.property,
  view: propertyView,
  rules: ruled('property', 'properties', 'remove'),
  list: rows => ({
    properties: Object.fromEntries(
      rows.map(row => {
        const { name, ...document } = propertyView(row)
        return [name as string, document]
      }),
    ),
  }),
}

const tags: Kind = {
  kind: 'tag',
  plural: 'tags',
  body: Bodies.tag,
  view: tagView,
  rules: ruled('tag', 'tags'),
  list: rows => ({
    tags: rows.map(({ name }) => ({ name })),
    first: `/v2/metadefs/namespaces/${rows[0]?.namespace ?? ''}/tags`,
    schema: '/v2/schemas/metadefs/tags',
  }),
}

/** What is said of a definition: its name apart from the rest. */
function parted(body: unknown): { name: string; document: Record<string, unknown> } {
  const { name, ...document } = said(body)
  return { name: name as string, document }
}

/** A page of definitions: `limit`, `marker` (a name), `sort_key`, `sort_dir`. */
function paged(rows: Definition[], search: URLSearchParams): Definition[] {
  const key = search.get('sort_key') ?? 'created_at'
  const dir = search.get('sort_dir') ?? 'desc'
  if (!['created_at', 'updated_at', 'name'].includes(key)) throw badRequest(`Invalid sort key: ${key}`)
  if (!['asc', 'desc'].includes(dir)) throw badRequest(`Invalid sort direction: ${dir}`)
  const value = (row: Definition) => (key === 'name' ? row.name : row[key as 'created_at'].getTime())
  const sorted = rows.toSorted((a, b) => (value(a) < value(b) ? -1 : value(a) > value(b) ? 1 : a.name < b.name ? -1 : 1))
  if (dir === 'desc') sorted.reverse()
  const marker = search.get('marker')
  const from = marker === null ? 0 : sorted.findIndex(row => row.name === marker) + 1
  if (marker !== null && from === 0) throw notFound(`There is no definition ${marker} to go on from.`)
  const limit = search.get('limit')
  if (limit !== null && !/^\d{1,9}$/.test(limit)) throw badRequest('limit param must be a whole number')
  return sorted.slice(from, limit === null ? undefined : from + Number(limit))
}

function readRoutes(of: Kind): Route[] {
  const { kind, plural, rules } = of
  return [
    route({
      method: 'GET',
      path: `${PATH}/${plural}`,
      policy: rules.list,
      target: namespaceTarget,
      async handle({ db, target, search }) {
        const rows = await definitionsOf(db, [target.namespace], kind)
        return of.list(kind === 'property' ? rows : paged(rows, search))
      },
    }),
    route({
      method: 'GET',
      path: `${PATH}/${plural}/:name`,
      policy: rules.show,
      target: namespaceTarget,
      async handle(call) {
        const { db, target, params } = call
        const name = kind === 'property' ? await unprefixed(call, target.namespace) : params.name!
        return of.view(await definitionFetch(db, target.namespace, kind, name))
      },
    }),
  ]
}

/** The name of a property that the path gives as a kind of thing has it. Throws notFound where the prefix is another. */
async function unprefixed({ db, params, search }: Call, namespace: string): Promise<string> {
  const name = params.name!
  const type = search.get('resource_type')
  if (type === null) return name
  const prefix = ((await definitionFetch(db, namespace, 'resource_type', type)).document.prefix as string | undefined) ?? ''
  if (prefix !== '' && name.startsWith(prefix)) return name.slice(prefix.length)
  throw notFound(`Property ${name} does not start with the expected resource type association prefix of '${prefix}'.`)
}

function writeRoutes(of: Kind): Route[] {
  const { kind, plural, rules } = of
  return [
    ...(kind === 'tag' ? tagMaking : [making(of)]),
    route({
      method: 'PUT',
      path: `${PATH}/${plural}/:name`,
      policy: rules.modify,
      target: namespaceTarget,
      body: of.body,
      async handle({ ctx, env, params, body }) {
        const { name, document } = parted(body)
        return env.db.tx(async tx => {
          const { namespace } = await namespaceFetch(tx, ctx, params.namespace!, { lock: true })
          const row = await definitionFetch(tx, namespace, kind, params.name!)
          return of.view(await definitionReplace(tx, row, name, kind === 'tag' ? {} : document))
        })
      },
    }),
    route({
      method: 'DELETE',
      path: `${PATH}/${plural}/:name`,
      success: 204,
      policy: rules.remove,
      target: namespaceTarget,
      handle: call => removing(call, kind, call.params.name!),
    }),
    route({
      method: 'DELETE',
      path: `${PATH}/${plural}`,
      success: 204,
      policy: rules.removeAll,
      target: namespaceTarget,
      handle: call => removing(call, kind),
    }),
  ]
}

const making = (of: Kind): Route =>
  route({
    method: 'POST',
    path: `${PATH}/${of.plural}`,
    success: 201,
    policy: of.rules.add,
    target: namespaceTarget,
    body: of.body,
    async handle({ ctx, env, params, body }) {
      const { name, document } = parted(body)
      return env.db.tx(async tx => {
        const { namespace } = await namespaceFetch(tx, ctx, params.namespace!, { lock: true })
        return of.view(await definitionAdd(tx, namespace, of.kind, name, document))
      })
    },
  })

/** Tags are made by their name in the path, or many at once: these replace what there is unless the client says to append. */
const tagMaking: Route[] = [
  route({
    method: 'POST',
    path: `${PATH}/tags/:name`,
    success: 201,
    policy: 'add_metadef_tag',
    target: namespaceTarget,
    async handle({ ctx, env, params }) {
      const name = params.name!
      if (name.length > 80) throw badRequest('The name of a tag has at most 80 characters.')
      return env.db.tx(async tx => {
        const { namespace } = await namespaceFetch(tx, ctx, params.namespace!, { lock: true })
        return tagView(await definitionAdd(tx, namespace, 'tag', name, {}))
      })
    },
  }),
  route({
    method: 'POST',
    path: `${PATH}/tags`,
    success: 201,
    policy: 'add_metadef_tags',
    target: namespaceTarget,
    body: Bodies.tags,
    async handle({ ctx, env, params, headers, body }) {
      const isAppended = S.toBoolean(headers['x-openstack-append'] ?? 'false') ?? false
      await env.db.tx(async tx => {
        const { namespace } = await namespaceFetch(tx, ctx, params.namespace!, { lock: true })
        if (!isAppended) await definitionsRemove(tx, namespace, 'tag')
        for (const { name } of body.tags) await definitionAdd(tx, namespace, 'tag', name, {})
      })
      return { tags: body.tags.map(({ name }) => ({ name })) }
    },
  }),
]

async function removing({ ctx, env, params }: Call, kind: DefinitionKind, name?: string): Promise<void> {
  await env.db.tx(async tx => {
    const { namespace } = await namespaceOpen(tx, ctx, params.namespace!)
    if (name !== undefined) await definitionFetch(tx, namespace, kind, name)
    await definitionsRemove(tx, namespace, kind, name)
  })
}

const associate = route({
  method: 'POST',
  path: `${PATH}/resource_types`,
  success: 201,
  policy: 'add_metadef_resource_type_association',
  target: namespaceTarget,
  body: Bodies.resource_type,
  async handle({ ctx, env, params, body }) {
    const { name, document } = parted(body)
    return env.db.tx(async tx => {
      const { namespace } = await namespaceFetch(tx, ctx, params.namespace!, { lock: true })
      return associationView(await definitionAdd(tx, namespace, 'resource_type', name, document))
    })
  },
})

const dissociate = route({
  method: 'DELETE',
  path: `${PATH}/resource_types/:name`,
  success: 204,
  policy: 'remove_metadef_resource_type_association',
  target: namespaceTarget,
  handle: call => removing(call, 'resource_type', call.params.name!),
})

export const definitionRoutes: Route[] = [
  ...[objects, properties, tags].flatMap(kind => [...readRoutes(kind), ...writeRoutes(kind)]),
  associate,
  dissociate,
]
