import { type Migration, sql } from '#kit/db/index.ts'

/** Remembers SAML assertions until they are too old to be taken, so that each is good for one login. */
export const usedAssertions: Migration = {
  name: '0002_used_assertions',
  async up(tx) {
    await sql`create table keystone.used_assertions (id text primary key, at timestamptz(3) not null default now())`.execute(tx)
  },
  async down(tx) {
    await sql`drop table keystone.used_assertions`.execute(tx)
  },
}
