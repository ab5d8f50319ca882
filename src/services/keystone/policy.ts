import type { PolicyRule, Scope } from '#kit/policy/index.ts'

// Who may do what, as the defaults of 2025.1 and later have it. Nine personas: reader, member (manager above it) and admin, each
// on the system, a domain or a project. Names and expressions are those that operators know and override in policy.yaml.
//
// One term is stricter than Keystone's `role:admin`. Its documentation says that administrators of a domain reach nothing outside it, and
// its rules let them everywhere: whoever is given a domain to administer would have the cloud. Here they have what managers of the domain
// have, and may give any role within it but `admin`, which on a project is the cloud's. `admin_required: role:admin` in policy.yaml is
// Keystone's own; and to let only administrators of the *system* do what concerns all domains: `role:admin and system_scope:all`.

const ADMIN = 'rule:admin_required'
const READER = 'rule:admin_required or (role:reader and system_scope:all)'
const OWN_ROLE = 'domain_id:%(target.role.domain_id)s or None:%(target.role.domain_id)s'
const IN_PROJECT_DOMAIN = 'domain_id:%(target.project.domain_id)s and not None:%(target.project.domain_id)s'

/** The caller has `role` on the one domain in which both sides of a grant live. */
const both = (role: string): string =>
  ['user', 'group']
    .flatMap(actor => ['project.domain_id', 'domain.id'].map(where => [actor, where]))
    .map(([actor, where]) => `(role:${role} and domain_id:%(target.${actor}.domain_id)s and domain_id:%(target.${where})s)`)
    .join(' or ')

const ANY: readonly Scope[] = ['system', 'domain', 'project']
const SP: readonly Scope[] = ['system', 'project']
const PROJECT: readonly Scope[] = ['project']

const rule = (name: string, check: string, scopes: readonly Scope[], description: string): PolicyRule => ({
  name,
  check,
  scopes,
  description,
})
const term = (name: string, check: string, description: string): PolicyRule => ({ name, check, description })

