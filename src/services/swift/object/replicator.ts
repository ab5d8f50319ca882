/**
 * Brings replicas in line: compares hashes of suffix folders with the other primaries, offers the versions in those that differ, and
 * sends what they lack. A partition that does not belong here is sent to all its primaries and, when each has all of it, removed.
 */
import { readdir, rm, rmdir } from 'node:fs/promises'
import { join } from 'node:path'
import { type Daemon, devicesHere, entriesOf, type Pass, type Premises } from '../daemons.ts'
import { look, openFound, readMeta } from '../disk/diskfile.ts'
import type { Found } from '../disk/found.ts'
import { type Disk, failedWith, hashDir, partitionDir, withPolicy } from '../disk/layout.ts'
import { Corrupt, readChecked } from '../disk/record.ts'
import type { Place } from '../http/client.ts'
import { discard, type Headers, ok, readAll } from '../http/message.ts'
import type { Policy } from '../policies.ts'
import { primaries } from '../ring/ring.ts'
import { type SuffixHashes, suffixHashes } from './hashes.ts'
import type { Offer, Want } from './sync.ts'

/** Replicated policies; those with an erasure code have the reconstructor. */
export const objectReplicator = (every: number): Daemon => ({
  name: 'object-replicator',
  every,
  async pass(premises, pass) {
    for (const policy of premises.cluster.policies) {
      if (policy.code || policy.ring.nextPartPower !== null) continue // the relinker's files would go to the wrong hosts
      for (const device of devicesHere(premises)) {
        const root = join(premises.objects.root, device, withPolicy('objects', policy.index))
        for (const partition of await entriesOf(root)) {
          if (!/^\d+$/.test(partition)) continue
          await pass.pace(200)
          await replicate(premises, pass, policy, { root: premises.objects.root, device }, Number(partition))
        }
      }
    }
  },
})

async function replicate(premises: Premises, pass: Pass, policy: Policy, disk: Disk, partition: number): Promise<void> {
  const places = primaries(policy.ring, partition)
  const isMine = (place: Place): boolean => place.device === disk.device && `${place.ip}:${place.port}` === premises.address
  const others = places.filter(place => !isMine(place))
  const belongs = others.length < places.length
  if (belongs && others.length === 0) return
  pass.count('partitions')
  const own = await suffixHashes(disk, policy.index, partition, [], premises.objects.reclaimAge)
  const results: boolean[] = []
  for (const place of others) results.push(await bring(premises, pass, policy, disk, partition, place, own))
  if (!belongs && results.every(Boolean)) await giveUp(premises, pass, policy, disk, partition, own)
}

/** Sends what a place lacks of the suffixes that differ; true when it then has all of it. */
async function bring(
  premises: Premises,
  pass: Pass,
  policy: Policy,
  disk: Disk,
  partition: number,
  place: Place,
  own: SuffixHashes,
): Promise<boolean> {
  const headers: Headers = { 'x-backend-storage-policy-index': String(policy.index) }
  const ask = async (suffixes: string[]): Promise<SuffixHashes | null> => {
    const path = suffixes.length ? `/${suffixes.join('-')}` : ''
    const res = await premises.cluster.dial(place, 'object', partition, {
      method: 'REPLICATE',
      path,
      headers,
      replication: true,
      timeout: 60,
    })
    if (res.status === 200) return JSON.parse((await readAll(res.body)).toString()) as SuffixHashes
    discard(res)
    return null
  }
  const theirs = await ask([])
  if (!theirs) {
    pass.count('unreachable')
    return false
  }
  const differing = Object.keys(own).filter(suffix => own[suffix] !== theirs[suffix])
  let complete = true
  for (const suffix of differing)
    complete = (await offerSuffix(premises, pass, policy, disk, partition, place, suffix)) && complete
  return complete
}

/** The versions of one suffix, as offers. */
export async function offersOf(disk: Disk, policy: number, partition: number, suffix: string): Promise<Offer[]> {
  const dir = join(partitionDir(disk, policy, partition), suffix)
  const offers: Offer[] = []
  for (const hash of await entriesOf(dir)) {
    const found = await look(join(dir, hash), { notDurable: true })
    const { data, meta, tombstone } = found
    if (!data && !tombstone && !meta) continue
    offers.push({
      hash,
      data: data?.timestamp ?? null,
      durable: data?.durable ?? false,
      fragment: data?.fragment ?? null,
      meta: meta?.name ?? null,
      tombstone: tombstone?.timestamp ?? null,
    })
  }
  return offers
}

