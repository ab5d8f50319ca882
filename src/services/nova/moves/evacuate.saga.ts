/** Evacuation: a server whose host is down is built anew on another host, with its ports and addresses. Its disks are lost with the host. */
import { call } from '#kit/link/index.ts'
import { saga } from '#kit/saga/index.ts'
import { actionEnd } from '../actions/store.ts'
import { guestSpec } from '../guests/spec.ts'
import { neighbours } from '../neighbours.ts'
import { leave, wire } from '../servers/create.saga.ts'
import { powerNumber } from '../servers/states.ts'
import { serverChange, serverResource, serverRow, serverUpdate } from '../servers/store.ts'
import { ensure } from '../verbs.ts'
import { movePlace, moveSettle, mustLock, mustRead } from './place.ts'
import { type Moving, migrationSet } from './store.ts'

export interface EvacuateArgs {
  serverId: string
  requestId: string
  moving: Moving
  target: string | null
  stopped: boolean
  adminPassword: string
}

const EVENT = 'compute_rebuild_instance'

export const evacuateServer = saga<EvacuateArgs>('nova.server.evacuate', async (run, args) => {
  const { serverId, requestId, moving, target, stopped, adminPassword } = args
  const { env } = run
  run.ifUndone(async (tx, failure) => {
    const row = await serverRow(tx, serverId)
    await migrationSet(tx, moving.id, { status: 'failed' })
    if (!row) return
    await serverUpdate(tx, serverId, { task_state: failure.cancelled ? 'deleting' : null })
    await actionEnd(tx, serverId, requestId, { event: EVENT, host: row.host, failure })
  })
  const old = await run.step('old', async tx => {
    const { host, node, availability_zone } = await mustLock(tx, serverId)
    return { host: host!, node: node!, zone: availability_zone ?? '' }
  })
  const go = async (tx: Parameters<typeof mustLock>[0], to: typeof old) => {
    await serverChange(tx, serverId, { host: to.host, node: to.node, availability_zone: to.zone })
    await neighbours.portsMove(env, tx, serverId, to.host, to.zone, serverResource(serverId))
  }
  const placed = await run.step(
    'place',
    async tx => {
      const server = await mustLock(tx, serverId)
      const placed = await movePlace(tx, env, server, moving, { target, excluded: [old.host] })
      await go(tx, placed)
      return placed
    },
    async tx => {
      const server = await mustLock(tx, serverId)
      await go(tx, old)
      await moveSettle(tx, server, moving, old.host, server.flavor)
    },
  )
  const built = await run.act(
    'build',
    async ({ signal, key }) => {
      const server = await mustRead(env, serverId)
      const spec = guestSpec(server, { power: stopped ? 'off' : 'running', adminPassword })
      const guest = await call(env, placed.host, ensure, spec, { signal, key, deadline: 1800 })
      return { power: powerNumber(guest.power), wired: stopped }
    },
    () => leave(env, placed.host, serverId),
    { deadline: 1800 },
  )
  if (!built.wired) await wire(run, serverId)
  run.ifDone(async tx => {
    await neighbours.release(tx, moving.uuid)
    await migrationSet(tx, moving.id, { status: 'done' })
    await serverUpdate(tx, serverId, {
      vm_state: stopped ? 'stopped' : 'active',
      wanted_power: stopped ? 'off' : 'running',
      task_state: null,
      power_state: built.power,
      launched_at: new Date(),
      fault: null,
    })
    await actionEnd(tx, serverId, requestId, { event: EVENT, host: placed.host })
  })
})
