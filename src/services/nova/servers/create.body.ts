/** The body of POST /servers, by microversion. */
import * as S from '#kit/http/schema.ts'
import { Base64, Description, Flag, FlavorRef, Fqdn, Hostname, IpAddress, Metadata, Name, Tag, Whole } from '../fields.ts'
import { V } from '../versions.ts'

const CLOSED = { additionalProperties: false }
const { Optional, since, until } = S

export const Personality = () => S.Array(S.Object({ path: Optional(S.String()), contents: Optional(Base64()) }, CLOSED))
export const TrustedCerts = () =>
  S.Nullable(S.Array(S.String({ minLength: 1 }), { minItems: 1, maxItems: 50, uniqueItems: true }))
export const DiskConfig = () => S.OneOf('AUTO', 'MANUAL')

const Network = (uuid: S.TSchema, tag: (schema: S.TSchema) => S.TSchema) =>
  S.Object(
    {
      fixed_ip: Optional(IpAddress()),
      port: Optional(S.Nullable(S.Uuid())),
      uuid: Optional(uuid),
      tag: tag(Optional(Tag())),
    },
    CLOSED,
  )

/** What a caller may say of one network. */
export interface NetworkBody {
  fixed_ip?: string
  port?: string | null
  uuid?: string
  tag?: string
}

const tagged32 = (tag: S.TSchema) => until(V.noProxies, since(V.deviceTags, tag))
const tagged42 = (tag: S.TSchema) => since(V.deviceTagsAgain, tag)

const Networks = S.byVersion(
  [0, Optional(S.Array(Network(S.String(), tagged32)))],
  [V.networksRequired, S.Union([S.Array(Network(S.Uuid(), tagged42)), S.OneOf('none', 'auto')])],
) as unknown as ReturnType<typeof S.Unsafe<NetworkBody[] | 'none' | 'auto' | undefined>>

const deviceFields = {
  virtual_name: Optional(S.String({ maxLength: 255 })),
  volume_id: Optional(S.Uuid()),
  snapshot_id: Optional(S.Uuid()),
  volume_size: Optional(Whole(1)),
  device_name: Optional(S.String({ minLength: 1, maxLength: 255, pattern: '^[a-zA-Z0-9._/-]*$' })),
  delete_on_termination: Optional(Flag()),
  no_device: Optional(S.Unknown()),
  connection_info: Optional(S.String({ maxLength: 16_777_215 })),
}

const BlockDevice = S.Object(
  {
    ...deviceFields,
    source_type: Optional(S.OneOf('volume', 'image', 'snapshot', 'blank')),
    uuid: Optional(S.String({ minLength: 1, maxLength: 255, pattern: '^[a-zA-Z0-9._-]*$' })),
    image_id: Optional(S.Uuid()),
    destination_type: Optional(S.OneOf('local', 'volume')),
    guest_format: Optional(S.String({ maxLength: 255 })),
    device_type: Optional(S.String({ maxLength: 255 })),
    disk_bus: Optional(S.String({ maxLength: 255 })),
    boot_index: Optional(S.Unsafe<number | string | null>({ type: ['integer', 'string', 'null'], pattern: '^-?[0-9]+$' })),
    // There in 2.32, then lost by mistake until 2.42.
    tag: S.byVersion(
      [0, S.until(0, Optional(Tag()))],
      [V.deviceTags, until(V.deviceTags, Optional(Tag()))],
      [V.deviceTagsAgain, Optional(Tag())],
    ) as unknown as ReturnType<typeof Optional<ReturnType<typeof Tag>>>,
    volume_type: since(V.bdmVolumeType, Optional(S.Nullable(S.String({ maxLength: 255 })))),
  },
  CLOSED,
)
export type BlockDeviceBody = S.Static<typeof BlockDevice>

const UUIDS = {
  oneOf: [
    { type: 'string', format: 'uuid' },
    { type: 'array', items: { type: 'string', format: 'uuid' } },
  ],
}
const Hints = () =>
  S.Unsafe<Record<string, unknown>>({
    type: 'object',
    properties: {
      group: UUIDS,
      different_host: UUIDS,
      same_host: { type: ['string', 'array'], items: { type: 'string', format: 'uuid' } },
      query: { type: ['string', 'object', 'array'] },
      target_cell: { type: 'string', minLength: 1, maxLength: 255 },
      different_cell: { type: ['string', 'array'], items: { type: 'string' } },
      build_near_host_ip: {
        oneOf: [
          { type: 'string', format: 'ipv4' },
          { type: 'string', format: 'ipv6' },
        ],
      },
      cidr: { type: 'string', pattern: '^/[0-9a-f.:]+$' },
    },
  })

export const createBody = S.Object(
  {
    server: S.Object(
      {
        name: Name(),
        imageRef: Optional(S.Union([S.Uuid(), S.String({ maxLength: 0 })])),
        flavorRef: FlavorRef(),
        adminPass: Optional(S.String()),
        metadata: Optional(Metadata()),
        networks: Networks,
        'OS-DCF:diskConfig': Optional(DiskConfig()),
        accessIPv4: Optional(S.String({ format: 'ipv4' })),
        accessIPv6: Optional(S.String({ format: 'ipv6' })),
        personality: until(V.noPersonality - 1, Optional(Personality())),
        availability_zone: Optional(Name()),
        block_device_mapping: Optional(S.Array(S.Object(deviceFields, CLOSED))),
        block_device_mapping_v2: Optional(S.Array(BlockDevice)),
        config_drive: Optional(Flag()),
        key_name: Optional(Name()),
        min_count: Optional(Whole(1)),
        max_count: Optional(Whole(1)),
        return_reservation_id: Optional(Flag()),
        security_groups: Optional(S.Array(S.Object({ name: Optional(Name()) }, CLOSED))),
        user_data: Optional(Base64(65_535)),
        description: since(V.description, Optional(Description())),
        tags: since(V.createTags, Optional(S.Array(Tag(), { maxItems: 50 }))),
        trusted_image_certificates: since(V.trustedCerts, Optional(TrustedCerts())),
        host: since(V.requestedHost, Optional(Fqdn())),
        hypervisor_hostname: since(V.requestedHost, Optional(Fqdn())),
        hostname: S.byVersion(
          [0, until(0, Optional(Hostname()))],
          [V.hostname, Optional(Hostname())],
          [V.fqdn, Optional(Fqdn())],
        ) as unknown as ReturnType<typeof Optional<ReturnType<typeof Hostname>>>,
      },
      CLOSED,
    ),
    'os:scheduler_hints': Optional(Hints()),
    'OS-SCH-HNT:scheduler_hints': Optional(Hints()),
  },
  CLOSED,
)
export type CreateBody = S.Static<typeof createBody>
