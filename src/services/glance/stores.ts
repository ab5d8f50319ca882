/** The stores of the configuration, and where the bytes of a location are. */
import { resolve } from 'node:path'
import type { Readable } from 'node:stream'
import { badRequest, notFound } from '#kit/fault.ts'
import type { Env } from '#kit/service.ts'
import { objectsOf } from '#services/swift/index.ts'
import { httpRead } from './files/http.ts'
import { folderPlace } from './files/index.ts'
import { objectPlace } from './files/objects.ts'
import type { Place } from './files/place.ts'
import { glanceSettings } from './settings.ts'
import type { Location } from './tables.ts'

export interface Store {
  id: string
  description?: string
  /** Absolute path; null: it is a container of object storage. */
  folder: string | null
  container: string | null
  /** Bytes of an object: a larger file is several. */
  segmentSize: number
  default: boolean
}

/** The store of locations that are URLs. Nothing can be written to it. */
export const HTTP = 'http'

/** Every store that can be written, the default first. */
export function storesOf(env: Pick<Env, 'config'>): Store[] {
  return env.config.of(glanceSettings).stores.map(({ id, description, path, container, segment_size }, i) => {
    if ((path === undefined) === (container === undefined))
      throw new Error(`glance.stores: the store ${id} needs either a path or a container`)
    return {
      id,
      description,
      folder: path === undefined ? null : resolve(env.config.dataDir, path),
      container: container ?? null,
      segmentSize: segment_size,
      default: i === 0,
    }
  })
}

/** The account of object storage that images are kept in; a name that begins with a dot is never a tenant's. */
const ACCOUNT = '.images'

/** Where the files of a store are. */
export const placeOf = (env: Env, { folder, container, segmentSize }: Store): Place =>
  folder === null ? objectPlace(() => objectsOf(env, ACCOUNT), container!, segmentSize) : folderPlace(folder)

/** The store of this name, or the default. Throws badRequest when there is none. */
export function storeNamed(env: Env, id?: string): Store {
  const stores = storesOf(env)
  const found = id === undefined ? stores[0] : stores.find(s => s.id === id)
  if (!found) throw badRequest(`There is no store '${id}'. Stores are: ${stores.map(s => s.id).join(', ')}.`)
  return found
}

/** Folder of staged bytes. */
export const stagingFolder = (env: Pick<Env, 'config'>): string =>
  resolve(env.config.dataDir, env.config.of(glanceSettings).staging)

/** How a location looks on the wire. Paths of controllers are nobody's business. */
export const locationUrl = ({ store, file, url }: Location): string => url ?? `file://${store}/${file}`

/** A range of bytes, both ends included. */
export interface Range {
  start: number
  end: number
}

/**
 * Reads an image's bytes from the first of its locations that answers. Throws notFound when none does, with what the last one said.
 */
export async function locationsOpen(env: Env, locations: readonly Location[], range?: Range): Promise<Readable> {
  const stores = storesOf(env)
  let failure: unknown
  for (const location of locations) {
    try {
      if (location.url !== null) return await httpRead(location.url, range)
      const store = stores.find(s => s.id === location.store)
      if (!store) throw new Error(`the store '${location.store}' is not configured`)
      return await placeOf(env, store).read(location.file!, range)
    } catch (error) {
      env.log.warn({ err: error, location: locationUrl(location) }, 'an image cannot be read from one of its locations')
      failure = error
    }
  }
  throw notFound('The data of the image cannot be read from any of its locations.', { cause: failure })
}
