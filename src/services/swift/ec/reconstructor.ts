/**
 * Keeps erasure-coded objects whole: every primary of a partition should hold the fragment of its own number. A server offers what it has
 * to the other primaries; for one that lacks its fragment it computes that fragment from those of the others. A fragment that is not
 * where it belongs goes there and is then removed here.
 */
import { createHash } from 'node:crypto'
import { unlink } from 'node:fs/promises'
import { join } from 'node:path'
import { type Daemon, devicesHere, entriesOf, type Pass, type Premises } from '../daemons.ts'
import { invalidate, look, openFound, readMeta, tidy } from '../disk/diskfile.ts'
import type { Found } from '../disk/found.ts'
import { type Disk, failedWith, hashDir, withPolicy } from '../disk/layout.ts'
import { Corrupt } from '../disk/record.ts'
import type { Place } from '../http/client.ts'
import { discard, type Headers, ok, readAll } from '../http/message.ts'
import { type SuffixHashes, suffixHashes } from '../object/hashes.ts'
import { push, sendMeta, wanted } from '../object/replicator.ts'
import type { Offer, Want } from '../object/sync.ts'
import type { Policy } from '../policies.ts'
import { primaries } from '../ring/ring.ts'
import { ago } from '../timestamp.ts'
import { gather } from './get.ts'
import { EC, fragmentSize, pieceSize } from './layout.ts'
import { rebuild } from './reed-solomon.ts'

/** `grace`: seconds after which a fragment that never became durable is removed. */
export const objectReconstructor = (every: number, grace: number): Daemon => ({
  name: 'object-reconstructor',
  every,
  async pass(premises, pass) {
    for (const policy of premises.cluster.policies) {
      if (!policy.code || policy.ring.nextPartPower !== null) continue // as of the replicator
      for (const device of devicesHere(premises)) {
        const root = join(premises.objects.root, device, withPolicy('objects', policy.index))
        for (const partition of await entriesOf(root)) {
          if (/^\d+$/.test(partition))
            await onePartition({
              premises,
              pass,
              policy,
              disk: { root: premises.objects.root, device },
              partition: Number(partition),
              grace,
            })
        }
      }
    }
  },
})

interface Job {
  premises: Premises
  pass: Pass
  policy: Policy
  disk: Disk
  partition: number
  grace: number
}

async function onePartition(job: Job): Promise<void> {
  const { premises, pass, policy, disk, partition } = job
  const places = primaries(policy.ring, partition)
  const me = places.find(place => place.device === disk.device && `${place.ip}:${place.port}` === premises.address)
  const own = await suffixHashes(disk, policy.index, partition, [], premises.objects.reclaimAge)
  pass.count('partitions')
  const others = places.filter(place => place !== me)
  const differing = new Map<Place, Set<string>>()
  for (const place of others) {
    const theirs = await hashesOf(job, place)
    if (theirs) differing.set(place, new Set(Object.keys(own).filter(suffix => own[suffix] !== theirs[suffix])))
    else pass.count('unreachable')
  }
  for (const suffix of Object.keys(own)) {
    for (const hash of await entriesOf(join(hashDir(disk, policy.index, partition, `${'0'.repeat(29)}${suffix}`), '..'))) {
      await pass.pace(300)
      await oneObject(job, me ?? null, places, place => differing.get(place)?.has(suffix) === true, hash)
    }
  }
}

async function hashesOf(job: Job, place: Place): Promise<SuffixHashes | null> {
  const res = await job.premises.cluster.dial(place, 'object', job.partition, {
    method: 'REPLICATE',
    path: '',
    headers: { 'x-backend-storage-policy-index': String(job.policy.index) },
    replication: true,
    timeout: 60,
  })
  if (res.status === 200) return JSON.parse((await readAll(res.body)).toString()) as SuffixHashes
  discard(res)
  return null
}

async function oneObject(
  job: Job,
  me: Place | null,
  places: Place[],
  differs: (place: Place) => boolean,
  hash: string,
): Promise<void> {
  const { premises, pass, policy, disk, partition } = job
  const dir = hashDir(disk, policy.index, partition, hash)
  const found = await look(dir, { notDurable: true })
  const { data, meta, tombstone } = found
  if (data && !data.durable) return undecided(job, dir, found, hash)
  const misplaced = found.fragments.filter(part => part.timestamp === data?.timestamp && part.fragment !== me?.index)
  let complete = true
  for (const place of places) {
    if (place === me) continue
    const forced = misplaced.some(part => part.fragment === place.index)
    if (!forced && !differs(place) && me) continue
    const offer: Offer = {
      hash,
      data: data?.timestamp ?? null,
      durable: true,
      fragment: data ? place.index : null,
      meta: meta?.name ?? null,
      tombstone: tombstone?.timestamp ?? null,
    }
    const wants = await wanted(premises, policy.index, partition, place, [offer])
    if (!wants) complete = false
    else for (const want of wants) complete = (await give(job, place, dir, found, want)) && complete
  }
  if (me && data && !found.fragments.some(part => part.timestamp === data.timestamp && part.fragment === me.index)) {
    // this server's own fragment is missing here: from the others, to itself
    complete = (await give(job, me, dir, found, { hash, data: true, meta: false, tombstone: false })) && complete
  }
  if (complete && (misplaced.length || !me)) {
    for (const part of misplaced) await unlink(join(dir, part.name)).catch(ignoreMissing)
    if (!me) for (const name of [tombstone?.name, meta?.name]) if (name) await unlink(join(dir, name)).catch(ignoreMissing)
    await tidy(dir, { notDurable: true })
    await invalidate(disk, policy.index, partition, hash)
    pass.count('removed', misplaced.length + (me ? 0 : tombstone || meta ? 1 : 0))
  }
}