async function offerSuffix(
  premises: Premises,
  pass: Pass,
  policy: Policy,
  disk: Disk,
  partition: number,
  place: Place,
  suffix: string,
): Promise<boolean> {
  const offers = await offersOf(disk, policy.index, partition, suffix)
  if (offers.length === 0) return true
  const wants = await wanted(premises, policy.index, partition, place, offers)
  if (!wants) return false
  let complete = true
  for (const want of wants) {
    await pass.pace(500)
    const sent = await send(premises, policy.index, disk, partition, place, want, pass)
    pass.count(sent ? 'sent' : 'failures')
    complete &&= sent
  }
  return complete
}

/** Which of the offers a place lacks; null when it does not answer. */
export async function wanted(
  premises: Premises,
  policy: number,
  partition: number,
  place: Place,
  offers: Offer[],
): Promise<Want[] | null> {
  const res = await premises.cluster.dial(place, 'object', partition, {
    method: 'SSYNC',
    path: '',
    headers: { 'x-backend-storage-policy-index': String(policy) },
    body: Buffer.from(JSON.stringify(offers)),
    replication: true,
    timeout: 60,
  })
  if (res.status === 200) return JSON.parse((await readAll(res.body)).toString()) as Want[]
  discard(res)
  return null
}

async function send(
  premises: Premises,
  policy: number,
  disk: Disk,
  partition: number,
  place: Place,
  want: Want,
  pass: Pass,
): Promise<boolean> {
  const dir = hashDir(disk, policy, partition, want.hash)
  const found = await look(dir, { notDurable: true })
  try {
    if (want.tombstone && found.tombstone) {
      const meta = await readMeta(join(dir, found.tombstone.name))
      return await push(premises, policy, partition, place, 'DELETE', meta.name, { 'x-timestamp': found.tombstone.timestamp })
    }
    if (want.data && found.data && !(await sendData(premises, policy, partition, place, dir, found))) return false
    if (want.meta && found.meta) return await sendMeta(premises, policy, partition, place, dir, found)
    return true
  } catch (error) {
    if (failedWith(error, 'ENOENT')) return false // replaced meanwhile: the next pass sends what is there then
    if (!(error instanceof Corrupt)) throw error
    pass.count('damaged')
    premises.log.error({ dir, err: error }, 'object damaged: not sent')
    return false
  }
}

const REPLICATION: Headers = { 'x-backend-replication': 'true' }

async function sendData(
  premises: Premises,
  policy: number,
  partition: number,
  place: Place,
  dir: string,
  found: Found,
): Promise<boolean> {
  const open = await openFound(dir, { ...found, meta: null })
  try {
    const headers: Headers = { ...open.metadata }
    for (const name of ['name', 'content-length']) delete headers[name]
    const body = open.data ?? readChecked(open.file!, open, 0, open.size)
    return await push(premises, policy, partition, place, 'PUT', open.metadata.name, headers, body, open.size)
  } finally {
    await open.file?.close()
  }
}

/** Sends the `.meta` of a hash folder. */
export async function sendMeta(
  premises: Premises,
  policy: number,
  partition: number,
  place: Place,
  dir: string,
  found: Found,
): Promise<boolean> {
  const meta = await readMeta(join(dir, found.meta!.name))
  const headers: Headers = { ...meta }
  delete headers.name
  if (meta['content-type-timestamp']) {
    headers['x-backend-content-type-timestamp'] = meta['content-type-timestamp']
    delete headers['content-type-timestamp']
  }
  return push(premises, policy, partition, place, 'POST', meta.name, headers)
}

/** One write of replication to a place; true when it is there then, or something newer. */
export async function push(
  premises: Premises,
  policy: number,
  partition: number,
  place: Place,
  method: string,
  path: string,
  headers: Headers,
  body?: Buffer | AsyncIterable<Buffer>,
  length?: number,
): Promise<boolean> {
  const res = await premises.cluster.dial(place, 'object', partition, {
    method,
    path,
    headers: { ...headers, ...REPLICATION, 'x-backend-storage-policy-index': String(policy) },
    body,
    length,
    replication: true,
    timeout: 60,
  })
  discard(res)
  return ok(res.status) || res.status === 409 || (res.status === 404 && method === 'DELETE')
}

/** Removes a partition that its primaries have: what did not change since it was compared. */
async function giveUp(
  premises: Premises,
  pass: Pass,
  policy: Policy,
  disk: Disk,
  partition: number,
  own: SuffixHashes,
): Promise<void> {
  const dir = partitionDir(disk, policy.index, partition)
  const now = await suffixHashes(disk, policy.index, partition, Object.keys(own), premises.objects.reclaimAge)
  if (Object.keys(now).some(suffix => now[suffix] !== own[suffix])) return
  for (const suffix of await readdir(dir)) await rm(join(dir, suffix), { recursive: true, force: true })
  await rmdir(dir).catch(error => {
    if (!failedWith(error, 'ENOENT', 'ENOTEMPTY')) throw error
  })
  pass.count('removed')
}
