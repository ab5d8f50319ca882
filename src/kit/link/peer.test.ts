/** What one end does with a far end that is broken, slow, silent, or means harm. */
import assert from 'node:assert/strict'
import { once } from 'node:events'
import { type TestContext, test } from 'node:test'
import { setImmediate as turn } from 'node:timers/promises'
import fc from 'fast-check'
import { Fault } from '../fault.ts'
import { dial } from './agent.ts'
import { hostsOpen } from './hosts.ts'
import { look } from './liveness.ts'
import { memoryPair, memoryWay } from './memory.ts'
import { Peer } from './peer.ts'
import { mount } from './serving.ts'
import { connected, cuttable, keptLog, memoryLink, present } from './testing.ts'
import { hear, notice, serve, streamed, verb } from './verb.ts'
import { MAX_CHUNK, type Side, type Wire, type WireEvents } from './wire.ts'

const add = verb<{ a: number; b: number }, number>('test.add', { deadline: 5 })
const hold = verb<{ n: number }, number>('test.hold', { deadline: 5 })
const eat = verb<null, number>('test.eat', { deadline: 5 })
const give = verb<null, null>('test.give', { deadline: 5 })

const code = (want: string) => (error: unknown) => error instanceof Fault && error.details.code === want

/** A controller, and the bare wire of a host whose far end the test plays. */
async function bare(t: TestContext) {
  const log = keptLog()
  const hosts = hostsOpen({ controller: 'c1', log })
  let eaten = 0
  hosts.serve(null, [
    serve(add, ({ a, b }) => a + b),
    serve(
      hold,
      (_, { signal }) => new Promise<never>((_resolve, reject) => signal.addEventListener('abort', () => reject(signal.reason))),
    ),
    serve(eat, async (_, { body }) => {
      for await (const chunk of body) eaten += chunk.length
      return eaten
    }),
    serve(give, () => streamed(null, [Buffer.alloc(3_000_000)])),
    hear(notice('test.note'), () => {
      throw new Error('a handler that fails')
    }),
  ])
  t.after(() => hosts.close())
  const [near, far] = memoryPair()
  const got: string[] = []
  let cut: string | null = null
  const waiting = new Set<() => void>()
  near.open({
    text: text => {
      got.push(text)
      for (const wake of waiting) wake()
    },
    chunk: () => undefined,
    malformed: assert.fail,
    drain: () => undefined,
    close: why => {
      cut = why
      for (const wake of waiting) wake()
    },
  })
  hosts.accept({ host: 'h1', wire: far })
  near.send('{"t":"note","name":"link.ready"}')
  await present(hosts, 'h1')
  /** Resolves when something that came, or the cut, fulfils it. */
  const until = (holds: () => boolean): Promise<void> =>
    new Promise(resolve => {
      const wake = (): void => {
        if (!holds()) return
        waiting.delete(wake)
        resolve()
      }
      waiting.add(wake)
      wake()
    })
  return { hosts, log, near, got, until, isCut: () => cut }
}

/** Frames of the right shape with odd contents, and things that are no frames. */
const oddFrame = fc.oneof(
  fc.string(),
  fc.json(),
  fc
    .record(
      {
        t: fc.constantFrom(
          'call',
          'ok',
          'fail',
          'cancel',
          'note',
          'more',
          'end',
          'stop',
          'ping',
          'pong',
          'bye',
          'other',
          '__proto__',
        ),
        id: fc.oneof(fc.nat(4), fc.constantFrom(-1, 1.5, 2 ** 32, 2 ** 32 - 1, Number.MAX_VALUE, '1', null)),
        verb: fc.constantFrom('test.add', 'test.hold', 'test.eat', 'test.give', 'nothing', '', 'constructor', 7),
        name: fc.constantFrom('test.note', 'link.ready', 'link.hello', 'link.controllers', '__proto__', '', null),
        ms: fc.oneof(fc.nat(1000), fc.constantFrom(-1, 2 ** 31, '5')),
        key: fc.option(fc.string({ maxLength: 600 }), { nil: undefined }),
        body: fc.constantFrom(undefined, true, false, 1),
        from: fc.constantFrom(0, 1, 2, '0'),
        bytes: fc.oneof(fc.nat(), fc.constantFrom(-1, 2 ** 31)),
        kind: fc.constantFrom('internal', 'toString', 'link.refused', '', 3, undefined),
        message: fc.oneof(fc.string(), fc.constant(undefined)),
        details: fc.oneof(fc.jsonValue(), fc.constantFrom({ status: 1e9, extra: [], headers: { a: 1 } })),
        args: fc.jsonValue(),
        payload: fc.jsonValue(),
        result: fc.jsonValue(),
        reason: fc.string(),
      },
      { requiredKeys: ['t'] },
    )
    .map(frame => JSON.stringify(frame)),
  fc.record({ from: fc.constantFrom<Side>(0, 1), id: fc.nat(4), bytes: fc.uint8Array({ minLength: 1, maxLength: 40 }) }),
)

