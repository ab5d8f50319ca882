/** Sharded containers, as a proxy sees them: listings gathered from the shards, and the shard that an object's row goes to. */
import { after, holds, type ShardRange } from '../container/ranges.ts'
import { type Headers, ok, type Req, type Res, readAll, refuse, reply } from '../http/message.ts'
import { partitionFor } from '../ring/ring.ts'
import { backendHeaders, read } from './backend.ts'
import type { Cluster } from './cluster.ts'
import type { Row } from './features/listings.ts'

const KEPT_MS = 60_000
const MOST = 10_000
/** A shard may have been split itself, and so on. */
const DEEPEST = 8

/** Gathers a page from the shards that the root's answer names. Its other headers stay. */
export async function listShards(
  cluster: Cluster,
  req: Req,
  account: string,
  container: string,
  res: Res,
  depth = 0,
): Promise<Res> {
  const ranges = JSON.parse((await readAll(res.body)).toString()) as ShardRange[]
  const { query } = req
  const limit = query.get('limit') === undefined ? cluster.limits.container_listing_limit : Number(query.get('limit'))
  if (limit > cluster.limits.container_listing_limit)
    return refuse(412, `Maximum limit is ${cluster.limits.container_listing_limit}`)
  const reverse = ['true', '1', 'yes', 'on', 't', 'y'].includes(query.get('reverse')?.toLowerCase() ?? '')
  const rows: Row[] = []
  let marker = query.get('marker') ?? ''
  const end = query.get('end_marker') ?? ''
  const prefix = query.get('path') !== undefined ? '' : (query.get('prefix') ?? '')
  for (const range of reverse ? ranges.toReversed() : ranges) {
    if (rows.length >= limit) break
    if (!mayHold(range, reverse ? end : marker, reverse ? marker : end, prefix)) continue
    const part = new Map(query)
    // a roll-up may go on in the next shard, which then begins with it again
    const rolled = rows.at(-1)?.subdir
    const left = limit - rows.length
    part.set('limit', String(Math.min(rolled === undefined ? left : left + 1, cluster.limits.container_listing_limit)))
    const [low, high] = [range.lower, range.upper === '' ? '' : `${range.upper}\0`]
    const from = reverse ? least(marker, high) : most(marker, low)
    const to = reverse ? most(end, low) : least(end, high)
    if (from) part.set('marker', from)
    if (to) part.set('end_marker', to)
    const own = range.name === `${account}/${container}`
    const found = await listOne(cluster, req, range.name, part, own ? 'object' : 'auto', depth)
    if (!found) return refuse(503)
    if (rolled !== undefined && found[0]?.subdir === rolled) found.shift()
    rows.push(...found.slice(0, left))
    const last = rows.at(-1)
    if (last) marker = last.name ?? last.subdir!
  }
  const headers: Headers = { ...res.headers, 'x-backend-record-type': 'object' }
  delete headers['content-length']
  return reply(200, headers, Buffer.from(JSON.stringify(rows)))
}

const most = (a: string, b: string): string => (a === '' ? b : b === '' || after(a, b) ? a : b)
const least = (a: string, b: string): string => (a === '' ? b : b === '' || after(b, a) ? a : b)

/** Whether a range overlaps what is asked for: names after `low`, before `high`, with that prefix. */
function mayHold(range: ShardRange, low: string, high: string, prefix: string): boolean {
  if (low && range.upper !== '' && !after(range.upper, low)) return false
  if (high && !after(high, range.lower)) return false
  if (!prefix) return true
  if (range.upper !== '' && after(prefix, range.upper)) return false
  return !(after(range.lower, prefix) && !range.lower.startsWith(prefix))
}

async function listOne(
  cluster: Cluster,
  req: Req,
  name: string,
  query: Map<string, string>,
  kind: string,
  depth: number,
): Promise<Row[] | null> {
  const [account, container] = name.split('/')
  const partition = partitionFor(cluster.containerRing, cluster.secrets, account, container)
  const extra: Headers = { 'x-backend-record-type': kind }
  for (const header of ['x-backend-storage-policy-index', 'x-backend-allow-reserved-names'])
    if (req.headers[header] !== undefined) extra[header] = req.headers[header]
  const { res } = await read(cluster, 'container', cluster.containerRing, partition, {
    method: 'GET',
    path: `/${name}`,
    query: new URLSearchParams([...query]).toString(),
    headers: backendHeaders(req.env.transId, null, extra),
  })
  if (!ok(res.status)) return res.status === 404 ? [] : null
  if (res.headers['x-backend-record-type'] !== 'shard') return JSON.parse((await readAll(res.body)).toString() || '[]') as Row[]
  if (depth >= DEEPEST) throw new Error(`shards of ${name} lead too deep`)
  const inner = await listShards(cluster, { ...req, query }, account, container, res, depth + 1)
  return inner.status === 200 ? (JSON.parse((await readAll(inner.body)).toString()) as Row[]) : null
}

const known = new WeakMap<Cluster, Map<string, { at: number; ranges: ShardRange[] }>>()

/** The shard (`account/container`) whose database takes an object's row; null when it is the container's own. */
export async function shardFor(
  cluster: Cluster,
  req: Req,
  at: { account: string; container: string; object: string; info: { headers: Headers } },
): Promise<string | null> {
  const state = at.info.headers['x-backend-sharding-state']
  if (state !== 'sharding' && state !== 'sharded') return null
  const self = `${at.account}/${at.container}`
  const cache = known.get(cluster) ?? new Map<string, { at: number; ranges: ShardRange[] }>()
  known.set(cluster, cache)
  let entry = cache.get(self)
  if (!entry || Date.now() - entry.at > KEPT_MS) {
    const partition = partitionFor(cluster.containerRing, cluster.secrets, at.account, at.container)
    const { res } = await read(cluster, 'container', cluster.containerRing, partition, {
      method: 'GET',
      path: `/${self}`,
      headers: backendHeaders(req.env.transId, null, { 'x-backend-record-type': 'shard' }),
    })
    if (!ok(res.status)) return null // the row goes to the root, whose sharder sends it on
    entry = { at: Date.now(), ranges: JSON.parse((await readAll(res.body)).toString()) as ShardRange[] }
    cache.set(self, entry)
    if (cache.size > MOST) cache.delete(cache.keys().next().value!)
  }
  const range = entry.ranges.find(one => holds(one, at.object))
  return range && range.name !== self ? range.name : null
}
