/**
 * Splits large containers into shards, and small neighbours into one again.
 *
 * Splitting, by every replica of the container (a root, or a shard that has grown):
 *  1. The first replica chooses bounds, makes the shards' databases and tells the other replicas: state `sharding`.
 *  2. Each replica sends its own rows to the shards, range by range, and remembers how far it is. A range is behind the cursor only when
 *     nothing came into it while it was sent. From then on its updates are sent on to the shard and its listing comes from there.
 *  3. Behind the last range the replica drops its rows: state `sharded`. A shard then tells its root that others stand for it.
 * Rows are merged by their times, so that sending them twice, from several replicas, or again after a crash changes nothing.
 *
 * Joining, by the root's first replica: the rows of one shard are copied to its neighbour, then the root's table gives the names of both
 * to the neighbour. Rows that came to the wrong database in the meantime are moved by the next pass over it.
 */
import { type Daemon, databasesHere, type FoundDb, type Pass, type Premises } from '../daemons.ts'
import { md5 } from '../hash.ts'
import { discard, type Headers, ok, quote, readAll, text, unquote } from '../http/message.ts'
import { quorum } from '../policies.ts'
import { partitionFor, primaries } from '../ring/ring.ts'
import { now } from '../timestamp.ts'
import type { ContainerInfo, ObjectRow } from './broker.ts'
import { emptyRange, holds, type ShardRange } from './ranges.ts'

const BATCH = 1000
const ROOT = 'x-container-sysmeta-shard-quoted-root'

/** One pass over the containers here. */
export const containerSharder = (every: number): Daemon => ({
  name: 'container-sharder',
  every,
  async pass(premises, pass) {
    for await (const found of databasesHere(premises, 'containers', pass)) {
      const info = await premises.databases.databases.call('container.info', found.path)
      if (!info) continue
      const job: Job = { premises, pass, found, info, self: `${info.account}/${info.container}`, root: rootOf(info) }
      await one(job)
    }
  },
})

interface Job {
  premises: Premises
  pass: Pass
  found: FoundDb
  info: ContainerInfo
  /** `account/container` of this database, and of the root that it is a shard of; the same for a root. */
  self: string
  root: string
}

function rootOf(info: ContainerInfo): string {
  const given = info.metadata[ROOT]?.[0]
  return given ? (unquote(text(given)) ?? `${info.account}/${info.container}`) : `${info.account}/${info.container}`
}

async function one(job: Job): Promise<void> {
  const { premises, info, self, root } = job
  if (self !== root && !(await shard(job))) return
  if (info.state === 'sharding') return cleave(job)
  if (info.state === 'sharded') {
    if (self !== root) return
    await moveAll(job, await rangesHere(job), '', '')
    if (isFirst(job)) await (info.is_deleted ? removeShards(job) : shrink(job))
    return
  }
  const { threshold, rowsPerShard, auto } = premises.site.settings.sharding
  const wanted = auto || info.metadata['x-container-sysmeta-sharding']?.[0] === 'True' || self !== root
  if (!wanted || info.is_deleted || info.object_count < threshold || !isFirst(job)) return
  await begin(job, rowsPerShard)
}

const call = (job: Job): Premises['databases']['databases']['call'] => job.premises.databases.databases.call
const rangesHere = async (job: Job): Promise<ShardRange[]> =>
  (await call(job)('shards.ranges', job.found.path, { all: false })).filter(range => range.name !== job.self)

/** The primary that decides. Another one does when it is gone for good and the ring was changed. */
function isFirst(job: Job): boolean {
  const { premises, found } = job
  const [first] = primaries(premises.cluster.containerRing, found.partition)
  return first.device === found.device && `${first.ip}:${first.port}` === premises.address
}

/** A request to every primary of a container; true when a quorum did as asked. */
async function tell(job: Job, name: string, method: string, headers: Headers, body: unknown): Promise<boolean> {
  const { cluster } = job.premises
  const [account, container] = name.split('/')
  const partition = partitionFor(cluster.containerRing, cluster.secrets, account, container)
  const places = primaries(cluster.containerRing, partition)
  const bytes = body === null ? null : Buffer.from(JSON.stringify(body))
  const results = await Promise.all(
    places.map(async place => {
      const res = await cluster.dial(place, 'container', partition, {
        method,
        path: `/${name}`,
        headers: { ...headers, 'x-timestamp': headers['x-timestamp'] ?? now() },
        body: bytes,
        replication: true,
        timeout: 60,
      })
      discard(res)
      return ok(res.status)
    }),
  )
  return results.filter(Boolean).length >= quorum(places.length)
}

const tellRanges = (job: Job, name: string, ranges: ShardRange[]): Promise<boolean> =>
  tell(
    job,
    name,
    'PUT',
    {
      'x-backend-record-type': 'shard',
      'x-backend-storage-policy-index': String(job.info.policy),
      ...(name === job.root ? {} : { 'x-backend-shard-root': quote(job.root) }),
    },
    ranges,
  )

