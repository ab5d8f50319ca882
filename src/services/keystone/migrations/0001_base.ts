import { type Migration, sql } from '#kit/db/index.ts'

// Names are unique where Keystone has them so; `coalesce(domain_id, '')` because two nulls are not equal. Text that lists are
// filtered and sorted by has an index under collation "C": the order of a page never depends on the machine's locale.
// What belongs to a project, user or role goes with it (on delete cascade) where Keystone deletes it too.

const TABLES = `
create table keystone.projects (
  id text primary key, name text not null, domain_id text references keystone.projects, parent_id text references keystone.projects,
  is_domain boolean not null default false, description text not null default '', enabled boolean not null default true,
  tags text[] not null default '{}', options jsonb not null default '{}', extra jsonb not null default '{}');
create unique index projects_name on keystone.projects (coalesce(domain_id, ''), name) where not is_domain;
create unique index domains_name on keystone.projects (name) where is_domain;
create index projects_domain on keystone.projects (domain_id, id);
create index projects_parent on keystone.projects (parent_id);
create index projects_by_name on keystone.projects (name, id);
create index projects_tags on keystone.projects using gin (tags);

create table keystone.users (
  id text primary key, domain_id text not null references keystone.projects, name text not null, kind text not null default 'local',
  enabled boolean not null default true, default_project_id text, options jsonb not null default '{}', extra jsonb not null default '{}',
  created_at timestamptz(3) not null default now(), last_active_on date,
  failed_auths int not null default 0, failed_auth_at timestamptz(3));
create unique index users_name on keystone.users (domain_id, name) where kind = 'local';
create index users_domain on keystone.users (domain_id, id);
create index users_by_name on keystone.users (name, id);

create table keystone.passwords (
  id bigint generated always as identity primary key, user_id text not null references keystone.users on delete cascade,
  hash text not null, self_service boolean not null default false, created_at timestamptz(3) not null default now(), expires_at timestamptz(3));
create index passwords_user on keystone.passwords (user_id, id desc);

create table keystone.groups (
  id text primary key, domain_id text not null references keystone.projects, name text not null, description text not null default '',
  extra jsonb not null default '{}', unique (domain_id, name));
create index groups_by_name on keystone.groups (name, id);

create table keystone.memberships (
  user_id text not null, group_id text not null references keystone.groups on delete cascade, primary key (user_id, group_id));
create index memberships_group on keystone.memberships (group_id, user_id);

create table keystone.id_mappings (
  public_id text primary key, domain_id text not null references keystone.projects on delete cascade, local_id text not null,
  entity text not null, unique (domain_id, local_id, entity));

create table keystone.roles (
  id text primary key, name text not null, domain_id text references keystone.projects on delete cascade, description text,
  options jsonb not null default '{}', extra jsonb not null default '{}');
create unique index roles_name on keystone.roles (coalesce(domain_id, ''), name);

create table keystone.implied_roles (
  prior_id text not null references keystone.roles on delete cascade, implied_id text not null references keystone.roles on delete cascade,
  primary key (prior_id, implied_id));
create index implied_roles_implied on keystone.implied_roles (implied_id);

create table keystone.assignments (
  actor text not null, actor_id text not null, target text not null, target_id text not null,
  role_id text not null references keystone.roles on delete cascade, inherited boolean not null default false,
  primary key (actor, actor_id, target, target_id, role_id, inherited));
create index assignments_target on keystone.assignments (target, target_id);
create index assignments_role on keystone.assignments (role_id);

create table keystone.regions (
  id text primary key, parent_region_id text references keystone.regions, description text not null default '', extra jsonb not null default '{}');
create index regions_parent on keystone.regions (parent_region_id);

create table keystone.services (
  id text primary key, type text not null, name text, description text, enabled boolean not null default true, extra jsonb not null default '{}');

create table keystone.endpoints (
  id text primary key, service_id text not null references keystone.services on delete cascade, region_id text references keystone.regions,
  interface text not null, url text not null, enabled boolean not null default true, extra jsonb not null default '{}');
create index endpoints_service on keystone.endpoints (service_id);
create index endpoints_region on keystone.endpoints (region_id);

create table keystone.endpoint_groups (id text primary key, name text not null, description text, filters jsonb not null);
create table keystone.project_endpoints (
  project_id text not null references keystone.projects on delete cascade, endpoint_id text not null references keystone.endpoints on delete cascade,
  primary key (project_id, endpoint_id));
create index project_endpoints_endpoint on keystone.project_endpoints (endpoint_id);
create table keystone.project_endpoint_groups (
  project_id text not null references keystone.projects on delete cascade,
  endpoint_group_id text not null references keystone.endpoint_groups on delete cascade, primary key (project_id, endpoint_group_id));
create index project_endpoint_groups_group on keystone.project_endpoint_groups (endpoint_group_id);

create table keystone.policies (id text primary key, type text not null, blob jsonb not null, extra jsonb not null default '{}');
create table keystone.policy_associations (
  id text primary key, policy_id text not null references keystone.policies on delete cascade,
  endpoint_id text references keystone.endpoints on delete cascade, service_id text references keystone.services on delete cascade,
  region_id text references keystone.regions on delete cascade);
create unique index policy_associations_of
  on keystone.policy_associations (coalesce(endpoint_id, ''), coalesce(service_id, ''), coalesce(region_id, ''));

create table keystone.credentials (
  id text primary key, user_id text not null, project_id text, type text not null, sealed text not null, key_hash text not null,
  extra jsonb not null default '{}');
create index credentials_user on keystone.credentials (user_id);
create index credentials_project on keystone.credentials (project_id);

create table keystone.app_creds (
  id text primary key, name text not null, description text, user_id text not null, project_id text not null references keystone.projects on delete cascade,
  secret_hash text not null, expires_at timestamptz(3), unrestricted boolean not null, role_ids text[] not null, unique (user_id, name));
create index app_creds_project on keystone.app_creds (project_id);
create index app_creds_roles on keystone.app_creds using gin (role_ids);
create table keystone.access_rules (
  id text primary key, user_id text not null, service text not null, path text not null, method text not null,
  unique (user_id, service, path, method));
create table keystone.app_cred_rules (
  app_cred_id text not null references keystone.app_creds on delete cascade, access_rule_id text not null references keystone.access_rules,
  primary key (app_cred_id, access_rule_id));
create index app_cred_rules_rule on keystone.app_cred_rules (access_rule_id);

create table keystone.trusts (
  id text primary key, trustor_user_id text not null, trustee_user_id text not null, project_id text references keystone.projects on delete cascade,
  impersonation boolean not null, expires_at timestamptz(3), deleted_at timestamptz(3), remaining_uses int, redelegated_trust_id text,
  redelegation_count int not null, role_ids text[] not null, extra jsonb not null default '{}');
create index trusts_trustor on keystone.trusts (trustor_user_id);
create index trusts_trustee on keystone.trusts (trustee_user_id);
create index trusts_parent on keystone.trusts (redelegated_trust_id);
create index trusts_project on keystone.trusts (project_id);

create table keystone.registered_limits (
  id text primary key, service_id text not null references keystone.services, region_id text references keystone.regions,
  resource_name text not null, default_limit int not null, description text);
create unique index registered_limits_of on keystone.registered_limits (service_id, coalesce(region_id, ''), resource_name);
create table keystone.limits (
  id text primary key, registered_limit_id text not null references keystone.registered_limits,
  project_id text references keystone.projects on delete cascade, domain_id text references keystone.projects on delete cascade,
  resource_limit int not null, description text);
create unique index limits_of on keystone.limits (registered_limit_id, coalesce(project_id, ''), coalesce(domain_id, ''));
create index limits_project on keystone.limits (project_id);
create index limits_domain on keystone.limits (domain_id);

create table keystone.idps (
  id text primary key, enabled boolean not null, description text, domain_id text not null references keystone.projects on delete cascade,
  authorization_ttl int);
create table keystone.idp_remotes (remote_id text primary key, idp_id text not null references keystone.idps on delete cascade);
create index idp_remotes_idp on keystone.idp_remotes (idp_id);
create table keystone.mappings (id text primary key, rules jsonb not null, schema_version text not null);
create table keystone.protocols (
  id text not null, idp_id text not null references keystone.idps on delete cascade, mapping_id text not null, remote_id_attribute text,
  primary key (idp_id, id));
create table keystone.service_providers (
  id text primary key, auth_url text not null, sp_url text not null, enabled boolean not null, description text, relay_state_prefix text not null);

create table keystone.federated (
  user_id text not null references keystone.users on delete cascade, idp_id text not null references keystone.idps on delete cascade,
  protocol_id text not null, unique_id text not null, display_name text,
  primary key (idp_id, protocol_id, unique_id), foreign key (idp_id, protocol_id) references keystone.protocols (idp_id, id) on delete cascade);
create index federated_user on keystone.federated (user_id);
create table keystone.expiring_memberships (
  user_id text not null references keystone.users on delete cascade, group_id text not null references keystone.groups on delete cascade,
  idp_id text not null references keystone.idps on delete cascade, last_verified timestamptz(3) not null,
  primary key (user_id, group_id, idp_id));
create index expiring_memberships_group on keystone.expiring_memberships (group_id);

create table keystone.consumers (id text primary key, description text, secret text not null, extra jsonb not null default '{}');
create table keystone.request_tokens (
  id text primary key, secret text not null, consumer_id text not null references keystone.consumers on delete cascade,
  project_id text not null, verifier text, authorizing_user_id text, role_ids text[], expires_at timestamptz(3));
create table keystone.access_tokens (
  id text primary key, secret text not null, consumer_id text not null references keystone.consumers on delete cascade,
  user_id text not null, project_id text not null, role_ids text[] not null, expires_at timestamptz(3));
create index access_tokens_user on keystone.access_tokens (user_id);

create table keystone.domain_config (
  domain_id text not null references keystone.projects on delete cascade, "group" text not null, option text not null, value jsonb not null,
  primary key (domain_id, "group", option));

create table keystone.revocations (
  id bigint generated always as identity primary key, user_id text, project_id text, domain_id text, role_id text, trust_id text,
  consumer_id text, access_token_id text, audit_id text, audit_chain_id text,
  issued_before timestamptz(3) not null, revoked_at timestamptz(3) not null default now(), expires_at timestamptz(3));
create index revocations_user on keystone.revocations (user_id) where user_id is not null;
create index revocations_project on keystone.revocations (project_id) where project_id is not null;
create index revocations_domain on keystone.revocations (domain_id) where domain_id is not null;
create index revocations_trust on keystone.revocations (trust_id) where trust_id is not null;
create index revocations_access_token on keystone.revocations (access_token_id) where access_token_id is not null;
create index revocations_consumer on keystone.revocations (consumer_id) where consumer_id is not null;
create index revocations_audit on keystone.revocations (audit_id) where audit_id is not null;
create index revocations_chain on keystone.revocations (audit_chain_id) where audit_chain_id is not null;
create index revocations_at on keystone.revocations (revoked_at);

create table keystone.stales (
  id bigint generated always as identity primary key, keys text[] not null, at timestamptz(3) not null default now());
create index stales_at on keystone.stales (at);
`

/** The first set of tables. */
export const base: Migration = {
  name: '0001_base',
  async up(tx) {
    for (const statement of TABLES.split(';')) if (statement.trim()) await sql.raw(statement).execute(tx)
  },
  async down(tx) {
    await sql`drop schema keystone cascade`.execute(tx)
    await sql`create schema keystone`.execute(tx)
  },
}
