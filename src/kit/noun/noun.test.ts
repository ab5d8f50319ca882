import assert from 'node:assert/strict'
import { test } from 'node:test'
import { sql } from '../db/index.ts'
import { testDb } from '../db/test.ts'
import { Fault } from '../fault.ts'
import * as S from '../http/schema.ts'
import { bodyOf, changesFor, listOf, noun, rulesFor, valuesFor, viewOf } from './index.ts'

const cats = noun({
  name: 'cat',
  plural: 'cats',
  table: 't.cats',
  fields: {
    id: { schema: S.String(), create: 'never', update: false },
    name: { schema: S.String({ maxLength: 20 }), create: 'required' },
    lives: { schema: S.Nullable(S.Integer()), initial: 9, nullable: true },
    tame: { schema: S.Boolean(), initial: false },
    'chip:number': {
      schema: S.Nullable(S.String()),
      column: 'chip',
      nullable: true,
      update: false,
      policy: { create: 'cat:chip', show: 'cat:see_chip' },
    },
    mood: { schema: S.String(), column: null, create: 'never', update: false, read: (_, row) => (row.tame ? 'purrs' : 'hisses') },
  },
})
const tables = {
  name: '0001_base',
  up: async (tx: never) =>
    void (await sql`create table t.cats (id text primary key, name text not null, lives int, tame boolean not null, chip text)`.execute(
      tx,
    )),
  down: async (tx: never) => void (await sql`drop table t.cats`.execute(tx)),
}

test('bodies, values and views come from the fields', () => {
  const check = S.checker(bodyOf(cats, 'create'), 'body')
  check({ cat: { name: 'Tom', 'chip:number': 'x' } }, 0)
  assert.throws(() => check({ cat: { lives: 3 } }, 0), /'name' is a required property/)
  assert.throws(() => check({ cat: { name: 'Tom', mood: 'purrs' } }, 0), /'mood' was unexpected/)
  assert.throws(() => S.checker(bodyOf(cats, 'update'), 'body')({ cat: { 'chip:number': 'y' } }, 0), /unexpected/)
  assert.deepEqual(valuesFor(cats, { name: 'Tom' }), { name: 'Tom', lives: 9, tame: false })
  assert.deepEqual(changesFor(cats, { lives: null }), { lives: null })
  assert.deepEqual(rulesFor(cats, 'create', { 'chip:number': 'x' }), ['cat:chip'])
  const row = { id: '1', name: 'Tom', lives: 9, tame: true, chip: 'x' }
  assert.deepEqual(viewOf(cats, row), { id: '1', name: 'Tom', lives: 9, tame: true, 'chip:number': 'x', mood: 'purrs' })
  assert.deepEqual(viewOf(cats, row, { only: new Set(['name', 'chip:number']), allows: () => false }), { name: 'Tom' })
})

test('lists filter, sort and page', async t => {
  const db = await testDb(t, [{ schema: 't', migrations: [tables] }])
  for (let i = 0; i < 10; i++) {
    await sql`insert into t.cats values (${`id${i}`}, ${`Cat_${i % 3}`}, ${i % 4 === 0 ? null : i % 4}, ${i % 2 === 0}, null)`.execute(
      db.read,
    )
  }
  const list = async (query: string, more = {}) => {
    const { rows, more: follows } = await listOf(cats, db.read, { search: new URLSearchParams(query), ...more })
    return `${rows.map(r => (r.id as string).slice(2)).join('')}${follows ? '+' : ''}`
  }
  assert.equal(await list(''), '0123456789')
  assert.equal(await list('tame=true&name=Cat_0'), '06')
  assert.equal(await list('name=Cat_0&name=Cat_1'), '0134679')
  assert.equal(await list('lives='), '048')
  assert.equal(await list('lives=x'), '')
  assert.equal(await list('nothing=1'), '0123456789')
  assert.equal(await list('name__icontains=CAT_2', { comparisons: true }), '258')
  assert.equal(await list('sort_key=lives&sort_dir=desc&limit=4'), '8407+')
  assert.equal(await list('sort_key=lives&sort_dir=desc&limit=4&marker=id7'), '3629+')
  assert.equal(await list('limit=3&marker=id6&page_reverse=true'), '345+')
  for (const [bad, options] of [
    ['limit=-1', {}],
    ['limit=x', {}],
    ['sort_key=mood', {}],
    ['sort_key=id&sort_dir=up', {}],
    ['marker=nobody', {}],
    ['tame=perhaps', {}],
    ['nothing=1', { unknown: 'refuse' }],
  ] as const) {
    await assert.rejects(list(bad, options), (e: unknown) => e instanceof Fault && e.status === 400, bad)
  }
})
