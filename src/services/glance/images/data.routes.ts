/** The bytes of an image: upload and download, as streams. */
import { randomUUID } from 'node:crypto'
import { badRequest, conflict, forbidden, notFound, rangeNotSatisfiable, tooLarge, unsupportedMedia } from '#kit/fault.ts'
import { bytes, route } from '#kit/http/route.ts'
import type { Env } from '#kit/service.ts'
import { fileRead, fileRemove, fileStore } from '../files/index.ts'
import { inspection, objection } from '../inspect/index.ts'
import { glanceSettings } from '../settings.ts'
import { storeFolder } from '../store.ts'
import { imageFetch, imageUpdate, noImage } from './store.ts'
import type { Image } from './view.ts'

export const imageUpload = route({
  method: 'PUT',
  path: '/images/:id/file',
  success: 204,
  raw: true,
  policy: 'upload_image',
  target: ({ db, ctx, params }) => imageFetch(db, ctx, params.id!),
  async handle({ env, target: image, stream, headers }) {
    const type = headers['content-type']?.split(';')[0]
    if (type !== 'application/octet-stream')
      throw unsupportedMedia(`The content of an image is application/octet-stream, not '${type ?? ''}'.`)
    await imageFill(env, image, stream, headers['content-length'] === undefined ? undefined : Number(headers['content-length']))
  },
})

/**
 * Fills a queued image with its bytes and makes it active. When anything goes wrong it is queued again, and nothing is left. Throws conflict for an image
 * that has data, badRequest for one without formats, unsupportedMedia for content that is not what the image says or that is dangerous.
 */
export async function imageFill(env: Env, image: Image, source: AsyncIterable<Buffer>, announced?: number): Promise<void> {
  const { image_size_cap: most } = env.config.of(glanceSettings)
  if (announced !== undefined && announced > most) throw tooLarge(`Images have at most ${most} bytes.`)
  if (image.status !== 'queued') throw conflict(`Image status transition from ${image.status} to saving is not allowed`)
  if (!image.disk_format || !image.container_format) {
    throw badRequest('Properties disk_format, container_format must be set prior to saving data.', { field: 'disk_format' })
  }
  const file = randomUUID()
  await env.db.tx(async tx => {
    const row = await tx
      .updateTable('glance.images')
      .set({ status: 'saving', file })
      .where('id', '=', image.id)
      .where('status', '=', 'queued')
      .returning('id')
      .executeTakeFirst()
    if (!row) throw conflict('The image has been given data by another upload.')
  })
  try {
    const look = inspection()
    let size = 0
    const stored = await fileStore(storeFolder(env), file, source, chunk => {
      size += chunk.length
      if (size > most) throw tooLarge(`Images have at most ${most} bytes.`)
      const before = look.decided
      look.add(chunk)
      if (!before && look.decided) refuse(image, look.finish())
    })
    if (announced !== undefined && stored.size !== announced)
      throw badRequest(`The upload broke off after ${stored.size} of ${announced} bytes.`)
    const found = look.finish()
    refuse(image, found)
    await env.db.tx(tx =>
      imageUpdate(tx, image.id, {
        status: 'active',
        size: stored.size,
        virtual_size: found.virtualSize ?? null,
        checksum: stored.md5,
        os_hash_algo: 'sha512',
        os_hash_value: stored.sha512,
        message: null,
      }),
    )
  } catch (error) {
    await fileRemove(storeFolder(env), file)
    await env.db.read
      .updateTable('glance.images')
      .set({ status: 'queued', file: null, message: (error as Error).message })
      .where('id', '=', image.id)
      .where('file', '=', file)
      .execute()
    // The client has gone: nobody hears it, but it was no fault of ours.
    if ((error as NodeJS.ErrnoException).code === 'ECONNRESET') throw badRequest('The upload broke off.', { cause: error })
    throw error
  }
}

function refuse(image: Image, found: Parameters<typeof objection>[1]): void {
  // A container such as OVA or Docker has its disks within; they are looked at when they are taken out.
  const why = image.container_format === 'bare' ? objection(image.disk_format!, found) : found.danger
  if (why) throw unsupportedMedia(`The image cannot be used: ${why}.`)
}

/** An image's bytes, for other services: nobody is asked for permission here. Throws notFound when it has none. */
export async function imageOpen(env: Env, id: string): Promise<{ size: number; stream: AsyncIterable<Buffer> }> {
  const row = await env.db.read
    .selectFrom('glance.images')
    .select(['file', 'size'])
    .where('id', '=', id)
    .where('status', 'in', ['active', 'deactivated'])
    .executeTakeFirst()
  if (!row?.file) throw noImage(id)
  return { size: row.size!, stream: await fileRead(storeFolder(env), row.file) }
}

export const imageDownload = route({
  method: 'GET',
  path: '/images/:id/file',
  policy: 'download_image',
  target: ({ db, ctx, params }) => imageFetch(db, ctx, params.id!),
  async handle({ ctx, env, target: image, headers, reply, method }) {
    if (image.status === 'deactivated' && !ctx.isAdmin)
      throw forbidden('The requested image has been deactivated. Image data download is forbidden.')
    if (image.file === null || !['active', 'deactivated'].includes(image.status)) {
      reply.status = 204
      return undefined
    }
    const size = image.size!
    const range = rangeOf(headers.range, headers['content-range'], size)
    if (image.checksum && !range) reply.headers['Content-MD5'] = image.checksum
    reply.headers['Accept-Ranges'] = 'bytes'
    if (range) {
      reply.status = 206
      reply.headers['Content-Range'] = `bytes ${range.start}-${range.end}/${size}`
    }
    const length = range ? range.end - range.start + 1 : size
    if (method === 'HEAD' || length === 0) return bytes('', { length, type: 'application/octet-stream' })
    try {
      return bytes(await fileRead(storeFolder(env), image.file, range), { length, type: 'application/octet-stream' })
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === 'ENOENT')
        throw notFound('The data of the image is gone from the store.', { cause: error })
      throw error
    }
  },
})

/** One range of bytes, inclusive. Glance also takes it in a Content-Range header, as older clients send it. Throws 416. */
function rangeOf(
  range: string | undefined,
  contentRange: string | undefined,
  size: number,
): { start: number; end: number } | undefined {
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
