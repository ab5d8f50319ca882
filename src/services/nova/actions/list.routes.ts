/** /servers/ID/os-instance-actions: what was done to a server. An action in progress shows the step it is at. */
import type { Context } from '#kit/context.ts'
import type { Query } from '#kit/db/index.ts'
import { badRequest, notFound } from '#kit/fault.ts'
import { type Call, type Route, route } from '#kit/http/route.ts'
import * as S from '#kit/http/schema.ts'
import { type SagaView, sagaList } from '#kit/saga/index.ts'
import { DATE, PAGING, pageOf, query } from '../fields.ts'
import { type Server, serverFetch, serverResource } from '../servers/store.ts'
import { hostIdOf } from '../servers/view.ts'
import { novaSettings } from '../settings.ts'
import type { ActionEvent } from '../tables.ts'
import { V } from '../versions.ts'
import { bareTime, nextLink } from '../wire.ts'
import type { Action } from './store.ts'

/** From 2.21 on the actions of deleted servers can be read. */
async function anyServer({ db, ctx, params, version }: Pick<Call, 'db' | 'ctx' | 'params' | 'version'>): Promise<Server> {
  const id = params.id!
  if (version < V.deletedActions) return serverFetch(db, ctx, id)
  return serverFetch(db, ctx, id).catch(async error => {
    const row = await buried(db, ctx, id)
    if (row) return row
    throw error
  })
}

async function buried(db: Query, ctx: Context, id: string): Promise<Server | undefined> {
  const row = await db.selectFrom('nova.deleted_servers').selectAll().where('id', '=', id).executeTakeFirst()
  return row && (ctx.isAdmin || row.project_id === ctx.projectId) ? row : undefined
}

const brief = (action: Action, version: number) => ({
  action: action.action,
  instance_uuid: action.server_id,
  request_id: action.request_id,
  user_id: action.user_id,
  project_id: action.project_id,
  start_time: bareTime(action.start_time),
  message: action.message,
  ...(version >= V.actionPages ? { updated_at: bareTime(action.updated_at) } : {}),
})

const eventTime = (text: string | null): string | null => (text === null ? null : bareTime(new Date(text)))

interface Eyes {
  version: number
  /** May see tracebacks and hosts. */
  events: boolean
  details: boolean
  projectId: string
}

function eventShown(event: ActionEvent, { version, events, details, projectId }: Eyes): object {
  return {
    event: event.event,
    start_time: eventTime(event.start_time),
    finish_time: eventTime(event.finish_time),
    result: event.result,
    ...(events ? { traceback: event.traceback } : {}),
    ...(version >= V.eventHost ? { hostId: hostIdOf(event.host, projectId), ...(events ? { host: event.host } : {}) } : {}),
    ...(version >= V.eventDetails && details ? { details: event.details } : {}),
  }
}

/** Since when a step goes on, until when it may, how often it was tried and what failed last, in a sentence. */
function waiting({ step, since, deadline, attempts, error }: SagaView): string {
  const times = [since && `since ${since.toISOString()}`, deadline && `until ${deadline.toISOString()} at most`].filter(Boolean)
  const tries = error === null ? '' : `; try ${attempts + 1}, the last one failed: ${error}`
  return `step ${step} goes on ${times.join(', ')}${tries}`
}

/** The step that a running saga of the server is at, as an event. */
async function inProgress(db: Query, server: Server): Promise<ActionEvent[]> {
  return (await sagaList(db, serverResource(server.id)))
    .filter(saga => saga.step !== null)
    .map(saga => ({
      event: `${saga.name}: ${saga.step}`,
      start_time: (saga.since ?? new Date()).toISOString(),
      finish_time: null,
      result: null,
      traceback: saga.error,
      host: server.host,
      details: waiting(saga),
    }))
}

const paged = { ...PAGING, 'changes-since': DATE }

export const instanceActionRoutes: Route[] = [
  route({
    method: 'GET',
    path: '/servers/:id/os-instance-actions',
    policy: 'os_compute_api:os-instance-actions:list',
    query: S.byVersion(
      [0, query({}, V.actionPages)],
      [V.actionPages, query(paged, V.actionPages)],
      [V.changesBefore, query({ ...paged, 'changes-before': DATE }, V.actionPages)],
    ),
    target: anyServer,
    async handle(call) {
      const { db, env, search, version, target } = call
      let rows = db.selectFrom('nova.actions').selectAll().where('server_id', '=', target.id).orderBy('seq', 'desc')
      const pages = version >= V.actionPages
      const { limit, marker } = pageOf(search, env.config.of(novaSettings).max_limit)
      if (pages) {
        rows = rows.limit(limit)
        const since = search.get('changes-since')
        const before = version >= V.changesBefore ? search.get('changes-before') : null
        if (since !== null && before !== null && new Date(since) > new Date(before)) {
          throw badRequest('The value of changes-since must be less than or equal to changes-before.')
        }
        if (since !== null) rows = rows.where('updated_at', '>=', new Date(since))
        if (before !== null) rows = rows.where('updated_at', '<=', new Date(before))
        if (marker !== null) {
          const at = await db
            .selectFrom('nova.actions')
            .select('seq')
            .where('server_id', '=', target.id)
            .where('request_id', '=', marker)
            .executeTakeFirst()
          if (!at) throw badRequest(`marker [${marker}] not found`)
          rows = rows.where('seq', '<', at.seq)
        }
      }
      const actions = limit === 0 && pages ? [] : await rows.execute()
      const more = pages && actions.length > 0 && actions.length === limit
      const path = `/servers/${target.id}/os-instance-actions`
      return {
        instanceActions: actions.map(action => brief(action, version)),
        ...(more ? { links: nextLink(call, path, actions.at(-1)!.request_id) } : {}),
      }
    },
  }),
  route({
    method: 'GET',
    path: '/servers/:id/os-instance-actions/:request',
    policy: 'os_compute_api:os-instance-actions:show',
    target: anyServer,
    async handle({ ctx, db, params, target, version }) {
      const action = await db
        .selectFrom('nova.actions')
        .selectAll()
        .where('server_id', '=', target.id)
        .where('request_id', '=', params.request!)
        .orderBy('seq', 'desc')
        .executeTakeFirst()
      if (!action) throw notFound(`Action ${params.request} not found`)
      const owner = { project_id: target.project_id, user_id: target.user_id }
      const events = ctx.can('os_compute_api:os-instance-actions:events', owner)
      const details = ctx.can('os_compute_api:os-instance-actions:events:details', owner)
      if (!events && version < V.actionEvents) return { instanceAction: brief(action, version) }
      const eyes = { version, events, details, projectId: target.project_id }
      const all = action.finish_time === null ? [...action.events, ...(await inProgress(db, target))] : action.events
      return { instanceAction: { ...brief(action, version), events: all.map(event => eventShown(event, eyes)) } }
    },
  }),
]
