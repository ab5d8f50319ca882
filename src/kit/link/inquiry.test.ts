import assert from 'node:assert/strict'
import { test } from 'node:test'
import { testDb } from '../db/test.ts'
import { notFound } from '../fault.ts'
import { dial } from './agent.ts'
import { hostsOpen } from './hosts.ts'
import { inquire, inquiriesAnswer } from './inquiry.ts'
import { memoryWay } from './memory.ts'
import { presenceOf } from './presence.ts'
import { keptLog, present } from './testing.ts'
import { serve, verb } from './verb.ts'

const color = verb<Record<string, never>, { color: string }>('test.color', { deadline: 5, idempotent: true })
const secret = verb<Record<string, never>, string>('test.secret', { deadline: 5, idempotent: true })

test('all hosts of all controllers are asked by who has only the database', async t => {
  const db = await testDb(t)
  const log = keptLog()
  const closers: (() => unknown)[] = []
  for (const name of ['a', 'b']) {
    const presence = presenceOf({ db, log, controller: name, address: null })
    const hosts = hostsOpen({ controller: name, log, memory: presence })
    await presence.start(hosts)
    const unlisten = await inquiriesAnswer({ db, hosts, verbs: [color], log })
    const link = dial({ host: `h-${name}`, ways: [memoryWay(hosts, `h-${name}`)], log, pauseMax: 10 })
    link.serve([serve(secret, async () => 'told'), serve(color, async () => ({ color: name }))])
    await present(hosts, `h-${name}`)
    if (name === 'b') {
      const broken = dial({ host: 'broken', ways: [memoryWay(hosts, 'broken')], log, pauseMax: 10 })
      broken.serve([
        serve(color, async () => {
          throw notFound('It has no color.')
        }),
      ])
      await present(hosts, 'broken')
      closers.push(() => broken.close())
    }
    await presence.flushed()
    closers.push(
      () => link.close(),
      unlisten,
      () => hosts.close(),
      () => presence.stop(),
    )
  }
  const { answers, silent } = await inquire(db, [color], 5000)
  assert.deepEqual([...answers.get('test.color')!].sort(), [
    ['h-a', { color: 'a' }],
    ['h-b', { color: 'b' }],
  ])
  assert.deepEqual(silent, [{ host: 'broken', verb: 'test.color', why: 'It has no color.' }])

  // Not listed by the controllers: nobody answers it.
  const refused = await inquire(db, [secret], 200)
  assert.equal(refused.answers.get('test.secret')!.size, 0)
  assert.equal(refused.silent.length, 3)
  assert.equal((await db.read.selectFrom('kit.inquiries').selectAll().execute()).length, 0)
  for (const close of closers) await close()
})
