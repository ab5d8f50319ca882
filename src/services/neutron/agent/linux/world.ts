// A host for tests on the real kernel: a namespace stands for the machine, further ones for its guests. Root only; all of it goes with the test.
import { mkdtemp, rm } from 'node:fs/promises'
import { createServer, type Server } from 'node:net'
import { tmpdir } from 'node:os'
import type { TestContext } from 'node:test'
import { setTimeout as delay } from 'node:timers/promises'
import { batch } from '#host/net/ip.ts'
import { listenIn } from '#host/net/listen.ts'
import { netnsDelete, netnsEnsure } from '#host/net/netns.ts'
import { follow, type RunResult, run } from '#host/run.ts'
import type { DesiredNetwork, DesiredPort } from '../desired.ts'
import type { NetDriver } from '../driver.ts'
import { tapName } from '../names.ts'
import type { NetConfig } from './config.ts'
import { linuxNet } from './driver.ts'

let made = 0

/** Seconds to wait for an answer that shall come. */
const PATIENTLY = 10

/** Something at the far end of a tap. */
export interface TestGuest {
  netns: string
  /** Whether an answer comes, waiting so long for it (by default long enough for a busy machine). */
  ping(ip: string, seconds?: number): Promise<boolean>
  /** Pings without end; resolves when the first answer came. */
  talks(ip: string): Promise<{ answers(): number; stop(): Promise<void> }>
  /** Whether a TCP connection to there is made. */
  connects(ip: string, port: number, seconds?: number): Promise<boolean>
  /** Accepts TCP connections, counts them, and says hello. */
  listens(port: number): Promise<Server>
  run(argv: string[], codes?: number[]): Promise<RunResult>
  /** Takes the tap away. */
  leaves(): Promise<void>
}

export interface TestHost {
  driver: NetDriver
  netns: string
  config: NetConfig
  /** A guest whose tap appears now; with addresses set up by hand unless `bare`. */
  guest(
    port: DesiredPort,
    network: DesiredNetwork,
    options?: { bare?: boolean; mac?: string; ips?: string[] },
  ): Promise<TestGuest>
}

/** A host of its own for a test. */
export async function testHost(t: TestContext, word: string, more: Partial<NetConfig> = {}): Promise<TestHost> {
  const netns = `nubotest-${word}-${process.pid}-${++made}`
  await netnsEnsure({}, netns)
  const stateDir = await mkdtemp(`${tmpdir()}/nubo-net-`)
  // dnsmasq gives up root before it reads these.
  await run(['chmod', '755', stateDir])
  const config: NetConfig = {
    stateDir,
    overlayAddress: null,
    physicalNetworks: {},
    place: { netns },
    prefix: `${netns.slice(-12)}-`,
    ...more,
  }
  const driver = linuxNet(config)
  const guests: string[] = []
  t.after(async () => {
    for (const guest of guests) await netnsDelete(guest)
    await driver.destroy()
    await driver.close()
    await netnsDelete(netns)
    await rm(stateDir, { recursive: true, force: true })
  })
  return {
    driver,
    netns,
    config,
    async guest(port, network, options = {}) {
      const inner = `${netns}-${port.id.slice(0, 8)}`
      guests.push(inner)
      await netnsEnsure({}, inner)
      const tap = tapName(port.id)
      await batch({ netns }, [
        ['link', 'add', tap, 'type', 'veth', 'peer', 'name', 'eth0', 'address', options.mac ?? port.mac, 'netns', inner],
      ])
      const ips = options.ips ?? port.fixedIps.map(one => one.ip)
      const length = (ip: string) =>
        network.subnets.find(s => s.ipVersion === (ip.includes(':') ? 6 : 4))?.cidr.split('/')[1] ?? 24
      await batch({ netns: inner }, [
        ['link', 'set', 'eth0', 'mtu', network.mtu],
        ['link', 'set', 'eth0', 'up'],
        ...(options.bare
          ? []
          : ips.map(ip => ['addr', 'add', `${ip}/${length(ip)}`, 'dev', 'eth0', ...(ip.includes(':') ? ['nodad'] : [])])),
        ...(options.bare
          ? []
          : network.subnets
              .filter(s => s.gatewayIp)
              .map(s => ['route', 'replace', s.ipVersion === 4 ? '0.0.0.0/0' : '::/0', 'via', s.gatewayIp as string])),
      ])
      return testGuest(t, inner)
    },
  }
}

/** What can be asked of a namespace that stands for a guest (or for somebody outside). */
export function testGuest(t: TestContext, netns: string): TestGuest {
  return {
    netns,
    run: (argv, codes) => run(argv, { netns, codes }),
    async ping(ip, seconds = PATIENTLY) {
      const end = performance.now() + seconds * 1000
      for (;;) {
        const left = Math.max((end - performance.now()) / 1000, 0.01)
        const argv = ['timeout', left.toFixed(2), 'ping', '-n', '-q', '-i', '0.2', '-c', '1', '-w', String(PATIENTLY), ip]
        const { code } = await run(argv, { netns, codes: [0, 1, 2, 124] })
        if (code === 0) return true
        if (code === 124 || performance.now() >= end) return false
        // Told on the way that nobody is there: a router solicits no neighbours by a link whose own address it is still checking for duplicates,
        // which takes a busy machine seconds.
        await delay(50)
      }
    },
    async talks(ip) {
      let answers = 0
      const first = Promise.withResolvers<void>()
      const ping = await follow(
        ['ping', '-n', '-i', '0.05', ip],
        line => {
          if (!line.includes('bytes from')) return
          answers++
          first.resolve()
        },
        { netns },
      )
      t.after(() => ping.stop())
      await first.promise
      return { answers: () => answers, stop: () => ping.stop() }
    },
    async connects(ip, port, seconds = PATIENTLY) {
      const { code } = await run(['timeout', String(seconds), 'bash', '-c', `exec 3<>/dev/tcp/${ip}/${port} && head -c 5 <&3`], {
        netns,
        codes: [0, 1, 124],
      })
      return code === 0
    },
    async listens(port) {
      const [handle] = await listenIn(netns, [{ host: '::', port }])
      const server = createServer(socket => socket.on('error', () => undefined).end('hello')).listen(handle)
      t.after(() => server.close())
      return server
    },
    async leaves() {
      await batch({ netns }, [['link', 'del', 'eth0']])
    },
  }
}
