import { type Query, sql } from '#kit/db/index.ts'
import type { Env } from '#kit/service.ts'
import { task } from '#kit/task.ts'
import { folderPlace } from '../files/index.ts'
import type { Place } from '../files/place.ts'
import { placeOf, stagingFolder, storesOf } from '../stores.ts'

/** A file is nobody's only when no row names it, and it is older than this, in ms: rows name files before they are made. */
const YOUNG = 120_000

/** Sets back images whose upload died, and removes files that no image has, and tasks that ended long ago. */
export const sweep = task({
  name: 'glance.sweep',
  every: 60,
  async run(env) {
    await uploadsEnd(env)
    await env.db.read.deleteFrom('glance.tasks').where('expires_at', '<', sql<Date>`now()`).execute()
    const places = [...storesOf(env).map(store => placeOf(env, store)), folderPlace(stagingFolder(env))]
    const found = new Map<Place, string[]>()
    for (const place of places) {
      found.set(
        place,
        (await place.list()).filter(f => f.age > YOUNG).map(f => f.name),
      )
    }
    const named = await filesNamed(env.db.read)
    for (const [place, names] of found) {
      for (const name of names) {
        if (named.has(name)) continue
        await place.remove(name)
        env.log.info({ place: place.name, name }, 'removed a file that no image has')
      }
    }
  },
})

/** Uploads whose process has not moved their time on. What they had begun is removed with the files that no row names. */
async function uploadsEnd(env: Env): Promise<void> {
  const ended = await env.db.read
    .updateTable('glance.images')
    .set({ status: 'queued', upload: null, upload_until: null, message: 'The upload was interrupted.' })
    .where('upload_until', '<', sql<Date>`now()`)
    .where('status', 'in', ['saving', 'uploading'])
    .returning('id')
    .execute()
  for (const { id } of ended) env.log.warn({ image: id }, 'an upload was interrupted; the image waits for its data again')
}

/** Every file that a row names: read after the folders were, so that a file that is in use is never taken for garbage. */
export async function filesNamed(db: Query): Promise<Set<string>> {
  const { rows } = await sql<{ name: string }>`
    select l ->> 'file' as name from glance.images, jsonb_array_elements(locations) l where l ->> 'file' is not null
    union select upload from glance.images where upload is not null
    union select stage from glance.images where stage is not null`.execute(db)
  return new Set(rows.map(r => r.name))
}
