import assert from 'node:assert/strict'
import { type TestContext, test } from 'node:test'
import { type Db, sql } from '../db/index.ts'
import { testDb } from '../db/test.ts'
import { Fault } from '../fault.ts'
import { dial } from './agent.ts'
import { hostsOpen, type OpenHosts } from './hosts.ts'
import { memoryWay } from './memory.ts'
import { type Presence, presenceOf } from './presence.ts'
import { authenticator, hostFetch, hostJoin, hostList, hostRemove, hostSecretIssue, joinTokenCreate } from './registry.ts'
import { connected, keptLog, present } from './testing.ts'

/** What must stop before the test's database goes, last first. */
const stops: (() => Promise<void>)[] = []

async function database(t: TestContext): Promise<Db> {
  t.after(async () => {
    for (const stop of stops.splice(0).reverse()) await stop()
  })
  return testDb(t)
}

async function controller(db: Db, name: string, address: string | null = null): Promise<[OpenHosts, Presence]> {
  const log = keptLog()
  const presence = presenceOf({ db, log, controller: name, address })
  const hosts = hostsOpen({ controller: name, log, memory: presence })
  await presence.start(hosts)
  stops.push(async () => {
    await hosts.close()
    await presence.stop()
  })
  return [hosts, presence]
}

function agent(hosts: OpenHosts, host: string) {
  const link = dial({ host, ways: [memoryWay(hosts, host)], log: keptLog(), pauseMax: 10 })
  stops.push(() => link.close())
  return link
}

const refused = (kind: string) => (error: unknown) => error instanceof Fault && error.kind === kind

test('hosts that come and go are written, and a controller vouches for those that stay', async t => {
  const db = await database(t)
  const [a, presenceA] = await controller(db, 'a')
  const [b, presenceB] = await controller(db, 'b')
  const links = ['h1', 'h2'].map(host => agent(a, host))
  const both = agent(b, 'h1')
  await Promise.all([...links, both].map(connected))
  await Promise.all([present(a, 'h1'), present(a, 'h2'), present(b, 'h1')])
  await Promise.all([presenceA.flushed(), presenceB.flushed()])
  const [h1, h2] = await hostList(db.read)
  assert.deepEqual([h1!.name, h1!.up, h1!.connectedTo], ['h1', true, ['a', 'b']])
  assert.deepEqual([h2!.name, h2!.up, h2!.connectedTo], ['h2', true, ['a']])
  // The link's row is old; the heartbeat makes it fresh.
  await sql`update kit.hosts set last_seen_at = now() - interval '1 hour'`.execute(db.read)
  await presenceA.beat()
  assert(Date.now() - (await hostFetch(db.read, 'h2')).lastSeenAt!.getTime() < 5000)

  await links[1]!.close()
  await present(a, 'h2', 'disconnect')
  await presenceA.flushed()
  const gone = await hostFetch(db.read, 'h2')
  assert.deepEqual([gone.up, gone.connectedTo], [false, []])
  await assert.rejects(hostFetch(db.read, 'h3'), refused('notFound'))
})

test('a controller that died takes its hosts down with the time it was last seen', async t => {
  const db = await database(t)
  const [a] = await controller(db, 'a', 'wss://a:1/agent')
  const link = agent(a, 'h1')
  await connected(link)
  await present(a, 'h1')
  await sql`insert into kit.controllers (name, address, seen_at) values ('dead', 'wss://dead:1/agent', now() - interval '40 s')`.execute(
    db.read,
  )
  await sql`insert into kit.hosts (name) values ('h2')`.execute(db.read)
  await sql`insert into kit.host_links (host, controller) values ('h2', 'dead')`.execute(db.read)
  assert.equal((await hostFetch(db.read, 'h2')).up, false, 'down before anybody cleans up')
  const [, presenceB] = await controller(db, 'b', 'wss://b:1/agent')
  await presenceB.beat()
  const age = Date.now() - (await hostFetch(db.read, 'h2')).lastSeenAt!.getTime()
  assert(age > 35_000 && age < 60_000, `${age}`)
  assert.deepEqual(
    (await db.read.selectFrom('kit.controllers').select('name').orderBy('name').execute()).map(r => r.name),
    ['a', 'b'],
  )
})

test('agents are told of controllers that come', async t => {
  const db = await database(t)
  const [a, presenceA] = await controller(db, 'a', 'wss://a:1/agent')
  const told: (readonly string[])[] = []
  const tried = Promise.withResolvers<string>()
  const link = dial({
    host: 'h1',
    ways: [memoryWay(a, 'h1')],
    log: keptLog(),
    way: address => ({
      address,
      connect: async () => {
        if (address === 'wss://b:1/agent') tried.resolve(address)
        throw new Error('not in this test')
      },
    }),
    onControllers: addresses => void told.push(addresses),
  })
  stops.push(() => link.close())
  await connected(link)
  assert.deepEqual(told, [['wss://a:1/agent']])
  await controller(db, 'b', 'wss://b:1/agent')
  await presenceA.beat()
  assert.equal(await tried.promise, 'wss://b:1/agent')
  assert.deepEqual(told.at(-1), ['wss://a:1/agent', 'wss://b:1/agent'])
})

