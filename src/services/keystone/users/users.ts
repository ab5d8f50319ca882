import { sql, type Tx } from '#kit/db/index.ts'
import { badRequest, unauthorized } from '#kit/fault.ts'
import { type Call, route } from '#kit/http/route.ts'
import { Array, Null, Object, Record, String, Union, Unknown } from '#kit/http/schema.ts'
import { delegatedForbid } from '../auth/delegation.ts'
import { denied } from '../auth/locate.ts'
import { domainMustExist } from '../domains/store.ts'
import { identityOf } from '../identity.ts'
import { directoriesFresh, writableMust } from '../ldap/sync.ts'
import { missing, type Noun, type NounCall, nounFetch, nounRoutes, nounView, type Row, type Rows } from '../noun.ts'
import { domainOf } from '../projects/projects.ts'
import { Flag, Name, OptionalId, OptionFlag } from '../shapes.ts'
import { revoke, stale } from '../tokens/stale.ts'
import { isoBare } from '../wire.ts'
import { federatedCheck, federatedStore } from './federated.ts'
import { isEnabled, isLocked, lockedMeanwhile, loginFailed, passwordCut, passwordFetch } from './login.ts'
import { passwordHash, passwordVerify } from './passwords.ts'
import { usersLetGo } from './store.ts'

const MfaRules = Union([Array(Array(String(), { minItems: 1, uniqueItems: true }), { uniqueItems: true }), Null()])

/** Users. Passwords have a table of their own, for history; what an identity provider knows of a user another. */
export const users: Noun = {
  one: 'user',
  many: 'users',
  path: '/users',
  table: 'keystone.users',
  fields: {
    name: { schema: Name(), create: 'required' },
    domain_id: { schema: OptionalId() },
    enabled: { schema: Flag() },
    default_project_id: { schema: OptionalId() },
    password: { schema: Union([String(), Null()]), column: null, show: false },
    password_expires_at: { schema: Unknown(), create: 'never', update: false, column: null, show: false },
    federated: { schema: Array(Record(String(), Unknown())), column: null, show: false },
  },
  extra: true,
  options: {
    ignore_change_password_upon_first_use: OptionFlag(),
    ignore_password_expiry: OptionFlag(),
    ignore_lockout_failure_attempts: OptionFlag(),
    ignore_user_inactivity: OptionFlag(),
    lock_password: OptionFlag(),
    multi_factor_auth_enabled: OptionFlag(),
    multi_factor_auth_rules: MfaRules,
  },
  rules: { list: 'list_users', show: 'get_user', create: 'create_user', update: 'update_user', delete: 'delete_user' },
  domainColumn: 'domain_id',
  listTarget: call => ({ target: { domain_id: call.ctx.domainId ?? undefined } }),
  where,
  async prepare(call, values) {
    const { password } = values
    if (typeof password !== 'string') return {}
    passwordCheck(call, password)
    return { hash: await passwordHash(passwordCut(password, identityOf(call.env).settings), identityOf(call.env).hashing) }
  },
  beforeList: call => directoriesFresh(call.env, call.search.get('domain_id') ?? call.ctx.domainId ?? undefined),
  async beforeCreate(tx, call, values) {
    values.domain_id ??= domainOf(call)
    await writableMust(tx, values.domain_id as string, 'user create')
    await domainMustExist(tx, values.domain_id as string)
    await defaultProjectCheck(tx, values.default_project_id)
    hashes.set(call, values.hash as string | undefined)
    delete values.hash
    if (values.federated !== undefined) await federatedCheck(tx, values.federated as never)
  },
  async afterCreate(tx, call, row) {
    const hash = hashes.get(call)
    if (hash) await passwordStore(tx, call, row, hash, false)
    if (row.federated !== undefined) await federatedStore(tx, row.id, row.federated as never)
  },
  beforeUpdate,
  async afterUpdate(tx, _call, before, after) {
    if (before.enabled && !after.enabled) await revoke(tx, { user_id: after.id })
    await stale(tx, `user:${after.id}`)
  },
  async beforeDelete(tx, _call, row) {
    if (row.kind === 'nonlocal') await writableMust(tx, row.domain_id as string, 'user delete')
    await usersLetGo(tx, [row.id])
  },
  views,
}

/** The hash made before the transaction, on its way to the table of passwords. */
const hashes = new WeakMap<object, string | undefined>()

