// A disk's content at one instant, on its way out. Of a running guest QEMU itself makes the copy (a backup job: what the guest overwrites
// meanwhile is copied first), so the guest goes on. The copy holds the whole disk without the base image below it.
import { createReadStream } from 'node:fs'
import { rm, stat } from 'node:fs/promises'
import { guestAgent } from '#host/qemu/agent.ts'
import { diskKey, topNode } from '#host/qemu/devices.ts'
import { imgConvert, imgCreate, imgInfo } from '#host/qemu/img.ts'
import { withPackage } from '#host/qemu/probe.ts'
import type { Qmp } from '#host/qemu/qmp.ts'
import { conflict, internal, reason, unavailable } from '#kit/fault.ts'
import type { Disk } from '../../../spec.ts'
import type { SnapshotStream } from '../../driver.ts'
import { diskFile, emptyFile } from './disks.ts'
import { type Host, type Live, note } from './live.ts'
import { ownSocket, passing } from './start.ts'

const HOURS = 3_600_000

/** Makes the copy as a file of the guest's and opens it. Faults: unavailable without space. */
export async function snapshotDisk(
  host: Host,
  live: Live,
  disk: Disk,
  options: { qmp?: Qmp; format: 'qcow2' | 'raw'; quiesce: boolean; signal: AbortSignal },
): Promise<SnapshotStream> {
  const { qmp, format, quiesce, signal } = options
  const { uid } = live.record
  const { folder } = host.store.paths(live.id)
  const copy = `${passing(folder, 'snapshot')}.qcow2`
  const out = `${passing(folder, 'snapshot')}.raw`
  const lead = { uid, signal }
  try {
    await emptyFile({ uid }, copy)
    if (qmp) await backup(host, live, qmp, { disk, copy, quiesce, signal })
    else {
      const own = { path: diskFile(folder, disk), format: disk.kind === 'image' ? 'qcow2' : 'raw' }
      await withPackage(imgConvert(own, { path: copy, format: 'qcow2' }, lead))
    }
    if (format === 'raw') {
      await emptyFile({ uid }, out)
      await withPackage(imgConvert({ path: copy, format: 'qcow2' }, { path: out, format: 'raw' }, lead))
      await rm(copy)
    }
    const path = format === 'raw' ? out : copy
    const { virtualSize } = await withPackage(imgInfo(path, format, { uid }))
    const { size } = await stat(path)
    const stream = createReadStream(path, { highWaterMark: 512 << 10 })
    return {
      format,
      size,
      virtualSize,
      stream,
      close: async () => {
        stream.destroy()
        await rm(path, { force: true })
      },
    }
  } catch (error) {
    await rm(copy, { force: true })
    await rm(out, { force: true })
    if (/No space left on device/.test(reason(error))) throw unavailable(reason(error), { type: 'NoSpace', cause: error })
    throw error
  }
}

interface Backup {
  disk: Disk
  copy: string
  quiesce: boolean
  signal: AbortSignal
}

async function backup(host: Host, live: Live, qmp: Qmp, { disk, copy, quiesce, signal }: Backup): Promise<void> {
  const device = topNode({ name: disk.name, throttle: disk.limits })
  const blocks = await qmp.execute<{ 'node-name': string; image: { 'virtual-size': number } }[]>('query-named-block-nodes', {
    flat: true,
  })
  const node = blocks.find(block => block['node-name'] === device)
  if (!node) throw conflict(`Disk ${disk.name} is not plugged into the guest.`)
  await withPackage(imgCreate(copy, node.image['virtual-size'], { uid: live.record.uid }))
  const key = `snap-${diskKey(disk.name)}`
  await dropTarget(qmp, key)
  const job = key
  await qmp.execute('blockdev-add', { 'node-name': `f-${key}`, driver: 'file', filename: copy })
  await qmp.execute('blockdev-add', { 'node-name': `n-${key}`, driver: 'qcow2', file: `f-${key}` })
  try {
    const done = qmp.wait(
      e => ['BLOCK_JOB_COMPLETED', 'BLOCK_JOB_CANCELLED'].includes(e.event) && e.data.device === job,
      HOURS,
      `backup of ${disk.name}`,
    )
    const cancel = () => void qmp.execute('block-job-cancel', { device: job }).catch(() => undefined)
    if (quiesce) await freeze(host, live)
    try {
      await qmp.execute('blockdev-backup', { 'job-id': job, device, target: `n-${key}`, sync: 'full' })
    } finally {
      // The job holds the instant from its start: the guest may go on.
      if (quiesce) await thaw(host, live)
    }
    signal.addEventListener('abort', cancel, { once: true })
    const end = await done
    signal.removeEventListener('abort', cancel)
    signal.throwIfAborted()
    if (end.data.error) throw internal(`Snapshot of disk ${disk.name}: ${end.data.error}`)
  } finally {
    if (qmp.open) await dropTarget(qmp, key)
  }
}

/** Removes the job and nodes of a snapshot, also those of an agent that died while it made one. */
async function dropTarget(qmp: Qmp, key: string): Promise<void> {
  const jobs = await qmp.execute<{ device: string }[]>('query-block-jobs')
  if (jobs.some(job => job.device === key)) {
    const ended = qmp.wait(e => e.event.startsWith('BLOCK_JOB_C') && e.data.device === key, 30_000, 'end of an old snapshot')
    await qmp.execute('block-job-cancel', { device: key, force: true })
    await ended
  }
  const nodes = await qmp.execute<{ 'node-name': string }[]>('query-named-block-nodes', { flat: true })
  for (const name of [`n-${key}`, `f-${key}`])
    if (nodes.some(node => node['node-name'] === name)) await qmp.execute('blockdev-del', { 'node-name': name })
}

/** A command of the guest's agent. Faults: conflict when it does not answer or refuses. */
export async function askAgent<T>(host: Host, live: Live, command: string, args?: Record<string, unknown>): Promise<T> {
  if (live.record.power !== 'running') throw conflict(`Guest ${live.id} is ${live.record.power}: its agent cannot be asked.`)
  if (live.record.spec.guestAgent === false) throw conflict('The guest has no guest agent.', { type: 'QemuGuestAgentNotEnabled' })
  const { agent } = host.store.paths(live.id).sockets
  try {
    return await guestAgent<T>(await ownSocket(live, agent), command, args)
  } catch (error) {
    throw conflict(`QEMU guest agent: ${reason(error)}.`, { cause: error })
  }
}

/** Freezes the guest's file systems. The record says so first: a guest left frozen by a dead agent is thawed by the next. */
export async function freeze(host: Host, live: Live): Promise<void> {
  await note(host, live, { frozen: true })
  try {
    await askAgent(host, live, 'guest-fsfreeze-freeze')
  } catch (error) {
    await note(host, live, { frozen: false })
    throw error
  }
}

export async function thaw(host: Host, live: Live): Promise<void> {
  await askAgent(host, live, 'guest-fsfreeze-thaw')
  await note(host, live, { frozen: false })
}
