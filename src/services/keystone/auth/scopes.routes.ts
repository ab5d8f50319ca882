import { sql } from '#kit/db/index.ts'
import { type Call, route } from '#kit/http/route.ts'
import { domains } from '../domains/domains.ts'
import { filtered, listView, missing, nounFetch, nounViews, pageLinks, pageOf, type Row, type Rows } from '../noun.ts'
import { projects, projectsOfUser } from '../projects/projects.ts'
import { users } from '../users/users.ts'

// What a caller could scope a token to.

const groupsOf = (call: Pick<Call, 'ctx'>): string[] =>
  (call.ctx.who.extra?.token as { group_ids?: string[] } | undefined)?.group_ids ?? []

async function myProjects(call: Call) {
  const ids = [...(await projectsOfUser(call.db, call.ctx.userId, groupsOf(call)))]
  const all = call.db
    .selectFrom('keystone.projects')
    .selectAll('keystone.projects')
    .where(sql<boolean>`keystone.projects.id = any(${ids}::text[])`)
    .where('enabled', '=', true)
    .where(
      sql<boolean>`exists (select from keystone.projects d where d.id = keystone.projects.domain_id and d.enabled)`,
    ) as unknown as Rows
  const found = await pageOf(filtered(all, call.search, projects), call, projects)
  return listView('projects', await nounViews(projects, found.rows, call), found)
}

async function myDomains(call: Call) {
  const of = sql<boolean>`keystone.projects.id in (
    select a.target_id from keystone.assignments a where a.target = 'domain' and not a.inherited and
      ((a.actor = 'user' and a.actor_id = ${call.ctx.userId}) or (a.actor = 'group' and (a.actor_id = any(${groupsOf(call)}::text[])
        or a.actor_id in (select group_id from keystone.memberships where user_id = ${call.ctx.userId})))))`
  const all = call.db
    .selectFrom('keystone.projects')
    .selectAll('keystone.projects')
    .where(of)
    .where('is_domain', '=', true)
    .where('enabled', '=', true) as unknown as Rows
  const found = await pageOf(filtered(all, call.search, domains), call, domains)
  return listView('domains', await nounViews(domains, found.rows, call), found)
}

export const scopeRoutes = [
  route({
    method: 'GET',
    path: '/auth/projects',
    policy: 'identity:get_auth_projects',
    policyTarget: () => ({}),
    handle: call => myProjects(call),
  }),
  route({
    method: 'GET',
    path: '/auth/domains',
    policy: 'identity:get_auth_domains',
    policyTarget: () => ({}),
    handle: call => myDomains(call),
  }),
  // The same under the names that federated users were once given.
  route({
    method: 'GET',
    path: '/OS-FEDERATION/projects',
    policy: 'identity:get_auth_projects',
    policyTarget: () => ({}),
    handle: call => myProjects(call),
  }),
  route({
    method: 'GET',
    path: '/OS-FEDERATION/domains',
    policy: 'identity:get_auth_domains',
    policyTarget: () => ({}),
    handle: call => myDomains(call),
  }),
  route({
    method: 'GET',
    path: '/auth/system',
    policy: 'identity:get_auth_system',
    policyTarget: () => ({}),
    async handle(call) {
      const found = await call.db
        .selectFrom('keystone.assignments')
        .select('role_id')
        .where('target', '=', 'system')
        .where(
          sql<boolean>`((actor = 'user' and actor_id = ${call.ctx.userId}) or (actor = 'group' and (actor_id = any(${groupsOf(call)}::text[])
            or actor_id in (select group_id from keystone.memberships where user_id = ${call.ctx.userId}))))`,
        )
        .executeTakeFirst()
      return { system: found ? [{ all: true }] : [], links: pageLinks(call) }
    },
  }),
  route({
    method: 'GET',
    path: '/users/:user_id/projects',
    policy: 'identity:list_user_projects',
    target: call => nounFetch(users, call, call.params.user_id!),
    policyTarget: call => ({ ...call.params, target: { user: call.target ?? {} } }),
    async handle(call) {
      if (!call.target) throw missing('user', call.params.user_id!)
      const ids = [...(await projectsOfUser(call.db, call.target.id))]
      const all = call.db
        .selectFrom('keystone.projects')
        .selectAll('keystone.projects')
        .where(sql<boolean>`keystone.projects.id = any(${ids}::text[])`) as unknown as Rows
      const found = await pageOf(filtered(all, call.search, projects), call, projects)
      return listView('projects', await nounViews(projects, found.rows as Row[], call), found)
    },
  }),
]