const ignoreMissing = (error: unknown): void => {
  if (!failedWith(error, 'ENOENT')) throw error
}

async function give(job: Job, place: Place, dir: string, found: Found, want: Want): Promise<boolean> {
  const { premises, pass, policy, partition } = job
  try {
    let done = true
    if (want.tombstone && found.tombstone) {
      const meta = await readMeta(join(dir, found.tombstone.name))
      done = await push(premises, policy.index, partition, place, 'DELETE', meta.name, {
        'x-timestamp': found.tombstone.timestamp,
      })
      pass.count(done ? 'sent' : 'failures')
    }
    if (want.data && found.data) {
      done = await build(job, place, dir, found)
      pass.count(done ? 'rebuilt' : 'failures')
    }
    if (done && want.meta && found.meta) {
      done = await sendMeta(premises, policy.index, partition, place, dir, found)
      pass.count(done ? 'sent' : 'failures')
    }
    return done
  } catch (error) {
    if (failedWith(error, 'ENOENT')) return false
    if (!(error instanceof Corrupt)) throw error
    premises.log.error({ dir, err: error }, 'fragment damaged: not sent')
    return false
  }
}

/** Sends a place the fragment of its number: told to make it durable where it is there already, else computed from the others'. */
async function build(job: Job, place: Place, dir: string, found: Found): Promise<boolean> {
  const { premises, policy, partition } = job
  const open = await openFound(dir, { ...found, meta: null })
  await open.file?.close()
  const { name } = open.metadata
  const time = open.dataTime
  const shared: Headers = {
    'x-backend-storage-policy-index': String(policy.index),
    'x-timestamp': time,
    'x-backend-fragment-index': String(place.index),
    'x-backend-replication': 'true',
  }
  const committed = await premises.cluster.dial(place, 'object', partition, {
    method: 'COMMIT',
    path: name,
    headers: shared,
    replication: true,
  })
  discard(committed)
  if (ok(committed.status)) return true
  const code = policy.code!
  const segment = Number(open.metadata[EC.segment])
  const size = Number(open.metadata[EC.length])
  const total = fragmentSize(size, segment, code)
  const headers: Headers = { ...open.metadata, ...shared, [EC.index]: String(place.index), 'x-backend-no-commit': 'false' }
  for (const drop of ['name', 'content-length', 'etag']) delete headers[drop]
  const source = {
    cluster: premises.cluster,
    at: { policy, partition },
    code,
    path: name,
    headers: { 'x-backend-storage-policy-index': String(policy.index), 'x-backend-replication': 'true' },
    time,
  }
  const group = gather(source, 0, total)
  const sum = createHash('md5')
  const body = async function* (): AsyncGenerator<Buffer> {
    try {
      for (let left = size; left > 0; left -= segment) {
        const piece = rebuild(await group.next(pieceSize(Math.min(segment, left), code)), code.data, place.index)
        sum.update(piece)
        yield piece
      }
    } finally {
      group.discard()
    }
  }
  const res = await premises.cluster.dial(place, 'object', partition, {
    method: 'PUT',
    path: name,
    headers,
    body: total ? body() : Buffer.alloc(0),
    length: total,
    replication: true,
    timeout: 60,
  })
  discard(res)
  return ok(res.status) || res.status === 409
}

/** A fragment of which nobody has said that it is durable: made so if another server's is, removed when it is old. */
async function undecided(job: Job, dir: string, found: Found, hash: string): Promise<void> {
  const { premises, pass, policy, disk, partition } = job
  const part = found.data!
  const meta = await openFound(dir, { ...found, meta: null }).catch(error => {
    if (error instanceof Corrupt || failedWith(error, 'ENOENT')) return null
    throw error
  })
  if (!meta) return
  await meta.file?.close()
  for (const place of primaries(policy.ring, partition)) {
    if (place.device === disk.device && `${place.ip}:${place.port}` === premises.address) continue
    const res = await premises.cluster.dial(place, 'object', partition, {
      method: 'HEAD',
      path: meta.metadata.name,
      headers: {
        'x-backend-storage-policy-index': String(policy.index),
        'x-backend-fragment-timestamp': part.timestamp,
        'x-backend-replication': 'true',
      },
      replication: true,
    })
    discard(res)
    if (!ok(res.status) || res.headers['x-backend-data-timestamp'] !== part.timestamp) continue
    const self = { ...place, ...selfPlace(premises, disk) }
    const done = await premises.cluster.dial(self, 'object', partition, {
      method: 'COMMIT',
      path: meta.metadata.name,
      headers: {
        'x-backend-storage-policy-index': String(policy.index),
        'x-timestamp': part.timestamp,
        'x-backend-fragment-index': String(part.fragment),
      },
      replication: true,
    })
    discard(done)
    pass.count('committed')
    return
  }
  if (part.timestamp >= ago(job.grace)) return
  for (const one of found.fragments)
    if (!one.durable && one.timestamp === part.timestamp) await unlink(join(dir, one.name)).catch(ignoreMissing)
  await tidy(dir, { notDurable: true })
  await invalidate(disk, policy.index, partition, hash)
  pass.count('removed')
}

function selfPlace(premises: Premises, disk: Disk): Pick<Place, 'ip' | 'port' | 'replicationIp' | 'replicationPort' | 'device'> {
  const colon = premises.address.lastIndexOf(':')
  const ip = premises.address.slice(0, colon)
  const port = Number(premises.address.slice(colon + 1))
  return { ip, port, replicationIp: ip, replicationPort: port, device: disk.device }
}
