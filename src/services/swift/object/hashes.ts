/**
 * Hashes of the suffix folders of a partition: two servers compare 4096 short strings instead of every object.
 *
 * `hashes.json` holds them; `hashes.invalid` is a log of suffixes that changed, three letters and a line end each, to which every
 * write appends once the partition has been hashed. The log only grows, and `hashes.json` says up to where it was read, so no write can
 * fall between reading and clearing. When it is long, and at the first look of a process, all is hashed anew: what a crash kept out of
 * the log is found then.
 */
import { createHash } from 'node:crypto'
import { open, readdir, readFile, rename, rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { tidy } from '../disk/diskfile.ts'
import { newest } from '../disk/found.ts'
import { type Disk, failedWith, partitionDir } from '../disk/layout.ts'
import { ago } from '../timestamp.ts'

export type SuffixHashes = Record<string, string>

interface Stored {
  offset: number
  suffixes: SuffixHashes
}

const LONG = 256 * 1024
const listedOnce = new Set<string>()
const running = new Map<string, Promise<unknown>>()

/** The hashes of a partition's suffixes, those in `again` computed anew whatever the log says. Empty when the partition is not here. */
export function suffixHashes(
  disk: Disk,
  policy: number,
  partition: string | number,
  again: string[],
  reclaimAge: number,
): Promise<SuffixHashes> {
  const dir = partitionDir(disk, policy, partition)
  const turn = (running.get(dir) ?? Promise.resolve()).catch(() => {}).then(() => hashAll(dir, again, reclaimAge))
  running.set(dir, turn)
  const forget = (): void => {
    if (running.get(dir) === turn) running.delete(dir)
  }
  turn.then(forget, forget)
  return turn
}

async function hashAll(dir: string, again: string[], reclaimAge: number): Promise<SuffixHashes> {
  let names: string[]
  try {
    names = await readdir(dir)
  } catch (error) {
    if (failedWith(error, 'ENOENT', 'ENOTDIR')) return {}
    throw error
  }
  const stored = listedOnce.has(dir) ? await readStored(dir) : null
  const log = join(dir, 'hashes.invalid')
  if (!stored) await (await open(log, 'w')).close()
  const written = (await readFile(log, 'utf8').catch(error =>
    failedWith(error, 'ENOENT') ? '' : Promise.reject(error),
  )) as string
  const whole = written.slice(0, written.lastIndexOf('\n') + 1)
  const suffixes: SuffixHashes = {}
  const stale = stored ? new Set([...whole.slice(stored.offset).split('\n').filter(Boolean), ...again]) : null
  for (const suffix of names) {
    if (!/^[0-9a-f]{3}$/.test(suffix)) continue
    const known = stale && !stale.has(suffix) ? stored!.suffixes[suffix] : undefined
    const hash = known ?? (await hashSuffix(join(dir, suffix), reclaimAge))
    if (hash) suffixes[suffix] = hash
  }
  // most looks find nothing new: a cluster at rest writes nothing
  if (stale?.size === 0 && Object.keys(suffixes).length === Object.keys(stored!.suffixes).length) return suffixes
  await writeStored(dir, { offset: whole.length, suffixes })
  if (whole.length > LONG) {
    listedOnce.delete(dir)
    await rm(join(dir, 'hashes.json'), { force: true })
  } else listedOnce.add(dir)
  return suffixes
}

/** Tidies and hashes one suffix; null when it holds nothing. */
async function hashSuffix(dir: string, reclaimAge: number): Promise<string | null> {
  const sum = createHash('md5')
  let any = false
  let hashes: string[]
  try {
    hashes = await readdir(dir)
  } catch (error) {
    if (failedWith(error, 'ENOENT', 'ENOTDIR')) return null
    throw error
  }
  for (const hash of hashes.sort()) {
    if (!/^[0-9a-f]{32}$/.test(hash)) continue
    const found = await tidy(join(dir, hash), { notDurable: true, tombstonesBefore: ago(reclaimAge) })
    if (newest(found) === null) continue
    any = true
    const data = found.data ? `${found.data.timestamp}${found.data.durable ? '' : '?'}` : ''
    sum.update(`${hash} ${data} ${found.meta?.name ?? ''} ${found.tombstone?.timestamp ?? ''}\n`)
  }
  return any ? sum.digest('hex') : null
}

async function readStored(dir: string): Promise<Stored | null> {
  try {
    return JSON.parse(await readFile(join(dir, 'hashes.json'), 'utf8')) as Stored
  } catch (error) {
    if (failedWith(error, 'ENOENT') || error instanceof SyntaxError) return null
    throw error
  }
}

async function writeStored(dir: string, stored: Stored): Promise<void> {
  const temporary = join(dir, 'hashes.json.new')
  await writeFile(temporary, JSON.stringify(stored))
  await rename(temporary, join(dir, 'hashes.json'))
}
