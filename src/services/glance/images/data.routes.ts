/** The bytes of an image: upload and download, as streams. */
import { randomUUID } from 'node:crypto'
import type { Readable } from 'node:stream'
import { json } from '#kit/db/index.ts'
import { badRequest, conflict, Fault, forbidden, gone, rangeNotSatisfiable, unsupportedMedia } from '#kit/fault.ts'
import { bytes, type Call, route } from '#kit/http/route.ts'
import type { Env } from '#kit/service.ts'
import { cacheOpen, cacheQueue } from '../cache/cache.ts'
import { quotaEnforce } from '../quotas.ts'
import { locationsOpen, placeOf, type Range, type Store, storeNamed } from '../stores.ts'
import type { Location } from '../tables.ts'
import { leaseEnd, type Received, receive } from './receive.ts'
import { imageFetch, noImage } from './store.ts'
import type { Image } from './view.ts'

/** What a request that carries bytes says of them. Throws unsupportedMedia unless they are plain bytes. */
export function announcedBytes({ headers }: Pick<Call, 'headers'>): number | undefined {
  const type = headers['content-type']?.split(';')[0]
  if (type !== 'application/octet-stream')
    throw unsupportedMedia(`The content of an image is application/octet-stream, not '${type ?? ''}'.`)
  const length = headers['content-length'] ?? headers['x-openstack-image-size']
  if (length === undefined) return undefined
  if (!/^\d{1,15}$/.test(String(length))) throw badRequest(`The size of an image is a whole number, not '${length}'.`)
  return Number(length)
}

export const imageUpload = route({
  method: 'PUT',
  path: '/images/:id/file',
  success: 204,
  raw: true,
  policy: 'upload_image',
  target: ({ db, ctx, params }) => imageFetch(db, ctx, params.id!),
  async handle({ env, target: image, stream, headers }) {
    const announced = announcedBytes({ headers })
    const store = storeNamed(env, headers['x-image-meta-store'] as string | undefined)
    await imageFill(env, image, stream, store, announced)
  },
})

/** The columns of an image that has got its bytes. */
export const filled = (received: Received, stores: readonly Store[], file: string) => ({
  status: 'active' as const,
  size: received.size,
  virtual_size: received.found.virtualSize ?? null,
  checksum: received.md5,
  os_hash_algo: 'sha512',
  os_hash_value: received.sha512,
  locations: json<Location[]>(stores.map(s => ({ store: s.id, file, url: null, metadata: {} }))),
  upload: null,
  upload_until: null,
  message: null,
})

/** Throws badRequest when the image lacks what its data needs said of it. */
export function refuseFormless(image: Pick<Image, 'disk_format' | 'container_format'>): void {
  const missing = (['disk_format', 'container_format'] as const).filter(name => !image[name])
  if (missing.length > 0)
    throw badRequest(`Properties ${missing.join(', ')} must be set prior to saving data.`, { field: missing[0] })
}

/**
 * Fills a queued image with its bytes and makes it active. When anything goes wrong it is queued again, and nothing is left. Throws conflict for an image
 * that has data, badRequest for one without formats, and what {@link receive} throws.
 */
export async function imageFill(
  env: Env,
  image: Image,
  source: AsyncIterable<Buffer>,
  store: Store = storeNamed(env),
  announced?: number,
): Promise<void> {
  if (image.status !== 'queued') throw conflict(`Image status transition from ${image.status} to saving is not allowed`)
  refuseFormless(image)
  const file = randomUUID()
  const place = placeOf(env, store)
  await uploadBegin(env, image, file, 'saving')
  try {
    const received = await receive(env, image, source, { places: [place], file, announced, inspect: true })
    const row = await env.db.tx(tx =>
      tx
        .updateTable('glance.images')
        .set({ ...filled(received, [store], file), updated_at: new Date() })
        .where('id', '=', image.id)
        .where('upload', '=', file)
        .returning('id')
        .executeTakeFirst(),
    )
    if (!row) throw gone(`The image ${image.id} was deleted while its data arrived.`)
  } catch (error) {
    await place.remove(file)
    await uploadUndo(env, image.id, file, 'queued', error)
    throw error
  }
}

