/** What strangers may do to a controller's open ports: nothing. */
import assert from 'node:assert/strict'
import { once } from 'node:events'
import { mkdtemp, rename, rm, stat } from 'node:fs/promises'
import { createServer } from 'node:http'
import { type AddressInfo, connect, createServer as createNetServer, type Socket } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { type TestContext, test } from 'node:test'
import fc from 'fast-check'
import { WebSocket } from 'ws'
import { dial } from './agent.ts'
import { hostsOpen } from './hosts.ts'
import { connected, keptLog } from './testing.ts'
import { unixListen, unixWay } from './unix.ts'
import { serve, verb } from './verb.ts'
import { agentEndpoint, webSocketWay } from './websocket.ts'

const add = verb<{ a: number; b: number }, number>('test.add', { deadline: 5 })
const authenticate = async ({ host, secret }: { host: string; secret: string }) => secret === `secret of ${host}`

function controller(t: TestContext) {
  const log = keptLog()
  const hosts = hostsOpen({ controller: 'c1', log })
  hosts.serve(null, [serve(add, ({ a, b }) => a + b)])
  t.after(() => hosts.close())
  return { hosts, log }
}

async function unix(t: TestContext, claimMs?: number) {
  const { hosts, log } = controller(t)
  const folder = await mkdtemp(join(tmpdir(), 'nubo-link-'))
  const path = join(folder, 'agent.sock')
  const server = await unixListen({ path, hosts, authenticate, log, claimMs })
  t.after(async () => {
    await server.close()
    await rm(folder, { recursive: true })
  })
  return { hosts, log, path }
}

async function web(t: TestContext) {
  const { hosts, log } = controller(t)
  const server = createServer()
  server.on('upgrade', agentEndpoint({ hosts, authenticate, log }).upgrade)
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  t.after(() => {
    server.close()
    server.closeAllConnections()
  })
  return { hosts, log, port: (server.address() as AddressInfo).port }
}

/** Sends bytes and resolves when the other side closed, or has had its time. */
async function throwAt(socket: Socket, bytes: Uint8Array): Promise<void> {
  socket.on('error', () => undefined)
  socket.resume()
  socket.end(bytes)
  await once(socket, 'close')
}

const frameOf = (text: string, kind = 0): Buffer => {
  const head = Buffer.alloc(5)
  head.writeUInt32BE(Buffer.byteLength(text), 0)
  head[4] = kind
  return Buffer.concat([head, Buffer.from(text)])
}

test('unix: any bytes, before and after the claim, leave the controller well', { timeout: 60_000 }, async t => {
  const { hosts, path } = await unix(t)
  const link = dial({ host: 'good', ways: [unixWay(path, { host: 'good', secret: 'secret of good' })], log: keptLog() })
  t.after(() => link.close())
  await connected(link)
  const claim = frameOf(JSON.stringify({ host: 'evil', secret: 'secret of evil' }))
  const bytes = fc.oneof(
    fc.uint8Array({ maxLength: 200 }),
    fc.array(fc.json().map(text => frameOf(text))).map(parts => Buffer.concat(parts)),
    fc.constant(Buffer.from([0xff, 0xff, 0xff, 0xff, 0])),
    fc.constant(Buffer.from([0, 0, 0x20, 0, 0])),
  )
  await fc.assert(
    fc.asyncProperty(bytes, fc.boolean(), async (after, claims) => {
      await throwAt(connect(path), claims ? Buffer.concat([claim, after]) : after)
      assert.equal(await link.ask(add, { a: 1, b: 2 }), 3)
    }),
    { numRuns: 300 },
  )
  assert.deepEqual(hosts.connected(), ['good'])
})

test('unix: a wrong secret is refused, with the reason', async t => {
  const { hosts, path, log } = await unix(t)
  for (const secret of ['secret of other', 'x', '']) {
    await assert.rejects(unixWay(path, { host: 'h1', secret }).connect(AbortSignal.timeout(2000)), /refused|closed/)
  }
  assert.deepEqual(hosts.connected(), [])
  assert(log.lines.some(line => JSON.stringify(line.fields).includes('wrong secret of host h1')))
  assert(!JSON.stringify(log.lines).includes('secret of other'))
})

