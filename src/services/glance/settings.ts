import { settings } from '#kit/config.ts'
import { Array, Boolean, Integer, Object, Optional, String } from '#kit/http/schema.ts'

const Strings = (defaults: string[], description: string) => Array(String(), { default: defaults, description })
const Ports = (defaults: number[], description: string) =>
  Array(Integer({ minimum: 1, maximum: 65_535 }), { default: defaults, description })

const Store = Object({
  id: String({ pattern: '^[A-Za-z0-9_-]{1,64}$', description: 'Its name on the wire.' }),
  path: Optional(String({ description: 'Folder of its files, below the data folder unless absolute.' })),
  container: Optional(
    String({
      pattern: '^[A-Za-z0-9._-]{1,200}$',
      description:
        'In place of a folder: a container of object storage (in an account of its own), for processes that answer for that too.',
    }),
  ),
  segment_size: Integer({
    default: 209_715_200,
    minimum: 1,
    maximum: 5_368_709_120,
    description: 'In a container: bytes of one object. A larger image is several.',
  }),
  description: Optional(String({ description: 'What users are told of it.' })),
})

export const glanceSettings = settings(
  'glance',
  Object({
    stores: Array(Store, {
      default: [{ id: 'file', path: 'images', description: 'Files on the disks of the controllers' }],
      minItems: 1,
      description: 'Where the bytes of images are kept. The first is the default.',
    }),
    staging: String({ default: 'images/staging', description: 'Folder of bytes that wait for an import.' }),
    image_cache_dir: String({ default: 'images/cache', description: "Folder of this controller's copies of images." }),
    image_cache_max_size: Integer({ default: 10_737_418_240, minimum: 0, description: 'Most bytes of such copies.' }),
    image_size_cap: Integer({ default: 1_099_511_627_776, minimum: 1, description: 'Largest image, in bytes.' }),
    image_property_quota: Integer({ default: 128, minimum: -1, description: 'Most properties of an image; -1: any number.' }),
    image_tag_quota: Integer({ default: 128, minimum: -1, description: 'Most tags of an image; -1: any number.' }),
    image_location_quota: Integer({ default: 10, minimum: -1, description: 'Most locations of an image; -1: any number.' }),
    image_member_quota: Integer({
      default: 128,
      minimum: -1,
      description: 'Most projects that an image is shared with; -1: any number.',
    }),
    limit_param_default: Integer({ default: 25, minimum: 1, description: 'Images in one answer of a list that names no limit.' }),
    api_limit_max: Integer({ default: 1000, minimum: 1, description: 'Most images in one answer of a list.' }),
    enabled_import_methods: Strings(
      ['glance-direct', 'web-download', 'copy-image', 'glance-download'],
      'Ways of importing data that users may choose.',
    ),
    import_filtering_opts: Object({
      allowed_schemes: Strings(['http', 'https'], 'Schemes of URLs that may be fetched; none: all but the disallowed.'),
      disallowed_schemes: Strings([], 'Schemes of URLs that may not be fetched.'),
      allowed_hosts: Strings([], 'Hosts that may be fetched from; none: all but the disallowed.'),
      disallowed_hosts: Strings(['169.254.169.254'], 'Hosts that may not be fetched from.'),
      allowed_ports: Ports([80, 443], 'Ports that may be fetched from; none: all but the disallowed.'),
      disallowed_ports: Ports([], 'Ports that may not be fetched from.'),
    }),
    show_multiple_locations: Boolean({ default: true, description: 'Whether images show and take their locations.' }),
  }),
  'The image service. Names are those of glance-api.conf.',
)
