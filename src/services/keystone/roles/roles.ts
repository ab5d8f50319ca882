import type { Query } from '#kit/db/index.ts'
import { conflict, notFound } from '#kit/fault.ts'
import { type Noun, type NounCall, nounRoutes } from '../noun.ts'
import { Name, OptionalId, OptionFlag, Text } from '../shapes.ts'
import { stale } from '../tokens/stale.ts'

/** Roles: global ones, and those of a domain, which can only imply global ones. */
export const roles: Noun = {
  one: 'role',
  many: 'roles',
  path: '/roles',
  table: 'keystone.roles',
  fields: {
    name: { schema: Name(), create: 'required' },
    domain_id: { schema: OptionalId(), update: false },
    description: { schema: Text() },
  },
  extra: true,
  options: { immutable: OptionFlag() },
  rules: { list: 'list_roles', show: 'get_role', create: 'create_role', update: 'update_role', delete: 'delete_role' },
  missingFirst: ['show', 'update', 'delete'],
  listTarget: call => ({ target: { domain_id: call.search.get('domain_id') ?? undefined } }),
  // Without domain_id a list is of the global roles.
  where: (query, call) => (call.search.has('domain_id') ? query : query.where('keystone.roles.domain_id', 'is', null)),
  async beforeCreate(tx, _call, values) {
    if (typeof values.domain_id === 'string') await domainMust(tx, values.domain_id)
  },
  async beforeUpdate(_tx, call: NounCall, row, changes) {
    const sent = call.body.role!.domain_id
    if (sent !== undefined && sent !== row.domain_id) throw conflict('The domain of a role cannot be changed.')
    delete changes.domain_id
  },
  afterUpdate: tx => stale(tx, 'all'),
  async beforeDelete(tx, _call, row) {
    await tx
      .deleteFrom('keystone.app_creds')
      .where(eb => eb(eb.val(row.id), '=', eb.fn.any('role_ids')))
      .execute()
    await stale(tx, 'all')
  },
}

async function domainMust(db: Query, id: string): Promise<void> {
  const domain = await db
    .selectFrom('keystone.projects')
    .select('id')
    .where('id', '=', id)
    .where('is_domain', '=', true)
    .executeTakeFirst()
  if (!domain) throw notFound(`Could not find domain: ${id}.`)
}

/** Rules of domain-specific roles have names of their own: the rule depends on the role that is meant. */
const domainRule: Record<string, string> = {
  'identity:list_roles': 'identity:list_domain_roles',
  'identity:get_role': 'identity:get_domain_role',
  'identity:create_role': 'identity:create_domain_role',
  'identity:update_role': 'identity:update_domain_role',
  'identity:delete_role': 'identity:delete_domain_role',
}

export const roleRoutes = nounRoutes(roles).map(route => ({
  ...route,
  policyTarget(call: Parameters<NonNullable<typeof route.policyTarget>>[0]) {
    const role = (call.target ?? (call.body as { role?: { domain_id?: unknown } } | undefined)?.role) as
      | { domain_id?: unknown }
      | null
      | undefined
    const target = route.policyTarget!(call)
    if (
      (typeof role?.domain_id === 'string' && role.domain_id !== '') ||
      (route.path === '/roles' && call.search.has('domain_id'))
    ) {
      call.ctx.must(domainRule[route.policy!]!, target)
    }
    return target
  },
}))
