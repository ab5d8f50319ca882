/** Providers: trees of things that have something to give. `root_id` is kept with each, so that a tree is one lookup. */
import { randomUUID } from 'node:crypto'
import { attempt, isDuplicate, lock, type Query, type RawBuilder, type Selectable, sql, type Tx } from '#kit/db/index.ts'
import { badRequest, conflict, notFound } from '#kit/fault.ts'
import { type AggregatesWanted, CODE, type TraitsWanted } from '../edge.ts'
import type { ProvidersTable } from '../tables.ts'

export type Provider = Selectable<ProvidersTable>

/** A provider. Throws notFound. `locked`: nobody changes anything about it until the transaction ends. */
export async function providerFetch(q: Query, id: string, locked = false): Promise<Provider> {
  let query = q.selectFrom('placement.providers').selectAll().where('id', '=', id.toLowerCase())
  if (locked) query = query.forUpdate()
  const row = await query.executeTakeFirst()
  if (!row) throw notFound(`No resource provider with uuid ${id} found : No resource provider with uuid ${id} found`)
  return row
}

/** Throws conflict unless the provider is what the client saw. */
export function refuseStale(provider: Provider, generation: number, message = 'resource provider generation conflict'): void {
  if (provider.generation !== generation) throw conflict(message, { code: CODE.concurrentUpdate })
}

/** Changes of trees come one after the other. */
const treeLock = (tx: Tx): Promise<void> => lock(tx, 'placement.trees')

async function parentFetch(tx: Tx, id: string, what: string): Promise<Provider> {
  const parent = await tx.selectFrom('placement.providers').selectAll().where('id', '=', id).executeTakeFirst()
  if (!parent) throw badRequest(`${what}: Object action failed because: parent provider UUID does not exist.`)
  return parent
}

/** Makes a provider. Throws conflict for a name or id that is taken, badRequest for a parent that is not there. */
export async function providerCreate(
  tx: Tx,
  { id = randomUUID(), name, parent_id = null }: { id?: string; name: string; parent_id?: string | null },
): Promise<Provider> {
  const what = `Unable to create resource provider "${name}", ${id}`
  let root = id
  if (parent_id !== null) {
    if (parent_id === id) throw badRequest(`${what}: Object action failed because: parent provider UUID cannot be same as UUID.`)
    await treeLock(tx)
    root = (await parentFetch(tx, parent_id, what)).root_id
  }
  try {
    return await attempt(tx, () =>
      tx
        .insertInto('placement.providers')
        .values({ id, name, parent_id, root_id: root })
        .returningAll()
        .executeTakeFirstOrThrow(),
    )
  } catch (error) {
    if (!isDuplicate(error)) throw error
    const which = isDuplicate(error, 'providers_name') ? `name: ${name}` : `uuid: ${id}`
    throw conflict(`Conflicting resource provider ${which} already exists.`, { code: CODE.duplicateName, cause: error })
  }
}

/** Renames and moves a provider. `reparent`: one that has a parent may get another, or none. */
export async function providerUpdate(
  tx: Tx,
  id: string,
  change: { name?: string; parent_id?: string | null },
  reparent: boolean,
): Promise<Provider> {
  const what = `Unable to save resource provider ${id}`
  const moves = change.parent_id !== undefined
  if (moves) await treeLock(tx)
  const provider = await providerFetch(tx, id, true)
  let root = provider.root_id
  if (moves && change.parent_id !== provider.parent_id) {
    const because = `${what}: Object action failed because`
    if (provider.parent_id !== null && !reparent) {
      throw badRequest(
        change.parent_id === null
          ? `${because}: un-parenting a provider is not currently allowed.`
          : `${because}: re-parenting a provider is not currently allowed.`,
      )
    }
    root = change.parent_id ? (await parentFetch(tx, change.parent_id, what)).root_id : provider.id
    const below = await subtreeIds(tx, provider.id)
    if (change.parent_id && below.includes(change.parent_id))
      throw badRequest(`${because}: creating loop in the provider tree is not allowed.`)
    await tx.updateTable('placement.providers').set({ root_id: root }).where('id', 'in', below).execute()
  }
  try {
    return await attempt(tx, () =>
      tx
        .updateTable('placement.providers')
        .set({
          ...(change.name !== undefined && { name: change.name }),
          ...(moves && { parent_id: change.parent_id }),
          root_id: root,
          updated_at: sql<Date>`now()`,
        })
        .where('id', '=', provider.id)
        .returningAll()
        .executeTakeFirstOrThrow(),
    )
  } catch (error) {
    if (!isDuplicate(error)) throw error
    throw conflict(`Conflicting resource provider ${change.name} already exists.`, { code: CODE.duplicateName, cause: error })
  }
}