async function beforeUpdate(tx: Tx, call: NounCall, row: Row, changes: { [name: string]: unknown }): Promise<void> {
  if (changes.name !== undefined || changes.enabled !== undefined || changes.hash !== undefined)
    await writableMust(tx, row.domain_id as string, 'user update')
  if (changes.domain_id !== undefined && changes.domain_id !== row.domain_id) throw badRequest('Cannot change Domain ID')
  delete changes.domain_id
  await defaultProjectCheck(tx, changes.default_project_id)
  const { hash } = changes
  delete changes.hash
  if (typeof hash === 'string') {
    await passwordStore(tx, call, { ...row, ...changes } as Row, hash, false)
    await revoke(tx, { user_id: row.id })
  } else if (changes.password === null) {
    await tx.deleteFrom('keystone.passwords').where('user_id', '=', row.id).execute()
    await revoke(tx, { user_id: row.id })
  }
  if (changes.enabled === true) globalThis.Object.assign(changes, { failed_auths: 0, failed_auth_at: null })
  if (changes.federated !== undefined) {
    await federatedCheck(tx, changes.federated as never)
    await federatedStore(tx, row.id, changes.federated as never)
  }
}

async function defaultProjectCheck(tx: Tx, id: unknown): Promise<void> {
  if (typeof id !== 'string') return
  const project = await tx.selectFrom('keystone.projects').select('is_domain').where('id', '=', id).executeTakeFirst()
  if (project?.is_domain) throw badRequest(`A project acting as a domain cannot be set as a user's default project: ${id}.`)
}

/** Refuses a password that breaks the configured rule, or is too long. */
export function passwordCheck(call: Pick<Call, 'env'>, password: string): void {
  const { settings } = identityOf(call.env)
  const { password_regex: regex, password_regex_description: words } = settings.security_compliance
  if (settings.strict_password_check && Buffer.byteLength(password) > settings.identity.max_password_length) {
    throw badRequest(`The password length must be less than or equal to ${settings.identity.max_password_length}.`)
  }
  // Python's re.match holds at the start of the text only.
  if (regex !== undefined && !new RegExp(`^(?:${regex})`).test(password)) {
    throw badRequest(`The password does not match the requirements: ${words ?? regex}.`)
  }
}

/** Makes `hash` the user's password; keeps as many older ones as the history needs. */
export async function passwordStore(
  tx: Tx,
  call: Pick<Call, 'env'>,
  user: Row,
  hash: string,
  selfService: boolean,
): Promise<void> {
  const rules = identityOf(call.env).settings.security_compliance
  const options = (user.options ?? {}) as { [name: string]: unknown }
  const now = Date.now()
  let expires: Date | null = null
  if (rules.password_expires_days !== undefined && options.ignore_password_expiry !== true)
    expires = new Date(now + rules.password_expires_days * 86400_000)
  if (rules.change_password_upon_first_use && !selfService && options.ignore_change_password_upon_first_use !== true)
    expires = new Date(now)
  await tx
    .insertInto('keystone.passwords')
    .values({ user_id: user.id, hash, self_service: selfService, expires_at: expires })
    .execute()
  await sql`delete from keystone.passwords where user_id = ${user.id} and id not in
    (select id from keystone.passwords where user_id = ${user.id} order by id desc limit ${Math.max(1, rules.unique_last_password_count)})`.execute(
    tx,
  )
}

const AGES = { lt: '<', lte: '<=', gt: '>', gte: '>=', eq: '=', neq: '<>' } as const

function where(query: Rows, call: NounCall): Rows {
  let result = query
  const expiry = call.search.get('password_expires_at')
  if (expiry !== null) {
    const [, operator = 'eq', time = ''] = /^(?:(lt|lte|gt|gte|eq|neq):)?(.+)$/.exec(expiry) ?? []
    const at = new Date(time.endsWith('Z') ? time : `${time}Z`)
    if (Number.isNaN(at.getTime())) throw badRequest(`Invalid input for field 'password_expires_at': '${expiry}' is no time.`)
    result = result.where(
      sql<boolean>`(select expires_at from keystone.passwords p where p.user_id = keystone.users.id order by p.id desc limit 1) ${sql.raw(AGES[operator as keyof typeof AGES])} ${at}` as never,
    )
  }
  for (const name of ['idp_id', 'protocol_id', 'unique_id']) {
    const value = call.search.get(name)
    if (value !== null) {
      result = result.where(
        sql<boolean>`exists (select from keystone.federated f where f.user_id = keystone.users.id and f.${sql.ref(name)} = ${value})` as never,
      )
    }
  }
  return result
}

