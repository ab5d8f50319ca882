/** Schemas of metadata definitions. They are documents and also what bodies are checked against. */
import { type Doc, link, many, one, text, time } from './parts.ts'

const TYPES = ['array', 'boolean', 'integer', 'number', 'object', 'string', null]
const ref = (name: string): Doc => ({ $ref: `#/definitions/${name}` })

/** A property of an image, a flavor or a volume, described as JSON schema describes values. */
const property: Doc = {
  type: 'object',
  required: ['title', 'type'],
  properties: {
    name: { type: 'string', maxLength: 255 },
    title: { type: 'string' },
    description: { type: 'string' },
    operators: { type: 'array', items: { type: 'string' } },
    type: { type: 'string', enum: TYPES },
    required: ref('stringArray'),
    minimum: { type: 'number' },
    maximum: { type: 'number' },
    maxLength: ref('positiveInteger'),
    minLength: ref('positiveIntegerDefault0'),
    pattern: { type: 'string', format: 'regex' },
    enum: { type: 'array' },
    readonly: { type: 'boolean' },
    default: {},
    items: { type: 'object', properties: { type: { type: 'string', enum: TYPES }, enum: { type: 'array' } } },
    maxItems: ref('positiveInteger'),
    minItems: ref('positiveIntegerDefault0'),
    uniqueItems: { type: 'boolean', default: false },
    additionalItems: { type: 'boolean' },
  },
}

const numbers: Doc = {
  positiveInteger: { minimum: 0, type: 'integer' },
  positiveIntegerDefault0: { allOf: [ref('positiveInteger'), { default: 0 }] },
  stringArray: { type: 'array', items: { type: 'string' }, uniqueItems: true },
}
const definitions: Doc = { ...numbers, property: { type: 'object', additionalProperties: property } }

const tagProperties: Doc = {
  name: { type: 'string', maxLength: 255 },
  created_at: time('the tag was made'),
  updated_at: time('it was last changed'),
}

const namespace = one(
  'namespace',
  {
    namespace: text('Its name, unique in the cloud.', { maxLength: 80 }),
    display_name: text('Its name for people.', { maxLength: 80 }),
    description: text('What it is for.', { maxLength: 500 }),
    visibility: text('Who sees it.', { enum: ['public', 'private'] }),
    protected: { type: 'boolean', description: 'Whether it cannot be deleted.' },
    owner: text('Project that owns it.', { maxLength: 255 }),
    created_at: time('the namespace was made'),
    updated_at: time('it was last changed'),
    self: link(),
    schema: link(),
    resource_type_associations: {
      type: 'array',
      items: {
        type: 'object',
        properties: { name: { type: 'string' }, prefix: { type: 'string' }, properties_target: { type: 'string' } },
      },
    },
    properties: ref('property'),
    objects: {
      type: 'array',
      items: {
        type: 'object',
        properties: {
          name: { type: 'string' },
          description: { type: 'string' },
          required: ref('stringArray'),
          properties: ref('property'),
        },
      },
    },
    tags: { type: 'array', items: { type: 'object', properties: { name: { type: 'string' } } } },
  },
  { required: ['namespace'], definitions },
)

const resourceType = one(
  'resource_type_association',
  {
    name: text('A kind of thing, by its Heat name where it has one.', { maxLength: 80 }),
    prefix: text('What the names of properties begin with on this kind of thing, its separator included.', { maxLength: 80 }),
    properties_target: text('Which of several sets of metadata of the thing is meant.', { maxLength: 80 }),
    created_at: time('the namespace was applied to it'),
    updated_at: time('that was last changed'),
  },
  { required: ['name'] },
)

const single = one(
  'property',
  { ...(property.properties as Doc), name: { type: 'string', maxLength: 255 } },
  { required: ['name', 'title', 'type'], definitions: numbers },
)

const object = one(
  'object',
  {
    name: { type: 'string', maxLength: 255 },
    description: { type: 'string' },
    required: ref('stringArray'),
    properties: ref('property'),
    self: link(),
    schema: link(),
    created_at: time('the object was made'),
    updated_at: time('it was last changed'),
  },
  { required: ['name'], definitions },
)

const tag = one('tag', tagProperties, { required: ['name'] })

export const metadefSchemas = {
  namespace,
  namespaces: many('namespaces', namespace),
  resource_type: resourceType,
  resource_types: many('resource_type_associations', resourceType),
  property: single,
  properties: many('properties', single, { keyed: true }),
  object,
  objects: many('objects', object),
  tag,
  tags: many('tags', tag),
} satisfies Record<string, Doc>