/** Chooses the shards, makes them, and puts this replica into the state `sharding`; the replicator tells the others. */
async function begin(job: Job, size: number): Promise<void> {
  const { pass, info, found, self, root } = job
  const own =
    self === root ? null : (await call(job)('shards.ranges', found.path, { all: false })).find(range => range.name === self)
  if (self !== root && !own) return
  const bounds = await call(job)('shards.find', found.path, {
    policy: info.policy,
    lower: own?.lower ?? '',
    upper: own?.upper ?? '',
    size,
  })
  if (bounds.length < 2) return
  const at = now()
  const [account, container] = root.split('/')
  const ranges = bounds.map(({ lower, upper }, i) =>
    emptyRange(`.shards_${account.replace(/^\.shards_/, '')}/${container}-${md5(info.container)}-${at}-${i}`, lower, upper, at),
  )
  for (const range of ranges) {
    if (!(await tellRanges(job, range.name, [range]))) return pass.count('failures')
  }
  if (!(await tellRanges(job, self, ranges))) return pass.count('failures')
  await call(job)('shards.state', found.path, { state: 'sharding', epoch: at })
  job.premises.databases.changed.add(found.path)
  pass.count('begun')
  await cleave({ ...job, info: { ...info, state: 'sharding', epoch: at } })
}

/** Hands over this replica's rows, range by range. */
async function cleave(job: Job): Promise<void> {
  const { pass, info, found } = job
  const ranges = await rangesHere(job)
  if (ranges.length === 0) return // the ranges have not come here yet
  const epoch = info.epoch!
  for (const range of ranges) {
    const cursor = await call(job)('shards.cursor', found.path, { epoch })
    if (
      cursor === '' ||
      (cursor !== null && range.upper !== '' && Buffer.compare(Buffer.from(range.upper), Buffer.from(cursor)) <= 0)
    )
      continue
    let seen = -1
    do {
      const last = await send(job, range.name, range, seen)
      if (last === null) return pass.count('failures')
      seen = last
    } while (!(await call(job)('shards.advance', found.path, { epoch, lower: range.lower, upper: range.upper, seen })))
    pass.count('cleaved')
  }
  if ((await call(job)('shards.cursor', found.path, { epoch })) !== '') return
  await moveAll(job, ranges, '', '')
  await call(job)('shards.state', found.path, { state: 'sharded', epoch })
  await announce(job, ranges)
  job.premises.databases.changed.add(found.path)
  pass.count('sharded')
}

/** Says that the shards hold the rows now; a shard that was split says so to its root, which takes it out of its table. */
async function announce(job: Job, ranges: ShardRange[]): Promise<void> {
  const { self, root } = job
  const at = now()
  const active = ranges.map(range => ({ ...range, state: 'active', state_timestamp: at }))
  await tellRanges(job, self, active)
  if (self === root) return
  const own = (await call(job)('shards.ranges', job.found.path, { all: true })).find(range => range.name === self)
  if (own) await tellRanges(job, root, [...active, { ...own, timestamp: at, deleted: 1 }])
}

/** Sends the rows within a range that came after `seen`; the number of the last one, null when too few replicas took them. */
async function send(job: Job, to: string, range: { lower: string; upper: string }, seen: number): Promise<number | null> {
  let row = seen
  for (;;) {
    job.pass.signal.throwIfAborted()
    const rows = await call(job)('shards.rows', job.found.path, { lower: range.lower, upper: range.upper, row, count: BATCH })
    if (rows.length === 0) return row
    if (!(await give(job, to, rows))) return null
    row = rows.at(-1)!.rowid!
    await job.pass.pace(100)
  }
}

async function give(job: Job, to: string, rows: ObjectRow[]): Promise<boolean> {
  const plain = rows.map(({ rowid: _, ...row }) => row)
  const done = await tell(job, to, 'UPDATE', { 'x-backend-storage-policy-index': String(job.info.policy) }, plain)
  if (done) job.pass.count('rows', rows.length)
  return done
}

/** Moves every row outside (lower, upper] (all of them when both are empty) to the range that holds its name. */
async function moveAll(job: Job, ranges: ShardRange[], lower: string, upper: string): Promise<void> {
  const keep = { lower, upper }
  const all = lower === '' && upper === ''
  for (let row = -1; ; ) {
    job.pass.signal.throwIfAborted()
    const rows = await call(job)('shards.rows', job.found.path, { lower: '', upper: '', row, count: BATCH })
    if (rows.length === 0) return
    row = rows.at(-1)!.rowid!
    const groups = new Map<string, ObjectRow[]>()
    for (const one of rows) {
      if (!all && holds(keep, one.name)) continue
      const range = ranges.find(known => holds(known, one.name))
      if (range && range.name !== job.self) groups.set(range.name, [...(groups.get(range.name) ?? []), one])
    }
    for (const [to, group] of groups) {
      if (await give(job, to, group)) await call(job)('shards.drop', job.found.path, { rows: group.map(one => one.rowid!) })
      else job.pass.count('failures')
    }
  }
}

