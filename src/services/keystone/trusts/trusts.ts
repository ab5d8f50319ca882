import type { Selectable } from '#kit/db/index.ts'
import { badRequest, forbidden } from '#kit/fault.ts'
import { type Call, type Route, route } from '#kit/http/route.ts'
import { Array, Boolean, Integer, Nullable, Object, Optional, String } from '#kit/http/schema.ts'
import { tokenOf, trustOf } from '../auth/delegation.ts'
import { identityOf, type KeystoneSettings } from '../identity.ts'
import { listView, missing, newId, pageLinks, selfUrl } from '../noun.ts'
import { rolesFind, roleViews } from '../roles/find.ts'
import type { TrustsTable } from '../tables.ts'
import { factsOf } from '../tokens/facts.ts'
import { trustChain } from '../tokens/token.ts'
import { isoTime } from '../wire.ts'
import { trustFetch, trustsDelete } from './store.ts'

// A trust: the trustor lets the trustee act on a project with some of the trustor's roles, as the trustor (impersonation) or as
// itself. A trust that allows it can be passed on, a limited number of times, never with more than it has.

type Trust = Selectable<TrustsTable>

const NewTrust = Object({
  trust: Object(
    {
      trustor_user_id: String({ minLength: 1, maxLength: 255 }),
      trustee_user_id: String({ minLength: 1, maxLength: 255 }),
      impersonation: Boolean(),
      project_id: Optional(Nullable(String({ maxLength: 64 }))),
      remaining_uses: Optional(Nullable(Integer({ minimum: 1 }))),
      expires_at: Optional(Nullable(String())),
      allow_redelegation: Optional(Nullable(Boolean())),
      redelegation_count: Optional(Nullable(Integer({ minimum: 0 }))),
      roles: Optional(Array(Object({ id: Optional(String()), name: Optional(String()) }))),
    },
    { additionalProperties: true },
  ),
})

function trustView(row: Trust, call: Call, roles?: Map<string, Record<string, unknown>>): Record<string, unknown> {
  return {
    id: row.id,
    trustor_user_id: row.trustor_user_id,
    trustee_user_id: row.trustee_user_id,
    project_id: row.project_id,
    impersonation: row.impersonation,
    expires_at: row.expires_at && isoTime(row.expires_at),
    deleted_at: null,
    remaining_uses: row.remaining_uses,
    redelegation_count: row.redelegation_count,
    redelegated_trust_id: row.redelegated_trust_id,
    ...row.extra,
    ...(roles && {
      roles: row.role_ids.flatMap(id => roles.get(id) ?? []),
      roles_links: { self: selfUrl(call, `/OS-TRUST/trusts/${row.id}/roles`), next: null, previous: null },
    }),
    links: { self: selfUrl(call, `/OS-TRUST/trusts/${row.id}`) },
  }
}

/** Application credentials are for one project: with one of theirs, trusts are neither read nor made. */
function appCredForbid(call: Pick<Call, 'ctx'>): void {
  if (tokenOf(call).methods?.includes('application_credential')) {
    throw forbidden(
      "You are not authorized to perform the requested action: Using method 'application_credential' is not allowed for managing trusts.",
    )
  }
}

/** Whether the trust can be passed on as `wanted`. Throws forbidden. */
function redelegationCheck(
  parent: Trust,
  wanted: Pick<Trust, 'role_ids' | 'expires_at' | 'impersonation' | 'remaining_uses'>,
  max: number,
): void {
  if (!(parent.redelegation_count > 0 && parent.redelegation_count <= max))
    throw forbidden(`Remaining redelegation depth of ${parent.redelegation_count} out of allowed range of [0..${max}]`)
  if (wanted.remaining_uses !== null) throw forbidden('Field "remaining_uses" must not be set in order to redelegate a trust')
  if (parent.expires_at && wanted.expires_at && wanted.expires_at > parent.expires_at)
    throw forbidden('Requested expiration time is more than redelegated trust can provide')
  if (!wanted.role_ids.every(id => parent.role_ids.includes(id)))
    throw forbidden('Some of requested roles are not in redelegated trust')
  if (wanted.impersonation && !parent.impersonation) {
    throw forbidden(
      `Impersonation is not allowed because redelegated trust does not specify impersonation. Redelegated trust id: ${parent.id}`,
    )
  }
}

function expiryOf(text: string | null | undefined): Date | null {
  if (text === null || text === undefined) return null
  const at = new Date(/[zZ]|[+-]\d\d:?\d\d$/.test(text) ? text : `${text}Z`)
  if (Number.isNaN(at.getTime())) throw badRequest(`Expecting to find a time in expires_at, not ${text}.`)
  if (at.getTime() <= Date.now()) throw badRequest('The "expires_at" must not be before now.')
  return at
}

/** How often the new trust can be passed on. */
function countOf(
  sent: { allow_redelegation?: boolean | null; redelegation_count?: number | null; remaining_uses?: number | null },
  parent: Trust | undefined,
  rules: KeystoneSettings['trust'],
): number {
  if (sent.allow_redelegation !== true || sent.redelegation_count === 0) return 0
  if (sent.remaining_uses !== undefined && sent.remaining_uses !== null)
    throw badRequest('remaining_uses must not be set if redelegation is allowed')
  const asked = sent.redelegation_count ?? undefined
  if (asked !== undefined && asked > rules.max_redelegation_count) {
    throw forbidden(`Requested redelegation depth of ${asked} is greater than allowed ${rules.max_redelegation_count}`)
  }
  const left = parent ? parent.redelegation_count - 1 : undefined
  if (left !== undefined && asked !== undefined && asked !== left) {
    throw forbidden('Modifying "redelegation_count" upon redelegation is forbidden. Omitting this parameter is advised.')
  }
  return left ?? asked ?? rules.max_redelegation_count
}

