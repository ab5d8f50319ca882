import { badRequest } from '#kit/fault.ts'
import type { Call } from '#kit/http/route.ts'
import { identityOf } from '../identity.ts'
import { type Noun, type NounCall, nounRoutes, nounView, type Row } from '../noun.ts'
import { tagged } from '../projects/projects.ts'
import { Flag, Name, OptionFlag, Tags, Text, urlReserved } from '../shapes.ts'
import { revoke, stale } from '../tokens/stale.ts'
import { domainGone } from './store.ts'

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
  async beforeUpdate(_tx, call, row, changes) {
    nameCheck(call, changes, row)
    if (changes.description === null) changes.description = ''
  },
  async afterUpdate(tx, _call, before, after) {
    if (before.enabled && !after.enabled) await revoke(tx, { domain_id: after.id })
    await stale(tx, `domain:${after.id}`)
  },
  beforeDelete: (tx, call, row) => domainGone(tx, call.env, row),
}

/** Refuses a new name that cannot stand in URLs where that is asked for. */
function nameCheck(call: NounCall, values: Record<string, unknown>, before?: Row): void {
  const { domain_name_url_safe: mode } = identityOf(call.env).settings.resource
  if (mode !== 'off' && values.name !== before?.name && urlReserved(values.name))
    throw badRequest('Domain name cannot contain reserved characters.')
}

export const domainRoutes = nounRoutes(domains)
