import { type Query, sql } from '#kit/db/index.ts'
import { badRequest } from '#kit/fault.ts'
import { type Call, route } from '#kit/http/route.ts'
import { missing, pageLinks, selfUrl } from '../noun.ts'

// Role assignments, as they are or in effect. In effect means: each group replaced by its members, each inherited assignment by the
// projects below, and each role accompanied by those it implies. All of that is one query, whatever the size of the answer.

interface Filter {
  user: string | null
  group: string | null
  role: string | null
  project: string | null
  domain: string | null
  system: boolean
  inherited: boolean | null
  subtree: boolean
  effective: boolean
}

/** An assignment; `via_…` say where one in effect comes from. */
interface Found {
  user_id: string | null
  group_id: string | null
  target: 'project' | 'domain' | 'system'
  target_id: string
  role_id: string
  inherited: boolean
  via_group: string | null
  via_target: 'project' | 'domain' | null
  via_target_id: string | null
  via_role: string | null
}

async function assignmentList(db: Query, f: Filter): Promise<Found[]> {
  const { rows } = await (f.effective ? effectiveSql(f) : plainSql(f)).execute(db)
  return rows
}

/** The projects that a filter by project means: it alone, or with all below it. */
const within = (f: Filter) => sql`within(id) as (
  select ${f.project}::text union select p.id from keystone.projects p join within w on p.parent_id = w.id where ${f.subtree})`

const plainSql = (f: Filter) => sql<Found>`
  with recursive ${within(f)}
  select case a.actor when 'user' then a.actor_id end as user_id, case a.actor when 'group' then a.actor_id end as group_id,
    a.target, a.target_id, a.role_id, a.inherited, null as via_group, null as via_target, null as via_target_id, null as via_role
  from keystone.assignments a
  where (${f.user}::text is null or (a.actor = 'user' and a.actor_id = ${f.user}))
    and (${f.group}::text is null or (a.actor = 'group' and a.actor_id = ${f.group}))
    and (${f.role}::text is null or a.role_id = ${f.role})
    and (${f.project}::text is null or (a.target = 'project' and a.target_id in (select id from within)))
    and (${f.domain}::text is null or (a.target = 'domain' and a.target_id = ${f.domain}))
    and (not ${f.system} or a.target = 'system')
    and (${f.inherited}::boolean is null or a.inherited = ${f.inherited})
  order by a.actor, a.actor_id, a.target, a.target_id, a.role_id`

const effectiveSql = (f: Filter) => sql<Found>`
  with recursive ${within(f)},
  people as (
    select a.*, a.actor_id as user_id, null::text as via_group from keystone.assignments a
      where a.actor = 'user' and (${f.user}::text is null or a.actor_id = ${f.user})
    union all
    select a.*, m.user_id, a.actor_id from keystone.assignments a join keystone.memberships m on m.group_id = a.actor_id
      where a.actor = 'group' and (${f.user}::text is null or m.user_id = ${f.user})
  ),
  roots as (select distinct target, target_id from people where inherited),
  below(target, root, id) as (
    select r.target, r.target_id, p.id from roots r join keystone.projects p on p.parent_id = r.target_id
    union select b.target, b.root, p.id from below b join keystone.projects p on p.parent_id = b.id
  ),
  placed as (
    select user_id, via_group, target, target_id, role_id, false as inherited, null::text as via_target, null::text as via_target_id from people where not inherited
    union all
    select p.user_id, p.via_group, 'project', b.id, p.role_id, true, p.target, p.target_id
      from people p join below b on p.inherited and b.target = p.target and b.root = p.target_id
  ),
  implied(prior, id, depth) as (
    select prior_id, implied_id, 1 from keystone.implied_roles
    union select c.prior, i.implied_id, c.depth + 1 from implied c join keystone.implied_roles i on i.prior_id = c.id where c.depth < 50
  ),
  all_roles as (
    select p.*, null::text as via_role from placed p
    union all
    select p.user_id, p.via_group, p.target, p.target_id, i.id, p.inherited, p.via_target, p.via_target_id, p.role_id
      from placed p join (select distinct prior, id from implied) i on i.prior = p.role_id
  )
  select a.user_id, null as group_id, a.* from all_roles a join keystone.roles r on r.id = a.role_id
  where (${f.role}::text is null or a.role_id = ${f.role})
    and (${f.project}::text is null or (a.target = 'project' and a.target_id in (select id from within)))
    and (${f.domain}::text is null or (a.target = 'domain' and a.target_id = ${f.domain}))
    and (not ${f.system} or a.target = 'system')
    and (${f.inherited}::boolean is null or a.inherited = ${f.inherited})
    and r.domain_id is null
  order by a.user_id, a.target, a.target_id, a.role_id`

type Named = { id: string; name: string; domain_id: string | null }

/** Names of all that the assignments mention: one query a kind. */
async function namesOf(db: Query, found: Found[]) {
  const ids = (pick: (one: Found) => string | null) => [...new Set(found.map(pick).filter((id): id is string => id !== null))]
  const look = async (table: 'keystone.users' | 'keystone.groups' | 'keystone.roles' | 'keystone.projects', wanted: string[]) =>
    wanted.length === 0
      ? []
      : ((await db.selectFrom(table).select(['id', 'name', 'domain_id']).where('id', 'in', wanted).execute()) as Named[])
  const [users, groups, roles, places] = await Promise.all([
    look(
      'keystone.users',
      ids(one => one.user_id),
    ),
    look(
      'keystone.groups',
      ids(one => one.group_id),
    ),
    look(
      'keystone.roles',
      ids(one => one.role_id),
    ),
    look(
      'keystone.projects',
      ids(one => (one.target === 'system' ? null : one.target_id)),
    ),
  ])
  const domains = await look('keystone.projects', [
    ...new Set([...users, ...groups, ...roles, ...places].map(row => row.domain_id).filter(id => id !== null)),
  ])
  const index = new Map([...users, ...groups, ...roles, ...places, ...domains].map(row => [row.id, row]))
  return (id: string): Record<string, unknown> => {
    const row = index.get(id)
    if (!row) return { id }
    const domain = row.domain_id === null ? undefined : index.get(row.domain_id)
    return { id, name: row.name, ...(row.domain_id !== null && { domain: { id: row.domain_id, name: domain?.name } }) }
  }
}

