import { sql } from '#kit/db/index.ts'
import { task } from '#kit/task.ts'
import { identityOf } from './identity.ts'
import { directoriesFresh } from './ldap/sync.ts'

/** Removes what time has made useless: changes that every process has heard of, revocations of tokens that have expired, … */
export const sweep = task({
  name: 'keystone.sweep',
  every: 300,
  async run(env) {
    const { settings } = identityOf(env)
    const life = settings.token.expiration + settings.revoke.expiration_buffer
    await env.db.tx(async tx => {
      await sql`delete from keystone.stales where at < now() - interval '1 hour'`.execute(tx)
      await sql`delete from keystone.revocations where revoked_at < now() - ${life} * interval '1 second'
        and (expires_at is null or expires_at < now())`.execute(tx)
      await sql`delete from keystone.used_assertions where at < now() - interval '1 day'`.execute(tx)
      await sql`delete from keystone.trusts where deleted_at < now() - interval '1 day' or expires_at < now() - interval '1 day'`.execute(
        tx,
      )
      await sql`delete from keystone.request_tokens where expires_at < now()`.execute(tx)
      await sql`delete from keystone.access_tokens where expires_at < now()`.execute(tx)
    })
  },
})

/** Keeps the rows of domains whose users live in a directory as the directory has them. */
export const directories = task({
  name: 'keystone.directories',
  every: 60,
  run: env => directoriesFresh(env),
})
