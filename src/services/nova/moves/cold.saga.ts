/**
 * Resize and cold migration. The guest stops, its disks go to the other host (a resize may stay where it is), it starts there, and waits as
 * `resized` until the move is confirmed or reverted. Until then its old host keeps its old guest, stopped, and the migration holds the room
 * for it, so that a revert needs nothing that might be gone.
 *
 * Disks travel as one stream: the new host asks the controller for the bytes of a disk, and the controller asks the old host for them.
 */

import { badRequest } from '#kit/fault.ts'
import { call } from '#kit/link/index.ts'
import { type Run, saga } from '#kit/saga/index.ts'
import type { Env } from '#kit/service.ts'
import { actionEnd } from '../actions/store.ts'
import { guestSpec } from '../guests/spec.ts'
import { neighbours } from '../neighbours.ts'
import type { Placed } from '../scheduler/request.ts'
import { leave, wire } from '../servers/create.saga.ts'
import { powerNumber } from '../servers/states.ts'
import { type Server, serverChange, serverResource, serverRow, serverUpdate } from '../servers/store.ts'
import { novaSettings } from '../settings.ts'
import type { Power } from '../spec.ts'
import type { FlavorKept } from '../tables.ts'
import { ensure, power, resizeDisk } from '../verbs.ts'
import { guestEnsure, movePlace, moveSettle, mustLock, mustRead, partId, withContent } from './place.ts'
import { type Moving, migrationSet } from './store.ts'

export interface MoveArgs {
  serverId: string
  requestId: string
  moving: Moving
  kind: 'resize' | 'migration'
  flavor: FlavorKept
  diskConfig: string | null
  target: string | null
  before: { vmState: string; wanted: Power }
}

const EVENT = { resize: 'compute_prep_resize', migration: 'cold_migrate' } as const
/** Seconds that disks may take from host to host. */
const CARRY_SECONDS = 7200

export const moveServer = saga<MoveArgs>('nova.server.move', async (run, args) => {
  const { serverId, requestId, moving, kind, flavor, before } = args
  const { env } = run
  run.ifUndone(async (tx, failure) => {
    const row = await serverRow(tx, serverId)
    await migrationSet(tx, moving.id, { status: 'error' })
    if (!row) return
    await serverUpdate(tx, serverId, {
      task_state: failure.cancelled ? 'deleting' : null,
      vcpus: row.flavor.vcpus,
      memory_mb: row.flavor.memory_mb,
    })
    await actionEnd(tx, serverId, requestId, { event: EVENT[kind], host: row.host, failure })
  })
  const placed = await run.step(
    'place',
    tx => place(tx, env, args),
    async tx => {
      const server = await mustLock(tx, serverId)
      await moveSettle(tx, server, moving, server.host!, server.flavor)
    },
  )
  const from = await run.act(
    'stop',
    async ({ signal, key }) => {
      const { host, revision } = await mustRead(env, serverId)
      await call(env, host!, power, { id: serverId, to: 'off', revision }, { signal, key })
      return host!
    },
    ({ signal, key }) => backAsBefore(env, serverId, before.wanted, { signal, key }),
    { deadline: 300 },
  )
  await run.act(
    'carry',
    async ({ signal, key }) => carry(env, { ...(await mustRead(env, serverId)), flavor }, args, placed.host, { signal, key }),
    async () => {
      if (placed.host !== from) await leave(env, placed.host, serverId)
    },
    { deadline: CARRY_SECONDS },
  )
  await run.step(
    'switch',
    tx => switchTo(run, tx, args, placed),
    async tx => {
      const server = await mustLock(tx, serverId)
      if (server.resize) await switchBack(env, tx, server)
    },
  )
  const started = await run.act(
    'start',
    async ({ signal, key }) => {
      const server = await mustRead(env, serverId)
      const guest = await guestEnsure(env, server, before.wanted === 'off' ? 'off' : 'running', { signal, key })
      return { power: powerNumber(guest.power), wired: before.wanted === 'off' }
    },
    undefined,
    { deadline: 1800 },
  )
  if (!started.wired) await wire(run, serverId)
  run.ifDone(async tx => {
    await serverUpdate(tx, serverId, {
      vm_state: 'resized',
      task_state: null,
      power_state: started.power,
      launched_at: new Date(),
    })
    await migrationSet(tx, moving.id, { status: 'finished' })
    await actionEnd(tx, serverId, requestId, { event: EVENT[kind], host: placed.host })
  })
})