test('no message, nor any row of messages, harms the controller', { timeout: 60_000 }, async t => {
  const { hosts, log, near } = await bare(t)
  near.close('only the controller is needed')
  const honest = dial({
    host: 'honest',
    ways: [memoryWay(hosts, 'honest')],
    log: keptLog(),
    serve: [serve(add, ({ a, b }) => a + b)],
  })
  t.after(() => honest.close())
  await present(hosts, 'honest')
  await fc.assert(
    fc.asyncProperty(fc.array(oddFrame, { minLength: 1, maxLength: 12 }), async messages => {
      const [evil, far] = memoryPair()
      evil.open({
        text: () => undefined,
        chunk: () => undefined,
        malformed: assert.fail,
        drain: () => undefined,
        close: () => undefined,
      })
      hosts.accept({ host: 'evil', wire: far })
      evil.send('{"t":"note","name":"link.ready"}')
      const asked = hosts.isConnected('evil')
        ? hosts.call('evil', add, { a: 1, b: 1 }, { deadline: 0.01 }).catch(() => null)
        : null
      for (const message of messages) {
        if (typeof message === 'string') evil.send(message)
        else evil.chunk(message.from, message.id, message.bytes)
      }
      await turn()
      assert.equal(await honest.ask(add, { a: 2, b: 2 }), 4)
      assert.equal(await hosts.call('honest', add, { a: 1, b: 2 }), 3)
      evil.close('next')
      await asked
    }),
    { numRuns: 1500 },
  )
  const bugs = log.lines.filter(line => line.message.startsWith('the link failed'))
  assert.deepEqual(bugs, [], 'malformed messages are recognised, not stumbled over')
})

test('a malformed message cuts the link of who sent it, and says so', async t => {
  const { hosts, log, near, until, isCut } = await bare(t)
  near.send('{"t":"call","id":"one"}')
  await until(() => isCut() !== null)
  assert.equal(hosts.isConnected('h1'), false)
  assert(log.lines.some(line => line.message === 'malformed message: the link is cut'))
})

test('a stream that overruns its credit, or a second call with a running id, is malformed', async t => {
  const one = await bare(t)
  one.near.send('{"t":"call","id":1,"verb":"test.hold","ms":5000,"body":true,"args":{}}')
  for (let i = 0; i < 6; i++) one.near.chunk(0, 1, Buffer.alloc(MAX_CHUNK))
  await one.until(() => one.isCut() !== null)
  assert.match(one.got.at(-1)!, /overran its credit/)
  const two = await bare(t)
  for (let i = 0; i < 2; i++) two.near.send('{"t":"call","id":1,"verb":"test.hold","ms":5000,"args":{}}')
  await two.until(() => two.isCut() !== null)
  assert.match(two.got.at(-1)!, /running already/)
})

test('a far end that asks without end is refused, not served', async t => {
  const { near, got, until } = await bare(t)
  for (let id = 1; id <= 1100; id++) near.send(`{"t":"call","id":${id},"verb":"test.hold","ms":5000,"args":{}}`)
  await until(() => got.filter(m => m.includes('link.busy')).length === 76)
})

