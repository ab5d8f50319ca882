import assert from 'node:assert/strict'
import { type TestContext, test } from 'node:test'
import { conflict } from '#kit/fault.ts'
import { ADMIN, FOREIGN, MEMBER } from '#kit/http/test.ts'
import { killAtEveryStep } from '#kit/saga/crash.ts'
import type { Saga } from '#kit/saga/index.ts'
import { createServer } from '../servers/create.saga.ts'
import { serverRow } from '../servers/store.ts'
import { computeCloud, IMAGE, sagaWorld } from '../testing.ts'
import { operate, operationBegin } from './operation.ts'

const at = (version: string) => ({ 'openstack-api-version': `compute ${version}` })

async function withServer(t: TestContext) {
  const cloud = await computeCloud(t)
  const body = { server: { name: 'web', flavorRef: 'f1', imageRef: IMAGE, networks: 'none' } }
  const { id } = (await cloud.call('POST /compute/v2.1/servers', { as: MEMBER, body, headers: at('2.37') })).body.server
  await cloud.settled()
  const act = (body: object, version = '2.1', as = MEMBER) =>
    cloud.call(`POST /compute/v2.1/servers/${id}/action`, { as, body, headers: at(version) })
  const status = async (): Promise<string> =>
    (await cloud.call(`GET /compute/v2.1/servers/${id}`, { as: MEMBER })).body.server.status
  const done = async (body: object, version?: string): Promise<string> => {
    const answer = await act(body, version)
    assert.equal(answer.status, 202, JSON.stringify(answer.body))
    await cloud.settled()
    return status()
  }
  return { ...cloud, id, act, status, done, host: cloud.hosts[0]! }
}

test('a server is stopped, started, rebooted, paused, suspended and back', async t => {
  const { done, act, host, id } = await withServer(t)
  const power = () => host.guests.get(id)!.power
  assert.equal(await done({ 'os-stop': null }), 'SHUTOFF')
  assert.equal(power(), 'off')
  assert.equal((await act({ 'os-stop': null })).status, 409)
  assert.match(
    (await act({ pause: null })).body.conflictingRequest.message,
    /Cannot 'pause' instance .* while it is in vm_state stopped/,
  )
  assert.equal((await act({ reboot: { type: 'SOFT' } })).status, 409)
  assert.equal(await done({ 'os-start': null }), 'ACTIVE')
  assert.equal(await done({ pause: null }), 'PAUSED')
  assert.equal(power(), 'paused')
  assert.equal(await done({ unpause: null }), 'ACTIVE')
  assert.equal(await done({ suspend: null }), 'SUSPENDED')
  assert.equal(await done({ resume: null }), 'ACTIVE')
  assert.equal(await done({ reboot: { type: 'SOFT' } }), 'ACTIVE')
  const { boots } = host.guests.get(id)!
  assert.equal(await done({ reboot: { type: 'hard' } }), 'ACTIVE')
  assert.equal(host.guests.get(id)!.boots, boots + 1)
  assert.equal(await done({ 'os-stop': null }), 'SHUTOFF')
  assert.equal(await done({ reboot: { type: 'HARD' } }), 'ACTIVE')
  assert.equal((await act({ reboot: { type: 'sideways' } })).status, 400)
  assert.equal((await act({ nonsense: null })).status, 400)
  assert.equal((await act({ 'os-start': null }, '2.1', FOREIGN)).status, 404)
})

test('a failure says why in the actions, and leaves the server as it was', async t => {
  const { act, host, settled, status, call, id } = await withServer(t)
  host.fail = verb => (verb === 'power' ? conflict('the guest does not obey') : undefined)
  assert.equal((await act({ 'os-stop': null })).status, 202)
  await settled()
  assert.equal(await status(), 'ACTIVE')
  assert.equal(host.guests.get(id)!.power, 'running')
  const { instanceActions } = (await call(`GET /compute/v2.1/servers/${id}/os-instance-actions`, { as: MEMBER })).body
  assert.deepEqual(
    instanceActions.map((a: { action: string; message: string | null }) => [a.action, a.message]),
    [
      ['stop', 'Error'],
      ['create', null],
    ],
  )
  const request = instanceActions[0].request_id
  const shown = await call(`GET /compute/v2.1/servers/${id}/os-instance-actions/${request}`, { headers: at('2.84') })
  assert.equal(shown.body.instanceAction.events[0].details, 'the guest does not obey')
  const own = await call(`GET /compute/v2.1/servers/${id}/os-instance-actions/${request}`, { as: MEMBER, headers: at('2.84') })
  assert.ok(!('traceback' in own.body.instanceAction.events[0]))
})

