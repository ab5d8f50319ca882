/** What was done to servers, by whom, and how it went: the rows behind os-instance-actions. */
import type { Context } from '#kit/context.ts'
import { json, type Query, type Selectable, sql, type Tx } from '#kit/db/index.ts'
import type { SagaFailure } from '#kit/saga/index.ts'
import type { ActionEvent, ActionsTable } from '../tables.ts'

export type Action = Selectable<ActionsTable>

/** Notes that an action begins, for one or more servers. */
export async function actionsBegin(
  tx: Tx,
  ctx: Pick<Context, 'requestId' | 'projectId' | 'userId'>,
  action: string,
  servers: readonly { id: string; project_id: string }[],
): Promise<void> {
  await tx
    .insertInto('nova.actions')
    .values(
      servers.map(server => ({
        server_id: server.id,
        request_id: ctx.requestId,
        action,
        project_id: server.project_id,
        user_id: ctx.userId,
      })),
    )
    .execute()
}

export interface Outcome {
  /** What upstream calls this part of an action: `compute_start_instance`. */
  event: string
  host: string | null
  failure?: SagaFailure
}

/** Notes how the action of this request on a server ended. */
export async function actionEnd(tx: Tx, serverId: string, requestId: string, outcome: Outcome): Promise<void> {
  const { failure } = outcome
  const event: Omit<ActionEvent, 'start_time'> = {
    event: outcome.event,
    finish_time: new Date().toISOString(),
    result: failure ? 'Error' : 'Success',
    traceback: failure ? `${failure.step}: ${failure.message}` : null,
    host: outcome.host,
    details: failure ? failure.message : null,
  }
  await sql`
    update nova.actions set finish_time = now(), updated_at = now(), message = ${failure ? 'Error' : null},
      events = events || (${json(event)} || jsonb_build_object('start_time', start_time))
    where server_id = ${serverId} and request_id = ${requestId}`.execute(tx)
}

/** A server's actions, the newest first. */
export const actionsOf = (db: Query, serverId: string): Promise<Action[]> =>
  db.selectFrom('nova.actions').selectAll().where('server_id', '=', serverId).orderBy('seq', 'desc').execute()
