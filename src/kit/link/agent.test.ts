/** An agent among several controllers, and its keyed actions. */
import assert from 'node:assert/strict'
import { once } from 'node:events'
import { type TestContext, test } from 'node:test'
import { setImmediate as turn } from 'node:timers/promises'
import { Fault } from '../fault.ts'
import { Actions, type Outcome } from './actions.ts'
import { type DialOptions, dial } from './agent.ts'
import { hostsOpen, type OpenHosts } from './hosts.ts'
import { memoryWay } from './memory.ts'
import { connected, cuttable, keptLog, present } from './testing.ts'
import { serve, verb } from './verb.ts'

const boot = verb<{ id: string }, string>('test.boot', { deadline: 5 })
const desired = verb<null, string>('test.desired', { deadline: 2, idempotent: true })
const once_ = verb<null, string>('test.once', { deadline: 2 })

function controllers(t: TestContext, ...names: string[]): OpenHosts[] {
  return names.map(name => {
    const hosts = hostsOpen({ controller: name, log: keptLog() })
    hosts.serve(null, [serve(desired, () => `from ${name}`), serve(once_, () => `from ${name}`)])
    t.after(() => hosts.close())
    return hosts
  })
}

function agent(t: TestContext, options: Partial<DialOptions> & Pick<DialOptions, 'ways'>) {
  const link = dial({ host: 'h1', log: keptLog(), pauseMax: 10, ...options })
  t.after(() => link.close())
  return link
}

test('a host is reached by each controller; asks move to another when one is lost', async t => {
  const [a, b] = controllers(t, 'a', 'b') as [OpenHosts, OpenHosts]
  const wires = [a, b].map(hosts => cuttable(memoryWay(hosts, 'h1')))
  const link = agent(t, { ways: wires.map(w => w.way), serve: [serve(boot, ({ id }) => `booted ${id}`)] })
  await Promise.all([present(a, 'h1'), present(b, 'h1')])
  assert.equal(await a.call('h1', boot, { id: '1' }), 'booted 1')
  assert.equal(await b.call('h1', boot, { id: '2' }), 'booted 2')
  assert.equal(await link.ask(desired, null), 'from a')
  await a.close()
  assert.equal(await link.ask(desired, null), 'from b')
  assert.equal(await link.ask(once_, null), 'from b')
})

test('a link that is held is not there before what it serves is', async t => {
  const [a] = controllers(t, 'a') as [OpenHosts]
  const link = agent(t, { ways: [memoryWay(a, 'h1')], held: true })
  for (let i = 0; i < 50; i++) await turn()
  assert.equal(a.isConnected('h1'), false)
  link.serve([serve(boot, ({ id }) => `booted ${id}`)])
  link.open()
  await present(a, 'h1')
  assert.equal(await a.call('h1', boot, { id: '1' }), 'booted 1')
})

test('an action that one controller began is joined by another with its key', async t => {
  const [a, b] = controllers(t, 'a', 'b') as [OpenHosts, OpenHosts]
  const gate = Promise.withResolvers<void>()
  const begun = Promise.withResolvers<void>()
  let runs = 0
  agent(t, {
    ways: [memoryWay(a, 'h1'), memoryWay(b, 'h1')],
    serve: [
      serve(boot, async ({ id }, { signal }) => {
        runs++
        begun.resolve()
        await gate.promise
        signal.throwIfAborted()
        return `booted ${id}`
      }),
    ],
  })
  await Promise.all([present(a, 'h1'), present(b, 'h1')])
  const lost = assert.rejects(a.call('h1', boot, { id: 'x' }, { key: 'saga/boot' }), /link was lost/)
  await begun.promise
  await a.close() // the controller dies; its saga is taken over
  await lost
  const taken = b.call('h1', boot, { id: 'x' }, { key: 'saga/boot' })
  await turn()
  gate.resolve()
  assert.equal(await taken, 'booted x')
  assert.equal(runs, 1)
})

