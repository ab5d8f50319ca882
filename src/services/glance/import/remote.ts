/**
 * Another region's image service, asked with the token of who asked for the import. Tokens are secrets and are kept in memory alone: an import that a
 * restart interrupts is undone.
 */

import type { Readable } from 'node:stream'
import { Readable as Streams } from 'node:stream'
import { badRequest, conflict, unavailable } from '#kit/fault.ts'
import { httpOpen } from '../files/http.ts'

export interface Remote {
  /** Its image endpoint; null: the catalog has none, as `region` and `face` say it. */
  endpoint: string | null
  region: string
  /** The interface: `public`. */
  face: string
  imageId: string
}

/** Properties that say how a guest must be run are taken along: glance-image-import.conf's extra_properties. */
const TAKEN = /^(hw_|trait:|os_distro$|os_secure_boot$|os_type$)/

const tokens = new Map<string, string>()

/** Keeps a token until the import has used it. */
export function tokenKeep(taskId: string, token: string): void {
  tokens.set(taskId, token)
}

/** Forgets it. */
export function tokenForget(taskId: string): void {
  tokens.delete(taskId)
}

async function ask(
  { endpoint, imageId, region, face }: Remote,
  path: string,
  taskId: string,
  signal: AbortSignal,
): Promise<Response> {
  const token = tokens.get(taskId)
  if (!token) throw conflict('The import was interrupted.')
  if (endpoint === null) throw conflict(`The catalog has no ${face} endpoint of images in region ${region}.`)
  const base = endpoint.replace(/\/(v2\/?)?$/, '')
  const url = `${base}/v2/images/${imageId}${path}`
  const response = await httpOpen(url, { signal, headers: { 'x-auth-token': token } })
  if (response.status === 200) return response
  await response.body?.cancel()
  throw unavailable(`${url} answers ${response.status} ${response.statusText}`)
}

/** What the remote image says that a copy of it takes over. */
export interface RemoteFacts {
  formats: { disk_format: string; container_format: string }
  properties: Record<string, string>
}

/** Asks for that. Throws badRequest when the image has no data. */
export async function remoteShow(remote: Remote, taskId: string, signal: AbortSignal): Promise<RemoteFacts> {
  const response = await ask(remote, '', taskId, signal)
  const image = (await response.json()) as Record<string, unknown>
  if (image.status !== 'active') throw badRequest(`The remote image ${remote.imageId} is ${String(image.status)}, not active.`)
  const taken = Object.entries(image).filter(([name, value]) => TAKEN.test(name) && typeof value === 'string')
  const formats = { disk_format: String(image.disk_format), container_format: String(image.container_format) }
  return { formats, properties: Object.fromEntries(taken) as Record<string, string> }
}

/** The remote image's bytes. */
export async function remoteOpen(remote: Remote, taskId: string, signal: AbortSignal): Promise<Readable> {
  const response = await ask(remote, '/file', taskId, signal)
  if (!response.body) throw unavailable(`The remote image ${remote.imageId} has no data.`)
  return Streams.fromWeb(response.body as never)
}
