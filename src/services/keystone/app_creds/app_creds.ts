import { randomBytes } from 'node:crypto'
import { isDuplicate, type Query, type Selectable, sql, type Tx } from '#kit/db/index.ts'
import { badRequest, conflict, forbidden } from '#kit/fault.ts'
import { type Call, route } from '#kit/http/route.ts'
import { Array, Boolean, Nullable, Object, OneOf, Optional, String } from '#kit/http/schema.ts'
import { secretFast } from '../auth/authenticate.ts'
import { delegationForbid, tokenOf } from '../auth/delegation.ts'
import { identityOf } from '../identity.ts'
import { filtered, listView, missing, newId, pageOf, type Row, type Rows, selfUrl } from '../noun.ts'
import { rolesFind, roleViews } from '../roles/find.ts'
import { Name, Text } from '../shapes.ts'
import type { AppCredsTable } from '../tables.ts'
import { factsOf } from '../tokens/facts.ts'
import { stale } from '../tokens/stale.ts'
import { passwordHash } from '../users/passwords.ts'
import { isoBare } from '../wire.ts'

// An application credential lets a program act for a user on one project, with a secret of its own and no more than some of the
// user's roles, if wanted only for certain requests (access rules). Access rules belong to the user and can be shared.

const Rule = Object({
  id: Optional(String()),
  service: Optional(String({ maxLength: 64 })),
  path: Optional(String({ maxLength: 225, pattern: '^/' })),
  method: Optional(OneOf('DELETE', 'GET', 'HEAD', 'PATCH', 'POST', 'PUT')),
})

const NewAppCred = Object({
  application_credential: Object(
    {
      name: Name(),
      description: Optional(Text()),
      secret: Optional(Nullable(String({ minLength: 1 }))),
      expires_at: Optional(Nullable(String())),
      roles: Optional(Array(Object({ id: Optional(String()), name: Optional(String()) }))),
      unrestricted: Optional(Nullable(Boolean())),
      access_rules: Optional(Nullable(Array(Rule))),
    },
    { additionalProperties: true },
  ),
})

type AppCred = Selectable<AppCredsTable>
const FIELDS = { name: { schema: String() } }
const NOUN = { table: 'keystone.app_creds', fields: FIELDS }

/** A role inside an application credential has no links. */
function bare(role: Record<string, unknown> | undefined): Record<string, unknown>[] {
  if (!role) return []
  const { links: _links, ...rest } = role
  return [rest]
}

async function views(db: Query, rows: AppCred[], call: Call): Promise<Record<string, unknown>[]> {
  if (rows.length === 0) return []
  const roles = await roleViews(
    db,
    rows.flatMap(row => row.role_ids),
    call,
  )
  const rules = await db
    .selectFrom('keystone.app_cred_rules as l')
    .innerJoin('keystone.access_rules as r', 'r.id', 'l.access_rule_id')
    .selectAll('r')
    .select('l.app_cred_id')
    .where(
      'l.app_cred_id',
      'in',
      rows.map(row => row.id),
    )
    .execute()
  return rows.map(row => {
    const mine = rules.filter(rule => rule.app_cred_id === row.id)
    return {
      id: row.id,
      name: row.name,
      description: row.description,
      user_id: row.user_id,
      project_id: row.project_id,
      system: null,
      expires_at: row.expires_at && isoBare(row.expires_at),
      unrestricted: row.unrestricted,
      roles: row.role_ids.flatMap(id => bare(roles.get(id))),
      ...(mine.length > 0 && { access_rules: mine.map(({ id, service, path, method }) => ({ id, service, path, method })) }),
      links: { self: selfUrl(call, `/users/${row.user_id}/application_credentials/${row.id}`) },
    }
  })
}

/** An application credential may make others only if it is unrestricted. */
function restrictedForbid(call: Pick<Call, 'ctx'>): void {
  if (tokenOf(call).restricted === true) {
    throw forbidden(
      "You are not authorized to perform the requested action: Using method 'application_credential' is not allowed for managing additional application credentials.",
    )
  }
}

function expiryOf(text: string | null | undefined): Date | null {
  if (text === null || text === undefined) return null
  const at = new Date(/[zZ]|[+-]\d\d:?\d\d$/.test(text) ? text : `${text}Z`)
  if (Number.isNaN(at.getTime())) throw badRequest(`Invalid application credential: expires_at ${text} is no time.`)
  if (at.getTime() <= Date.now()) throw badRequest('Invalid application credential: expires_at must be in the future.')
  return at
}

type WantedRule = { id?: string; service?: string; path?: string; method?: string }

