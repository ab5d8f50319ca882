import { forbidden, notFound } from '#kit/fault.ts'
import { route } from '#kit/http/route.ts'
import { fileRemove } from '../files/index.ts'
import { placeOf, stagingFolder, storesOf } from '../stores.ts'
import { imageShown } from './show.ts'
import { imageFetch, imageRemove, imageUpdate } from './store.ts'

export const imageShow = route({
  method: 'GET',
  path: '/images/:id',
  policy: 'get_image',
  target: ({ db, ctx, params }) => imageFetch(db, ctx, params.id!),
  handle: ({ ctx, env, target }) => imageShown({ ctx, env }, target),
})

export const imageDelete = route({
  method: 'DELETE',
  path: '/images/:id',
  success: 204,
  policy: 'delete_image',
  target: ({ db, ctx, params }) => imageFetch(db, ctx, params.id!),
  async handle({ ctx, env, params }) {
    const image = await env.db.tx(async tx => {
      const row = await imageFetch(tx, ctx, params.id!, { lock: true })
      if (row.protected) throw forbidden(`Image ${row.id} is protected and cannot be deleted.`)
      await imageRemove(tx, row.id)
      return row
    })
    // Files that this process does not live to remove are found by the sweep.
    for (const one of storesOf(env)) {
      for (const { store, file } of image.locations) if (store === one.id && file) await placeOf(env, one).remove(file)
    }
    if (image.stage) await fileRemove(stagingFolder(env), image.stage)
  },
})

const TURNS = { deactivate: { from: 'active', to: 'deactivated' }, reactivate: { from: 'deactivated', to: 'active' } } as const

export const imageTurns = (['deactivate', 'reactivate'] as const).map(verb =>
  route({
    method: 'POST',
    path: `/images/:id/actions/${verb}`,
    success: 204,
    policy: verb,
    target: ({ db, ctx, params }) => imageFetch(db, ctx, params.id!),
    async handle({ ctx, env, params }) {
      await env.db.tx(async tx => {
        const { id, status } = await imageFetch(tx, ctx, params.id!, { lock: true })
        if (status === TURNS[verb].to) return
        if (status !== TURNS[verb].from) throw forbidden(`Not allowed to ${verb} image in status '${status}'`)
        await imageUpdate(tx, id, { status: TURNS[verb].to })
      })
    },
  }),
)

/** Tags are a set: adding and removing one cannot lose another. */
export const imageTags = [
  route({
    method: 'PUT',
    path: '/images/:id/tags/:tag',
    success: 204,
    policy: 'modify_image',
    target: ({ db, ctx, params }) => imageFetch(db, ctx, params.id!),
    async handle({ ctx, env, params }) {
      await env.db.tx(async tx => {
        const { id, tags } = await imageFetch(tx, ctx, params.id!, { lock: true })
        if (!tags.includes(params.tag!)) await imageUpdate(tx, id, { tags: [...tags, params.tag!] })
      })
    },
  }),
  route({
    method: 'DELETE',
    path: '/images/:id/tags/:tag',
    success: 204,
    policy: 'modify_image',
    target: ({ db, ctx, params }) => imageFetch(db, ctx, params.id!),
    async handle({ ctx, env, params }) {
      await env.db.tx(async tx => {
        const { id, tags } = await imageFetch(tx, ctx, params.id!, { lock: true })
        if (!tags.includes(params.tag!)) throw notFound(`The image has no tag '${params.tag}'.`)
        await imageUpdate(tx, id, { tags: tags.filter(tag => tag !== params.tag) })
      })
    },
  }),
]
