/** Flavors in the database. */
import { isDuplicate, json, page, type Query, type Selectable, sql, type Tx } from '#kit/db/index.ts'
import { badRequest, conflict, type Fault, notFound } from '#kit/fault.ts'
import type { FlavorsTable } from '../tables.ts'

export type Flavor = Selectable<FlavorsTable>

/** Who looks: administrators see every flavor, others the public ones and those given to their project. */
export interface Viewer {
  isAdmin: boolean
  projectId: string | null
}

const missing = (id: string): Fault => notFound(`Flavor ${id} could not be found.`)

/** A flavor by its flavorid. Throws notFound for one that does not exist or that the viewer may not see. */
export async function flavorFetch(db: Query, viewer: Viewer, id: string): Promise<Flavor> {
  let query = db.selectFrom('nova.flavors').selectAll().where('id', '=', id)
  if (!viewer.isAdmin) {
    query = query.where(eb =>
      eb.or([
        eb('is_public', '=', true),
        eb.exists(
          eb
            .selectFrom('nova.flavor_access')
            .select('project_id')
            .whereRef('flavor_id', '=', 'nova.flavors.id')
            .where('project_id', '=', viewer.projectId ?? ''),
        ),
      ]),
    )
  }
  const row = await query.executeTakeFirst()
  if (!row) throw missing(id)
  return row
}

/** What a list of flavors is narrowed to. `isPublic`: null for both kinds. */
export interface FlavorFilter {
  isPublic: boolean | null
  minRam?: number
  minDisk?: number
  name?: string
  sortKey: string
  sortDir: 'asc' | 'desc'
  limit: number
  marker: string | null
}

const SORT_COLUMNS: Record<string, keyof FlavorsTable> = {
  flavorid: 'id',
  id: 'seq',
  memory_mb: 'memory_mb',
  root_gb: 'root_gb',
  ephemeral_gb: 'ephemeral_gb',
  swap: 'swap_mb',
  vcpu_weight: 'seq',
}
const NULLABLE = new Set(['description', 'updated_at'])

/** One page of flavors. Throws badRequest for an unknown marker. */
export async function flavorList(db: Query, viewer: Viewer, filter: FlavorFilter): Promise<Flavor[]> {
  let query = db.selectFrom('nova.flavors').selectAll()
  if (filter.isPublic !== null) {
    const wanted = filter.isPublic
    query = query.where(eb => {
      const own = eb.exists(
        eb
          .selectFrom('nova.flavor_access')
          .select('project_id')
          .whereRef('flavor_id', '=', 'nova.flavors.id')
          .where('project_id', '=', viewer.projectId ?? ''),
      )
      return wanted ? eb.or([eb('is_public', '=', true), own]) : eb('is_public', '=', false)
    })
  }
  if (!viewer.isAdmin) query = query.where('disabled', '=', false)
  if (filter.minRam !== undefined) query = query.where('memory_mb', '>=', filter.minRam)
  if (filter.minDisk !== undefined) query = query.where('root_gb', '>=', filter.minDisk)
  if (filter.name !== undefined) query = query.where('name', '=', filter.name)
  const column = SORT_COLUMNS[filter.sortKey] ?? (filter.sortKey as keyof FlavorsTable)
  const keys = [
    ...(column === 'id' ? [] : [{ column, dir: filter.sortDir, nullable: NULLABLE.has(column) }]),
    { column: 'id', dir: filter.sortDir },
  ]
  let after: unknown[] | undefined
  if (filter.marker !== null) {
    const row = await db.selectFrom('nova.flavors').selectAll().where('id', '=', filter.marker).executeTakeFirst()
    if (!row) throw badRequest(`marker [${filter.marker}] not found`)
    after = keys.map(key => row[key.column as keyof Flavor])
  }
  return page(query, keys, { after, limit: filter.limit }) as Promise<Flavor[]>
}