test('two addresses of one controller make one link, and the second steps in when the first is lost', async t => {
  const [a] = controllers(t, 'a') as [OpenHosts]
  const first = cuttable(memoryWay(a, 'h1'))
  const second = cuttable({ ...memoryWay(a, 'h1'), address: 'memory:other-name' })
  let connects = 0
  a.watch(({ change }) => {
    if (change === 'connect') connects++
  })
  let broken = false
  const flaky = {
    address: first.way.address,
    connect: (s: AbortSignal) => (broken ? Promise.reject(new Error('no route')) : first.way.connect(s)),
  }
  agent(t, { ways: [flaky, second.way] })
  await present(a, 'h1')
  await turn()
  await turn()
  assert.deepEqual([connects, first.connects, second.connects], [1, 1, 1])
  broken = true
  first.cut()
  await present(a, 'h1', 'disconnect')
  await present(a, 'h1')
  assert.deepEqual([connects, second.connects], [2, 2])
})

test('a restarted agent replaces its own stale link', async t => {
  const [a] = controllers(t, 'a') as [OpenHosts]
  // The old process hangs: it comes once, and not again.
  const way = memoryWay(a, 'h1')
  let came = false
  const connect = (signal: AbortSignal) => {
    if (came) return new Promise<never>((_, reject) => signal.addEventListener('abort', () => reject(signal.reason)))
    came = true
    return way.connect(signal)
  }
  const old = agent(t, { ways: [{ address: 'old', connect }], serve: [serve(boot, () => 'old')] })
  await connected(old)
  await present(a, 'h1')
  const changes: string[] = []
  a.watch(({ change }) => changes.push(change))
  const fresh = dial({
    host: 'h1',
    ways: [memoryWay(a, 'h1')],
    log: keptLog(),
    pauseMax: 10_000,
    serve: [serve(boot, () => 'new')],
  })
  t.after(() => fresh.close())
  await connected(fresh)
  await turn()
  assert.equal(await a.call('h1', boot, { id: '' }), 'new')
  assert.deepEqual(changes, [], 'the host was there all the time')
})

test('the list of controllers is followed: new ones are dialled, old ones left, the given ways kept', async t => {
  const [a, b] = controllers(t, 'a', 'b') as [OpenHosts, OpenHosts]
  const told: (readonly string[])[] = []
  agent(t, {
    ways: [memoryWay(a, 'h1')],
    way: address => ({ ...memoryWay(address === 'to-b' ? b : a, 'h1'), address }),
    onControllers: addresses => void told.push(addresses),
  })
  await present(a, 'h1')
  a.announce(['memory:a', 'to-b'])
  await present(b, 'h1')
  a.announce(['memory:a'])
  await present(b, 'h1', 'disconnect')
  a.announce(['memory:a'])
  assert(a.isConnected('h1'))
  a.announce([])
  await turn()
  assert(a.isConnected('h1'))
  assert.deepEqual(told, [['memory:a', 'to-b'], ['memory:a'], []])
})

test('hooks run at each connection, and one that fails is logged', async t => {
  const [a] = controllers(t, 'a') as [OpenHosts]
  const cable = cuttable(memoryWay(a, 'h1'))
  const log = keptLog()
  const link = agent(t, { ways: [cable.way], log })
  let pulls = 0
  link.onConnect(async () => {
    pulls++
    assert.equal(await link.ask(desired, null), 'from a')
    throw new Error('the disk is full')
  })
  for (let n = 1; n <= 3; n++) {
    await present(a, 'h1')
    await turn()
    assert.equal(pulls, n)
    cable.cut()
    await present(a, 'h1', 'disconnect')
  }
  assert.equal(log.lines.filter(line => JSON.stringify(line).includes('the disk is full')).length, 3)
})

