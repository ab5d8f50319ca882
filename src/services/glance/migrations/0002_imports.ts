import { type Migration, sql } from '#kit/db/index.ts'

const STATEMENTS = [
  sql`alter table glance.images add column import jsonb`,
  sql`create table glance.tasks (
    id text primary key,
    type text not null,
    status text not null,
    owner text,
    input jsonb not null,
    result jsonb,
    message text not null default '',
    image_id text,
    user_id text,
    request_id text,
    expires_at timestamptz(3),
    created_at timestamptz(3) not null default now(),
    updated_at timestamptz(3) not null default now()
  )`,
  sql`create index tasks_image on glance.tasks (image_id, created_at)`,
  sql`create index tasks_owner on glance.tasks (owner, created_at, id)`,
  sql`create index tasks_created_at on glance.tasks (created_at, id)`,
  sql`create index tasks_expires_at on glance.tasks (expires_at)`,
]

export const imports: Migration = {
  name: '0002_imports',
  async up(tx) {
    for (const statement of STATEMENTS) await statement.execute(tx)
  },
  async down(tx) {
    await sql`drop table glance.tasks`.execute(tx)
    await sql`alter table glance.images drop column import`.execute(tx)
  },
}
