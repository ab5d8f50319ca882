/** The cache of the controller that answers. */
import { badRequest } from '#kit/fault.ts'
import { route } from '#kit/http/route.ts'
import { imageFetch } from '../images/store.ts'
import { cacheClean, cacheDrop, cachePrune, cacheQueue } from './cache.ts'

const seconds = (at: Date | null): number => (at ? at.getTime() / 1000 : 0)

export const cacheRoutes = [
  route({
    method: 'GET',
    path: '/cache',
    policy: 'cache_list',
    async handle({ db, env }) {
      const rows = await db
        .selectFrom('glance.cache')
        .selectAll()
        .where('controller', '=', env.hosts.controller)
        .orderBy('queued_at')
        .execute()
      return {
        cached_images: rows
          .filter(r => r.file !== null)
          .map(r => ({
            image_id: r.image_id,
            hits: r.hits,
            last_accessed: seconds(r.accessed_at),
            last_modified: seconds(r.cached_at),
            size: r.size,
          })),
        queued_images: rows.filter(r => r.file === null).map(r => r.image_id),
      }
    },
  }),
  route({
    method: 'DELETE',
    path: '/cache',
    success: 204,
    policy: 'cache_delete',
    async handle({ env, headers }) {
      const target = String(headers['x-image-cache-clear-target'] ?? '').toLowerCase()
      if (!['', 'cache', 'queue'].includes(target))
        throw badRequest("If provided 'x-image-cache-clear-target' must be 'cache', 'queue' or empty string.")
      await cacheDrop(env, undefined, (target || undefined) as 'cache' | 'queue' | undefined)
    },
  }),
  route({
    method: 'PUT',
    path: '/cache/:id',
    success: 202,
    policy: 'cache_image',
    target: ({ db, ctx, params }) => imageFetch(db, ctx, params.id!),
    async handle({ db, env, target }) {
      if (target.status !== 'active') throw badRequest('Only images with status active can be targeted for queueing')
      await cacheQueue(db, env, target.id)
    },
  }),
  route({
    method: 'DELETE',
    path: '/cache/:id',
    success: 204,
    policy: 'cache_delete',
    async handle({ db, ctx, env, params }) {
      if ((await cacheDrop(env, [params.id!])) === 0) await imageFetch(db, ctx, params.id!)
    },
  }),
  route({
    method: 'GET',
    path: '/cache/nodes/:id',
    policy: 'list_cached_nodes',
    target: ({ db, ctx, params }) => imageFetch(db, ctx, params.id!),
    async handle({ db, target }) {
      const rows = await db
        .selectFrom('glance.cache')
        .select('controller')
        .where('image_id', '=', target.id)
        .where('file', 'is not', null)
        .orderBy('controller')
        .execute()
      return { cached_nodes: rows.map(r => r.controller) }
    },
  }),
  route({
    method: 'POST',
    path: '/cache/clean',
    policy: 'cache_clean',
    handle: ({ env }) => cacheClean(env),
  }),
  route({
    method: 'POST',
    path: '/cache/prune',
    policy: 'cache_prune',
    async handle({ env }) {
      const { files, bytes } = await cachePrune(env)
      return { total_files_pruned: files, total_bytes_pruned: bytes }
    },
  }),
]
