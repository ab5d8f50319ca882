import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import type { Migration } from './index.ts'
import { type PageKey, page, sql } from './index.ts'
import { pageQueries } from './page.ts'
import { testDb } from './test.ts'

interface Row {
  id: number
  a: number | null
  b: string | null
  c: number
}

declare module './index.ts' {
  interface Tables {
    'pagetest.rows': Row
  }
}

const base: Migration = {
  name: '0001_base',
  up: async tx => {
    await sql`create table pagetest.rows (id int primary key, a int, b text collate "C", c int not null)`.execute(tx)
    await sql`create index on pagetest.rows (a, b desc, id)`.execute(tx)
    await sql`create index on pagetest.rows (c, id)`.execute(tx)
  },
  down: async tx => {
    await sql`drop table pagetest.rows`.execute(tx)
  },
}
const set = { schema: 'pagetest', migrations: [base] }

const nullable = { a: true, b: true, c: false, id: false }
type Column = keyof Row

/** Nulls last when ascending, as the database has it. */
function compare(x: Row, y: Row, keys: PageKey[]): number {
  for (const { column, dir } of keys) {
    const [v, w] = [x[column as Column], y[column as Column]]
    if (v === w) continue
    const up = v === null ? 1 : w === null ? -1 : v < w ? -1 : 1
    return dir === 'asc' ? up : -up
  }
  return 0
}

const dir = fc.constantFrom('asc' as const, 'desc' as const)
const keysOf = fc
  .tuple(fc.shuffledSubarray(['a', 'b', 'c'] as Column[]), fc.array(dir, { minLength: 4, maxLength: 4 }))
  .map(([columns, dirs]) =>
    [...columns, 'id' as const].map((column, i): PageKey => ({ column, dir: dirs[i]!, nullable: nullable[column] })),
  )
const rowsOf = fc
  .array(
    fc.record({
      a: fc.option(fc.integer({ min: 0, max: 2 })),
      b: fc.option(fc.constantFrom('x', 'y')),
      c: fc.integer({ min: 0, max: 2 }),
    }),
    { minLength: 1, maxLength: 25 },
  )
  .map(rows => rows.map((row, id): Row => ({ id, ...row })))

test('pages, joined, are the whole table in order, both ways, whatever ties and nulls there are', async t => {
  const db = await testDb(t, [set])
  const walk = async (keys: PageKey[], limit: number, reverse: boolean): Promise<Row[]> => {
    const seen: Row[] = []
    for (let rounds = 0; rounds < 100; rounds++) {
      const marker = reverse ? seen[0] : seen.at(-1)
      const after = marker && keys.map(key => marker[key.column as Column])
      const rows = await page(db.read.selectFrom('pagetest.rows').selectAll(), keys, { after, limit, reverse })
      if (rows.length === 0) return seen
      if (reverse) seen.unshift(...rows)
      else seen.push(...rows)
    }
    throw new Error('paging does not end')
  }
  await fc.assert(
    fc.asyncProperty(rowsOf, keysOf, fc.integer({ min: 1, max: 7 }), fc.boolean(), async (rows, keys, limit, reverse) => {
      await sql`truncate pagetest.rows`.execute(db.read)
      await db.read.insertInto('pagetest.rows').values(rows).execute()
      const want = [...rows].sort((x, y) => compare(x, y, keys))
      assert.deepEqual(await walk(keys, limit, reverse), want)
    }),
    { numRuns: 60 },
  )
})

test('a page deep in a large table reads little more than the page', async t => {
  const db = await testDb(t, [set])
  await sql`insert into pagetest.rows select i, nullif(i % 3, 2), case when i % 5 > 0 then 'x' end, i % 2 from generate_series(1, 20000) i`.execute(
    db.read,
  )
  await sql`analyze pagetest.rows`.execute(db.read)
  const lists: PageKey[][] = [
    [
      { column: 'c', dir: 'asc' },
      { column: 'id', dir: 'asc' },
    ],
    [
      { column: 'a', dir: 'asc', nullable: true },
      { column: 'b', dir: 'desc', nullable: true },
      { column: 'id', dir: 'asc' },
    ],
  ]
  interface Plan {
    'Shared Hit Blocks': number
    'Shared Read Blocks': number
  }
  const markers: Row[] = [15001, 15002, 15003, 15005].map(id => ({
    id,
    a: id % 3 === 2 ? null : id % 3,
    b: id % 5 > 0 ? 'x' : null,
    c: id % 2,
  }))
  for (const keys of lists) {
    for (const marker of markers) {
      const after = keys.map(key => marker[key.column as Column])
      for (const query of pageQueries(db.read.selectFrom('pagetest.rows').selectAll(), keys, { after })) {
        const explained = await query.limit(10).explain('json', sql`analyze, buffers`)
        const { Plan: plan } = (explained[0] as { 'QUERY PLAN': { Plan: Plan }[] })['QUERY PLAN'][0]!
        const blocks = plan['Shared Hit Blocks'] + plan['Shared Read Blocks']
        assert.ok(blocks < 40, `${blocks} blocks were read: ${JSON.stringify(plan)}`)
      }
    }
  }
})

test('a list that could lose rows is refused', async t => {
  const db = await testDb(t, [set])
  const query = db.read.selectFrom('pagetest.rows').selectAll()
  await assert.rejects(page(query, [{ column: 'a', dir: 'asc', nullable: true }]), /unique and not null/)
  await assert.rejects(
    page(
      query,
      [
        { column: 'c', dir: 'asc' },
        { column: 'id', dir: 'asc' },
      ],
      { after: [1] },
    ),
    /one value for each/,
  )
})
