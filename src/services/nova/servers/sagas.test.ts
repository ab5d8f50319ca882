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

test('where no host is left, the fault has the words of those that were tried', async t => {
  const world = await sagaWorld()
  t.after(world.close)
  world.host.fail = verb => (verb === 'ensure' ? new Error('No space left on device') : undefined)
  await world.serverStart(ID, createServer, { adminPassword: 'x' })
  await world.settle([createServer as Saga<never>])
  const row = (await serverRow(world.env.db.read, ID))!
  assert.equal(row.vm_state, 'error')
  assert.match(row.fault!.message, /No valid host was found.*host1: it was tried: .*No space left on device/)
  assert.equal(await world.allocated(), 0)
})

test('a host that is away for a moment is waited for, not left', async t => {
  const world = await sagaWorld()
  t.after(world.close)
  const { hosts } = world.env
  const connected = hosts.isConnected
  // Chosen by the scheduler while it was there; whoever then waits for it finds it gone, and hears a moment later that it is back.
  let away = false
  let missed = 0
  t.mock.method(hosts, 'isConnected', (host: string) => {
    if (away) missed += 1
    return !away && connected(host)
  })
  t.mock.method(hosts, 'watch', (heard: (change: { host: string; change: 'connect' }) => void) => {
    away = true
    setImmediate(() => {
      away = false
      heard({ host: 'host1', change: 'connect' })
    })
    return () => {}
  })
  await world.serverStart(ID, createServer, { adminPassword: 'x' })
  await world.settle([createServer as Saga<never>])
  assert.equal((await serverRow(world.env.db.read, ID))!.vm_state, 'active')
  assert.ok(missed > 0)
})
