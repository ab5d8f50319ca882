/** The actions on servers, from start to crash dump. */
import { badRequest, conflict, gone } from '#kit/fault.ts'
import type { Route } from '#kit/http/route.ts'
import * as S from '#kit/http/schema.ts'
import { call as ask } from '#kit/link/index.ts'
import { sagaStart } from '#kit/saga/index.ts'
import { Anything } from '../fields.ts'
import { neighbours } from '../neighbours.ts'
import { serversAllowed } from '../quotas/limits.ts'
import { keptImage, newPassword } from '../servers/create.ts'
import { deleteServer } from '../servers/delete.saga.ts'
import { mustBeUnlocked, serverResource, serverTake, serverUpdate, stateConflict } from '../servers/store.ts'
import { novaSettings } from '../settings.ts'
import { consoleOutput } from '../verbs.ts'
import { V } from '../versions.ts'
import { type ActionSpec, action } from './action.ts'
import { type OperationName, operationBegin } from './operation.ts'
import { actionEnd, actionsBegin } from './store.ts'

/** An action that is an operation and takes no value. */
const simple = (key: string, policy: string, name: OperationName, more: Partial<ActionSpec<S.TSchema>> = {}): Route =>
  action({
    key,
    policy,
    ...more,
    async handle({ ctx, env, params }) {
      await env.db.tx(tx => operationBegin(tx, ctx, params.id!, name))
    },
  })

const CLOSED = { additionalProperties: false }

const rebootAction = action({
  key: 'reboot',
  policy: 'os_compute_api:servers:reboot',
  value: S.Object({ type: S.OneOf('HARD', 'Hard', 'hard', 'SOFT', 'Soft', 'soft') }, CLOSED),
  async handle({ ctx, env, params, target }, { type }) {
    const soft = type.toUpperCase() === 'SOFT'
    const options = { wasOff: ['stopped', 'suspended'].includes(target.vm_state) }
    await env.db.tx(tx => operationBegin(tx, ctx, params.id!, soft ? 'softReboot' : 'hardReboot', options))
  },
})

const lockBody = S.byVersion(
  [0, Anything()],
  [V.lockReason, S.Nullable(S.Object({ locked_reason: S.Optional(S.String({ minLength: 1, maxLength: 255 })) }, CLOSED))],
) as unknown as ReturnType<typeof S.Unsafe<{ locked_reason?: string } | null>>

const lockAction = action({
  key: 'lock',
  policy: 'os_compute_api:os-lock-server:lock',
  value: lockBody,
  async handle({ ctx, env, params, version }, value) {
    await env.db.tx(async tx => {
      const server = await serverTake(tx, ctx, params.id!)
      const owner = server.project_id === ctx.projectId
      if (server.locked_by !== null && owner) return
      const reason = version >= V.lockReason ? (value?.locked_reason ?? null) : null
      await actionsBegin(tx, ctx, 'lock', [server])
      await serverUpdate(tx, server.id, { locked_by: owner ? 'owner' : 'admin', locked_reason: reason })
      await actionEnd(tx, server.id, ctx.requestId, { event: 'api_lock', host: server.host })
    })
  },
})

const unlockAction = action({
  key: 'unlock',
  policy: 'os_compute_api:os-lock-server:unlock',
  async handle({ ctx, env, params }) {
    await env.db.tx(async tx => {
      const server = await serverTake(tx, ctx, params.id!)
      const mine = server.project_id === ctx.projectId ? 'owner' : 'admin'
      if (server.locked_by !== null && server.locked_by !== mine) {
        ctx.must('os_compute_api:os-lock-server:unlock:unlock_override', { project_id: server.project_id })
      }
      await actionsBegin(tx, ctx, 'unlock', [server])
      await serverUpdate(tx, server.id, { locked_by: null, locked_reason: null })
      await actionEnd(tx, server.id, ctx.requestId, { event: 'api_unlock', host: server.host })
    })
  },
})

const resetState = action({
  key: 'os-resetState',
  policy: 'os_compute_api:os-admin-actions:reset_state',
  value: S.Object({ state: S.OneOf('active', 'error') }, CLOSED),
  async handle({ ctx, env, params }, { state }) {
    await env.db.tx(async tx => {
      const server = await serverTake(tx, ctx, params.id!)
      const busy = await tx
        .selectFrom('kit.sagas')
        .select(['name', 'step'])
        .where('resource', '=', serverResource(server.id))
        .executeTakeFirst()
      // What works on the server would write its own state over this one.
      if (busy)
        throw conflict(`An operation on instance ${server.id} is in progress (${busy.name}, step ${busy.step ?? 'none yet'}).`)
      await actionsBegin(tx, ctx, 'resetState', [server])
      await serverUpdate(tx, server.id, { vm_state: state, task_state: null })
      await actionEnd(tx, server.id, ctx.requestId, { event: 'api_resetState', host: server.host })
    })
  },
})

