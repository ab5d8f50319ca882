/** The object server: one App for all devices of a host. Paths are `/device/partition/account/container/object`. */
import { stat } from 'node:fs/promises'
import { join } from 'node:path'
import { checkDeleteHeaders, checkMetadata } from '../constraints.ts'
import { type OpenObject, openFound, openSeen, quarantineObject } from '../disk/diskfile.ts'
import { metaName, newest, type Part, sortOut } from '../disk/found.ts'
import { deviceDir, failedWith, isDeviceFault } from '../disk/layout.ts'
import { Corrupt, readChecked } from '../disk/record.ts'
import { respond } from '../http/conditional.ts'
import {
  type App,
  answer,
  type Headers,
  isTrue,
  type Req,
  type Res,
  refuse,
  reply,
  Stop,
  type Stream,
  splitPath,
} from '../http/message.ts'
import { base, httpDate, normal, now, seconds, toTicks } from '../timestamp.ts'
import { afterWrite, isObjectMeta, moveExpiry, override, place, put, type Target, target } from './put.ts'
import { bringAlong } from './relinker.ts'
import type { ObjectSite } from './site.ts'
import { commit, replicate, ssync } from './sync.ts'
import { updateContainers } from './updates.ts'

/** The App of an object server. */
export function objectServer(site: ObjectSite): App {
  return async req => {
    try {
      const parts = splitPath(req.path, 2, 5)
      const policy = Number(req.headers['x-backend-storage-policy-index'] ?? 0)
      if (req.method === 'REPLICATE')
        return await replicate(site, { root: site.root, device: parts[0]! }, policy, parts[1]!, parts[2], req)
      if (req.method === 'SSYNC') return await ssync(site, { root: site.root, device: parts[0]! }, policy, parts[1]!, req)
      const [device, partition, account, container, object] = splitPath(req.path, 5, 5) as string[]
      const at = target(site, device, partition, [account, container, object], policy)
      const power = req.headers['x-backend-next-part-power']
      if (power !== undefined) await bringAlong(at, Number(power))
      return await method(site, at, req)
    } catch (error) {
      if (isDeviceFault(error)) return refuse(507)
      return answer(error)
    }
  }
}

async function method(site: ObjectSite, at: Target, req: Req): Promise<Res> {
  switch (req.method) {
    case 'GET':
    case 'HEAD':
      return get(site, at, req)
    case 'PUT':
      stamp(req)
      if (!(await isThere(site, at))) return refuse(507)
      return put(site, at, req)
    case 'POST':
      stamp(req)
      return post(site, at, req)
    case 'DELETE':
      stamp(req)
      return remove(site, at, req)
    case 'COMMIT':
      stamp(req)
      return commit(site, at, req)
    default:
      return refuse(405)
  }
}

function stamp(req: Req): void {
  try {
    req.headers['x-timestamp'] = normal(req.headers['x-timestamp'] ?? now())
  } catch (error) {
    throw new Stop(refuse(400, (error as Error).message))
  }
}

async function isThere(site: ObjectSite, at: Target): Promise<boolean> {
  if (!site.mountCheck) return true // a missing folder shows when the temporary file is made
  try {
    const [dir, root] = await Promise.all([stat(deviceDir(at.disk)), stat(at.disk.root)])
    return dir.isDirectory() && dir.dev !== root.dev
  } catch (error) {
    if (failedWith(error, 'ENOENT')) return false
    throw error
  }
}

/** Opens the object, sending what is damaged to quarantine. Null: nothing here. */
interface Wanted {
  fragment: number | null
  notDurable: boolean
  time?: string
}

async function openAt(
  site: ObjectSite,
  at: Target,
  wanted: Wanted,
): Promise<{ open: OpenObject | null; time: string | null; fragments: string }> {
  for (let attempt = 0; ; attempt++) {
    const seen = await site.disks.read(at.disk, at.dir, wanted)
    const found = sortOut(seen.names, wanted)
    const fragments = found.fragments.length ? fragmentsOf(found.fragments) : '{}'
    if (!found.data) return { open: null, time: newest(found), fragments }
    try {
      const open = seen.data ? openSeen(found, seen.data, seen.meta) : await openFound(at.dir, found)
      return { open, time: newest(found), fragments }
    } catch (error) {
      if (failedWith(error, 'ENOENT') && attempt < 3) continue // replaced between listing and opening
      if (!(error instanceof Corrupt)) throw error
      await spoiled(site, at, error)
      return { open: null, time: null, fragments: '{}' }
    }
  }
}

/** Which fragments of which version are here, as the proxy wants to know it. */
function fragmentsOf(parts: Part[]): string {
  const all: Record<string, number[]> = {}
  for (const part of parts) {
    all[part.timestamp] ??= []
    all[part.timestamp].push(part.fragment!)
  }
  return JSON.stringify(all)
}

