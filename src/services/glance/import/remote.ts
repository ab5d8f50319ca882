/**
 * Another region's image service, asked with the token of who asked for the import. Tokens are secrets and are kept in memory alone: an import that a
 * restart interrupts is undone.
 */

import type { Readable } from 'node:stream'
import { Readable as Streams } from 'node:stream'
import { badRequest, conflict, unavailable } from '#kit/fault.ts'
import { httpOpen } from '../files/http.ts'

export interface Remote {
  /** Its image endpoint. */
  endpoint: string
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

async function ask({ endpoint, imageId }: Remote, path: string, taskId: string, signal: AbortSignal): Promise<Response> {
  const token = tokens.get(taskId)
  if (!token) throw conflict('The import was interrupted.')
  const base = endpoint.replace(/\/(v2\/?)?$/, '')
  const url = `${base}/v2/images/${imageId}${path}`
  const response = await httpOpen(url, { signal, headers: { 'x-auth-token': token } })
  if (response.status === 200) return response
  await response.body?.cancel()
  throw unavailable(`${url} answers ${response.status} ${response.statusText}`)
}

/** What the remote image says that a copy of it needs. Throws badRequest when it has no data. */
export async function remoteShow(remote: Remote, taskId: string, signal: AbortSignal): Promise<Record<string, string>> {
  const response = await ask(remote, '', taskId, signal)
  const image = (await response.json()) as Record<string, unknown>
  if (image.status !== 'active') throw badRequest(`The remote image ${remote.imageId} is ${String(image.status)}, not active.`)
  const taken = Object.entries(image).filter(([name, value]) => TAKEN.test(name) && typeof value === 'string')
  return Object.fromEntries(taken) as Record<string, string>
}

/** The remote image's bytes. */
export async function remoteOpen(remote: Remote, taskId: string, signal: AbortSignal): Promise<Readable> {
  const response = await ask(remote, '/file', taskId, signal)
  if (!response.body) throw unavailable(`The remote image ${remote.imageId} has no data.`)
  return Streams.fromWeb(response.body as never)
}
