/**
 * Takes an image of a server's root disk: the host streams the disk as it is at one instant, Glance keeps it. Undone, the image goes again.
 * A backup also removes the oldest ones beyond its rotation, once the new one is whole.
 */
import { callStream } from '#kit/link/index.ts'
import { type Run, saga } from '#kit/saga/index.ts'
import type { Env } from '#kit/service.ts'
import { neighbours } from '../neighbours.ts'
import { noServer, serverRow, serverUpdate } from '../servers/store.ts'
import { snapshot } from '../verbs.ts'
import { actionEnd } from './store.ts'

export interface SnapshotArgs {
  serverId: string
  requestId: string
  imageId: string
  /** A backup: how many of its type are kept. */
  rotation?: { type: string; keep: number }
}

/** Seconds that a disk's bytes may take. */
const UPLOAD_SECONDS = 3600

export const snapshotServer = saga<SnapshotArgs>('nova.server.snapshot', async (run, args) => {
  const { serverId, requestId, imageId, rotation } = args
  const event = rotation ? 'compute_backup_instance' : 'compute_snapshot_instance'
  run.ifUndone(async (tx, failure) => {
    await neighbours.imageRemove(tx, imageId)
    const row = await serverRow(tx, serverId)
    await serverUpdate(tx, serverId, { task_state: failure.cancelled ? 'deleting' : null })
    await actionEnd(tx, serverId, requestId, { event, host: row?.host ?? null, failure })
  })
  await diskUpload(run, serverId, imageId)
  if (rotation) await run.step('rotate', tx => rotate(tx, serverId, rotation))
  run.ifDone(async tx => {
    const row = await serverRow(tx, serverId)
    await serverUpdate(tx, serverId, { task_state: null })
    await actionEnd(tx, serverId, requestId, { event, host: row?.host ?? null })
  })
})

/** The step that brings the root disk of a server into an image that waits for it. */
export const diskUpload = (run: Run, serverId: string, imageId: string): Promise<void> =>
  run.act('upload', ({ signal }) => upload(run.env, serverId, imageId, signal), undefined, {
    deadline: UPLOAD_SECONDS,
    retries: 0,
  })

async function upload(env: Env, serverId: string, imageId: string, signal: AbortSignal): Promise<void> {
  const server = await serverRow(env.db.read, serverId)
  if (!server?.host) throw noServer(serverId)
  const { host, image } = server
  await neighbours.imageUpload(env, imageId, async () => {
    const quiesce = server.vm_state === 'active' && image?.properties.os_require_quiesce === 'yes'
    const options = { signal, deadline: UPLOAD_SECONDS }
    const { result, body } = await callStream(
      env,
      host,
      snapshot,
      { id: serverId, disk: 'root', format: 'qcow2', quiesce },
      options,
    )
    return { size: result.size, bytes: body }
  })
}

async function rotate(
  tx: Parameters<typeof neighbours.imageRemove>[0],
  serverId: string,
  rotation: { type: string; keep: number },
) {
  const server = await serverRow(tx, serverId)
  if (!server) return
  const properties = { image_type: 'backup', backup_type: rotation.type, instance_uuid: serverId }
  const backups = await neighbours.imagesWith(tx, server.project_id, properties)
  for (const old of backups.slice(rotation.keep)) await neighbours.imageRemove(tx, old)
}
