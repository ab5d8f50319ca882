/** Reads every object and compares it with its checksums; what is damaged goes to quarantine, and the replicator brings a good copy. */
import { createHash } from 'node:crypto'
import { stat, unlink } from 'node:fs/promises'
import { join } from 'node:path'
import { type Daemon, devicesHere, entriesOf, type Pass, type Premises } from '../daemons.ts'
import { invalidate, openFound, quarantineObject, tidy } from '../disk/diskfile.ts'
import { type Disk, failedWith, withPolicy } from '../disk/layout.ts'
import { Corrupt, readChecked } from '../disk/record.ts'
import { ago } from '../timestamp.ts'

export interface AuditOptions {
  every: number
  filesPerSecond: number
  bytesPerSecond: number
  /** Only opens each file (its metadata, and that it is there): catches what a crash of a file system leaves. */
  quick: boolean
}

/** The auditor of objects: whole, or quick (`object-auditor-zbf`). */
export const objectAuditor = (options: AuditOptions): Daemon => ({
  name: options.quick ? 'object-auditor-zbf' : 'object-auditor',
  every: options.every,
  async pass(premises, pass) {
    for (const device of devicesHere(premises)) {
      const disk = { root: premises.objects.root, device }
      for (const policy of premises.cluster.policies) {
        await sweep(join(premises.objects.root, device, withPolicy('tmp', policy.index)), pass)
        const root = join(premises.objects.root, device, withPolicy('objects', policy.index))
        for (const partition of await entriesOf(root)) {
          for (const suffix of await entriesOf(join(root, partition))) {
            if (!/^[0-9a-f]{3}$/.test(suffix)) continue
            for (const hash of await entriesOf(join(root, partition, suffix))) {
              await pass.pace(options.filesPerSecond)
              await audit(premises, pass, options, {
                disk,
                policy: policy.index,
                partition,
                dir: join(root, partition, suffix, hash),
                hash,
              })
            }
          }
        }
      }
    }
  },
})

interface Spot {
  disk: Disk
  policy: number
  partition: string
  dir: string
  hash: string
}

async function audit(premises: Premises, pass: Pass, options: AuditOptions, spot: Spot): Promise<void> {
  const found = await tidy(spot.dir, { notDurable: true, tombstonesBefore: ago(premises.objects.reclaimAge) })
  if (!found.data) return
  pass.count('audited')
  try {
    const opened = await openFound(spot.dir, found)
    const sum = createHash('md5')
    try {
      if (!options.quick) {
        for await (const chunk of opened.file || opened.data ? readChecked(opened.file!, opened, 0, opened.size) : []) {
          sum.update(chunk)
          pass.count('bytes', chunk.length)
          await pass.pace(Math.max(1, options.bytesPerSecond / chunk.length))
        }
        if (sum.digest('hex') !== opened.metadata.etag) throw new Corrupt('data do not match their MD5')
      }
    } finally {
      await opened.file?.close()
    }
  } catch (error) {
    if (failedWith(error, 'ENOENT')) return // replaced meanwhile
    if (!(error instanceof Corrupt)) throw error
    premises.log.error({ dir: spot.dir, err: error }, 'object damaged: quarantined')
    await quarantineObject(spot.disk, spot.policy, spot.dir)
    await invalidate(spot.disk, spot.policy, spot.partition, spot.hash)
    pass.count('quarantined')
  }
}

/** Removes temporary files that a crash left: older than a day. */
async function sweep(dir: string, pass: Pass): Promise<void> {
  for (const name of await entriesOf(dir)) {
    const path = join(dir, name)
    try {
      if (Date.now() - (await stat(path)).mtimeMs < 86_400_000) continue
      await unlink(path)
      pass.count('swept')
    } catch (error) {
      if (!failedWith(error, 'ENOENT')) throw error
    }
  }
}