function assignmentView(call: Call, one: Found, nameOf: (id: string) => Record<string, unknown>): Record<string, unknown> {
  const inherited = one.inherited
  const scope: Record<string, unknown> =
    one.target === 'system' ? { system: { all: true } } : { [one.target]: nameOf(one.target_id) }
  if (inherited) scope['OS-INHERIT:inherited_to'] = 'projects'
  const place = one.target === 'system' ? '/system' : `/${one.via_target ?? one.target}s/${one.via_target_id ?? one.target_id}`
  const whom = one.via_group ?? one.group_id
  const actor = whom === null ? `/users/${one.user_id}` : `/groups/${whom}`
  const path = `${place}${actor}/roles/${one.via_role ?? one.role_id}`
  const links: Record<string, string> = {
    assignment: selfUrl(call, inherited ? `/OS-INHERIT${path}/inherited_to_projects` : path),
  }
  if (one.via_group !== null) links.membership = selfUrl(call, `/groups/${one.via_group}/users/${one.user_id}`)
  if (one.via_role !== null) links.prior_role = selfUrl(call, `/prior_role/${one.role_id}/implies/${one.via_role}`)
  return {
    scope,
    ...(one.user_id === null ? { group: nameOf(one.group_id!) } : { user: nameOf(one.user_id) }),
    role: nameOf(one.role_id),
    links,
  }
}

/** `?flag` and `?flag=anything` are true, `?flag=0` is false. */
const flag = (call: Pick<Call, 'search'>, name: string): boolean => call.search.has(name) && call.search.get(name) !== '0'

function filterOf(call: Call): Filter {
  const get = (name: string) => call.search.get(name) || null
  const inherited = call.search.has('scope.OS-INHERIT:inherited_to') ? get('scope.OS-INHERIT:inherited_to') === 'projects' : null
  const filter: Filter = {
    user: get('user.id'),
    group: get('group.id'),
    role: get('role.id'),
    project: get('scope.project.id'),
    domain: get('scope.domain.id'),
    system: get('scope.system') !== null,
    inherited,
    subtree: flag(call, 'include_subtree'),
    effective: flag(call, 'effective'),
  }
  if (filter.domain && filter.project) throw badRequest('Specify a domain or project, not both')
  if (filter.domain && filter.system) throw badRequest('Specify system or domain, not both')
  if (filter.project && filter.system) throw badRequest('Specify system or project, not both')
  if (filter.user && filter.group) throw badRequest('Specify a user or group, not both')
  if (filter.effective && filter.group)
    throw badRequest('Combining effective and group filter will always result in an empty list.')
  if (filter.effective && filter.inherited && filter.domain) {
    throw badRequest('Combining effective, domain and inherited filters will always result in an empty list.')
  }
  return filter
}

interface Tree {
  project: { id: string; domain_id: string | null } | null
}

export const assignmentRoutes = [
  route({
    method: 'GET',
    path: '/role_assignments',
    policy: null,
    async target(call): Promise<Tree> {
      const id = call.search.get('scope.project.id')
      const tree = flag(call, 'include_subtree')
      if (!tree || !id) {
        call.ctx.must(tree ? 'identity:list_role_assignments_for_tree' : 'identity:list_role_assignments', {
          target: { domain_id: call.ctx.domainId ?? undefined },
        })
        if (tree) throw badRequest('scope.project.id must be specified if include_subtree is also specified')
        return { project: null }
      }
      const project = await call.db
        .selectFrom('keystone.projects')
        .select(['id', 'domain_id'])
        .where('id', '=', id)
        .executeTakeFirst()
      if (!project) throw missing('project', id)
      call.ctx.must('identity:list_role_assignments_for_tree', { target: { project, domain_id: project.domain_id } })
      return { project }
    },
    async handle(call) {
      let found = await assignmentList(call.db, filterOf(call))
      if (call.ctx.domainId && !flag(call, 'include_subtree')) found = await inDomain(call, found, call.ctx.domainId)
      const nameOf = flag(call, 'include_names') ? await namesOf(call.db, found) : (id: string) => ({ id })
      return { role_assignments: found.map(one => assignmentView(call, one, nameOf)), links: pageLinks(call) }
    },
  }),
]

/** Only what is assigned on the domain or its projects. */
async function inDomain(call: Call, found: Found[], domain: string): Promise<Found[]> {
  const ids = [...new Set(found.filter(one => one.target === 'project').map(one => one.target_id))]
  const mine =
    ids.length === 0
      ? []
      : await call.db
          .selectFrom('keystone.projects')
          .select('id')
          .where('id', 'in', ids)
          .where('domain_id', '=', domain)
          .execute()
  const projects = new Set(mine.map(row => row.id))
  return found.filter(one =>
    one.target === 'domain' ? one.target_id === domain : one.target === 'project' && projects.has(one.target_id),
  )
}
