import assert from 'node:assert/strict'
import { test } from 'node:test'
import type { Tx } from '#kit/db/index.ts'
import { killAtEveryStep, type SagaWorld } from '#kit/saga/crash.ts'
import { type Saga, sagaList, sagaStart } from '#kit/saga/index.ts'
import { imageOf } from '../actions/snapshot.routes.ts'
import { snapshotServer } from '../actions/snapshot.saga.ts'
import { createServer } from '../servers/create.saga.ts'
import { type Server, serverChange, serverLock, serverResource, serverRow } from '../servers/store.ts'
import { sagaWorld } from '../testing.ts'
import { confirmMove, moveServer, revertMove } from './cold.saga.ts'
import { liveMigrate } from './live.saga.ts'
import { shelveServer, unshelveServer } from './shelve.saga.ts'
import { migrationBegin } from './store.ts'

const ID = '00000000-0000-4000-8000-000000000001'
const ASK = { requestId: 'r2', userId: 'u1' }
type World = Awaited<ReturnType<typeof sagaWorld>>

/** How a saga begins on a server that is there, as its route does. */
type Begin = (tx: Tx, server: Server) => Promise<{ saga: Saga<never>; args: object; during: string }>

const cold: Begin = async (tx, server) => ({
  saga: moveServer as Saga<never>,
  args: {
    moving: await migrationBegin(tx, server, 'migration'),
    kind: 'migration',
    flavor: server.flavor,
    diskConfig: null,
    target: null,
    before: { vmState: server.vm_state, wanted: server.wanted_power },
  },
  during: 'resize_prep',
})
const live: Begin = async (tx, server) => ({
  saga: liveMigrate as Saga<never>,
  args: { moving: await migrationBegin(tx, server, 'live-migration'), target: null, wanted: 'running' },
  during: 'migrating',
})
const shelve: Begin = async (tx, server) => ({
  saga: shelveServer as Saga<never>,
  args: { imageId: await imageOf(tx, ASK, server, 'shelved', {}), wanted: 'running', offload: true },
  during: 'shelving',
})
const snapshot: Begin = async (tx, server) => ({
  saga: snapshotServer as Saga<never>,
  args: { imageId: await imageOf(tx, ASK, server, 'image', {}) },
  during: 'image_snapshot',
})
const plain =
  (saga: unknown, during: string, args: object = {}): Begin =>
  async () => ({ saga: saga as Saga<never>, args, during })

/** A world with a server to which these things were done, and a saga about to begin. */
async function worldOf(done: Begin[], next: Begin, check: (world: World, failed: boolean) => Promise<void>): Promise<SagaWorld> {
  const world = await sagaWorld(['host1', 'host2'])
  await world.serverStart(ID, createServer, { adminPassword: 'x' })
  await world.settle([createServer as Saga<never>])
  const begin = async (how: Begin): Promise<Saga<never>> =>
    world.env.db.tx(async tx => {
      const server = (await serverLock(tx, ID))!
      const { saga, args, during } = await how(tx, server)
      await serverChange(tx, ID, { task_state: during })
      await sagaStart(tx, saga as Saga<object>, { serverId: ID, requestId: 'r2', ...args }, { resource: serverResource(ID) })
      return saga
    })
  for (const how of done) await world.settle([await begin(how)])
  const sagas = [moveServer, confirmMove, revertMove, liveMigrate, shelveServer, unshelveServer, snapshotServer]
  return {
    env: world.env,
    sagas: sagas as unknown as Saga<never>[],
    close: world.close,
    start: async () => void (await begin(next)),
    async check(failed) {
      assert.deepEqual(await sagaList(world.env.db.read), [])
      assert.equal((await serverRow(world.env.db.read, ID))!.task_state, null)
      for (const host of world.hosts) await host.agent.sync()
      await check(world, failed !== undefined)
    },
  }
}

