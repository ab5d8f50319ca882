import assert from 'node:assert/strict'
import { test } from 'node:test'
import { setTimeout as delay } from 'node:timers/promises'
import { sql } from '#kit/db/index.ts'
import { sagaList } from '#kit/saga/index.ts'
import { computeCloud, fakeHost, IMAGE } from '../testing.ts'

const NEW = { name: 'web', imageRef: IMAGE, flavorRef: 'f1', networks: 'none' }
const at = { 'OpenStack-API-Version': 'compute 2.37' }

test('a controller that has just started waits for the hosts that it had', async t => {
  const { call, db, hosts, links, settled } = await computeCloud(t, ['host1'], { returning: 60 })
  await hosts[0]!.close()
  await sql`insert into kit.hosts (name, last_seen_at) values ('host1', now()), ('host2', now() - interval '2 minutes')`.execute(
    db.read,
  )
  const made = await call('POST /compute/v2.1/servers', { body: { server: NEW }, headers: at })
  const { id } = made.body.server
  while ((await sagaList(db.read))[0]?.step !== 'boot') await delay(5)
  assert.equal((await call(`GET /compute/v2.1/servers/${id}`)).body.server.status, 'BUILD')
  const back = await fakeHost(links, 'host1')
  t.after(() => back.close())
  await settled()
  const { server } = (await call(`GET /compute/v2.1/servers/${id}`)).body
  assert.equal(server.status, 'ACTIVE', JSON.stringify(server.fault))
  assert.equal(back.guests.size, 1)
})

test('one that was gone before the controller started is down', async t => {
  const { call, db, hosts, settled } = await computeCloud(t, ['host1'], { returning: 60 })
  await hosts[0]!.close()
  await sql`insert into kit.hosts (name, last_seen_at) values ('host1', now() - interval '2 minutes')`.execute(db.read)
  const made = await call('POST /compute/v2.1/servers', { body: { server: NEW }, headers: at })
  await settled()
  const { server } = (await call(`GET /compute/v2.1/servers/${made.body.server.id}`)).body
  assert.match(server.fault.message, /host1: its service is down/)
})

test('a host that comes back while its server is being deleted leaves nothing of it, and of one that is worked on otherwise all', async t => {
  const { call, db, hosts, settled } = await computeCloud(t)
  const host = hosts[0]!
  const work = (id: string, name: string, state: string) =>
    db.read
      .insertInto('kit.sagas')
      .values({
        ...{
          id: `${name} ${state}`,
          name,
          resource: `nova.server:${id}`,
          state,
          args: {},
          failure: null,
          step: null,
          last_error: null,
        },
        // Another controller's, at a step after the one that told the host: it was away then.
        ...{ owner: 'another', lease_until: new Date(Date.now() + 600_000), step_since: null, step_deadline: null },
      })
      .execute()
  for (const [name, state, left] of [
    ['nova.server.reboot', 'running', 1],
    ['nova.server.create', 'running', 1],
    ['nova.server.create', 'undoing', 0],
    ['nova.server.delete', 'queued', 1],
    ['nova.server.delete', 'running', 0],
  ] as const) {
    const { id } = (await call('POST /compute/v2.1/servers', { body: { server: NEW }, headers: at })).body.server
    await settled()
    assert.equal(host.guests.size, 1)
    await work(id, name, state)
    await host.agent.sync()
    assert.equal(host.guests.size, left, `${name} ${state}`)
    await db.read.deleteFrom('kit.sagas').where('owner', '=', 'another').execute()
    await call(`DELETE /compute/v2.1/servers/${id}`)
    await settled()
    assert.equal(host.guests.size, 0)
  }
})

test('a delete waits for a host that is on its way back after the start of the controller', async t => {
  const { call, db, hosts, links, settled } = await computeCloud(t, ['host1', 'host2'], { returning: 60 })
  const make = async () => {
    const { id } = (await call('POST /compute/v2.1/servers', { body: { server: NEW }, headers: at })).body.server
    await settled()
    return id as string
  }
  const one = await make()
  const row = await db.read.selectFrom('nova.servers').select('host').where('id', '=', one).executeTakeFirstOrThrow()
  const its = hosts.find(host => host.name === row.host)!
  await its.close()
  await sql`insert into kit.hosts (name, last_seen_at) values (${its.name}, now())
    on conflict (name) do update set last_seen_at = now()`.execute(db.read)
  await call(`DELETE /compute/v2.1/servers/${one}`)
  while ((await sagaList(db.read))[0]?.step !== 'destroy') await delay(5)
  assert.equal((await call(`GET /compute/v2.1/servers/${one}`)).status, 200)
  const back = await fakeHost(links, its.name)
  t.after(() => back.close())
  await settled()
  assert.equal((await call(`GET /compute/v2.1/servers/${one}`)).status, 404)
})