/** A provider and all below it. */
async function subtreeIds(q: Query, id: string): Promise<string[]> {
  const { rows } = await sql<{ id: string }>`
    with recursive below as (
      select id from placement.providers where id = ${id}
      union all select p.id from placement.providers p join below b on p.parent_id = b.id
    ) select id from below`.execute(q)
  return rows.map(row => row.id)
}

/** Deletes a provider with its inventories. Throws conflict while it has children or something is allocated from it. */
export async function providerDelete(tx: Tx, id: string): Promise<void> {
  await treeLock(tx)
  const provider = await providerFetch(tx, id, true)
  const child = await tx
    .selectFrom('placement.providers')
    .select('id')
    .where('parent_id', '=', provider.id)
    .limit(1)
    .executeTakeFirst()
  if (child) {
    throw conflict(`Unable to delete parent resource provider ${id}: It has child resource providers.`, {
      code: CODE.providerIsParent,
    })
  }
  const used = await tx
    .selectFrom('placement.allocations')
    .select('consumer_id')
    .where('provider_id', '=', provider.id)
    .limit(1)
    .executeTakeFirst()
  if (used) {
    throw conflict(`Unable to delete resource provider ${id}: Resource provider has allocations.`, {
      code: CODE.providerInUse,
    })
  }
  await tx.deleteFrom('placement.providers').where('id', '=', provider.id).execute()
}

export interface ProviderFilter {
  uuid?: string
  name?: string
  inTree?: string
  resources?: Record<string, number>
  traits?: TraitsWanted
  aggregates?: AggregatesWanted
}

/** Room of one provider for an amount of a class. `i` is the inventory. */
export const FITS = (amount: number): RawBuilder<boolean> => sql<boolean>`
  ${amount} between i.min_unit and i.max_unit and ${amount} % i.step_size = 0
  and coalesce((select sum(a.used) from placement.allocations a where a.provider_id = i.provider_id and a.class = i.class), 0) + ${amount}
    <= trunc((i.total - i.reserved) * i.allocation_ratio)`

/** Providers that match, in order of their names. Throws badRequest for classes and traits that do not exist. */
export async function providerList(q: Query, filter: ProviderFilter): Promise<Provider[]> {
  await refuseUnknown(q, filter)
  const conditions: RawBuilder<boolean>[] = []
  if (filter.uuid) conditions.push(sql`p.id = ${filter.uuid}`)
  if (filter.name !== undefined) conditions.push(sql`p.name = ${filter.name}`)
  if (filter.inTree) conditions.push(sql`p.root_id = (select r.root_id from placement.providers r where r.id = ${filter.inTree})`)
  for (const [name, amount] of Object.entries(filter.resources ?? {})) {
    conditions.push(
      sql`exists (select from placement.inventories i where i.provider_id = p.id and i.class = ${name} and ${FITS(amount)})`,
    )
  }
  const has = (kind: 'trait' | 'aggregate', names: readonly string[]) =>
    sql<boolean>`exists (select from ${sql.table(`placement.provider_${kind}s`)} x where x.provider_id = p.id and ${sql.ref(`x.${kind}`)} = any(${names}))`
  for (const [kind, wanted] of [
    ['trait', filter.traits],
    ['aggregate', filter.aggregates],
  ] as const) {
    for (const names of wanted?.required ?? []) conditions.push(has(kind, names))
    if (wanted?.forbidden.length) conditions.push(sql`not ${has(kind, wanted.forbidden)}`)
  }
  const { rows } = await sql<Provider>`
    select p.* from placement.providers p where ${conditions.length > 0 ? sql.join(conditions, sql` and `) : sql`true`}
    order by p.name, p.id`.execute(q)
  return rows
}

async function refuseUnknown(q: Query, { resources, traits }: ProviderFilter): Promise<void> {
  const classes = Object.keys(resources ?? {})
  const missing = await classesMissing(q, classes)
  if (missing.length > 0) throw badRequest(`Invalid resource class in resources parameter: No such resource class ${missing[0]}.`)
  const wanted = [...(traits?.required.flat() ?? []), ...(traits?.forbidden ?? [])]
  const unknown = await traitsMissing(q, wanted)
  if (unknown.length > 0) throw badRequest(`Invalid trait(s) in "required" parameter: No such trait(s): ${unknown.join(', ')}.`)
}

/** Which of these classes do not exist. */
export const classesMissing = (q: Query, names: readonly string[]): Promise<string[]> => missingOf(q, 'classes', names)
/** Which of these traits do not exist. */
export const traitsMissing = (q: Query, names: readonly string[]): Promise<string[]> => missingOf(q, 'traits', names)

async function missingOf(q: Query, table: 'classes' | 'traits', names: readonly string[]): Promise<string[]> {
  if (names.length === 0) return []
  const { rows } = await sql<{ name: string }>`
    select n.name from unnest(${[...new Set(names)]}::text[]) n (name)
    where not exists (select from ${sql.table(`placement.${table}`)} t where t.name = n.name) order by n.name`.execute(q)
  return rows.map(row => row.name)
}
