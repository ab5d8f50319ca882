/**
 * Definitions of metadata: which properties images, flavors, volumes and so on may have, what they mean and which values they take. Nothing
 * in this cloud acts on them; they are for people and dashboards. A namespace holds definitions of four kinds, each known by its name.
 */
import type { Context } from '#kit/context.ts'
import { attempt, isDuplicate, json, type Query, type RawBuilder, type Selectable, sql, type Tx } from '#kit/db/index.ts'
import { conflict, forbidden, notFound } from '#kit/fault.ts'
import type { DefinitionKind, DefinitionsTable, NamespacesTable } from '../tables.ts'

export type Namespace = Selectable<NamespacesTable>
export type Definition = Selectable<DefinitionsTable>

/** A namespace as policy sees it. */
export type NamespaceTarget = Namespace & { project_id: string | null }

const namespaceMissing = (name: string): Error => notFound(`Namespace ${name} not found`)

/** What a caller may see: own namespaces and public ones; administrators see all. */
export const visibleTo = (ctx: Context): RawBuilder<boolean> =>
  ctx.isAdmin ? sql<boolean>`true` : sql<boolean>`(n.owner = ${ctx.projectId} or n.visibility = 'public')`

/** A namespace that the caller may see. Throws notFound. `lock` keeps its row until the transaction ends. */
export async function namespaceFetch(
  q: Query,
  ctx: Context,
  name: string,
  options: { lock?: boolean } = {},
): Promise<NamespaceTarget> {
  const { rows } = await sql<Namespace>`
    select n.* from glance.namespaces n where n.namespace = ${name} and ${visibleTo(ctx)}
    ${options.lock ? sql`for update` : sql``}`.execute(q)
  if (!rows[0]) throw namespaceMissing(name)
  return { ...rows[0], project_id: rows[0].owner }
}

/** The namespace, locked for a change of what is in it. Throws forbidden where it is protected. */
export async function namespaceOpen(tx: Tx, ctx: Context, name: string): Promise<NamespaceTarget> {
  const found = await namespaceFetch(tx, ctx, name, { lock: true })
  if (found.protected) throw forbidden(`Metadata definition namespace ${name} is protected and cannot be deleted.`)
  return found
}

/** All definitions of some namespaces, oldest first. */
export const definitionsOf = (q: Query, namespaces: readonly string[], kind?: DefinitionKind): Promise<Definition[]> => {
  let query = q
    .selectFrom('glance.definitions')
    .selectAll()
    .where('namespace', 'in', [...namespaces])
  if (kind) query = query.where('kind', '=', kind)
  return namespaces.length === 0 ? Promise.resolve([]) : query.orderBy('created_at').orderBy('name').execute()
}

const WORDS: Record<DefinitionKind, string> = {
  property: 'property',
  object: 'object',
  tag: 'tag',
  resource_type: 'resource type association',
}

/** One definition. Throws notFound. */
export async function definitionFetch(q: Query, namespace: string, kind: DefinitionKind, name: string): Promise<Definition> {
  const row = await q
    .selectFrom('glance.definitions')
    .selectAll()
    .where('namespace', '=', namespace)
    .where('kind', '=', kind)
    .where('name', '=', name)
    .executeTakeFirst()
  if (!row) throw notFound(`The metadata definition ${WORDS[kind]} with name=${name} was not found in namespace=${namespace}.`)
  return row
}

/** What is said of a definition beside its name. */
type Document = Record<string, unknown>

/** Adds a definition; a kind of thing that is new is remembered. Throws conflict when the name is taken. */
export async function definitionAdd(tx: Tx, namespace: string, kind: DefinitionKind, name: string, document: Document) {
  if (kind === 'resource_type') {
    await tx
      .insertInto('glance.resource_types')
      .values({ name })
      .onConflict(on => on.doNothing())
      .execute()
  }
  return clashing(kind, namespace, name, () =>
    attempt(tx, () =>
      tx
        .insertInto('glance.definitions')
        .values({ namespace, kind, name, document: json(document) })
        .returningAll()
        .executeTakeFirstOrThrow(),
    ),
  )
}

/** Replaces a definition, its name included. Throws notFound, and conflict when the new name is taken. */
export async function definitionReplace(tx: Tx, of: Definition, name: string, document: Document): Promise<Definition> {
  const { namespace, kind } = of
  return clashing(kind, namespace, name, () =>
    attempt(tx, () =>
      tx
        .updateTable('glance.definitions')
        .set({ name, document: json(document), updated_at: sql`now()` })
        .where('namespace', '=', namespace)
        .where('kind', '=', kind)
        .where('name', '=', of.name)
        .returningAll()
        .executeTakeFirstOrThrow(),
    ),
  )
}

/** Removes one definition of a kind, or all. */
export async function definitionsRemove(tx: Tx, namespace: string, kind: DefinitionKind, name?: string): Promise<void> {
  let query = tx.deleteFrom('glance.definitions').where('namespace', '=', namespace).where('kind', '=', kind)
  if (name !== undefined) query = query.where('name', '=', name)
  await query.execute()
}

async function clashing<T>(kind: DefinitionKind, namespace: string, name: string, work: () => Promise<T>): Promise<T> {
  try {
    return await work()
  } catch (error) {
    if (!isDuplicate(error)) throw error
    throw conflict(`A metadata definition ${WORDS[kind]} with name=${name} already exists in namespace=${namespace}.`, {
      cause: error,
    })
  }
}
