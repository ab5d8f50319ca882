/**
 * Takes the bytes of an image in: from an upload, a staging area or a URL, to one or several stores, inspected as they pass.
 *
 * An upload is owned by the process that reads it. It shows so by moving `upload_until` on: a row whose time has passed belongs to a dead process, and
 * the sweep sets it back. An image that was deleted meanwhile has no row to move, which ends the upload.
 */
import { sql } from '#kit/db/index.ts'
import { badRequest, type Fault, gone, tooLarge, unsupportedMedia } from '#kit/fault.ts'
import type { Env } from '#kit/service.ts'
import { filesStore, type Stored } from '../files/index.ts'
import type { Place } from '../files/place.ts'
import { type Finding, inspection, objection } from '../inspect/index.ts'
import { glanceSettings } from '../settings.ts'
import type { Image } from './view.ts'

const LEASE_S = 60
const RENEW_MS = 10_000

/** Until when an upload that starts now is trusted to live. */
export const leaseEnd = () => sql<Date>`now() + ${LEASE_S} * interval '1 second'`

export interface Received extends Stored {
  found: Finding
}

export interface ReceiveOptions {
  places: readonly Place[]
  file: string
  /** Bytes that the sender announced. */
  announced?: number
  /** Whether the content must be what the image says: staged bytes are looked at when they are imported. */
  inspect: boolean
  /** See `filesStore`. */
  onPlaceLost?: (place: Place, error: unknown) => void
  signal?: AbortSignal
}

/**
 * Writes the bytes to a file in each place. Nothing is left when it fails. Throws tooLarge beyond the cap, unsupportedMedia for content
 * that is dangerous or not what the image says, badRequest when the sender breaks off, gone when the image is deleted meanwhile.
 */
export async function receive(
  env: Env,
  image: Pick<Image, 'id' | 'disk_format' | 'container_format'>,
  source: AsyncIterable<Buffer>,
  options: ReceiveOptions,
): Promise<Received> {
  const { image_size_cap: cap } = env.config.of(glanceSettings)
  if (options.announced !== undefined) refuseLarge(options.announced, cap)
  const look = inspection()
  const lease = leaseHold(env, image.id, options.file)
  let size = 0
  try {
    const pass = (chunk: Buffer): void => {
      if (lease.lost) throw lease.lost
      options.signal?.throwIfAborted()
      size += chunk.length
      refuseLarge(size, cap)
      const before = look.decided
      look.add(chunk)
      if (options.inspect && !before && look.decided) refuse(image, look.finish())
    }
    const stored = await filesStore(options.places, options.file, source, pass, { onPlaceLost: options.onPlaceLost })
    if (options.announced !== undefined && stored.size !== options.announced) {
      throw badRequest(`The data broke off after ${stored.size} of ${options.announced} bytes.`)
    }
    const found = look.finish()
    if (options.inspect) refuse(image, found)
    return { ...stored, found }
  } catch (error) {
    for (const place of options.places) await place.remove(options.file)
    // The sender has gone: it was no fault of ours.
    if ((error as NodeJS.ErrnoException).code === 'ECONNRESET') throw badRequest('The data broke off.', { cause: error })
    throw error
  } finally {
    lease.stop()
  }
}

function refuseLarge(size: number, cap: number): void {
  if (size > cap) throw tooLarge(`Images have at most ${cap} bytes.`)
}

/** Throws unsupportedMedia, which says why, for content that the image must not have. */
function refuse(image: Pick<Image, 'disk_format' | 'container_format'>, found: Finding): void {
  // A container such as OVA or Docker has its disks within; they are looked at when they are taken out.
  const why = image.container_format === 'bare' ? objection(image.disk_format!, found) : found.danger
  if (why) throw unsupportedMedia(`The image cannot be used: ${why}.`)
}

/** Moves the upload's time on until stopped. `lost` is set once the row no longer belongs to this upload. */
function leaseHold(env: Env, id: string, file: string): { readonly lost: Fault | undefined; stop(): void } {
  let lost: Fault | undefined
  const renew = async (): Promise<void> => {
    const { numUpdatedRows } = await env.db.read
      .updateTable('glance.images')
      .set({ upload_until: leaseEnd() })
      .where('id', '=', id)
      .where('upload', '=', file)
      .executeTakeFirst()
    if (numUpdatedRows === 0n) lost = gone(`The image ${id} was deleted while its data arrived.`)
  }
  const timer = setInterval(() => {
    renew().catch(error => env.log.warn({ err: error, image: id }, 'the lease of an upload could not be moved on'))
  }, RENEW_MS)
  return {
    get lost() {
      return lost
    },
    stop: () => clearInterval(timer),
  }
}