/** Takes the image for an upload. Throws conflict when another has it or it has data, overQuota when the project has no room. */
export async function uploadBegin(
  env: Env,
  image: Pick<Image, 'id' | 'owner'>,
  file: string,
  to: 'saving' | 'uploading',
): Promise<void> {
  const size = to === 'saving' ? 'image_size_total' : 'image_stage_total'
  await env.db.tx(async tx => {
    await quotaEnforce(tx, image.owner, { [size]: 0, image_count_uploading: 1 })
    const row = await tx
      .updateTable('glance.images')
      .set({ status: to, upload: file, upload_until: leaseEnd() })
      .where('id', '=', image.id)
      .where('status', '=', 'queued')
      .returning('id')
      .executeTakeFirst()
    if (!row) throw conflict('The image has been given data by another upload.')
  })
}

/** Sets the image back to what it was before the upload, with the reason. */
export async function uploadUndo(env: Env, id: string, file: string, to: Image['status'], error: unknown): Promise<void> {
  await env.db.read
    .updateTable('glance.images')
    .set({
      status: to,
      upload: null,
      upload_until: null,
      message: error instanceof Fault ? error.message : 'The data could not be stored.',
    })
    .where('id', '=', id)
    .where('upload', '=', file)
    .execute()
}

/** The bytes from the cache, or from where they are. What is far away is cached from then on. */
async function imageRead(env: Env, image: Pick<Image, 'id' | 'locations'>, range?: Range): Promise<Readable> {
  const cached = await cacheOpen(env, image.id, range)
  if (cached) return cached
  if (image.locations.every(l => l.file === null)) await cacheQueue(env.db.read, env, image.id)
  return locationsOpen(env, image.locations, range)
}

/** An image's bytes, for other services: nobody is asked for permission here. Throws notFound when it has none. */
export async function imageOpen(env: Env, id: string): Promise<{ size: number | null; stream: AsyncIterable<Buffer> }> {
  const row = await env.db.read
    .selectFrom('glance.images')
    .select(['locations', 'size'])
    .where('id', '=', id)
    .where('status', 'in', ['active', 'deactivated'])
    .executeTakeFirst()
  if (!row || row.locations.length === 0) throw noImage(id)
  return { size: row.size, stream: await imageRead(env, { id, locations: row.locations }) }
}

export const imageDownload = route({
  method: 'GET',
  path: '/images/:id/file',
  policy: 'download_image',
  target: ({ db, ctx, params }) => imageFetch(db, ctx, params.id!),
  async handle({ ctx, env, target: image, headers, reply, method }) {
    if (image.status === 'deactivated' && !ctx.isAdmin)
      throw forbidden('The requested image has been deactivated. Image data download is forbidden.')
    if (image.locations.length === 0 || !['active', 'deactivated'].includes(image.status)) {
      reply.status = 204
      return undefined
    }
    const size = image.size
    const range = size === null ? undefined : rangeOf(headers.range, headers['content-range'], size)
    if (image.checksum && !range) reply.headers['Content-MD5'] = image.checksum
    reply.headers['Accept-Ranges'] = 'bytes'
    if (range) {
      reply.status = 206
      reply.headers['Content-Range'] = `bytes ${range.start}-${range.end}/${size}`
    }
    const length = (range ? range.end - range.start + 1 : size) ?? undefined
    const type = 'application/octet-stream'
    if (method === 'HEAD' || length === 0) return bytes('', { length, type })
    return bytes(await imageRead(env, image, range), { length, type })
  },
})

/** One range of bytes, inclusive. Glance also takes it in a Content-Range header, as older clients send it. Throws 416. */
export function rangeOf(range: string | undefined, contentRange: string | undefined, size: number): Range | undefined {
  const text = range ?? contentRange?.replace(/^bytes\s+/, 'bytes=').replace(/\/.*$/, '')
  if (text === undefined) return undefined
  const match = /^bytes=(\d*)-(\d*)$/.exec(text.trim())
  const unsatisfiable = () =>
    rangeNotSatisfiable(`The range ${text} is not within the ${size} bytes of the image.`, {
      headers: { 'Content-Range': `bytes */${size}` },
    })
  if (!match || (match[1] === '' && match[2] === '')) throw unsatisfiable()
  const start = match[1] === '' ? Math.max(0, size - Number(match[2])) : Number(match[1])
  const end = match[1] === '' || match[2] === '' ? size - 1 : Math.min(Number(match[2]), size - 1)
  if (start > end || start >= size) throw unsatisfiable()
  return { start, end }
}
