/** The actions that move a server: resize and its end, migrate, os-migrateLive, evacuate, shelve and unshelve. */
import type { Tx } from '#kit/db/index.ts'
import { badRequest, overQuota } from '#kit/fault.ts'
import type { Call, Route } from '#kit/http/route.ts'
import * as S from '#kit/http/schema.ts'
import type { Env } from '#kit/service.ts'
import { action } from '../actions/action.ts'
import { imageOf } from '../actions/snapshot.routes.ts'
import { actionEnd, actionsBegin } from '../actions/store.ts'
import { Flag, Fqdn, Name } from '../fields.ts'
import { flavorFetch } from '../flavors/store.ts'
import { aggregates, isUp, serviceRows, zonesOf } from '../hosts/store.ts'
import { fits, lockProject, projectLimits, serverUsage } from '../quotas/limits.ts'
import { hostMustExist } from '../scheduler/scheduler.ts'
import { DiskConfig } from '../servers/create.body.ts'
import { checkFlavorImage, keptFlavor, named, newPassword } from '../servers/create.ts'
import { mustBeUnlocked, type Server, serverTake, stateConflict } from '../servers/store.ts'
import { novaSettings } from '../settings.ts'
import type { FlavorKept } from '../tables.ts'
import { V } from '../versions.ts'
import { moveBegin, mustHaveHost } from './begin.ts'
import { confirmMove, moveServer, revertMove } from './cold.saga.ts'
import { evacuateServer } from './evacuate.saga.ts'
import { liveMigrate } from './live.saga.ts'
import { offload, shelveServer, unshelveServer } from './shelve.saga.ts'
import { migrationBegin } from './store.ts'

const CLOSED = { additionalProperties: false }
const { Optional } = S
const COLD = ['active', 'stopped']

type OnServer = Call<unknown, unknown, Server>

/** Takes the larger of both flavors while it is not known which will stay. Throws overQuota. */
async function quotaFor(tx: Tx, env: Env, server: Server, flavor: FlavorKept): Promise<{ vcpus: number; memory_mb: number }> {
  const most = { vcpus: Math.max(flavor.vcpus, server.vcpus), memory_mb: Math.max(flavor.memory_mb, server.memory_mb) }
  await lockProject(tx, server.project_id)
  const limits = await projectLimits(tx, env.config, server.project_id)
  const usage = await serverUsage(tx, server.project_id)
  const more = { cores: most.vcpus - server.vcpus, ram: most.memory_mb - server.memory_mb }
  for (const resource of ['cores', 'ram'] as const) {
    if (more[resource] > 0 && !fits(limits[resource], Number(usage[resource]) + more[resource])) {
      throw overQuota(
        `Quota exceeded for ${resource}: Requested ${more[resource]}, but already used ${usage[resource]} of ${limits[resource]} ${resource}`,
      )
    }
  }
  return most
}

const resize = action({
  key: 'resize',
  policy: 'os_compute_api:servers:resize',
  value: S.Object(
    {
      flavorRef: S.Unsafe<string | number>({ type: ['string', 'integer'], minLength: 1 }),
      'OS-DCF:diskConfig': Optional(DiskConfig()),
    },
    CLOSED,
  ),
  async handle(call, { flavorRef, 'OS-DCF:diskConfig': diskConfig = null }) {
    const { ctx, db, env, target } = call
    const flavor = keptFlavor(await named(flavorFetch(db, ctx, String(flavorRef))))
    if (flavor.id === target.flavor_id) throw badRequest('When resizing, instances must change flavor!')
    if (target.image) checkFlavorImage(ctx, flavor, { ...target.image, status: 'active' })
    await moveBegin(call, {
      action: 'resize',
      from: COLD,
      during: 'resize_prep',
      saga: moveServer,
      async prepare(tx, server) {
        mustHaveHost(server)
        const values = await quotaFor(tx, env, server, flavor)
        const moving = await migrationBegin(tx, server, 'resize', { flavor })
        const before = { vmState: server.vm_state, wanted: server.wanted_power }
        return { args: { moving, kind: 'resize' as const, flavor, diskConfig, target: null, before }, values }
      },
    })
  },
})

const migrateBody = S.byVersion(
  [0, S.Unsafe<{ host?: string | null } | null>({})],
  [V.migrateHost, S.Nullable(S.Object({ host: Optional(S.Nullable(Fqdn())) }, CLOSED))],
) as unknown as ReturnType<typeof S.Unsafe<{ host?: string | null } | null>>

