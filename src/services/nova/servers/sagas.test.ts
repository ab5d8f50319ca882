import assert from 'node:assert/strict'
import { test } from 'node:test'
import { killAtEveryStep, type SagaWorld } from '#kit/saga/crash.ts'
import { type Saga, sagaList, sagaStart } from '#kit/saga/index.ts'
import { sagaWorld } from '../testing.ts'
import { createServer } from './create.saga.ts'
import { deleteServer } from './delete.saga.ts'
import { serverResource, serverRow } from './store.ts'

const ID = '00000000-0000-4000-8000-000000000001'

test('a creation finishes or is undone, killed at any point', async t => {
  await killAtEveryStep(t, async (): Promise<SagaWorld> => {
    const world = await sagaWorld()
    return {
      env: world.env,
      sagas: [createServer as Saga<never>],
      close: world.close,
      start: () => world.serverStart(ID, createServer, { adminPassword: 'x' }),
      async check(failed) {
        const row = (await serverRow(world.env.db.read, ID))!
        assert.deepEqual(await sagaList(world.env.db.read), [])
        assert.equal(row.vm_state, failed ? 'error' : 'active')
        assert.equal(row.task_state, null)
        assert.equal(row.host, failed ? null : 'host1')
        assert.equal(world.host.guests.size, failed ? 0 : 1)
        assert.equal(await world.allocated(), failed ? 0 : 512)
        if (failed) assert.match(row.fault!.message, /made to fail/)
      },
    }
  })
})

test('a deletion finishes, killed at any point', async t => {
  const make = async (): Promise<SagaWorld> => {
    const world = await sagaWorld()
    await world.serverStart(ID, createServer, { adminPassword: 'x' })
    await world.settle([createServer as Saga<never>])
    assert.equal(world.host.guests.size, 1)
    return {
      env: world.env,
      sagas: [deleteServer as Saga<never>],
      close: world.close,
      start: () =>
        world.env.db.tx(
          async tx =>
            void (await sagaStart(tx, deleteServer, { serverId: ID, requestId: 'r' }, { resource: serverResource(ID) })),
        ),
      async check() {
        assert.deepEqual(await sagaList(world.env.db.read), [])
        assert.equal(await serverRow(world.env.db.read, ID), undefined)
        assert.equal(world.host.guests.size, 0)
        assert.equal(await world.allocated(), 0)
        const gone = await world.env.db.read.selectFrom('nova.deleted_servers').select('vm_state').execute()
        assert.deepEqual(gone, [{ vm_state: 'deleted' }])
      },
    }
  }
  // Its steps are tried until they work, so none is made to fail for good.
  await killAtEveryStep(t, make, { skip: ['destroy', 'free'] })
})
