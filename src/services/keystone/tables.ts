import type { Generated } from '#kit/db/index.ts'

// Rows of the schema `keystone`. Ids are 32 hex digits unless said otherwise; `extra` holds the attributes that callers made
// up (Keystone lets them) and `options` the resource options, by their names on the wire.

export type Extra = Record<string, unknown>
export type Options = Record<string, unknown>

/** A project, or a domain: a domain is the root project of a tree, with neither domain nor parent. */
export interface ProjectsTable {
  id: string
  name: string
  domain_id: string | null
  parent_id: string | null
  is_domain: Generated<boolean>
  description: Generated<string>
  enabled: Generated<boolean>
  tags: Generated<string[]>
  options: Generated<Options>
  extra: Generated<Extra>
}

export interface UsersTable {
  id: string
  domain_id: string
  name: string
  /** local: has a password here; federated: known by what an identity provider asserts; nonlocal: lives in LDAP. */
  kind: Generated<'local' | 'federated' | 'nonlocal'>
  enabled: Generated<boolean>
  default_project_id: string | null
  options: Generated<Options>
  extra: Generated<Extra>
  created_at: Generated<Date>
  /** Day of the last authentication, kept only when inactive users are to be disabled. */
  last_active_on: string | null
  failed_auths: Generated<number>
  failed_auth_at: Date | null
}

export interface PasswordsTable {
  id: Generated<number>
  user_id: string
  hash: string
  /** Set by its user, not by an administrator: only then does it count as used and age. */
  self_service: Generated<boolean>
  created_at: Generated<Date>
  expires_at: Date | null
}

/** How a user is known to an identity provider. */
export interface FederatedTable {
  user_id: string
  idp_id: string
  protocol_id: string
  unique_id: string
  display_name: string | null
}

export interface GroupsTable {
  id: string
  domain_id: string
  name: string
  description: Generated<string>
  extra: Generated<Extra>
}

export interface MembershipsTable {
  user_id: string
  group_id: string
}

/** Membership that an identity provider asserted and that ends unless it is asserted again within its authorization_ttl. */
export interface ExpiringMembershipsTable {
  user_id: string
  group_id: string
  idp_id: string
  last_verified: Date
}

/** Public ids of users and groups that live in LDAP: 64 hex digits derived from domain, local id and type. */
export interface IdMappingsTable {
  public_id: string
  domain_id: string
  local_id: string
  entity: 'user' | 'group'
}

export interface RolesTable {
  id: string
  name: string
  domain_id: string | null
  description: string | null
  options: Generated<Options>
  extra: Generated<Extra>
}

export interface ImpliedRolesTable {
  prior_id: string
  implied_id: string
}

export interface AssignmentsTable {
  actor: 'user' | 'group'
  actor_id: string
  target: 'project' | 'domain' | 'system'
  /** of the project or domain; 'system' for the system */
  target_id: string
  role_id: string
  /** Holds for the projects below the target, not for the target itself. */
  inherited: boolean
}

export interface RegionsTable {
  id: string
  parent_region_id: string | null
  description: Generated<string>
  extra: Generated<Extra>
}

export interface ServicesTable {
  id: string
  type: string
  name: string | null
  description: string | null
  enabled: Generated<boolean>
  extra: Generated<Extra>
}

export interface EndpointsTable {
  id: string
  service_id: string
  region_id: string | null
  interface: 'public' | 'internal' | 'admin'
  url: string
  enabled: Generated<boolean>
  extra: Generated<Extra>
}

export interface EndpointGroupsTable {
  id: string
  name: string
  description: string | null
  filters: Record<string, unknown>
}

export interface ProjectEndpointsTable {
  project_id: string
  endpoint_id: string
}

export interface ProjectEndpointGroupsTable {
  project_id: string
  endpoint_group_id: string
}

export interface PoliciesTable {
  id: string
  type: string
  blob: unknown
  extra: Generated<Extra>
}

export interface PolicyAssociationsTable {
  id: string
  policy_id: string
  endpoint_id: string | null
  service_id: string | null
  region_id: string | null
}

export interface CredentialsTable {
  id: string
  user_id: string
  project_id: string | null
  type: string
  /** Fernet under the credential keys */
  sealed: string
  /** SHA-1 of the key it is sealed with, to know what a rotation must seal again */
  key_hash: string
  extra: Generated<Extra>
}

export interface AppCredsTable {
  id: string
  name: string
  description: string | null
  user_id: string
  project_id: string
  /** Fast hash: the secret is random and long unless the user chose it. */
  secret_hash: string
  expires_at: Date | null
  unrestricted: boolean
  role_ids: string[]
}

export interface AccessRulesTable {
  id: string
  user_id: string
  service: string
  path: string
  method: string
}

