/** Where databases are on a device, and what to do with one that is damaged. */

import { stat } from 'node:fs/promises'
import { join } from 'node:path'
import type { Log } from '#kit/log.ts'
import type { Limits } from '../constraints.ts'
import { type Disk, deviceDir, failedWith, isFull, quarantine } from '../disk/layout.ts'
import { type HashSecrets, hashName } from '../hash.ts'
import type { Dialer } from '../http/client.ts'
import { type Headers, isTrue, type Query, refuse, Stop } from '../http/message.ts'
import type { ListOptions, Metadata } from './handle.ts'
import { DatabaseError, type Databases } from './pool.ts'

/** What an account or container server needs to know, given once at start. */
export interface DbSite {
  root: string
  secrets: HashSecrets
  dial: Dialer
  databases: Databases
  limits: Limits
  log: Log
  reserve: number
  mountCheck: boolean
  reclaimAge: number
  /** Paths of container databases that changed since the updater last looked. */
  changed: Set<string>
}

export const dbDir = (disk: Disk, kind: 'accounts' | 'containers', partition: string | number, hash: string): string =>
  `${deviceDir(disk)}/${kind}/${partition}/${hash.slice(-3)}/${hash}`

/** The database file of an account or container on a device. */
export function dbPath(site: DbSite, device: string, partition: string | number, account: string, container?: string): string {
  const hash = hashName(site.secrets, account, container)
  return `${dbDir({ root: site.root, device }, container === undefined ? 'accounts' : 'containers', partition, hash)}/${hash}.db`
}

/** Refuses with 507 when the device is not there, or full and about to be written to. */
export async function checkDevice(site: DbSite, device: string, writing: boolean): Promise<void> {
  const disk = { root: site.root, device }
  try {
    const dir = await stat(deviceDir(disk))
    if (!dir.isDirectory()) throw new Stop(refuse(507))
    if (site.mountCheck && dir.dev === (await stat(site.root)).dev) throw new Stop(refuse(507))
    if (writing && (await isFull(disk, site.reserve, 0))) throw new Stop(refuse(507))
  } catch (error) {
    if (failedWith(error, 'ENOENT', 'ENOTDIR', 'EIO')) throw new Stop(refuse(507))
    throw error
  }
}

/** Runs work on a database; a damaged file goes to quarantine, and both that and a failing device are told as 507 so that another replica is asked. */
export async function guarded<T>(
  site: DbSite,
  device: string,
  kind: 'accounts' | 'containers',
  path: string,
  work: () => Promise<T>,
): Promise<T> {
  try {
    return await work()
  } catch (error) {
    if (!(error instanceof DatabaseError)) throw error
    if (error.damaged) await quarantineDb(site, device, kind, path, error.message)
    if (error.damaged || error.device) throw new Stop(refuse(507))
    throw error
  }
}

/** Takes a database out of service. */
export async function quarantineDb(
  site: DbSite,
  device: string,
  kind: 'accounts' | 'containers',
  path: string,
  why: string,
): Promise<void> {
  await site.databases.call('close', path)
  try {
    const to = await quarantine({ root: site.root, device }, kind, join(path, '..'))
    site.log.error({ path, to, why }, 'database damaged: quarantined')
  } catch (error) {
    if (!failedWith(error, 'ENOENT')) throw error
  }
}

/** The options of a listing. 412 for a limit beyond the most. */
export function listOptions(query: Query, most: number): ListOptions {
  const given = query.get('limit')
  const limit = given !== undefined && /^\d+$/.test(given) ? Number(given) : most
  if (limit > most) throw new Stop(refuse(412, `Maximum limit is ${most}`))
  return {
    limit,
    marker: query.get('marker'),
    endMarker: query.get('end_marker'),
    prefix: query.get('prefix'),
    delimiter: query.get('delimiter') || undefined,
    path: query.get('path'),
    reverse: isTrue(query.get('reverse')),
  }
}

/** The metadata that a request sets: user and system metadata of its kind, and the headers named. */
export function metadataOf(headers: Headers, kind: 'account' | 'container', timestamp: string, also: string[]): Metadata {
  const out: Metadata = {}
  for (const name in headers) {
    if (name.startsWith(`x-${kind}-meta-`) || name.startsWith(`x-${kind}-sysmeta-`) || also.includes(name))
      out[name] = [headers[name], timestamp]
  }
  return out
}

/** What of it is set, as headers. */
export function metadataHeaders(metadata: Metadata): Headers {
  const out: Headers = {}
  for (const name in metadata) if (metadata[name][0] !== '') out[name] = metadata[name][0]
  return out
}
