import type { Context } from '#kit/context.ts'
import { page, type RawBuilder, sql } from '#kit/db/index.ts'
import { badRequest } from '#kit/fault.ts'
import { route } from '#kit/http/route.ts'
import { toBoolean } from '#kit/http/schema.ts'
import { glanceSettings } from '../settings.ts'
import { SORT_KEYS, VISIBILITIES } from './fields.ts'
import { imageShown } from './show.ts'
import type { Image } from './view.ts'

/** What a list shows: own and public images, those shared and accepted; community ones only when asked for. */
function listed(ctx: Context, search: URLSearchParams): RawBuilder<boolean> {
  const visibility = search.get('visibility')
  const memberStatus = search.get('member_status') ?? 'accepted'
  if (visibility !== null && visibility !== 'all' && !(VISIBILITIES as readonly string[]).includes(visibility)) {
    throw badRequest(`Invalid visibility value: '${visibility}'`, { field: 'visibility' })
  }
  if (!['pending', 'accepted', 'rejected', 'all'].includes(memberStatus)) {
    throw badRequest('Only values accepted, pending, rejected, and all are allowed for member_status.', {
      field: 'member_status',
    })
  }
  const status = memberStatus === 'all' ? sql`` : sql`and m.status = ${memberStatus}`
  const shared = sql`(i.visibility = 'shared' and exists (
    select from glance.members m where m.image_id = i.id and m.member_id = ${ctx.projectId} ${status}))`
  const of = sql`i.visibility = ${visibility}`
  if (ctx.isAdmin) return visibility === null || visibility === 'all' ? sql<boolean>`true` : sql<boolean>`${of}`
  if (visibility === 'public' || visibility === 'community') return sql<boolean>`${of}`
  if (visibility === 'private') return sql<boolean>`(${of} and i.owner = ${ctx.projectId})`
  if (visibility === 'shared') return sql<boolean>`(${of} and (i.owner = ${ctx.projectId} or ${shared}))`
  const community = visibility === 'all' ? sql`or i.visibility = 'community'` : sql``
  return sql<boolean>`(i.owner = ${ctx.projectId} or i.visibility = 'public' or ${shared} ${community})`
}

const TEXT = new Set([
  'name',
  'status',
  'container_format',
  'disk_format',
  'owner',
  'checksum',
  'os_hash_value',
  'os_hash_algo',
  'id',
])
const NUMBER = new Set(['size', 'min_ram', 'min_disk', 'virtual_size'])
const TIME = new Set(['created_at', 'updated_at'])
const COMPARE: Record<string, string> = { eq: '=', neq: '<>', gt: '>', gte: '>=', lt: '<', lte: '<=' }
const OTHER = new Set(['limit', 'marker', 'sort_key', 'sort_dir', 'sort', 'visibility', 'member_status'])

function filter(name: string, values: string[]): RawBuilder<boolean> | undefined {
  const value = values[0]!
  if (OTHER.has(name)) return undefined
  if (name === 'tag') return sql<boolean>`i.tags @> ${values}`
  if (name === 'protected' || name === 'os_hidden') {
    const wanted = toBoolean(value)
    if (wanted === undefined)
      throw badRequest(`Invalid value '${value}' for '${name}' filter: it is no boolean.`, { field: name })
    return sql<boolean>`${sql.ref(`i.${name}`)} = ${wanted}`
  }
  if (name === 'size_min' || name === 'size_max')
    return sql<boolean>`i.size ${sql.raw(name === 'size_min' ? '>=' : '<=')} ${whole(name, value)}`
  if (NUMBER.has(name)) return sql<boolean>`${sql.ref(`i.${name}`)} = ${whole(name, value)}`
  if (TIME.has(name)) return time(name, value)
  if (!TEXT.has(name)) return sql<boolean>`i.properties @> ${JSON.stringify({ [name]: value })}::jsonb`
  if (value.startsWith('in:') && name !== 'owner')
    return sql<boolean>`${sql.ref(`i.${name}`)} = any(${quotedList(value.slice(3))})`
  return sql<boolean>`${sql.ref(`i.${name}`)} = ${value}`
}

function whole(name: string, value: string): number {
  if (!/^\d{1,15}$/.test(value))
    throw badRequest(`Invalid value '${value}' for '${name}' filter: it is no whole number.`, { field: name })
  return Number(value)
}

function time(name: string, value: string): RawBuilder<boolean> {
  const colon = value.indexOf(':')
  const operator = COMPARE[value.slice(0, colon)]
  const text = operator ? value.slice(colon + 1) : value
  const at = new Date(text)
  if (Number.isNaN(at.getTime())) throw badRequest(`'${text}' is not a time in ISO 8601 form.`, { field: name })
  return sql<boolean>`date_trunc('second', ${sql.ref(`i.${name}`)}) ${sql.raw(operator ?? '=')} ${at}`
}

