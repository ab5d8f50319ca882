/** Glance's tables. A deleted image leaves no row; its files go when their last reader has. */
import type { Generated } from '#kit/db/index.ts'

export type ImageStatus = 'queued' | 'saving' | 'uploading' | 'importing' | 'active' | 'deactivated' | 'killed'
export type Visibility = 'public' | 'private' | 'shared' | 'community'

/** A place of an image's bytes: a file of a store, or a URL that somebody else keeps. */
export interface Location {
  store: string
  /** Name within the store, or null for a URL. */
  file: string | null
  url: string | null
  metadata: Record<string, unknown>
}

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
  /** Where its bytes are: any of these serves. */
  locations: Location[]
  /** Name of the file that a running upload writes, in whatever store; null when none runs. */
  upload: string | null
  /** The upload is dead unless it moved this on. */
  upload_until: Date | null
  /** Name of the staged file, that an import will take. */
  stage: string | null
  stage_size: number | null
  /** The import that runs or ran last. */
  import: ImportState | null
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

/** An import as the image shows it, in properties of the service's own. */
export interface ImportState {
  task: string
  /** Stores that are still to get the data. */
  to: string[]
  /** Stores that could not. */
  failed: string[]
  running: boolean
}

export interface TasksTable {
  id: string
  type: 'import' | 'api_image_import' | 'location_import'
  status: 'pending' | 'processing' | 'success' | 'failure'
  owner: string | null
  input: Record<string, unknown>
  result: Record<string, unknown> | null
  message: Generated<string>
  image_id: string | null
  user_id: string | null
  request_id: string | null
  /** Set when it ends: it is removed then. */
  expires_at: Date | null
  created_at: Generated<Date>
  updated_at: Generated<Date>
}

/** Copies on the disks of controllers; a row without a file is queued. */
export interface CacheTable {
  image_id: string
  controller: string
  file: string | null
  size: number | null
  hits: Generated<number>
  queued_at: Generated<Date>
  cached_at: Date | null
  accessed_at: Date | null
}

/** A set of definitions of metadata. */
export interface NamespacesTable {
  namespace: string
  display_name: string | null
  description: string | null
  visibility: 'public' | 'private'
  protected: boolean
  owner: string | null
  created_at: Generated<Date>
  updated_at: Generated<Date>
}

export interface ResourceTypesTable {
  name: string
  created_at: Generated<Date>
  updated_at: Generated<Date>
}

export type DefinitionKind = 'property' | 'object' | 'tag' | 'resource_type'

/** One definition of a namespace. */
export interface DefinitionsTable {
  namespace: string
  kind: DefinitionKind
  name: string
  /** What it says beside its name, as the wire has it. */
  document: Record<string, unknown>
  created_at: Generated<Date>
  updated_at: Generated<Date>
}

declare module '#kit/db/index.ts' {
  interface Tables {
    'glance.images': ImagesTable
    'glance.members': MembersTable
    'glance.tasks': TasksTable
    'glance.cache': CacheTable
    'glance.namespaces': NamespacesTable
    'glance.resource_types': ResourceTypesTable
    'glance.definitions': DefinitionsTable
  }
}
