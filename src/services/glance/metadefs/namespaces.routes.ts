/** /metadefs/namespaces, and the kinds of things that there are. */
import { attempt, isDuplicate, page, type RawBuilder, sql, type Tx } from '#kit/db/index.ts'
import { conflict, forbidden } from '#kit/fault.ts'
import { type Call, type Route, route } from '#kit/http/route.ts'
import * as S from '#kit/http/schema.ts'
import { when } from '../images/view.ts'
import { glanceSettings } from '../settings.ts'
import type { DefinitionKind } from '../tables.ts'
import { Bodies, said } from './bodies.ts'
import { definitionAdd, definitionsOf, type Namespace, namespaceFetch, visibleTo } from './store.ts'
import { associationView, namespaceHref, namespaceView, wholeView } from './view.ts'

const PATH = '/metadefs/namespaces'

/** A namespace named in the path, as a route's target. */
export const namespaceTarget = ({ db, ctx, params }: Pick<Call, 'db' | 'ctx' | 'params'>) =>
  namespaceFetch(db, ctx, params.namespace!)

const SORTABLE = ['created_at', 'updated_at', 'namespace', 'display_name', 'visibility', 'owner'] as const

const Listed = S.Object({
  limit: S.Optional(S.Integer({ minimum: 0 })),
  marker: S.Optional(S.String()),
  sort_key: S.Optional(S.OneOf(...SORTABLE)),
  sort_dir: S.Optional(S.OneOf('asc', 'desc')),
  visibility: S.Optional(S.OneOf('public', 'private')),
  resource_types: S.Optional(S.String()),
})

const list = route({
  method: 'GET',
  path: PATH,
  policy: 'get_metadef_namespaces',
  query: Listed,
  async handle({ ctx, db, env, query, search }) {
    const { limit_param_default, api_limit_max } = env.config.of(glanceSettings)
    const limit = Math.min(query.limit ?? limit_param_default, api_limit_max)
    const key = query.sort_key ?? 'created_at'
    const dir = query.sort_dir ?? 'desc'
    const after = query.marker === undefined ? undefined : await namespaceFetch(db, ctx, query.marker)
    const applies = (names: string[]): RawBuilder<boolean> => sql<boolean>`exists (
      select from glance.definitions d where d.namespace = n.namespace and d.kind = 'resource_type' and d.name = any(${names}))`
    let found = db.selectFrom('glance.namespaces as n').selectAll().where(visibleTo(ctx))
    if (query.visibility) found = found.where('n.visibility', '=', query.visibility)
    if (query.resource_types !== undefined) found = found.where(applies(query.resource_types.split(',')))
    const keys = key === 'namespace' ? ([key] as const) : ([key, 'namespace'] as const)
    const rows: Namespace[] = await page(
      found,
      keys.map(column => ({ column, dir, nullable: column === 'display_name' || column === 'owner' })),
      { after: after && keys.map(k => after[k]), limit },
    )
    const associations = await definitionsOf(
      db,
      rows.map(row => row.namespace),
      'resource_type',
    )
    const namespaces = rows.map(row => wholeView(row, associations))
    const at = (marker?: string): string => {
      const params = new URLSearchParams([...search].filter(([name]) => name !== 'marker'))
      if (marker !== undefined) params.set('marker', marker)
      return `/v2${PATH}${params.size > 0 ? `?${params}` : ''}`
    }
    const isFull = rows.length > 0 && rows.length === limit
    return {
      namespaces,
      first: at(),
      ...(isFull && { next: at(rows.at(-1)!.namespace) }),
      schema: '/v2/schemas/metadefs/namespaces',
    }
  },
})

const show = route({
  method: 'GET',
  path: `${PATH}/:namespace`,
  policy: 'get_metadef_namespace',
  target: namespaceTarget,
  async handle({ db, target, search }) {
    const definitions = await definitionsOf(db, [target.namespace])
    const wanted = search.get('resource_type')
    const applied = definitions.find(d => d.kind === 'resource_type' && d.name === wanted)
    return wholeView(target, definitions, (applied?.document.prefix as string | undefined) ?? '')
  },
})

const text = (value: unknown): string | null => (value as string | undefined) ?? null

/** The columns that a body sets; whatever it does not say is as in a new namespace. */
const columnsOf = (given: Record<string, unknown>, projectId: string | null) => ({
  namespace: given.namespace as string,
  display_name: text(given.display_name),
  description: text(given.description),
  visibility: (given.visibility as Namespace['visibility'] | undefined) ?? 'private',
  protected: (given.protected as boolean | undefined) ?? false,
  owner: text(given.owner) ?? projectId,
})

