import assert from 'node:assert/strict'
import { once } from 'node:events'
import { PassThrough } from 'node:stream'
import { test } from 'node:test'
import { Fault } from '#kit/fault.ts'
import { serve, streamed } from '#kit/link/index.ts'
import { memoryLink } from '#kit/link/testing.ts'
import * as verbs from '../verbs.ts'
import { specOf, until } from './driver.contract.ts'
import { memoryDriver, memoryWorld } from './drivers/memory/index.ts'
import { linkImages, novaAgent } from './link.ts'
import { testGuestImage } from './testguest.ts'

const IMAGE = testGuestImage('tiny')

/** A controller that wants what `want` holds, and an agent over a memory host. */
async function scene(t: { after(fn: () => Promise<void>): void }) {
  const want: verbs.Desired = { ensure: [], destroy: [] }
  const asked: verbs.DesiredArgs[] = []
  const reports: verbs.Report[] = []
  const world = memoryWorld()
  const driver = memoryDriver({ world })
  await driver.open()
  const { hosts, link } = await memoryLink('h1')
  hosts.serve({}, [
    serve(verbs.desired, args => {
      asked.push(args)
      return { ensure: want.ensure.filter(spec => spec.revision > (args.known[spec.id] ?? -1)), destroy: want.destroy }
    }),
    serve(verbs.report, report => {
      reports.push(report)
      return {}
    }),
    serve(verbs.imageOpen, ({ imageId }) => streamed({ size: 3 }, [Buffer.from(imageId === 'tiny' ? 'abc' : '')])),
  ])
  const agent = novaAgent({ link, driver, log: { debug() {}, info() {}, warn() {}, error() {}, child: () => assert.fail() } })
  t.after(async () => {
    await agent.close()
    await link.close()
    await hosts.close()
    await driver.close()
  })
  return { want, asked, reports, world, driver, hosts, link, agent }
}

test('on connecting the agent asks, makes it so and reports all with its inventory', async t => {
  const { want, world, reports, agent, hosts } = await scene(t)
  await until(async () => reports.length === 1, 'the first report')
  assert.equal(reports[0]?.full, true)
  assert.deepEqual(reports[0]?.guests, [])
  assert.equal(reports[0]?.inventory?.accelerator, 'memory')
  const spec = specOf(IMAGE)
  const gone = specOf(IMAGE)
  await hosts.call('h1', verbs.ensure, gone)
  want.ensure.push(spec)
  want.destroy.push(gone.id)
  await agent.sync()
  assert.deepEqual([...world.guests.keys()], [spec.id])
  assert.deepEqual(
    reports.at(-1)?.guests.map(g => [g.id, g.power]),
    [[spec.id, 'running']],
  )
})

test('a poke that names a guest asks for that one', async t => {
  const { want, asked, world, hosts } = await scene(t)
  await until(async () => asked.length === 1, 'the first question')
  const spec = specOf(IMAGE)
  want.ensure.push(spec)
  hosts.notify('h1', verbs.poke, { id: spec.id })
  await until(async () => world.guests.has(spec.id), 'the guest')
  assert.equal(asked[1]?.only, spec.id)
})

test('what happens by itself is reported at once', async t => {
  const { reports, world, hosts } = await scene(t)
  const spec = specOf(IMAGE)
  await hosts.call('h1', verbs.ensure, spec)
  world.shutItself(spec.id)
  const told = await until(
    async () => reports.flatMap(r => r.guests).find(g => g.id === spec.id && g.power === 'off'),
    'the report',
  )
  assert.match(told.reason ?? '', /shut itself down/)
})

test('verbs answer, and faults cross as they are', async t => {
  const { hosts } = await scene(t)
  const spec = specOf(IMAGE)
  assert.equal((await hosts.call('h1', verbs.ensure, spec)).power, 'running')
  assert.equal((await hosts.call('h1', verbs.power, { id: spec.id, to: 'off', timeout: 0, revision: 7 })).power, 'off')
  assert.equal((await hosts.call('h1', verbs.inspect, { id: spec.id })).guest?.revision, 7)
  await assert.rejects(hosts.call('h1', verbs.power, { id: spec.id, to: 'paused' }), error => {
    assert.ok(error instanceof Fault)
    assert.equal(error.kind, 'conflict')
    return true
  })
  assert.match((await hosts.call('h1', verbs.consoleOutput, { id: spec.id })).output, /ready/)
  await hosts.call('h1', verbs.destroy, { id: spec.id })
  assert.deepEqual(await hosts.call('h1', verbs.list, {}), { guests: [] })
})

test('a console is a stream both ways', async t => {
  const { hosts } = await scene(t)
  const spec = specOf(IMAGE)
  await hosts.call('h1', verbs.ensure, spec)
  const typed = new PassThrough()
  const { body } = await hosts.callStream('h1', verbs.consoleOpen, { id: spec.id, kind: 'serial' }, { body: typed })
  for (const text of ['hello', 'again']) {
    typed.write(text)
    const [echo] = await once(body, 'data')
    assert.equal(String(echo), text)
  }
  typed.end()
  await once(body, 'end')
})

test('a snapshot streams, an image comes in', async t => {
  const { hosts, link } = await scene(t)
  const spec = specOf(IMAGE)
  await hosts.call('h1', verbs.ensure, spec)
  const { result, body } = await hosts.callStream('h1', verbs.snapshot, { id: spec.id, disk: 'root' })
  let size = 0
  for await (const chunk of body) size += chunk.length
  assert.equal(size, result.size)
  const parts: Uint8Array[] = []
  for await (const chunk of await linkImages(link)(IMAGE, {})) parts.push(chunk)
  assert.equal(Buffer.concat(parts).toString(), 'abc')
})
