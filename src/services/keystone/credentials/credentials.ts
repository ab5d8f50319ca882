import { createHash, randomBytes } from 'node:crypto'
import { isDuplicate, type Query, type Selectable, sql } from '#kit/db/index.ts'
import { badRequest, conflict, forbidden } from '#kit/fault.ts'
import { type Call, route } from '#kit/http/route.ts'
import { Nullable, Object, Optional, Record, String, Union, Unknown } from '#kit/http/schema.ts'
import { isDelegated, tokenOf, trustOf } from '../auth/delegation.ts'
import { identityOf } from '../identity.ts'
import { filtered, listView, missing, newId, nounFetch, pageOf, type Rows, selfUrl } from '../noun.ts'
import type { CredentialsTable } from '../tables.ts'
import { users } from '../users/users.ts'
import { credentialOpen, credentialSeal } from './seal.ts'

// Secrets that users leave with us: EC2 keys, TOTP seeds, certificates, anything. The blob is encrypted at rest. An EC2
// credential is found by its access key, whose SHA-256 is its id.

type Credential = Selectable<CredentialsTable>

const FIELDS = { user_id: { schema: String() }, type: { schema: String() } }
const NOUN = { table: 'keystone.credentials', fields: FIELDS }

const Blob = Union([String(), Record(String(), Unknown())])

/** The id of an EC2 credential. */
export const accessHash = (access: string): string => createHash('sha256').update(access).digest('hex')

function credentialView(row: Credential, call: Call): { [name: string]: unknown } {
  return {
    id: row.id,
    user_id: row.user_id,
    project_id: row.project_id,
    type: row.type,
    blob: credentialOpen(call.env, row.sealed),
    ...row.extra,
    links: { self: selfUrl(call, `/credentials/${row.id}`) },
  }
}

/** A delegated token reaches only the credentials of the project it is for. */
function projectCheck(call: Pick<Call, 'ctx'>, row: { project_id?: string | null }): boolean {
  const delegated = isDelegated(call) || tokenOf(call).app_cred_id !== undefined
  return !delegated || row.project_id === call.ctx.projectId
}

function projectMust(call: Pick<Call, 'ctx'>, row: { project_id?: string | null }): void {
  if (!projectCheck(call, row)) {
    throw forbidden(
      'You are not authorized to perform the requested action: Credential project does not match the project scope of the delegated token.',
    )
  }
}

function restrictedForbid(call: Pick<Call, 'ctx'>): void {
  if (tokenOf(call).restricted === true) {
    throw forbidden(
      "You are not authorized to perform the requested action: Using method 'application_credential' is not allowed for managing additional application credentials.",
    )
  }
}

const isEc2 = (type: unknown): boolean => typeof type === 'string' && type.toLowerCase() === 'ec2'

/** The blob of an EC2 credential as an object with an access key. */
function ec2Blob(blob: unknown): { [name: string]: unknown } {
  let value = blob
  if (typeof blob === 'string') {
    try {
      value = JSON.parse(blob)
    } catch {
      throw badRequest('Invalid blob in credential')
    }
  }
  if (typeof value !== 'object' || value === null || Array.isArray(value)) throw badRequest('Invalid blob in credential')
  const object = value as { [name: string]: unknown }
  if (typeof object.access !== 'string') throw badRequest('Expecting to find access in credential.')
  return object
}

/** How a credential made under a delegation stays bound to it. */
function bindings(call: Pick<Call, 'ctx'>): { [name: string]: unknown } {
  const { app_cred_id, access_token_id } = tokenOf(call)
  const trust_id = trustOf(call)
  return {
    ...(trust_id !== null && { trust_id }),
    ...(app_cred_id !== undefined && { app_cred_id }),
    ...(access_token_id !== undefined && { access_token_id }),
  }
}

