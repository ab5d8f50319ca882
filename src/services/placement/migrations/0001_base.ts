import { type Migration, sql } from '#kit/db/index.ts'

const STATEMENTS = [
  sql`create table placement.providers (
    id text primary key,
    name text not null,
    generation integer not null default 0,
    parent_id text references placement.providers (id),
    root_id text not null references placement.providers (id),
    created_at timestamptz(3) not null default now(),
    updated_at timestamptz(3) not null default now(),
    constraint providers_name unique (name)
  )`,
  sql`create index providers_parent on placement.providers (parent_id)`,
  sql`create index providers_root on placement.providers (root_id)`,
  sql`create table placement.classes (name text primary key, updated_at timestamptz(3) not null default now())`,
  sql`create table placement.traits (name text primary key, updated_at timestamptz(3) not null default now())`,
  sql`create table placement.inventories (
    provider_id text not null references placement.providers (id) on delete cascade,
    class text not null references placement.classes (name),
    total integer not null,
    reserved integer not null,
    min_unit integer not null,
    max_unit integer not null,
    step_size integer not null,
    allocation_ratio double precision not null,
    updated_at timestamptz(3) not null default now(),
    primary key (provider_id, class)
  )`,
  sql`create index inventories_class on placement.inventories (class, provider_id)`,
  sql`create table placement.provider_traits (
    provider_id text not null references placement.providers (id) on delete cascade,
    trait text not null references placement.traits (name),
    primary key (provider_id, trait)
  )`,
  sql`create index provider_traits_trait on placement.provider_traits (trait, provider_id)`,
  sql`create table placement.provider_aggregates (
    provider_id text not null references placement.providers (id) on delete cascade,
    aggregate text not null,
    primary key (provider_id, aggregate)
  )`,
  sql`create index provider_aggregates_aggregate on placement.provider_aggregates (aggregate, provider_id)`,
  sql`create table placement.consumers (
    id text primary key,
    project_id text not null,
    user_id text not null,
    type text,
    generation integer not null default 0,
    created_at timestamptz(3) not null default now(),
    updated_at timestamptz(3) not null default now()
  )`,
  sql`create index consumers_project on placement.consumers (project_id, user_id)`,
  sql`create table placement.allocations (
    consumer_id text not null references placement.consumers (id) on delete cascade,
    provider_id text not null references placement.providers (id),
    class text not null,
    used integer not null check (used > 0),
    updated_at timestamptz(3) not null default now(),
    primary key (consumer_id, provider_id, class)
  )`,
  sql`create index allocations_provider on placement.allocations (provider_id, class) include (used)`,
]

export const base: Migration = {
  name: '0001_base',
  async up(tx) {
    for (const statement of STATEMENTS) await statement.execute(tx)
  },
  async down(tx) {
    for (const table of [
      'allocations',
      'consumers',
      'provider_aggregates',
      'provider_traits',
      'inventories',
      'traits',
      'classes',
      'providers',
    ]) {
      await sql`drop table ${sql.table(`placement.${table}`)}`.execute(tx)
    }
  },
}
