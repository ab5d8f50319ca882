/**
 * A ring whose part power grows: an object's folder moves from partition P to 2P or 2P+1, on the same device, and no byte is copied. While
 * the growth is announced (`nextPartPower` above the power of the ring) the relinker makes hard links at the new places; once the ring has
 * grown it takes away what is still at the old ones. Whoever asks by the grown ring before the relinker came is served too: the server
 * links what is at the old place first.
 */
import { link, open, readdir, rmdir, stat, unlink } from 'node:fs/promises'
import { join } from 'node:path'
import { type Daemon, devicesHere, entriesOf, type Pass } from '../daemons.ts'
import { invalidate, tidy } from '../disk/diskfile.ts'
import { type Disk, failedWith, hashDir, makeDir, partitionDir, syncDir, syncMade, withPolicy } from '../disk/layout.ts'
import type { Policy } from '../policies.ts'
import { partPower } from '../ring/ring.ts'

/** The partition of a hash (hex) with that part power. */
export const partitionAt = (power: number, hash: string): number =>
  power === 0 ? 0 : Number.parseInt(hash.slice(0, 8), 16) >>> (32 - power)

interface Spot {
  disk: Disk
  policy: number
  hash: string
}

/** Every policy whose ring grows, on this host. */
export const objectRelinker = (every: number): Daemon => ({
  name: 'object-relinker',
  every,
  async pass(premises, pass) {
    for (const policy of premises.cluster.policies) {
      if (policy.ring.nextPartPower === null) continue
      for (const device of devicesHere(premises)) {
        const disk = { root: premises.objects.root, device }
        const began = Date.now()
        await premises.objects.disks.settle(disk) // the journal knows old places: a start would put back there what is removed
        await relink(pass, policy, disk, began)
      }
    }
  },
})

/** `began`: what is older than that is in no journal. */
async function relink(pass: Pass, policy: Policy, disk: Disk, began: number): Promise<void> {
  const power = policy.ring.nextPartPower!
  const grown = partPower(policy.ring) === power
  for (const partition of await entriesOf(join(disk.root, disk.device, withPolicy('objects', policy.index)))) {
    if (!/^\d+$/.test(partition)) continue
    const dir = partitionDir(disk, policy.index, partition)
    for (const suffix of await entriesOf(dir)) {
      for (const hash of await entriesOf(join(dir, suffix))) {
        if (!/^[0-9a-f]{32}$/.test(hash)) continue
        const right = partitionAt(power, hash)
        if (right === Number(partition)) continue
        await pass.pace(1000)
        const spot = { disk, policy: policy.index, hash }
        const files = await linkAll(spot, Number(partition), right)
        pass.count('linked', files.length)
        if (grown) pass.count('removed', await removeAll(spot, Number(partition), files, began))
      }
      if (grown) await removeEmpty(join(dir, suffix))
    }
    if (grown) await removePartition(dir)
  }
}

/** Links the files of an object at its other place, durably. Answers their names; none when it is not here. */
async function linkAll({ disk, policy, hash }: Spot, from: number, to: number): Promise<string[]> {
  const [source, target] = [hashDir(disk, policy, from, hash), hashDir(disk, policy, to, hash)]
  const names = await entriesOf(source)
  if (names.length === 0) return []
  const top = await makeDir(disk, target)
  const linked: string[] = []
  let made = 0
  for (const name of names) {
    try {
      await syncFile(join(source, name)) // a small one may be in the journal only, which knows the old place
      await link(join(source, name), join(target, name))
      made += 1
    } catch (error) {
      if (failedWith(error, 'ENOENT')) continue // replaced meanwhile: by what is linked at its own request
      if (!failedWith(error, 'EEXIST')) throw error
    }
    linked.push(name)
  }
  if (made > 0) {
    await syncDir(target)
    await syncMade(target, top)
    await tidy(target, { notDurable: true })
    await invalidate(disk, policy, to, hash)
  }
  return linked
}

async function syncFile(path: string): Promise<void> {
  const file = await open(path, 'r')
  try {
    await file.datasync()
  } finally {
    await file.close()
  }
}

/** Removes from the old place what is known to be at the new one, and nothing that came since `began`: that is for the next pass. */
async function removeAll({ disk, policy, hash }: Spot, from: number, names: string[], began: number): Promise<number> {
  const dir = hashDir(disk, policy, from, hash)
  let removed = 0
  for (const name of names) {
    try {
      if ((await stat(join(dir, name))).mtimeMs >= began) continue
      await unlink(join(dir, name))
      removed += 1
    } catch (error) {
      if (!failedWith(error, 'ENOENT')) throw error
    }
  }
  await removeEmpty(dir)
  await invalidate(disk, policy, from, hash)
  return removed
}

async function removeEmpty(dir: string): Promise<void> {
  await rmdir(dir).catch(error => {
    if (!failedWith(error, 'ENOENT', 'ENOTEMPTY', 'EEXIST', 'ENOTDIR')) throw error
  })
}

/** A partition that holds nothing but hashes of suffixes that are gone. */
async function removePartition(dir: string): Promise<void> {
  const names = await readdir(dir)
  if (names.some(name => !name.startsWith('hashes.'))) return
  for (const name of names) await unlink(join(dir, name))
  await removeEmpty(dir)
}

/** For a request by a ring that has grown to `power`: links what is still at the old place only. */
export async function bringAlong(spot: Spot & { partition: string }, power: number): Promise<void> {
  const right = partitionAt(power, spot.hash)
  if (right === Number(spot.partition)) await linkAll(spot, partitionAt(power - 1, spot.hash), right)
}
