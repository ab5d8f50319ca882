import type { Query, Tx } from '#kit/db/index.ts'
import type { Env } from '#kit/service.ts'
import { grantCreate } from './assignments/grants.ts'
import { stableId } from './catalog/catalog.ts'
import { identityOf } from './identity.ts'
import { newId } from './noun.ts'
import { implicationCreate } from './roles/implied.ts'
import { stale } from './tokens/stale.ts'
import { passwordHash } from './users/passwords.ts'

/** A service as the catalog shall list it. `path` follows the public URL and may hold `$(project_id)s`. */
export interface CatalogService {
  name: string
  type: string
  description?: string
  path: string
}

/** What a new cloud starts with. */
export interface Bootstrap {
  adminPassword: string
  demoPassword?: string
  publicUrl: string
  region?: string
  services: CatalogService[]
}

/** Passwords are hashed before the transaction, because that takes long. */
export interface Prepared extends Bootstrap {
  adminHash: string
  demoHash?: string
}

/** Whether a bootstrap has made the users already: then it needs no hashes of their passwords. */
export async function bootstrapped(db: Query): Promise<boolean> {
  const made = await db
    .selectFrom('keystone.users')
    .select('id')
    .where('name', 'in', ['admin', 'demo'])
    .where('domain_id', '=', 'default')
    .execute()
  return made.length === 2
}

/** Hashes the passwords of a bootstrap. */
export async function bootstrapPrepare(env: Env, wanted: Bootstrap): Promise<Prepared> {
  const { hashing } = identityOf(env)
  return {
    ...wanted,
    adminHash: await passwordHash(wanted.adminPassword, hashing),
    ...(wanted.demoPassword !== undefined && { demoHash: await passwordHash(wanted.demoPassword, hashing) }),
  }
}

const ROLES: [name: string, implies?: string][] = [
  ['reader'],
  ['member', 'reader'],
  ['manager', 'member'],
  ['admin', 'manager'],
  ['service'],
]

/**
 * Makes what is missing of: the domain Default, the default roles and what they imply, project and user `admin` with that role on
 * the project and the system, project and user `demo`, the region, services and endpoints. What is there keeps its id; endpoints
 * and descriptions of services follow `publicUrl`. Passwords of users that exist are left alone. Safe to run twice.
 */
export async function bootstrap(tx: Tx, wanted: Prepared): Promise<{ adminProjectId: string; demoProjectId: string }> {
  await tx
    .insertInto('keystone.projects')
    .values({
      id: 'default',
      name: 'Default',
      domain_id: null,
      parent_id: null,
      is_domain: true,
      description: 'The default domain',
    })
    .onConflict(on => on.doNothing())
    .execute()
  const roles = await rolesMake(tx)
  const adminProjectId = await projectMake(tx, 'admin', 'Bootstrap project for initializing the cloud.')
  const admin = await userMake(tx, 'admin', wanted.adminHash)
  const grant = (actor_id: string, target: 'project' | 'system', target_id: string, role: string) =>
    grantCreate(tx, { actor: 'user', actor_id, target, target_id, role_id: roles.get(role)!, inherited: false })
  await grant(admin, 'project', adminProjectId, 'admin')
  await grant(admin, 'system', 'system', 'admin')
  const demoProjectId = await projectMake(tx, 'demo', 'A project to try things in.')
  if (wanted.demoHash !== undefined) {
    const demo = await userMake(tx, 'demo', wanted.demoHash)
    await grant(demo, 'project', demoProjectId, 'member')
  }
  await catalogMake(tx, wanted)
  return { adminProjectId, demoProjectId }
}

async function rolesMake(tx: Tx): Promise<Map<string, string>> {
  const ids = new Map<string, string>()
  for (const [name, implies] of ROLES) {
    const there = await tx
      .selectFrom('keystone.roles')
      .select('id')
      .where('name', '=', name)
      .where('domain_id', 'is', null)
      .executeTakeFirst()
    const id = there?.id ?? newId()
    ids.set(name, id)
    if (there) continue
    await tx
      .insertInto('keystone.roles')
      .values({ id, name, domain_id: null, description: null, options: { immutable: true } })
      .execute()
    if (implies) await implicationCreate(tx, id, ids.get(implies)!)
  }
  return ids
}

async function projectMake(tx: Tx, name: string, description: string): Promise<string> {
  const there = await tx
    .selectFrom('keystone.projects')
    .select('id')
    .where('name', '=', name)
    .where('domain_id', '=', 'default')
    .executeTakeFirst()
  if (there) return there.id
  const id = newId()
  await tx.insertInto('keystone.projects').values({ id, name, description, domain_id: 'default', parent_id: 'default' }).execute()
  return id
}

async function userMake(tx: Tx, name: string, hash: string): Promise<string> {
  const there = await tx
    .selectFrom('keystone.users')
    .select('id')
    .where('name', '=', name)
    .where('domain_id', '=', 'default')
    .executeTakeFirst()
  if (there) return there.id
  const id = newId()
  await tx
    .insertInto('keystone.users')
    .values({ id, name, domain_id: 'default', default_project_id: null, last_active_on: null, failed_auth_at: null })
    .execute()
  await tx.insertInto('keystone.passwords').values({ user_id: id, hash, expires_at: null }).execute()
  return id
}

async function catalogMake(tx: Tx, { services, publicUrl, region = 'RegionOne' }: Bootstrap): Promise<void> {
  await tx
    .insertInto('keystone.regions')
    .values({ id: region, parent_region_id: null })
    .onConflict(on => on.doNothing())
    .execute()
  for (const { name, type, description, path } of services) {
    const there = await tx
      .selectFrom('keystone.services')
      .select('id')
      .where('type', '=', type)
      .where('name', '=', name)
      .executeTakeFirst()
    const id = there?.id ?? stableId('service', type, name)
    if (!there)
      await tx
        .insertInto('keystone.services')
        .values({ id, name, type, description: description ?? null })
        .execute()
    for (const face of ['public', 'internal', 'admin'] as const) {
      const url = `${publicUrl.replace(/\/$/, '')}${path}`
      await tx
        .insertInto('keystone.endpoints')
        .values({ id: stableId('endpoint', id, region, face), service_id: id, region_id: region, interface: face, url })
        .onConflict(on => on.column('id').doUpdateSet({ url }))
        .execute()
    }
  }
  await stale(tx, 'catalog')
}