const consoleLog = action({
  key: 'os-getConsoleOutput',
  policy: 'os_compute_api:os-console-output',
  success: 200,
  value: S.Object(
    {
      length: S.Optional(
        S.Unsafe<number | string | null>({ type: ['integer', 'string', 'null'], pattern: '^-?[0-9]+$', minimum: -1 }),
      ),
    },
    CLOSED,
  ),
  async handle({ env, target, signal }, { length }) {
    const lines = length === undefined || length === null ? undefined : Number(length)
    if (lines !== undefined && lines < -1) throw badRequest(`Invalid input for field/attribute length. Value: ${length}.`)
    if (target.host === null) throw conflict(`Instance ${target.id} is not ready`)
    const { output } = await ask(
      env,
      target.host,
      consoleOutput,
      { id: target.id, lines: lines === -1 ? undefined : lines },
      { signal },
    )
    // biome-ignore lint/suspicious/noControlCharactersInRegex: those are what is taken out
    return { output: output.replace(/[\x00-\x08\x0b-\x1f]/g, '') }
  },
})

const forceDelete = action({
  key: 'forceDelete',
  policy: 'os_compute_api:os-deferred-delete:force',
  async handle({ ctx, env, params }) {
    await env.db.tx(async tx => {
      const server = await serverTake(tx, ctx, params.id!)
      mustBeUnlocked(ctx, server)
      await actionsBegin(tx, ctx, 'forceDelete', [server])
      await serverUpdate(tx, server.id, { task_state: 'deleting', progress: 0 })
      const args = { serverId: server.id, requestId: ctx.requestId }
      await sagaStart(tx, deleteServer, args, { resource: serverResource(server.id), supersede: true })
    })
  },
})

const restore = action({
  key: 'restore',
  policy: 'os_compute_api:os-deferred-delete:restore',
  async handle({ ctx, env, params }) {
    await env.db.tx(async tx => {
      const server = await serverTake(tx, ctx, params.id!)
      if (server.vm_state !== 'soft-delete') throw stateConflict('restore', server.id, 'vm_state', server.vm_state)
      await serversAllowed(tx, env.config, server.project_id, server, 1, 1)
      await operationBegin(tx, ctx, server.id, 'restore')
    })
  },
})

const changePassword = action({
  key: 'changePassword',
  policy: 'os_compute_api:os-admin-password',
  value: S.Object({ adminPass: S.String() }, CLOSED),
  async handle({ ctx, env, params }, { adminPass }) {
    await env.db.tx(tx => operationBegin(tx, ctx, params.id!, 'changePassword', { password: adminPass }))
  },
})

const rescueAction = action({
  key: 'rescue',
  policy: 'os_compute_api:os-rescue',
  success: 200,
  value: S.Nullable(S.Object({ adminPass: S.Optional(S.String()), rescue_image_ref: S.Optional(S.Uuid()) }, CLOSED)),
  async handle({ ctx, env, db, params, target }, value) {
    const password = value?.adminPass ?? newPassword()
    const imageId = value?.rescue_image_ref ?? target.image_ref
    if (imageId === null) throw badRequest(`Instance ${target.id} cannot be rescued: there is no image to rescue it with`)
    const found = await neighbours.imageFetch(db, ctx, imageId).catch((error: unknown) => {
      throw badRequest(`Image ${imageId} could not be found.`, { cause: error })
    })
    if (found.status !== 'active') throw badRequest(`Image ${imageId} is not active.`)
    await env.db.tx(tx =>
      operationBegin(tx, ctx, params.id!, 'rescue', {}, { rescue: { image: keptImage(found), password: '' } }),
    )
    return env.config.of(novaSettings).enable_instance_password ? { adminPass: password } : {}
  },
})

const securityGroup = (verb: 'add' | 'remove'): Route =>
  action({
    key: `${verb}SecurityGroup`,
    policy: `os_compute_api:os-security-groups:${verb}`,
    value: S.Object({ name: S.String({ minLength: 1, maxLength: 255 }) }, CLOSED),
    async handle({ ctx, env, params }, { name }) {
      await env.db.tx(async tx => {
        const server = await serverTake(tx, ctx, params.id!)
        await neighbours.securityGroupOfServer(env, tx, server, name, verb)
      })
    },
  })

const removed = (key: string, policy: string): Route =>
  action({
    key,
    policy,
    async handle() {
      throw gone(`The action ${key} is not there any more.`)
    },
  })

export const actionRoutes: Route[] = [
  simple('os-start', 'os_compute_api:servers:start', 'start'),
  simple('os-stop', 'os_compute_api:servers:stop', 'stop'),
  rebootAction,
  simple('pause', 'os_compute_api:os-pause-server:pause', 'pause'),
  simple('unpause', 'os_compute_api:os-pause-server:unpause', 'unpause'),
  simple('suspend', 'os_compute_api:os-suspend-server:suspend', 'suspend'),
  simple('resume', 'os_compute_api:os-suspend-server:resume', 'resume'),
  lockAction,
  unlockAction,
  resetState,
  consoleLog,
  forceDelete,
  restore,
  changePassword,
  rescueAction,
  simple('unrescue', 'os_compute_api:os-unrescue', 'unrescue'),
  securityGroup('add'),
  securityGroup('remove'),
  simple('trigger_crash_dump', 'os_compute_api:servers:trigger_crash_dump', 'crashDump', { since: V.crashDump, value: S.Null() }),
  removed('resetNetwork', 'os_compute_api:os-admin-actions:reset_state'),
  removed('injectNetworkInfo', 'os_compute_api:os-admin-actions:inject_network_info'),
]
