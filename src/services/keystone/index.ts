// What other services, and the roles that mount this one, may use of identity.

import type { Query } from '#kit/db/index.ts'
import { notFound } from '#kit/fault.ts'
import type { Env } from '#kit/service.ts'
import { type CatalogEntry, catalogFor as catalogOf, type Substitutes } from './catalog/catalog.ts'
import { identityOf } from './identity.ts'

export { audited } from './audit/notify.ts'
export { authenticate } from './authenticate.ts'
export { type Bootstrap, bootstrap, bootstrapPrepare, bootstrapped, type CatalogService } from './bootstrap.ts'
export { signerOf } from './credentials/signer.ts'
export { domainDeleted, groupDeleted, projectDeleted, projectDisabled, userDeleted } from './events.ts'
export { limitsOf } from './limits/limits.ts'
export { KEYS, type KeyKind, keysRotate, mappingTry, passwordReset } from './operate.ts'
export { keystone } from './service.ts'
export type { CatalogEntry }

/** The catalog as a scope sees it. */
export async function catalogFor(env: Env, scope: Substitutes): Promise<CatalogEntry[]> {
  return catalogOf(await identityOf(env).catalog(), scope)
}

/** A project (or domain) by id. Throws notFound. */
export async function projectFetch(db: Query, id: string) {
  const row = await db
    .selectFrom('keystone.projects')
    .select(['id', 'name', 'domain_id', 'parent_id', 'enabled', 'is_domain', 'description', 'tags'])
    .where('id', '=', id)
    .executeTakeFirst()
  if (!row) throw notFound(`Could not find project: ${id}.`)
  return row
}

/** A user by id. Throws notFound. */
export async function userFetch(db: Query, id: string) {
  const row = await db
    .selectFrom('keystone.users')
    .select(['id', 'name', 'domain_id', 'enabled', 'default_project_id', 'extra'])
    .where('id', '=', id)
    .executeTakeFirst()
  if (!row) throw notFound(`Could not find user: ${id}.`)
  return row
}

/** Locks a project's row: whoever counts something of it in order to decide (quota) takes this first. Throws notFound. */
export async function projectLock(tx: import('#kit/db/index.ts').Tx, id: string): Promise<void> {
  const row = await tx.selectFrom('keystone.projects').select('id').where('id', '=', id).forUpdate().executeTakeFirst()
  if (!row) throw notFound(`Could not find project: ${id}.`)
}
