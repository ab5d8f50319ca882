import { type Migration, sql } from '#kit/db/index.ts'

/** Kinds of things that metadata is defined for, by their Heat names: there in every new cloud. */
const TYPES = [
  'OS::Cinder::Volume',
  'OS::Glance::Image',
  'OS::Nova::Aggregate',
  'OS::Nova::Flavor',
  'OS::Nova::Server',
  'OS::Trove::Instance',
]

export const metadefs: Migration = {
  name: '0004_metadefs',
  async up(tx) {
    await sql`create table glance.namespaces (
      namespace text primary key,
      display_name text,
      description text,
      visibility text not null default 'private',
      protected boolean not null default false,
      owner text,
      created_at timestamptz(3) not null default now(),
      updated_at timestamptz(3) not null default now()
    )`.execute(tx)
    await sql`create table glance.resource_types (
      name text primary key,
      created_at timestamptz(3) not null default now(),
      updated_at timestamptz(3) not null default now()
    )`.execute(tx)
    await sql`insert into glance.resource_types (name) select unnest(${TYPES}::text[])`.execute(tx)
    // Properties, objects, tags and associations of a namespace: each a name that is unique in its kind, and a document.
    await sql`create table glance.definitions (
      namespace text not null references glance.namespaces on update cascade on delete cascade,
      kind text not null,
      name text not null,
      document jsonb not null default '{}',
      created_at timestamptz(3) not null default clock_timestamp(),
      updated_at timestamptz(3) not null default clock_timestamp(),
      primary key (namespace, kind, name)
    )`.execute(tx)
  },
  async down(tx) {
    await sql`drop table glance.definitions`.execute(tx)
    await sql`drop table glance.resource_types`.execute(tx)
    await sql`drop table glance.namespaces`.execute(tx)
  },
}