async function place(tx: Parameters<typeof mustLock>[0], env: Env, { serverId, moving, kind, flavor, target }: MoveArgs) {
  const server = await mustLock(tx, serverId)
  if (flavor.root_gb > 0 && flavor.root_gb < server.flavor.root_gb) {
    throw badRequest(`Resize error: a disk of ${server.flavor.root_gb} GiB cannot shrink to ${flavor.root_gb} GiB.`)
  }
  const here = kind === 'migration' || !env.config.of(novaSettings).allow_resize_to_same_host ? [server.host!] : []
  const placed = await movePlace(tx, env, server, moving, { flavor, target, excluded: here })
  await serverUpdate(tx, serverId, { task_state: 'resize_migrating' })
  return placed
}

/** The guest stands ready where it goes, stopped: its disks are there and as large as the flavor says. */
async function carry(
  env: Env,
  server: Server,
  { moving, flavor }: MoveArgs,
  host: string,
  acting: { signal: AbortSignal; key: string },
) {
  const plain = guestSpec(server, { power: 'off' })
  const spec = host === server.host ? plain : withContent(plain, name => ({ id: partId(moving, name), format: 'qcow2' }))
  await call(env, host, ensure, spec, { ...acting, deadline: CARRY_SECONDS })
  if (flavor.root_gb === 0 || server.image?.diskFormat === 'iso') return
  const bytes = flavor.root_gb * 1024 ** 3
  await call(env, host, resizeDisk, { id: server.id, name: 'root', bytes }, { ...acting, key: `${acting.key}/disk` })
}

/** The guest runs (or does not) as before, on the host that its row says. A host that is away does so by itself when it is back. */
async function backAsBefore(env: Env, id: string, wanted: Power, acting: { signal: AbortSignal; key: string }): Promise<void> {
  const server = await mustRead(env, id)
  if (env.hosts.isConnected(server.host!)) await guestEnsure(env, server, wanted, acting)
}

async function switchTo(run: Run, tx: Parameters<typeof mustLock>[0], args: MoveArgs, placed: Placed): Promise<void> {
  const { serverId, moving, flavor, diskConfig, before } = args
  const server = await mustLock(tx, serverId)
  await serverChange(tx, serverId, {
    host: placed.host,
    node: placed.node,
    availability_zone: placed.zone,
    flavor_id: flavor.id,
    flavor,
    disk_config: diskConfig ?? server.disk_config,
    task_state: 'resize_finish',
    resize: {
      migrationId: moving.id,
      uuid: moving.uuid,
      host: server.host!,
      node: server.node!,
      zone: server.availability_zone ?? '',
      flavor: server.flavor,
      vmState: before.vmState,
      diskConfig: server.disk_config,
    },
  })
  if (placed.host !== server.host)
    await neighbours.portsMove(run.env, tx, serverId, placed.host, placed.zone, serverResource(serverId))
}

/** The row is again what it was before the move. Ports come back too; resources are the caller's. */
async function switchBack(env: Env, tx: Parameters<typeof mustLock>[0], server: Server): Promise<void> {
  const { host, node, zone, flavor, diskConfig } = server.resize!
  await serverChange(tx, server.id, {
    host,
    node,
    availability_zone: zone,
    flavor_id: flavor.id,
    flavor,
    disk_config: diskConfig,
    resize: null,
  })
  if (server.host !== host) await neighbours.portsMove(env, tx, server.id, host, zone, serverResource(server.id))
}