test('a locked server refuses its owner', async t => {
  const { act, call, id } = await withServer(t)
  assert.equal((await act({ lock: { locked_reason: 'why' } }, '2.73')).status, 202)
  assert.match((await act({ 'os-stop': null })).body.conflictingRequest.message, /is locked/)
  assert.equal((await call(`DELETE /compute/v2.1/servers/${id}`, { as: MEMBER })).status, 409)
  const shown = await call(`GET /compute/v2.1/servers/${id}`, { as: MEMBER, headers: at('2.73') })
  assert.equal(shown.body.server.locked_reason, 'why')
  assert.equal((await act({ unlock: null })).status, 202)
  assert.equal((await act({ lock: null }, '2.1', ADMIN)).status, 202)
  assert.equal((await act({ unlock: null })).status, 403)
  assert.equal((await act({ unlock: null }, '2.1', ADMIN)).status, 202)
  assert.equal((await act({ 'os-stop': null })).status, 202)
})

test('states are reset by administrators, and what guests do by themselves is seen', async t => {
  const { act, status, host, id, settled } = await withServer(t)
  assert.equal((await act({ 'os-resetState': { state: 'error' } })).status, 403)
  assert.equal((await act({ 'os-resetState': { state: 'error' } }, '2.1', ADMIN)).status, 202)
  assert.equal(await status(), 'ERROR')
  assert.equal((await act({ 'os-resetState': { state: 'active' } }, '2.1', ADMIN)).status, 202)
  assert.equal(await status(), 'ACTIVE')
  host.world.shutItself(id)
  await host.agent.sync()
  await settled()
  assert.equal(await status(), 'SHUTOFF')
})

test('console output, force delete, what is gone', async t => {
  const { act, call, id, settled } = await withServer(t)
  const output = await act({ 'os-getConsoleOutput': { length: 1 } })
  assert.equal(output.status, 200)
  assert.match(output.body.output, /ready/)
  assert.equal((await act({ 'os-getConsoleOutput': {} })).status, 200)
  assert.equal((await act({ 'os-getConsoleOutput': { length: 'x' } })).status, 400)
  assert.equal((await act({ resetNetwork: null }, '2.1', ADMIN)).status, 410)
  assert.equal((await act({ restore: null })).status, 409)
  assert.equal((await act({ forceDelete: null })).status, 202)
  await settled()
  assert.equal((await call(`GET /compute/v2.1/servers/${id}`, { as: MEMBER })).status, 404)
})

test('an operation finishes or is undone, killed at any point', async t => {
  const id = '00000000-0000-4000-8000-000000000001'
  await killAtEveryStep(t, async () => {
    const world = await sagaWorld()
    await world.serverStart(id, createServer, { adminPassword: 'x' })
    await world.settle([createServer as Saga<never>])
    return {
      env: world.env,
      sagas: [operate as Saga<never>],
      close: world.close,
      start: () =>
        world.env.db.tx(
          async tx =>
            void (await operationBegin(
              tx,
              { isAdmin: true, requestId: 'r2', projectId: 'p1', userId: 'u1' } as never,
              id,
              'stop',
            )),
        ),
      async check(failed) {
        const row = (await serverRow(world.env.db.read, id))!
        assert.equal(row.task_state, null)
        assert.equal(row.vm_state, failed ? 'active' : 'stopped')
        assert.equal(row.wanted_power, failed ? 'running' : 'off')
        // What an undone operation did to the guest is put right when the host asks.
        await world.host.agent.sync()
        assert.equal(world.host.guests.get(id)!.power, failed ? 'running' : 'off')
      },
    }
  })
})
