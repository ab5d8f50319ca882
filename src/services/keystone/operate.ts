import { existsSync, readFileSync, statSync } from 'node:fs'
import { dirname } from 'node:path'
import { sql } from '#kit/db/index.ts'
import { notFound } from '#kit/fault.ts'
import type { Env } from '#kit/service.ts'
import { credentialsMigrate } from './credentials/seal.ts'
import { type Mapped, type Rule, rulesApply, rulesCheck } from './federation/rules.ts'
import { identityOf } from './identity.ts'
import type { Row } from './noun.ts'
import { keyRotate, keySetup } from './tokens/keys.ts'
import { revoke, stale } from './tokens/stale.ts'
import { passwordHash } from './users/passwords.ts'
import { passwordStore } from './users/users.ts'

// What an operator does beside the API, on the machine of a controller: keystone-manage's fernet_rotate, receipt_rotate,
// credential_rotate, bootstrap and mapping_engine.

export const KEYS = ['tokens', 'receipts', 'credentials'] as const
export type KeyKind = (typeof KEYS)[number]

/**
 * Rotates the keys of one kind; what is under them stays readable, and no process need be told. Credentials are sealed under the new
 * key, before and after, so that none is left under one that goes. Returns how many were. Files belong to whom the folder belongs to.
 */
export async function keysRotate(env: Env, kind: KeyKind): Promise<number> {
  const { settings, fernet, receipts, credentials } = identityOf(env)
  const [folder, most] = {
    tokens: [fernet.folder, settings.fernet_tokens.max_active_keys],
    receipts: [receipts.folder, settings.fernet_receipts.max_active_keys],
    // The staged, the primary and the one before: whoever has not looked yet still seals with that.
    credentials: [credentials.folder, 3],
  }[kind] as [string, number]
  asOwnerOf(folder, () => keySetup(folder))
  const sealed = kind === 'credentials' ? await credentialsMigrate(env) : 0
  asOwnerOf(folder, () => keyRotate(folder, most))
  return kind === 'credentials' ? sealed + (await credentialsMigrate(env)) : 0
}

/** Runs `work` as the user that owns a folder, or what it will lie in: files that root makes there could not be read by the controller. */
function asOwnerOf(folder: string, work: () => void): void {
  let there = folder
  while (!existsSync(there)) there = dirname(there)
  const { uid, gid } = statSync(there)
  if (process.geteuid?.() !== 0 || uid === 0) {
    work()
    return
  }
  process.setegid!(gid)
  process.seteuid!(uid)
  try {
    work()
  } finally {
    process.seteuid!(0)
    process.setegid!(0)
  }
}

/**
 * Gives a user of the default domain a new password, enables and unlocks the account and ends its sessions: the way back in for an
 * administrator who is locked out. Throws notFound when there is no such user with a password.
 */
export async function passwordReset(env: Env, name: string, password: string): Promise<void> {
  const { hashing, settings } = identityOf(env)
  const hash = await passwordHash(password, hashing)
  await env.db.tx(async tx => {
    const user = await tx
      .selectFrom('keystone.users')
      .selectAll()
      .where('domain_id', '=', settings.identity.default_domain_id)
      .where('name', '=', name)
      .where('kind', '=', 'local')
      .forUpdate()
      .executeTakeFirst()
    if (!user) throw notFound(`Could not find user: ${name}.`)
    await passwordStore(tx, { env }, user as unknown as Row, hash, true)
    await tx
      .updateTable('keystone.users')
      .set({ enabled: true, failed_auths: 0, failed_auth_at: null, last_active_on: sql<null>`null` })
      .where('id', '=', user.id)
      .execute()
    await revoke(tx, { user_id: user.id })
    await stale(tx, `user:${user.id}`)
  })
}

/** What the rules of a mapping (a file: `[...]` or `{"rules": [...]}`) make of an assertion (a file of JSON). Throws badRequest. */
export function mappingTry(rulesFile: string, assertionFile: string, version: string): Mapped {
  const read = (file: string): unknown => JSON.parse(readFileSync(file, 'utf8'))
  const given = read(rulesFile) as Rule[] | { rules: Rule[]; schema_version?: string }
  const [rules, schema] = Array.isArray(given) ? [given, version] : [given.rules, given.schema_version ?? version]
  rulesCheck(rules, schema)
  return rulesApply(rules, read(assertionFile) as Record<string, unknown>, schema)
}
