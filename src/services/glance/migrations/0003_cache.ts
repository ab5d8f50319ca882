import { type Migration, sql } from '#kit/db/index.ts'

export const cache: Migration = {
  name: '0003_cache',
  async up(tx) {
    await sql`create table glance.cache (
      image_id text not null,
      controller text not null,
      file text,
      size bigint,
      hits integer not null default 0,
      queued_at timestamptz(3) not null default now(),
      cached_at timestamptz(3),
      accessed_at timestamptz(3),
      primary key (image_id, controller)
    )`.execute(tx)
    await sql`create index cache_controller on glance.cache (controller, queued_at)`.execute(tx)
  },
  async down(tx) {
    await sql`drop table glance.cache`.execute(tx)
  },
}