/** A shard asks its root what is its own, and moves on what is not. False when the root did not answer or it has no place any more. */
async function shard(job: Job): Promise<boolean> {
  const { info, found, self, root, pass } = job
  const known = await askRoot(job)
  if (!known) {
    pass.count('failures')
    return false
  }
  await call(job)('shards.merge', found.path, {
    ranges: known.filter(range => range.name === self),
    make: null,
    policy: 0,
    known: false,
  })
  const own = (await call(job)('shards.ranges', found.path, { all: true })).find(range => range.name === self)
  if (!own || info.state === 'sharding') return own !== undefined
  if (info.state === 'sharded' && !own.deleted) {
    await announce(job, await rangesHere(job)) // the root has not heard that others stand for this one
    return false
  }
  const live = known.filter(range => !range.deleted)
  // without any range all rows are back in the root
  const targets = live.length ? live : [{ ...own, name: root, lower: '', upper: '' }]
  if (own.deleted) await moveAll(job, targets, '', '')
  else if (own.lower !== '' || own.upper !== '') await moveAll(job, targets, own.lower, own.upper)
  return !own.deleted
}

async function askRoot(job: Job): Promise<ShardRange[] | null> {
  const { cluster } = job.premises
  const [account, container] = job.root.split('/')
  const partition = partitionFor(cluster.containerRing, cluster.secrets, account, container)
  for (const place of primaries(cluster.containerRing, partition)) {
    const res = await cluster.dial(place, 'container', partition, {
      method: 'GET',
      path: `/${job.root}`,
      headers: { 'x-backend-record-type': 'shard', 'x-backend-override-deleted': 'true' },
      replication: true,
    })
    if (ok(res.status)) return JSON.parse((await readAll(res.body)).toString()) as ShardRange[]
    discard(res)
  }
  return null
}

/** Joins a shard that has become small to its neighbour. The last one goes back into the root. */
async function shrink(job: Job): Promise<void> {
  const { pass, found, self, premises } = job
  const { threshold, shrinkPoint } = premises.site.settings.sharding
  const ranges = await rangesHere(job)
  const most = threshold * shrinkPoint
  if (ranges.length === 1 && ranges[0].object_count < most) {
    if (!(await copy(job, ranges[0].name, self))) return pass.count('failures')
    const at = now()
    await tellRanges(job, self, [{ ...ranges[0], timestamp: at, deleted: 1 }])
    await call(job)('shards.state', found.path, { state: 'collapsed', epoch: at })
    return pass.count('collapsed')
  }
  for (let i = 0; i + 1 < ranges.length; i++) {
    const [donor, acceptor] = [ranges[i], ranges[i + 1]]
    if (donor.object_count + acceptor.object_count >= most) continue
    if (!(await copy(job, donor.name, acceptor.name))) return pass.count('failures')
    const at = now()
    const wider = { ...acceptor, lower: donor.lower, timestamp: at }
    const gone = { ...donor, timestamp: at, deleted: 1 }
    if (!(await tellRanges(job, self, [wider, gone]))) return pass.count('failures')
    await tellRanges(job, acceptor.name, [wider])
    await tellRanges(job, donor.name, [gone])
    return pass.count('shrunk')
  }
}

/** Copies all rows of a shard to another container, from every replica that answers; true when at least one gave all. */
async function copy(job: Job, from: string, to: string): Promise<boolean> {
  const { cluster } = job.premises
  const [account, container] = from.split('/')
  const partition = partitionFor(cluster.containerRing, cluster.secrets, account, container)
  let complete = false
  for (const place of primaries(cluster.containerRing, partition)) {
    for (let row = -1; ; ) {
      const res = await cluster.dial(place, 'container', partition, {
        method: 'GET',
        path: `/${from}`,
        query: `row=${row}&limit=${BATCH}`,
        headers: { 'x-backend-record-type': 'row' },
        replication: true,
      })
      if (!ok(res.status)) {
        discard(res)
        break
      }
      const rows = JSON.parse((await readAll(res.body)).toString()) as ObjectRow[]
      if (rows.length === 0) {
        complete = true
        break
      }
      if (!(await give(job, to, rows))) return false
      row = rows.at(-1)!.rowid!
    }
  }
  return complete
}

/** The shards of a container that was deleted go too. */
async function removeShards(job: Job): Promise<void> {
  const at = now()
  for (const range of await rangesHere(job)) {
    if (await tell(job, range.name, 'DELETE', { 'x-timestamp': at }, null)) {
      await tellRanges(job, job.self, [{ ...range, timestamp: at, deleted: 1 }])
      job.pass.count('removed')
    }
  }
}
