import { sql } from '#kit/db/index.ts'
import { forbidden } from '#kit/fault.ts'
import { type Call, route } from '#kit/http/route.ts'
import { domainMustExist } from '../domains/store.ts'
import { directoriesFresh, writableMust } from '../ldap/sync.ts'
import {
  filtered,
  listView,
  missing,
  type Noun,
  type NounCall,
  nounFetch,
  nounRoutes,
  nounViews,
  pageOf,
  type Row,
  type Rows,
} from '../noun.ts'
import { domainOf } from '../projects/projects.ts'
import { Name, OptionalId, Text } from '../shapes.ts'
import { revoke, stale } from '../tokens/stale.ts'
import { users } from '../users/users.ts'
import { isoTime } from '../wire.ts'
import { groupsLetGo } from './store.ts'

/** Groups of users; what a group may, its members may. */
export const groups: Noun = {
  one: 'group',
  many: 'groups',
  path: '/groups',
  table: 'keystone.groups',
  fields: {
    name: { schema: Name(64), create: 'required' },
    domain_id: { schema: OptionalId() },
    description: { schema: Text() },
  },
  extra: true,
  rules: { list: 'list_groups', show: 'get_group', create: 'create_group', update: 'update_group', delete: 'delete_group' },
  missingFirst: ['delete'],
  domainColumn: 'domain_id',
  listTarget: call => ({ target: { group: { domain_id: call.ctx.domainId ?? undefined } } }),
  beforeList: call => directoriesFresh(call.env, call.search.get('domain_id') ?? call.ctx.domainId ?? undefined),
  async beforeCreate(tx, call, values) {
    values.domain_id ??= domainOf(call)
    await writableMust(tx, values.domain_id as string, 'group create')
    values.description ??= ''
    await domainMustExist(tx, values.domain_id as string)
  },
  async beforeUpdate(tx, _call, row, changes) {
    await writableMust(tx, row.domain_id as string, 'group update')
    if (changes.domain_id !== undefined && changes.domain_id !== row.domain_id)
      throw forbidden('The domain of a group cannot be changed.')
    if (changes.description === null) changes.description = ''
  },
  async beforeDelete(tx, _call, row) {
    await writableMust(tx, row.domain_id as string, 'group delete')
    await groupsLetGo(tx, [row.id])
  },
}

type Pair = { user: Row | null; group: Row | null }

const pair = {
  async target(call: Call): Promise<Pair> {
    return {
      user: await nounFetch(users, call, call.params.user_id!),
      group: await nounFetch(groups, call, call.params.group_id!),
    }
  },
  policyTarget: (call: Call<unknown, unknown, Pair>) => ({
    ...call.params,
    target: { user: call.target.user ?? {}, group: call.target.group ?? {} },
  }),
}

function present(call: Call<unknown, unknown, Pair>): { user: Row; group: Row } {
  const { user, group } = call.target
  if (!group) throw missing('group', call.params.group_id!)
  if (!user) throw missing('user', call.params.user_id!)
  return { user, group }
}

const MEMBER = '/groups/:group_id/users/:user_id'

export const groupRoutes = [
  ...nounRoutes(groups),
  route({
    method: 'GET',
    path: '/groups/:group_id/users',
    policy: 'identity:list_users_in_group',
    target: call => nounFetch(groups, call, call.params.group_id!),
    policyTarget: call => ({ ...call.params, target: { group: call.target ?? {} } }),
    async handle(call) {
      if (!call.target) throw missing('group', call.params.group_id!)
      const members = sql<boolean>`id in (select user_id from keystone.memberships where group_id = ${call.target.id}
        union select user_id from keystone.expiring_memberships where group_id = ${call.target.id})`
      let all = call.db.selectFrom('keystone.users').selectAll('keystone.users').where(members) as unknown as Rows
      if (call.ctx.domainId) all = all.where('keystone.users.domain_id', '=', call.ctx.domainId)
      const found = await pageOf(filtered(all, call.search, users), call, users)
      return listView('users', await nounViews(users, found.rows, call), found)
    },
  }),
  route({
    method: 'PUT',
    path: MEMBER,
    policy: 'identity:add_user_to_group',
    ...pair,
    success: 204,
    async handle(call) {
      const { user, group } = present(call)
      await call.env.db.tx(async tx => {
        await tx
          .insertInto('keystone.memberships')
          .values({ user_id: user.id, group_id: group.id })
          .onConflict(on => on.doNothing())
          .execute()
        await stale(tx, `user:${user.id}`)
      })
    },
  }),
  route({
    method: 'GET',
    path: MEMBER,
    policy: 'identity:check_user_in_group',
    ...pair,
    success: 204,
    async handle(call) {
      const { user, group } = present(call)
      const found = await call.db
        .selectFrom('keystone.memberships')
        .select('user_id')
        .where('user_id', '=', user.id)
        .where('group_id', '=', group.id)
        .executeTakeFirst()
      if (!found) throw missing(`user '${user.id}' in group`, group.id)
    },
  }),
  route({
    method: 'DELETE',
    path: MEMBER,
    policy: 'identity:remove_user_from_group',
    ...pair,
    success: 204,
    async handle(call) {
      const { user, group } = present(call)
      await call.env.db.tx(async tx => {
        const gone = await tx
          .deleteFrom('keystone.memberships')
          .where('user_id', '=', user.id)
          .where('group_id', '=', group.id)
          .executeTakeFirst()
        if (gone.numDeletedRows === 0n) throw missing(`user '${user.id}' in group`, group.id)
        await revoke(tx, { user_id: user.id })
      })
    },
  }),
  route({
    method: 'GET',
    path: '/users/:user_id/groups',
    policy: 'identity:list_groups_for_user',
    target: call => nounFetch(users, call, call.params.user_id!),
    policyTarget: call => ({ ...call.params, target: { user: call.target ?? {} } }),
    async handle(call) {
      if (!call.target) throw missing('user', call.params.user_id!)
      const userId = call.target.id
      const expiring = await call.db
        .selectFrom('keystone.expiring_memberships as e')
        .innerJoin('keystone.idps as i', 'i.id', 'e.idp_id')
        .select(['e.group_id', sql<Date>`e.last_verified + coalesce(i.authorization_ttl, 0) * interval '1 minute'`.as('ends')])
        .where('e.user_id', '=', userId)
        .execute()
      const until = new Map(expiring.filter(row => row.ends.getTime() > Date.now()).map(row => [row.group_id, row.ends]))
      const of = sql<boolean>`(id in (select group_id from keystone.memberships where user_id = ${userId}) or id = any(${[...until.keys()]}::text[]))`
      let all = call.db.selectFrom('keystone.groups').selectAll('keystone.groups').where(of) as unknown as Rows
      // A domain-scoped reader sees only the groups of the domain.
      if (call.ctx.domainId && call.ctx.userId !== call.target.id)
        all = all.where('keystone.groups.domain_id', '=', call.ctx.domainId)
      const found = await pageOf(filtered(all, call.search, groups), call, groups)
      const views = await nounViews(groups, found.rows, call as unknown as NounCall)
      return listView(
        'groups',
        views.map(view => {
          const ends = until.get(view.id as string)
          return { ...view, membership_expires_at: ends ? isoTime(ends) : null }
        }),
        found,
      )
    },
  }),
]
