import assert from 'node:assert/strict'
import { once } from 'node:events'
import { createServer, type Server } from 'node:http'
import { createServer as createTlsServer } from 'node:https'
import type { AddressInfo } from 'node:net'
import { type TestContext, test } from 'node:test'
import type { Db } from '../db/index.ts'
import { testDb } from '../db/test.ts'
import { Fault } from '../fault.ts'
import { caCreate, certIssue } from '../tls.ts'
import { dial } from './agent.ts'
import { hostsOpen } from './hosts.ts'
import { joinCloud, joinHandler, joinTokenFor } from './join.ts'
import { authenticator } from './registry.ts'
import { keptLog, present } from './testing.ts'
import { verb } from './verb.ts'
import { wayOf } from './way.ts'
import { agentEndpoint } from './websocket.ts'

/** A controller's port under TLS by its own authority, or plain. */
async function cloud(t: TestContext, db: Db, ca?: { key: string; cert: string }) {
  const log = keptLog()
  const hosts = hostsOpen({ controller: 'c1', log })
  const port = (): number => (server.address() as AddressInfo).port
  const address = (): string => `${ca ? 'wss' : 'ws'}://127.0.0.1:${port()}/agent`
  const handler = joinHandler({ db, log, ca: ca?.cert, addresses: () => [address()] })
  const server: Server = ca ? createTlsServer(certIssue(ca, ['127.0.0.1']), handler) : createServer(handler)
  server.on('upgrade', agentEndpoint({ hosts, authenticate: authenticator(db.read), log }).upgrade)
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  t.after(async () => {
    await hosts.close()
    server.close()
    server.closeAllConnections()
  })
  return { hosts, log, url: `${ca ? 'https' : 'http'}://127.0.0.1:${port()}`, address: address() }
}

test('a machine joins over TLS by a token alone, connects, and is itself', async t => {
  const db = await testDb(t)
  const ca = caCreate('Nubo test')
  const { hosts, url, address } = await cloud(t, db, ca)
  const token = await joinTokenFor(db, { seconds: 60, ca: ca.cert })
  const joined = await joinCloud(url, token, 'node-1')
  assert.deepEqual(joined.controllers, [address])
  const link = dial({ host: 'node-1', ways: joined.controllers.map(a => wayOf(a, joined)), log: keptLog() })
  t.after(() => link.close())
  await present(hosts, 'node-1')
  await assert.rejects(joinCloud(url, token, 'node-2'), (e: unknown) => e instanceof Fault && e.kind === 'unauthorized')
  await assert.rejects(joinCloud(url, await joinTokenFor(db, { seconds: 60, ca: ca.cert }), 'node-1'), /exists already/)
})

test('a token is not sent to another cloud', async t => {
  const db = await testDb(t)
  const mine = caCreate('Nubo')
  const { url } = await cloud(t, db, caCreate('Nubo'))
  await assert.rejects(
    joinCloud(url, await joinTokenFor(db, { seconds: 60, ca: mine.cert }), 'node-1'),
    /not the cloud that made the token/,
  )
  assert.equal((await db.read.selectFrom('kit.join_tokens').select('uses_left').execute()).length, 1, 'still unused')
})

test('a wrong secret gets 401 and no link; another host’s secret too', async t => {
  const db = await testDb(t)
  const { hosts, url, log } = await cloud(t, db)
  const a = await joinCloud(url, await joinTokenFor(db, { seconds: 60 }), 'a')
  const b = await joinCloud(url, await joinTokenFor(db, { seconds: 60 }), 'b')
  for (const claim of [
    { host: 'a', secret: b.secret },
    { host: 'c', secret: a.secret },
    { host: 'a', secret: 'x' },
    { host: 'a', secret: 'é:ü' },
  ]) {
    const said = keptLog()
    const link = dial({ host: claim.host, ways: a.controllers.map(at => wayOf(at, claim)), log: said })
    await assert.rejects(link.ask(verb<null, null>('x.y', { deadline: 0.15 }), null), /not connected, never seen/)
    await link.close()
    assert(said.lines.some(l => JSON.stringify(l.fields).includes('refused: 401')))
  }
  assert.deepEqual(hosts.connected(), [])
  assert(
    log.lines.every(l => !JSON.stringify(l).includes(b.secret)),
    'no secret is logged',
  )
})

test('what is not asked well is answered so', async t => {
  const db = await testDb(t)
  const { url } = await cloud(t, db)
  const status = async (path: string, init?: RequestInit) => (await fetch(url + path, init)).status
  assert.equal(await status('/agent/join'), 405)
  assert.equal(await status('/agent/ca'), 404)
  assert.equal(await status('/agent/other'), 404)
  for (const body of ['', '{', '[]', 'null', '{"token":1,"host":"a"}', '{"token":"a.b","host":"../a"}']) {
    assert.equal(
      await status('/agent/join', { method: 'POST', body, headers: { 'content-type': 'application/json' } }),
      400,
      body,
    )
  }
  assert.equal(await status('/agent/join', { method: 'POST', body: 'x'.repeat(5000) }), 413)
  assert.equal(
    await status('/agent/join', {
      method: 'POST',
      body: '{"token":"a.b","host":"a"}',
      headers: { 'content-type': 'application/json' },
    }),
    401,
  )
})
