import assert from 'node:assert/strict'
import { test } from 'node:test'
import { dial } from './agent.ts'
import { hostsOpen } from './hosts.ts'
import { memoryWay } from './memory.ts'
import { keptLog } from './testing.ts'
import { serve, verb } from './verb.ts'

const hello = verb<null, string>('test.hello', { deadline: 30, idempotent: true })

/** A controller that has just started, in whose database the host was seen so many seconds before. */
function controller(seconds: number) {
  const memory = { changed: () => {}, lastSeen: async () => new Date(Date.now() - seconds * 1000) }
  return hostsOpen({ controller: 'c1', log: keptLog(), memory, returning: 30 })
}

test('a call to a host that was here before the restart waits until it is back', async t => {
  const hosts = controller(5)
  const answer = hosts.call('h1', hello, null)
  const link = dial({ host: 'h1', ways: [memoryWay(hosts, 'h1')], log: keptLog(), serve: [serve(hello, () => 'here')] })
  t.after(async () => {
    await link.close()
    await hosts.close()
  })
  assert.equal(await answer, 'here')
})

test('one to a host that has been away for longer fails at once', async t => {
  const hosts = controller(120)
  t.after(() => hosts.close())
  await assert.rejects(hosts.call('h1', hello, null), { details: { code: 'link.down' } })
})
