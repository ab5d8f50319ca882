/** Schemas of images, members and tasks. */
import { CONTAINER_FORMATS, DISK_FORMATS, UUID_PATTERN, VISIBILITIES } from '../images/fields.ts'
import { type Doc, link, many, nullable, one, text } from './parts.ts'

const readOnly = { readOnly: true }
const whole = (description: string, more: Doc = {}): Doc => ({ type: 'integer', description, ...more })
const flag = (description: string): Doc => ({ type: 'boolean', description })
const id = (description: string, more: Doc = {}): Doc => text(description, { pattern: UUID_PATTERN, ...more })
const int32 = { maximum: 2_147_483_647 }

const hash: Doc = {
  type: 'object',
  description: 'What the bytes at the location must be. Of an image that has data, only what it says already.',
  writeOnly: true,
  additionalProperties: false,
  properties: {
    checksum: { type: 'string', minLength: 32, maxLength: 32 },
    os_hash_algo: { type: 'string', maxLength: 64 },
    os_hash_value: { type: 'string', maxLength: 128 },
  },
  required: ['os_hash_algo', 'os_hash_value'],
}

/** Free properties of which the API says more. */
const KNOWN: Record<string, Doc> = {
  kernel_id: nullable(id('Image that is the kernel of this one.')),
  ramdisk_id: nullable(id('Image that is the ramdisk of this one.')),
  instance_uuid: text('Server that the image was made of. It is only information.'),
  architecture: text('Architecture of the operating system, by the name that is agreed on.'),
  os_distro: text('Distribution of the operating system, by its common name.'),
  os_version: text('Version of the operating system, as its distributor has it.'),
  description: text('Words about the image, for people.'),
  cinder_encryption_key_id: text('Key of the volume that the image was made of, in the key manager.'),
  cinder_encryption_key_deletion_policy: text('Whether that key is deleted with the image.', {
    enum: ['on_image_deletion', 'do_not_delete'],
  }),
}

const imageProperties: Doc = {
  id: id('The image.'),
  name: nullable(text('Words that name the image.', { maxLength: 255 })),
  status: text('Whether the image has its data.', {
    ...readOnly,
    enum: ['queued', 'saving', 'active', 'killed', 'deleted', 'uploading', 'importing', 'pending_delete', 'deactivated'],
  }),
  visibility: text('Who may use it.', { enum: VISIBILITIES }),
  protected: flag('Whether it cannot be deleted.'),
  os_hidden: flag('Whether lists leave it out unless it is asked for.'),
  checksum: nullable(text('MD5 of the data.', { ...readOnly, maxLength: 32 })),
  os_hash_algo: nullable(text('Algorithm of os_hash_value.', { ...readOnly, maxLength: 64 })),
  os_hash_value: nullable(text('Hash of the data, in hexadecimal digits.', { ...readOnly, maxLength: 128 })),
  owner: nullable(text('Project that owns it.', { maxLength: 255 })),
  size: nullable(whole('Bytes of the data.', readOnly)),
  virtual_size: nullable(whole('Bytes of the disk that a guest sees.', readOnly)),
  container_format: nullable(text('What is around the disk.', { enum: [null, ...CONTAINER_FORMATS] })),
  disk_format: nullable(text('How the disk is written.', { enum: [null, ...DISK_FORMATS] })),
  created_at: text('When it was registered.', readOnly),
  updated_at: text('When it was last changed.', readOnly),
  tags: { type: 'array', description: 'Words that it can be found by.', items: { type: 'string', maxLength: 255 } },
  direct_url: text('Where the data is.', readOnly),
  min_ram: whole('Memory that it needs, in MB.', int32),
  min_disk: whole('Disk that it needs, in GB.', int32),
  self: text('Path of the image.', readOnly),
  file: text('Path of its data.', readOnly),
  stores: text('Stores that have its data, joined by commas.', readOnly),
  schema: text('Path of this document.', readOnly),
  locations: {
    type: 'array',
    description: 'Places of its data.',
    items: {
      type: 'object',
      properties: { url: { type: 'string', maxLength: 255 }, metadata: { type: 'object' }, validation_data: hash },
      required: ['url', 'metadata'],
    },
  },
  ...Object.fromEntries(Object.entries(KNOWN).map(([name, schema]) => [name, { ...schema, is_base: false }])),
}

const image = one('image', imageProperties, {
  additionalProperties: { type: 'string' },
  links: [
    { rel: 'self', href: '{self}' },
    { rel: 'enclosure', href: '{file}' },
    { rel: 'describedby', href: '{schema}' },
  ],
})

const member: Doc = {
  name: 'member',
  properties: {
    created_at: text('When the image was shared.'),
    image_id: id('The image.'),
    member_id: text('Project that it is shared with.'),
    status: text('What the project thinks of it.', { enum: ['pending', 'accepted', 'rejected'] }),
    updated_at: text('When that changed last.'),
    schema: link(),
  },
}

const taskProperties: Doc = {
  id: id('The task.'),
  type: text('What it does.', { enum: ['import', 'api_image_import', 'location_import'] }),
  status: text('How far it is.', { enum: ['pending', 'processing', 'success', 'failure'] }),
  created_at: text('When it was made.'),
  updated_at: text('When it changed last.'),
  owner: text('Project that made it.'),
  expires_at: nullable(text('When it will be removed.')),
  self: link(),
  schema: link(),
}
const task: Doc = {
  name: 'task',
  properties: {
    ...taskProperties,
    input: nullable({ type: 'object', description: 'What it was told.' }),
    result: nullable({ type: 'object', description: 'What came of it.' }),
    message: text('Why it failed.'),
    image_id: nullable(text('The image.')),
    request_id: nullable(text('Request that made it.')),
    user_id: nullable(text('Who asked for it.')),
  },
}

export const imageSchemas: Record<string, Doc> = {
  image,
  images: many('images', image),
  member,
  members: many('members', member, { paged: false }),
  task,
  tasks: many('tasks', { name: 'task', properties: taskProperties }),
}
