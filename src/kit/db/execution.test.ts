// The quick way of a prepared statement writes and reads what pg's own way does: every kind of value there and back, on a real PostgreSQL.
import assert from 'node:assert/strict'
import { type TestContext, test } from 'node:test'
import pg from 'pg'
import { columnsOf, execute } from './execution.ts'
import { testDatabase } from './test.ts'
import { types } from './types.ts'

async function connected(t: TestContext): Promise<pg.Client> {
  const { url, drop } = await testDatabase([])
  const client = new pg.Client({ connectionString: url, types })
  await client.connect()
  await client.query("set timezone to 'UTC'")
  t.after(async () => {
    await client.end()
    await drop()
  })
  return client
}

let names = 0

/** The answers of pg and of the quick way to the same statement. */
async function both(client: pg.Client, text: string, values: unknown[]) {
  const name = `s${names++}`
  const own = await client.query({ name, text, values })
  const quick = await execute(client, { name, text, columns: columnsOf(own.fields) }, values)
  return { own, quick }
}

/** Values by the type that they are given as. */
const VALUES: Record<string, unknown[]> = {
  int2: [0, -32768, 32767, null],
  int4: [0, -2147483648, 2147483647, '17', null],
  int8: [0, -(2 ** 53) + 1, 2 ** 53 - 1, 10n ** 15n, null],
  float8: [0, -0.5, 1e300, 5e-324, Infinity, -Infinity, NaN, null],
  numeric: [0, 1.5, -1e-7, null],
  bool: [true, false, null],
  text: ['', 'a', "it's", '\\', '"', '{a,b}', '\n\t', 'ünï ☃ 𝄞', 'NULL', ' x ', undefined, 12, true],
  uuid: ['70a599e0-31e7-49b7-b260-868f441e862b', null],
  inet: ['10.0.0.1', 'fd00::1/64', null],
  cidr: ['10.0.0.0/8', null],
  date: ['2026-02-28', null],
  time: ['23:59:59.5', null],
  interval: ['1 day 02:03:04', null],
  bytea: [
    Buffer.from([0, 1, 255, 92]),
    Buffer.alloc(0),
    new Uint8Array([7, 8]),
    new Uint8Array([1, 2, 3, 4]).subarray(1, 3),
    null,
  ],
  jsonb: [{}, { a: [1, null, 'x"y\\'], ü: { b: false } }, '"text"', '[1]', null],
  timestamptz: [
    new Date(0),
    new Date('2026-11-29T15:00:00.123Z'),
    new Date('0001-01-01T00:00:00Z'),
    new Date('0099-12-31T23:59:59.999Z'),
    new Date('-000001-06-01T00:00:00Z'),
    new Date('-004712-01-01T00:00:00Z'),
    new Date('9999-12-31T23:59:59.999Z'),
    new Date('+012026-01-01T00:00:00Z'),
    '2026-11-29T15:00:00+05:30',
    'infinity',
    null,
  ],
  'text[]': [
    [],
    ['a'],
    ['', null, 'NULL', 'a,b', '{}', 'x"y', '\\', ' s ', 'ünï'],
    [
      ['a', 'b'],
      ['c', null],
    ],
    null,
  ],
  'int4[]': [[], [1, -2, null], [[1], [2]], null],
  'int8[]': [[2 ** 53 - 1, null], null],
  'bool[]': [[true, null, false], null],
  'bytea[]': [[Buffer.from([0, 255]), null, Buffer.alloc(0)], null],
  'jsonb[]': [[{ a: 'b"c\\' }, null, {}], null],
  'timestamptz[]': [[new Date('2026-11-29T15:00:00.5Z'), null, new Date('-000001-06-01T00:00:00Z')], null],
  'uuid[]': [['70a599e0-31e7-49b7-b260-868f441e862b'], null],
}

test('every kind of value goes there and comes back as by pg', async t => {
  const client = await connected(t)
  for (const [type, values] of Object.entries(VALUES)) {
    for (const value of values) {
      const { own, quick } = await both(client, `select $1::${type} as value, $1::${type}::text as written`, [value])
      assert.deepEqual(quick.rows, own.rows, `${type}: ${String(value)}`)
    }
    // Together in one message: values with bytes among them are sent in another format.
    const { own, quick } = await both(client, `select ${values.map((_, i) => `$${i + 1}::${type} as v${i}`).join()}`, values)
    assert.deepEqual(quick.rows, own.rows, `${type}, all at once`)
  }
})

test('the answer has what callers look at, as pg tells it', async t => {
  const client = await connected(t)
  await client.query('create table t (id int4 primary key, doc bytea)')
  for (const [text, values] of [
    ['insert into t select n, $1 from generate_series(1, $2::int4) n', [Buffer.from('x'), 3]],
    ['update t set doc = $1 where id > 1', [null]],
    ['select id from t where id = $1', [99]],
    ['select * from t order by id', []],
    ['delete from t where id = any($1)', [[1, 2]]],
  ] as const) {
    const name = `s${names++}`
    const run = async (quick: boolean) => {
      await client.query('begin')
      const first = await client.query({ name, text, values: values as unknown as unknown[] })
      await client.query('rollback; begin')
      const answer = quick ? await execute(client, { name, text, columns: columnsOf(first.fields) }, values) : first
      await client.query('rollback')
      return { command: answer.command, rowCount: answer.rowCount, rows: answer.rows }
    }
    await client.query('begin')
    await client.query('insert into t values (1, null), (2, null) on conflict do nothing')
    await client.query('commit')
    const clash = text.startsWith('insert')
    if (clash) await client.query('delete from t')
    assert.deepEqual(await run(true), await run(false), text)
  }
})

test('what PostgreSQL refuses is refused as by pg, and the connection goes on', async t => {
  const client = await connected(t)
  const text = 'select $1::int4 / $2::int4 as n'
  const { quick } = await both(client, text, [6, 3])
  assert.deepEqual(quick.rows, [{ n: 2 }])
  const name = `s${names - 1}`
  const columns = columnsOf((await client.query({ name, text, values: [1, 1] })).fields)
  const failure = (way: Promise<unknown>) =>
    way.then(
      () => assert.fail('accepted'),
      (error: pg.DatabaseError) => error.code,
    )
  const wrong: unknown[][] = [
    [1, 0],
    ['x', 1],
    [new Date(Number.NaN), 1],
  ]
  for (const values of wrong) {
    assert.deepEqual(
      await failure(execute(client, { name, text, columns }, values)),
      await failure(client.query({ name, text, values })),
    )
  }
  const many = Array.from({ length: 20 }, (_, i) => execute(client, { name, text, columns }, [i * 2, i === 7 ? 0 : 2]))
  const settled = await Promise.allSettled(many)
  assert.deepEqual(
    settled.map(one => (one.status === 'fulfilled' ? one.value.rows[0]?.n : 'refused')),
    Array.from({ length: 20 }, (_, i) => (i === 7 ? 'refused' : i)),
  )
})