/** The user's rules with these contents or ids; new contents make new rules. */
async function rulesMake(tx: Tx, userId: string, wanted: WantedRule[]): Promise<string[]> {
  const ids: string[] = []
  for (const { id, service, path, method } of wanted) {
    if (id !== undefined) {
      const found = await tx
        .selectFrom('keystone.access_rules')
        .select('id')
        .where('id', '=', id)
        .where('user_id', '=', userId)
        .executeTakeFirst()
      if (!found) throw badRequest(`Invalid application credential: Could not find access rule: ${id}.`)
      ids.push(id)
      continue
    }
    if (service === undefined || path === undefined || method === undefined)
      throw badRequest('Invalid application credential: an access rule needs a service, a path and a method.')
    const row = await tx
      .insertInto('keystone.access_rules')
      .values({ id: newId(), user_id: userId, service, path, method })
      .onConflict(on => on.columns(['user_id', 'service', 'path', 'method']).doUpdateSet({ service }))
      .returning('id')
      .executeTakeFirstOrThrow()
    ids.push(row.id)
  }
  return ids
}

const create = route({
  method: 'POST',
  path: '/users/:user_id/application_credentials',
  policy: 'identity:create_application_credential',
  policyTarget: call => ({ ...call.params }),
  success: 201,
  body: NewAppCred,
  async handle(call) {
    delegationForbid(call, 'Cannot manage application credentials with a token issued via delegation.')
    restrictedForbid(call)
    const { application_credential: sent } = call.body
    const { ctx, env } = call
    if (ctx.projectId === null)
      throw forbidden('You are not authorized to perform the requested action: application credentials belong to a project.')
    const roleIds =
      sent.roles === undefined
        ? (
            await rolesFind(
              call.db,
              ctx.roles.map(name => ({ name })),
            )
          ).map(role => role.id)
        : (await rolesFind(call.db, sent.roles)).map(role => role.id)
    const facts = await factsOf(call.db, {
      userId: ctx.userId,
      projectId: ctx.projectId,
      roleIds: roleIds,
      groupIds: tokenOf(call).group_ids,
    })
    if (facts.lacking)
      throw badRequest(
        'Invalid application credential: Could not find role assignment of the user on the project for one of the roles.',
      )
    if (tokenOf(call).app_cred_id !== undefined && !facts.roles.every(role => ctx.roles.includes(role.name)))
      throw forbidden('You are not authorized to perform the requested action: a role is not held by this token.')
    await limitCheck(call.db, ctx.userId, identityOf(env).settings.application_credential.user_limit)
    const secret = sent.secret ?? randomBytes(64).toString('base64url')
    const secretHash = sent.secret ? await passwordHash(secret, identityOf(env).hashing) : secretFast(secret)
    const expires = expiryOf(sent.expires_at)
    try {
      const row = await env.db.tx(async tx => {
        const made = await tx
          .insertInto('keystone.app_creds')
          .values({
            id: newId(),
            name: sent.name,
            description: sent.description ?? null,
            user_id: ctx.userId,
            project_id: ctx.projectId!,
            secret_hash: secretHash,
            expires_at: expires,
            unrestricted: sent.unrestricted ?? false,
            role_ids: roleIds,
          })
          .returningAll()
          .executeTakeFirstOrThrow()
        const rules = await rulesMake(tx, ctx.userId, sent.access_rules ?? [])
        if (rules.length > 0)
          await tx
            .insertInto('keystone.app_cred_rules')
            .values(rules.map(id => ({ app_cred_id: made.id, access_rule_id: id })))
            .execute()
        return made
      })
      const [view] = await views(call.db, [row], call)
      return { application_credential: { ...view, secret } }
    } catch (error) {
      if (isDuplicate(error, 'app_creds_user_id_name_key'))
        throw conflict(
          `Conflict occurred attempting to store application_credential - Duplicate entry found with name ${sent.name}.`,
        )
      throw error
    }
  },
})

async function limitCheck(db: Query, userId: string, limit: number): Promise<void> {
  if (limit < 0) return
  const { rows } = await sql<{ n: number }>`select count(*) as n from keystone.app_creds where user_id = ${userId}`.execute(db)
  if (rows[0]!.n >= limit)
    throw forbidden(`Unable to create additional application credentials, maximum of ${limit} already exceeded for user.`)
}

