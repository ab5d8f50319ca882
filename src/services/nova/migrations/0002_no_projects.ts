import { type Migration, sql } from '#kit/db/index.ts'

/** A table that nothing was ever written into: whose quota is counted is locked by name. */
export const noProjects: Migration = {
  name: '0002_no_projects',
  async up(tx) {
    await sql`drop table nova.projects`.execute(tx)
  },
  async down(tx) {
    await sql`create table nova.projects (project_id text primary key)`.execute(tx)
  },
}
