/** Deletes a server. There is no way back: each step is tried until it works. */
import { emit, event } from '#kit/events.ts'
import { saga } from '#kit/saga/index.ts'
import { actionEnd } from '../actions/store.ts'
import { migrationSet } from '../moves/store.ts'
import { neighbours } from '../neighbours.ts'
import { leave } from './create.saga.ts'
import { serverBury, serverRow } from './store.ts'

export interface DeleteArgs {
  serverId: string
  requestId: string
}

/** Told when nothing of a server is left. */
export const serverDeleted = event<{ id: string; projectId: string }>('nova.server.deleted')

export const deleteServer = saga<DeleteArgs>(
  'nova.server.delete',
  async (run, { serverId, requestId }) => {
    const server = await serverRow(run.env.db.read, serverId)
    const hosts = server ? [...new Set([server.host, server.resize?.host])].filter(host => host != null) : []
    await run.act('destroy', async () => {
      for (const host of hosts) await leave(run.env, host, serverId)
    })
    await run.step('free', async tx => {
      const row = await serverRow(tx, serverId)
      if (!row) return
      await neighbours.portsRelease(run.env, tx, serverId, row.nics)
      await neighbours.release(tx, serverId)
      if (row.resize) {
        await neighbours.release(tx, row.resize.uuid)
        await migrationSet(tx, row.resize.migrationId, { status: 'confirmed' })
      }
      if (row.shelved_image) await neighbours.imageRemove(tx, row.shelved_image)
      await tx.deleteFrom('nova.console_tokens').where('server_id', '=', serverId).execute()
      await serverBury(tx, serverId)
      await actionEnd(tx, serverId, requestId, { event: 'compute_terminate_instance', host: row.host })
      await emit(tx, serverDeleted, { id: serverId, projectId: row.project_id })
    })
  },
  { forward: true },
)
