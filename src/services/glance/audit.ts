/** What must agree in Glance: rows of images and the files of their bytes. */
import { audit } from '#kit/audit.ts'
import { sql } from '#kit/db/index.ts'
import { fileList } from './files/index.ts'
import { stagingFolder, storesOf } from './stores.ts'
import { filesNamed } from './tasks/sweep.ts'

/** Rows name files before these are made, and the sweep takes its time. In ms. */
const YOUNG = 240_000

interface NamedFile {
  id: string
  status: string
  size: number | null
  store: string
  file: string
}

export const glanceAudit = audit({
  async findings({ db, config, files }) {
    const found: { what: string; id: string; why: string }[] = []
    const { rows: empty } = await sql<{ id: string; status: string }>`
      select id, status from glance.images
      where case when jsonb_array_length(locations) > 0 then status = 'queued' else status in ('active', 'deactivated') end`.execute(
      db,
    )
    for (const { id, status } of empty)
      found.push({ what: 'image', id, why: `its state is ${status}, which its locations do not fit` })
    if (!files) return found

    const { rows: named } = await sql<NamedFile>`
      select i.id, i.status, i.size, l ->> 'store' as store, l ->> 'file' as file
      from glance.images i, jsonb_array_elements(i.locations) l where l ->> 'file' is not null`.execute(db)
    const wanted = await filesNamed(db)
    const stores = storesOf({ config })
    for (const { id, folder } of stores) {
      if (folder === null) continue // object storage has an audit of its own
      const there = new Map((await fileList(folder)).map(file => [file.name, file]))
      for (const image of named.filter(row => row.store === id)) {
        const file = there.get(image.file)
        if (!file || file.part) found.push({ what: 'image', id: image.id, why: `its file ${image.file} is missing in ${folder}` })
        else if (image.size !== null && file.size !== Number(image.size)) {
          found.push({
            what: 'image',
            id: image.id,
            why: `it has ${image.size} bytes, its file ${image.file} in ${folder} has ${file.size}`,
          })
        }
      }
    }
    for (const folder of [...stores.flatMap(store => store.folder ?? []), stagingFolder({ config })]) {
      for (const { name, age } of await fileList(folder)) {
        if (age > YOUNG && !wanted.has(name)) found.push({ what: 'file', id: `${folder}/${name}`, why: 'no image has it' })
      }
    }
    return found
  },

  async unsettled(db, seconds) {
    const { rows } = await sql<{ id: string; status: string; since: Date; message: string | null }>`
      select id, status, updated_at as since, message from glance.images
      where status in ('saving', 'uploading', 'importing') and updated_at < now() - make_interval(secs => ${seconds})`.execute(db)
    return rows.map(({ id, status, since, message }) => ({ what: 'image', id, state: status, since, why: message }))
  },
})
