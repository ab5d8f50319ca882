import assert from 'node:assert/strict'
import { test } from 'node:test'
import { type Db, type Migration, sql } from '../db/index.ts'
import { testDb } from '../db/test.ts'
import { Fault, unavailable } from '../fault.ts'
import { openLog } from '../log.ts'
import type { Env } from '../service.ts'
import { killAtEveryStep } from './crash.ts'
import { type Saga, saga, sagaList, sagaPoke, sagaRunner, sagaStart, sagasPoke } from './index.ts'

const tables: Migration = {
  name: '0001_base',
  up: async tx => void (await sql`create table t.things (id text primary key, state text not null, host text)`.execute(tx)),
  down: async tx => void (await sql`drop table t.things`.execute(tx)),
}
const sets = [{ schema: 't', migrations: [tables] }]
const envOf = (db: Db): Env => ({ db, log: openLog({ level: 'fatal' }) }) as unknown as Env

const set = (state: string, id: string) => sql`update t.things set state = ${state} where id = ${id}`
const stateOf = async (db: Db, id: string) =>
  (await sql<{ state: string }>`select state from t.things where id = ${id}`.execute(db.read)).rows[0]?.state

/** A saga like a server's creation, on a world that is a set of names. */
function makeSaga(world: Set<string>): Saga<{ id: string }> {
  return saga('test.create', async (run, { id }) => {
    run.ifUndone(
      async (tx, failure) =>
        void (await sql`update t.things set state = ${`ERROR ${failure.step}`} where id = ${id}`.execute(tx)),
    )
    const host = await run.step(
      'place',
      async tx => {
        await sql`update t.things set host = 'h1' where id = ${id}`.execute(tx)
        return 'h1'
      },
      async tx => void (await sql`update t.things set host = null where id = ${id}`.execute(tx)),
    )
    await run.act(
      'boot',
      async () => void world.add(`${host}/${id}`),
      async () => void world.delete(`${host}/${id}`),
    )
    await run.step('report', async tx => void (await set('ACTIVE', id).execute(tx)))
  })
}

test('a saga finishes or is undone, killed at any point', async t => {
  await killAtEveryStep(t, async () => {
    const db = await testDb(t, sets)
    const world = new Set<string>()
    const create = makeSaga(world)
    const env = envOf(db)
    return {
      env,
      sagas: [create as Saga<never>],
      start: () =>
        db.tx(async tx => {
          await sql`insert into t.things values ('a', 'BUILD')`.execute(tx)
          await sagaStart(tx, create, { id: 'a' }, { resource: 'thing:a' })
        }),
      async check(failed) {
        assert.deepEqual(await sagaList(db.read), [])
        assert.equal(await stateOf(db, 'a'), failed ? `ERROR ${failed}` : 'ACTIVE')
        assert.deepEqual([...world], failed ? [] : ['h1/a'])
      },
    }
  })
})

test('a second saga on a resource is refused, or queued and the first one stopped', async t => {
  const db = await testDb(t, sets)
  const env = envOf(db)
  let release: (() => void) | undefined
  const order: string[] = []
  const slow = saga<{ id: string }>('test.slow', async run => {
    run.ifUndone(async () => void order.push('undone'))
    await run.act(
      'wait',
      () =>
        new Promise<void>(resolve => {
          release = resolve
          order.push('waiting')
        }),
      async () => void order.push('undo'),
    )
  })
  const gone = saga<{ id: string }>('test.delete', async run => run.step('go', async () => void order.push('deleted')), {
    forward: true,
  })
  const runner = await sagaRunner({ env, sagas: [slow as Saga<never>, gone as Saga<never>] })
  await db.tx(tx => sagaStart(tx, slow, { id: 'a' }, { resource: 'r' }))
  while (!release) await new Promise(resolve => setImmediate(resolve))
  await assert.rejects(
    db.tx(tx => sagaStart(tx, gone, { id: 'a' }, { resource: 'r' })),
    (error: unknown) => error instanceof Fault && error.status === 409 && /test.slow, step wait/.test(error.message),
  )
  await db.tx(tx => sagaStart(tx, gone, { id: 'a' }, { resource: 'r', supersede: true }))
  await runner.idle()
  assert.deepEqual(order, ['waiting', 'undo', 'undone', 'deleted'])
  await runner.stop()
})

