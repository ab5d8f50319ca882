/**
 * Changes of an image: a list of operations, in the form of RFC 6902 (v2.1) or of an older draft (v2.0: `{"replace": "/name", "value": …}`). All of
 * them or none happen. Operations are read whole before the image is, so a malformed one is told even of an image that is not there.
 */
import type { Context } from '#kit/context.ts'
import { badRequest, conflict, forbidden, tooLarge, unsupportedMedia } from '#kit/fault.ts'
import { route } from '#kit/http/route.ts'
import { checker } from '#kit/http/schema.ts'
import type { Env } from '#kit/service.ts'
import { glanceSettings } from '../settings.ts'
import { wire } from '../wire.ts'
import { refuseTooMany } from './create.route.ts'
import { FIELDS, FREE, GIVEN, type GivenName, READ_ONLY, RESERVED } from './fields.ts'
import { type LocationGiven, locationAdd, locationProbe, locationRemove, locationsReplace } from './locations.ts'
import { imageShown } from './show.ts'
import { imageFetch, imageUpdate } from './store.ts'
import type { Image } from './view.ts'

export const PATCH_TYPES = {
  'application/openstack-images-v2.0-json-patch': 'v2.0',
  'application/openstack-images-v2.1-json-patch': 'v2.1',
} as const
type Draft = (typeof PATCH_TYPES)[keyof typeof PATCH_TYPES]

const OPS = ['add', 'remove', 'replace'] as const

export interface Change {
  op: (typeof OPS)[number]
  /** The property, unescaped. */
  name: string
  /** Of `/locations/N`: the place. */
  at: string | undefined
  value: unknown
  draft: Draft
}

/** Reads the operations of a body. Throws badRequest for malformed ones, forbidden for names that only we set. */
export function changesOf(body: unknown, draft: Draft): Change[] {
  if (!Array.isArray(body)) throw badRequest('Request body must be a JSON array of operation objects.')
  return body.map(raw => {
    if (typeof raw !== 'object' || raw === null || Array.isArray(raw)) throw badRequest('Operations must be JSON objects.')
    const given = raw as Record<string, unknown>
    const op = draft === 'v2.1' ? opOf(given) : oldOpOf(given)
    const pointer = draft === 'v2.1' ? given.path : given[op]
    if (typeof pointer !== 'string') throw badRequest("Unable to find 'path' in JSON Schema change")
    const path = pointerParts(pointer)
    const [name, at] = path as [string, string | undefined]
    const depth = name === 'locations' && op !== 'replace' ? 2 : 1
    if (path.length !== depth) throw badRequest(`Invalid JSON pointer for this resource: '/${path.join('/')}'`)
    if (op !== 'remove' && !('value' in given)) throw badRequest(`Operation "${op}" requires a member named "value".`)
    if (READ_ONLY.has(name)) throw forbidden(`Attribute '${name}' is read-only.`)
    if (RESERVED.test(name)) throw forbidden(`Attribute '${name}' is reserved.`)
    if (op !== 'remove') refuseValue(name, given.value, op)
    return { op, name, at, value: given.value, draft }
  })
}

function opOf(raw: Record<string, unknown>): Change['op'] {
  const op = OPS.find(known => known === raw.op)
  if (!op) throw badRequest(`Invalid operation: '${String(raw.op ?? '')}'. It must be one of the following: ${OPS.join(', ')}.`)
  return op
}

function oldOpOf(raw: Record<string, unknown>): Change['op'] {
  const [op, ...more] = OPS.filter(known => known in raw)
  if (!op || more.length > 0)
    throw badRequest('Operation objects must contain exactly one member named "add", "remove", or "replace".')
  return op
}

