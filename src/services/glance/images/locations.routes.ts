/** Locations by an API of their own (2.17), and removal of one store's copy. */
import { randomUUID } from 'node:crypto'
import { sql } from '#kit/db/index.ts'
import { badRequest, conflict, forbidden, notFound } from '#kit/fault.ts'
import { route } from '#kit/http/route.ts'
import * as S from '#kit/http/schema.ts'
import { sagaStart } from '#kit/saga/index.ts'
import { taskInsert } from '../import/import.routes.ts'
import { locationImport } from '../import/location.saga.ts'
import { uriAllowed } from '../import/uri.ts'
import { locationUrl, placeOf, storesOf } from '../stores.ts'
import { refuseFormless } from './data.routes.ts'
import { refuseHash } from './locations.ts'
import { imageFetch, imageUpdate } from './store.ts'

const Added = S.Object({
  url: S.String(),
  validation_data: S.Optional(
    S.Object(
      {
        os_hash_algo: S.Optional(S.OneOf('sha1', 'sha256', 'sha512', 'md5')),
        os_hash_value: S.Optional(S.String({ maxLength: 128 })),
      },
      { additionalProperties: false },
    ),
  ),
})

export const locationRoutes = [
  route({
    method: 'GET',
    path: '/images/:id/locations',
    policy: 'fetch_image_location',
    target: ({ db, ctx, params }) => imageFetch(db, ctx, params.id!),
    handle: ({ target }) => target.locations.map(l => ({ url: locationUrl(l), metadata: { ...l.metadata, store: l.store } })),
  }),
  route({
    method: 'POST',
    path: '/images/:id/locations',
    success: 202,
    policy: 'add_image_location',
    target: ({ db, ctx, params }) => imageFetch(db, ctx, params.id!),
    body: Added,
    async handle({ env, ctx, params, body: { url, validation_data: said = {} } }) {
      if (!URL.canParse(url)) throw badRequest(`Invalid location: ${url} is not an HTTP URL.`)
      uriAllowed(env, new URL(url))
      if ((said.os_hash_algo === undefined) !== (said.os_hash_value === undefined))
        throw badRequest('os_hash_algo and os_hash_value are given together.')
      refuseHash(said)
      const hash = said.os_hash_value ? { algorithm: said.os_hash_algo!, value: said.os_hash_value } : null
      const [taskId, mark] = [randomUUID(), randomUUID()]
      await env.db.tx(async tx => {
        const image = await imageFetch(tx, ctx, params.id!, { lock: true })
        if (image.status !== 'queued') throw conflict(`It's not allowed to add locations if image status is ${image.status}.`)
        refuseFormless(image)
        await tx
          .updateTable('glance.images')
          .set({ status: 'importing', upload: mark, updated_at: sql<Date>`now()` })
          .where('id', '=', image.id)
          .execute()
        const input = { image_id: image.id, loc_url: url, validation_data: said }
        await taskInsert(tx, ctx, { id: taskId, type: 'location_import', imageId: image.id, input })
        const args = { imageId: image.id, taskId, mark, url, hash }
        await sagaStart(tx, locationImport, args, { resource: `glance.image:${image.id}` })
      })
    },
  }),
  route({
    method: 'DELETE',
    path: '/stores/:store/:id',
    success: 204,
    policy: 'delete_image_location',
    target: ({ db, ctx, params }) => imageFetch(db, ctx, params.id!),
    async handle({ env, ctx, params }) {
      const store = storesOf(env).find(s => s.id === params.store)
      if (!store) throw conflict(`The selected store ${params.store} is not available on this node.`)
      const removed = await env.db.tx(async tx => {
        const image = await imageFetch(tx, ctx, params.id!, { lock: true })
        ctx.must('get_image_location', image)
        if (image.status !== 'active')
          throw conflict("It's not allowed to remove image data from store if image status is not 'active'")
        const place = image.locations.findIndex(l => l.store === store.id)
        if (place < 0) throw notFound(`Image ${image.id} is not stored in store ${store.id}.`)
        if (image.locations.length === 1) {
          throw forbidden('Cannot delete image data from the only store containing it. Consider deleting the image instead.')
        }
        await imageUpdate(tx, image.id, { locations: image.locations.toSpliced(place, 1) })
        return image.locations[place]!
      })
      if (removed.file) await placeOf(env, store).remove(removed.file)
    },
  }),
]
