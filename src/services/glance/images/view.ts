/** An image as the wire shows it. */
import type { Selectable } from '#kit/db/index.ts'
import type { ImagesTable } from '../tables.ts'

export type Image = Selectable<ImagesTable>

/** `2026-11-22T17:00:00Z`: Glance's timestamps have no fractions. */
export const when = (at: Date): string => `${at.toISOString().slice(0, 19)}Z`

/** The whole image. Free properties stand beside the fields. */
export function imageView(image: Image): Record<string, unknown> {
  return {
    ...image.properties,
    name: image.name,
    disk_format: image.disk_format,
    container_format: image.container_format,
    visibility: image.visibility,
    size: image.size,
    virtual_size: image.virtual_size,
    status: image.status,
    checksum: image.checksum,
    protected: image.protected,
    min_ram: image.min_ram,
    min_disk: image.min_disk,
    owner: image.owner,
    os_hidden: image.os_hidden,
    os_hash_algo: image.os_hash_algo,
    os_hash_value: image.os_hash_value,
    id: image.id,
    created_at: when(image.created_at),
    updated_at: when(image.updated_at),
    tags: image.tags,
    self: `/v2/images/${image.id}`,
    file: `/v2/images/${image.id}/file`,
    schema: '/v2/schemas/image',
    ...(image.import && {
      ...(image.import.running && { os_glance_import_task: image.import.task }),
      os_glance_importing_to_stores: image.import.to.join(','),
      os_glance_failed_import: image.import.failed.join(','),
    }),
    ...(image.locations.length > 0 && { stores: [...new Set(image.locations.map(l => l.store))].join(',') }),
  }
}
