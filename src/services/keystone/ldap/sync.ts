import { createHash } from 'node:crypto'
import { lock, type Query, type Tx } from '#kit/db/index.ts'
import { forbidden } from '#kit/fault.ts'
import type { Env } from '#kit/service.ts'
import { domainConfigFetch } from '../domain_config/domain_config.ts'
import { groupsLetGo } from '../groups/store.ts'
import { stale } from '../tokens/stale.ts'
import { usersLetGo } from '../users/store.ts'
import { type Directory, directory, type LdapGroup, type LdapUser } from './directory.ts'

// Users of a directory have shadow rows, so that everything else (assignments, tokens, lists) works on them as on any other. A login
// asks the directory itself and refreshes the one user; lists are refreshed when they are older than a few seconds; a task does so
// now and then, and takes away what has gone. Public ids are the SHA-256 of domain, kind and local id, as Keystone makes them: a
// takeover keeps every assignment.

/** The public id of an entity of a directory. */
export const publicId = (domainId: string, entity: 'user' | 'group', localId: string): string =>
  createHash('sha256')
    .update(domainId + entity + localId)
    .digest('hex')

/** The directory of a domain; null for a domain whose users live in the database. */
export async function directoryOf(env: Env, domainId: string): Promise<Directory | null> {
  const configured = await env.db.read
    .selectFrom('keystone.domain_config')
    .select('value')
    .where('domain_id', '=', domainId)
    .where('group', '=', 'identity')
    .where('option', '=', 'driver')
    .executeTakeFirst()
  if (configured?.value !== 'ldap') return null
  return directory((await domainConfigFetch(env, domainId)).ldap ?? {})
}

/** Throws forbidden for a domain whose users and groups live in a directory. */
export async function writableMust(db: Query, domainId: string, what: string): Promise<void> {
  const row = await db
    .selectFrom('keystone.domain_config')
    .select('value')
    .where('domain_id', '=', domainId)
    .where('group', '=', 'identity')
    .where('option', '=', 'driver')
    .executeTakeFirst()
  if (row?.value === 'ldap') throw forbidden(`You are not authorized to perform the requested action: LDAP ${what}.`)
}

const attributes = (user: LdapUser) => ({
  ...(user.email !== undefined && { email: user.email }),
  ...(user.description !== undefined && { description: user.description }),
})

async function userStore(tx: Tx, domainId: string, user: LdapUser): Promise<string> {
  const id = publicId(domainId, 'user', user.localId)
  await tx
    .insertInto('keystone.id_mappings')
    .values({ public_id: id, domain_id: domainId, local_id: user.localId, entity: 'user' })
    .onConflict(on => on.doNothing())
    .execute()
  const before = await tx
    .selectFrom('keystone.users')
    .select(['name', 'enabled', 'extra'])
    .where('id', '=', id)
    .executeTakeFirst()
  const extra = attributes(user)
  if (!before) {
    await tx
      .insertInto('keystone.users')
      .values({
        id,
        domain_id: domainId,
        name: user.name,
        kind: 'nonlocal',
        enabled: user.enabled,
        default_project_id: null,
        last_active_on: null,
        failed_auth_at: null,
        extra,
      })
      .onConflict(on => on.doNothing())
      .execute()
  } else if (
    before.name !== user.name ||
    before.enabled !== user.enabled ||
    JSON.stringify(before.extra) !== JSON.stringify(extra)
  ) {
    await tx.updateTable('keystone.users').set({ name: user.name, enabled: user.enabled, extra }).where('id', '=', id).execute()
    await stale(tx, `user:${id}`)
  }
  return id
}

async function groupStore(tx: Tx, domainId: string, group: LdapGroup): Promise<string> {
  const id = publicId(domainId, 'group', group.localId)
  await tx
    .insertInto('keystone.id_mappings')
    .values({ public_id: id, domain_id: domainId, local_id: group.localId, entity: 'group' })
    .onConflict(on => on.doNothing())
    .execute()
  await tx
    .insertInto('keystone.groups')
    .values({ id, domain_id: domainId, name: group.name, description: group.description })
    .onConflict(on => on.column('id').doUpdateSet({ name: group.name, description: group.description }))
    .execute()
  return id
}

/** Makes `userIds` the members of a group; those who came or went are looked at again. */
async function membersStore(tx: Tx, groupId: string, userIds: string[]): Promise<void> {
  const rows = await tx.selectFrom('keystone.memberships').select('user_id').where('group_id', '=', groupId).execute()
  const before = new Set(rows.map(row => row.user_id))
  const after = new Set(userIds)
  const came = [...after].filter(id => !before.has(id))
  const gone = [...before].filter(id => !after.has(id))
  if (came.length > 0)
    await tx
      .insertInto('keystone.memberships')
      .values(came.map(user_id => ({ user_id, group_id: groupId })))
      .onConflict(on => on.doNothing())
      .execute()
  if (gone.length > 0)
    await tx.deleteFrom('keystone.memberships').where('group_id', '=', groupId).where('user_id', 'in', gone).execute()
  const changed = [...came, ...gone]
  await stale(tx, ...(changed.length > 200 ? ['all'] : changed.map(id => `user:${id}`)))
}

