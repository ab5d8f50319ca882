import assert from 'node:assert/strict'
import { once } from 'node:events'
import { type AddressInfo, createServer } from 'node:net'
import { test } from 'node:test'
import { Fault } from '../fault.ts'
import type { Migration, MigrationSet, Tx } from './index.ts'
import { afterCommit, attempt, beforeCommit, codeOf, isDuplicate, json, lockIf, notify, open, sql, tryLock } from './index.ts'
import { testDb } from './test.ts'

interface Item {
  id: string
  n: number
  doc: unknown
  at: Date | null
}

declare module './index.ts' {
  interface Tables {
    'dbtest.items': Item
  }
}

const base: Migration = {
  name: '0001_base',
  up: async tx => {
    await sql`create table dbtest.items (id text constraint items_pk primary key, n int8 not null, doc jsonb, at timestamptz(3))`.execute(
      tx,
    )
  },
  down: async tx => {
    await tx.schema.dropTable('dbtest.items').execute()
  },
}
const set: MigrationSet = { schema: 'dbtest', migrations: [base] }

test('values come back as documented', async t => {
  const db = await testDb(t, [set])
  const at = new Date('2026-01-02T03:04:05.678Z')
  await db.tx(tx =>
    tx
      .insertInto('dbtest.items')
      .values({ id: 'a', n: 2 ** 53 - 1, doc: json([1, { b: null }]), at })
      .execute(),
  )
  assert.deepEqual(await db.read.selectFrom('dbtest.items').selectAll().execute(), [
    { id: 'a', n: 2 ** 53 - 1, doc: [1, { b: null }], at },
  ])
  const { rows } =
    await sql`select 1.5::numeric n, array[null, 7]::int8[] a, '1999-12-31'::date d, 'infinity'::timestamptz i`.execute(db.read)
  assert.deepEqual(rows, [{ n: 1.5, a: [null, 7], d: '1999-12-31', i: Infinity }])
  await assert.rejects(sql`select 9007199254740993::int8`.execute(db.read), RangeError)
})

test('a transaction that clashes runs again, one that fails does not, and only a commit calls the hooks', async t => {
  const db = await testDb(t, [set])
  const calls: string[] = []
  await db.tx(tx =>
    tx
      .insertInto('dbtest.items')
      .values([
        { id: 'a', n: 0, doc: null, at: null },
        { id: 'b', n: 0, doc: null, at: null },
      ])
      .execute(),
  )
  let runs = 0
  // Each has its first row before either asks for the other's.
  let holding = 0
  const held = Promise.withResolvers<void>()
  const both = (first: string, second: string) =>
    db.tx(async tx => {
      const run = ++runs
      afterCommit(tx, () => calls.push(`${first}${run}`))
      for (const id of [first, second]) {
        await tx
          .updateTable('dbtest.items')
          .set(eb => ({ n: eb('n', '+', 1) }))
          .where('id', '=', id)
          .execute()
        if (++holding === 2) held.resolve()
        await held.promise
      }
    })
  await Promise.all([both('a', 'b'), both('b', 'a')])
  assert.equal(runs, 3, 'one of the two was the victim of the deadlock')
  assert.equal(calls.length, 2)
  assert.deepEqual(
    (await db.read.selectFrom('dbtest.items').select('n').execute()).map(r => r.n),
    [2, 2],
  )
  const failure = new Error('no')
  let tries = 0
  await assert.rejects(
    db.tx(async tx => {
      tries++
      afterCommit(tx, () => calls.push('never'))
      await tx.deleteFrom('dbtest.items').execute()
      throw failure
    }),
    failure,
  )
  assert.equal(tries, 1)
  assert.ok(!calls.includes('never'))
  assert.equal((await db.read.selectFrom('dbtest.items').select('id').execute()).length, 2)
})

test('beforeCommit writes in the same transaction; a caught failure still fails the commit', async t => {
  const db = await testDb(t, [set])
  await db.tx(async tx => {
    beforeCommit(tx, async inner => {
      await inner.insertInto('dbtest.items').values({ id: 'late', n: 1, doc: null, at: null }).execute()
    })
  })
  assert.equal((await db.read.selectFrom('dbtest.items').select('id').execute())[0]?.id, 'late')
  await assert.rejects(
    db.tx(async tx => {
      const again = tx.insertInto('dbtest.items').values({ id: 'late', n: 1, doc: null, at: null }).execute()
      await assert.rejects(again, error => isDuplicate(error, 'items_pk') && !isDuplicate(error, 'other'))
    }),
    /rolled back/,
  )
})