test('a host that is away is tried again, a forward saga never gives up, and the waiting says why', async t => {
  const db = await testDb(t, sets)
  const env = envOf(db)
  let tries = 0
  const flaky = saga<{ id: string }>(
    'test.flaky',
    async run => {
      await run.act('call', async ({ attempt }) => {
        tries = attempt
        if (attempt === 2) {
          const [seen] = await sagaList(db.read)
          assert.equal(seen?.step, 'call')
          assert.equal(seen?.error, 'host h1 is away')
        }
        if (attempt < 3) throw unavailable('host h1 is away')
      })
    },
    { forward: true },
  )
  const runner = await sagaRunner({ env, sagas: [flaky as Saga<never>] })
  await db.tx(tx => sagaStart(tx, flaky, { id: 'a' }, { resource: 'r' }))
  await runner.idle()
  assert.equal(tries, 3)
  await runner.stop()
})

test('until waits for rows and is woken by a poke', async t => {
  const db = await testDb(t, sets)
  await sql`insert into t.things values ('a', 'DOWN')`.execute(db.read)
  const waiting = saga<{ id: string }>('test.wait', async (run, { id }) => {
    await run.until('up', async () => ((await stateOf(db, id)) === 'UP' ? true : undefined))
    await run.step('report', async tx => void (await set('SEEN', id).execute(tx)))
  })
  const runner = await sagaRunner({ env: envOf(db), sagas: [waiting as Saga<never>] })
  await db.tx(tx => sagaStart(tx, waiting, { id: 'a' }, { resource: 'thing:a' }))
  const began = Date.now()
  while ((await sagaList(db.read))[0]?.step !== 'up') await new Promise(resolve => setImmediate(resolve))
  await db.tx(async tx => {
    await set('UP', 'a').execute(tx)
    await sagaPoke(tx, 'thing:a')
  })
  await runner.idle()
  assert.equal(await stateOf(db, 'a'), 'SEEN')
  assert.ok(Date.now() - began < 4000, 'woken, not polled')
  await runner.stop()
})

test('a step that outlasts its deadline fails with a reason', async t => {
  const db = await testDb(t, sets)
  let why = ''
  const stuck = saga<{ id: string }>('test.stuck', async run => {
    run.ifUndone(async (_, failure) => {
      why = `${failure.step}: ${failure.message}`
    })
    await run.act('hang', () => new Promise<void>(() => {}), undefined, { deadline: 0.2 })
  })
  const runner = await sagaRunner({ env: envOf(db), sagas: [stuck as Saga<never>] })
  await db.tx(tx => sagaStart(tx, stuck, { id: 'a' }, { resource: 'r' }))
  await runner.idle()
  assert.equal(why, 'hang: It did not finish within 0.2 s.')
  await runner.stop()
})

test('another process takes over when the lease ends, and the loser writes nothing', async t => {
  const db = await testDb(t, sets)
  await sql`insert into t.things values ('a', 'BUILD')`.execute(db.read)
  let runs = 0
  const create = saga<{ id: string }>('test.take', async (run, { id }) => {
    await run.act('slow', async () => {
      runs++
      if (runs === 1) await new Promise(resolve => setTimeout(resolve, 800))
    })
    await run.step('report', async tx => void (await set('ACTIVE', id).execute(tx)))
  })
  const first = await sagaRunner({ env: envOf(db), sagas: [create as Saga<never>], lease: 3600 })
  await db.tx(tx => sagaStart(tx, create, { id: 'a' }, { resource: 'r' }))
  while (runs === 0) await new Promise(resolve => setImmediate(resolve))
  await sql`update kit.sagas set lease_until = now() - interval '1 second'`.execute(db.read)
  const second = await sagaRunner({ env: envOf(db), sagas: [create as Saga<never>] })
  await second.idle()
  assert.equal(await stateOf(db, 'a'), 'ACTIVE')
  await set('LATER', 'a').execute(db.read)
  await first.idle()
  assert.equal(await stateOf(db, 'a'), 'LATER', 'the first runner lost its lease and wrote nothing')
  await first.stop()
  await second.stop()
})