const create = route({
  method: 'POST',
  path: '/OS-TRUST/trusts',
  policy: 'identity:create_trust',
  policyTarget: call => ({ target: { trust: (call.body as { trust?: unknown } | undefined)?.trust ?? {} } }),
  success: 201,
  body: NewTrust,
  async handle(call) {
    appCredForbid(call)
    const sent = call.body.trust
    const rules = identityOf(call.env).settings.trust
    if (sent.project_id && !sent.roles?.length)
      throw forbidden('You are not authorized to perform the requested action: At least one role should be specified.')
    if (call.ctx.userId !== sent.trustor_user_id)
      throw forbidden('You are not authorized to perform the requested action: The authenticated user should match the trustor.')
    if (tokenOf(call).access_token_id !== undefined)
      throw forbidden('You are not authorized to perform the requested action: Redelegation allowed for delegated by trust only.')
    const trustee = await call.db
      .selectFrom('keystone.users')
      .select('id')
      .where('id', '=', sent.trustee_user_id)
      .executeTakeFirst()
    if (!trustee) throw missing('user', sent.trustee_user_id)
    const roles = await rolesFind(call.db, sent.roles ?? [])
    const parentId = trustOf(call)
    const chain = parentId === null ? [] : await trustChain(call.db, parentId)
    const parent = chain[0]
    const wanted = {
      role_ids: roles.map(role => role.id),
      expires_at: expiryOf(sent.expires_at) ?? parent?.expires_at ?? null,
      impersonation: sent.impersonation,
      remaining_uses: sent.remaining_uses ?? null,
    }
    for (const one of chain) redelegationCheck(one, wanted, rules.max_redelegation_count)
    await rolesHeld(call, chain.at(-1)?.trustor_user_id ?? sent.trustor_user_id, sent.project_id ?? undefined, wanted.role_ids)
    const row = await call.env.db.tx(tx =>
      tx
        .insertInto('keystone.trusts')
        .values({
          id: newId(),
          trustor_user_id: sent.trustor_user_id,
          trustee_user_id: sent.trustee_user_id,
          project_id: sent.project_id ?? null,
          ...wanted,
          deleted_at: null,
          redelegated_trust_id: parentId,
          redelegation_count: countOf(sent, parent, rules),
        })
        .returningAll()
        .executeTakeFirstOrThrow(),
    )
    return { trust: trustView(row, call, await roleViews(call.db, row.role_ids, call)) }
  },
})

/** The trustor must have what it gives. Throws notFound, which names the role. */
async function rolesHeld(call: Call, userId: string, projectId: string | undefined, roleIds: string[]): Promise<void> {
  if (projectId === undefined) return
  const project = await call.db.selectFrom('keystone.projects').select('id').where('id', '=', projectId).executeTakeFirst()
  if (!project) throw missing('project', projectId)
  const facts = await factsOf(call.db, { userId, projectId, roleIds })
  const held = new Set(facts.roles.map(role => role.id))
  const lacking = roleIds.find(id => !held.has(id))
  if (lacking !== undefined) throw missing('role', lacking)
}

const list = route({
  method: 'GET',
  path: '/OS-TRUST/trusts',
  policy: null,
  async handle(call) {
    const [trustor, trustee] = [call.search.get('trustor_user_id'), call.search.get('trustee_user_id')]
    if (trustor) call.ctx.must('identity:list_trusts_for_trustor', { target: { trust: { trustor_user_id: trustor } } })
    else if (trustee) call.ctx.must('identity:list_trusts_for_trustee', { target: { trust: { trustee_user_id: trustee } } })
    else call.ctx.must('identity:list_trusts', {})
    appCredForbid(call)
    let query = call.db.selectFrom('keystone.trusts').selectAll().where('deleted_at', 'is', null).orderBy('id')
    if (trustor) query = query.where('trustor_user_id', '=', trustor)
    if (trustee) query = query.where('trustee_user_id', '=', trustee)
    const rows = await query.execute()
    return listView(
      'trusts',
      rows.map(row => trustView(row, call)),
      { links: pageLinks(call), truncated: false },
    )
  },
})

const make = (
  method: Route['method'],
  path: string,
  rule: string,
  success: number,
  handle: (call: Call<unknown, unknown, Trust>) => unknown,
): Route =>
  route({
    method,
    path: `/OS-TRUST/trusts/:trust_id${path}`,
    policy: `identity:${rule}`,
    success,
    target: call => trustFetch(call.db, call.params.trust_id!),
    policyTarget: call => ({ ...call.params, target: { trust: call.target } }),
    handle(call) {
      appCredForbid(call)
      return handle(call)
    },
  })

export const trustRoutes = [
  create,
  list,
  make('GET', '', 'get_trust', 200, async call => ({
    trust: trustView(call.target, call, await roleViews(call.db, call.target.role_ids, call)),
  })),
  make('DELETE', '', 'delete_trust', 204, call => call.env.db.tx(tx => trustsDelete(tx, [call.target.id]))),
  make('GET', '/roles', 'list_roles_for_trust', 200, async call => {
    const roles = await roleViews(call.db, call.target.role_ids, call)
    return {
      roles: [...roles.values()],
      links: { self: selfUrl(call, `/OS-TRUST/trusts/${call.target.id}/roles`), next: null, previous: null },
    }
  }),
  make('GET', '/roles/:role_id', 'get_role_for_trust', 200, async call => {
    const { role_id } = call.params
    const roles = await roleViews(call.db, call.target.role_ids, call)
    const role = roles.get(role_id!)
    if (!role) throw missing('role', role_id!)
    return { role }
  }),
]