/** The hosts that have the guest, with what it does there. */
const guests = (world: World): Record<string, string> =>
  Object.fromEntries(world.hosts.filter(h => h.guests.has(ID)).map(h => [h.name, h.guests.get(ID)!.power]))
const row = async (world: World) => (await serverRow(world.env.db.read, ID))!
const images = async (world: World): Promise<number> =>
  (await world.env.db.read.selectFrom('glance.images').select('id').execute()).length

test('a cold migration finishes or is undone, killed at any point', async t => {
  await killAtEveryStep(t, () =>
    worldOf([], cold, async (world, failed) => {
      const { vm_state, host, resize } = await row(world)
      const there = guests(world)
      assert.equal(vm_state, failed ? 'active' : 'resized')
      assert.equal(there[host!], 'running')
      assert.equal(Object.keys(there).length, failed ? 1 : 2)
      if (!failed) assert.equal(there[resize!.host], 'off')
      assert.equal(await world.allocated(), failed ? 512 : 1024)
    }),
  )
})

test('a migration is confirmed, killed at any point', async t => {
  const confirm = plain(confirmMove, 'resize_confirming')
  await killAtEveryStep(t, () =>
    worldOf([cold], confirm, async (world, failed) => {
      const { vm_state, host } = await row(world)
      assert.equal(vm_state, failed ? 'resized' : 'active')
      assert.equal(guests(world)[host!], 'running')
      assert.equal(await world.allocated(), failed ? 1024 : 512)
    }),
  )
})

test('a migration is reverted, killed at any point', async t => {
  const revert = plain(revertMove, 'resize_reverting')
  await killAtEveryStep(t, () =>
    worldOf([cold], revert, async (world, failed) => {
      const { vm_state, host } = await row(world)
      assert.equal(vm_state, failed ? 'error' : 'active')
      assert.ok([512, 1024].includes(await world.allocated()))
      if (failed) return
      assert.deepEqual(guests(world), { [host!]: 'running' })
      assert.equal(await world.allocated(), 512)
    }),
  )
})

test('a live migration finishes or is undone, killed at any point', async t => {
  await killAtEveryStep(t, () =>
    worldOf([], live, async world => {
      const { vm_state, host } = await row(world)
      assert.equal(vm_state, 'active')
      assert.deepEqual(guests(world), { [host!]: 'running' })
      assert.equal(await world.allocated(), 512)
    }),
  )
})

test('a server is shelved, killed at any point', async t => {
  await killAtEveryStep(t, () =>
    worldOf([], shelve, async (world, failed) => {
      const { vm_state, host } = await row(world)
      // An upload that was cut off is undone: the bytes have gone.
      const undone = failed || vm_state === 'active'
      assert.equal(vm_state, undone ? 'active' : 'shelved_offloaded')
      assert.deepEqual(guests(world), undone ? { [host!]: 'running' } : {})
      assert.equal(await images(world), undone ? 0 : 1)
      assert.equal(await world.allocated(), undone ? 512 : 0)
    }),
  )
})

test('a server is unshelved, killed at any point', async t => {
  const unshelve = plain(unshelveServer, 'unshelving', { target: null })
  await killAtEveryStep(t, () =>
    worldOf([shelve], unshelve, async (world, failed) => {
      const { vm_state, host } = await row(world)
      assert.equal(vm_state, failed ? 'shelved_offloaded' : 'active')
      assert.deepEqual(guests(world), failed ? {} : { [host!]: 'running' })
      assert.equal(await images(world), failed ? 1 : 0)
      assert.equal(await world.allocated(), failed ? 0 : 512)
    }),
  )
})

test('an image is taken, killed at any point', async t => {
  await killAtEveryStep(t, () =>
    worldOf([], snapshot, async (world, failed) => {
      assert.equal((await row(world)).vm_state, 'active')
      const found = await world.env.db.read.selectFrom('glance.images').select('status').execute()
      assert.ok(found.every(image => image.status === 'active'))
      if (failed) assert.equal(found.length, 0)
    }),
  )
})
