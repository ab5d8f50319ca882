/** Helpers for tests of the link and of those who use it in memory. */
import { type DialOptions, dial, type Way } from './agent.ts'
import { type HostsOptions, hostsOpen, type OpenHosts } from './hosts.ts'
import { memoryWay } from './memory.ts'
import type { AgentLink } from './types.ts'
import type { LinkLog } from './verb.ts'
import type { Wire } from './wire.ts'

/** A log that keeps its lines instead of printing them. */
export function keptLog(): LinkLog & { lines: { level: string; message: string; fields: object }[] } {
  const lines: { level: string; message: string; fields: object }[] = []
  const at = (level: string) => (fields: object, message: string) => void lines.push({ level, message, fields })
  const log: LinkLog = { debug: at('debug'), info: at('info'), warn: at('warn'), error: at('error'), child: () => log }
  return Object.assign(log, { lines })
}

/** A controller and an agent named `host` in one process, connected when this resolves. Close both at the end of the test. */
export async function memoryLink(
  host: string,
  options: Partial<HostsOptions & DialOptions> = {},
): Promise<{ hosts: OpenHosts; link: AgentLink }> {
  const log = options.log ?? keptLog()
  const hosts = hostsOpen({ controller: 'c1', log, ...options })
  const link = dial({ host, ways: [memoryWay(hosts, host)], log, ...options })
  await connected(link)
  return { hosts, link }
}

/** Resolves when the agent has a controller. */
export function connected(link: AgentLink): Promise<void> {
  return new Promise(resolve => {
    const off = link.onConnect(() => {
      queueMicrotask(() => off())
      resolve()
    })
  })
}

/** Resolves when a host's presence at a controller is as asked. */
export function present(hosts: OpenHosts, host: string, change: 'connect' | 'disconnect' = 'connect'): Promise<void> {
  return new Promise(resolve => {
    if (hosts.isConnected(host) === (change === 'connect')) return resolve()
    const off = hosts.watch(seen => {
      if (seen.host !== host || seen.change !== change) return
      off()
      resolve()
    })
  })
}

/** A way whose wires can be cut by the test, or at a chosen message in either direction. */
export interface Cuttable {
  way: Way
  /** Cuts the present wire, as a broken cable does: neither end is told why. */
  cut(): void
  /** Cuts at the n-th message from now (1 is the next), counting both directions, instead of delivering it. */
  cutAt(n: number): void
  /** Messages that passed since the last `cutAt`. */
  passed(): number
  /** How often it connected. */
  readonly connects: number
}

/** Wraps a way so that a test can cut it. */
export function cuttable(way: Way): Cuttable {
  let wire: Wire | null = null
  let left = Number.POSITIVE_INFINITY
  let count = 0
  let connects = 0
  const pass = (): boolean => {
    count++
    if (--left > 0) return true
    if (left === 0) wire?.close('cut by the test')
    return false
  }
  return {
    way: {
      address: way.address,
      async connect(signal) {
        wire = wrap(await way.connect(signal), pass)
        left = left > 0 ? left : Number.POSITIVE_INFINITY
        connects++
        return wire
      },
    },
    cut: () => wire?.close('cut by the test'),
    cutAt(n) {
      left = n
      count = 0
    },
    passed: () => count,
    get connects() {
      return connects
    },
  }
}

function wrap(inner: Wire, pass: () => boolean): Wire {
  return {
    name: inner.name,
    remote: inner.remote,
    get buffered() {
      return inner.buffered
    },
    send: text => {
      if (pass()) inner.send(text)
    },
    chunk: (from, id, bytes) => {
      if (pass()) inner.chunk(from, id, bytes)
    },
    close: reason => inner.close(reason),
    open: on =>
      inner.open({
        ...on,
        text: text => {
          if (pass()) on.text(text)
        },
        chunk: (from, id, bytes) => {
          if (pass()) on.chunk(from, id, bytes)
        },
      }),
  }
}