async function limitCheck(call: Call, userId: string): Promise<void> {
  const limit = identityOf(call.env).settings.credential.user_limit
  if (limit < 0) return
  const { rows } = await sql<{ n: number }>`select count(*) as n from keystone.credentials where user_id = ${userId}`.execute(
    call.db,
  )
  if (rows[0]!.n >= limit)
    throw forbidden(`Unable to create additional credentials, maximum of ${limit} already exceeded for user.`)
}

async function insert(
  call: Call,
  values: {
    id: string
    user_id: string
    project_id: string | null
    type: string
    blob: string
    extra?: { [name: string]: unknown }
  },
): Promise<Credential> {
  const { blob, extra, ...row } = values
  await limitCheck(call, row.user_id)
  try {
    return await call.env.db.tx(tx =>
      tx
        .insertInto('keystone.credentials')
        .values({ ...row, ...credentialSeal(call.env, blob), ...(extra && { extra }) })
        .returningAll()
        .executeTakeFirstOrThrow(),
    )
  } catch (error) {
    if (isDuplicate(error))
      throw conflict('Conflict occurred attempting to store credential - Duplicate entry found with that access key.')
    throw error
  }
}

const create = route({
  method: 'POST',
  path: '/credentials',
  policy: 'identity:create_credential',
  policyTarget: call => ({
    target: { credential: ownedBy(call, (call.body as { credential?: { [name: string]: unknown } } | undefined)?.credential) },
  }),
  success: 201,
  body: Object({
    credential: Object(
      {
        type: String({ minLength: 1, maxLength: 255 }),
        blob: Blob,
        user_id: Optional(Nullable(String({ maxLength: 64 }))),
        project_id: Optional(Nullable(String({ maxLength: 64 }))),
      },
      { additionalProperties: true },
    ),
  }),
  async handle(call) {
    const { type, blob, user_id, project_id, ...extra } = call.body.credential as { [name: string]: unknown } & {
      type: string
      blob: string | object
      user_id?: string | null
      project_id?: string | null
    }
    const ec2 = isEc2(type)
    if (ec2) restrictedForbid(call)
    projectMust(call, { project_id: project_id ?? null })
    if (ec2 && !project_id) throw badRequest('Expecting to find project_id in credential.')
    const text = ec2
      ? JSON.stringify({ ...ec2Blob(blob), ...bindings(call) })
      : typeof blob === 'string'
        ? blob
        : JSON.stringify(blob)
    const id = ec2 ? accessHash(ec2Blob(blob).access as string) : newId()
    delete extra.id
    const row = await insert(call, {
      id,
      type,
      user_id: user_id ?? call.ctx.userId,
      project_id: project_id ?? null,
      blob: text,
      extra,
    })
    return { credential: credentialView(row, call) }
  },
})

/** What is sent, owned by the caller when it names nobody. */
const ownedBy = (call: Pick<Call, 'ctx'>, sent: { [name: string]: unknown } | undefined) => ({
  ...sent,
  user_id: sent?.user_id ?? call.ctx.userId,
})

const list = route({
  method: 'GET',
  path: '/credentials',
  policy: 'identity:list_credentials',
  policyTarget: call => ({ target: call.ctx.systemScope ? {} : { credential: { user_id: call.ctx.userId } } }),
  async handle(call) {
    let all = call.db.selectFrom('keystone.credentials').selectAll('keystone.credentials') as unknown as Rows
    // Whoever may not see somebody else's sees only the own ones: asked once, not for each.
    if (!call.ctx.can('identity:get_credential', { target: { credential: { user_id: '' } } }))
      all = all.where('keystone.credentials.user_id', '=', call.ctx.userId)
    if (isDelegated(call) || tokenOf(call).app_cred_id !== undefined)
      all = all.where('keystone.credentials.project_id', '=', call.ctx.projectId)
    const found = await pageOf(filtered(all, call.search, NOUN), call, NOUN)
    return listView(
      'credentials',
      found.rows.map(row => credentialView(row as unknown as Credential, call)),
      found,
    )
  },
})