/** As `makeSaga`, in the fewest writes: the act is announced by the step before it, and a short wait follows. */
function quickSaga(world: Set<string>): Saga<{ id: string }> {
  return saga('test.quick', async (run, { id }) => {
    run.ifUndone(
      async (tx, failure) =>
        void (await sql`update t.things set state = ${`ERROR ${failure.step}`} where id = ${id}`.execute(tx)),
    )
    await run.step(
      'place',
      async tx => void (await sql`update t.things set host = 'h1' where id = ${id}`.execute(tx)),
      async tx => void (await sql`update t.things set host = null where id = ${id}`.execute(tx)),
      { next: { name: 'boot', deadline: 77 } },
    )
    await run.act(
      'boot',
      async () => void world.add(id),
      async () => void world.delete(id),
      { deadline: 77 },
    )
    let asked = 0
    await run.until('wire', async db => {
      if (asked++ > 0) return true
      // Woken while it is asked: over before it could be seen.
      await sagasPoke(db, ['thing:a'])
      return undefined
    })
    run.ifDone(async tx => void (await set('ACTIVE', id).execute(tx)))
  })
}

test('an act that is announced by the step before it, and a wait that is soon over: finished or undone, killed at any point', async t => {
  await killAtEveryStep(t, async () => {
    const db = await testDb(t, sets)
    const world = new Set<string>()
    const quick = quickSaga(world)
    return {
      env: envOf(db),
      sagas: [quick as Saga<never>],
      start: () =>
        db.tx(async tx => {
          await sql`insert into t.things values ('a', 'BUILD')`.execute(tx)
          await sagaStart(tx, quick, { id: 'a' }, { resource: 'thing:a' })
        }),
      async check(failed) {
        assert.deepEqual(await sagaList(db.read), [])
        assert.equal(await stateOf(db, 'a'), failed ? `ERROR ${failed}` : 'ACTIVE')
        assert.deepEqual([...world], failed ? [] : ['a'])
        const { rows } = await sql<{ host: string | null }>`select host from t.things`.execute(db.read)
        assert.equal(rows[0]!.host, failed ? null : 'h1')
      },
    }
  })
})

test('a step announces the act behind it in the same write; of waits only those are written that somebody could see', async t => {
  const db = await testDb(t, sets)
  const points: string[] = []
  const boot = Promise.withResolvers<void>()
  const up = Promise.withResolvers<void>()
  const begun = Promise.withResolvers<void>()
  const seen: { step: string | null; deadline: Date | null }[] = []
  let ready = false
  const long = saga<{ id: string }>('test.long', async run => {
    await run.step('place', async () => {}, undefined, { next: { name: 'boot', deadline: 77 } })
    await run.act('boot', async () => {
      seen.push(...(await sagaList(db.read)))
      await boot.promise
    })
    let asked = 0
    await run.until('short', async q => {
      if (asked++ > 0) return true
      await sagasPoke(q, ['thing:a'])
      return undefined
    })
    await run.until('long', async () => ready || undefined, { deadline: 55 })
    await run.step('end', async () => up.resolve())
  })
  const probe = (point: string) => {
    points.push(point)
    if (point === 'long: begun') begun.resolve()
  }
  const runner = await sagaRunner({ env: envOf(db), sagas: [long as Saga<never>], probe })
  await db.tx(tx => sagaStart(tx, long, { id: 'a' }, { resource: 'thing:a' }))
  boot.resolve()
  await begun.promise
  const [waiting] = await sagaList(db.read)
  assert.equal(waiting?.step, 'long')
  assert.ok(waiting.deadline!.getTime() - waiting.since!.getTime() >= 54_000, 'it says until when')
  ready = true
  await db.tx(tx => sagaPoke(tx, 'thing:a'))
  await up.promise
  await runner.idle()
  await runner.stop()
  assert.equal(seen[0]?.step, 'boot', 'announced before it began')
  assert.ok(seen[0].deadline!.getTime() - Date.now() > 0)
  assert.ok(!points.includes('short: begun'), points.join())
})