test('prepared statements survive a change of their table', async t => {
  const db = await testDb(t, [set], { max: 1 })
  const all = () => db.read.selectFrom('dbtest.items').selectAll().execute()
  for (let i = 0; i < 6; i++) await all()
  await sql`alter table dbtest.items add column more text default 'x'`.execute(db.read)
  assert.deepEqual(await all(), [])
  await sql`alter table dbtest.items add column yet text`.execute(db.read)
  for (let i = 0; i < 6; i++) await db.tx(tx => tx.selectFrom('dbtest.items').selectAll().execute())
  await sql`alter table dbtest.items drop column yet`.execute(db.read)
  assert.deepEqual(await db.tx(tx => tx.selectFrom('dbtest.items').selectAll().execute()), [])
})

test('what is not supported fails at once', async t => {
  const db = await testDb(t, [])
  let runs = 0
  const refused = db.tx(tx => {
    runs++
    return sql`select count(*) from pg_class for update`.execute(tx)
  })
  await assert.rejects(refused, error => codeOf(error) === '0A000')
  assert.equal(runs, 1)
})

test('quick reads share connections, and a slow one does not hold them up', async t => {
  const db = await testDb(t, [], { max: 4 })
  const quick = async (n: number) => (await sql<{ n: number }>`select ${n}::int as n`.execute(db.read)).rows[0]!.n
  // Until it is known to be quick, however busy the machine is now.
  for (let quicks = 0; quicks < 10; ) {
    const began = performance.now()
    await quick(quicks)
    quicks = performance.now() - began < 10 ? quicks + 1 : 0
  }
  let slowIsDone = false
  const slow = sql`select pg_sleep(1)`.execute(db.read).then(() => {
    slowIsDone = true
  })
  const numbers = Array.from({ length: 50 }, (_, i) => i)
  assert.deepEqual(await Promise.all(numbers.map(quick)), numbers)
  assert.equal(slowIsDone, false)
  assert.ok(db.stats().total <= 3, 'one for the slow one, half of the pool at most for the others')
  await slow
  assert.deepEqual(db.stats(), { total: db.stats().total, idle: db.stats().total, waiting: 0 })
})

test('an attempt that fails is taken back alone, with its hooks', async t => {
  const db = await testDb(t, [set])
  const called: string[] = []
  const insert = (tx: Tx, id: string) => tx.insertInto('dbtest.items').values({ id, n: 1, doc: null, at: null }).execute()
  await db.tx(async tx => {
    await insert(tx, 'a')
    const twice = attempt(tx, async () => {
      afterCommit(tx, () => called.push('undone'))
      await insert(tx, 'b')
      await insert(tx, 'a')
    })
    await assert.rejects(twice, error => isDuplicate(error))
    await attempt(tx, async () => {
      afterCommit(tx, () => called.push('done'))
      await insert(tx, 'c')
    })
  })
  assert.deepEqual(called, ['done'])
  const { rows } = await sql<{ id: string }>`select id from dbtest.items order by id`.execute(db.read)
  assert.deepEqual(
    rows.map(row => row.id),
    ['a', 'c'],
  )
})

test('notifications arrive after commit only, and the listener comes back when its connection is killed', async t => {
  const reports: string[] = []
  const db = await testDb(t, [], { onError: error => reports.push(error.message) })
  const heard: string[] = []
  let wake = () => {}
  const events: string[] = []
  const next = () =>
    new Promise<void>(resolve => {
      wake = resolve
    })
  const back = Promise.withResolvers<void>()
  const stop = await db.listen(
    'Chan "1"',
    payload => {
      heard.push(payload)
      wake()
    },
    {
      onLost: () => events.push('lost'),
      onBack: () => {
        events.push('back')
        back.resolve()
      },
    },
  )
  await assert.rejects(
    db.tx(async tx => {
      await notify(tx, 'Chan "1"', 'undone')
      throw new Error('undo')
    }),
    /undo/,
  )
  let soon = next()
  await db.tx(tx => notify(tx, 'Chan "1"', 'one'))
  await soon
  await sql`select pg_terminate_backend(pid) from pg_stat_activity where datname = current_database() and query like 'listen%'`.execute(
    db.read,
  )
  await back.promise
  soon = next()
  await db.tx(tx => notify(tx, 'Chan "1"', 'two'))
  await soon
  stop()
  assert.match(reports.join(), /terminating connection/)
  assert.deepEqual(heard, ['one', 'two'])
  assert.deepEqual(events, ['lost', 'back'])
})

