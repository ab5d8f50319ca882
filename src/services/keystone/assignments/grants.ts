import type { Tx } from '#kit/db/index.ts'
import { badRequest, forbidden, notFound } from '#kit/fault.ts'
import { type Call, type Method, type Route, route } from '#kit/http/route.ts'
import { domains } from '../domains/domains.ts'
import { groups } from '../groups/groups.ts'
import { listView, missing, nounFetch, nounViews, pageLinks, type Row } from '../noun.ts'
import { projects } from '../projects/projects.ts'
import { roles } from '../roles/roles.ts'
import { stale } from '../tokens/stale.ts'
import { users } from '../users/users.ts'

// A grant gives a role to a user or a group on a project, a domain or the system; an inherited one gives it on all projects below
// instead. The paths are the product of those choices, so the routes are made from them.

type Actor = 'user' | 'group'
type Place = 'project' | 'domain' | 'system'

/** One family of paths: whom, where, inherited or not. */
interface Kind {
  actor: Actor
  place: Place
  inherited: boolean
}

interface Parties {
  role: Row | null
  actor: Row | null
  place: Row | null
}

const NOUNS = { user: users, group: groups, project: projects, domain: domains }

async function parties(call: Call, { actor, place }: Kind): Promise<Parties> {
  const { role_id } = call.params
  const [role, whom, where] = await Promise.all([
    role_id === undefined ? null : nounFetch(roles, call, role_id),
    nounFetch(NOUNS[actor], call, call.params[`${actor}_id`]!),
    place === 'system' ? null : nounFetch(NOUNS[place], call, call.params[`${place}_id`]!),
  ])
  return { role, actor: whom, place: where }
}

function present(call: Call<unknown, unknown, Parties>, { actor, place }: Kind): { actor: Row; placeId: string } {
  const { target } = call
  if (!target.actor) throw missing(actor, call.params[`${actor}_id`]!)
  if (place !== 'system' && !target.place) throw missing(place, call.params[`${place}_id`]!)
  return { actor: target.actor, placeId: target.place?.id ?? 'system' }
}

function presentRole(call: Call<unknown, unknown, Parties>): Row {
  if (!call.target.role) throw missing('role', call.params.role_id!)
  return call.target.role
}

interface Grant {
  actor: Actor
  actor_id: string
  target: Place
  target_id: string
  role_id: string
  inherited: boolean
}

/** Who must be looked at again when a grant changes: the user, or the members of the group. */
async function staleActors(tx: Tx, { actor, actor_id }: Pick<Grant, 'actor' | 'actor_id'>): Promise<void> {
  if (actor === 'user') return stale(tx, `user:${actor_id}`)
  const members = await tx
    .selectFrom('keystone.memberships')
    .select('user_id')
    .where('group_id', '=', actor_id)
    .union(tx.selectFrom('keystone.expiring_memberships').select('user_id').where('group_id', '=', actor_id))
    .execute()
  // Sessions of federated users can have the group without being listed as members.
  await stale(tx, ...(members.length > 200 ? ['all'] : ['federated', ...members.map(member => `user:${member.user_id}`)]))
}

/** Gives a role. Giving it twice is no error. */
export async function grantCreate(tx: Tx, grant: Grant): Promise<void> {
  await tx
    .insertInto('keystone.assignments')
    .values(grant)
    .onConflict(on => on.doNothing())
    .execute()
  await staleActors(tx, grant)
}

async function grantDelete(tx: Tx, grant: Grant): Promise<void> {
  let query = tx.deleteFrom('keystone.assignments')
  for (const [name, value] of Object.entries(grant)) query = query.where(name as keyof Grant, '=', value as never)
  const gone = await query.executeTakeFirst()
  if (gone.numDeletedRows === 0n) throw notGranted(grant)
  // What a user delegated to an application on the strength of the role goes with it.
  if (grant.actor === 'user' && grant.target === 'project' && !grant.inherited) {
    const creds = await tx
      .deleteFrom('keystone.app_creds')
      .where('user_id', '=', grant.actor_id)
      .where('project_id', '=', grant.target_id)
      .returning('id')
      .execute()
    await stale(tx, ...creds.map(cred => `app_cred:${cred.id}`))
  }
  await staleActors(tx, grant)
}

