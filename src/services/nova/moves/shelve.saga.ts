/**
 * Shelving: a server that is not needed for a while leaves its host. Its root disk becomes an image, its ports stay its own; unshelving finds
 * it a host and makes the disk of that image again.
 */
import { afterCommit, type Tx } from '#kit/db/index.ts'
import { call } from '#kit/link/index.ts'
import { saga } from '#kit/saga/index.ts'
import type { Env } from '#kit/service.ts'
import { diskUpload } from '../actions/snapshot.saga.ts'
import { actionEnd } from '../actions/store.ts'
import { guestSpec } from '../guests/spec.ts'
import { neighbours } from '../neighbours.ts'
import { schedule } from '../scheduler/scheduler.ts'
import { hostPoke, leave, wire } from '../servers/create.saga.ts'
import { requestOf } from '../servers/place.ts'
import { POWER, powerNumber } from '../servers/states.ts'
import { type Server, serverChange, serverResource, serverRow, serverUpdate } from '../servers/store.ts'
import type { Power } from '../spec.ts'
import { ensure, power } from '../verbs.ts'
import { guestEnsure, mustLock, mustRead, ownerOf, withContent } from './place.ts'

export interface ShelveArgs {
  serverId: string
  requestId: string
  imageId: string
  wanted: Power
  /** It leaves its host at once. */
  offload: boolean
}

/** Takes a shelved server off its host. The guest there goes when the host asks what it should have, which it does at once. */
export async function offload(env: Env, tx: Tx, server: Server): Promise<void> {
  await neighbours.portsRest(env, tx, server.id)
  await neighbours.release(tx, server.id)
  await serverChange(tx, server.id, {
    vm_state: 'shelved_offloaded',
    task_state: null,
    host: null,
    node: null,
    availability_zone: server.pinned_zone,
    power_state: POWER.nostate,
  })
  const { host } = server
  if (host !== null) afterCommit(tx, () => hostPoke(env, host, server.id))
}

export const shelveServer = saga<ShelveArgs>('nova.server.shelve', async (run, args) => {
  const { serverId, requestId, imageId, wanted } = args
  const { env } = run
  const event = 'compute_shelve_instance'
  run.ifUndone(async (tx, failure) => {
    await neighbours.imageRemove(tx, imageId)
    const row = await serverRow(tx, serverId)
    await serverUpdate(tx, serverId, { task_state: failure.cancelled ? 'deleting' : null })
    await actionEnd(tx, serverId, requestId, { event, host: row?.host ?? null, failure })
  })
  await run.act(
    'stop',
    async ({ signal, key }) => {
      const { host, revision } = await mustRead(env, serverId)
      await call(env, host!, power, { id: serverId, to: 'off', revision }, { signal, key })
    },
    async ({ signal, key }) => {
      const server = await mustRead(env, serverId)
      if (env.hosts.isConnected(server.host!)) await guestEnsure(env, server, wanted, { signal, key })
    },
    { deadline: 300 },
  )
  await diskUpload(run, serverId, imageId)
  run.ifDone(async tx => {
    const server = await mustLock(tx, serverId)
    await serverUpdate(tx, serverId, {
      vm_state: 'shelved',
      task_state: null,
      shelved_image: imageId,
      power_state: POWER.shutdown,
      wanted_power: 'off',
    })
    if (args.offload) await offload(env, tx, server)
    await actionEnd(tx, serverId, requestId, { event, host: server.host })
  })
})

export interface UnshelveArgs {
  serverId: string
  requestId: string
  target: string | null
}

export const unshelveServer = saga<UnshelveArgs>('nova.server.unshelve', async (run, { serverId, requestId, target }) => {
  const { env } = run
  const event = 'compute_unshelve_instance'
  run.ifUndone(async (tx, failure) => {
    const row = await serverRow(tx, serverId)
    await serverUpdate(tx, serverId, { task_state: failure.cancelled ? 'deleting' : null })
    await actionEnd(tx, serverId, requestId, { event, host: row?.host ?? null, failure })
  })
  const { host, fresh } = await run.step(
    'place',
    tx => place(env, tx, serverId, target),
    async tx => {
      const server = await mustLock(tx, serverId)
      if (server.vm_state === 'shelved_offloaded') await offload(env, tx, server)
    },
  )
  const booted = await run.act(
    'boot',
    async ({ signal, key }) => {
      const server = await mustRead(env, serverId)
      const plain = guestSpec(server, { power: 'running' })
      const image = server.shelved_image
      const spec =
        fresh && image ? withContent(plain, name => (name === 'root' ? { id: image, format: 'qcow2' } : undefined)) : plain
      const guest = await call(env, host, ensure, spec, { signal, key, deadline: 1800 })
      return { power: powerNumber(guest.power) }
    },
    async ({ signal, key }) => {
      if (fresh) await leave(env, host, serverId)
      else await call(env, host, power, { id: serverId, to: 'off' }, { signal, key })
    },
    { deadline: 1800 },
  )
  await wire(run, serverId)
  run.ifDone(async tx => {
    const server = await mustLock(tx, serverId)
    if (server.shelved_image) await neighbours.imageRemove(tx, server.shelved_image)
    await serverChange(tx, serverId, {
      vm_state: 'active',
      task_state: null,
      wanted_power: 'running',
      power_state: booted.power,
      shelved_image: null,
      launched_at: new Date(),
    })
    await actionEnd(tx, serverId, requestId, { event, host })
  })
})

/** Where the server is to run: where it still is, or on a host that is found for it. */
async function place(env: Env, tx: Tx, id: string, target: string | null): Promise<{ host: string; fresh: boolean }> {
  const server = await mustLock(tx, id)
  if (server.host !== null) return { host: server.host, fresh: false }
  const wish = { forcedHost: null, forcedNode: null, requestedHost: target, requestedNode: null }
  const placed = await schedule(tx, env, ownerOf(server), await requestOf(tx, server, wish))
  await serverChange(tx, id, {
    host: placed.host,
    node: placed.node,
    availability_zone: placed.zone,
    task_state: 'spawning',
  })
  await neighbours.portsMove(env, tx, id, placed.host, placed.zone, serverResource(id))
  return { host: placed.host, fresh: true }
}
