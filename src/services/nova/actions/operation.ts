/**
 * Operations on one server's guest: what every action that is not a creation or deletion shares. A row of the table says from which
 * states it may begin, what the server is called meanwhile, what the host does, and what the server is afterwards; one saga runs them all,
 * so that none is lost and none is done by two at once.
 */
import type { Context } from '#kit/context.ts'
import type { Tx } from '#kit/db/index.ts'
import { saga, sagaStart } from '#kit/saga/index.ts'
import type { Env } from '#kit/service.ts'
import { powerNumber } from '../servers/states.ts'
import {
  faultKept,
  mustBeUnlocked,
  type Server,
  type ServerValues,
  serverChange,
  serverResource,
  serverRow,
  serverTake,
  serverUpdate,
  stateConflict,
} from '../servers/store.ts'
import type { Guest, Power } from '../spec.ts'
import { OPERATIONS } from './operations.ts'
import { actionEnd, actionsBegin } from './store.ts'

export interface Doing {
  env: Env
  host: string
  server: Server
  signal: AbortSignal
  /** The same for every try. */
  key: string
  options: Record<string, unknown>
}

export interface Operation {
  /** What os-instance-actions calls it. */
  action: string
  /** What it is called in refusals, where that is another word. */
  word?: string
  event: string
  /** The vm_states it may begin in; null: any. */
  from: readonly string[] | null
  /** The task_states it may begin in; just none unless given. */
  fromTasks?: readonly (string | null)[]
  during: string
  /** The power state that is wanted from now on; null: as before. */
  wants: Power | null
  /** The host's part. */
  act(doing: Doing): Promise<Guest | undefined>
  /** The vm_state when it is done; null: as it was. */
  to: string | null
  /** More that changes in the end. */
  after?(server: Server, guest: Guest | undefined, options: Record<string, unknown>): ServerValues
  /** A failure leaves the server in error; else it is what it was. */
  fatal?: true
  /** Seconds that the host may take. */
  deadline?: number
}

export type OperationName = keyof typeof OPERATIONS

interface OperationArgs {
  serverId: string
  requestId: string
  name: OperationName
  before: { vmState: string; wanted: Power }
  options: Record<string, unknown>
}

/** Runs one operation. */
export const operate = saga<OperationArgs>('nova.server.operate', async (run, { serverId, requestId, name, before, options }) => {
  const operation: Operation = OPERATIONS[name]
  const { event } = operation
  let host: string | null = null
  run.ifUndone(async (tx, failure) => {
    const row = await serverRow(tx, serverId)
    if (!row) return
    await serverChange(tx, serverId, {
      task_state: failure.cancelled ? 'deleting' : null,
      wanted_power: before.wanted,
      ...(operation.fatal && !failure.cancelled
        ? { vm_state: 'error', fault: faultKept(500, failure.message, `${failure.step}: ${failure.kind}: ${failure.message}`) }
        : {}),
    })
    await actionEnd(tx, serverId, requestId, { event, host: row.host, failure })
  })
  const guest = await run.act<Guest | null>(
    operation.action,
    async ({ signal, key }) => {
      const server = await serverRow(run.env.db.read, serverId)
      if (!server?.host) return null
      host = server.host
      return (await operation.act({ env: run.env, host, server, signal, key, options })) ?? null
    },
    undefined,
    { deadline: operation.deadline ?? 300 },
  )
  run.ifDone(async tx => {
    const row = await serverRow(tx, serverId)
    if (!row) return
    await serverUpdate(tx, serverId, {
      vm_state: operation.to ?? before.vmState,
      task_state: null,
      ...(guest ? { power_state: powerNumber(guest.power) } : {}),
      ...operation.after?.(row, guest ?? undefined, options),
    })
    await actionEnd(tx, serverId, requestId, { event, host: row.host })
  })
})

/** Refuses an operation in a state that does not allow it, and on a locked server. */
export function mayBegin(
  ctx: Pick<Context, 'isAdmin'>,
  server: Server,
  operation: Pick<Operation, 'action' | 'word' | 'from' | 'fromTasks'>,
): void {
  const word = operation.word ?? operation.action
  mustBeUnlocked(ctx, server)
  if (operation.from && !operation.from.includes(server.vm_state)) {
    throw stateConflict(word, server.id, 'vm_state', server.vm_state)
  }
  if (!(operation.fromTasks ?? [null]).includes(server.task_state)) {
    throw stateConflict(word, server.id, 'task_state', server.task_state)
  }
}

/** Begins an operation on a server in the caller's transaction. Throws notFound, conflict. Returns the server as it was. */
export async function operationBegin(
  tx: Tx,
  ctx: Context,
  id: string,
  name: OperationName,
  options: Record<string, unknown> = {},
  change: ServerValues | ((server: Server) => ServerValues) = {},
): Promise<Server> {
  const operation: Operation = OPERATIONS[name]
  const server = await serverTake(tx, ctx, id)
  mayBegin(ctx, server, operation)
  await actionsBegin(tx, ctx, operation.action, [server])
  await serverChange(tx, id, {
    task_state: operation.during,
    ...(operation.wants ? { wanted_power: operation.wants } : {}),
    ...(typeof change === 'function' ? change(server) : change),
  })
  await sagaStart(
    tx,
    operate,
    {
      serverId: id,
      requestId: ctx.requestId,
      name,
      before: { vmState: server.vm_state, wanted: server.wanted_power },
      options,
    },
    {
      resource: serverResource(id),
      busy: () => stateConflict(operation.word ?? operation.action, id, 'task_state', server.task_state).message,
    },
  )
  return server
}