/** A wire whose far end reads nothing until told. */
function stuckWire(): { wire: Wire; sent: string[]; read(): void; closed: string[]; on(): WireEvents } {
  const sent: string[] = []
  const closed: string[] = []
  let buffered = 0
  let on: WireEvents | null = null
  const wire: Wire = {
    name: 'stuck',
    remote: false,
    get buffered() {
      return buffered
    },
    send: message => {
      sent.push(message)
      buffered += message.length
    },
    chunk: (_from, _id, bytes) => {
      buffered += bytes.length
    },
    close: why => void closed.push(why),
    open: events => {
      on = events
    },
  }
  return {
    wire,
    sent,
    closed,
    on: () => on!,
    read() {
      buffered = 0
      on!.drain()
    },
  }
}

function peerOn(wire: Wire, served = new Map()): Peer {
  return new Peer({
    wire,
    host: 'h1',
    far: 'host h1',
    served,
    actions: null,
    log: keptLog(),
    onOwn: () => undefined,
    onClose: () => undefined,
  })
}

test('calls wait for a slow far end, poke-like notices do not, and one that takes nothing is cut', async () => {
  const { wire, sent, read, closed, on } = stuckWire()
  const peer = peerOn(wire)
  const big = verb<string, null>('test.big', { deadline: 5 })
  const calls = [1, 2].map(() => peer.call(big, 'x'.repeat(1_500_000), {}, false))
  assert.equal(sent.length, 2)
  const third = peer.call(big, 'late', {}, false)
  assert.equal(sent.length, 2, 'the third waits: the send buffer is full')
  assert.equal(peer.notify('test.note', null), false)
  const cancelled = peer.call(big, 'never', { signal: AbortSignal.timeout(5) }, false)
  await assert.rejects(cancelled, /timeout/i)
  await assert.rejects(peer.call(big, 'never', { deadline: 0.01 }, false), code('link.deadline'))
  read()
  assert.equal(sent.length, 3, 'only what still waits is sent')
  for (const id of [1, 2, 3]) on().text(`{"t":"ok","id":${id},"result":null}`)
  await Promise.all([...calls, third])

  const answers = Array.from({ length: 5 }, () => 'y'.repeat(8_000_000))
  const table = new Map()
  mount(table, [serve(big, args => args as unknown as null)], null)
  const second = stuckWire()
  peerOn(second.wire, table)
  for (const [i, args] of answers.entries())
    second.on().text(`{"t":"call","id":${i},"verb":"test.big","ms":5000,"args":"${args}"}`)
  await turn()
  assert.match(second.closed[0]!, /takes nothing/)
  assert.deepEqual(closed, [])
})

test('calls over the limit in flight wait for their turn; over that they are refused', async t => {
  const gate = Promise.withResolvers<void>()
  let most = 0
  let now = 0
  const { hosts, link } = await memoryLink('h1', {
    serve: [
      serve(hold, async ({ n }) => {
        most = Math.max(most, ++now)
        await gate.promise
        now--
        return n
      }),
    ],
  })
  t.after(async () => {
    await link.close()
    await hosts.close()
  })
  await present(hosts, 'h1')
  const calls = Array.from({ length: 256 + 4096 }, (_, n) => hosts.call('h1', hold, { n }))
  await assert.rejects(hosts.call('h1', hold, { n: -1 }), code('link.busy'))
  gate.resolve()
  assert.deepEqual(
    await Promise.all(calls),
    Array.from({ length: 256 + 4096 }, (_, n) => n),
  )
  assert.equal(most, 256)
})

test('a silent far end is asked, then given up; one that answers is kept', async () => {
  const { wire, sent, closed, on } = stuckWire()
  const peer = peerOn(wire)
  const pings = () => sent.filter(m => m === '{"t":"ping"}').length
  look([peer]) // it was heard of just now
  assert.equal(pings(), 0)
  look([peer])
  assert.equal(pings(), 1)
  on().text('{"t":"pong"}')
  look([peer])
  for (let i = 0; i < 3; i++) look([peer])
  assert.equal(closed.length, 0)
  look([peer])
  assert.match(closed[0]!, /silent for 20 s/)
  assert(peer.closed)
})

