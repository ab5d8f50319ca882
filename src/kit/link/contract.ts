/** What every form of the link must do. Each form's test runs this with its own way to connect. */
import assert from 'node:assert/strict'
import { createHash } from 'node:crypto'
import { once } from 'node:events'
import { PassThrough } from 'node:stream'
import { type TestContext, test } from 'node:test'
import { conflict, Fault } from '#kit/fault.ts'
import { dial, type Way } from './agent.ts'
import { hostsOpen, type OpenHosts } from './hosts.ts'
import { WINDOW } from './stream.ts'
import { type Cuttable, connected, cuttable, keptLog, present } from './testing.ts'
import type { AgentLink } from './types.ts'
import { hear, notice, type Served, type Serving, serve, streamed, verb } from './verb.ts'
import { MAX_CHUNK } from './wire.ts'

/** Opens a form's server for a controller and returns the way by which `host` reaches it. Cleans up by `t.after`. */
export type Form = (t: TestContext, hosts: OpenHosts, host: string) => Promise<Way>

const add = verb<{ a: number; b: number }, number>('test.add', { deadline: 5 })
const slow = verb<{ tag: string }, string>('test.slow', { deadline: 5 })
const again = verb<{ tag: string }, string>('test.again', { deadline: 5, idempotent: true })
const fail = verb<{ how: 'fault' | 'tool' | 'string' }, void>('test.fail', { deadline: 5 })
const sum = verb<{ times?: number }, { bytes: number; check: string }>('test.sum', { deadline: 5 })
const fetch_ = verb<{ bytes: number; breakAt?: number }, { bytes: number }>('test.fetch', { deadline: 5 })
const who = verb<{ claim: string }, { host: string; env: string }>('test.who', { deadline: 5 })
const poke = notice<{ n: number }>('test.poke')
const bare = notice('test.bare')

/** A file of known bytes, without holding it. */
export function* pattern(bytes: number, chunk = 100_000): Generator<Uint8Array> {
  for (let at = 0; at < bytes; at += chunk) yield Buffer.alloc(Math.min(chunk, bytes - at), (at / chunk) % 251)
}

/** Length and hash of a stream. */
export async function weigh(body: AsyncIterable<Uint8Array> | Iterable<Uint8Array>): Promise<{ bytes: number; check: string }> {
  const hash = createHash('sha1')
  let bytes = 0
  for await (const chunk of body) {
    hash.update(chunk)
    bytes += chunk.length
  }
  return { bytes, check: hash.digest('hex') }
}

const NOTHING = createHash('sha1').digest('hex')

interface Pair {
  hosts: OpenHosts
  link: AgentLink
  cable: Cuttable
  log: ReturnType<typeof keptLog>
  /** Runs of `test.slow` and `test.again` by tag, and how to let one finish. */
  runs: Map<string, number>
  signals: Map<string, AbortSignal>
  release(tag: string): void
  started(tag: string): Promise<void>
  pokes: unknown[]
}

