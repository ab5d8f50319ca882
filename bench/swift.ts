/** Object storage: small objects, large ones, a container of a million, memory under many connections and a large upload. */
import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { readFileSync } from 'node:fs'
import { mkdtemp, rm } from 'node:fs/promises'
import { Agent, request } from 'node:http'
import { connect, type Socket } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { Worker } from 'node:worker_threads'
import { cpuOf } from './cloud.ts'
import { atLeast, atMost, type Bench, type Figure } from './figure.ts'
import { median } from './load.ts'
import type { Asked, Measured } from './swift.worker.ts'

const MIB = 1024 * 1024

interface Process {
  url: string
  headers: Record<string, string>
  pid: number
  stop(): Promise<void>
}

async function child(argv: string[], port: number): Promise<ChildProcess> {
  const process_ = spawn(process.execPath, argv, { stdio: ['ignore', 'pipe', 'inherit'] })
  await Promise.race([
    once(process_.stdout!, 'data'),
    once(process_, 'exit').then(() => Promise.reject(new Error(`${argv[0]} did not start on port ${port}`))),
  ])
  process_.stdout!.resume()
  return process_
}

const ended = async (one: ChildProcess): Promise<void> => {
  one.kill('SIGTERM')
  if (one.exitCode === null && one.signalCode === null) await once(one, 'exit')
}

const path = (name: string): string => new URL(name, import.meta.url).pathname

/** A store alone, as a process of its own, with that many devices and copies. */
async function store(port: number, dir: string, replicas: number): Promise<Process> {
  const devices = Array.from({ length: replicas }, (_, i) => `d${i + 1}`).join(',')
  const options = ['--data', dir, '--port', String(port), '--devices', devices, '--replicas', String(replicas), '--quiet']
  const one = await child([path('../src/services/swift/alone.ts'), ...options, '--user', 'test:tester:testing:.admin'], port)
  const login = await ask('GET', `http://127.0.0.1:${port}/auth/v1.0`, { 'x-auth-user': 'test:tester', 'x-auth-key': 'testing' })
  return {
    url: String(login.headers['x-storage-url']),
    headers: { 'x-auth-token': String(login.headers['x-auth-token']) },
    pid: one.pid!,
    stop: () => ended(one),
  }
}

/** The limit: a bare Node server that does the same to files, and nothing else. */
async function bare(port: number, dir: string): Promise<Process> {
  const one = await child([path('./swift.bare.ts'), String(port), dir], port)
  return { url: `http://127.0.0.1:${port}`, headers: {}, pid: one.pid!, stop: () => ended(one) }
}

const agent = new Agent({ keepAlive: true })

function ask(
  method: string,
  url: string,
  headers: Record<string, string>,
  body?: Buffer,
): Promise<{ status: number; headers: Record<string, unknown>; body: Buffer }> {
  return new Promise((resolve, reject) => {
    const outgoing = request(
      url,
      { agent, method, headers: { ...headers, 'content-length': String(body?.length ?? 0) } },
      incoming => {
        const parts: Buffer[] = []
        incoming.on('data', (part: Buffer) => parts.push(part))
        incoming.on('error', reject)
        incoming.on('end', () => resolve({ status: incoming.statusCode!, headers: incoming.headers, body: Buffer.concat(parts) }))
      },
    )
    outgoing.on('error', reject)
    outgoing.end(body)
  })
}

/** A load from a thread of its own; `cpu`: milliseconds of processor that the server used for one request, what was prepared left out. */
function load(to: Process, asked: Omit<Asked, 'url' | 'headers'>): Promise<Measured & { cpu: number }> {
  const used = (): number => cpuOf({ pids: () => [to.pid] }) * 1000
  return new Promise((resolve, reject) => {
    let before = 0
    const worker = new Worker(new URL('./swift.worker.ts', import.meta.url), {
      workerData: { ...asked, url: to.url, headers: to.headers },
    })
    worker.on('message', (measured: Measured | 'begins') => {
      if (measured === 'begins') before = used()
      else if (measured.failed) reject(new Error(`${measured.failed} requests failed: ${measured.why}`))
      else resolve({ ...measured, cpu: (used() - before) / measured.count })
    })
    worker.once('error', reject)
  })
}

interface Rate {
  perSecond: number
  /** Milliseconds of processor that the server used for one request. */
  cpu: number
}

