/** Places of an image's bytes that clients name: URLs that somebody else keeps. */
import { badRequest, conflict, Fault, forbidden, tooLarge } from '#kit/fault.ts'
import type { Env } from '#kit/service.ts'
import { httpSize } from '../files/http.ts'
import { uriAllowed } from '../import/uri.ts'
import { glanceSettings } from '../settings.ts'
import { HTTP, locationUrl } from '../stores.ts'
import type { Location } from '../tables.ts'
import type { Image } from './view.ts'

/** A location as clients give it. */
export interface LocationGiven {
  url: string
  metadata: Record<string, unknown>
  validation_data?: { checksum?: string; os_hash_algo: string; os_hash_value: string }
}

/** Asks a URL for its size. Throws badRequest when it may not be fetched or does not answer. */
export async function locationProbe(env: Env, url: string): Promise<number | null> {
  const allow = (at: URL): void => uriAllowed(env, at)
  try {
    return await httpSize(parsed(url).href, { allow })
  } catch (error) {
    if (error instanceof Fault && error.kind === 'unavailable')
      throw badRequest(`Invalid location: ${error.message}`, { cause: error })
    throw error
  }
}

function parsed(url: string): URL {
  const at = URL.canParse(url) ? new URL(url) : undefined
  if (!at || !['http:', 'https:'].includes(at.protocol)) throw badRequest(`Invalid location: ${url} is not an HTTP URL.`)
  return at
}

type Change = Partial<Image>

function refuseStatus(env: Env, image: Image, verb: string, allowed: readonly string[]): void {
  if (!env.config.of(glanceSettings).show_multiple_locations)
    throw forbidden(`It's not allowed to ${verb} locations if locations are invisible.`)
  if (!allowed.includes(image.status)) throw conflict(`It's not allowed to ${verb} locations if image status is ${image.status}.`)
}

const made = ({ url, metadata }: LocationGiven): Location => {
  const { store: _, ...rest } = metadata
  return { store: HTTP, file: null, url, metadata: rest }
}

/** What an image becomes by a first location: active, with what was said of its bytes. */
function activated(image: Image, given: LocationGiven[], sizes: Map<string, number | null>): Change {
  const said: Record<string, string> = {}
  for (const { validation_data } of given) {
    for (const [name, value] of Object.entries(validation_data ?? {})) {
      if ((said[name] ?? value) !== value) throw conflict(`Conflicting values for ${name}`)
      said[name] = value
    }
  }
  const current = image as unknown as Record<string, string | null>
  for (const [name, value] of Object.entries(said)) {
    if (current[name] === value) delete said[name]
    else if (current[name]) throw conflict(`${name} is already set with a different value`)
  }
  if (image.status !== 'queued' && Object.keys(said).length > 0) {
    throw conflict(`New value(s) for ${Object.keys(said).join(', ')} may only be provided when image status is 'queued'`)
  }
  refuseHash(said)
  if (image.status !== 'queued') return {}
  return { ...(said as Change), status: 'active', size: sizes.get(given[0]!.url) ?? null, message: null }
}

const DIGITS: Record<string, number> = { md5: 32, sha1: 40, sha256: 64, sha512: 128 }

/** Throws badRequest for a hash that cannot be one. */
export function refuseHash({ os_hash_algo, os_hash_value, checksum }: Record<string, string | undefined>): void {
  if (checksum !== undefined && !/^[0-9a-fA-F]{32}$/.test(checksum))
    throw conflict(`checksum (${checksum}) is not a valid hexadecimal value`)
  if (os_hash_value === undefined) return
  const digits = DIGITS[os_hash_algo ?? 'sha512']
  if (digits === undefined) throw badRequest(`The hash ${os_hash_algo} is not known.`)
  if (!/^[0-9a-fA-F]*$/.test(os_hash_value)) throw badRequest(`os_hash_value (${os_hash_value}) is not a valid hexadecimal value`)
  if (os_hash_value.length !== digits)
    throw badRequest(
      `os_hash_value: (${os_hash_value}) is not the correct size for (${os_hash_algo}) (should be ${digits / 2} bytes)`,
    )
}

/** Adds a location at a place (`-`: the end). */
export function locationAdd(env: Env, image: Image, at: string, given: LocationGiven, sizes: Map<string, number | null>): Change {
  refuseStatus(env, image, 'add', ['active', 'queued'])
  parsed(given.url)
  if (image.locations.some(l => l.url === given.url)) throw badRequest(`The location ${given.url} is there already.`)
  const place = at === '-' ? image.locations.length : Number(at)
  if (!/^(-|\d{1,4})$/.test(at) || place > image.locations.length) throw badRequest('Invalid position for adding a location.')
  const most = env.config.of(glanceSettings).image_location_quota
  if (most >= 0 && image.locations.length >= most) throw tooLarge(`An image has at most ${most} locations.`)
  return { ...activated(image, [given], sizes), locations: image.locations.toSpliced(place, 0, made(given)) }
}

/** Sets the locations of an image that has none; of another, what is said of each of them. */
export function locationsReplace(env: Env, image: Image, given: LocationGiven[], sizes: Map<string, number | null>): Change {
  if (given.length === 0) throw forbidden('Cannot set locations to empty list.')
  refuseStatus(env, image, 'replace', ['active', 'queued'])
  if (image.locations.length === 0) {
    for (const { url } of given) parsed(url)
    if (new Set(given.map(g => g.url)).size < given.length) throw badRequest('A location is given twice.')
    return { ...activated(image, given, sizes), locations: given.map(made) }
  }
  const same = given.length === image.locations.length && given.every((g, i) => g.url === locationUrl(image.locations[i]!))
  if (!same)
    throw badRequest('Locations that are set can be added to and removed from one by one; only what is said of them is replaced.')
  activated(image, given, sizes)
  return { locations: image.locations.map((l, i) => ({ ...l, metadata: made(given[i]!).metadata })) }
}

/** Removes the location at a place. The last one stays. */
export function locationRemove(env: Env, image: Image, at: string): Change {
  refuseStatus(env, image, 'remove', ['active'])
  if (image.locations.length === 1) throw forbidden('Cannot remove last location in the image.')
  if (!/^(-|\d{1,4})$/.test(at)) throw badRequest('Invalid position for removing a location.')
  const place = at === '-' ? image.locations.length - 1 : Number(at)
  if (place >= image.locations.length) throw badRequest('Invalid position for removing a location.')
  return { locations: image.locations.toSpliced(place, 1) }
}