/** `a,"b,c"` → a and b,c. Throws badRequest for an unfinished quote. */
function quotedList(text: string): string[] {
  const parts = text.match(/"(?:[^"]*)"|[^,"]+/g) ?? []
  if ((text.split('"').length - 1) % 2 !== 0) throw badRequest(`Invalid filter value ${text}. The quote is not closed.`)
  if (
    /[^,]"|"[^,]/.test(text.replace(/^"|"$/g, '').replaceAll('","', ',')) &&
    !/^("[^"]*"|[^,"]+)(,("[^"]*"|[^,"]+))*$/.test(text)
  ) {
    throw badRequest(`Invalid filter value ${text}. There is no comma before or after a quoted value.`)
  }
  return parts.map(part => part.replace(/^"|"$/g, ''))
}

interface Sort {
  key: (typeof SORT_KEYS)[number]
  dir: 'asc' | 'desc'
}

function sorts(search: URLSearchParams): Sort[] {
  const combined = search.get('sort')
  if (combined !== null && (search.has('sort_key') || search.has('sort_dir'))) {
    throw badRequest('Old and new sorting syntax cannot be combined', { field: 'sort' })
  }
  const keys = combined?.split(',').map(part => part.split(':')[0]!.trim()) ?? search.getAll('sort_key')
  const dirs = combined?.split(',').map(part => part.split(':')[1]?.trim()) ?? search.getAll('sort_dir')
  if (dirs.length > Math.max(keys.length, 1))
    throw badRequest('Number of sort dirs does not match the number of sort keys', { field: 'sort_dir' })
  const wanted = keys.length > 0 ? keys : ['created_at']
  return wanted.map((key, i) => {
    const dir = dirs[i] ?? dirs[0] ?? 'desc'
    if (!(SORT_KEYS as readonly string[]).includes(key))
      throw badRequest(`Unsupported or unknown sort key: '${key}'`, { field: 'sort_key' })
    if (dir !== 'asc' && dir !== 'desc') throw badRequest(`Unsupported sort direction: '${dir}'`, { field: 'sort_dir' })
    return { key: key as Sort['key'], dir }
  })
}

const NULLABLE = new Set(['name', 'container_format', 'disk_format', 'size'])

export const imageList = route({
  method: 'GET',
  path: '/images',
  policy: 'get_images',
  async handle({ ctx, env, db, search }) {
    const settings = env.config.of(glanceSettings)
    const asked = search.get('limit')
    if (asked !== null && !/^\d{1,9}$/.test(asked))
      throw badRequest('limit param must be an integer that is not negative', { field: 'limit' })
    const limit = Math.min(asked === null ? settings.limit_param_default : Number(asked), settings.api_limit_max)
    const order = sorts(search)
    for (const { key, dir } of [
      { key: 'created_at', dir: order[0]!.dir },
      { key: 'id', dir: order[0]!.dir },
    ] as Sort[]) {
      if (!order.some(s => s.key === key)) order.push({ key, dir })
    }
    let query = db.selectFrom('glance.images as i').selectAll('i').where(listed(ctx, search))
    if (!search.has('os_hidden')) query = query.where('i.os_hidden', '=', false)
    for (const name of new Set(search.keys())) {
      const condition = filter(name, search.getAll(name))
      if (condition) query = query.where(condition)
    }
    const marker = search.get('marker')
    const after =
      marker === null
        ? undefined
        : await db
            .selectFrom('glance.images as i')
            .selectAll('i')
            .where('i.id', '=', marker)
            .where(listed(ctx, search))
            .executeTakeFirst()
    if (marker !== null && !after) throw badRequest(`Invalid marker. Image could not be found: ${marker}`, { field: 'marker' })
    const rows = (await page(
      query as never,
      order.map(s => ({ column: `i.${s.key}`, dir: s.dir, nullable: NULLABLE.has(s.key) })),
      { after: after && order.map(s => after[s.key]), limit: limit + 1 },
    )) as Image[]
    const shown = rows.slice(0, limit)
    const more = rows.length > limit && limit > 0
    const rest = new URLSearchParams([...search].filter(([name]) => name !== 'marker'))
    const first = `/v2/images${rest.size > 0 ? `?${rest}` : ''}`
    if (more) rest.set('marker', shown.at(-1)!.id)
    return {
      images: shown.map(image => imageShown({ ctx, env }, image)),
      first,
      ...(more && { next: `/v2/images?${rest}` }),
      schema: '/v2/schemas/images',
    }
  },
})