async function pair(t: TestContext, form: Form): Promise<Pair> {
  const log = keptLog()
  const hosts = hostsOpen({ controller: 'c1', log })
  const runs = new Map<string, number>()
  const signals = new Map<string, AbortSignal>()
  const gates = new Map<string, PromiseWithResolvers<void>>()
  const starts = new Map<string, PromiseWithResolvers<void>>()
  const of = (map: Map<string, PromiseWithResolvers<void>>, tag: string) => {
    if (!map.has(tag)) map.set(tag, Promise.withResolvers<void>())
    return map.get(tag)!
  }
  const pokes: unknown[] = []
  const wait = async ({ tag }: { tag: string }, { signal }: Serving): Promise<string> => {
    runs.set(tag, (runs.get(tag) ?? 0) + 1)
    signals.set(tag, signal)
    of(starts, tag).resolve()
    const aborted = new Promise<never>((_, reject) => signal.addEventListener('abort', () => reject(signal.reason)))
    await Promise.race([of(gates, tag).promise, aborted])
    return `${tag} ${runs.get(tag)}`
  }
  const both: Served[] = [
    serve(add, ({ a, b }) => a + b),
    serve(slow, wait),
    serve(again, wait),
    serve(fail, ({ how }) => {
      if (how === 'fault')
        throw conflict('in use', { type: 'PortInUse', field: 'port', extra: { by: 'x' }, cause: new Error('deep') })
      if (how === 'string') throw 'just text'
      throw Object.assign(new Error('qemu-img create: exit code 1: No space left on device'), {
        argv: ['qemu-img', 'create'],
        exitCode: 1,
      })
    }),
    serve(sum, async ({ times }, { body }) => {
      if (times === 0) return { bytes: -1, check: NOTHING }
      return weigh(body)
    }),
    serve(fetch_, ({ bytes, breakAt }) => {
      const source = function* () {
        let at = 0
        for (const chunk of pattern(bytes)) {
          if (breakAt !== undefined && at >= breakAt) throw conflict('the disk broke')
          at += chunk.length
          yield chunk
        }
      }
      return streamed({ bytes }, source())
    }),
    hear(poke, ({ n }) => void pokes.push(n)),
    hear(bare, payload => void pokes.push(payload ?? 'bare')),
  ]
  hosts.serve({ name: 'the environment' }, [
    ...both,
    serve(who, (_, { host, env }: Serving<{ name: string }>) => ({ host, env: env.name })),
  ])
  const cable = cuttable(await form(t, hosts, 'h1'))
  const link = dial({ host: 'h1', ways: [cable.way], log, serve: both, pauseMax: 20 })
  t.after(async () => {
    await link.close()
    await hosts.close()
  })
  await connected(link)
  await present(hosts, 'h1')
  return {
    hosts,
    link,
    cable,
    log,
    runs,
    signals,
    release: tag => of(gates, tag).resolve(),
    started: tag => of(starts, tag).promise,
    pokes,
  }
}

const rejects = (
  promise: Promise<unknown>,
  want: Partial<Pick<Fault, 'kind' | 'status'>> & { code?: string; message?: RegExp },
) =>
  assert.rejects(promise, (error: unknown) => {
    assert(error instanceof Fault, String(error))
    if (want.kind) assert.equal(error.kind, want.kind, error.message)
    if (want.code) assert.equal(error.details.code, want.code, error.message)
    if (want.message) assert.match(error.message, want.message)
    return true
  })