const migrate = action({
  key: 'migrate',
  policy: 'os_compute_api:os-migrate-server:migrate',
  value: migrateBody,
  async handle(call, value) {
    const { ctx, version, target: of } = call
    const target = (version >= V.migrateHost ? value?.host : null) ?? null
    if (target !== null) {
      ctx.must('os_compute_api:os-migrate-server:migrate:host', of as never)
      await hostMustExist(call.db, target, null)
    }
    await moveBegin(call, {
      action: 'migrate',
      from: COLD,
      during: 'resize_prep',
      saga: moveServer,
      async prepare(tx, server) {
        if (target === mustHaveHost(server)) throw sameHost(server)
        const moving = await migrationBegin(tx, server, 'migration')
        const before = { vmState: server.vm_state, wanted: server.wanted_power }
        return { args: { moving, kind: 'migration' as const, flavor: server.flavor, diskConfig: null, target, before } }
      },
    })
  },
})

const sameHost = (server: Server) =>
  badRequest(`No valid host was found. The target host is the host that the server is on: ${server.host}.`)

const settle = (key: 'confirmResize' | 'revertResize', policy: string, success: number): Route =>
  action({
    key,
    policy,
    success,
    async handle(call) {
      await moveBegin(call, {
        action: key,
        from: ['resized'],
        during: key === 'confirmResize' ? 'resize_confirming' : 'resize_reverting',
        saga: key === 'confirmResize' ? confirmMove : revertMove,
        prepare: async () => ({ args: {} }),
      })
    },
  })

const LiveHost = () => S.Nullable(Fqdn())
const auto = () => S.Unsafe<boolean | string>({ anyOf: [{ const: 'auto' }, Flag()] })
const liveBody = S.byVersion(
  [0, S.Object({ block_migration: Flag(), disk_over_commit: Flag(), host: LiveHost() }, CLOSED)],
  [V.blockMigrationAuto, S.Object({ block_migration: auto(), host: LiveHost() }, CLOSED)],
  [V.liveMigrateForce, S.Object({ block_migration: auto(), host: LiveHost(), force: Optional(Flag()) }, CLOSED)],
  [V.noForce, S.Object({ block_migration: auto(), host: LiveHost() }, CLOSED)],
) as unknown as ReturnType<typeof S.Unsafe<{ host: string | null; force?: boolean | string }>>

const liveMigration = action({
  key: 'os-migrateLive',
  policy: 'os_compute_api:os-migrate-server:migrate_live',
  value: liveBody,
  async handle(call, { host: target, force }) {
    const { ctx, db, target: of } = call
    if (force !== undefined && S.toBoolean(force) && target === null)
      throw badRequest("Can't force to a non-provided destination")
    if (target !== null) {
      ctx.must('os_compute_api:os-migrate-server:migrate_live:host', of as never)
      await hostMustExist(db, target, null)
    }
    await moveBegin(call, {
      action: 'live-migration',
      from: ['active', 'paused'],
      during: 'migrating',
      saga: liveMigrate,
      async prepare(tx, server) {
        if (target === mustHaveHost(server))
          throw badRequest(`Unable to migrate instance (${server.id}) to current host (${target}).`)
        const moving = await migrationBegin(tx, server, 'live-migration', { status: 'queued' })
        return { args: { moving, target, wanted: server.wanted_power } }
      },
    })
  },
})

const Password = () => Optional(S.String())
const evacuateBody = S.byVersion(
  [0, S.Object({ host: Optional(Fqdn()), onSharedStorage: Flag(), adminPass: Password() }, CLOSED)],
  [V.evacuateStorage, S.Object({ host: Optional(Fqdn()), adminPass: Password() }, CLOSED)],
  [V.evacuateForce, S.Object({ host: Optional(Fqdn()), adminPass: Password(), force: Optional(Flag()) }, CLOSED)],
  [V.noForce, S.Object({ host: Optional(Fqdn()), adminPass: Password() }, CLOSED)],
) as unknown as ReturnType<
  typeof S.Unsafe<{ host?: string; adminPass?: string; force?: boolean | string; onSharedStorage?: boolean | string }>
>

