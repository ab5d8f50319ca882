import { type Query, sql, type Tx } from '#kit/db/index.ts'
import { emit } from '#kit/events.ts'
import { badRequest, conflict, forbidden } from '#kit/fault.ts'
import type { Call } from '#kit/http/route.ts'
import { domainGone } from '../domains/store.ts'
import { projectDisabled } from '../events.ts'
import { identityOf } from '../identity.ts'
import { missing, type Noun, type NounCall, nounRoutes, nounView, type Row, type Rows, selfUrl } from '../noun.ts'
import { Flag, Id, Name, OptionalId, OptionFlag, Tags, Text, urlReserved } from '../shapes.ts'
import { revoke, stale } from '../tokens/stale.ts'
import { projectLetGo } from './store.ts'

/** Projects: trees below domains. A top-level project's parent is its domain. */
export const projects: Noun = {
  one: 'project',
  many: 'projects',
  path: '/projects',
  table: 'keystone.projects',
  fields: {
    name: { schema: Name(64), create: 'required' },
    domain_id: { schema: OptionalId() },
    parent_id: { schema: OptionalId() },
    is_domain: { schema: Flag() },
    description: { schema: Text() },
    enabled: { schema: Flag() },
    tags: { schema: Tags(), filter: false, sort: false },
  },
  extra: true,
  options: { immutable: OptionFlag() },
  rules: {
    list: 'list_projects',
    show: 'get_project',
    create: 'create_project',
    update: 'update_project',
    delete: 'delete_project',
  },
  domainColumn: 'domain_id',
  listTarget: call => ({ target: { domain_id: call.ctx.domainId ?? undefined } }),
  where: (query, call) =>
    tagged(call.search.has('is_domain') ? query : query.where('keystone.projects.is_domain', '=', false), call),
  target: (row, call) => ({
    target: { project: { ...row, domain_id: row.domain_id ?? (row.id === undefined ? domainOf(call) : null) } },
  }),
  async beforeCreate(tx, call, values) {
    values.domain_id ??= undefined
    values.parent_id ??= undefined
    values.description ??= ''
    nameCheck(call, values)
    if (values.is_domain === true) {
      if (values.domain_id ?? values.parent_id)
        throw badRequest('Cannot create a project acting as a domain with a domain or a parent.')
      values.domain_id = null
      values.parent_id = null
      return
    }
    await place(tx, call, values)
  },
  beforeUpdate,
  async afterUpdate(tx, _call, before, after) {
    if (before.enabled && !after.enabled) await projectDisable(tx, after)
    await stale(tx, `project:${after.id}`)
  },
  beforeDelete: (tx, call, row) => (row.is_domain ? domainGone(tx, call.env, row) : projectGone(tx, row)),
  async views(rows, call) {
    return rows.map(row => nounView(projects, row, call))
  },
}

/** The domain of whoever names none: that of a domain-scoped token, else the default. */
export const domainOf = (call: Pick<Call, 'ctx' | 'env'>): string =>
  call.ctx.domainId ?? identityOf(call.env).settings.identity.default_domain_id

/** Refuses a new name that cannot stand in URLs where that is asked for. */
function nameCheck(call: NounCall, values: Record<string, unknown>, before?: Row): void {
  const { resource } = identityOf(call.env).settings
  const isDomain = (before ?? values).is_domain === true
  const mode = isDomain ? resource.domain_name_url_safe : resource.project_name_url_safe
  if (mode !== 'off' && values.name !== before?.name && urlReserved(values.name))
    throw badRequest(`${isDomain ? 'Domain' : 'Project'} name cannot contain reserved characters.`)
}

/** Finds the parent and the domain, and refuses what would not fit. */
async function place(tx: Tx, call: NounCall, values: Record<string, unknown>): Promise<void> {
  const parentId = (values.parent_id as string | undefined) ?? (values.domain_id as string | undefined) ?? domainOf(call)
  const above = await ancestors(tx, parentId)
  const parent = above[0]
  if (!parent) throw missing(values.parent_id ? 'project' : 'domain', parentId)
  const domain = above.at(-1)!
  if (values.domain_id !== undefined && values.domain_id !== domain.id) {
    throw badRequest(`Cannot create project, the parent (${parent.id}) is in another domain than ${String(values.domain_id)}.`)
  }
  if (!values.parent_id && !parent.is_domain) throw missing('domain', parentId)
  const disabled = above.find(row => !row.enabled)
  if (disabled)
    throw forbidden(
      `You are not authorized to perform the requested action: cannot create a project in a branch containing a disabled project: ${disabled.id}.`,
    )
  const max = identityOf(call.env).settings.max_project_tree_depth
  if (above.length > max)
    throw forbidden(
      `You are not authorized to perform the requested action: Max hierarchy depth reached for ${parent.id} branch.`,
    )
  values.parent_id = parent.id
  values.domain_id = domain.id
}

