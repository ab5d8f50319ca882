import assert from 'node:assert/strict'
import { test } from 'node:test'
import { sql } from '../db/index.ts'
import { testDb } from '../db/test.ts'
import { keptAnswer } from './kept.ts'
import type { Call } from './route.ts'

test('an answer is made again when something was committed, and for each caller and question', async t => {
  const db = await testDb(t, [])
  await sql`create table public.things (n integer)`.execute(db.read)
  let made = 0
  const ask = async (credentials: object, url = '/things', version = 1): Promise<string> => {
    const call = { ctx: { credentials }, db: db.read, url, version, self: () => 'http://x' } as unknown as Call
    const answer = await keptAnswer(call, async () => {
      made++
      const { rows } = await sql<{ n: number }>`select n from public.things order by n`.execute(db.read)
      return { things: rows.map(row => row.n) }
    })
    assert.equal(answer.type, 'application/json')
    return String(answer.bytes)
  }
  const me = {}
  assert.equal(await ask(me), '{"things":[]}')
  assert.equal(await ask(me), '{"things":[]}')
  assert.equal(made, 1)

  await sql`insert into public.things values (1)`.execute(db.read)
  assert.equal(await ask(me), '{"things":[1]}')
  assert.equal(await ask(me), '{"things":[1]}')
  assert.equal(made, 2)

  await db.tx(async tx => {
    await sql`insert into public.things values (2)`.execute(tx)
    assert.equal(await ask(me), '{"things":[1]}', 'not committed yet')
  })
  assert.equal(await ask(me), '{"things":[1,2]}')

  made = 0
  await ask({})
  await ask(me, '/things?limit=1')
  await ask(me, '/things', 2)
  assert.equal(made, 3, 'another caller, another question, another version')
  await ask(me)
  assert.equal(made, 3)
})