test('an ask waits for a controller within its deadline, and can be cancelled', async t => {
  const [a] = controllers(t, 'a') as [OpenHosts]
  const gate = Promise.withResolvers<void>()
  const way = memoryWay(a, 'h1')
  const link = agent(t, { ways: [{ ...way, connect: signal => gate.promise.then(() => way.connect(signal)) }] })
  const waits = link.ask(desired, null)
  await assert.rejects(
    link.ask(desired, null, { deadline: 0.02 }),
    (e: unknown) => e instanceof Fault && e.details.code === 'link.down',
  )
  const abort = new AbortController()
  const cancelled = link.ask(desired, null, { signal: abort.signal })
  abort.abort(new Error('enough'))
  await assert.rejects(cancelled, /enough/)
  gate.resolve()
  assert.equal(await waits, 'from a')
})

test('attempts pause with jitter up to the limit, and each reason is said once', async t => {
  const log = keptLog()
  const times: number[] = []
  const enough = Promise.withResolvers<void>()
  agent(t, {
    log,
    pauseMax: 100,
    ways: [
      {
        address: 'nowhere',
        connect: () => {
          if (times.push(performance.now()) === 6) enough.resolve()
          return Promise.reject(new Error('connect ECONNREFUSED'))
        },
      },
    ],
  })
  await enough.promise
  const pauses = times.slice(1).map((at, i) => at - times[i]!)
  assert(pauses[0]! >= 24 && pauses.slice(2).every(ms => ms >= 49), `${pauses}`)
  assert.equal(log.lines.length, 1)
})

const text = (t: string): Outcome => ({ text: t })

test('actions: failures are tried again, results kept within limits, cancelled ones wound down before the next', async () => {
  const actions = new Actions({ count: 2, bytes: 100, ms: 60_000 })
  await assert.rejects(actions.join('v', 'k', () => Promise.reject(new Error('first'))).promise, /first/)
  assert.deepEqual(await actions.join('v', 'k', async () => text('second')).promise, text('second'))
  const kept = await actions.join('v', 'k', async () => text('third')).promise
  assert.equal('text' in kept && kept.text, 'second')
  for (const key of ['a', 'b', 'c']) await actions.join('v', key, async () => text(key)).promise
  assert.equal(actions.sizes.kept, 2)
  await actions.join('v', 'big', async () => text('x'.repeat(200))).promise
  assert.deepEqual(actions.sizes, { running: 0, kept: 0, bytes: 0 })

  const order: string[] = []
  const wound = Promise.withResolvers<void>()
  const first = actions.join('v', 'slow', async signal => {
    await once(signal, 'abort')
    await wound.promise
    order.push('first ended')
    throw new Error('aborted')
  })
  const joined = actions.join('v', 'slow', async () => text('never'))
  first.cancel()
  await turn()
  assert.equal(order.length, 0, 'another still asks')
  joined.cancel()
  const next = actions.join('v', 'slow', async () => {
    order.push('second began')
    return text('done')
  })
  await turn()
  assert.equal(order.length, 0)
  wound.resolve()
  assert.deepEqual(await next.promise, text('done'))
  assert.deepEqual(order, ['first ended', 'second began'])
  await assert.rejects(first.promise)
})

test('actions: after a lost link they go on for the caller’s deadline, then are aborted; who comes back in time joins', async () => {
  const actions = new Actions()
  let signal: AbortSignal | undefined
  const start = (s: AbortSignal): Promise<Outcome> => {
    signal = s
    return once(s, 'abort').then(() => Promise.reject(s.reason))
  }
  const first = actions.join('v', 'k', start)
  first.lost(20)
  const back = actions.join('v', 'k', start)
  assert.equal(back.first, false)
  await new Promise(resolve => setTimeout(resolve, 40))
  assert.equal(signal!.aborted, false)
  back.lost(20)
  await assert.rejects(back.promise, /nobody asked again/)
  assert.equal(actions.sizes.running, 0)
})