function pointerParts(pointer: string): string[] {
  const wrong = (why: string): Error => badRequest(`Pointer '${pointer}' ${why}.`)
  if (!pointer.startsWith('/')) throw wrong('does not start with "/"')
  if (/\/\s*\//.test(pointer)) throw wrong('contains adjacent "/"')
  if (pointer.length > 1 && pointer.endsWith('/')) throw wrong('ends with "/"')
  if (pointer.trim() === '/') throw wrong('does not contain a valid token')
  if (/~[^01]|~$/.test(pointer)) throw wrong('contains "~" that is not part of a recognized escape sequence')
  return pointer
    .slice(1)
    .split('/')
    .map(part => part.replaceAll('~1', '/').replaceAll('~0', '~').trim())
}

const checks = new Map(Object.entries(FIELDS).map(([name, schema]) => [name, checker(schema, 'body', wire.complain)]))
const free = checker(FREE, 'body', wire.complain)

function refuseValue(name: string, value: unknown, op: Change['op']): void {
  if (name.length > 255) throw badRequest('Custom property should not be greater than 255 characters.')
  if (name === 'locations' && op === 'add') checks.get('locations')!([value], 0)
  else (checks.get(name) ?? free)(value, 0)
}

/** Rules that guard single fields. */
function allowed(ctx: Context, image: Image, name: string, value: unknown): void {
  if (name === 'visibility' && value === 'public') ctx.must('publicize_image', image as never)
  else if (name === 'visibility' && value === 'community') ctx.must('communitize_image', image as never)
  else ctx.must('modify_image', image as never)
}

interface Draftable {
  image: Image & { member_id: string | null }
  fields: Partial<Image>
  properties: Record<string, string>
}

const FORMATS = new Set(['disk_format', 'container_format'])

function apply(ctx: Context, to: Draftable, change: Change): void {
  const { name, op, value, draft } = change
  allowed(ctx, to.image, name, value)
  const isField = name in GIVEN
  const exists = isField || name in to.properties
  if (op === 'remove') {
    if (isField) throw forbidden(`Property ${name} may not be removed.`)
    if (!exists) throw conflict(`Property ${name} does not exist.`)
    delete to.properties[name]
    return
  }
  if (op === 'replace' && !exists) throw conflict(`Property ${name} does not exist.`)
  if (op === 'add' && exists && draft === 'v2.0') throw conflict(`Property ${name} already present.`)
  if (!isField) {
    if (value === null) delete to.properties[name]
    else to.properties[name] = value as string
    return
  }
  if (name === 'owner' && !ctx.isAdmin) throw forbidden("Owner can't be updated by non admin.")
  if (FORMATS.has(name) && to.image.status !== 'queued')
    throw forbidden(`Attribute ${name} can be only replaced for a queued image.`)
  const written = name === 'tags' ? [...new Set(value as string[])] : value
  ;(to.fields as Record<GivenName, unknown>)[name as GivenName] = written
}

export const imagePatch = route({
  method: 'PATCH',
  path: '/images/:id',
  policy: null,
  media: Object.keys(PATCH_TYPES),
  target: ({ db, ctx, params, body, headers }) => {
    const type = headers['content-type']?.split(';')[0]?.trim() as keyof typeof PATCH_TYPES | undefined
    const draft = type && PATCH_TYPES[type]
    const known = Object.keys(PATCH_TYPES).join(', ')
    if (!draft)
      throw unsupportedMedia(`Image PATCH expects Content-Type one of: ${known}`, { headers: { 'Accept-Patch': known } })
    return imageFetch(db, ctx, params.id!).then(image => ({ image, changes: changesOf(body, draft) }))
  },
  async handle({ ctx, env, target: { image, changes } }) {
    const probed = await probe(ctx, env, image, changes)
    const changed = await env.db.tx(tx => imageChange(tx, ctx, env, image.id, changes, probed))
    return imageShown({ ctx, env }, changed)
  },
})

/** What the URLs that become locations say of themselves: asked before the transaction. */
async function probe(ctx: Context, env: Env, image: Image, changes: readonly Change[]): Promise<Map<string, number | null>> {
  const urls = changes
    .filter(change => change.name === 'locations' && change.op !== 'remove')
    .flatMap(change => [change.value as LocationGiven | LocationGiven[]].flat())
  if (urls.length > 0) ctx.must('set_image_location', image as never)
  const known = new Set(image.locations.map(l => l.url))
  const sizes = new Map<string, number | null>()
  for (const { url } of urls) {
    if (!known.has(url) && !url.startsWith('file:')) sizes.set(url, await locationProbe(env, url))
  }
  return sizes
}

async function imageChange(
  tx: Parameters<typeof imageUpdate>[0],
  ctx: Context,
  env: Env,
  id: string,
  changes: readonly Change[],
  sizes: Map<string, number | null>,
): Promise<Image> {
  const image = await imageFetch(tx, ctx, id, { lock: true })
  const to: Draftable = { image, fields: {}, properties: { ...image.properties } }
  for (const change of changes) {
    const now = { ...image, ...to.fields }
    if (change.name !== 'locations') apply(ctx, to, change)
    else if (change.op === 'add') {
      Object.assign(to.fields, locationAdd(env, now, change.at!, change.value as LocationGiven, sizes))
    } else if (change.op === 'replace') {
      Object.assign(to.fields, locationsReplace(env, now, change.value as LocationGiven[], sizes))
    } else {
      ctx.must('delete_image_location', image)
      Object.assign(to.fields, locationRemove(env, now, change.at!))
    }
  }
  if (changes.length === 0) return image
  const limits = env.config.of(glanceSettings)
  refuseGrown(to, limits)
  return imageUpdate(tx, id, { ...to.fields, properties: to.properties })
}

/** A quota that was lowered later does not forbid what is there, only more. */
function refuseGrown(
  { image, fields, properties }: Draftable,
  limits: { image_property_quota: number; image_tag_quota: number },
) {
  const [before, after] = [Object.keys(image.properties).length, Object.keys(properties).length]
  if (after > before) refuseTooMany('properties', after, limits.image_property_quota)
  if (fields.tags && fields.tags.length > image.tags.length) refuseTooMany('tags', fields.tags.length, limits.image_tag_quota)
  const size = Object.values(properties).reduce((sum, value) => sum + value.length, 0)
  if (size > 4_194_304) throw tooLarge('The properties of an image have at most 4 MiB together.')
}
