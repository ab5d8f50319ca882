import assert from 'node:assert/strict'
import { mkdtemp, rm } from 'node:fs/promises'
import { createServer, type Server, type Socket } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { type TestContext, test } from 'node:test'
import { guestAgent } from './agent.ts'
import { lineSplitter, QmpClosed, QmpError, qmpConnect } from './qmp.ts'

const GREETING =
  '{"QMP": {"version": {"qemu": {"micro": 22, "minor": 2, "major": 7}, "package": ""}, "capabilities": ["oob"]}}\r\n'

/** A socket on which `answer` plays QEMU: it gets each command and writes what it likes. */
async function pretended(
  t: TestContext,
  answer: (command: { execute: string; arguments?: Record<string, unknown>; id?: number }, socket: Socket) => void,
  greeting = GREETING,
): Promise<{ path: string; server: Server; listen: () => Promise<void> }> {
  const folder = await mkdtemp(join(tmpdir(), 'nubo-qmp-'))
  const path = join(folder, 'qmp')
  const sockets = new Set<Socket>()
  const server = createServer(socket => {
    sockets.add(socket)
    socket.on('error', () => undefined)
    socket.write(greeting)
    const split = lineSplitter(line => answer(JSON.parse(line.replace(/^[^{]*/, '')), socket))
    socket.on('data', split)
  })
  t.after(async () => {
    for (const socket of sockets) socket.destroy()
    server.close()
    await rm(folder, { recursive: true, force: true })
  })
  return { path, server, listen: () => new Promise(resolve => server.listen(path, resolve)) }
}

const ok = (socket: Socket, id: number | undefined, value: unknown = {}) =>
  socket.write(`${JSON.stringify({ return: value, id })}\r\n`)

test('negotiates, matches answers to commands in any order, tells refusals', async t => {
  const held: number[] = []
  const { path, listen } = await pretended(t, ({ execute, id }, socket) => {
    if (execute === 'slow') held.push(id as number)
    else if (execute === 'refuse')
      socket.write(`${JSON.stringify({ error: { class: 'GenericError', desc: 'will not' }, id })}\r\n`)
    else ok(socket, id, { execute })
    if (execute === 'quick') ok(socket, held.pop(), 'late')
  })
  await listen()
  const qmp = await qmpConnect(path)
  assert.equal(qmp.version, '7.2.22')
  const slow = qmp.execute('slow')
  assert.deepEqual(await qmp.execute('quick'), { execute: 'quick' })
  assert.equal(await slow, 'late')
  await assert.rejects(qmp.execute('refuse'), error => {
    assert.ok(error instanceof QmpError)
    assert.equal(error.message, 'refuse: will not')
    return true
  })
  qmp.close()
  await qmp.closed
  await assert.rejects(qmp.execute('x'), QmpClosed)
})

test('waits for a socket that is to appear', async t => {
  const { path, listen } = await pretended(t, ({ id }, socket) => ok(socket, id))
  const connecting = qmpConnect(path, { timeoutMs: 5000 })
  setTimeout(() => void listen(), 30)
  const qmp = await connecting
  qmp.close()
})

test('gives up: nobody there, nobody greets, the caller wants no more, no answer in time', async t => {
  const { path, listen } = await pretended(t, ({ execute, id }, socket) => execute === 'qmp_capabilities' && ok(socket, id))
  await assert.rejects(qmpConnect(path, { timeoutMs: 30 }), /nobody listens after 30 ms/)
  const stop = new AbortController()
  const waiting = qmpConnect(path, { signal: stop.signal })
  stop.abort()
  await assert.rejects(waiting, /cancelled/)
  await listen()
  const qmp = await qmpConnect(path)
  await assert.rejects(qmp.execute('silent', undefined, 20), /silent: no answer within 20 ms/)
  qmp.close()
  const mute = await pretended(t, () => undefined, '')
  await mute.listen()
  await assert.rejects(qmpConnect(mute.path, { timeoutMs: 30 }), /no greeting/)
})

test('events are heard, awaited, and end with the connection', async t => {
  const event = '{"event": "DEVICE_DELETED", "data": {"device": "d1"}, "timestamp": {"seconds": 5, "microseconds": 250000}}\r\n'
  const { path, listen } = await pretended(t, ({ execute, id }, socket) => {
    if (execute === 'device_del')
      socket.write(
        '{"event": "DEVICE_DELETED", "data": {"path": "/machine/x/virtio-backend"}, "timestamp": {"seconds": 5, "microseconds": 0}}\r\n',
      )
    ok(socket, id)
    if (execute === 'device_del') socket.write(event.slice(0, 20))
    if (execute === 'device_del') setTimeout(() => socket.write(event.slice(20)), 10)
    if (execute === 'quit') socket.end()
  })
  await listen()
  const qmp = await qmpConnect(path)
  const names: string[] = []
  const stop = qmp.on(e => names.push(e.event))
  const gone = qmp.wait(e => e.data.device === 'd1', 1000, 'unplug')
  await qmp.execute('device_del', { id: 'd1' })
  assert.equal((await gone).at, 5250)
  assert.deepEqual(names, ['DEVICE_DELETED', 'DEVICE_DELETED'])
  stop()
  await assert.rejects(
    qmp.wait(() => false, 10, 'nothing'),
    /nothing: not within 10 ms/,
  )
  const never = qmp.wait(() => false, 5000, 'nothing')
  await qmp.execute('quit')
  await assert.rejects(never, QmpClosed)
  await qmp.closed
  assert.equal(qmp.open, false)
})

test('what is not JSON ends the connection', async t => {
  const { path, listen } = await pretended(t, ({ execute, id }, socket) => {
    if (execute === 'break') socket.write('this is no protocol\r\n')
    else ok(socket, id)
  })
  await listen()
  const qmp = await qmpConnect(path)
  await assert.rejects(qmp.execute('break'), QmpClosed)
})

test('lines are cut at newlines wherever chunks end, and may not grow for ever', () => {
  const lines: string[] = []
  const split = lineSplitter(line => lines.push(line), 10)
  for (const chunk of ['a', 'bc\nd', '\r\n\n', 'e\nf']) split(Buffer.from(chunk))
  assert.deepEqual(lines, ['abc', 'd', 'e'])
  assert.throws(() => split(Buffer.from('0123456789')), /more than 10 bytes/)
})

test('the guest agent: old answers in the channel are skipped, refusals and silence are told', async t => {
  const { path, listen } = await pretended(
    t,
    ({ execute, arguments: args }, socket) => {
      if (execute === 'guest-sync-delimited')
        socket.write(Buffer.concat([Buffer.of(0xff), Buffer.from(`{"return": ${args?.id}}\n`)]))
      if (execute === 'guest-ping') socket.write('{"return": {}}\n')
      if (execute === 'guest-fsfreeze-freeze') socket.write('{"error": {"class": "GenericError", "desc": "no"}}\n')
    },
    '"cut of an old answer}\n{"return": 12345}\n',
  )
  await listen()
  assert.deepEqual(await guestAgent(path, 'guest-ping'), {})
  await assert.rejects(guestAgent(path, 'guest-fsfreeze-freeze'), /guest-fsfreeze-freeze: no/)
  await assert.rejects(guestAgent(path, 'guest-exec', {}, { timeoutMs: 30 }), /guest-exec: the guest agent did not answer/)
  const absent = await pretended(t, () => undefined, '')
  await absent.listen()
  await assert.rejects(guestAgent(absent.path, 'guest-ping', undefined, { syncMs: 30 }), /does not answer/)
})