test('an answer’s bytes that stop coming fail the reader at the deadline', async () => {
  const { wire, on } = stuckWire()
  const peer = peerOn(wire)
  const asked = peer.call(give, null, { deadline: 0.05 }, true)
  on().text('{"t":"ok","id":1,"body":true}')
  const { body } = await asked
  on().chunk(1, 1, Buffer.from('first'))
  await assert.rejects(async () => {
    for await (const _ of body);
  }, code('link.deadline'))
})

test('a body that goes on keeps its call alive beyond the deadline', async t => {
  const { hosts, link } = await memoryLink('h1', {
    serve: [
      serve(eat, async (_, { body }) => {
        let bytes = 0
        for await (const chunk of body) bytes += chunk.length
        return bytes
      }),
    ],
  })
  t.after(async () => {
    await link.close()
    await hosts.close()
  })
  const slowly = async function* () {
    for (let i = 0; i < 8; i++) {
      await new Promise(resolve => setTimeout(resolve, 20))
      yield Buffer.alloc(10)
    }
  }
  assert.equal(await hosts.call('h1', eat, null, { body: slowly(), deadline: 0.08 }), 80)
})

test('what cannot cross is an error of the one call', async t => {
  const { hosts, link } = await memoryLink('h1', {
    serve: [serve(give, () => ({ big: 10n }) as unknown as null), serve(eat, () => 'z'.repeat(9_000_000) as unknown as number)],
  })
  t.after(async () => {
    await link.close()
    await hosts.close()
  })
  await present(hosts, 'h1')
  await assert.rejects(hosts.call('h1', give, null), /BigInt/)
  await assert.rejects(hosts.call('h1', eat, null), /test\.eat: result of 9000002 bytes/)
  const loop: { self?: unknown } = {}
  loop.self = loop
  await assert.rejects(hosts.call('h1', verb<unknown, null>('test.loop', { deadline: 1 }), loop), /circular/i)
  await assert.rejects(hosts.call('h1', add, { a: 1, b: 1 }, { key: 'k'.repeat(600) }), /512/)
  assert.throws(() => verb('Bad Name', { deadline: 1 }), /not a name/)
  assert.throws(() => link.serve([serve(give, () => null)]), /served twice/)
})

test('streams cut at any message: the reader fails, the writer is closed, nothing hangs', async t => {
  let open = 0
  const source = function* () {
    open++
    try {
      for (let i = 0; i < 30; i++) yield Buffer.alloc(100_000)
    } finally {
      open--
    }
  }
  const hosts = hostsOpen({ controller: 'c1', log: keptLog() })
  const cable = cuttable(memoryWay(hosts, 'h1'))
  const link = dial({
    host: 'h1',
    ways: [cable.way],
    log: keptLog(),
    pauseMax: 5,
    serve: [
      serve(give, () => streamed(null, source())),
      serve(eat, async (_, { body }) => {
        let bytes = 0
        for await (const chunk of body) bytes += chunk.length
        return bytes
      }),
    ],
  })
  t.after(async () => {
    await link.close()
    await hosts.close()
  })
  let broken = 0
  for (let n = 1; n < 45; n++) {
    await present(hosts, 'h1')
    cable.cutAt(n)
    const down = hosts.callStream('h1', give, null).then(async ({ body }) => {
      body.resume()
      await once(body, 'end')
    })
    const up = hosts.call('h1', eat, null, { body: source() })
    for (const result of await Promise.allSettled([down, up])) {
      if (result.status === 'fulfilled') continue
      broken++
      assert(code('link.lost')(result.reason) || code('link.down')(result.reason), String(result.reason))
    }
    await turn()
    assert.equal(open, 0, `cut at message ${n}`)
    await connected(link)
  }
  assert(broken > 40, `${broken}`)
})
