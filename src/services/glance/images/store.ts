/** Every query about images. */

import { randomUUID } from 'node:crypto'
import type { Context } from '#kit/context.ts'
import { attempt, isDuplicate, json, type Query, type RawBuilder, sql, type Tx } from '#kit/db/index.ts'
import { emit } from '#kit/events.ts'
import { conflict, notFound } from '#kit/fault.ts'
import { imageDeleted } from '../events.ts'
import { quotaEnforce } from '../quotas.ts'
import type { Image } from './view.ts'

export const noImage = (id: string): Error => notFound(`No image found with ID ${id}`)

/** What a caller may see by id: own, public, community, and what is shared with the project. Administrators see all. */
export function visibleTo(ctx: Context): RawBuilder<boolean> {
  if (ctx.isAdmin) return sql<boolean>`true`
  return sql<boolean>`(i.owner = ${ctx.projectId} or i.visibility in ('public', 'community')
    or (i.visibility = 'shared' and exists (select from glance.members m where m.image_id = i.id and m.member_id = ${ctx.projectId})))`
}

/** An image that the caller may see. Throws notFound otherwise. `lock` keeps its row until the transaction ends. */
export async function imageFetch(
  q: Query,
  ctx: Context,
  id: string,
  options: { lock?: boolean } = {},
): Promise<Image & { member_id: string | null }> {
  const { rows } = await sql<Image>`
    select i.* from glance.images i where i.id = ${id} and ${visibleTo(ctx)} ${options.lock ? sql`for update` : sql``}`.execute(q)
  if (!rows[0]) throw noImage(id)
  const image = target(rows[0], ctx)
  // Who may not be shown it (an administrator of the system, outside any project) is not told either that it is there.
  if (!ctx.can('get_image', image)) throw noImage(id)
  return image
}

/** An image as policy sees it: whose it is under every name that rules use. */
const target = (image: Image, ctx: Context) => ({
  ...image,
  project_id: image.owner,
  member_id: image.visibility === 'shared' && image.owner !== ctx.projectId ? ctx.projectId : null,
})

/** Registers an image that waits for its bytes. Throws conflict when the id is taken. */
export async function imageRegister(tx: Tx, given: Partial<Image>): Promise<Image> {
  const id = given.id ?? randomUUID()
  await quotaEnforce(tx, given.owner ?? null, { image_count_total: 1 })
  try {
    return await attempt(tx, () =>
      tx
        .insertInto('glance.images')
        .values({
          id,
          name: given.name ?? null,
          status: 'queued',
          visibility: given.visibility ?? 'shared',
          owner: given.owner ?? null,
          disk_format: given.disk_format ?? null,
          container_format: given.container_format ?? null,
          min_disk: given.min_disk ?? 0,
          min_ram: given.min_ram ?? 0,
          protected: given.protected ?? false,
          os_hidden: given.os_hidden ?? false,
          properties: json(given.properties ?? {}),
          tags: given.tags ?? [],
          locations: json([]),
        })
        .returningAll()
        .executeTakeFirstOrThrow(),
    )
  } catch (error) {
    if (isDuplicate(error)) throw conflict(`Image ID ${id} already exists!`, { cause: error })
    throw error
  }
}

/** Images that a caller may see, by name, newest first: for services that find one by its name. */
export async function imagesOf(q: Query, ctx: Context, name: string): Promise<Image[]> {
  const { rows } = await sql<Image>`
    select i.* from glance.images i where i.name = ${name} and ${visibleTo(ctx)} order by i.created_at desc, i.id limit 100`.execute(
    q,
  )
  return rows
}

/** Writes changed columns; the image's time of change moves. */
export async function imageUpdate(tx: Tx, id: string, change: Partial<Image>): Promise<Image> {
  const row = await tx
    .updateTable('glance.images')
    .set({
      ...change,
      ...(change.properties && { properties: json(change.properties) }),
      ...(change.import && { import: json(change.import) }),
      ...(change.locations && { locations: json(change.locations) }),
      updated_at: sql<Date>`now()`,
    })
    .where('id', '=', id)
    .returningAll()
    .executeTakeFirst()
  if (!row) throw noImage(id)
  return row
}

/** Removes an image, protected or not; its files are found by the sweep unless the caller removes them. Fine when there is none. */
export async function imageRemove(tx: Tx, id: string): Promise<void> {
  const row = await tx.deleteFrom('glance.images').where('id', '=', id).returning('id').executeTakeFirst()
  if (row) await emit(tx, imageDeleted, { id })
}

/** Unprotected images of a project that have these properties, the newest first. */
export async function imagesWith(q: Query, owner: string, properties: Record<string, string>): Promise<Image[]> {
  return q
    .selectFrom('glance.images')
    .selectAll()
    .where('owner', '=', owner)
    .where('protected', '=', false)
    .where(sql<boolean>`properties @> ${json(properties)}`)
    .orderBy('created_at', 'desc')
    .orderBy('id')
    .execute()
}

/** Whether there is any image to boot from. */
export async function imagesAreThere(q: Query): Promise<boolean> {
  const row = await q
    .selectFrom('glance.images')
    .select('id')
    .where('status', '=', 'active')
    .where('os_hidden', '=', false)
    .limit(1)
    .executeTakeFirst()
  return row !== undefined
}

/** An image by id, whosever it is, for services that act by themselves. Throws notFound. */
export async function imageAny(q: Query, id: string): Promise<Image> {
  const row = await q.selectFrom('glance.images').selectAll().where('id', '=', id).executeTakeFirst()
  if (!row) throw noImage(id)
  return row
}
