import { settings } from '#kit/config.ts'
import { Array, Boolean, Enum, Integer, Object, OneOf, Optional, String } from '#kit/http/schema.ts'

// Named as in keystone.conf, so that its documentation applies: its section [token] is the group `token` here, and so on.
// A folder that is not absolute lies in the data folder.

const days = (description: string) => Optional(Integer({ minimum: 1, description }))
const urlSafe = (what: string) =>
  Enum(['off', 'new', 'strict'], {
    default: 'off',
    description: `Refuse ${what} names with characters that are reserved in URLs: never, for new ones, or also at authentication.`,
  })

/** The section `keystone` of the configuration. */
export const keystoneSettings = settings(
  'keystone',
  Object({
    public_endpoint: Optional(String({ description: 'URL written into links. By default the one that the request came to.' })),
    max_project_tree_depth: Integer({
      default: 5,
      minimum: 1,
      description: 'Greatest depth of a project below its domain, the domain counted.',
    }),
    list_limit: Optional(Integer({ minimum: 1, description: 'Most entries of a list. Unset, lists are whole.' })),
    max_page: Integer({ default: 1000, minimum: 1, description: 'Most entries of a page when the caller asks for pages.' }),
    strict_password_check: Boolean({ default: false, description: 'Refuse a password that is too long instead of cutting it.' }),
    notification_format: Enum(['basic', 'cadf'], {
      default: 'cadf',
      description: 'Form of the notifications of authentication.',
    }),
    notification_opt_out: Array(String(), {
      default: ['identity.authenticate.success', 'identity.authenticate.pending'],
      description: 'Events of which no notification is written.',
    }),
    identity: Object({
      default_domain_id: String({ default: 'default', description: 'Domain of those who name none.' }),
      max_password_length: Integer({ default: 4096, minimum: 1, description: 'Bytes of a password that count.' }),
      password_hash_algorithm: Enum(['scrypt', 'bcrypt', 'bcrypt_sha256', 'pbkdf2_sha512', 'argon2id'], {
        default: 'scrypt',
        description: 'Hash of new passwords. A Keystone that takes over the table cannot read argon2id.',
      }),
      password_hash_rounds: Optional(
        Integer({ minimum: 1, description: 'Cost: log2 of N for scrypt and of rounds for bcrypt, iterations for pbkdf2.' }),
      ),
      salt_bytesize: Optional(Integer({ minimum: 8, maximum: 96, description: 'Bytes of salt.' })),
      scrypt_block_size: Optional(Integer({ minimum: 1, description: 'r of scrypt.' })),
      scrypt_parallelism: Optional(Integer({ minimum: 1, description: 'p of scrypt.' })),
    }),
    auth: Object({
      methods: Array(String(), {
        default: [
          'external',
          'password',
          'token',
          'oauth1',
          'mapped',
          'application_credential',
          'totp',
          'oauth2_credential',
          'openid',
          'saml2',
        ],
        description: 'Methods on offer. Their order is part of the token format: equal on all servers that share keys.',
      }),
    }),
    token: Object({
      provider: Enum(['fernet', 'jws'], {
        default: 'fernet',
        description: 'Format of new tokens. Tokens of both formats are accepted.',
      }),
      expiration: Integer({ default: 3600, minimum: 1, description: 'Life of a token in seconds.' }),
      allow_rescope_scoped_token: Boolean({
        default: true,
        description: 'Allow a scoped token to be exchanged for another scope.',
      }),
      allow_expired_window: Integer({
        default: 172800,
        minimum: 0,
        description: 'Seconds for which services may still validate an expired token.',
      }),
      cache_size: Integer({ default: 20000, minimum: 0, description: 'Tokens that a process remembers as valid.' }),
    }),
    fernet_tokens: Object({
      key_repository: String({ default: 'keystone/fernet-keys', description: 'Folder of the keys of tokens.' }),
      max_active_keys: Integer({ default: 3, minimum: 1, description: 'Keys kept by a rotation.' }),
    }),
    fernet_receipts: Object({
      key_repository: String({ default: 'keystone/fernet-receipt-keys', description: 'Folder of the keys of receipts.' }),
      max_active_keys: Integer({ default: 3, minimum: 1, description: 'Keys kept by a rotation.' }),
    }),
    receipt: Object({
      expiration: Integer({ default: 300, minimum: 1, description: 'Seconds in which a half-done login can be finished.' }),
    }),
    jwt_tokens: Object({
      jws_algorithm: Enum(['ES256', 'ES384', 'ES512', 'EdDSA'], { default: 'ES256', description: 'Signature of new tokens.' }),
      jws_accepted_algorithms: Array(OneOf('ES256', 'ES384', 'ES512', 'EdDSA'), {
        default: ['ES256'],
        description: 'Signatures accepted.',
      }),
      jws_public_key_repository: String({ default: 'keystone/jws-keys/public', description: 'Folder of public keys.' }),
      jws_private_key_repository: String({ default: 'keystone/jws-keys/private', description: 'Folder of private.pem.' }),
    }),
    credential: Object({
      key_repository: String({
        default: 'keystone/credential-keys',
        description: 'Folder of the keys that encrypt credentials.',
      }),
      auth_ttl: Integer({ default: 15, minimum: 1, description: 'Minutes for which a signed EC2 or S3 request is good.' }),
      user_limit: Integer({ default: -1, description: 'Credentials a user can have; -1 for any number.' }),
    }),
    application_credential: Object({
      user_limit: Integer({ default: -1, description: 'Application credentials a user can have; -1 for any number.' }),
    }),
    trust: Object({
      max_redelegation_count: Integer({ default: 3, minimum: 0, description: 'Longest chain of trusts.' }),
    }),
    totp: Object({
      included_previous_windows: Integer({
        default: 1,
        minimum: 0,
        maximum: 10,
        description: 'Older passcodes still taken, each of 30 s.',
      }),
    }),
    resource: Object({
      project_name_url_safe: urlSafe('project'),
      domain_name_url_safe: urlSafe('domain'),
      admin_project_domain_name: Optional(String({ description: 'Domain of the administrative project.' })),
      admin_project_name: Optional(String({ description: 'Project whose tokens carry is_admin_project.' })),
    }),
    revoke: Object({
      expiration_buffer: Integer({
        default: 1800,
        minimum: 0,
        description: 'Seconds that a revocation is kept longer than any token lives.',
      }),
    }),
    unified_limit: Object({
      enforcement_model: Enum(['flat', 'strict_two_level'], {
        default: 'flat',
        description: 'How limits of a tree of projects relate.',
      }),
    }),
    security_compliance: Object({
      disable_user_account_days_inactive: days('Days without a login after which a user is disabled.'),
      // Unlike Keystone, which lets guessing go on for ever unless told otherwise. The lockout is short because it can be brought about
      // by anybody who knows a name.
      lockout_failure_attempts: Integer({
        default: 2,
        minimum: 0,
        description: 'Wrong passwords in a row that lock a user out; 0 for never.',
      }),
      lockout_duration: Integer({ default: 10, minimum: 1, description: 'Seconds of a lockout.' }),
      password_expires_days: days('Days for which a password is good.'),
      unique_last_password_count: Integer({
        default: 2,
        minimum: 0,
        description: 'Last passwords, the present one among them, that a user cannot choose again.',
      }),
      minimum_password_age: Integer({ default: 0, minimum: 0, description: 'Days before a user can change the password again.' }),
      password_regex: Optional(String({ description: 'Regular expression that passwords must match.' })),
      password_regex_description: Optional(String({ description: 'The same in words, for users.' })),
      change_password_upon_first_use: Boolean({
        default: false,
        description: 'A password set by an administrator must be changed first.',
      }),
      report_invalid_password_hash: Array(OneOf('event'), {
        default: [],
        description: 'Where a partial hash of wrong passwords is reported.',
      }),
      invalid_password_hash_secret_key: Optional(String({ description: 'Key of those hashes.' })),
      invalid_password_hash_function: Enum(['sha256', 'sha384', 'sha512'], {
        default: 'sha256',
        description: 'Function of those hashes.',
      }),
      invalid_password_hash_max_chars: Optional(Integer({ minimum: 1, description: 'Characters of them that are reported.' })),
    }),
    federation: Object({
      assertion_prefix: String({ default: '', description: 'Only assertion attributes with this prefix are used.' }),
      remote_id_attribute: Optional(String({ description: 'Attribute that names the identity provider.' })),
      trusted_dashboard: Array(String(), { default: [], description: 'URLs that a web login may be sent back to.' }),
      default_authorization_ttl: Integer({
        default: 0,
        minimum: 0,
        description: 'Minutes for which asserted group memberships outlive a login.',
      }),
      attribute_mapping_default_schema_version: Enum(['1.0', '2.0'], {
        default: '1.0',
        description: 'Schema of mappings that name none.',
      }),
      openid: Array(
        Object({
          identity_provider: String({ description: 'Identity provider, as its resource is called.' }),
          issuer: String({ pattern: '^https?://', description: 'Issuer URL.' }),
          client_id: String({ description: 'Our id there.' }),
          client_secret: Optional(String({ description: 'Our secret there.' })),
          audience: Optional(String({ description: 'Audience that access tokens must have. By default our id.' })),
          scope: String({ default: 'openid email profile', description: 'Scopes asked for when a browser logs in.' }),
        }),
        { default: [], description: 'OpenID Connect providers whose tokens are taken.' },
      ),
      saml: Array(
        Object({
          identity_provider: String({ description: 'Identity provider, as its resource is called.' }),
          entry_point: String({ pattern: '^https?://', description: 'Where browsers log in.' }),
          certificate: String({ description: 'File with the certificate it signs with (PEM).' }),
          entity_id: Optional(String({ description: 'Our name there, and the audience that assertions must have.' })),
          issuer: Optional(String({ description: 'Its name, which assertions must carry.' })),
        }),
        { default: [], description: 'SAML 2.0 providers whose assertions are taken.' },
      ),
    }),
    saml: Object({
      certfile: String({
        default: 'keystone/saml/signing.pem',
        description: 'Certificate that our assertions are signed with; made if missing.',
      }),
      keyfile: String({ default: 'keystone/saml/signing.key', description: 'Its key.' }),
      assertion_expiration_time: Integer({
        default: 3600,
        minimum: 1,
        description: 'Seconds for which our assertions are good.',
      }),
      idp_entity_id: Optional(String({ description: 'Our name as an identity provider. By default our URL.' })),
      idp_sso_endpoint: Optional(String({ description: 'Login URL told in the metadata.' })),
      idp_organization_name: String({ default: 'Nubo', description: 'Organization told in the metadata.' }),
      idp_organization_display_name: Optional(String({ description: 'Its name for people. By default the same.' })),
      idp_organization_url: String({ default: 'https://example.com/', description: 'Its URL.' }),
      idp_lang: String({ default: 'en', description: 'Language of these names.' }),
      idp_contact_type: Enum(['technical', 'support', 'administrative', 'billing', 'other'], {
        default: 'other',
        description: 'For what the contact in the metadata is; it is told when any of the following is set.',
      }),
      idp_contact_company: Optional(String({ description: 'Company of the contact.' })),
      idp_contact_name: Optional(String({ description: 'Given name.' })),
      idp_contact_surname: Optional(String({ description: 'Surname.' })),
      idp_contact_email: Optional(String({ description: 'E-mail address.' })),
      idp_contact_telephone: Optional(String({ description: 'Telephone number.' })),
    }),
    oauth1: Object({
      request_token_duration: Integer({ default: 28800, minimum: 0, description: 'Seconds; 0 for ever.' }),
      access_token_duration: Integer({ default: 86400, minimum: 0, description: 'Seconds; 0 for ever.' }),
    }),
    oauth2: Object({
      oauth2_authn_methods: Array(OneOf('tls_client_auth', 'client_secret_basic'), {
        default: ['tls_client_auth', 'client_secret_basic'],
        description: 'How an OAuth 2.0 client proves who it is.',
      }),
      oauth2_cert_dn_mapping_id: String({ default: 'oauth2_mapping', description: 'Mapping of certificate subjects to users.' }),
    }),
    endpoint_filter: Object({
      return_all_endpoints_if_no_filter: Boolean({
        default: true,
        description: 'Whether a scope with which no endpoints are associated has all in its catalog; else it has none.',
      }),
    }),
    healthcheck: Object({
      disable_by_file_path: Optional(String({ description: 'File whose presence makes the health check answer 503.' })),
    }),
  }),
  'Identity.',
)