export type NewFlavor = Pick<
  Flavor,
  'id' | 'name' | 'vcpus' | 'memory_mb' | 'root_gb' | 'ephemeral_gb' | 'swap_mb' | 'rxtx_factor' | 'is_public' | 'description'
>

/** Writes a flavor. Throws conflict when its name or id is taken. */
export async function flavorCreate(tx: Tx, flavor: NewFlavor): Promise<Flavor> {
  try {
    return await tx.insertInto('nova.flavors').values(flavor).returningAll().executeTakeFirstOrThrow()
  } catch (error) {
    if (!isDuplicate(error)) throw error
    throw isDuplicate(error, 'flavors_pkey')
      ? conflict(`Flavor with ID ${flavor.id} already exists.`, { cause: error })
      : conflict(`Flavor with name ${flavor.name} already exists.`, { cause: error })
  }
}

/** Changes a flavor's description. Throws notFound. */
export async function flavorDescribe(tx: Tx, id: string, description: string | null): Promise<Flavor> {
  const row = await tx
    .updateTable('nova.flavors')
    .set({ description, updated_at: sql`now()` })
    .where('id', '=', id)
    .returningAll()
    .executeTakeFirst()
  if (!row) throw missing(id)
  return row
}

/** Deletes a flavor; servers keep what they have of it. Throws notFound. */
export async function flavorDelete(tx: Tx, id: string): Promise<void> {
  const { numDeletedRows } = await tx.deleteFrom('nova.flavors').where('id', '=', id).executeTakeFirstOrThrow()
  if (numDeletedRows === 0n) throw missing(id)
}

/** Adds to or replaces extra specs. Throws notFound. */
export async function flavorSpecsMerge(tx: Tx, id: string, specs: Record<string, string>): Promise<void> {
  const { numUpdatedRows } = await tx
    .updateTable('nova.flavors')
    .set({ extra_specs: sql`extra_specs || ${json(specs)}`, updated_at: sql`now()` })
    .where('id', '=', id)
    .executeTakeFirstOrThrow()
  if (numUpdatedRows === 0n) throw missing(id)
}

/** Takes one extra spec away. Throws notFound for the flavor or the key. */
export async function flavorSpecDelete(tx: Tx, id: string, key: string): Promise<void> {
  const { numUpdatedRows } = await tx
    .updateTable('nova.flavors')
    .set({ extra_specs: sql`extra_specs - ${key}::text`, updated_at: sql`now()` })
    .where('id', '=', id)
    .where(sql<boolean>`extra_specs ? ${key}`)
    .executeTakeFirstOrThrow()
  if (numUpdatedRows === 0n) throw noSpec(id, key)
}

export const noSpec = (id: string, key: string): Fault => notFound(`Flavor ${id} has no extra specs with key ${key}.`)

/** The projects that may use a private flavor. */
export async function flavorAccess(db: Query, id: string): Promise<string[]> {
  const rows = await db
    .selectFrom('nova.flavor_access')
    .select('project_id')
    .where('flavor_id', '=', id)
    .orderBy('project_id')
    .execute()
  return rows.map(row => row.project_id)
}

/** Lets a project use the flavor. Throws conflict when it may already. */
export async function flavorAccessAdd(tx: Tx, id: string, projectId: string): Promise<void> {
  try {
    await tx.insertInto('nova.flavor_access').values({ flavor_id: id, project_id: projectId }).execute()
  } catch (error) {
    if (!isDuplicate(error)) throw error
    throw conflict(`Flavor access already exists for flavor ${id} and project ${projectId} combination.`, { cause: error })
  }
}

/** Takes a project's access. Throws notFound when there was none. */
export async function flavorAccessRemove(tx: Tx, id: string, projectId: string): Promise<void> {
  const { numDeletedRows } = await tx
    .deleteFrom('nova.flavor_access')
    .where('flavor_id', '=', id)
    .where('project_id', '=', projectId)
    .executeTakeFirstOrThrow()
  if (numDeletedRows === 0n) throw notFound(`Flavor access not found for ${id} / ${projectId} combination.`)
}