export interface AppCredRulesTable {
  app_cred_id: string
  access_rule_id: string
}

export interface TrustsTable {
  id: string
  trustor_user_id: string
  trustee_user_id: string
  project_id: string | null
  impersonation: boolean
  expires_at: Date | null
  deleted_at: Date | null
  remaining_uses: number | null
  redelegated_trust_id: string | null
  redelegation_count: number
  role_ids: string[]
  extra: Generated<Extra>
}

export interface RegisteredLimitsTable {
  id: string
  service_id: string
  region_id: string | null
  resource_name: string
  default_limit: number
  description: string | null
}

export interface LimitsTable {
  id: string
  registered_limit_id: string
  project_id: string | null
  domain_id: string | null
  resource_limit: number
  description: string | null
}

export interface IdpsTable {
  id: string
  enabled: boolean
  description: string | null
  domain_id: string
  /** minutes */
  authorization_ttl: number | null
}

export interface IdpRemotesTable {
  idp_id: string
  remote_id: string
}

export interface ProtocolsTable {
  id: string
  idp_id: string
  mapping_id: string
  remote_id_attribute: string | null
}

export interface MappingsTable {
  id: string
  rules: unknown[]
  schema_version: string
}

export interface ServiceProvidersTable {
  id: string
  auth_url: string
  sp_url: string
  enabled: boolean
  description: string | null
  relay_state_prefix: string
}

export interface ConsumersTable {
  id: string
  description: string | null
  secret: string
  extra: Generated<Extra>
}

export interface RequestTokensTable {
  id: string
  secret: string
  consumer_id: string
  project_id: string
  verifier: string | null
  authorizing_user_id: string | null
  role_ids: string[] | null
  expires_at: Date | null
}

export interface AccessTokensTable {
  id: string
  secret: string
  consumer_id: string
  user_id: string
  project_id: string
  role_ids: string[]
  expires_at: Date | null
}

export interface DomainConfigTable {
  domain_id: string
  group: string
  option: string
  value: unknown
}

/** "Every token that matches all set columns and was issued up to issued_before is dead." */
export interface RevocationsTable {
  id: Generated<number>
  user_id: string | null
  project_id: string | null
  domain_id: string | null
  role_id: string | null
  trust_id: string | null
  consumer_id: string | null
  access_token_id: string | null
  audit_id: string | null
  audit_chain_id: string | null
  issued_before: Date
  revoked_at: Generated<Date>
  expires_at: Date | null
}

/** Which cached tokens a change made stale; read by every process, kept for an hour. */
export interface StalesTable {
  id: Generated<number>
  keys: string[]
  at: Generated<Date>
}

export interface UsedAssertionsTable {
  id: string
  at: Generated<Date>
}

declare module '#kit/db/index.ts' {
  interface Tables {
    'keystone.projects': ProjectsTable
    'keystone.users': UsersTable
    'keystone.passwords': PasswordsTable
    'keystone.federated': FederatedTable
    'keystone.groups': GroupsTable
    'keystone.memberships': MembershipsTable
    'keystone.expiring_memberships': ExpiringMembershipsTable
    'keystone.id_mappings': IdMappingsTable
    'keystone.roles': RolesTable
    'keystone.implied_roles': ImpliedRolesTable
    'keystone.assignments': AssignmentsTable
    'keystone.regions': RegionsTable
    'keystone.services': ServicesTable
    'keystone.endpoints': EndpointsTable
    'keystone.endpoint_groups': EndpointGroupsTable
    'keystone.project_endpoints': ProjectEndpointsTable
    'keystone.project_endpoint_groups': ProjectEndpointGroupsTable
    'keystone.policies': PoliciesTable
    'keystone.policy_associations': PolicyAssociationsTable
    'keystone.credentials': CredentialsTable
    'keystone.app_creds': AppCredsTable
    'keystone.access_rules': AccessRulesTable
    'keystone.app_cred_rules': AppCredRulesTable
    'keystone.trusts': TrustsTable
    'keystone.registered_limits': RegisteredLimitsTable
    'keystone.limits': LimitsTable
    'keystone.idps': IdpsTable
    'keystone.idp_remotes': IdpRemotesTable
    'keystone.protocols': ProtocolsTable
    'keystone.mappings': MappingsTable
    'keystone.service_providers': ServiceProvidersTable
    'keystone.consumers': ConsumersTable
    'keystone.request_tokens': RequestTokensTable
    'keystone.access_tokens': AccessTokensTable
    'keystone.domain_config': DomainConfigTable
    'keystone.revocations': RevocationsTable
    'keystone.stales': StalesTable
    'keystone.used_assertions': UsedAssertionsTable
  }
}
