import type { Tx } from '#kit/db/index.ts'
import { emit } from '#kit/events.ts'
import { badRequest, forbidden } from '#kit/fault.ts'
import type { Call } from '#kit/http/route.ts'
import { domainDeleted } from '../events.ts'
import { groupsLetGo } from '../groups/store.ts'
import { identityOf } from '../identity.ts'
import { type Noun, type NounCall, nounRoutes, nounView, type Row } from '../noun.ts'
import { projectLetGo, tagged } from '../projects/projects.ts'
import { Flag, Name, OptionFlag, Tags, Text } from '../shapes.ts'
import { revoke, stale } from '../tokens/stale.ts'
import { usersLetGo } from '../users/store.ts'

/** Domains: name spaces of projects, users, groups and roles. A row of projects without domain or parent. */
export const domains: Noun = {
  one: 'domain',
  many: 'domains',
  path: '/domains',
  table: 'keystone.projects',
  fields: {
    name: { schema: Name(64), create: 'required' },
    description: { schema: Text() },
    enabled: { schema: Flag() },
    tags: { schema: Tags(), filter: false, sort: false },
  },
  extra: true,
  options: { immutable: OptionFlag() },
  rules: { list: 'list_domains', show: 'get_domain', create: 'create_domain', update: 'update_domain', delete: 'delete_domain' },
  missingFirst: ['update', 'delete'],
  listTarget: call => ({ target: { domain: { id: call.ctx.domainId ?? undefined } } }),
  where(query, call) {
    const some = tagged(query.where('keystone.projects.is_domain', '=', true), call)
    return call.ctx.domainId ? some.where('keystone.projects.id', '=', call.ctx.domainId) : some
  },
  async fetch(call: Call, id: string) {
    const row = await call.db
      .selectFrom('keystone.projects')
      .selectAll()
      .where('id', '=', id)
      .where('is_domain', '=', true)
      .executeTakeFirst()
    return (row as Row | undefined) ?? null
  },
  async views(rows, call) {
    return rows.map(row => nounView(domains, row, call))
  },
  async beforeCreate(tx, call, values) {
    nameCheck(call, values)
    values.description ??= ''
    Object.assign(values, { is_domain: true, domain_id: null, parent_id: null })
    const { explicit_domain_id: explicit, ...extra } = (values.extra ?? {}) as Record<string, unknown>
    if (explicit !== undefined) {
      if (typeof explicit !== 'string' || !/^[0-9a-f]{32}$/.test(explicit))
        throw badRequest(`Invalid input for field 'explicit_domain_id'. The value is '${JSON.stringify(explicit)}'.`)
      values.id = explicit
      values.extra = extra
    }
    await stale(tx, `domain:${values.id}`)
  },
  async beforeUpdate(_tx, call, _row, changes) {
    nameCheck(call, changes)
    if (changes.description === null) changes.description = ''
  },
  async afterUpdate(tx, _call, before, after) {
    if (before.enabled && !after.enabled) await revoke(tx, { domain_id: after.id })
    await stale(tx, `domain:${after.id}`)
  },
  async beforeDelete(tx, call, row) {
    if (row.enabled) throw forbidden('Cannot delete a domain that is enabled, please disable it first.')
    if (row.id === identityOf(call.env).settings.identity.default_domain_id)
      throw forbidden('You are not authorized to perform the requested action: delete the default domain.')
    await contentsDelete(tx, row.id)
  },
}

function nameCheck(call: NounCall, values: Record<string, unknown>): void {
  const { domain_name_url_safe: mode } = identityOf(call.env).settings.resource
  if (mode !== 'off' && typeof values.name === 'string' && /[;/?:@&=+$,]/.test(values.name)) {
    throw badRequest('Domain name cannot contain reserved characters.')
  }
}

/** Deletes all that lives in a domain: users, groups, projects from the leaves up, limits, assignments. */
async function contentsDelete(tx: Tx, domain: string): Promise<void> {
  const users = await tx.selectFrom('keystone.users').select('id').where('domain_id', '=', domain).execute()
  await usersLetGo(
    tx,
    users.map(user => user.id),
  )
  await tx.deleteFrom('keystone.users').where('domain_id', '=', domain).execute()
  const groups = await tx.selectFrom('keystone.groups').select('id').where('domain_id', '=', domain).execute()
  await groupsLetGo(
    tx,
    groups.map(group => group.id),
  )
  await tx.deleteFrom('keystone.groups').where('domain_id', '=', domain).execute()
  const projects = await tx.selectFrom('keystone.projects').select(['id', 'domain_id']).where('domain_id', '=', domain).execute()
  await projectLetGo(tx, projects)
  // One statement, so that parents and children may go in any order.
  await tx.deleteFrom('keystone.projects').where('domain_id', '=', domain).execute()
  await tx.deleteFrom('keystone.assignments').where('target', '=', 'domain').where('target_id', '=', domain).execute()
  await revoke(tx, { domain_id: domain })
  await emit(tx, domainDeleted, { id: domain })
}

export const domainRoutes = nounRoutes(domains)
