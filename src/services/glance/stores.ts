/** The stores of the configuration, and where the bytes of a location are. */
import { resolve } from 'node:path'
import type { Readable } from 'node:stream'
import { badRequest, notFound } from '#kit/fault.ts'
import type { Env } from '#kit/service.ts'
import { httpRead } from './files/http.ts'
import { fileRead } from './files/index.ts'
import { glanceSettings } from './settings.ts'
import type { Location } from './tables.ts'

export interface Store {
  id: string
  description?: string
  /** Absolute path. */
  folder: string
  default: boolean
}

/** The store of locations that are URLs. Nothing can be written to it. */
export const HTTP = 'http'

/** Every store that can be written, the default first. */
export function storesOf(env: Pick<Env, 'config'>): Store[] {
  return env.config.of(glanceSettings).stores.map(({ id, description, path }, i) => ({
    id,
    description,
    folder: resolve(env.config.dataDir, path),
    default: i === 0,
  }))
}

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
      return await fileRead(store.folder, location.file!, range)
    } catch (error) {
      env.log.warn({ err: error, location: locationUrl(location) }, 'an image cannot be read from one of its locations')
      failure = error
    }
  }
  throw notFound('The data of the image cannot be read from any of its locations.', { cause: failure })
}
