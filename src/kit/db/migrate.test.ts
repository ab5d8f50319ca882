import assert from 'node:assert/strict'
import { test } from 'node:test'
import type { Db, Migration, MigrationSet } from './index.ts'
import { migrate, migratePending, open, sql } from './index.ts'
import { testDatabase, testDb } from './test.ts'

const table = (name: string, sqlText = 'id int'): Migration => ({
  name,
  up: async tx => {
    await sql`create table ${sql.id('migtest', name)} (${sql.raw(sqlText)})`.execute(tx)
  },
  down: async tx => {
    await sql`drop table ${sql.id('migtest', name)}`.execute(tx)
  },
})
const set = (...names: string[]): MigrationSet => ({ schema: 'migtest', migrations: names.map(name => table(name)) })

async function tables(db: Db): Promise<string[]> {
  const { rows } = await sql<{
    t: string
  }>`select table_name t from information_schema.tables where table_schema = 'migtest' order by 1`.execute(db.read)
  return rows.map(row => row.t)
}

test('forward, back to a name, back to nothing, and forward again', async t => {
  const db = await testDb(t)
  const all = set('0001_a', '0002_b', '0003_c')
  assert.deepEqual(await migratePending(db.read, [all]), ['migtest/0001_a', 'migtest/0002_b', 'migtest/0003_c'])
  await migrate(db, [all])
  assert.deepEqual(await tables(db), ['0001_a', '0002_b', '0003_c'])
  assert.deepEqual(await migratePending(db.read, [all]), [])
  await migrate(db, [all], '0001_a')
  assert.deepEqual(await tables(db), ['0001_a'])
  await migrate(db, [all], '0002_b')
  assert.deepEqual(await tables(db), ['0001_a', '0002_b'])
  await migrate(db, [all], null)
  assert.deepEqual(await tables(db), [])
  await migrate(db, [all])
  assert.deepEqual(await tables(db), ['0001_a', '0002_b', '0003_c'])
})

test('many processes may migrate at once', async t => {
  const { url, drop } = await testDatabase([])
  const dbs = Array.from({ length: 5 }, () => open({ url, max: 1 }))
  t.after(async () => {
    await Promise.all(dbs.map(db => db.close()))
    await drop()
  })
  await Promise.all(dbs.map(db => migrate(db, [set('0001_a', '0002_b')])))
  assert.deepEqual(await tables(dbs[0]!), ['0001_a', '0002_b'])
})

test('a migration that fails leaves nothing, and those before it stay', async t => {
  const db = await testDb(t)
  const bad: Migration = {
    ...table('0002_bad'),
    up: async tx => {
      await table('0002_bad').up(tx)
      await sql`select nonsense`.execute(tx)
    },
  }
  await assert.rejects(migrate(db, [{ schema: 'migtest', migrations: [table('0001_a'), bad] }]), /nonsense/)
  assert.deepEqual(await tables(db), ['0001_a'])
})

test('what would go wrong later is refused now', async t => {
  const db = await testDb(t)
  await assert.rejects(migrate(db, [set('0002_b', '0001_a')]), /out of order/)
  await assert.rejects(migrate(db, [set('0001_a')], '0009_x'), /no migration 0009_x/)
  await assert.rejects(
    migrate(db, [{ schema: 'migtest', migrations: [table('0001_t', 'at timestamptz')] }]),
    /0001_t\.at must be timestamptz\(3\)/,
  )
  await migrate(db, [set('0001_a', '0003_c')])
  await assert.rejects(migrate(db, [set('0001_a', '0002_b', '0003_c')]), /0003_c is applied, but 0002_b/)
  await migrate(db, [set('0001_a')])
  await assert.rejects(migrate(db, [set('0001_a')], null), /0003_c is of a newer version/)
  assert.deepEqual(await tables(db), ['0001_a', '0003_c'])
})