/** Several servers in turn, so that a machine whose speed drifts is fair to all: each one's median. */
async function inTurns(servers: Process[], rounds: number, asked: Omit<Asked, 'url' | 'headers' | 'round'>): Promise<Rate[]> {
  const rates: Rate[][] = servers.map(() => [])
  for (let round = 0; round < rounds; round++) {
    for (const [i, server] of servers.entries()) {
      rates[i]!.push(await load(server, { ...asked, round }))
    }
  }
  return rates.map(list => ({ perSecond: median(list.map(one => one.perSecond)), cpu: median(list.map(one => one.cpu)) }))
}

const cost = ([own, limit]: Rate[]): string =>
  `${own!.cpu.toFixed(2)} ms of processor a request${limit ? `, the limit's server ${limit.cpu.toFixed(2)}` : ''}`

async function oneDevice(dir: string, say: (line: string) => void): Promise<Figure[]> {
  const servers = [await store(5181, join(dir, 'one'), 1), await bare(5182, join(dir, 'bare'))]
  try {
    await ask('PUT', `${servers[0]!.url}/c`, servers[0]!.headers)
    await ask('PUT', `${servers[1]!.url}/c`, {})
    say('one device: 4 KiB')
    const small = { connections: 32, seconds: 5, size: 4096 }
    const put = await inTurns(servers, 3, { ...small, method: 'PUT' })
    const get = await inTurns(servers, 3, { ...small, method: 'GET' })
    say('one device: 64 MiB')
    const large = { connections: 2, seconds: 5, size: 64 * MIB }
    const up = await inTurns(servers, 3, { ...large, method: 'PUT' })
    const down = await inTurns(servers, 3, { ...large, method: 'GET' })
    return [
      atLeast('one device, 4 KiB PUT', put[0]!.perSecond, '1/s', put[1]!.perSecond, 0.6, cost(put)),
      atLeast('one device, 4 KiB GET', get[0]!.perSecond, '1/s', get[1]!.perSecond, 0.6, cost(get)),
      atLeast('one device, 64 MiB PUT', up[0]!.perSecond * 64, 'MiB/s', up[1]!.perSecond * 64, 0.6, cost(up)),
      atLeast('one device, 64 MiB GET', down[0]!.perSecond * 64, 'MiB/s', down[1]!.perSecond * 64, 0.6, cost(down)),
    ]
  } finally {
    for (const server of servers) await server.stop()
  }
}

async function threeReplicas(dir: string, say: (line: string) => void): Promise<Figure[]> {
  say('three replicas on three devices')
  const server = await store(5183, join(dir, 'three'), 3)
  try {
    await ask('PUT', `${server.url}/c`, server.headers)
    const small = { connections: 64, seconds: 5, size: 4096 }
    const put = await inTurns([server], 3, { ...small, method: 'PUT' })
    const get = await inTurns([server], 3, { ...small, method: 'GET' })
    return [
      atLeast('three replicas, 4 KiB PUT', put[0]!.perSecond, '1/s', 800, 1, cost(put)),
      atLeast('three replicas, 4 KiB GET', get[0]!.perSecond, '1/s', 4000, 1, cost(get)),
    ]
  } finally {
    await server.stop()
  }
}

/** Median milliseconds of requests one after another. */
async function latency(times: number, one: (i: number) => Promise<{ status: number }>): Promise<number> {
  const list: number[] = []
  for (let i = 0; i < times; i++) {
    const began = performance.now()
    const { status } = await one(i)
    if (status > 299) throw new Error(`answered ${status}`)
    list.push(performance.now() - began)
  }
  return median(list)
}

