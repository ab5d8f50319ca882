import { badRequest, forbidden, tooLarge } from '#kit/fault.ts'
import { route } from '#kit/http/route.ts'
import * as S from '#kit/http/schema.ts'
import { glanceSettings } from '../settings.ts'
import { storesOf } from '../stores.ts'
import type { Visibility } from '../tables.ts'
import { FREE, GIVEN, KNOWN, READ_ONLY, RESERVED } from './fields.ts'
import { imageShown } from './show.ts'
import { imageRegister } from './store.ts'
import type { Image } from './view.ts'

const optional = Object.fromEntries(
  Object.entries({ ...GIVEN, ...KNOWN }).map(([name, schema]) => [name, S.Optional(schema)]),
) as unknown as {
  [K in keyof typeof GIVEN]: S.TSchema
}

/** Free properties are text. */
const Body = S.Object({ id: S.Optional(S.Uuid()), ...optional }, { additionalProperties: FREE })

/** The properties among what was given, checked. Throws forbidden for names that are ours. */
export function propertiesOf(given: Record<string, unknown>): Record<string, string> {
  const properties: Record<string, string> = {}
  for (const [name, value] of Object.entries(given)) {
    if (name in GIVEN || name === 'id') continue
    if (READ_ONLY.has(name)) throw forbidden(`Attribute '${name}' is read-only.`)
    if (RESERVED.test(name)) throw forbidden(`Attribute '${name}' is reserved.`)
    if (name.length > 255 || name === '') throw badRequest(`Property names have 1 to 255 characters, not ${name.length}.`)
    if (value !== null) properties[name] = String(value)
  }
  return properties
}

/** Refuses more properties or tags than are allowed. */
export function refuseTooMany(what: 'properties' | 'tags', count: number, most: number): void {
  if (most >= 0 && count > most) throw tooLarge(`An image has at most ${most} ${what}, not ${count}.`)
}

export const imageCreate = route({
  method: 'POST',
  path: '/images',
  success: 201,
  policy: null,
  body: Body,
  async handle({ ctx, env, body: given, reply, self }) {
    const body = given as Record<string, unknown>
    const owner = (body.owner as string | null | undefined) ?? ctx.projectId
    ctx.must('add_image', { project_id: ctx.projectId, owner })
    const visibility = (body.visibility as Visibility | undefined) ?? 'shared'
    if (visibility === 'public') ctx.must('publicize_image', { project_id: owner })
    if (visibility === 'community') ctx.must('communitize_image', { project_id: owner })
    const limits = env.config.of(glanceSettings)
    const properties = propertiesOf(body)
    const tags = [...new Set((body.tags as string[] | undefined) ?? [])]
    refuseTooMany('properties', Object.keys(properties).length, limits.image_property_quota)
    refuseTooMany('tags', tags.length, limits.image_tag_quota)
    const image = await env.db.tx(tx => imageRegister(tx, { ...(body as Partial<Image>), owner, visibility, properties, tags }))
    reply.headers.Location = self(`/images/${image.id}`)
    reply.headers['OpenStack-image-import-methods'] = limits.enabled_import_methods.join(',')
    reply.headers['OpenStack-image-store-ids'] = storesOf(env)
      .map(s => s.id)
      .join(',')
    return imageShown({ ctx, env }, image)
  },
})