/** A project and all above it up to its domain, nearest first; empty when there is no such project. */
export async function ancestors(db: Query, id: string) {
  const rows = await db
    .withRecursive('up', cte =>
      cte
        .selectFrom('keystone.projects')
        .selectAll()
        .select(sql<number>`0`.as('depth'))
        .where('id', '=', id)
        .unionAll(
          cte
            .selectFrom('keystone.projects as p')
            .innerJoin('up as u', 'p.id', 'u.parent_id')
            .selectAll('p')
            .select(sql<number>`u.depth + 1`.as('depth')),
        ),
    )
    .selectFrom('up')
    .selectAll()
    .orderBy('depth')
    .execute()
  return rows
}

/** All projects below one, at any depth, nearest first. */
export async function descendants(db: Query, id: string) {
  return await db
    .withRecursive('down', cte =>
      cte
        .selectFrom('keystone.projects')
        .selectAll()
        .select(sql<number>`1`.as('depth'))
        .where('parent_id', '=', id)
        .unionAll(
          cte
            .selectFrom('keystone.projects as p')
            .innerJoin('down as d', 'p.parent_id', 'd.id')
            .selectAll('p')
            .select(sql<number>`d.depth + 1`.as('depth')),
        ),
    )
    .selectFrom('down')
    .selectAll()
    .orderBy('depth')
    .orderBy('id')
    .execute()
}

async function beforeUpdate(tx: Tx, call: NounCall, row: Row, changes: Record<string, unknown>): Promise<void> {
  nameCheck(call, changes, row)
  for (const name of ['parent_id', 'is_domain', 'domain_id']) {
    if (changes[name] !== undefined && changes[name] !== row[name]) {
      if (name === 'domain_id') throw badRequest('Cannot change Domain ID')
      throw forbidden(`You are not authorized to perform the requested action: Update of \`${name}\` is not allowed.`)
    }
    delete changes[name]
  }
  if (changes.description === null) changes.description = ''
  if (changes.enabled === false && row.enabled && !row.is_domain) {
    const child = (await descendants(tx, row.id)).find(p => p.enabled)
    if (child)
      throw forbidden(
        `You are not authorized to perform the requested action: cannot disable project ${row.id} since its subtree contains enabled projects.`,
      )
  }
  if (changes.enabled === true && !row.enabled && !row.is_domain) {
    const disabled = (await ancestors(tx, row.id)).slice(1).find(p => !p.enabled)
    if (disabled)
      throw forbidden(
        `You are not authorized to perform the requested action: cannot enable project ${row.id} since it has disabled parents.`,
      )
  }
}

/** Kills the tokens of a project that was disabled. */
async function projectDisable(tx: Tx, row: Row): Promise<void> {
  await revoke(tx, row.is_domain ? { domain_id: row.id } : { project_id: row.id })
  await emit(tx, projectDisabled, { id: row.id })
}

/** Refuses to delete a project that has others below it; else lets go of all that hangs on it. The row itself is the caller's. */
async function projectGone(tx: Tx, row: Row): Promise<void> {
  const child = await tx.selectFrom('keystone.projects').select('id').where('parent_id', '=', row.id).executeTakeFirst()
  if (child) {
    throw forbidden(
      `You are not authorized to perform the requested action: Cannot delete the project ${row.id} since it is not a leaf in the hierarchy. Use the cascade option if you want to delete a whole subtree.`,
    )
  }
  await projectLetGo(tx, [{ id: row.id, domain_id: row.domain_id as string | null }])
}

