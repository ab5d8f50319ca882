/** What object servers ask of each other: suffix hashes, which versions are missing, and the commit of a fragment. */
import { rename, stat } from 'node:fs/promises'
import { join } from 'node:path'
import { look } from '../disk/diskfile.ts'
import { dataName } from '../disk/found.ts'
import { type Disk, deviceDir, failedWith, hashDir, syncDir } from '../disk/layout.ts'
import { type Req, type Res, readAll, refuse, reply } from '../http/message.ts'
import { suffixHashes } from './hashes.ts'
import { afterWrite, announce, metadataBefore, type Target } from './put.ts'
import type { ObjectSite } from './site.ts'

/** One object as a server offers it to another. */
export interface Offer {
  hash: string
  data: string | null
  durable: boolean
  fragment: number | null
  meta: string | null
  tombstone: string | null
}
/** What the other one lacks of it. */
export interface Want {
  hash: string
  data: boolean
  meta: boolean
  tombstone: boolean
}

/** `REPLICATE /device/partition[/suffix-suffix…]`: hashes of suffixes as JSON. */
export async function replicate(
  site: ObjectSite,
  disk: Disk,
  policy: number,
  partition: string,
  suffixes: string | null,
  req: Req,
): Promise<Res> {
  if (!(await isDevice(disk))) return refuse(507)
  const hashes = await suffixHashes(disk, policy, partition, suffixes?.split('-') ?? [], site.reclaimAge)
  void req
  return reply(200, { 'content-type': 'application/json' }, JSON.stringify(hashes))
}

async function isDevice(disk: Disk): Promise<boolean> {
  try {
    return (await stat(deviceDir(disk))).isDirectory()
  } catch (error) {
    if (failedWith(error, 'ENOENT', 'ENOTDIR')) return false
    throw error
  }
}

/** `SSYNC /device/partition` with a JSON list of offers: those of which something is missing or older here. */
export async function ssync(site: ObjectSite, disk: Disk, policy: number, partition: string, req: Req): Promise<Res> {
  void site
  if (!(await isDevice(disk))) return refuse(507)
  const offers = JSON.parse((await readAll(req.body)).toString()) as Offer[]
  const wants: Want[] = []
  for (const offer of offers) {
    const dir = hashDir(disk, policy, partition, offer.hash)
    const here = await look(dir, { notDurable: true })
    const last = here.tombstone?.timestamp ?? ''
    const data = here.data?.timestamp ?? ''
    const want: Want = { hash: offer.hash, data: false, meta: false, tombstone: false }
    if (offer.tombstone) want.tombstone = offer.tombstone > last && offer.tombstone > data
    else if (offer.data && offer.data > last) {
      const lacksFragment =
        offer.fragment !== null && !here.fragments.some(part => part.timestamp === offer.data && part.fragment === offer.fragment)
      if (offer.data > data || lacksFragment) want.data = true
      else if (offer.data === data && offer.durable && !here.data!.durable) want.data = true
      if (offer.meta && (want.data || (offer.data === data && offer.meta !== here.meta?.name))) want.meta = true
      if (offer.meta && offer.data < data) want.meta = offer.meta > (here.meta?.name ?? '') && offer.meta.slice(0, 16) > data
    }
    if (want.data || want.meta || want.tombstone) wants.push(want)
  }
  return reply(200, { 'content-type': 'application/json' }, JSON.stringify(wants))
}

/** `COMMIT`: the fragment of that time is durable now. 204; 404 when it is not here. */
export async function commit(site: ObjectSite, at: Target, req: Req): Promise<Res> {
  const timestamp = req.headers['x-timestamp']
  const fragment = Number(req.headers['x-backend-fragment-index'])
  try {
    await rename(join(at.dir, dataName(timestamp, fragment, false)), join(at.dir, dataName(timestamp, fragment, true)))
  } catch (error) {
    if (!failedWith(error, 'ENOENT')) throw error
    const here = await look(at.dir, { fragment })
    if (here.data?.timestamp === timestamp && here.data.durable) return reply(204)
    return refuse(404)
  }
  await syncDir(at.dir)
  const metadata = await metadataBefore(at)
  await afterWrite(at, false)
  if (metadata && req.headers['x-container-host'] !== undefined) await announce(site, at, req, metadata, metadata, null)
  return reply(204)
}