const one = {
  path: '/credentials/:credential_id',
  target: async (call: Call): Promise<Credential | null> =>
    (await call.db
      .selectFrom('keystone.credentials')
      .selectAll()
      .where('id', '=', call.params.credential_id!)
      .executeTakeFirst()) ?? null,
  policyTarget: (call: Call<unknown, unknown, Credential | null>) => ({
    ...call.params,
    target: { credential: call.target ?? {} },
  }),
}

function present(call: Call<unknown, unknown, Credential | null>): Credential {
  if (!call.target) throw missing('credential', call.params.credential_id!)
  projectMust(call, call.target)
  return call.target
}

const show = route({
  ...one,
  method: 'GET',
  policy: 'identity:get_credential',
  handle: call => ({ credential: credentialView(present(call), call) }),
})

const FIXED = ['trust_id', 'app_cred_id', 'access_token_id', 'access_id']

const update = route({
  ...one,
  method: 'PATCH',
  policy: 'identity:update_credential',
  body: Object({
    credential: Object(
      {
        type: Optional(String({ minLength: 1, maxLength: 255 })),
        blob: Optional(Blob),
        user_id: Optional(String({ maxLength: 64 })),
        project_id: Optional(Nullable(String({ maxLength: 64 }))),
      },
      { additionalProperties: true },
    ),
  }),
  async handle(call) {
    const row = present(call)
    const {
      type,
      blob,
      user_id,
      project_id,
      id,
      links: _links,
      ...extra
    } = call.body.credential as { [name: string]: unknown } & {
      type?: string
      blob?: string | object
      user_id?: string
      project_id?: string | null
    }
    if (id !== undefined && id !== row.id) throw badRequest('Cannot change credential ID')
    if (isEc2(row.type) && blob !== undefined) {
      const [before, after] = [ec2Blob(credentialOpen(call.env, row.sealed)), ec2Blob(blob)]
      for (const name of FIXED) if (before[name] !== after[name]) throw badRequest(`${name} can not be updated for credential`)
    }
    // Who may change it must also be allowed to have changed it into this.
    call.ctx.must('identity:update_credential', {
      ...call.params,
      target: { credential: { ...row, ...(user_id !== undefined && { user_id }) } },
    })
    const changed = await call.env.db.tx(tx =>
      tx
        .updateTable('keystone.credentials')
        .set({
          ...(type !== undefined && { type }),
          ...(user_id !== undefined && { user_id }),
          ...(project_id !== undefined && { project_id }),
          ...(blob !== undefined && credentialSeal(call.env, typeof blob === 'string' ? blob : JSON.stringify(blob))),
          extra: { ...row.extra, ...extra },
        })
        .where('id', '=', row.id)
        .returningAll()
        .executeTakeFirst(),
    )
    if (!changed) throw missing('credential', row.id)
    return { credential: credentialView(changed, call) }
  },
})

const remove = route({
  ...one,
  method: 'DELETE',
  policy: 'identity:delete_credential',
  success: 204,
  async handle(call) {
    const { id } = present(call)
    await call.env.db.tx(tx => tx.deleteFrom('keystone.credentials').where('id', '=', id).execute())
  },
})

// EC2 credentials of a user, under their older name and shape.

const EC2 = '/users/:user_id/credentials/OS-EC2'

function ec2View(row: Credential, call: Call) {
  const blob = ec2Blob(credentialOpen(call.env, row.sealed))
  const access = blob.access as string
  return {
    user_id: row.user_id,
    tenant_id: row.project_id,
    access,
    secret: blob.secret,
    trust_id: blob.trust_id ?? null,
    links: { self: selfUrl(call, `/users/${row.user_id}/credentials/OS-EC2/${access}`) },
  }
}

