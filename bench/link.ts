/**
 * What the agent link costs, by form: calls a second at 64 in flight, the time of one call alone, CPU a call (both ends), bytes of streams,
 * and what a thousand hosts in one process take. The agent of the socket forms is a process of its own. Prints one JSON line a figure.
 * `node bench/link.ts`
 */
import { fork } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, rmSync } from 'node:fs'
import { createServer } from 'node:https'
import type { AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { dial, hostsOpen, memoryWay, type OpenHosts, serve, streamed, verb } from '#kit/link/index.ts'
import { keptLog, present } from '#kit/link/testing.ts'
import { unixListen } from '#kit/link/unix.ts'
import { wayOf } from '#kit/link/way.ts'
import { agentEndpoint } from '#kit/link/websocket.ts'
import { caCreate, certIssue } from '#kit/tls.ts'

/** Of the size of a server's `ensure`. */
const ARGS = {
  serverId: '7f2c1a52-6b0e-4c9e-9d0a-3c1f6a6a4a11',
  ports: [{ id: 'p1', mac: 'fa:16:3e:00:00:01', bridge: 'brq1', mtu: 1450 }],
  disks: [{ id: 'd1', path: '/var/lib/x', size: 1 << 30 }],
}
const ensure = verb<typeof ARGS, { state: string; pid: number }>('bench.ensure', { deadline: 30 })
const cpu = verb<null, number>('bench.cpu', { deadline: 30 })
const bytes = verb<{ size: number }, null>('bench.bytes', { deadline: 30 })

const cpuNow = (): number => {
  const { user, system } = process.cpuUsage()
  return user + system
}
const chunk = Buffer.alloc(256 * 1024)
const served = [
  serve(ensure, () => ({ state: 'running', pid: 4242 })),
  serve(cpu, cpuNow),
  serve(bytes, ({ size }) => streamed(null, many(size))),
]

function* many(size: number): Generator<Uint8Array> {
  for (let at = 0; at < size; at += chunk.length) yield chunk
}

const figure = (name: string, value: number, unit: string): void =>
  console.log(JSON.stringify({ figure: name, value: Number(value.toPrecision(4)), unit }))

async function measure(form: string, hosts: OpenHosts, host: string, twoProcesses: boolean): Promise<void> {
  const one = (key?: string) => hosts.call(host, ensure, ARGS, key === undefined ? {} : { key })
  const workers = (count: number, total: number, call: () => Promise<unknown>): Promise<unknown> => {
    let left = total
    return Promise.all(
      Array.from({ length: count }, async () => {
        while (left-- > 0) await call()
      }),
    )
  }
  await workers(64, 20_000, one)
  const timed = async (count: number, total: number, call: () => Promise<unknown>) => {
    const far = twoProcesses ? await hosts.call(host, cpu, null) : 0
    const near = cpuNow()
    const began = performance.now()
    await workers(count, total, call)
    const ms = performance.now() - began
    const used = cpuNow() - near + (twoProcesses ? (await hosts.call(host, cpu, null)) - far : 0)
    return { perSecond: (total / ms) * 1000, micros: (ms * 1000) / total, cpu: used / total }
  }
  const busy = await timed(64, 60_000, () => one())
  figure(`link ${form}: calls, 64 in flight`, busy.perSecond, '/s')
  figure(`link ${form}: CPU a call, both ends`, busy.cpu, 'us')
  figure(`link ${form}: one call alone`, (await timed(1, 10_000, () => one())).micros, 'us')
  let n = 0
  figure(`link ${form}: calls with a key`, (await timed(64, 30_000, () => one(`k${n++}`))).perSecond, '/s')
  const began = performance.now()
  const size = 1 << 30
  const { body } = await hosts.callStream(host, bytes, { size })
  for await (const _ of body);
  figure(`link ${form}: bytes from a host`, size / (1 << 20) / ((performance.now() - began) / 1000), 'MiB/s')
}

async function thousand(): Promise<void> {
  const log = keptLog()
  globalThis.gc?.()
  const before = process.memoryUsage()
  const began = performance.now()
  const hosts = hostsOpen({ controller: 'c1', log })
  const links = Array.from({ length: 1000 }, (_, i) =>
    dial({ host: `sim-${i}`, ways: [memoryWay(hosts, `sim-${i}`)], log, serve: served }),
  )
  await present(hosts, 'sim-999')
  figure('link memory: a thousand hosts connected', performance.now() - began, 'ms')
  globalThis.gc?.()
  figure('link memory: heap of a host', (process.memoryUsage().heapUsed - before.heapUsed) / 1000 / 1024, 'KiB')
  let next = 0
  const t0 = performance.now()
  await Promise.all(
    Array.from({ length: 64 }, async () => {
      for (let i = 0; i < 1000; i++) await hosts.call(`sim-${next++ % 1000}`, ensure, ARGS)
    }),
  )
  figure('link memory: calls spread over a thousand hosts', 64_000 / ((performance.now() - t0) / 1000), '/s')
  const idle = cpuNow()
  await new Promise(resolve => setTimeout(resolve, 3000))
  figure('link memory: CPU of a thousand hosts at rest', ((cpuNow() - idle) / 3e6) * 100, '% of a core')
  for (const link of links) await link.close()
  await hosts.close()
}

async function agentProcess(address: string, ca?: string): Promise<void> {
  dial({ host: 'bench', ways: [wayOf(address, { host: 'bench', secret: 'secret', ca })], log: keptLog(), serve: served })
  await once(process, 'disconnect')
  process.exit()
}

async function socket(form: string, hosts: OpenHosts, address: string, ca?: string): Promise<void> {
  const child = fork(import.meta.filename, { env: { ...process.env, LINK_AGENT: JSON.stringify({ address, ca }) } })
  await present(hosts, 'bench')
  await measure(form, hosts, 'bench', true)
  await hosts.close()
  child.disconnect()
  await once(child, 'exit')
}

async function all(): Promise<void> {
  const log = keptLog()
  const authenticate = async () => true
  const inMemory = hostsOpen({ controller: 'c1', log })
  const link = dial({ host: 'bench', ways: [memoryWay(inMemory, 'bench')], log, serve: served })
  await present(inMemory, 'bench')
  await measure('memory', inMemory, 'bench', false)
  await link.close()

  const folder = mkdtempSync(join(tmpdir(), 'nubo-bench-'))
  const onUnix = hostsOpen({ controller: 'c1', log })
  const path = join(folder, 'agent.sock')
  const server = await unixListen({ path, hosts: onUnix, authenticate, log })
  await socket('unix', onUnix, `unix:${path}`)
  await server.close()
  rmSync(folder, { recursive: true })

  const onWeb = hostsOpen({ controller: 'c1', log })
  const ca = caCreate('bench')
  const web = createServer(certIssue(ca, ['127.0.0.1']))
  web.on('upgrade', agentEndpoint({ hosts: onWeb, authenticate, log }).upgrade)
  web.listen(0, '127.0.0.1')
  await once(web, 'listening')
  await socket('websocket over TLS', onWeb, `wss://127.0.0.1:${(web.address() as AddressInfo).port}/agent`, ca.cert)
  web.close()
  await thousand()
}

const agent = process.env.LINK_AGENT ? (JSON.parse(process.env.LINK_AGENT) as { address: string; ca?: string }) : null
await (agent ? agentProcess(agent.address, agent.ca) : all())
