/** How every move of a server begins: its row is locked and asked, the action and the migration are noted, the saga starts, all in one transaction. */
import type { Tx } from '#kit/db/index.ts'
import { conflict } from '#kit/fault.ts'
import type { Call } from '#kit/http/route.ts'
import { type Saga, sagaStart } from '#kit/saga/index.ts'
import { mayBegin } from '../actions/operation.ts'
import { actionsBegin } from '../actions/store.ts'
import { type Server, type ServerValues, serverChange, serverResource, serverTake, stateConflict } from '../servers/store.ts'

export interface Beginning<A> {
  /** What os-instance-actions calls it, and what refusals do. */
  action: string
  from: readonly string[]
  during: string
  saga: Saga<A>
  /** The saga's arguments, and what else changes in the row. May write; may refuse. */
  prepare(tx: Tx, server: Server): Promise<{ args: Omit<A, 'serverId' | 'requestId'>; values?: ServerValues }>
}

/** Begins it. Throws notFound, conflict, and what `prepare` throws. */
export async function moveBegin<A extends { serverId: string; requestId: string }>(
  { ctx, env, params }: Pick<Call, 'ctx' | 'env' | 'params'>,
  { action, from, during, saga, prepare }: Beginning<A>,
): Promise<void> {
  await env.db.tx(async tx => {
    const server = await serverTake(tx, ctx, params.id!)
    mayBegin(ctx, server, { action, from })
    const { args, values } = await prepare(tx, server)
    await actionsBegin(tx, ctx, action, [server])
    await serverChange(tx, server.id, { task_state: during, ...values })
    await sagaStart(tx, saga, { serverId: server.id, requestId: ctx.requestId, ...args } as unknown as A, {
      resource: serverResource(server.id),
      busy: () => stateConflict(action, server.id, 'task_state', server.task_state).message,
    })
  })
}

/** A move needs the host that the server is on. */
export function mustHaveHost(server: Server): string {
  if (server.host === null) throw conflict(`Instance ${server.id} is on no host.`)
  return server.host
}