async function million(dir: string, say: (line: string) => void): Promise<Figure[]> {
  say('a container of 1,000,000 objects')
  const server = await store(5184, join(dir, 'million'), 1)
  try {
    for (const name of ['few', 'many']) await ask('PUT', `${server.url}/${name}`, server.headers)
    await server.stop()
    await new Promise<void>((resolve, reject) => {
      const worker = new Worker(new URL('./swift.fill.worker.ts', import.meta.url), {
        workerData: { dir: join(dir, 'million'), account: 'AUTH_test', container: 'many', count: 1_000_000 },
      })
      worker.once('exit', code => (code ? reject(new Error('filling failed')) : resolve()))
      worker.once('error', reject)
    })
    const again = await store(5184, join(dir, 'million'), 1)
    try {
      const body = Buffer.alloc(4096)
      for (let i = 0; i < 1000; i++) await ask('PUT', `${again.url}/few/o${String(i).padStart(7, '0')}`, again.headers, body)
      const list = (name: string, marker: string) => () =>
        ask('GET', `${again.url}/${name}?limit=1000&format=json&marker=${marker}`, again.headers)
      const put = (name: string) => (i: number) => ask('PUT', `${again.url}/${name}/o0500000-${i}`, again.headers, body)
      const pairs: [number, number][] = []
      for (let round = 0; round < 5; round++)
        pairs.push([await latency(20, list('few', '')), await latency(20, list('many', 'o0500000'))])
      const puts: [number, number][] = []
      for (let round = 0; round < 5; round++) puts.push([await latency(50, put('few')), await latency(50, put('many'))])
      const best = (all: [number, number][], i: 0 | 1): number => median(all.map(pair => pair[i]))
      return [
        atMost(
          'a page of 1000 of 1,000,000 objects',
          best(pairs, 1),
          'ms',
          1.5 * best(pairs, 0),
          'limit: 1.5 times a container of 1000',
        ),
        atMost(
          '4 KiB PUT beside 1,000,000 objects',
          best(puts, 1),
          'ms',
          1.5 * best(puts, 0),
          'limit: 1.5 times a container of 1000',
        ),
      ]
    } finally {
      await again.stop()
    }
  } finally {
    await server.stop()
  }
}

const rss = (pid: number): number => Number(/^VmRSS:\s+(\d+)/m.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))![1]) / 1024

async function memory(dir: string, say: (line: string) => void): Promise<Figure[]> {
  say('memory: 10,000 idle connections, an upload of 5 GiB')
  const server = await store(5185, join(dir, 'memory'), 1)
  const sockets: Socket[] = []
  try {
    await ask('PUT', `${server.url}/c`, server.headers)
    await load(server, { connections: 16, seconds: 3, size: MIB, method: 'PUT', round: 0 }) // warm
    const before = rss(server.pid)
    for (let i = 0; i < 10_000; i += 200) {
      const more = Array.from({ length: 200 }, () => connect(5185, '127.0.0.1'))
      await Promise.all(more.map(socket => once(socket, 'connect')))
      sockets.push(...more)
    }
    const idle = rss(server.pid)
    for (const socket of sockets) socket.destroy()
    let peak = 0
    const watch = setInterval(() => {
      peak = Math.max(peak, rss(server.pid))
    }, 200)
    const began = performance.now()
    await upload(`${server.url}/c/huge`, server.headers, 5 * 1024 * MIB)
    clearInterval(watch)
    const seconds = (performance.now() - began) / 1000
    await ask('DELETE', `${server.url}/c/huge`, server.headers)
    return [
      atMost('memory more with 10,000 idle connections', idle - before, 'MiB', 150, `${before.toFixed(0)} MiB before`),
      atMost('memory more in a 5 GiB upload', peak - idle, 'MiB', 150, `${((5 * 1024) / seconds).toFixed(0)} MiB/s`),
    ]
  } finally {
    for (const socket of sockets) socket.destroy()
    await server.stop()
  }
}

function upload(url: string, headers: Record<string, string>, size: number): Promise<void> {
  return new Promise((resolve, reject) => {
    const outgoing = request(url, { method: 'PUT', headers: { ...headers, 'content-length': String(size) } }, incoming => {
      incoming.resume()
      incoming.on('end', () => (incoming.statusCode === 201 ? resolve() : reject(new Error(`answered ${incoming.statusCode}`))))
    })
    outgoing.on('error', reject)
    const piece = Buffer.alloc(MIB, 'x')
    const write = async (): Promise<void> => {
      for (let left = size; left > 0; left -= piece.length) if (!outgoing.write(piece)) await once(outgoing, 'drain')
      outgoing.end()
    }
    write().catch(reject)
  })
}

export const bench: Bench = {
  about: 'object storage: small and large objects, a container of a million, memory',
  async run(say) {
    const dir = await mkdtemp(join(tmpdir(), 'nubo-bench-swift-'))
    try {
      return [
        ...(await oneDevice(dir, say)),
        ...(await threeReplicas(dir, say)),
        ...(await million(dir, say)),
        ...(await memory(dir, say)),
      ]
    } finally {
      agent.destroy()
      await rm(dir, { recursive: true, force: true })
    }
  },
}
