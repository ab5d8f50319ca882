import type { Query } from '#kit/db/index.ts'
import { badRequest } from '#kit/fault.ts'
import type { Call } from '#kit/http/route.ts'
import { missing, nounViews, type Row } from '../noun.ts'
import { roles } from './roles.ts'

/** The roles that a request names by id or by name. Throws notFound, or badRequest where a name fits several. */
export async function rolesFind(
  db: Query,
  wanted: readonly { id?: string; name?: string }[],
): Promise<{ id: string; name: string; domain_id: string | null }[]> {
  if (wanted.length === 0) return []
  const ids = wanted.flatMap(role => role.id ?? [])
  const names = wanted.flatMap(role => (role.id === undefined ? (role.name ?? []) : []))
  const rows = await db
    .selectFrom('keystone.roles')
    .select(['id', 'name', 'domain_id'])
    .where(eb =>
      eb.or([
        ...(ids.length > 0 ? [eb('id', 'in', ids)] : []),
        ...(names.length > 0 ? [eb('name', 'in', names)] : []),
        eb.val(false),
      ]),
    )
    .execute()
  return wanted.map(({ id, name }) => {
    if (id === undefined && name === undefined) throw badRequest('A role is named by its id or its name.')
    const found = rows.filter(row => (id !== undefined ? row.id === id : row.name === name))
    if (found.length === 0) throw missing('role', id ?? name!)
    const global = found.filter(row => row.domain_id === null)
    if (found.length > 1 && global.length !== 1) throw badRequest(`More than one role has the name ${name}: name it by id.`)
    return found.length === 1 ? found[0]! : global[0]!
  })
}

/** Roles as they stand inside other things, by id: without links. One query. */
export async function roleViews(db: Query, ids: string[], call: Call): Promise<Map<string, Record<string, unknown>>> {
  const wanted = [...new Set(ids)]
  if (wanted.length === 0) return new Map()
  const rows = await db.selectFrom('keystone.roles').selectAll().where('id', 'in', wanted).execute()
  const views = await nounViews(roles, rows as unknown as Row[], call)
  return new Map(views.map(view => [view.id as string, view]))
}