test('unix: the socket is private, replaces one left by a dead process, and never a live one', async t => {
  const { hosts, path, log } = await unix(t)
  assert.equal((await stat(path)).mode & 0o777, 0o600)
  await assert.rejects(unixListen({ path, hosts, authenticate, log }), /EADDRINUSE/)
  // A listener that dies leaves its file: made by one that is closed after the file was moved aside and back.
  const stale = `${path}.stale`
  const dead = createNetServer().listen(stale)
  await once(dead, 'listening')
  await rename(stale, `${stale}.kept`)
  dead.close()
  await once(dead, 'close')
  await rename(`${stale}.kept`, stale)
  const again = await unixListen({ path: stale, hosts, authenticate, log })
  const link = dial({ host: 'h1', ways: [unixWay(stale, { host: 'h1', secret: 'secret of h1' })], log })
  await connected(link)
  await link.close()
  await again.close()
})

test('unix: a stranger that says nothing is not kept', { timeout: 5000 }, async t => {
  const { path, log } = await unix(t, 50)
  const socket = connect(path)
  socket.resume()
  await once(socket, 'close')
  assert(log.lines.some(line => line.message === 'a connection was refused'))
})

test('websocket: upgrades without the right secret get 401, whatever they carry', async t => {
  const { hosts, port } = await web(t)
  const good = Buffer.from('h1:secret of h1').toString('base64')
  const bad = [
    undefined,
    '',
    'Basic',
    'Basic %%%',
    `Bearer ${good}`,
    `Basic ${Buffer.from('h1:wrong').toString('base64')}`,
    `Basic ${'A'.repeat(3000)}`,
    `Basic ${Buffer.from('../x:y').toString('base64')}`,
  ]
  for (const authorization of bad) {
    const ws = new WebSocket(`ws://127.0.0.1:${port}/agent`, { headers: authorization === undefined ? {} : { authorization } })
    ws.on('error', () => undefined)
    const [, response] = await once(ws, 'unexpected-response')
    assert.equal(response.statusCode, 401, authorization)
    ws.terminate()
  }
  assert.deepEqual(hosts.connected(), [])
})

test('websocket: broken frames and too long messages cut the link of who sent them', async t => {
  const { hosts, port, log } = await web(t)
  const link = dial({
    host: 'good',
    ways: [webSocketWay(`ws://127.0.0.1:${port}/agent`, { host: 'good', secret: 'secret of good' })],
    log: keptLog(),
  })
  t.after(() => link.close())
  await connected(link)
  const authorization = `Basic ${Buffer.from('evil:secret of evil').toString('base64')}`
  const attacks: ((ws: WebSocket, socket: Socket) => void)[] = [
    (_, socket) => socket.write(Buffer.from([0xff, 0xff, 0xff, 0xff])),
    ws => ws.send('x'.repeat(9_000_000)),
    ws => ws.send('[1,2'),
    ws => ws.send(Buffer.from([7, 7, 7])),
    (_, socket) => socket.write(Buffer.from([0x81, 0x85, 0, 0, 0, 0, 0xff, 0xfe, 0xff, 0xff, 0xff])), // a text frame that is no UTF-8
  ]
  for (const attack of attacks) {
    const ws = new WebSocket(`ws://127.0.0.1:${port}/agent`, { headers: { authorization } })
    ws.on('error', () => undefined)
    let under: Socket | null = null
    ws.once('upgrade', response => {
      under = response.socket
    })
    await once(ws, 'open')
    ws.send('{"t":"note","name":"link.ready"}')
    attack(ws, under!)
    await once(ws, 'close')
    assert.equal(await link.ask(add, { a: 1, b: 2 }), 3)
  }
  assert.deepEqual(hosts.connected(), ['good'])
  assert(log.lines.some(line => line.message === 'malformed message: the link is cut'))
})

test('websocket: a secret is never sent in the clear to another machine', () => {
  for (const address of [
    'ws://10.0.0.1:5000/agent',
    'ws://example.org/agent',
    'http://127.0.0.1/agent',
    'ws://127.0.0.1.example.org/agent',
  ]) {
    assert.throws(() => webSocketWay(address, { host: 'h', secret: 's' }), /wss:/, address)
  }
  for (const address of ['wss://10.0.0.1:5000/agent', 'ws://localhost:1/agent', 'ws://[::1]:1/agent', 'ws://127.0.0.2:1/agent']) {
    assert.equal(webSocketWay(address, { host: 'h', secret: 's' }).address, address)
  }
})
