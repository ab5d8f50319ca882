import type { Context } from '#kit/context.ts'
import { isReferenced, sql } from '#kit/db/index.ts'
import { conflict } from '#kit/fault.ts'
import { route } from '#kit/http/route.ts'
import * as S from '#kit/http/schema.ts'
import { viewOf } from '#kit/noun/index.ts'
import { bool, idField, project, shown, standard, text } from '../api/attributes.ts'
import { list, readRoutes } from '../api/read.ts'
import { type Changing, type Making, type Removing, type Row, resource } from '../api/resource.ts'
import { tagRoutes } from '../api/tags.ts'
import { insertRow, updateRow, writeRoutes } from '../api/write.ts'
import { gone, inUse, invalidInput } from '../faults.ts'
import { granted } from '../networks/facts.ts'
import { quotaClaim } from '../quotas/quota.ts'
import { rbacForget } from '../rbac/store.ts'
import { neutronSettings } from '../settings.ts'
import { rules } from './rules.ts'
import { defaultGroup, templateCount, templateRules } from './store.ts'

const RULES = sql<Row[]>`coalesce((select jsonb_agg(to_jsonb(r) order by r.created_at, r.id) from neutron.security_group_rules r
  where r.security_group_id = neutron.security_groups.id), '[]')`

const columns = (ctx: Context) => [
  RULES.as('rules'),
  granted('security_group', 'access_as_shared', 'neutron.security_groups.id', ctx.projectId).as('shared'),
]

/** A rule as the group shows it. JSON has its times as text. */
function ruleView(rule: Row): Row {
  const times = { created_at: new Date(rule.created_at as string), updated_at: new Date(rule.updated_at as string) }
  return viewOf(rules.noun, { ...rule, ...times, belongs: false })
}

/** Security groups. */
export const groups = resource({
  name: 'security_group',
  plural: 'security_groups',
  path: '/security-groups',
  table: 'neutron.security_groups',
  gone: gone.security_group,
  quota: 'security_group',
  attributes: {
    id: idField,
    name: text('', 255),
    stateful: bool(true),
    ...project,
    ...standard,
    security_group_rules: shown(S.Array(S.Unknown()), {
      column: null,
      read: (_, row) => (row.rules as Row[]).map(rule => ({ ...ruleView(rule), belongs_to_default_sg: row.is_default })),
    }),
    shared: shown(S.Boolean(), { column: null, read: (_, row) => row.shared }),
  },
  columns,
  visible: ctx => sql<boolean>`(neutron.security_groups.project_id = ${ctx.projectId}
    or ${granted('security_group', 'access_as_shared', 'neutron.security_groups.id', ctx.projectId)})`,
  filters: {
    shared(values, ctx) {
      const wanted = S.toBoolean(values[0])
      if (wanted === undefined) throw invalidInput('shared', `'${values[0]}' cannot be converted to boolean`)
      return sql<boolean>`${granted('security_group', 'access_as_shared', 'neutron.security_groups.id', ctx.projectId)} = ${wanted}`
    },
  },
  create: groupMake,
  update: groupChange,
  remove: groupRemove,
})

async function groupMake({ env, tx, given }: Making): Promise<string> {
  const projectId = given.project_id as string
  if ((given.name as string) === 'default') {
    throw conflict('Default security group already exists.', { type: 'SecurityGroupDefaultAlreadyExists' })
  }
  await defaultGroup(tx, projectId)
  const limits = env.config.of(neutronSettings).quota as Record<string, number>
  await quotaClaim(tx, limits, projectId, { security_group_rule: await templateCount(tx) })
  const id = await insertRow(groups, tx, given)
  await templateRules(tx, { id, projectId, isDefault: false })
  return id
}

async function groupChange({ tx, row, changes }: Changing): Promise<void> {
  const id = row.id as string
  if (row.is_default && 'name' in changes) {
    throw conflict('Updating default security group not allowed.', { type: 'SecurityGroupCannotUpdateDefault' })
  }
  if ('name' in changes && changes.name === 'default') {
    throw conflict('Default security group already exists.', { type: 'SecurityGroupDefaultAlreadyExists' })
  }
  if ('stateful' in changes && changes.stateful !== row.stateful) {
    const used = await tx
      .selectFrom('neutron.port_security_groups')
      .select('port_id')
      .where('security_group_id', '=', id)
      .limit(1)
      .executeTakeFirst()
    if (used) throw inUse('SecurityGroupInUse', `Security Group ${id} in use: its ports would change how they filter.`)
  }
  await updateRow(groups, tx, id, changes)
}

async function groupRemove({ tx, ctx, row }: Removing): Promise<void> {
  const id = row.id as string
  if (row.is_default && !ctx.isAdmin) {
    throw conflict('Insufficient rights for removing default security group.', { type: 'SecurityGroupCannotRemoveDefault' })
  }
  const used = await tx
    .selectFrom('neutron.port_security_groups')
    .select('port_id')
    .where('security_group_id', '=', id)
    .limit(1)
    .executeTakeFirst()
  if (used) throw inUse('SecurityGroupInUse', `Security Group ${id} in use.`)
  await rbacForget(tx, 'security_group', id)
  try {
    await tx.deleteFrom('neutron.security_groups').where('id', '=', id).execute()
  } catch (error) {
    // A port took it between the look and the deletion.
    if (isReferenced(error)) throw inUse('SecurityGroupInUse', `Security Group ${id} in use.`)
    throw error
  }
}

/** A project's first look at its groups finds its default group. */
const listRoute = route({
  method: 'GET',
  path: groups.path,
  policy: null,
  async handle(call) {
    const { ctx, env, search } = call
    const projectId = ctx.isAdmin ? (search.get('project_id') ?? search.get('tenant_id') ?? ctx.projectId) : ctx.projectId
    if (projectId) {
      const there = await call.db
        .selectFrom('neutron.security_groups')
        .select('id')
        .where('project_id', '=', projectId)
        .where('is_default', '=', true)
        .executeTakeFirst()
      if (!there) await env.db.tx(tx => defaultGroup(tx, projectId))
    }
    return list(groups, call)
  },
})

export const groupRoutes = [
  listRoute,
  ...readRoutes({ ...groups, verbs: ['show'] }),
  ...writeRoutes(groups),
  ...tagRoutes(groups),
]
