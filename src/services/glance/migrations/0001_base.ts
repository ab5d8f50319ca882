import { type Migration, sql } from '#kit/db/index.ts'

const STATEMENTS = [
  sql`create table glance.images (
    id text primary key,
    name text,
    status text not null,
    visibility text not null,
    owner text,
    disk_format text,
    container_format text,
    min_disk integer not null,
    min_ram integer not null,
    protected boolean not null,
    os_hidden boolean not null,
    size bigint,
    virtual_size bigint,
    checksum text,
    os_hash_algo text,
    os_hash_value text,
    properties jsonb not null default '{}',
    tags text[] not null default '{}',
    locations jsonb not null default '[]',
    upload text,
    upload_until timestamptz(3),
    stage text,
    stage_size bigint,
    message text,
    created_at timestamptz(3) not null default now(),
    updated_at timestamptz(3) not null default now()
  )`,
  ...['created_at', 'updated_at', 'name', 'status', 'size', 'disk_format', 'container_format'].map(
    column => sql`create index ${sql.ref(`images_${column}`)} on glance.images (${sql.ref(column)}, id)`,
  ),
  sql`create index images_owner on glance.images (owner, created_at, id)`,
  sql`create index images_visibility on glance.images (visibility, created_at, id)`,
  sql`create index images_upload on glance.images (upload_until) where upload is not null`,
  sql`create index images_tags on glance.images using gin (tags)`,
  sql`create index images_properties on glance.images using gin (properties)`,
  sql`create table glance.members (
    image_id text not null references glance.images (id) on delete cascade,
    member_id text not null,
    status text not null default 'pending',
    created_at timestamptz(3) not null default now(),
    updated_at timestamptz(3) not null default now(),
    primary key (image_id, member_id)
  )`,
  sql`create index members_member on glance.members (member_id, status, image_id)`,
]

export const base: Migration = {
  name: '0001_base',
  async up(tx) {
    for (const statement of STATEMENTS) await statement.execute(tx)
  },
  async down(tx) {
    await sql`drop table glance.members`.execute(tx)
    await sql`drop table glance.images`.execute(tx)
  },
}