const notGranted = ({ role_id, actor, actor_id, target, target_id }: Grant) =>
  notFound(`Could not find role assignment with role: ${role_id}, ${actor}: ${actor_id}, ${target}: ${target_id}.`)

const RULES = {
  list: { granted: 'list_grants', system: 'list_system_grants_for_' },
  check: { granted: 'check_grant', system: 'check_system_grant_for_' },
  create: { granted: 'create_grant', system: 'create_system_grant_for_' },
  revoke: { granted: 'revoke_grant', system: 'revoke_system_grant_for_' },
}

function routesOf(kind: Kind): Route[] {
  const { actor, place, inherited } = kind
  const where = place === 'system' ? '/system' : `/${place}s/:${place}_id`
  const base = `${inherited ? '/OS-INHERIT' : ''}${where}/${actor}s/:${actor}_id/roles`
  const end = inherited ? '/inherited_to_projects' : ''
  const make = (
    method: Method,
    path: string,
    rule: keyof typeof RULES,
    success: number,
    handle: (call: Call<unknown, unknown, Parties>) => unknown,
  ): Route =>
    route({
      method,
      path,
      policy: `identity:${place === 'system' ? RULES[rule].system + actor : RULES[rule].granted}`,
      success,
      target: call => parties(call as Call, kind),
      policyTarget: call => ({
        ...call.params,
        target: {
          [actor]: call.target.actor ?? {},
          ...(place !== 'system' && { [place]: call.target.place ?? {} }),
          role: call.target.role ?? {},
        },
      }),
      handle: call => handle(call as unknown as Call<unknown, unknown, Parties>),
    })
  const grantOf = (call: Call<unknown, unknown, Parties>): Grant => {
    const { actor: whom, placeId } = present(call, kind)
    return { actor, actor_id: whom.id, target: place, target_id: placeId, role_id: presentRole(call).id, inherited }
  }
  const one = `${base}/:role_id${end}`
  return [
    make('GET', `${base}${end}`, 'list', 200, async call => {
      const { actor: whom, placeId } = present(call, kind)
      const rows = await call.db
        .selectFrom('keystone.assignments as a')
        .innerJoin('keystone.roles as r', 'r.id', 'a.role_id')
        .selectAll('r')
        .where('a.actor', '=', actor)
        .where('a.actor_id', '=', whom.id)
        .where('a.target', '=', place)
        .where('a.target_id', '=', placeId)
        .where('a.inherited', '=', inherited)
        .orderBy('r.id')
        .execute()
      const views = await nounViews(roles, rows as unknown as Row[], call)
      return listView('roles', views, { links: pageLinks(call), truncated: false })
    }),
    make('GET', one, 'check', 204, async call => {
      const grant = grantOf(call)
      let query = call.db.selectFrom('keystone.assignments').select('role_id')
      for (const [name, value] of Object.entries(grant)) query = query.where(name as keyof Grant, '=', value as never)
      if (!(await query.executeTakeFirst())) throw notGranted(grant)
    }),
    make('PUT', one, 'create', 204, async call => {
      const grant = grantOf(call)
      const role = presentRole(call)
      const domain = place === 'domain' ? grant.target_id : call.target.place?.domain_id
      if (role.domain_id !== null && role.domain_id !== domain) {
        throw place === 'system'
          ? badRequest(`Role ${role.id} cannot be assigned on the system: it belongs to a domain.`)
          : forbidden(`You are not authorized to perform the requested action: role ${role.id} belongs to another domain.`)
      }
      await call.env.db.tx(tx => grantCreate(tx, grant))
    }),
    make('DELETE', one, 'revoke', 204, async call => {
      // Who is gone already may still have grants to take away.
      const role = presentRole(call)
      const grant: Grant = {
        actor,
        actor_id: call.params[`${actor}_id`]!,
        target: place,
        target_id: place === 'system' ? 'system' : call.params[`${place}_id`]!,
        role_id: role.id,
        inherited,
      }
      await call.env.db.tx(tx => grantDelete(tx, grant))
    }),
  ]
}

const KINDS: Kind[] = (['user', 'group'] as const).flatMap(actor => [
  { actor, place: 'project', inherited: false },
  { actor, place: 'domain', inherited: false },
  { actor, place: 'system', inherited: false },
  { actor, place: 'project', inherited: true },
  { actor, place: 'domain', inherited: true },
])

export const grantRoutes = KINDS.flatMap(routesOf)
