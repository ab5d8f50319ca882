import { settings } from '#kit/config.ts'
import { Integer, Object, String } from '#kit/http/schema.ts'

export const glanceSettings = settings(
  'glance',
  Object({
    store: String({ default: 'images', description: 'Folder of the image files, below the data folder unless absolute.' }),
    image_size_cap: Integer({ default: 1_099_511_627_776, minimum: 1, description: 'Largest image, in bytes.' }),
    image_property_quota: Integer({ default: 128, minimum: -1, description: 'Most properties of an image; -1: any number.' }),
    image_tag_quota: Integer({ default: 128, minimum: -1, description: 'Most tags of an image; -1: any number.' }),
    image_member_quota: Integer({
      default: 128,
      minimum: -1,
      description: 'Most projects that an image is shared with; -1: any number.',
    }),
    limit_param_default: Integer({ default: 25, minimum: 1, description: 'Images in one answer of a list that names no limit.' }),
    api_limit_max: Integer({ default: 1000, minimum: 1, description: 'Most images in one answer of a list.' }),
  }),
  'The image service. Names are those of glance-api.conf.',
)