async function spoiled(site: ObjectSite, at: Target, error: Corrupt): Promise<void> {
  site.log.error(
    { object: `/${at.names.join('/')}`, device: at.disk.device, dir: at.dir, err: error },
    'object damaged: quarantined',
  )
  await quarantineObject(at.disk, at.policy, at.dir).catch(problem => {
    if (!failedWith(problem, 'ENOENT')) throw problem
  })
  await afterWrite(at, true)
}

async function get(site: ObjectSite, at: Target, req: Req): Promise<Res> {
  const index = req.headers['x-backend-fragment-index']
  const { open, time, fragments } = await openAt(site, at, {
    fragment: index === undefined ? null : Number(index),
    notDurable: isTrue(req.headers['x-backend-no-durable']),
    time: req.headers['x-backend-fragment-timestamp'],
  })
  if (!open) {
    if (time === null && !(await deviceExists(at))) return refuse(507)
    const headers: Headers = time ? { 'x-backend-timestamp': time } : {}
    if (req.headers['if-match']?.includes('*')) return refuse(412, undefined, headers)
    return refuse(404, undefined, headers)
  }
  const deleteAt = Number(open.headers['x-delete-at'] ?? 0)
  const readAt = seconds(req.headers['x-timestamp'] ? normal(req.headers['x-timestamp']) : now())
  if (
    deleteAt &&
    deleteAt <= readAt &&
    !isTrue(req.headers['x-backend-replication']) &&
    !isTrue(req.headers['x-backend-open-expired'])
  ) {
    await open.file?.close()
    return refuse(404, undefined, { 'x-backend-timestamp': time! })
  }
  const headers = describe(open, time!)
  headers['x-backend-fragments'] = fragments
  const tag = (req.headers['x-backend-etag-is-at'] ?? '')
    .split(',')
    .map(name => open.headers[name.trim().toLowerCase()])
    .find(value => value !== undefined)
  const ignoreRange = (req.headers['x-backend-ignore-range-if-metadata-present'] ?? '')
    .split(',')
    .some(name => name.trim() && open.headers[name.trim().toLowerCase()] !== undefined)
  return respond(req, headers, {
    size: open.size,
    tag,
    lastModified: Math.ceil(seconds(headers['x-backend-timestamp'])),
    ignoreRange,
    open: (start, end) => body(site, at, open, start, end),
    discard: () => void open.file?.close(),
  })
}

function describe(open: OpenObject, time: string): Headers {
  const metaOrData = open.metaTime ?? open.dataTime
  const headers: Headers = {
    'content-type': open.headers['content-type'] ?? 'application/octet-stream',
    etag: open.headers.etag,
    'last-modified': httpDate(metaOrData),
    'x-timestamp': base(metaOrData),
    'x-backend-timestamp': time,
    'x-backend-data-timestamp': open.dataTime,
    'x-backend-durable-timestamp': open.dataTime,
    'x-backend-type-timestamp': open.typeTime,
  }
  for (const name in open.headers) if (isObjectMeta(name)) headers[name] = open.headers[name]
  return headers
}

function body(site: ObjectSite, at: Target, open: OpenObject, start: number, end: number): Buffer | Stream {
  if (open.data) return open.data.subarray(start, end)
  const file = open.file!
  const close = once(() => void file.close())
  const read = async function* (): AsyncGenerator<Buffer> {
    try {
      yield* readChecked(file, open, start, end)
    } catch (error) {
      if (error instanceof Corrupt) await spoiled(site, at, error)
      throw error
    } finally {
      close()
    }
  }
  return Object.assign(read(), { discard: close })
}

const once = (fn: () => void): (() => void) => {
  let done = false
  return () => {
    if (!done) fn()
    done = true
  }
}

async function deviceExists(at: Target): Promise<boolean> {
  try {
    return (await stat(deviceDir(at.disk))).isDirectory()
  } catch (error) {
    if (failedWith(error, 'ENOENT', 'ENOTDIR')) return false
    throw error
  }
}

