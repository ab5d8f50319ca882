/**
 * What is due by the clock: resizes that confirm themselves, shelved servers that leave their host, soft-deleted ones that go for good, and the
 * rows of deleted servers that are kept long enough. Each is off or generous by default; see the settings.
 */
import { randomUUID } from 'node:crypto'
import { sql, type Tx } from '#kit/db/index.ts'
import { type Saga, sagaStart } from '#kit/saga/index.ts'
import type { Env } from '#kit/service.ts'
import { task } from '#kit/task.ts'
import { actionEnd, actionsBegin } from './actions/store.ts'
import { confirmMove } from './moves/cold.saga.ts'
import { offload } from './moves/shelve.saga.ts'
import { deleteServer } from './servers/delete.saga.ts'
import { type Server, serverResource, serverUpdate } from './servers/store.ts'
import { novaSettings } from './settings.ts'

const AT_ONCE = 100

/** Servers at rest in a state since before `seconds` ago, locked; those that somebody works on are left for the next time. */
const restingSince = (tx: Tx, vmState: string, column: 'updated_at' | 'deleted_at', seconds: number): Promise<Server[]> =>
  tx
    .selectFrom('nova.servers')
    .selectAll()
    .where('vm_state', '=', vmState)
    .where('task_state', 'is', null)
    .where(column, '<', sql<Date>`now() - make_interval(secs => ${seconds})`)
    .limit(AT_ONCE)
    .forUpdate()
    .skipLocked()
    .execute()

interface Due {
  action: string
  during: string
  saga: Saga<{ serverId: string; requestId: string }>
}

async function begin(tx: Tx, server: Server, { action, during, saga }: Due): Promise<void> {
  const requestId = `req-${randomUUID()}`
  await actionsBegin(tx, { requestId, projectId: server.project_id, userId: server.user_id }, action, [server])
  await serverUpdate(tx, server.id, { task_state: during })
  await sagaStart(tx, saga, { serverId: server.id, requestId }, { resource: serverResource(server.id) })
}

async function confirmResizes(env: Env, seconds: number): Promise<void> {
  await env.db.tx(async tx => {
    for (const server of await restingSince(tx, 'resized', 'updated_at', seconds))
      await begin(tx, server, { action: 'confirmResize', during: 'resize_confirming', saga: confirmMove })
  })
}

async function reclaim(env: Env, seconds: number): Promise<void> {
  await env.db.tx(async tx => {
    for (const server of await restingSince(tx, 'soft-delete', 'deleted_at', seconds))
      await begin(tx, server, { action: 'delete', during: 'deleting', saga: deleteServer })
  })
}

async function offloadShelved(env: Env, seconds: number): Promise<void> {
  await env.db.tx(async tx => {
    for (const server of await restingSince(tx, 'shelved', 'updated_at', seconds)) {
      const requestId = `req-${randomUUID()}`
      await actionsBegin(tx, { requestId, projectId: server.project_id, userId: server.user_id }, 'shelveOffload', [server])
      await offload(env, tx, server)
      await actionEnd(tx, server.id, requestId, { event: 'compute_shelve_offload_instance', host: server.host })
    }
  })
}

/** Forgets servers that were deleted long ago, with their actions and migrations. */
async function purge(env: Env, days: number): Promise<void> {
  await env.db.tx(async tx => {
    const { rows } = await sql<{ id: string }>`
      delete from nova.deleted_servers where id in (
        select id from nova.deleted_servers where deleted_at < now() - make_interval(days => ${days})
        order by deleted_at limit 1000)
      returning id`.execute(tx)
    const ids = rows.map(row => row.id)
    if (ids.length === 0) return
    await tx.deleteFrom('nova.actions').where('server_id', 'in', ids).execute()
    await tx.deleteFrom('nova.migrations').where('server_id', 'in', ids).execute()
  })
}

export const due = task({
  name: 'nova.due',
  every: 60,
  async run(env) {
    const settings = env.config.of(novaSettings)
    if (settings.resize_confirm_window > 0) await confirmResizes(env, settings.resize_confirm_window)
    if (settings.shelved_offload_time > 0) await offloadShelved(env, settings.shelved_offload_time)
    if (settings.reclaim_instance_interval > 0) await reclaim(env, settings.reclaim_instance_interval)
    await purge(env, settings.deleted_retention_days)
  },
})
