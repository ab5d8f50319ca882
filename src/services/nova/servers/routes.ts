/** /servers: create, show, change, delete. Lists are in list.routes.ts, actions in ../actions. */

import type { Context } from '#kit/context.ts'
import type { Query } from '#kit/db/index.ts'
import { badRequest } from '#kit/fault.ts'
import { type Call, type Route, route } from '#kit/http/route.ts'
import * as S from '#kit/http/schema.ts'
import { sagaStart } from '#kit/saga/index.ts'
import type { Env } from '#kit/service.ts'
import { operationBegin } from '../actions/operation.ts'
import { actionsBegin } from '../actions/store.ts'
import { addressText, Description, Fqdn, Hostname, Name, NameOrNull, query } from '../fields.ts'
import { hostStatuses } from '../hosts/status.ts'
import { neighbours } from '../neighbours.ts'
import { novaSettings } from '../settings.ts'
import { V } from '../versions.ts'
import { linker } from '../wire.ts'
import { createBody, DiskConfig } from './create.body.ts'
import { serversReserve } from './create.ts'
import { deleteServer } from './delete.saga.ts'
import { mustBeUnlocked, type Server, serverFetch, serverResource, serverTake, serverUpdate } from './store.ts'
import { type ShowOptions, serverView, viewingOf } from './view.ts'

/** The server that the path names, for a route's `target`. */
export const serverTarget = ({
  db,
  ctx,
  params,
}: {
  db: Query
  ctx: Context
  params: Readonly<Record<string, string>>
}): Promise<Server> => serverFetch(db, ctx, params.id!)

/** One server as an answer shows it. */
export async function serverShown(
  call: Pick<Call, 'ctx' | 'db' | 'env' | 'self' | 'params' | 'version'>,
  server: Server,
  options: ShowOptions = {},
) {
  const viewing = viewingOf(call)
  const extended = { project_id: server.project_id, user_id: server.user_id }
  viewing.extended = call.ctx.can('os_compute_api:os-extended-server-attributes', extended)
  viewing.hostStatus = await hostStatuses(call, [server.host], server.project_id)
  const groups = server.group_id === null ? [] : [server.group_id]
  const nics = (await neighbours.nicsNow(call.db, [server])).get(server.id) ?? []
  return { server: serverView({ ...server, nics }, viewing, { groups, ...options }) }
}

const create = route({
  method: 'POST',
  path: '/servers',
  success: 202,
  policy: 'os_compute_api:servers:create',
  body: createBody,
  async handle(call) {
    const { body, env, reply, self } = call
    const made = await serversReserve(call)
    if (body.server.return_reservation_id !== undefined && S.toBoolean(body.server.return_reservation_id)) {
      return { reservation_id: made.reservationId }
    }
    const id = made.ids[0]!
    reply.headers.Location = self(`/servers/${id}`)
    return {
      server: {
        id,
        links: linker(call, 'servers')(id),
        'OS-DCF:diskConfig': made.diskConfig,
        security_groups: body.server.security_groups ?? [{ name: 'default' }],
        ...(env.config.of(novaSettings).enable_instance_password ? { adminPass: made.adminPassword } : {}),
      },
    }
  },
})

const show = route({
  method: 'GET',
  path: '/servers/:id',
  policy: 'os_compute_api:servers:show',
  query: query({}, V.flavorName),
  target: serverTarget,
  handle: call => serverShown(call, call.target),
})

const updateBody = S.Object(
  {
    server: S.Object(
      {
        name: S.Optional(Name()),
        'OS-DCF:diskConfig': S.Optional(DiskConfig()),
        accessIPv4: S.Optional(S.String({ format: 'ipv4' })),
        accessIPv6: S.Optional(S.String({ format: 'ipv6' })),
        description: S.since(V.description, S.Optional(Description())),
        hostname: S.byVersion(
          [0, S.until(0, S.Optional(Hostname()))],
          [V.hostname, S.Optional(Hostname())],
          [V.fqdn, S.Optional(Fqdn())],
        ) as unknown as ReturnType<typeof S.Optional<ReturnType<typeof Hostname>>>,
        pinned_availability_zone: S.since(V.updatePinnedZone, S.Optional(NameOrNull())),
      },
      { additionalProperties: false },
    ),
  },
  { additionalProperties: false },
)

const update = route({
  method: 'PUT',
  path: '/servers/:id',
  policy: 'os_compute_api:servers:update',
  body: updateBody,
  target: serverTarget,
  async handle(call) {
    const { ctx, env, params, version } = call
    const asked = call.body.server
    const server = await env.db.tx(async tx => {
      const row = await serverTake(tx, ctx, params.id!)
      const zone = asked.pinned_availability_zone
      if (zone !== undefined && zone !== null && zone !== row.availability_zone) {
        throw badRequest(`The server is in zone ${row.availability_zone}: it can only be pinned to that.`)
      }
      const changed: Parameters<typeof serverUpdate>[2] = {}
      if (asked.name !== undefined) changed.name = asked.name
      if (asked['OS-DCF:diskConfig'] !== undefined) changed.disk_config = asked['OS-DCF:diskConfig']
      if (asked.accessIPv4 !== undefined) changed.access_ip_v4 = addressText(asked.accessIPv4)
      if (asked.accessIPv6 !== undefined) changed.access_ip_v6 = addressText(asked.accessIPv6)
      if (asked.description !== undefined) changed.description = asked.description
      if (asked.hostname !== undefined) changed.hostname = asked.hostname as string
      if (zone !== undefined) changed.pinned_zone = zone
      await serverUpdate(tx, row.id, changed)
      return serverFetch(tx, ctx, row.id)
    })
    return serverShown(call, server, { brief: version < V.cleanup })
  },
})

const remove = route({
  method: 'DELETE',
  path: '/servers/:id',
  success: 204,
  policy: 'os_compute_api:servers:delete',
  target: serverTarget,
  async handle({ ctx, env, params }) {
    await env.db.tx(async tx => {
      const server = await serverTake(tx, ctx, params.id!)
      mustBeUnlocked(ctx, server)
      if (softly(env, server)) {
        await operationBegin(tx, ctx, server.id, 'softDelete')
        return
      }
      await actionsBegin(tx, ctx, 'delete', [server])
      await serverUpdate(tx, server.id, { task_state: 'deleting', progress: 0 })
      const args = { serverId: server.id, requestId: ctx.requestId }
      await sagaStart(tx, deleteServer, args, { resource: serverResource(server.id), supersede: true })
    })
  },
})

/** Whether a deletion only puts the server aside, so that it can be restored for a while: one that is up and at rest, where that is set. */
const softly = (env: Env, server: Server): boolean =>
  env.config.of(novaSettings).reclaim_instance_interval > 0 &&
  server.host !== null &&
  server.task_state === null &&
  ['active', 'stopped', 'paused', 'suspended'].includes(server.vm_state)

export const serverRoutes: Route[] = [create, show, update, remove]
