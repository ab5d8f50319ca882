/**
 * The cache: copies of images on this controller's own disk, for images whose bytes are far away. An operator queues an image, or a reading of an image
 * that somebody else keeps does; it is fetched soon; readings use the copy. Each controller has a cache of its own: rows name the controller.
 */
import { randomUUID } from 'node:crypto'
import { EventEmitter } from 'node:events'
import * as fs from 'node:fs/promises'
import { join, resolve } from 'node:path'
import type { Readable } from 'node:stream'
import { type Query, sql } from '#kit/db/index.ts'
import type { Env } from '#kit/service.ts'
import { fileList, fileRead, fileRemove, filesStore, folderPlace } from '../files/index.ts'
import { glanceSettings } from '../settings.ts'
import { locationsOpen, type Range, storesOf } from '../stores.ts'

export const cacheFolder = (env: Env): string => resolve(env.config.dataDir, env.config.of(glanceSettings).image_cache_dir)

/** Time between looks at the queue without a cause, in ms. Tasks are done by one controller for all; this is each controller's own. */
const EVERY = 60_000

const wakes = new EventEmitter().setMaxListeners(0)

/** Keeps this controller's cache: see {@link cacheFill}. Returns what stops it. */
export function cacheKeep(env: Env): () => Promise<void> {
  let running: Promise<void> | undefined
  let again = false
  const look = (clean: boolean): void => {
    again = running !== undefined
    running ??= cacheFill(env, clean)
      .catch(error => env.log.warn({ err: error }, 'the image cache could not be kept; trying again'))
      .finally(() => {
        running = undefined
        if (again) look(false)
      })
  }
  const queued = (): void => look(false)
  wakes.on('queued', queued)
  const timer = setInterval(() => look(true), EVERY).unref()
  return async () => {
    wakes.off('queued', queued)
    clearInterval(timer)
    again = false
    await running
  }
}

/** Fetches what is queued. When something was, or `clean`: keeps the cache within its size, and removes copies of images that are gone. */
export async function cacheFill(env: Env, clean = true): Promise<void> {
  for (let fetched = clean; ; fetched = true) {
    const next = await env.db.read
      .selectFrom('glance.cache')
      .select('image_id')
      .where('controller', '=', env.hosts.controller)
      .where('file', 'is', null)
      .orderBy('queued_at')
      .limit(1)
      .executeTakeFirst()
    if (next) await fetchInto(env, next.image_id)
    else if (!fetched) return
    else break
  }
  await cacheClean(env)
  await cachePrune(env)
}

async function fetchInto(env: Env, id: string): Promise<void> {
  const image = await env.db.read
    .selectFrom('glance.images')
    .select(['locations', 'size'])
    .where('id', '=', id)
    .executeTakeFirst()
  const file = randomUUID()
  try {
    if (!image || image.locations.length === 0) throw new Error('the image has no data')
    await fs.mkdir(cacheFolder(env), { recursive: true, mode: 0o700 })
    const size = (await linked(env, image.locations, file)) ?? (await copied(env, image.locations, file))
    await env.db.read
      .updateTable('glance.cache')
      .set({ file, size, cached_at: sql<Date>`now()`, accessed_at: sql<Date>`now()` })
      .where('image_id', '=', id)
      .where('controller', '=', env.hosts.controller)
      .execute()
  } catch (error) {
    env.log.warn({ err: error, image: id }, 'an image cannot be cached')
    await cacheDrop(env, [id])
  }
}

type Locations = Parameters<typeof locationsOpen>[1]

/** A copy in a store on the same disk is the same file under another name. */
async function linked(env: Env, locations: Locations, file: string): Promise<number | undefined> {
  for (const { store, file: name } of locations) {
    const folder = storesOf(env).find(s => s.id === store)?.folder
    if (!folder || !name) continue
    try {
      await fs.link(join(folder, name), join(cacheFolder(env), file))
      return (await fs.stat(join(folder, name))).size
    } catch (error) {
      if (!['EXDEV', 'ENOENT', 'EPERM'].includes((error as NodeJS.ErrnoException).code ?? '')) throw error
    }
  }
  return undefined
}

async function copied(env: Env, locations: Locations, file: string): Promise<number> {
  const { size } = await filesStore([folderPlace(cacheFolder(env))], file, await locationsOpen(env, locations), () => {})
  return size
}

/** The cached copy, where this controller has one. */
export async function cacheOpen(env: Env, id: string, range?: Range): Promise<Readable | undefined> {
  const row = await env.db.read
    .updateTable('glance.cache')
    .set({ hits: sql<number>`hits + 1`, accessed_at: sql<Date>`now()` })
    .where('image_id', '=', id)
    .where('controller', '=', env.hosts.controller)
    .where('file', 'is not', null)
    .returning('file')
    .executeTakeFirst()
  if (!row) return undefined
  try {
    return await fileRead(cacheFolder(env), row.file!, range)
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error
    await cacheDrop(env, [id])
    return undefined
  }
}

/** Asks for a copy, which is fetched soon. Outside a transaction: who fetches it looks at once. */
export async function cacheQueue(db: Query, env: Env, id: string): Promise<void> {
  await db
    .insertInto('glance.cache')
    .values({ image_id: id, controller: env.hosts.controller })
    .onConflict(c => c.columns(['image_id', 'controller']).doNothing())
    .execute()
  wakes.emit('queued')
}

/** Drops copies and queued ones: those of these images, or all; only copies or only queued ones where said. Returns how many. */
export async function cacheDrop(env: Env, ids?: readonly string[], what?: 'cache' | 'queue'): Promise<number> {
  let query = env.db.read.deleteFrom('glance.cache').where('controller', '=', env.hosts.controller)
  if (ids) query = query.where('image_id', 'in', [...ids])
  if (what) query = query.where('file', what === 'cache' ? 'is not' : 'is', null)
  const dropped = await query.returning('file').execute()
  for (const { file } of dropped) if (file) await fileRemove(cacheFolder(env), file)
  return dropped.length
}

/** Removes copies of images that are gone, and files that no row names. */
export async function cacheClean(env: Env): Promise<void> {
  const { rows } = await sql<{ image_id: string }>`
    select c.image_id from glance.cache c left join glance.images i on i.id = c.image_id and i.status in ('active', 'deactivated')
    where c.controller = ${env.hosts.controller} and i.id is null`.execute(env.db.read)
  if (rows.length > 0)
    await cacheDrop(
      env,
      rows.map(r => r.image_id),
    )
  const old = (await fileList(cacheFolder(env))).filter(f => f.age > 86_400_000)
  const kept = await env.db.read.selectFrom('glance.cache').select('file').where('file', 'is not', null).execute()
  const named = new Set(kept.map(k => k.file))
  for (const { name } of old) if (!named.has(name)) await fileRemove(cacheFolder(env), name)
}

/** Drops the copies that nobody has read for longest until the cache is within its size. */
export async function cachePrune(env: Env): Promise<{ files: number; bytes: number }> {
  const most = env.config.of(glanceSettings).image_cache_max_size
  const rows = await env.db.read
    .selectFrom('glance.cache')
    .select(['image_id', 'size'])
    .where('controller', '=', env.hosts.controller)
    .where('file', 'is not', null)
    .orderBy('accessed_at', 'desc')
    .execute()
  let kept = 0
  const over = rows.filter(({ size }) => {
    kept += size ?? 0
    return kept > most
  })
  if (over.length > 0)
    await cacheDrop(
      env,
      over.map(r => r.image_id),
    )
  return { files: over.length, bytes: over.reduce((sum, { size }) => sum + (size ?? 0), 0) }
}