/** Checks a password by the directory; the id of the user, or null. The user's row and groups are then as the directory has them. */
export async function directoryLogin(
  env: Env,
  domainId: string,
  from: Directory,
  by: { name: string } | { localId: string },
  password: string,
): Promise<string | null> {
  const user = await from.find(by)
  if (!user || !(await from.holds(user.dn, password))) return null
  const groups = await from.groups()
  return env.db.tx(async tx => {
    const id = await userStore(tx, domainId, user)
    const held = await tx.selectFrom('keystone.memberships').select('group_id').where('user_id', '=', id).execute()
    const before = new Set(held.map(row => row.group_id))
    const after = new Set<string>()
    for (const group of groups) if (from.isMember(group, user)) after.add(await groupStore(tx, domainId, group))
    const came = [...after].filter(group => !before.has(group))
    const gone = [...before].filter(group => !after.has(group))
    if (came.length > 0)
      await tx
        .insertInto('keystone.memberships')
        .values(came.map(group_id => ({ user_id: id, group_id })))
        .onConflict(on => on.doNothing())
        .execute()
    if (gone.length > 0)
      await tx.deleteFrom('keystone.memberships').where('user_id', '=', id).where('group_id', 'in', gone).execute()
    if (came.length + gone.length > 0) await stale(tx, `user:${id}`)
    return id
  })
}

/** Makes the rows of a domain what the directory has. */
export async function directorySync(env: Env, domainId: string, from: Directory): Promise<void> {
  const [users, groups] = [await from.users(), await from.groups()]
  await env.db.tx(async tx => {
    await lock(tx, `keystone.ldap.${domainId}`)
    const ids = new Map<string, string>()
    for (const user of users) ids.set(user.localId, await userStore(tx, domainId, user))
    const groupIds: string[] = []
    for (const group of groups) {
      const id = await groupStore(tx, domainId, group)
      groupIds.push(id)
      await membersStore(
        tx,
        id,
        users.filter(user => from.isMember(group, user)).map(user => ids.get(user.localId)!),
      )
    }
    await goneRemove(tx, domainId, new Set(ids.values()), new Set(groupIds))
  })
}

async function goneRemove(tx: Tx, domainId: string, userIds: Set<string>, groupIds: Set<string>): Promise<void> {
  const users = await tx
    .selectFrom('keystone.users')
    .select('id')
    .where('domain_id', '=', domainId)
    .where('kind', '=', 'nonlocal')
    .execute()
  const gone = users.map(row => row.id).filter(id => !userIds.has(id))
  if (gone.length > 0) {
    await usersLetGo(tx, gone)
    await tx.deleteFrom('keystone.users').where('id', 'in', gone).execute()
  }
  const groups = await tx.selectFrom('keystone.groups').select('id').where('domain_id', '=', domainId).execute()
  const lost = groups.map(row => row.id).filter(id => !groupIds.has(id))
  if (lost.length > 0) {
    await groupsLetGo(tx, lost)
    await tx.deleteFrom('keystone.groups').where('id', 'in', lost).execute()
  }
}

const synced = new WeakMap<Env, Map<string, { at: number; done: Promise<void> }>>()
const FRESH_MS = 5000

/** Brings the rows of every directory domain (or of one) up to date, unless that was done some seconds ago. */
export async function directoriesFresh(env: Env, domainId?: string): Promise<void> {
  let query = env.db.read
    .selectFrom('keystone.domain_config')
    .select(['domain_id', 'value'])
    .where('group', '=', 'identity')
    .where('option', '=', 'driver')
  if (domainId !== undefined) query = query.where('domain_id', '=', domainId)
  const rows = await query.execute()
  const known = synced.get(env) ?? new Map<string, { at: number; done: Promise<void> }>()
  synced.set(env, known)
  for (const { domain_id, value } of rows) {
    if (value !== 'ldap') continue
    let last = known.get(domain_id)
    if (!last || Date.now() - last.at > FRESH_MS) {
      const done = directoryOf(env, domain_id).then(from => (from ? directorySync(env, domain_id, from) : undefined))
      last = { at: Date.now(), done }
      known.set(domain_id, last)
      done.catch(() => known.delete(domain_id))
    }
    await last.done
  }
}
