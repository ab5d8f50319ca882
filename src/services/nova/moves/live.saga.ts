/**
 * Live migration: the guest goes to another host with its memory and does not boot again. It is saved, its disks and its memory are brought
 * over, and it goes on there: the processes in it see a pause, as long as the bytes take, and nothing else. Until it runs there its old
 * host keeps it saved; undone, it goes on where it was.
 */
import { afterCommit } from '#kit/db/index.ts'
import { call } from '#kit/link/index.ts'
import { saga } from '#kit/saga/index.ts'
import { actionEnd } from '../actions/store.ts'
import { guestSpec } from '../guests/spec.ts'
import { neighbours } from '../neighbours.ts'
import { hostPoke, leave } from '../servers/create.saga.ts'
import { powerNumber } from '../servers/states.ts'
import { serverChange, serverResource, serverRow, serverUpdate } from '../servers/store.ts'
import type { Power } from '../spec.ts'
import { ensure, power } from '../verbs.ts'
import { MEMORY, movePlace, moveSettle, mustLock, mustRead, partId, withContent } from './place.ts'
import { type Moving, migrationSet } from './store.ts'

export interface LiveArgs {
  serverId: string
  requestId: string
  moving: Moving
  target: string | null
  wanted: Power
}

const EVENT = 'compute_live_migration'
const CARRY_SECONDS = 7200

export const liveMigrate = saga<LiveArgs>('nova.server.live-migrate', async (run, args) => {
  const { serverId, requestId, moving, target, wanted } = args
  const { env } = run
  run.ifUndone(async (tx, failure) => {
    const row = await serverRow(tx, serverId)
    await migrationSet(tx, moving.id, { status: failure.cancelled ? 'cancelled' : 'error' })
    if (!row) return
    // Asked to stop by a deletion, or by one who aborts the migration.
    await serverUpdate(tx, serverId, { task_state: row.task_state === 'deleting' ? 'deleting' : null })
    await actionEnd(tx, serverId, requestId, { event: EVENT, host: row.host, failure })
  })
  const placed = await run.step(
    'place',
    async tx => {
      const server = await mustLock(tx, serverId)
      return movePlace(tx, env, server, moving, { target, excluded: [server.host!], status: 'running' })
    },
    async tx => {
      const server = await mustLock(tx, serverId)
      await moveSettle(tx, server, moving, server.host!, server.flavor)
    },
  )
  await run.act(
    'save',
    async ({ signal, key }) => {
      const { host, revision } = await mustRead(env, serverId)
      await call(env, host!, power, { id: serverId, to: 'suspended', revision }, { signal, key })
    },
    async ({ signal, key }) => {
      const { host, revision } = await mustRead(env, serverId)
      if (env.hosts.isConnected(host!)) await call(env, host!, power, { id: serverId, to: wanted, revision }, { signal, key })
    },
    { deadline: 900 },
  )
  await run.act(
    'carry',
    async ({ signal, key }) => {
      const server = await mustRead(env, serverId)
      const spec = withContent(guestSpec(server, { power: 'suspended' }), name => ({ id: partId(moving, name), format: 'qcow2' }))
      const memory = { id: partId(moving, MEMORY), format: 'raw' as const }
      await call(env, placed.host, ensure, { ...spec, memory }, { signal, key, deadline: CARRY_SECONDS })
    },
    () => leave(env, placed.host, serverId),
    { deadline: CARRY_SECONDS },
  )
  const place = async (tx: Parameters<typeof mustLock>[0], to: { host: string; node: string; zone: string }) => {
    await serverChange(tx, serverId, { host: to.host, node: to.node, availability_zone: to.zone })
    await neighbours.portsMove(env, tx, serverId, to.host, to.zone, serverResource(serverId))
  }
  const old = await run.step('old', async tx => {
    const { host, node, availability_zone } = await mustLock(tx, serverId)
    return { host: host!, node: node!, zone: availability_zone ?? '' }
  })
  await run.step(
    'switch',
    tx => place(tx, placed),
    tx => place(tx, old),
  )
  const resumed = await run.act(
    'resume',
    async ({ signal, key }) => {
      const server = await mustRead(env, serverId)
      const guest = await call(env, placed.host, ensure, guestSpec(server, { power: wanted }), { signal, key })
      return powerNumber(guest.power)
    },
    undefined,
    { deadline: 900 },
  )
  run.ifDone(async tx => {
    const server = await mustLock(tx, serverId)
    await neighbours.release(tx, moving.uuid)
    await migrationSet(tx, moving.id, { status: 'completed' })
    await serverUpdate(tx, serverId, { task_state: null, power_state: resumed })
    await actionEnd(tx, serverId, requestId, { event: EVENT, host: server.host })
    // It runs: nothing may be undone any more. The old host asks what it should have, and this guest is not on that list.
    afterCommit(tx, () => hostPoke(env, old.host, serverId))
  })
})