async function unclashed<T>(tx: Tx, name: string, work: () => Promise<T>): Promise<T> {
  try {
    return await attempt(tx, work)
  } catch (error) {
    if (!isDuplicate(error)) throw error
    throw conflict(`The metadata definition namespace=${name} already exists.`, { cause: error })
  }
}

type Part = { name: string } & Record<string, unknown>

/** The definitions that a body has in it: kind, name and what is said of each. */
function* parts(given: Record<string, unknown>): Generator<[DefinitionKind, string, Record<string, unknown>]> {
  for (const [kind, key] of [
    ['resource_type', 'resource_type_associations'],
    ['object', 'objects'],
    ['tag', 'tags'],
  ] as const) {
    for (const { name, ...document } of (given[key] ?? []) as Part[]) yield [kind, name, kind === 'tag' ? {} : document]
  }
  for (const [name, document] of Object.entries((given.properties ?? {}) as Record<string, Record<string, unknown>>))
    yield ['property', name, document]
}

const RULES: Record<DefinitionKind, string> = {
  resource_type: 'add_metadef_resource_type_association',
  object: 'add_metadef_object',
  tag: 'add_metadef_tag',
  property: 'add_metadef_property',
}

const create = route({
  method: 'POST',
  path: PATH,
  success: 201,
  policy: 'add_metadef_namespace',
  body: Bodies.namespace,
  async handle({ ctx, env, body, reply }) {
    const given = said(body)
    const inside = [...parts(given)]
    for (const kind of new Set(inside.map(([kind]) => kind))) ctx.must(RULES[kind])
    const columns = columnsOf(given, ctx.projectId)
    return env.db.tx(async tx => {
      const made = await unclashed(tx, columns.namespace, () =>
        tx.insertInto('glance.namespaces').values(columns).returningAll().executeTakeFirstOrThrow(),
      )
      const definitions = []
      for (const [kind, name, document] of inside) definitions.push(await definitionAdd(tx, made.namespace, kind, name, document))
      reply.headers.Location = namespaceHref(made.namespace)
      return wholeView(made, definitions)
    })
  },
})

const update = route({
  method: 'PUT',
  path: `${PATH}/:namespace`,
  policy: 'modify_metadef_namespace',
  target: namespaceTarget,
  body: Bodies.namespace,
  async handle({ ctx, env, body, params }) {
    const columns = columnsOf(said(body), ctx.projectId)
    return env.db.tx(async tx => {
      const { namespace } = await namespaceFetch(tx, ctx, params.namespace!, { lock: true })
      const row = await unclashed(tx, columns.namespace, () =>
        tx
          .updateTable('glance.namespaces')
          .set({ ...columns, updated_at: sql`now()` })
          .where('namespace', '=', namespace)
          .returningAll()
          .executeTakeFirstOrThrow(),
      )
      return namespaceView(row)
    })
  },
})

const remove = route({
  method: 'DELETE',
  path: `${PATH}/:namespace`,
  success: 204,
  policy: 'delete_metadef_namespace',
  target: namespaceTarget,
  async handle({ ctx, env, params }) {
    await env.db.tx(async tx => {
      const found = await namespaceFetch(tx, ctx, params.namespace!, { lock: true })
      if (found.protected) {
        throw forbidden(`Metadata definition namespace ${found.namespace} is protected and cannot be deleted.`)
      }
      await tx.deleteFrom('glance.namespaces').where('namespace', '=', found.namespace).execute()
    })
  },
})

const types = route({
  method: 'GET',
  path: '/metadefs/resource_types',
  policy: 'list_metadef_resource_types',
  async handle({ db }) {
    const rows = await db.selectFrom('glance.resource_types').selectAll().orderBy('name').execute()
    const shown = rows.map(({ name, created_at, updated_at }) => ({
      name,
      created_at: when(created_at),
      updated_at: when(updated_at),
    }))
    return { resource_types: shown }
  },
})

const associations = route({
  method: 'GET',
  path: `${PATH}/:namespace/resource_types`,
  policy: 'list_metadef_resource_types',
  target: namespaceTarget,
  async handle({ ctx, db, target }) {
    ctx.must('get_metadef_resource_type', target) // asked beside the rule of the list, as upstream does for each that it lists
    return { resource_type_associations: (await definitionsOf(db, [target.namespace], 'resource_type')).map(associationView) }
  },
})

export const namespaceRoutes: Route[] = [list, show, create, update, remove, types, associations]