test('a database that is away delays what is written, nothing else', async t => {
  const db = await database(t)
  const [a, presence] = await controller(db, 'a')
  await sql`alter table kit.host_links rename to away`.execute(db.read)
  const link = agent(a, 'h1')
  await connected(link)
  await present(a, 'h1')
  await assert.rejects(presence.flushed(), /host_links/)
  await sql`alter table kit.away rename to host_links`.execute(db.read)
  await presence.beat()
  assert.equal((await hostFetch(db.read, 'h1')).up, true)
})

test('secrets: right, wrong, unknown host, replaced, none', async t => {
  const db = await database(t)
  const is = authenticator(db.read)
  const secret = await db.tx(tx => hostSecretIssue(tx, 'h1'))
  const other = await db.tx(tx => hostSecretIssue(tx, 'h2'))
  assert.equal(await is({ host: 'h1', secret }), true)
  assert.equal(await is({ host: 'h1', secret: other }), false)
  assert.equal(await is({ host: 'h2', secret }), false)
  assert.equal(await is({ host: 'h3', secret }), false)
  const again = await db.tx(tx => hostSecretIssue(tx, 'h1'))
  assert.equal(await is({ host: 'h1', secret }), false)
  assert.equal(await is({ host: 'h1', secret: again }), true)
  await sql`update kit.hosts set secret_hash = null where name = 'h1'`.execute(db.read)
  assert.equal(await is({ host: 'h1', secret: again }), false)
  const { rows } = await sql<{ all: string }>`select string_agg(h::text, ' ') as all from kit.hosts h`.execute(db.read)
  assert(!rows[0]!.all.includes(other), 'only a hash is kept')
})

test('join tokens: once, in time, for their host, never for a name that is taken', async t => {
  const db = await database(t)
  const token = await db.tx(tx => joinTokenCreate(tx, { seconds: 60 }))
  const race = await Promise.allSettled(['h1', 'h2'].map(host => db.tx(tx => hostJoin(tx, token, host))))
  assert.deepEqual(race.map(r => r.status).sort(), ['fulfilled', 'rejected'], 'used once, whoever comes first')
  const joined = race[0]!.status === 'fulfilled' ? 'h1' : 'h2'
  const secret = (race.find(r => r.status === 'fulfilled') as PromiseFulfilledResult<string>).value
  assert.equal(await authenticator(db.read)({ host: joined, secret }), true)

  const late = await db.tx(tx => joinTokenCreate(tx, { seconds: -1 }))
  await assert.rejects(
    db.tx(tx => hostJoin(tx, late, 'h5')),
    refused('unauthorized'),
  )
  const wrong = (await db.tx(tx => joinTokenCreate(tx, { seconds: 60 }))).replace(/.$/, c => (c === 'A' ? 'B' : 'A'))
  for (const bad of [wrong, '', '.', 'x.y', `${token}x`]) {
    await assert.rejects(
      db.tx(tx => hostJoin(tx, bad, 'h5')),
      refused('unauthorized'),
      bad,
    )
  }
  const many = await db.tx(tx => joinTokenCreate(tx, { seconds: 60, uses: 2 }))
  await assert.rejects(
    db.tx(tx => hostJoin(tx, many, joined)),
    refused('conflict'),
  )
  await db.tx(tx => hostJoin(tx, many, 'h6'))
  await db.tx(tx => hostJoin(tx, many, 'h7'))
  await assert.rejects(
    db.tx(tx => hostJoin(tx, many, 'h8')),
    refused('unauthorized'),
  )
  const own = await db.tx(tx => joinTokenCreate(tx, { seconds: 60, host: joined }))
  await assert.rejects(
    db.tx(tx => hostJoin(tx, own, 'h9')),
    refused('unauthorized'),
  )
  const renewed = await db.tx(tx => hostJoin(tx, own, joined))
  assert.equal(await authenticator(db.read)({ host: joined, secret: renewed }), true)
  for (const bad of ['', 'a b', '../x', 'x'.repeat(300), '-a']) {
    await assert.rejects(
      db.tx(tx => hostJoin(tx, own, bad)),
      refused('badRequest'),
      bad,
    )
  }
})

test('a removed host is cut off', async t => {
  const db = await database(t)
  const [a, presence] = await controller(db, 'a')
  const link = agent(a, 'h1')
  await connected(link)
  await present(a, 'h1')
  await presence.flushed()
  const cut = present(a, 'h1', 'disconnect')
  await db.tx(tx => hostRemove(tx, 'h1'))
  await cut
  await assert.rejects(
    db.tx(tx => hostRemove(tx, 'h0')),
    refused('notFound'),
  )
})