test('a lost connection before COMMIT runs the transaction again', async t => {
  const db = await testDb(t, [set])
  let runs = 0
  await db.tx(async tx => {
    await tx.insertInto('dbtest.items').values({ id: 'x', n: ++runs, doc: null, at: null }).execute()
    if (runs > 1) return
    const { rows } = await sql<{ pid: number }>`select pg_backend_pid() as pid`.execute(tx)
    await sql`select pg_terminate_backend(${rows[0]!.pid})`.execute(db.read)
    await sql`select 1`.execute(tx)
  })
  assert.equal(runs, 2)
  assert.deepEqual(await db.read.selectFrom('dbtest.items').select('n').execute(), [{ n: 2 }])
})

test('locks exclude each other until the transaction ends', async t => {
  const db = await testDb(t, [])
  await db.tx(async tx => {
    assert.equal(await tryLock(tx, 'a'), true)
    assert.equal(await db.tx(other => tryLock(other, 'a')), false)
    assert.equal(await db.tx(other => tryLock(other, 'b')), true)
  })
  assert.equal(await db.tx(tx => tryLock(tx, 'a')), true)
})

test('the failing statement is in the error', async t => {
  const db = await testDb(t, [])
  await assert.rejects(
    sql`select nonsense`.execute(db.read),
    error => codeOf(error) === '42703' && (error as { statement?: string }).statement === 'select nonsense',
  )
})

test('a lock on a condition is held alone where it holds, and together with others where it does not', async t => {
  const db = await testDb(t, [set])
  /** A transaction that has the lock until it is let go. */
  const holding = (alone: boolean) => {
    const had = Promise.withResolvers<boolean>()
    const end = Promise.withResolvers<void>()
    const over = db.tx(async tx => {
      had.resolve(await lockIf(tx, 'project', sql<boolean>`${alone}::boolean`))
      await end.promise
    })
    const release = () => {
      end.resolve()
      return over
    }
    return { had: had.promise, release }
  }
  /** Until so many wait for a lock. */
  const waiting = async (count: number) => {
    for (;;) {
      const { rows } = await sql<{ n: number }>`select count(*) as n from pg_locks where locktype = 'advisory' and not granted
        and database = (select oid from pg_database where datname = current_database())`.execute(db.read)
      if (rows[0]!.n === count) return
    }
  }
  const [one, two] = [holding(false), holding(false)]
  assert.deepEqual(await Promise.all([one.had, two.had]), [false, false])
  const third = holding(true)
  await waiting(1)
  await one.release()
  await waiting(1)
  await two.release()
  assert.equal(await third.had, true)
  const fourth = holding(false)
  await waiting(1)
  assert.equal(await db.tx(tx => lockIf(tx, 'another', sql<boolean>`true`)), true)
  await third.release()
  assert.equal(await fourth.had, false)
  await fourth.release()
})

test('a server that ends a connection in the breath in which it took it is one that cannot be reached', async t => {
  const message = (type: string, body: Buffer) => {
    const length = Buffer.alloc(4)
    length.writeInt32BE(body.length + 4)
    return Buffer.concat([Buffer.from(type), length, body])
  }
  const welcome = Buffer.concat([
    message('R', Buffer.alloc(4)),
    message('Z', Buffer.from('I')),
    message('E', Buffer.from('SFATAL\0C57P01\0Mterminating connection due to unexpected postmaster exit\0\0')),
  ])
  const server = createServer(socket => {
    socket.once('data', () => socket.end(welcome))
    socket.on('error', () => {})
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  t.after(() => server.close())
  const { port } = server.address() as AddressInfo
  const db = open({ url: `postgres://nubo@127.0.0.1:${port}/nubo`, onError: () => {} })
  t.after(() => db.close())
  await assert.rejects(
    sql`update things set a = 1`.execute(db.read),
    error => error instanceof Fault && error.kind === 'unavailable',
  )
})
