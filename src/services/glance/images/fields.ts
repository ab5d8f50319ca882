/** The fields of an image, once: what clients may give, and which names are ours. Source: the image API's schema document. */
import * as S from '#kit/http/schema.ts'

export const DISK_FORMATS = [
  'ami',
  'ari',
  'aki',
  'vhd',
  'vhdx',
  'vmdk',
  'raw',
  'qcow2',
  'vdi',
  'iso',
  'ploop',
  'gpt',
  'luks',
] as const
export const CONTAINER_FORMATS = ['ami', 'ari', 'aki', 'bare', 'ovf', 'ova', 'docker', 'compressed'] as const
export const VISIBILITIES = ['community', 'public', 'private', 'shared'] as const

const Int32 = S.Integer({ minimum: 0, maximum: 2_147_483_647 })

/** What POST takes beside free properties, and what a patch may replace. */
export const GIVEN = {
  name: S.Nullable(S.String({ maxLength: 255 })),
  visibility: S.OneOf(...VISIBILITIES),
  protected: S.Boolean(),
  os_hidden: S.Boolean(),
  owner: S.Nullable(S.String({ maxLength: 255 })),
  container_format: S.Nullable(S.OneOf(...CONTAINER_FORMATS)),
  disk_format: S.Nullable(S.OneOf(...DISK_FORMATS)),
  min_ram: Int32,
  min_disk: Int32,
  tags: S.Array(S.String({ maxLength: 255 })),
}
export type GivenName = keyof typeof GIVEN

/** Any other property. */
export const FREE = S.String({ maxLength: 65_535 })

export const UUID_PATTERN = '^([0-9a-fA-F]){8}-([0-9a-fA-F]){4}-([0-9a-fA-F]){4}-([0-9a-fA-F]){4}-([0-9a-fA-F]){12}$'

/** Free properties of which more is known. Null means that the image has it not. */
export const KNOWN = {
  kernel_id: S.Nullable(S.String({ pattern: UUID_PATTERN })),
  ramdisk_id: S.Nullable(S.String({ pattern: UUID_PATTERN })),
}

const Location = S.Object({
  url: S.String({ maxLength: 255 }),
  metadata: S.Record(S.String(), S.Unknown()),
  validation_data: S.Optional(
    S.Object(
      {
        checksum: S.Optional(S.String({ minLength: 32, maxLength: 32 })),
        os_hash_algo: S.String({ maxLength: 64 }),
        os_hash_value: S.String({ maxLength: 128 }),
      },
      { additionalProperties: false },
    ),
  ),
})

/** Every name with a shape of its own. */
export const FIELDS: Record<string, S.TSchema> = { ...GIVEN, ...KNOWN, locations: S.Array(Location) }

/** Fields that only we set. */
export const READ_ONLY = new Set([
  'id',
  'status',
  'checksum',
  'os_hash_algo',
  'os_hash_value',
  'size',
  'virtual_size',
  'created_at',
  'updated_at',
  'self',
  'file',
  'schema',
  'direct_url',
  'stores',
  'location',
  'deleted',
  'deleted_at',
])

/** Properties of this kind are the service's own. */
export const RESERVED = /^os_glance/

/** The columns of a list that it can be sorted by. */
export const SORT_KEYS = ['name', 'status', 'container_format', 'disk_format', 'size', 'id', 'created_at', 'updated_at'] as const