async function views(rows: Row[], call: Call): Promise<{ [name: string]: unknown }[]> {
  if (rows.length === 0) return []
  const ids = rows.map(row => row.id)
  const { rows: expiries } = await sql<{ user_id: string; expires_at: Date | null }>`
    select distinct on (user_id) user_id, expires_at from keystone.passwords where user_id = any(${ids}::text[]) order by user_id, id desc`.execute(
    call.db,
  )
  const expiryOf = new Map(expiries.map(row => [row.user_id, row.expires_at]))
  const federated = await call.db.selectFrom('keystone.federated').selectAll().where('user_id', 'in', ids).execute()
  const rules = identityOf(call.env).settings.security_compliance
  return rows.map(row => {
    const options = row.options as { [name: string]: unknown }
    const expires = options.ignore_password_expiry === true ? null : (expiryOf.get(row.id) ?? null)
    const view = nounView(users, row, call)
    const mine = federated.filter(f => f.user_id === row.id)
    const byIdp = Map.groupBy(mine, f => f.idp_id)
    return {
      ...view,
      enabled: isEnabled(row as never, rules),
      password_expires_at: expires && isoBare(expires),
      federated: [...byIdp].map(([idp_id, list]) => ({
        idp_id,
        protocols: list.map(f => ({ protocol_id: f.protocol_id, unique_id: f.unique_id })),
      })),
    }
  })
}

const changePassword = route({
  method: 'POST',
  path: '/users/:user_id/password',
  // Whoever knows the old password may: it may have expired, so that no token can be had.
  policy: null,
  auth: 'none',
  success: 204,
  body: Object({ user: Object({ original_password: String(), password: String() }) }),
  async handle(call) {
    const { original_password: old, password } = call.body.user
    const { settings, hashing } = identityOf(call.env)
    const rules = settings.security_compliance
    const user = await call.db.selectFrom('keystone.users').selectAll().where('id', '=', call.params.user_id!).executeTakeFirst()
    const locked = user !== undefined && isLocked(user, rules)
    const stored = user && !locked ? await passwordFetch(call.db, user.id) : undefined
    const right = await passwordVerify(passwordCut(old, settings), stored?.hash ?? null, hashing)
    if (!user || !stored) throw denied()
    if (!right) {
      await loginFailed(call.env, user.id)
      throw unauthorized('The request you have made requires authentication.')
    }
    if ((await lockedMeanwhile(call.db, user, rules)) || !isEnabled(user, rules)) throw denied()
    if (user.options.lock_password === true) {
      throw badRequest(
        'You cannot change your password at this time due to password policy disallowing password changes. Please contact your administrator.',
      )
    }
    passwordCheck(call, password)
    const youngest = stored.created_at.getTime() + rules.minimum_password_age * 86400_000
    if (stored.self_service && youngest > Date.now()) {
      const days = Math.ceil((youngest - Date.now()) / 86400_000)
      throw badRequest(
        `You cannot change your password at this time due to the minimum password age. Once you change your password, it must be used for ${rules.minimum_password_age} day(s) before it can be changed. Please try again in ${days} day(s) or contact your administrator to reset your password.`,
      )
    }
    const history = await call.db
      .selectFrom('keystone.passwords')
      .select('hash')
      .where('user_id', '=', user.id)
      .orderBy('id', 'desc')
      .limit(rules.unique_last_password_count)
      .execute()
    const fresh = passwordCut(password, settings)
    for (const { hash } of history) {
      if (await passwordVerify(fresh, hash, hashing)) {
        throw badRequest(
          `The new password cannot be identical to a previous password. The total number which includes the new password must be unique is ${rules.unique_last_password_count}.`,
        )
      }
    }
    const hash = await passwordHash(fresh, hashing)
    await call.env.db.tx(async tx => {
      await passwordStore(tx, call, user as unknown as Row, hash, true)
      await tx.updateTable('keystone.users').set({ failed_auths: 0, failed_auth_at: null }).where('id', '=', user.id).execute()
      await revoke(tx, { user_id: user.id })
    })
  },
})

/** Ends every session of a user, also of one whose password is kept elsewhere and cannot be changed here. */
const revokeTokens = route({
  method: 'DELETE',
  path: '/users/:user_id/tokens',
  policy: 'identity:revoke_user_tokens',
  policyTarget: call => ({ ...call.params, target: { user: { id: call.params.user_id } } }),
  success: 204,
  async handle(call) {
    delegatedForbid(call, 'Cannot revoke the tokens of a user with a token issued via delegation.')
    const user_id = call.params.user_id!
    if (!(await nounFetch(users, call, user_id))) throw missing('user', user_id)
    await call.env.db.tx(tx => revoke(tx, { user_id }))
  },
})

export const userRoutes = [...nounRoutes(users), changePassword, revokeTokens]