const ec2One = {
  path: `${EC2}/:credential_id`,
  // What is not there is missing to everyone, as it says nothing of anybody.
  async target(call: Call): Promise<Credential> {
    const id = accessHash(call.params.credential_id!)
    const row = await call.db
      .selectFrom('keystone.credentials')
      .selectAll()
      .where('id', '=', id)
      .where('type', '=', 'ec2')
      .executeTakeFirst()
    if (!row) throw missing('credential', call.params.credential_id!)
    return row
  },
  policyTarget: (call: Call<unknown, unknown, Credential>) => ({ ...call.params, target: { credential: call.target } }),
}

function ec2Present(call: Call<unknown, unknown, Credential>): Credential {
  const row = call.target
  if (row.user_id !== call.params.user_id) throw missing('credential', call.params.credential_id!)
  projectMust(call, row)
  return row
}

async function userMust(call: Call): Promise<void> {
  if (!(await nounFetch(users, call, call.params.user_id!))) throw missing('user', call.params.user_id!)
}

const ec2Routes = [
  route({
    method: 'POST',
    path: EC2,
    policy: 'identity:ec2_create_credential',
    policyTarget: call => ({ ...call.params, target: { credential: { user_id: call.params.user_id } } }),
    success: 201,
    body: Object({ tenant_id: String({ minLength: 1 }) }, { additionalProperties: true }),
    async handle(call) {
      restrictedForbid(call)
      await userMust(call)
      const { tenant_id } = call.body
      const project = await call.db.selectFrom('keystone.projects').select('id').where('id', '=', tenant_id).executeTakeFirst()
      if (!project) throw missing('project', tenant_id)
      projectMust(call, { project_id: tenant_id })
      const [access, secret] = [randomBytes(16).toString('hex'), randomBytes(16).toString('hex')]
      const blob = JSON.stringify({ access, secret, trust_id: null, ...bindings(call) })
      const row = await insert(call, {
        id: accessHash(access),
        type: 'ec2',
        user_id: call.params.user_id!,
        project_id: tenant_id,
        blob,
      })
      return { credential: ec2View(row, call) }
    },
  }),
  route({
    method: 'GET',
    path: EC2,
    policy: 'identity:ec2_list_credentials',
    policyTarget: call => ({ ...call.params, target: { credential: { user_id: call.params.user_id } } }),
    async handle(call) {
      await userMust(call)
      const rows = await call.db
        .selectFrom('keystone.credentials')
        .selectAll()
        .where('user_id', '=', call.params.user_id!)
        .where('type', '=', 'ec2')
        .orderBy('id')
        .execute()
      const mine = rows.filter(row => projectCheck(call, row))
      return {
        credentials: mine.map(row => ec2View(row, call)),
        links: { next: null, self: selfUrl(call, `/users/${call.params.user_id}/credentials/OS-EC2`), previous: null },
      }
    },
  }),
  route({
    ...ec2One,
    method: 'GET',
    policy: 'identity:ec2_get_credential',
    handle: call => ({ credential: ec2View(ec2Present(call), call) }),
  }),
  route({
    ...ec2One,
    method: 'DELETE',
    policy: 'identity:ec2_delete_credential',
    success: 204,
    async handle(call) {
      restrictedForbid(call)
      const { id } = ec2Present(call)
      await call.env.db.tx(tx => tx.deleteFrom('keystone.credentials').where('id', '=', id).execute())
    },
  }),
]

export const credentialRoutes = [create, list, show, update, remove, ...ec2Routes]

/** An EC2 credential by its access key, with its secret; null when there is none. */
export async function ec2Find(db: Query, env: Call['env'], access: string) {
  const row = await db
    .selectFrom('keystone.credentials')
    .selectAll()
    .where('id', '=', accessHash(access))
    .where('type', '=', 'ec2')
    .executeTakeFirst()
  if (!row) return null
  return { userId: row.user_id, projectId: row.project_id, blob: ec2Blob(credentialOpen(env, row.sealed)) }
}