/** Runs the contract over one form. */
export function contract(name: string, form: Form): void {
  const it = (what: string, fn: (t: TestContext, p: Pair) => Promise<void>) =>
    test(`${name}: ${what}`, { timeout: 20_000 }, async t => fn(t, await pair(t, form)))

  it('verbs answer in both directions', async (_, { hosts, link }) => {
    assert.equal(await hosts.call('h1', add, { a: 2, b: 3 }), 5)
    assert.equal(await link.ask(add, { a: 20, b: 3 }), 23)
    const many = await Promise.all(Array.from({ length: 1000 }, (_, i) => hosts.call('h1', add, { a: i, b: 1 })))
    assert.deepEqual(
      many,
      Array.from({ length: 1000 }, (_, i) => i + 1),
    )
  })

  it('notices arrive in order, both ways', async (_, { hosts, link, pokes }) => {
    assert(hosts.notify('h1', poke, { n: 1 }))
    assert(hosts.notify('h1', bare))
    assert.equal(await hosts.call('h1', add, { a: 0, b: 0 }), 0)
    assert.deepEqual(pokes, [1, 'bare'])
    assert(link.notify(poke, { n: 2 }))
    await link.ask(add, { a: 0, b: 0 })
    assert.deepEqual(pokes, [1, 'bare', 2])
    assert.equal(hosts.notify('nobody', poke, { n: 3 }), false)
  })

  it('the host is pinned to the link, whatever the arguments say', async (_, { link }) => {
    assert.deepEqual(await link.ask(who, { claim: 'h2' }), { host: 'h1', env: 'the environment' })
  })

  it('faults cross whole, tool errors with their text', async (_, { hosts }) => {
    await assert.rejects(hosts.call('h1', fail, { how: 'fault' }), (error: Fault) => {
      assert.equal(error.kind, 'conflict')
      assert.equal(error.status, 409)
      assert.equal(error.message, 'in use: deep')
      assert.deepEqual(error.details, { type: 'PortInUse', field: 'port', extra: { by: 'x' } })
      return true
    })
    await assert.rejects(hosts.call('h1', fail, { how: 'tool' }), (error: Fault) => {
      assert.equal(error.kind, 'internal')
      assert.equal(error.message, 'qemu-img create: exit code 1: No space left on device')
      assert.deepEqual(error.details.extra, { argv: ['qemu-img', 'create'], exitCode: 1 })
      return true
    })
    await rejects(hosts.call('h1', fail, { how: 'string' }), { kind: 'internal', message: /^just text$/ })
  })

  it('a refused verb, a passed deadline, an absent host and a lost link are told apart', async (_, {
    hosts,
    cable,
    started,
    signals,
  }) => {
    const unknown = verb<null, null>('test.unknown', { deadline: 5 })
    await rejects(hosts.call('h1', unknown, null), {
      kind: 'notImplemented',
      code: 'link.refused',
      message: /test\.unknown on host h1, asked \d+ ms ago/,
    })
    const late = hosts.call('h1', slow, { tag: 'late' }, { deadline: 0.05 })
    await rejects(late, { kind: 'timeout', code: 'link.deadline', message: /test\.slow on host h1, asked \d+ ms ago/ })
    const signal = signals.get('late')!
    if (!signal.aborted) await once(signal, 'abort')
    await rejects(hosts.call('h9', add, { a: 1, b: 1 }), {
      kind: 'unavailable',
      code: 'link.down',
      message: /host h9: not connected, never seen/,
    })
    const lost = hosts.call('h1', slow, { tag: 'lost' })
    await started('lost')
    cable.cut()
    await rejects(lost, {
      kind: 'unavailable',
      code: 'link.lost',
      message: /test\.slow on host h1, asked \d+ ms ago: the link was lost/,
    })
    await rejects(hosts.call('h1', add, { a: 1, b: 1 }), { code: 'link.down', message: /last seen \d+ ms ago/ })
  })

  it('cancelling rejects at once with the reason and aborts the handler', async (_, { hosts, started, signals }) => {
    const abort = new AbortController()
    const asked = hosts.call('h1', slow, { tag: 'c' }, { signal: abort.signal })
    await started('c')
    const aborted = once(signals.get('c')!, 'abort')
    abort.abort(new Error('changed my mind'))
    await assert.rejects(asked, /changed my mind/)
    await aborted
    await assert.rejects(hosts.call('h1', add, { a: 1, b: 1 }, { signal: abort.signal }), /changed my mind/)
  })

  it('a call with a key is repeated after a lost link and joins the running action', async (_, {
    hosts,
    cable,
    started,
    runs,
    release,
  }) => {
    const asked = hosts.call('h1', slow, { tag: 'k' }, { key: 'saga-1/boot' })
    await started('k')
    cable.cut()
    await present(hosts, 'h1', 'disconnect')
    await present(hosts, 'h1')
    release('k')
    assert.equal(await asked, 'k 1')
    assert.equal(runs.get('k'), 1)
    assert.equal(await hosts.call('h1', slow, { tag: 'k' }, { key: 'saga-1/boot' }), 'k 1', 'the kept result')
    assert.equal(runs.get('k'), 1)
  })

  it('two calls with one key at once run once', async (_, { hosts, started, runs, release }) => {
    const both = Promise.all([1, 2].map(() => hosts.call('h1', slow, { tag: 'two' }, { key: 'same' })))
    await started('two')
    release('two')
    assert.deepEqual(await both, ['two 1', 'two 1'])
    assert.equal(runs.get('two'), 1)
  })

  it('an agent asks again on its own', async (_, { link, cable, started, runs, release, hosts }) => {
    const asked = link.ask(again, { tag: 'a' })
    await started('a')
    cable.cut()
    await present(hosts, 'h1', 'disconnect')
    release('a')
    assert.match(await asked, /^a \d$/)
    assert.equal(runs.get('a'), 2, 'controllers keep nothing: an idempotent verb runs again')
  })

  it('bodies go both ways, larger than any buffer', async (_, { hosts, link }) => {
    const bytes = 9_876_543
    const want = await weigh(pattern(bytes))
    assert.deepEqual(await hosts.call('h1', sum, {}, { body: pattern(bytes) }), want)
    assert.deepEqual(await link.ask(sum, {}, { body: pattern(bytes) }), want)
    assert.deepEqual(await hosts.call('h1', sum, {}), { bytes: 0, check: NOTHING })
    const answer = await link.askStream(fetch_, { bytes })
    assert.deepEqual(answer.result, { bytes })
    assert.deepEqual(await weigh(answer.body), want)
    assert.deepEqual(await weigh((await hosts.callStream('h1', fetch_, { bytes: 0 })).body), { bytes: 0, check: NOTHING })
    await assert.rejects(hosts.call('h1', fetch_, { bytes }), /callStream/)
  })

  it('a stream that breaks says why; one that is not wanted stops its source', async (_, { hosts, link }) => {
    const broken = await hosts.callStream('h1', fetch_, { bytes: 5_000_000, breakAt: 2_000_000 })
    await rejects(weigh(broken.body), { kind: 'conflict', message: /the disk broke/ })
    let sent = 0
    let closed = false
    const source = function* () {
      try {
        for (const chunk of pattern(50_000_000)) {
          sent += chunk.length
          yield chunk
        }
      } finally {
        closed = true
      }
    }
    assert.equal((await link.ask(sum, { times: 0 }, { body: source() })).bytes, -1)
    await link.ask(add, { a: 1, b: 1 })
    assert(closed && sent <= 2_000_000, `${sent} bytes were sent to nobody`)
  })

  it('a slow reader holds back its own stream only', async (_, { hosts, link }) => {
    let produced = 0
    const closed = Promise.withResolvers<void>()
    const endless = verb<null, null>('test.endless', { deadline: 5 })
    const source = function* () {
      try {
        for (;;) {
          produced += 100_000
          yield Buffer.alloc(100_000)
        }
      } finally {
        closed.resolve()
      }
    }
    link.serve([serve(endless, () => streamed(null, source()))])
    const { body } = await hosts.callStream('h1', endless, null)
    await once(body, 'readable')
    body.read(1000)
    for (let i = 0; i < 50; i++) assert.equal(await hosts.call('h1', add, { a: i, b: 1 }), i + 1)
    assert(produced <= WINDOW + MAX_CHUNK + 200_000, `${produced} bytes are on their way to a reader that took 1000`)
    body.destroy()
    await closed.promise
  })

  it('a conversation: what is said after the answer began is heard, and ends with the answer', async (_, { hosts, link }) => {
    const talk = verb<null, null>('test.talk', { deadline: 5 })
    link.serve([serve(talk, (_, { body }) => streamed(null, body.pipe(new PassThrough())))])
    for (const ended of ['by the asker', 'by the reader']) {
      const said = new PassThrough()
      const { body } = await hosts.callStream('h1', talk, null, { body: said })
      for (const word of ['one', 'two']) {
        said.write(word)
        const [heard] = await once(body, 'data')
        assert.equal(String(heard), word)
      }
      if (ended === 'by the asker') {
        said.end()
        await once(body, 'end')
      } else {
        body.destroy()
        await once(said, 'close')
      }
    }
  })

  it('a lost link breaks its streams', async (_, { hosts, cable }) => {
    const { body } = await hosts.callStream('h1', fetch_, { bytes: 50_000_000 })
    body.once('data', () => cable.cut())
    await rejects(once(body, 'end'), { code: 'link.lost' })
  })

  it('too large a question is refused before it is sent', async (_, { hosts }) => {
    const big = verb<string, number>('test.big', { deadline: 5 })
    await rejects(hosts.call('h1', big, 'x'.repeat(9_000_000)), { kind: 'tooLarge', code: 'link.size', message: /9000002 bytes/ })
    assert.equal(await hosts.call('h1', add, { a: 1, b: 1 }), 2)
  })

  it('a call survives a cut at any message', async (_, { hosts, link, cable, runs, release }) => {
    for (let n = 1; n < 12; n++) {
      const tag = `cut-${n}`
      release(tag)
      release(`${tag}-up`)
      cable.cutAt(n)
      assert.equal(await hosts.call('h1', slow, { tag }, { key: tag }), `${tag} 1`)
      assert.equal(runs.get(tag), 1, `cut at message ${n}`)
      assert.match(await link.ask(again, { tag: `${tag}-up` }), /^cut-\d+-up \d$/)
    }
  })

  it('stops cleanly', async (_, { hosts, link, started, signals }) => {
    const asked = hosts.call('h1', slow, { tag: 's' })
    await started('s')
    await link.close()
    await rejects(asked, { code: 'link.lost', message: /the agent is stopping/ })
    assert(signals.get('s')!.aborted)
    await rejects(link.ask(add, { a: 1, b: 1 }), { code: 'link.down' })
    await present(hosts, 'h1', 'disconnect')
    assert.deepEqual(hosts.connected(), [])
  })
}