export interface SettleArgs {
  serverId: string
  requestId: string
}

/** The move is right: nothing of the server stays where it was. */
export const confirmMove = saga<SettleArgs>('nova.server.confirm', async (run, { serverId, requestId }) => {
  const event = 'compute_confirm_resize'
  run.ifUndone(async (tx, failure) => {
    const row = await serverRow(tx, serverId)
    await serverUpdate(tx, serverId, { task_state: failure.cancelled ? 'deleting' : null })
    await actionEnd(tx, serverId, requestId, { event, host: row?.host ?? null, failure })
  })
  await run.act('leave', async () => {
    const { host, resize } = await mustRead(run.env, serverId)
    if (resize && resize.host !== host) await leave(run.env, resize.host, serverId)
  })
  run.ifDone(async tx => {
    const server = await mustLock(tx, serverId)
    const { resize } = server
    if (resize) {
      await neighbours.release(tx, resize.uuid)
      await migrationSet(tx, resize.migrationId, { status: 'confirmed' })
    }
    await serverChange(tx, serverId, {
      vm_state: server.wanted_power === 'off' ? 'stopped' : 'active',
      task_state: null,
      resize: null,
      vcpus: server.flavor.vcpus,
      memory_mb: server.flavor.memory_mb,
    })
    await actionEnd(tx, serverId, requestId, { event, host: server.host })
  })
})

/** The move was wrong: the server is again what and where it was. A failure on the way leaves it in error, on the host that its row says. */
export const revertMove = saga<SettleArgs>('nova.server.revert', async (run, { serverId, requestId }) => {
  const { env } = run
  const event = 'compute_revert_resize'
  run.ifUndone(async (tx, failure) => {
    const row = await serverRow(tx, serverId)
    const values = failure.cancelled ? { task_state: 'deleting' } : { vm_state: 'error', task_state: null }
    await serverUpdate(tx, serverId, values)
    await actionEnd(tx, serverId, requestId, { event, host: row?.host ?? null, failure })
  })
  const left = await run.act('stop', async ({ signal, key }) => {
    const { host, revision } = await mustRead(env, serverId)
    if (env.hosts.isConnected(host!)) await call(env, host!, power, { id: serverId, to: 'off', revision }, { signal, key })
    return host!
  })
  const wanted = await run.step('switch', async tx => {
    const server = await mustLock(tx, serverId)
    const { resize } = server
    if (!resize) return server.wanted_power
    await switchBack(env, tx, server)
    await moveSettle(tx, server, { id: resize.migrationId, uuid: resize.uuid }, resize.host, resize.flavor)
    await migrationSet(tx, resize.migrationId, { status: 'reverted' })
    return resize.vmState === 'stopped' ? 'off' : 'running'
  })
  const started = await run.act(
    'start',
    async ({ signal, key }) => {
      const server = await mustRead(env, serverId)
      const guest = await guestEnsure(env, server, wanted, { signal, key })
      return { power: powerNumber(guest.power), wired: wanted === 'off' }
    },
    undefined,
    { deadline: 1800 },
  )
  await run.act('leave', async () => {
    const { host } = await mustRead(env, serverId)
    if (left !== host) await leave(env, left, serverId)
  })
  if (!started.wired) await wire(run, serverId)
  run.ifDone(async tx => {
    const server = await mustLock(tx, serverId)
    await serverUpdate(tx, serverId, {
      vm_state: wanted === 'off' ? 'stopped' : 'active',
      wanted_power: wanted,
      task_state: null,
      power_state: started.power,
      vcpus: server.flavor.vcpus,
      memory_mb: server.flavor.memory_mb,
    })
    await actionEnd(tx, serverId, requestId, { event, host: server.host })
  })
})
