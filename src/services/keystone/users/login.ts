import { type Query, type Selectable, sql } from '#kit/db/index.ts'
import { unauthorized } from '#kit/fault.ts'
import type { Env } from '#kit/service.ts'
import { denied, type NamedRef, userLocate } from '../auth/locate.ts'
import { identityOf, type KeystoneSettings } from '../identity.ts'
import { directoryLogin, directoryOf } from '../ldap/sync.ts'
import type { UsersTable } from '../tables.ts'
import { passwordVerify } from './passwords.ts'

type Compliance = KeystoneSettings['security_compliance']
type Account = Selectable<UsersTable>

/** Whether wrong passwords have locked the account, by now. */
export function isLocked(user: Pick<Account, 'options' | 'failed_auths' | 'failed_auth_at'>, rules: Compliance): boolean {
  const { lockout_failure_attempts: attempts, lockout_duration: duration } = rules
  if (attempts === 0 || user.options.ignore_lockout_failure_attempts === true) return false
  if (user.failed_auths < attempts || user.failed_auth_at === null) return false
  return user.failed_auth_at.getTime() + duration * 1000 > Date.now()
}

/**
 * Whether the account has been locked since `user` was read. Hashing takes a while: of many guesses sent at once, the right one must not
 * be let in by what was so before the wrong ones were counted.
 */
export async function lockedMeanwhile(db: Query, user: Pick<Account, 'id' | 'options'>, rules: Compliance): Promise<boolean> {
  if (rules.lockout_failure_attempts === 0) return false
  const counted = await db
    .selectFrom('keystone.users')
    .select(['failed_auths', 'failed_auth_at', 'options'])
    .where('id', '=', user.id)
    .executeTakeFirst()
  return counted !== undefined && isLocked(counted, rules)
}

/** Whether the account can be used: enabled, and not left unused for longer than allowed. */
export function isEnabled(user: Pick<Account, 'enabled' | 'options' | 'last_active_on'>, rules: Compliance): boolean {
  if (!user.enabled) return false
  const days = rules.disable_user_account_days_inactive
  if (days === undefined || user.last_active_on === null || user.options.ignore_user_inactivity === true) return true
  return Date.parse(user.last_active_on) + days * 86400_000 >= Date.now() - 86400_000
}

/** The newest password of a user. */
export const passwordFetch = (db: Query, userId: string) =>
  db.selectFrom('keystone.passwords').selectAll().where('user_id', '=', userId).orderBy('id', 'desc').limit(1).executeTakeFirst()

/**
 * Checks a password and returns the id of its user. Any failure is the same 401, after the same work; but a right password that
 * has expired says so, because its user must change it.
 */
export async function passwordLogin(env: Env, ref: NamedRef, password: string): Promise<string> {
  const { settings, hashing } = identityOf(env)
  const rules = settings.security_compliance
  const db = env.db.read
  const outside = await directoryAttempt(env, ref, password)
  if (outside !== undefined) return outside
  const user = await userLocate(db, ref)
  const stored = user && !isLocked(user, rules) ? await passwordFetch(db, user.id) : undefined
  const right = await passwordVerify(passwordCut(password, settings), stored?.hash ?? null, hashing)
  if (!user || !stored) throw denied()
  if (!right) {
    await loginFailed(env, user.id)
    throw denied()
  }
  if (await lockedMeanwhile(db, user, rules)) throw denied()
  if (!isEnabled(user, rules)) throw denied()
  if (stored.expires_at && stored.expires_at.getTime() <= Date.now() && user.options.ignore_password_expiry !== true) {
    throw unauthorized(`The password is expired and needs to be changed for user: ${user.id}.`)
  }
  await loginSucceeded(env, user)
  return user.id
}

/** The user's id when the directory of its domain takes the password; undefined when its domain has no directory. */
async function directoryAttempt(env: Env, ref: NamedRef, password: string): Promise<string | undefined> {
  const db = env.db.read
  const driven = await db
    .selectFrom('keystone.domain_config')
    .select('domain_id')
    .where('group', '=', 'identity')
    .where('option', '=', 'driver')
    .execute()
  if (driven.length === 0) return undefined
  const shadow = await userLocate(db, ref)
  const domainId = shadow?.domain_id ?? (ref.domain && (await domainFind(db, ref.domain)))
  const from = domainId === undefined ? null : await directoryOf(env, domainId)
  if (!from || domainId === undefined) return undefined
  const rules = identityOf(env).settings.security_compliance
  if (shadow && isLocked(shadow, rules)) throw denied()
  const mapped =
    shadow &&
    (await db.selectFrom('keystone.id_mappings').select('local_id').where('public_id', '=', shadow.id).executeTakeFirst())
  const by = mapped ? { localId: mapped.local_id } : ref.name !== undefined ? { name: ref.name } : null
  const id = by && (await directoryLogin(env, domainId, from, by, password))
  if (!id) {
    if (shadow) await loginFailed(env, shadow.id)
    throw denied()
  }
  const user = await db.selectFrom('keystone.users').selectAll().where('id', '=', id).executeTakeFirst()
  if (!user || isLocked(user, rules) || !isEnabled(user, rules)) throw denied()
  await loginSucceeded(env, user)
  return id
}

async function domainFind(db: Query, ref: { id?: string; name?: string }): Promise<string | undefined> {
  let query = db.selectFrom('keystone.projects').select('id').where('is_domain', '=', true).where('enabled', '=', true)
  query = ref.id !== undefined ? query.where('id', '=', ref.id) : query.where('name', '=', ref.name ?? '')
  return (await query.executeTakeFirst())?.id
}

/** Cuts a password to the bytes that count, as its hash was made of. */
export function passwordCut(password: string, settings: KeystoneSettings): string {
  const bytes = Buffer.from(password)
  const max = settings.identity.max_password_length
  return bytes.length <= max ? password : bytes.subarray(0, max).toString('utf8')
}

/** Counts a wrong password or passcode. */
export async function loginFailed(env: Env, userId: string): Promise<void> {
  const { lockout_failure_attempts: attempts, lockout_duration: duration } = identityOf(env).settings.security_compliance
  if (attempts === 0) return
  // A lockout that has ended starts the count again.
  await env.db.tx(tx =>
    tx
      .updateTable('keystone.users')
      .set({
        failed_auths: sql<number>`case when failed_auths >= ${attempts} and failed_auth_at < now() - ${duration} * interval '1 second' then 1 else failed_auths + 1 end`,
        failed_auth_at: sql<Date>`now()`,
      })
      .where('id', '=', userId)
      .execute(),
  )
}

async function loginSucceeded(
  env: Env,
  user: { id: string; failed_auths: number; last_active_on: string | null },
): Promise<void> {
  const today = new Date().toISOString().slice(0, 10)
  const track = identityOf(env).settings.security_compliance.disable_user_account_days_inactive !== undefined
  const active = track && user.last_active_on !== today
  if (user.failed_auths === 0 && !active) return
  await env.db.tx(tx =>
    tx
      .updateTable('keystone.users')
      .set({ failed_auths: 0, failed_auth_at: null, ...(active && { last_active_on: today }) })
      .where('id', '=', user.id)
      .execute(),
  )
}