/** Every rule of identity. */
export const policies: PolicyRule[] = [
  // terms that other rules use
  term(
    'admin_required',
    'role:admin and domain_id:None',
    'An administrator of the system or of a project, who is one of the cloud.',
  ),
  term('service_role', 'role:service', 'A service.'),
  term('service_or_admin', 'rule:admin_required or rule:service_role', 'A service or an administrator.'),
  term('owner', 'user_id:%(user_id)s', 'The user whom it concerns.'),
  term('admin_or_owner', 'rule:admin_required or rule:owner', 'That user or an administrator.'),
  term('token_subject', 'user_id:%(target.token.user_id)s', 'The user of the token that is asked about.'),
  term('admin_or_token_subject', 'rule:admin_required or rule:token_subject', 'That user or an administrator.'),
  term(
    'service_admin_or_token_subject',
    'rule:service_or_admin or rule:token_subject',
    'That user, a service or an administrator.',
  ),
  term(
    'domain_managed_target_role',
    "'manager':%(target.role.name)s or 'member':%(target.role.name)s or 'reader':%(target.role.name)s",
    'The roles that a manager of a domain may give: none above its own.',
  ),
  // access rule
  rule('identity:get_access_rule', '(role:reader and system_scope:all) or user_id:%(target.user.id)s', SP, 'Show access rule.'),
  rule(
    'identity:list_access_rules',
    '(role:reader and system_scope:all) or user_id:%(target.user.id)s',
    SP,
    'List access rules.',
  ),
  rule(
    'identity:delete_access_rule',
    '(role:admin and system_scope:all) or user_id:%(target.user.id)s',
    SP,
    'Delete access rule.',
  ),
  // access token
  rule('identity:authorize_request_token', ADMIN, PROJECT, 'Authorize request token.'),
  rule('identity:get_access_token', ADMIN, PROJECT, 'Show access token.'),
  rule('identity:get_access_token_role', ADMIN, PROJECT, 'Show access token role.'),
  rule('identity:list_access_tokens', ADMIN, PROJECT, 'List access tokens.'),
  rule('identity:list_access_token_roles', ADMIN, PROJECT, 'List access token roles.'),
  rule('identity:delete_access_token', ADMIN, PROJECT, 'Delete access token.'),
  // application credential
  rule('identity:get_application_credential', `${READER} or rule:owner`, SP, 'Show application credential.'),
  rule('identity:list_application_credentials', `${READER} or rule:owner`, SP, 'List application credentials.'),
  rule('identity:create_application_credential', 'user_id:%(user_id)s', PROJECT, 'Create application credential.'),
  rule('identity:delete_application_credential', 'rule:admin_or_owner', SP, 'Delete application credential.'),
  // auth
  rule('identity:get_auth_catalog', '', ANY, 'Show auth catalog.'),
  rule('identity:get_auth_projects', '', ANY, 'Show auth projects.'),
  rule('identity:get_auth_domains', '', ANY, 'Show auth domains.'),
  rule('identity:get_auth_system', '', ANY, 'Show auth system.'),
  // consumer
  rule('identity:get_consumer', READER, SP, 'Show consumer.'),
  rule('identity:list_consumers', READER, SP, 'List consumers.'),
  rule('identity:create_consumer', ADMIN, SP, 'Create consumer.'),
  rule('identity:update_consumer', ADMIN, SP, 'Change consumer.'),
  rule('identity:delete_consumer', ADMIN, SP, 'Delete consumer.'),
  // credential
  rule('identity:get_credential', `${READER} or user_id:%(target.credential.user_id)s`, ANY, 'Show credential.'),
  rule('identity:list_credentials', `${READER} or user_id:%(target.credential.user_id)s`, ANY, 'List credentials.'),
  rule('identity:create_credential', `${ADMIN} or user_id:%(target.credential.user_id)s`, ANY, 'Create credential.'),
  rule('identity:update_credential', `${ADMIN} or user_id:%(target.credential.user_id)s`, ANY, 'Change credential.'),
  rule('identity:delete_credential', `${ADMIN} or user_id:%(target.credential.user_id)s`, ANY, 'Delete credential.'),
  // domain
  rule(
    'identity:get_domain',
    `${READER} or token.domain.id:%(target.domain.id)s or token.project.domain.id:%(target.domain.id)s`,
    ANY,
    'Show domain.',
  ),
  rule('identity:list_domains', `${READER} or (role:reader and domain_id:%(target.domain.id)s)`, ANY, 'List domains.'),
  rule('identity:create_domain', ADMIN, SP, 'Create domain.'),
  rule('identity:update_domain', ADMIN, SP, 'Change domain.'),
  rule('identity:delete_domain', ADMIN, SP, 'Delete domain.'),
  // domain config
  rule('identity:create_domain_config', ADMIN, SP, 'Create domain config.'),
  rule('identity:get_domain_config', READER, SP, 'Show domain config.'),
  rule('identity:get_security_compliance_domain_config', '', ANY, 'Show security compliance domain config.'),
  rule('identity:update_domain_config', ADMIN, SP, 'Change domain config.'),
  rule('identity:delete_domain_config', ADMIN, SP, 'Delete domain config.'),
  rule('identity:get_domain_config_default', READER, SP, 'Show domain config default.'),
  // ec2 credential
  rule('identity:ec2_get_credential', `${READER} or user_id:%(target.credential.user_id)s`, SP, 'Show EC2 credentials.'),
  rule('identity:ec2_list_credentials', `${READER} or rule:owner`, SP, 'List EC2 credentials.'),
  rule(
    'identity:ec2_create_credential',
    `${ADMIN} or (role:member and user_id:%(target.credential.user_id)s)`,
    SP,
    'Create EC2 credentials.',
  ),
  rule(
    'identity:ec2_delete_credential',
    `${ADMIN} or (role:member and user_id:%(target.credential.user_id)s)`,
    SP,
    'Delete EC2 credentials.',
  ),
  // ec2tokens
  rule('identity:ec2tokens_validate', 'rule:service_or_admin', ANY, 'Turn a signed EC2 request into a token.'),
  // endpoint
  rule('identity:get_endpoint', READER, SP, 'Show endpoint.'),
  rule('identity:list_endpoints', READER, SP, 'List endpoints.'),
  rule('identity:create_endpoint', ADMIN, SP, 'Create endpoint.'),
  rule('identity:update_endpoint', ADMIN, SP, 'Change endpoint.'),
  rule('identity:delete_endpoint', ADMIN, SP, 'Delete endpoint.'),
  // endpoint group
  rule('identity:create_endpoint_group', ADMIN, SP, 'Create endpoint group.'),
  rule('identity:list_endpoint_groups', READER, SP, 'List endpoint groups.'),
  rule('identity:get_endpoint_group', READER, SP, 'Show endpoint group.'),
  rule('identity:update_endpoint_group', ADMIN, SP, 'Change endpoint group.'),
  rule('identity:delete_endpoint_group', ADMIN, SP, 'Delete endpoint group.'),
  rule('identity:list_projects_associated_with_endpoint_group', READER, SP, 'List projects associated with endpoint group.'),
  rule('identity:list_endpoints_associated_with_endpoint_group', READER, SP, 'List endpoints associated with endpoint group.'),
  rule('identity:get_endpoint_group_in_project', READER, SP, 'Show endpoint group in project.'),
  rule('identity:list_endpoint_groups_for_project', READER, SP, 'List endpoint groups for project.'),
  rule('identity:add_endpoint_group_to_project', ADMIN, SP, 'Add endpoint group to project.'),
  rule('identity:remove_endpoint_group_from_project', ADMIN, SP, 'Remove endpoint group from project.'),
  // grant
  rule(
    'identity:check_grant',
    `${ADMIN} or ((role:reader and system_scope:all) or (${both('reader')}) and (${OWN_ROLE}))`,
    ANY,
    'Check grant.',
  ),
  rule('identity:list_grants', `${ADMIN} or ((role:reader and system_scope:all) or ${both('reader')})`, ANY, 'List grants.'),
  rule(
    'identity:create_grant',
    `${ADMIN} or (${both('admin')}) and (${OWN_ROLE}) and not 'admin':%(target.role.name)s or (${both('manager')}) and rule:domain_managed_target_role`,
    ANY,
    'Create grant.',
  ),
  rule(
    'identity:revoke_grant',
    `${ADMIN} or (${both('admin')}) and (${OWN_ROLE}) and not 'admin':%(target.role.name)s or (${both('manager')}) and rule:domain_managed_target_role`,
    ANY,
    'Revoke grant.',
  ),
  rule('identity:list_system_grants_for_user', READER, SP, 'List system grants for user.'),
  rule('identity:check_system_grant_for_user', READER, SP, 'Check system grant for user.'),
  rule('identity:create_system_grant_for_user', ADMIN, SP, 'Create system grant for user.'),
  rule('identity:revoke_system_grant_for_user', ADMIN, SP, 'Revoke system grant for user.'),
  rule('identity:list_system_grants_for_group', READER, SP, 'List system grants for group.'),
  rule('identity:check_system_grant_for_group', READER, SP, 'Check system grant for group.'),
  rule('identity:create_system_grant_for_group', ADMIN, SP, 'Create system grant for group.'),
  rule('identity:revoke_system_grant_for_group', ADMIN, SP, 'Revoke system grant for group.'),
  // group
  rule('identity:get_group', `${READER} or (role:reader and domain_id:%(target.group.domain_id)s)`, ANY, 'Show group.'),
  rule('identity:list_groups', `${READER} or (role:reader and domain_id:%(target.group.domain_id)s)`, ANY, 'List groups.'),
  rule(
    'identity:list_groups_for_user',
    `${READER} or (role:reader and domain_id:%(target.user.domain_id)s) or user_id:%(user_id)s`,
    ANY,
    'List groups for user.',
  ),
  rule('identity:create_group', `${ADMIN} or (role:manager and domain_id:%(target.group.domain_id)s)`, ANY, 'Create group.'),
  rule('identity:update_group', `${ADMIN} or (role:manager and domain_id:%(target.group.domain_id)s)`, ANY, 'Change group.'),
  rule('identity:delete_group', `${ADMIN} or (role:manager and domain_id:%(target.group.domain_id)s)`, ANY, 'Delete group.'),
  rule(
    'identity:list_users_in_group',
    `${READER} or (role:reader and domain_id:%(target.group.domain_id)s)`,
    ANY,
    'List users in group.',
  ),
  rule(
    'identity:remove_user_from_group',
    `${ADMIN} or (role:manager and domain_id:%(target.group.domain_id)s and domain_id:%(target.user.domain_id)s)`,
    ANY,
    'Remove user from group.',
  ),
  rule(
    'identity:check_user_in_group',
    `${READER} or (role:reader and domain_id:%(target.group.domain_id)s and domain_id:%(target.user.domain_id)s)`,
    ANY,
    'Check user in group.',
  ),
  rule(
    'identity:add_user_to_group',
    `${ADMIN} or (role:manager and domain_id:%(target.group.domain_id)s and domain_id:%(target.user.domain_id)s)`,
    ANY,
    'Add user to group.',
  ),
  // identity provider
  rule('identity:create_identity_provider', ADMIN, SP, 'Create identity provider.'),
  rule('identity:list_identity_providers', READER, SP, 'List identity providers.'),
  rule('identity:get_identity_provider', READER, SP, 'Show identity provider.'),
  rule('identity:update_identity_provider', ADMIN, SP, 'Change identity provider.'),
  rule('identity:delete_identity_provider', ADMIN, SP, 'Delete identity provider.'),
  // implied role
  rule('identity:get_implied_role', READER, SP, 'Show implied role.'),
  rule('identity:list_implied_roles', READER, SP, 'List implied roles.'),
  rule('identity:create_implied_role', ADMIN, SP, 'Create implied role.'),
  rule('identity:delete_implied_role', ADMIN, SP, 'Delete implied role.'),
  rule('identity:list_role_inference_rules', READER, SP, 'List role inference rules.'),
  rule('identity:check_implied_role', READER, SP, 'Check implied role.'),
  // limit
  rule('identity:get_limit_model', '', ANY, 'Show limit model.'),
  rule(
    'identity:get_limit',
    `${READER} or (domain_id:%(target.limit.domain.id)s or domain_id:%(target.limit.project.domain_id)s) or (project_id:%(target.limit.project_id)s and not None:%(target.limit.project_id)s)`,
    ANY,
    'Show limit.',
  ),
  rule('identity:list_limits', '', ANY, 'List limits.'),
  rule('identity:create_limits', ADMIN, SP, 'Create limits.'),
  rule('identity:update_limit', ADMIN, SP, 'Change limit.'),
  rule('identity:delete_limit', ADMIN, SP, 'Delete limit.'),
  // mapping
  rule('identity:create_mapping', ADMIN, SP, 'Create mapping.'),
  rule('identity:get_mapping', READER, SP, 'Show mapping.'),
  rule('identity:list_mappings', READER, SP, 'List mappings.'),
  rule('identity:delete_mapping', ADMIN, SP, 'Delete mapping.'),
  rule('identity:update_mapping', ADMIN, SP, 'Change mapping.'),
  // policy
  rule('identity:get_policy', READER, SP, 'Show policy.'),
  rule('identity:list_policies', READER, SP, 'List policies.'),
  rule('identity:create_policy', ADMIN, SP, 'Create policy.'),
  rule('identity:update_policy', ADMIN, SP, 'Change policy.'),
  rule('identity:delete_policy', ADMIN, SP, 'Delete policy.'),
  // policy association
  rule('identity:create_policy_association_for_endpoint', ADMIN, SP, 'Create policy association for endpoint.'),
  rule('identity:check_policy_association_for_endpoint', READER, SP, 'Check policy association for endpoint.'),
  rule('identity:delete_policy_association_for_endpoint', ADMIN, SP, 'Delete policy association for endpoint.'),
  rule('identity:create_policy_association_for_service', ADMIN, SP, 'Create policy association for service.'),
  rule('identity:check_policy_association_for_service', READER, SP, 'Check policy association for service.'),
  rule('identity:delete_policy_association_for_service', ADMIN, SP, 'Delete policy association for service.'),
  rule(
    'identity:create_policy_association_for_region_and_service',
    ADMIN,
    SP,
    'Create policy association for region and service.',
  ),
  rule(
    'identity:check_policy_association_for_region_and_service',
    READER,
    SP,
    'Check policy association for region and service.',
  ),
  rule(
    'identity:delete_policy_association_for_region_and_service',
    ADMIN,
    SP,
    'Delete policy association for region and service.',
  ),
  rule('identity:get_policy_for_endpoint', READER, SP, 'Show policy for endpoint.'),
  rule('identity:list_endpoints_for_policy', READER, SP, 'List endpoints for policy.'),
  // project
  rule(
    'identity:get_project',
    `${READER} or (role:reader and ${IN_PROJECT_DOMAIN}) or project_id:%(target.project.id)s`,
    ANY,
    'Show project.',
  ),
  rule('identity:list_projects', `${READER} or (role:reader and domain_id:%(target.domain_id)s)`, ANY, 'List projects.'),
  rule(
    'identity:list_user_projects',
    `${READER} or (role:reader and domain_id:%(target.user.domain_id)s) or user_id:%(target.user.id)s`,
    ANY,
    'List user projects.',
  ),
  rule('identity:create_project', `${ADMIN} or (role:manager and ${IN_PROJECT_DOMAIN})`, ANY, 'Create project.'),
  rule('identity:update_project', `${ADMIN} or (role:manager and ${IN_PROJECT_DOMAIN})`, ANY, 'Change project.'),
  rule('identity:delete_project', `${ADMIN} or (role:manager and ${IN_PROJECT_DOMAIN})`, ANY, 'Delete project.'),
  rule(
    'identity:list_project_tags',
    `${READER} or (role:reader and ${IN_PROJECT_DOMAIN}) or project_id:%(target.project.id)s`,
    ANY,
    'List project tags.',
  ),
  rule(
    'identity:get_project_tag',
    `${READER} or (role:reader and ${IN_PROJECT_DOMAIN}) or project_id:%(target.project.id)s`,
    ANY,
    'Show project tag.',
  ),
  rule('identity:update_project_tags', `${ADMIN} or (role:manager and ${IN_PROJECT_DOMAIN})`, ANY, 'Change project tags.'),
  rule('identity:create_project_tag', `${ADMIN} or (role:manager and ${IN_PROJECT_DOMAIN})`, ANY, 'Create project tag.'),
  rule('identity:delete_project_tags', `${ADMIN} or (role:manager and ${IN_PROJECT_DOMAIN})`, ANY, 'Delete project tags.'),
  rule('identity:delete_project_tag', `${ADMIN} or (role:manager and ${IN_PROJECT_DOMAIN})`, ANY, 'Delete project tag.'),
  // project endpoint
  rule('identity:list_projects_for_endpoint', READER, SP, 'List projects for endpoint.'),
  rule('identity:add_endpoint_to_project', ADMIN, SP, 'Add endpoint to project.'),
  rule('identity:check_endpoint_in_project', READER, SP, 'Check endpoint in project.'),
  rule('identity:list_endpoints_for_project', READER, SP, 'List endpoints for project.'),
  rule('identity:remove_endpoint_from_project', ADMIN, SP, 'Remove endpoint from project.'),
  // protocol
  rule('identity:create_protocol', ADMIN, SP, 'Create protocol.'),
  rule('identity:update_protocol', ADMIN, SP, 'Change protocol.'),
  rule('identity:get_protocol', READER, SP, 'Show protocol.'),
  rule('identity:list_protocols', READER, SP, 'List protocols.'),
  rule('identity:delete_protocol', ADMIN, SP, 'Delete protocol.'),
  // region
  rule('identity:get_region', '', ANY, 'Show region.'),
  rule('identity:list_regions', '', ANY, 'List regions.'),
  rule('identity:create_region', ADMIN, SP, 'Create region.'),
  rule('identity:update_region', ADMIN, SP, 'Change region.'),
  rule('identity:delete_region', ADMIN, SP, 'Delete region.'),
  // registered limit
  rule('identity:get_registered_limit', '', ANY, 'Show registered limit.'),
  rule('identity:list_registered_limits', '', ANY, 'List registered limits.'),
  rule('identity:create_registered_limits', ADMIN, SP, 'Create registered limits.'),
  rule('identity:update_registered_limit', ADMIN, SP, 'Change registered limit.'),
  rule('identity:delete_registered_limit', ADMIN, SP, 'Delete registered limit.'),
  // tokens of a user
  rule('identity:revoke_user_tokens', `${ADMIN} or user_id:%(target.user.id)s`, ANY, 'Revoke all tokens of a user.'),
  // revoke event
  rule('identity:list_revoke_events', 'rule:service_or_admin', SP, 'List revoke events.'),
  // role
  rule('identity:get_role', `${READER} or (role:manager and rule:domain_managed_target_role)`, ANY, 'Show role.'),
  rule('identity:list_roles', `${READER} or (role:manager and not domain_id:None)`, ANY, 'List roles.'),
  rule('identity:create_role', ADMIN, SP, 'Create role.'),
  rule('identity:update_role', ADMIN, SP, 'Change role.'),
  rule('identity:delete_role', ADMIN, SP, 'Delete role.'),
  rule('identity:get_domain_role', READER, SP, 'Show domain role.'),
  rule('identity:list_domain_roles', READER, SP, 'List domain roles.'),
  rule('identity:create_domain_role', ADMIN, SP, 'Create domain role.'),
  rule('identity:update_domain_role', ADMIN, SP, 'Change domain role.'),
  rule('identity:delete_domain_role', ADMIN, SP, 'Delete domain role.'),
  // role assignment
  rule(
    'identity:list_role_assignments',
    `${READER} or (role:reader and domain_id:%(target.domain_id)s)`,
    ANY,
    'List role assignments.',
  ),
  rule(
    'identity:list_role_assignments_for_tree',
    `${READER} or (role:reader and domain_id:%(target.domain_id)s)`,
    ANY,
    'List role assignments for tree.',
  ),
  // s3tokens
  rule('identity:s3tokens_validate', 'rule:service_or_admin', ANY, 'Turn a signed S3 request into a token.'),
  // service
  rule('identity:get_service', READER, SP, 'Show service.'),
  rule('identity:list_services', READER, SP, 'List services.'),
  rule('identity:create_service', ADMIN, SP, 'Create service.'),
  rule('identity:update_service', ADMIN, SP, 'Change service.'),
  rule('identity:delete_service', ADMIN, SP, 'Delete service.'),
  // service provider
  rule('identity:create_service_provider', ADMIN, SP, 'Create service provider.'),
  rule('identity:list_service_providers', READER, SP, 'List service providers.'),
  rule('identity:get_service_provider', READER, SP, 'Show service provider.'),
  rule('identity:update_service_provider', ADMIN, SP, 'Change service provider.'),
  rule('identity:delete_service_provider', ADMIN, SP, 'Delete service provider.'),
  // token
  rule('identity:check_token', `${READER} or rule:token_subject`, ANY, 'Check token.'),
  rule('identity:validate_token', `${READER} or rule:service_role or rule:token_subject`, ANY, 'Validate token.'),
  rule('identity:revoke_token', `${ADMIN} or rule:token_subject`, ANY, 'Revoke token.'),
  // token revocation
  rule('identity:revocation_list', 'rule:service_or_admin', SP, 'List revoked PKI tokens.'),
  // trust
  rule('identity:create_trust', 'user_id:%(target.trust.trustor_user_id)s', PROJECT, 'Create trust.'),
  rule('identity:list_trusts', READER, SP, 'List trusts.'),
  rule(
    'identity:list_trusts_for_trustor',
    `${ADMIN} or (role:reader and system_scope:all or user_id:%(target.trust.trustor_user_id)s)`,
    SP,
    'List trusts for trustor.',
  ),
  rule(
    'identity:list_trusts_for_trustee',
    `${ADMIN} or (role:reader and system_scope:all or user_id:%(target.trust.trustee_user_id)s)`,
    SP,
    'List trusts for trustee.',
  ),
  rule(
    'identity:list_roles_for_trust',
    `${ADMIN} or (role:reader and system_scope:all or user_id:%(target.trust.trustor_user_id)s or user_id:%(target.trust.trustee_user_id)s)`,
    SP,
    'List roles for trust.',
  ),
  rule(
    'identity:get_role_for_trust',
    `${ADMIN} or (role:reader and system_scope:all or user_id:%(target.trust.trustor_user_id)s or user_id:%(target.trust.trustee_user_id)s)`,
    SP,
    'Show role for trust.',
  ),
  rule('identity:delete_trust', `${ADMIN} or user_id:%(target.trust.trustor_user_id)s`, SP, 'Delete trust.'),
  rule(
    'identity:get_trust',
    `${ADMIN} or (role:reader and system_scope:all or user_id:%(target.trust.trustor_user_id)s or user_id:%(target.trust.trustee_user_id)s)`,
    SP,
    'Show trust.',
  ),
  // user
  rule(
    'identity:get_user',
    `${READER} or (role:reader and token.domain.id:%(target.user.domain_id)s) or user_id:%(target.user.id)s`,
    ANY,
    'Show user.',
  ),
  rule('identity:list_users', `${READER} or (role:reader and domain_id:%(target.domain_id)s)`, ANY, 'List users.'),
  rule('identity:list_projects_for_user', '', ANY, 'List projects for user.'),
  rule('identity:list_domains_for_user', '', ANY, 'List domains for user.'),
  rule('identity:create_user', `${ADMIN} or (role:manager and token.domain.id:%(target.user.domain_id)s)`, ANY, 'Create user.'),
  rule('identity:update_user', `${ADMIN} or (role:manager and token.domain.id:%(target.user.domain_id)s)`, ANY, 'Change user.'),
  rule('identity:delete_user', `${ADMIN} or (role:manager and token.domain.id:%(target.user.domain_id)s)`, ANY, 'Delete user.'),
]