/** New metadata for an object that stays: 202, 404, 409. */
async function post(site: ObjectSite, at: Target, req: Req): Promise<Res> {
  const timestamp = req.headers['x-timestamp']
  const bad = checkMetadata(req.headers, 'object', site.limits)
  if (bad) return bad
  checkDeleteHeaders(req.headers)
  const { open, time } = await openAt(site, at, { fragment: null, notDurable: true })
  if (!open) {
    if (time === null && !(await deviceExists(at))) return refuse(507)
    return refuse(404, undefined, time ? { 'x-backend-timestamp': time } : {})
  }
  await open.file?.close()
  const deleteAt = Number(open.headers['x-delete-at'] ?? 0)
  if (deleteAt && deleteAt <= seconds(timestamp) && !isTrue(req.headers['x-backend-replication'])) return refuse(404)
  if ((open.metaTime ?? open.dataTime) >= timestamp) return refuse(409, undefined, { 'x-backend-timestamp': time! })
  const type = req.headers['content-type']
  const metadata: Headers = { name: `/${at.names.join('/')}`, 'x-timestamp': timestamp }
  for (const name in req.headers) {
    if (isObjectMeta(name) && !name.startsWith('x-object-sysmeta-') && name !== 'x-static-large-object')
      metadata[name] = req.headers[name]
  }
  const typeTime = type === undefined ? open.typeTime : normal(req.headers['x-backend-content-type-timestamp'] ?? timestamp)
  if (typeTime > open.dataTime) {
    metadata['content-type'] = type ?? open.headers['content-type']
    metadata['content-type-timestamp'] = typeTime
  }
  await place(site, at, metaName(timestamp, typeTime > open.dataTime ? typeTime : null), null, metadata)
  await moveExpiry(site, at, req, deleteAt, Number(metadata['x-delete-at'] ?? 0))
  await updateAfterPost(site, at, req, open, type, timestamp)
  return reply(202, { 'content-type': 'text/html; charset=UTF-8', 'x-backend-timestamp': timestamp }, refuse(202).body)
}

/** The row keeps the time of the data; what a POST changed is added as offsets to it, as Swift's three-part times. */
async function updateAfterPost(
  site: ObjectSite,
  at: Target,
  req: Req,
  open: OpenObject,
  type: string | undefined,
  timestamp: string,
): Promise<void> {
  const row: Headers = {
    'x-size': open.headers['content-length'],
    'x-content-type': type ?? open.headers['content-type'],
    'x-timestamp': open.dataTime,
    'x-content-type-timestamp': type === undefined ? open.typeTime : timestamp,
    'x-meta-timestamp': timestamp,
    'x-etag': open.headers.etag,
  }
  const bytes = /;\s*swift_bytes=(\d+)/.exec(open.headers['content-type'])
  if (bytes && !row['x-content-type'].includes('swift_bytes')) row['x-content-type'] += `;swift_bytes=${bytes[1]}`
  override(row, open.headers)
  await updateContainers(site, at.disk, at.policy, 'PUT', at.names, req, row)
}

/** Leaves a tombstone: 204; 404 when there was nothing; 409 when something newer is here; 412 for a stale expirer. */
async function remove(site: ObjectSite, at: Target, req: Req): Promise<Res> {
  const timestamp = req.headers['x-timestamp']
  const { open, time } = await openAt(site, at, { fragment: null, notDurable: true })
  await open?.file?.close()
  if (time === null && !(await deviceExists(at))) return refuse(507)
  const deleteAt = Number(open?.headers['x-delete-at'] ?? 0)
  const expired = deleteAt > 0 && toTicks(normal(deleteAt)) <= toTicks(timestamp)
  const ifDeleteAt = req.headers['x-if-delete-at']
  let status = open && !expired ? 204 : 404
  if (time !== null && time >= timestamp) status = open || time !== timestamp ? 409 : 404
  if (ifDeleteAt !== undefined) {
    if (!/^\d+(\.\d+)?$/.test(ifDeleteAt)) return refuse(400, 'Bad X-If-Delete-At header value')
    if (!open) return refuse(time !== null && time >= timestamp ? 409 : 404)
    if (time! >= timestamp) return refuse(409)
    if (Number(ifDeleteAt) !== deleteAt) return refuse(412, 'X-If-Delete-At and X-Delete-At do not match')
    status = 204
  }
  if (time === null || time < timestamp) {
    if (deleteAt) await moveExpiry(site, at, req, deleteAt, 0)
    await place(site, at, `${timestamp}.ts`, null, { name: `/${at.names.join('/')}`, 'x-timestamp': timestamp })
    await updateContainers(site, at.disk, at.policy, 'DELETE', at.names, req, { 'x-timestamp': timestamp })
  }
  const shown = time !== null && time > timestamp ? time : timestamp
  const headers: Headers = { 'x-backend-timestamp': shown, 'x-backend-content-type': open?.headers['content-type'] ?? '' }
  return status === 204
    ? reply(204, { ...headers, 'content-type': 'text/html; charset=UTF-8' })
    : refuse(status, undefined, headers)
}

/** Where a site keeps a device's queue of updates, for daemons. */
export const pendingDir = (site: ObjectSite, device: string, policy: number): string =>
  join(site.root, device, policy ? `async_pending-${policy}` : 'async_pending')
