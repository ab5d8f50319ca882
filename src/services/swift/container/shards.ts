/** What a container server knows of shards: which of them a row belongs to, and the ranges in place of a listing. */
import type { DbSite } from '../db/path.ts'
import { isTrue, quote, type Req, type Res, readAll, refuse, reply } from '../http/message.ts'
import { now } from '../timestamp.ts'
import { holds, isSplit, type ShardRange } from './ranges.ts'
import { type At, infoHeaders } from './server.ts'

/** The 301 for a row whose place is in a shard, for callers that can follow it; null when it belongs here, or is to be kept until the sharder moves it. */
export async function redirect(site: DbSite, at: At, object: string): Promise<Res | null> {
  const info = await site.databases.call('container.info', at.path)
  if (!info || !isSplit(info.state)) return null
  const range = await rangeFor(site, at.path, info.state, info.epoch!, object)
  if (!range || range.name === `${at.account}/${at.container}`) return null
  return refuse(301, undefined, {
    location: quote(`/${range.name}/${object}`),
    'x-backend-redirect-timestamp': range.timestamp,
  })
}

/** The shard that takes a name's row; while a container is being sharded only those that have their rows already. */
async function rangeFor(site: DbSite, path: string, state: string, epoch: string, name: string): Promise<ShardRange | null> {
  const ranges = await handedOver(site, path, state, epoch)
  return ranges.find(range => holds(range, name)) ?? null
}

async function handedOver(site: DbSite, path: string, state: string, epoch: string): Promise<ShardRange[]> {
  const all = await site.databases.call('shards.ranges', path, { all: false })
  if (state === 'sharded') return all
  const cursor = await site.databases.call('shards.cursor', path, { epoch })
  if (cursor === null) return []
  return cursor === ''
    ? all
    : all.filter(range => range.upper !== '' && Buffer.compare(Buffer.from(range.upper), Buffer.from(cursor)) <= 0)
}

/** Shard ranges in place of objects where the request asks for them (`shard`) or they are what there is to list (`auto`); null otherwise. */
export async function shardListing(site: DbSite, at: At, req: Req): Promise<Res | null> {
  const kind = req.headers['x-backend-record-type']
  if (kind !== 'shard' && kind !== 'auto') return null
  const info = await site.databases.call('container.info', at.path)
  if (!info || info.is_deleted) return kind === 'shard' ? refuse(404, undefined, info ? infoHeaders(info) : {}) : null
  if (kind === 'auto' && !isSplit(info.state)) return null
  const self = `${at.account}/${at.container}`
  let ranges: ShardRange[]
  if (kind === 'shard' && req.headers['x-backend-override-deleted'] !== undefined)
    ranges = await site.databases.call('shards.ranges', at.path, { all: true })
  else if (!isSplit(info.state)) ranges = []
  else {
    ranges = (await handedOver(site, at.path, info.state, info.epoch!)).filter(range => range.name !== self)
    // what has not been handed over yet is still here
    const end = ranges.at(-1)?.upper ?? ''
    if (info.state === 'sharding' && (ranges.length === 0 || end !== ''))
      ranges = [...ranges, { ...(ranges[0] ?? blank()), name: self, lower: end, upper: '' }]
  }
  return reply(
    200,
    {
      ...infoHeaders(info),
      ...Object.fromEntries(Object.entries(info.metadata).flatMap(([name, [value]]) => (value ? [[name, value]] : []))),
      'content-type': 'application/json; charset=utf-8',
      'x-backend-record-type': 'shard',
    },
    JSON.stringify(ranges),
  )
}

const blank = (): ShardRange => ({
  name: '',
  timestamp: '0',
  lower: '',
  upper: '',
  object_count: 0,
  bytes_used: 0,
  meta_timestamp: '0',
  deleted: 0,
  state: 'active',
  state_timestamp: '0',
})

/** Takes in shard ranges (a JSON list): 202; 404 when there is no such container. A shard's database is made by them. */
export async function shardPut(site: DbSite, at: At, req: Req, time: string): Promise<Res> {
  const ranges = JSON.parse((await readAll(req.body, 64 * 1024 * 1024)).toString()) as ShardRange[]
  const make = at.account.startsWith('.') ? { account: at.account, container: at.container, at: now(), put: time } : null
  const policy = Number(req.headers['x-backend-storage-policy-index'] ?? 0)
  const known = await site.databases.call('shards.merge', at.path, {
    ranges,
    make,
    policy,
    // a shard that is being filled counts only when its parent says that it stands for it
    known: isTrue(req.headers['x-backend-shard-counts']),
  })
  if (!known) return refuse(404)
  const root = req.headers['x-backend-shard-root']
  if (root !== undefined)
    await site.databases.call('container.post', at.path, {
      metadata: { 'x-container-sysmeta-shard-quoted-root': [root, time] },
      limits: { count: 90, size: 4096 },
    })
  site.changed.add(at.path)
  return refuse(202)
}