/** `tags` (all of them), `tags-any`, `not-tags`, `not-tags-any` of a list. */
export function tagged(query: Rows, call: NounCall): Rows {
  const list = (name: string) => call.search.get(name)?.split(',').filter(Boolean)
  const conditions: [string, (tags: string[]) => ReturnType<typeof sql<boolean>>][] = [
    ['tags', tags => sql<boolean>`keystone.projects.tags @> ${tags}::text[]`],
    ['tags-any', tags => sql<boolean>`keystone.projects.tags && ${tags}::text[]`],
    ['not-tags', tags => sql<boolean>`not keystone.projects.tags @> ${tags}::text[]`],
    ['not-tags-any', tags => sql<boolean>`not keystone.projects.tags && ${tags}::text[]`],
  ]
  let result = query
  for (const [name, condition] of conditions) {
    const tags = list(name)
    if (tags) result = result.where(condition(tags) as never)
  }
  return result
}

/** The project with what the query string asks for of the tree above and below. */
export async function treeView(row: Row, call: Call): Promise<Record<string, unknown>> {
  const view = nounView(projects, row, call)
  const asked = (name: string) => call.search.has(name) && call.search.get(name) !== '0'
  if ((asked('parents_as_list') && asked('parents_as_ids')) || (asked('subtree_as_list') && asked('subtree_as_ids'))) {
    throw badRequest('Cannot use a list and ids of the same tree in one request.')
  }
  const up = asked('parents_as_list') || asked('parents_as_ids') ? (await ancestors(call.db, row.id)).slice(1) : []
  const down = asked('subtree_as_list') || asked('subtree_as_ids') ? await descendants(call.db, row.id) : []
  // A list names only projects on which the caller has a role.
  const mine =
    asked('parents_as_list') || asked('subtree_as_list') ? await projectsOfUser(call.db, call.ctx.userId) : new Set<string>()
  const entry = (p: Row) => ({ project: nounView(projects, p, call) })
  if (asked('parents_as_list')) view.parents = up.filter(p => mine.has(p.id)).map(p => entry(p as unknown as Row))
  if (asked('subtree_as_list')) view.subtree = down.filter(p => mine.has(p.id)).map(p => entry(p as unknown as Row))
  if (asked('parents_as_ids'))
    view.parents = up.reduceRight<Record<string, unknown> | null>((below, p) => ({ [p.id]: below }), null)
  if (asked('subtree_as_ids')) view.subtree = idTree(down, row.id)
  return view
}

function idTree(rows: { id: string; parent_id: string | null }[], root: string): Record<string, unknown> | null {
  const children = rows.filter(row => row.parent_id === root)
  return children.length === 0 ? null : Object.fromEntries(children.map(child => [child.id, idTree(rows, child.id)]))
}

/** Ids of the projects on which a user has any role, directly, by group or inherited. One query. */
export async function projectsOfUser(db: Query, userId: string, groupIds: string[] = []): Promise<Set<string>> {
  const { rows } = await sql<{ id: string }>`
    with recursive actor(kind, id) as (
      select 'user', ${userId}::text union all select 'group', group_id from keystone.memberships where user_id = ${userId}
      union all select 'group', e.group_id from keystone.expiring_memberships e join keystone.idps i on i.id = e.idp_id
        where e.user_id = ${userId} and e.last_verified + coalesce(i.authorization_ttl, 0) * interval '1 minute' > now()
      union all select 'group', unnest(${groupIds}::text[])
    ), given as (select a.* from actor join keystone.assignments a on a.actor = actor.kind and a.actor_id = actor.id),
    below(id) as (
      select p.id from keystone.projects p join given g on g.inherited and g.target in ('project', 'domain') and p.parent_id = g.target_id
      union select p.id from keystone.projects p join below b on p.parent_id = b.id
    )
    select target_id as id from given where target = 'project' and not inherited union select id from below`.execute(db)
  return new Set(rows.map(row => row.id))
}

const derived = nounRoutes(projects)
const showRoute = derived[2]!

export const projectRoutes = derived.map(route =>
  route !== showRoute
    ? route
    : {
        ...route,
        async handle(call: Parameters<typeof route.handle>[0]) {
          if (!call.target) throw missing('project', call.params.project_id!)
          return { project: await treeView(call.target as Row, call) }
        },
      },
)

export const clash = conflict
export const ProjectId = Id()
export const link = selfUrl
