/** All of nova's tables as they were first. */
import { type Migration, sql } from '#kit/db/index.ts'

const TABLES = [
  `create table nova.flavors (
    id text primary key, seq bigint generated always as identity, name text not null unique,
    vcpus integer not null, memory_mb integer not null, root_gb integer not null, ephemeral_gb integer not null,
    swap_mb integer not null, rxtx_factor double precision not null, is_public boolean not null,
    disabled boolean not null default false, description text, extra_specs jsonb not null default '{}',
    created_at timestamptz(3) not null default now(), updated_at timestamptz(3))`,
  `create table nova.flavor_access (
    flavor_id text not null references nova.flavors on delete cascade, project_id text not null,
    primary key (project_id, flavor_id))`,
  'create index flavor_access_flavor on nova.flavor_access (flavor_id)',
  `create table nova.keypairs (
    id bigint generated always as identity primary key, user_id text not null, name text not null, type text not null,
    fingerprint text not null, public_key text not null, created_at timestamptz(3) not null default now(),
    unique (user_id, name))`,
  `create table nova.servers (
    id text primary key, seq bigint generated always as identity, name text not null, project_id text not null,
    user_id text not null, vm_state text not null, task_state text, power_state integer not null default 0,
    wanted_power text not null default 'running', host text, node text, availability_zone text, pinned_zone text,
    flavor_id text not null, flavor jsonb not null, vcpus integer not null, memory_mb integer not null, image_ref text,
    image jsonb, key_name text, key_type text, public_key text, user_data text, config_drive boolean not null,
    metadata jsonb not null default '{}', tags text[] not null default '{}', description text, hostname text not null,
    locked_by text, locked_reason text, access_ip_v4 text, access_ip_v6 text, disk_config text not null,
    progress integer not null default 0, launch_index integer not null, reservation_id text not null,
    root_device_name text, trusted_certs text[], group_id text, build jsonb not null, nics jsonb not null default '[]',
    security_groups jsonb not null default '[]', fault jsonb, resize jsonb, shelved_image text, rescue jsonb, password text,
    revision bigint not null default 1, created_at timestamptz(3) not null default now(),
    updated_at timestamptz(3) not null default now(), launched_at timestamptz(3), terminated_at timestamptz(3),
    deleted_at timestamptz(3)) with (fillfactor = 70)`,
  'create index servers_project on nova.servers (project_id, created_at, id)',
  'create index servers_created on nova.servers (created_at, id)',
  'create index servers_host on nova.servers (host) where host is not null',
  'create index servers_group on nova.servers (group_id) where group_id is not null',
  'create index servers_reclaim on nova.servers (deleted_at) where deleted_at is not null',
  'create table nova.deleted_servers (like nova.servers including defaults, primary key (id))',
  'create index deleted_servers_project on nova.deleted_servers (project_id, created_at, id)',
  'create index deleted_servers_at on nova.deleted_servers (deleted_at)',
  `create table nova.actions (
    seq bigint generated always as identity primary key, server_id text not null, request_id text not null, action text not null,
    project_id text, user_id text, message text, start_time timestamptz(3) not null default now(),
    updated_at timestamptz(3) not null default now(), finish_time timestamptz(3), events jsonb not null default '[]')
    with (fillfactor = 80)`,
  'create index actions_server on nova.actions (server_id, seq)',
  `create table nova.quotas (
    project_id text not null, user_id text not null default '', resource text not null, hard_limit integer not null,
    primary key (project_id, user_id, resource))`,
  `create table nova.quota_classes (
    class_name text not null, resource text not null, hard_limit integer not null, primary key (class_name, resource))`,
  'create table nova.projects (project_id text primary key)',
  `create table nova.services (
    id text primary key, seq bigint generated always as identity, program text not null, host text not null,
    disabled boolean not null default false, disabled_reason text, forced_down boolean not null default false,
    created_at timestamptz(3) not null default now(), updated_at timestamptz(3), last_seen timestamptz(3),
    unique (host, program))`,
  `create table nova.hypervisors (
    id text primary key, seq bigint generated always as identity, host text not null unique, hypervisor_hostname text not null,
    hypervisor_type text not null, hypervisor_version integer not null, host_ip text, vcpus integer not null,
    memory_mb integer not null, disk_gb integer not null, inventory jsonb not null, updated_at timestamptz(3) not null default now())`,
  `create table nova.aggregates (
    id bigint generated always as identity primary key, uuid text not null unique, name text not null unique,
    metadata jsonb not null default '{}', hosts text[] not null default '{}',
    created_at timestamptz(3) not null default now(), updated_at timestamptz(3))`,
  `create table nova.server_groups (
    id text primary key, seq bigint generated always as identity, name text not null, project_id text not null,
    user_id text not null, policy text not null, rules jsonb not null default '{}',
    created_at timestamptz(3) not null default now())`,
  'create index server_groups_project on nova.server_groups (project_id, seq)',
  `create table nova.migrations (
    id bigint generated always as identity primary key, uuid text not null unique, server_id text not null, project_id text not null,
    user_id text not null, migration_type text not null, status text not null, source_compute text, source_node text,
    dest_compute text, dest_node text, dest_host text, old_flavor jsonb, new_flavor jsonb, memory_total bigint,
    memory_processed bigint, memory_remaining bigint, disk_total bigint, disk_processed bigint, disk_remaining bigint,
    created_at timestamptz(3) not null default now(), updated_at timestamptz(3) not null default now())`,
  'create index migrations_server on nova.migrations (server_id, id)',
  `create table nova.console_tokens (
    hash text primary key, server_id text not null, host text not null, kind text not null, console_type text not null,
    created_at timestamptz(3) not null default now(), expires_at timestamptz(3) not null)`,
  'create index console_tokens_server on nova.console_tokens (server_id)',
]

const DROPS = [
  'console_tokens',
  'migrations',
  'server_groups',
  'aggregates',
  'hypervisors',
  'services',
  'projects',
  'quota_classes',
  'quotas',
  'actions',
  'deleted_servers',
  'servers',
  'keypairs',
  'flavor_access',
  'flavors',
]

export const base: Migration = {
  name: '0001_base',
  async up(tx) {
    for (const statement of TABLES) await sql.raw(statement).execute(tx)
  },
  async down(tx) {
    for (const table of DROPS) await sql.raw(`drop table nova.${table}`).execute(tx)
  },
}
