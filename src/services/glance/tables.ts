/** Glance's tables. A deleted image leaves no row; its file goes when its last reader has. */
import type { Generated } from '#kit/db/index.ts'

export type ImageStatus = 'queued' | 'saving' | 'uploading' | 'importing' | 'active' | 'deactivated' | 'killed'
export type Visibility = 'public' | 'private' | 'shared' | 'community'

export interface ImagesTable {
  id: string
  name: string | null
  status: ImageStatus
  visibility: Visibility
  owner: string | null
  disk_format: string | null
  container_format: string | null
  min_disk: number
  min_ram: number
  protected: boolean
  os_hidden: boolean
  /** Bytes of the stored file; null before there is one. */
  size: number | null
  /** Bytes of the disk that a guest sees. */
  virtual_size: number | null
  /** MD5, as the API has it. */
  checksum: string | null
  os_hash_algo: string | null
  os_hash_value: string | null
  /** Everything that is no field of the API: name → text. */
  properties: Record<string, string>
  tags: string[]
  /** Name of the file in the store; a new one for each upload, so that an upload that died can be told from the image. */
  file: string | null
  /** Why an upload or import failed. */
  message: string | null
  created_at: Generated<Date>
  updated_at: Generated<Date>
}

export interface MembersTable {
  image_id: string
  member_id: string
  status: 'pending' | 'accepted' | 'rejected'
  created_at: Generated<Date>
  updated_at: Generated<Date>
}

declare module '#kit/db/index.ts' {
  interface Tables {
    'glance.images': ImagesTable
    'glance.members': MembersTable
  }
}
