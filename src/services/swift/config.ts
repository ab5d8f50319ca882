/** The `swift` section of Nubo's configuration file. */
import { settings } from '#kit/config.ts'
import { Array, Boolean, Number, Object, Optional, String } from '#kit/http/schema.ts'

export const swiftSettings = settings(
  'swift',
  Object({
    devices: Array(String({ minLength: 1 }), {
      default: [],
      description: 'Folders that hold objects, one a disk. Without any: one folder in the data folder.',
    }),
    replicas: Number({ default: 1, minimum: 1, description: 'Copies of each object, each on a device of its own.' }),
    erasure_code: Optional(
      String({
        pattern: '^[0-9]+\\+[0-9]+$',
        description: 'Adds the storage policy "ec" with that many data and parity fragments (4+2), each on a device of its own.',
      }),
    ),
    operator_roles: Array(String(), {
      default: ['admin', 'manager', 'member', 'swiftoperator'],
      description: 'Roles that own the account of their project.',
    }),
    reseller_roles: Array(String(), { default: ['ResellerAdmin'], description: 'Roles that may do all in every account.' }),
    service_roles: Array(String(), {
      default: ['service'],
      description: 'Roles of a service token that open accounts of the prefix SERVICE_.',
    }),
    region: String({ default: 'RegionOne', description: 'Region that the S3 API signs for.' }),
    s3_domain: Optional(String({ description: 'Domain under which bucket names are host names for the S3 API.' })),
    realms: Array(
      Object({
        name: String({ description: 'Name of the realm.' }),
        key: String({ description: 'Secret of the realm.' }),
        clusters: Array(
          Object({
            name: String({ description: 'Name of the cluster.' }),
            url: String({ description: 'Its endpoint, up to /v1/.' }),
          }),
          {
            default: [],
            description: 'Clusters of the realm.',
          },
        ),
      }),
      {
        default: [],
        description: 'Realms of container sync. Without any: realm1 with the one cluster name1, which is this one.',
      },
    ),
    current_realm: Optional(String({ description: 'This cluster, as REALM/CLUSTER.' })),
    storage_domain: Optional(String({ description: 'Domain whose subdomains name accounts and containers.' })),
    encryption_key: Optional(
      String({ minLength: 44, description: 'Base64 of at least 32 bytes: objects are encrypted at rest under it.' }),
    ),
    auto_shard: Boolean({
      default: false,
      description: 'Split every container of a million objects; else only those with X-Container-Sharding.',
    }),
    read_only: Boolean({ default: false, description: 'Refuse all writes.' }),
    reserve: Number({
      default: 0.01,
      minimum: 0,
      description: 'Free space kept on each device: bytes, or a share when below 1.',
    }),
    interval: Number({
      default: 10,
      minimum: 1,
      description: 'Seconds between passes of the updaters, the expirer and container sync.',
    }),
    audit_interval: Number({ default: 3600, minimum: 1, description: 'Seconds between passes of the auditors.' }),
  }),
  'Object storage.',
)