const list = route({
  method: 'GET',
  path: '/users/:user_id/application_credentials',
  policy: 'identity:list_application_credentials',
  policyTarget: call => ({ ...call.params }),
  async handle(call) {
    delegationForbid(call, 'Cannot manage application credentials with a token issued via delegation.')
    const all = call.db
      .selectFrom('keystone.app_creds')
      .selectAll('keystone.app_creds')
      .where('user_id', '=', call.params.user_id!) as unknown as Rows
    const found = await pageOf(filtered(all, call.search, NOUN), call, NOUN)
    return listView('application_credentials', await views(call.db, found.rows as unknown as AppCred[], call), found)
  },
})

const one = {
  path: '/users/:user_id/application_credentials/:application_credential_id',
  target: async (call: Call): Promise<AppCred | null> =>
    (await call.db
      .selectFrom('keystone.app_creds')
      .selectAll()
      .where('id', '=', call.params.application_credential_id!)
      .executeTakeFirst()) ?? null,
  // The owner counts, whoever the path names.
  policyTarget: (call: Call<unknown, unknown, AppCred | null>) => ({
    ...call.params,
    user_id: call.target?.user_id ?? call.params.user_id,
  }),
}

const present = (call: Call<unknown, unknown, AppCred | null>): AppCred => {
  if (!call.target) throw missing('Application Credential', call.params.application_credential_id!)
  return call.target
}

const show = route({
  ...one,
  method: 'GET',
  policy: 'identity:get_application_credential',
  async handle(call) {
    delegationForbid(call, 'Cannot manage application credentials with a token issued via delegation.')
    const [view] = await views(call.db, [present(call)], call)
    return { application_credential: view }
  },
})

const remove = route({
  ...one,
  method: 'DELETE',
  policy: 'identity:delete_application_credential',
  success: 204,
  async handle(call) {
    delegationForbid(call, 'Cannot manage application credentials with a token issued via delegation.')
    restrictedForbid(call)
    const { id } = present(call)
    await call.env.db.tx(async tx => {
      await tx.deleteFrom('keystone.app_creds').where('id', '=', id).execute()
      await stale(tx, `app_cred:${id}`)
    })
  },
})

const RULE_FIELDS = {
  service: { schema: String() },
  path: { schema: String() },
  method: { schema: String() },
}
const ruleView = (row: Row, call: Call) => ({
  id: row.id,
  service: row.service,
  path: row.path,
  method: row.method,
  links: { self: selfUrl(call, `/users/${row.user_id}/access_rules/${row.id}`) },
})
const ruleTarget = (call: Pick<Call, 'params'>) => ({ ...call.params, target: { user: { id: call.params.user_id } } })

const ruleOne = {
  path: '/users/:user_id/access_rules/:access_rule_id',
  policyTarget: ruleTarget,
}

async function ruleFetch(call: Call): Promise<Row> {
  const { user_id, access_rule_id } = call.params
  const row = await call.db
    .selectFrom('keystone.access_rules')
    .selectAll()
    .where('id', '=', access_rule_id!)
    .where('user_id', '=', user_id!)
    .executeTakeFirst()
  if (!row) throw missing('access rule', access_rule_id!)
  return row as unknown as Row
}

const accessRuleRoutes = [
  route({
    method: 'GET',
    path: '/users/:user_id/access_rules',
    policy: 'identity:list_access_rules',
    policyTarget: ruleTarget,
    async handle(call) {
      const all = call.db
        .selectFrom('keystone.access_rules')
        .selectAll('keystone.access_rules')
        .where('user_id', '=', call.params.user_id!) as unknown as Rows
      const noun = { table: 'keystone.access_rules', fields: RULE_FIELDS }
      const found = await pageOf(filtered(all, call.search, noun), call, noun)
      return listView(
        'access_rules',
        found.rows.map(row => ruleView(row, call)),
        found,
      )
    },
  }),
  route({
    ...ruleOne,
    method: 'GET',
    policy: 'identity:get_access_rule',
    handle: async call => ({ access_rule: ruleView(await ruleFetch(call), call) }),
  }),
  route({
    ...ruleOne,
    method: 'DELETE',
    policy: 'identity:delete_access_rule',
    success: 204,
    async handle(call) {
      const { id } = await ruleFetch(call)
      const used = await call.db
        .selectFrom('keystone.app_cred_rules')
        .select('app_cred_id')
        .where('access_rule_id', '=', id)
        .executeTakeFirst()
      if (used) throw forbidden('You are not authorized to perform the requested action: May not delete access rule in use.')
      await call.env.db.tx(tx => tx.deleteFrom('keystone.access_rules').where('id', '=', id).execute())
    },
  }),
]

export const appCredRoutes = [create, list, show, remove, ...accessRuleRoutes]