const evacuate = action({
  key: 'evacuate',
  policy: 'os_compute_api:os-evacuate',
  success: 200,
  value: evacuateBody,
  async handle(call, { host: target = null, adminPass, force, onSharedStorage }) {
    const { db, env, version } = call
    if (onSharedStorage !== undefined && S.toBoolean(onSharedStorage) && adminPass !== undefined) {
      throw badRequest("admin password can't be changed on existing disk")
    }
    if (force !== undefined && S.toBoolean(force) && target === null)
      throw badRequest("Can't force to a non-provided destination")
    if (target !== null) await hostMustExist(db, target, null)
    const adminPassword = adminPass ?? newPassword()
    await moveBegin(call, {
      action: 'evacuate',
      from: ['active', 'stopped', 'error'],
      during: 'rebuilding',
      saga: evacuateServer,
      async prepare(tx, server) {
        const host = mustHaveHost(server)
        if (target === host) throw badRequest("The target host can't be the same one.")
        const service = await serviceRows(tx)
          .where('s.host', '=', host)
          .where('s.program', '=', 'nova-compute')
          .executeTakeFirst()
        if (service && isUp(env, service)) throw badRequest(`Compute service of ${host} is still in use.`)
        const moving = await migrationBegin(tx, server, 'evacuation', { status: 'accepted' })
        const stopped = version >= V.evacuateStopped || server.vm_state === 'stopped'
        return { args: { moving, target, stopped, adminPassword } }
      },
    })
    return version < V.evacuateStorage && env.config.of(novaSettings).enable_instance_password
      ? { adminPass: adminPassword }
      : undefined
  },
})

const shelve = action({
  key: 'shelve',
  policy: 'os_compute_api:os-shelve:shelve',
  async handle(call) {
    await moveBegin(call, {
      action: 'shelve',
      from: ['active', 'stopped', 'paused', 'suspended'],
      during: 'shelving',
      saga: shelveServer,
      async prepare(tx, server) {
        mustHaveHost(server)
        const imageId = await imageOf(tx, call.ctx, server, `${server.name}-shelved`, {})
        const offload = call.env.config.of(novaSettings).shelved_offload_time === 0
        return { args: { imageId, wanted: server.wanted_power, offload } }
      },
    })
  },
})

const shelveOffload = action({
  key: 'shelveOffload',
  policy: 'os_compute_api:os-shelve:shelve_offload',
  async handle({ ctx, env, params }) {
    await env.db.tx(async tx => {
      const server = await serverTake(tx, ctx, params.id!)
      mustBeUnlocked(ctx, server)
      if (server.vm_state !== 'shelved') throw stateConflict('shelveOffload', server.id, 'vm_state', server.vm_state)
      if (server.task_state !== null) throw stateConflict('shelveOffload', server.id, 'task_state', server.task_state)
      await actionsBegin(tx, ctx, 'shelveOffload', [server])
      await offload(env, tx, server)
      await actionEnd(tx, server.id, ctx.requestId, { event: 'compute_shelve_offload_instance', host: server.host })
    })
  },
})

interface UnshelveBody {
  availability_zone?: string | null
  host?: string
}
const unshelveBody = S.byVersion(
  [0, S.Unsafe<null>({})],
  [V.unshelveZone, S.Nullable(S.Object({ availability_zone: Name() }, CLOSED))],
  [
    V.unshelveHost,
    S.Nullable(
      S.Object({ availability_zone: Optional(S.Nullable(Name())), host: Optional(Fqdn()) }, { ...CLOSED, minProperties: 1 }),
    ),
  ],
) as unknown as ReturnType<typeof S.Unsafe<UnshelveBody | null>>

const unshelve = action({
  key: 'unshelve',
  policy: 'os_compute_api:os-shelve:unshelve',
  value: unshelveBody,
  async handle(call, value) {
    const { ctx, db, version } = call
    const { availability_zone: zone, host } = (version >= V.unshelveZone ? value : null) ?? {}
    if (host !== undefined) {
      ctx.must('os_compute_api:os-shelve:unshelve_to_host', call.target as never)
      await hostMustExist(db, host, null)
    }
    if (zone) await zoneMustExist(call, zone)
    await moveBegin(call, {
      action: 'unshelve',
      from: ['shelved', 'shelved_offloaded'],
      during: 'unshelving',
      saga: unshelveServer,
      async prepare(_tx, server) {
        if ((zone !== undefined || host !== undefined) && server.vm_state !== 'shelved_offloaded') {
          throw stateConflict('unshelve', server.id, 'vm_state', server.vm_state)
        }
        return { args: { target: host ?? null }, values: zone === undefined ? {} : { pinned_zone: zone } }
      },
    })
  },
})

async function zoneMustExist({ db, env }: Pick<OnServer, 'db' | 'env'>, zone: string): Promise<void> {
  if (zone === env.config.of(novaSettings).default_availability_zone) return
  if (![...zonesOf(await aggregates(db)).values()].includes(zone))
    throw badRequest('The requested availability zone is not available')
}

export const moveRoutes: Route[] = [
  resize,
  settle('confirmResize', 'os_compute_api:servers:confirm_resize', 204),
  settle('revertResize', 'os_compute_api:servers:revert_resize', 202),
  migrate,
  liveMigration,
  evacuate,
  shelve,
  shelveOffload,
  unshelve,
]
