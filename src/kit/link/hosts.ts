/** The controller's side: one link a host, the newest one wins. */
import { reason } from '#kit/fault.ts'
import { linkCode, linkDown } from './faults.ts'
import { Peer } from './peer.ts'
import { type Mounted, mount } from './serving.ts'
import type { HostChange, Hosts, StreamedAnswer } from './types.ts'
import type { CallOptions, LinkLog, Served, Verb } from './verb.ts'
import type { Wire } from './wire.ts'

/** A host of this very process came, one came that proved itself, one left. */
export type Change = 'own' | 'proven' | 'left'

/** Where hosts are remembered; `registry.ts` in PostgreSQL. */
export interface HostMemory {
  /** The host connected to, or left, this controller. Must not throw: it is written soon, not now. */
  changed(host: string, change: Change): void
  /** When the host was last seen by any controller, or null. */
  lastSeen(host: string): Promise<Date | null>
}

export interface HostsOptions {
  /** This controller's name among its peers; agents tell links apart by it. */
  controller: string
  log: LinkLog
  memory?: HostMemory
  /** How long a call that lost its link waits for the host to come back, in seconds. */
  patience?: number
  /** Seconds from now on in which hosts that were here before a restart come back: calls wait for them. 0 unless given. */
  returning?: number
}

/** What `hostsOpen` makes: {@link Hosts}, and what only the process that holds it needs. */
export interface OpenHosts extends Hosts {
  /** Tells all agents, now and when they connect, under which addresses controllers are found. */
  announce(addresses: readonly string[]): void
  /** Cuts a host's link, if there is one. */
  drop(host: string, why: string): void
}

/** How long the far end of a new link may take to say that it wants it. */
const HANDSHAKE_MS = 10_000
const PATIENCE = 10
/** A host that was last seen longer than this before the start is not on its way back (milliseconds). */
const RECENT_MS = 60_000

/**
 * A controller's hosts. An agent may reach one controller under two addresses, so a new link counts only when the agent answers `link.hello`
 * (which names the controller) by `link.ready`: then it replaces an older link of the same host.
 */
export function hostsOpen(options: HostsOptions): OpenHosts {
  const { controller, log, memory } = options
  const served = new Map<string, Mounted>()
  const links = new Map<string, Peer>()
  const pending = new Set<Peer>()
  const watchers = new Set<(change: HostChange) => void>()
  const left = new Map<string, Date>()
  const keys = `${controller}-${process.pid}-${Date.now().toString(36)}`
  const recently = new Date(Date.now() - RECENT_MS)
  const returnedBy = performance.now() + (options.returning ?? 0) * 1000
  let addresses: readonly string[] = []
  let lastKey = 0
  let closed = false

  const tell = (change: HostChange): void => {
    for (const fn of watchers) {
      try {
        fn(change)
      } catch (error) {
        log.error({ host: change.host, error: reason(error) }, 'a watcher of hosts failed')
      }
    }
  }

  const install = (host: string, peer: Peer, wire: Wire): void => {
    const older = links.get(host)
    links.set(host, peer)
    older?.close('the host connected again')
    log.info({ host, wire: wire.name }, 'host connected')
    if (older) return
    memory?.changed(host, wire.remote ? 'proven' : 'own')
    tell({ host, change: 'connect' })
  }

  const leave = (host: string, peer: Peer, why: string): void => {
    if (links.get(host) !== peer) return
    links.delete(host)
    left.set(host, new Date())
    log.info({ host, reason: why }, 'host disconnected')
    memory?.changed(host, 'left')
    tell({ host, change: 'disconnect', reason: why })
  }

  const accept = ({ host, wire }: { host: string; wire: Wire }): void => {
    const timer = setTimeout(() => peer.close('no handshake'), HANDSHAKE_MS).unref()
    const settled = (): void => {
      clearTimeout(timer)
      pending.delete(peer)
    }
    const peer = new Peer({
      wire,
      host,
      far: `host ${host}`,
      served,
      actions: null,
      log,
      onOwn: name => {
        if (name !== 'link.ready' || !pending.has(peer)) return
        settled()
        install(host, peer, wire)
      },
      onClose: why => {
        settled()
        leave(host, peer, why)
      },
    })
    pending.add(peer)
    if (closed) peer.close('the controller is stopping')
    else peer.notify('link.hello', { controller, host, controllers: addresses })
  }

  const seen = async (host: string): Promise<Date | null> => {
    const here = left.get(host) ?? null
    if (here || !memory) return here
    return memory.lastSeen(host)
  }

  /** Resolves to the host's link, or to null when it did not come back in time. */
  const back = (host: string, ms: number, signal?: AbortSignal): Promise<Peer | null> =>
    new Promise((resolve, reject) => {
      const done = (): void => {
        clearTimeout(timer)
        watchers.delete(watcher)
        signal?.removeEventListener('abort', aborted)
      }
      const settle = (peer: Peer | null): void => {
        done()
        resolve(peer)
      }
      const aborted = (): void => {
        done()
        reject(signal!.reason)
      }
      const watcher = (change: HostChange): void => {
        if (change.host === host && change.change === 'connect') settle(links.get(host) ?? null)
      }
      const timer = setTimeout(() => settle(null), ms)
      watchers.add(watcher)
      signal?.addEventListener('abort', aborted, { once: true })
      if (links.has(host) || closed) settle(links.get(host) ?? null)
      else if (signal?.aborted) aborted()
    })

  const returningSince = (): Date | null => (performance.now() < returnedBy ? recently : null)

  /** The link of a host that is on its way back after this controller's start, once it is here; null for any other. */
  const returned = async (host: string, ms: number, signal?: AbortSignal): Promise<Peer | null> => {
    const since = returningSince()
    const last = since && (await seen(host))
    return last && last >= since ? back(host, Math.min(ms, returnedBy - performance.now()), signal) : null
  }

  const ask = async <A, R>(
    host: string,
    verb: Verb<A, R>,
    args: A,
    o: CallOptions,
    stream: boolean,
  ): Promise<StreamedAnswer<R>> => {
    let peer = links.get(host) ?? (await returned(host, (o.deadline ?? verb.deadline) * 1000, o.signal))
    if (!peer) throw linkDown(`host ${host}`, verb.name, await seen(host))
    const repeatable = !o.body && (o.key !== undefined || verb.idempotent)
    if (!repeatable) return peer.call(verb, args, o, stream)
    const until = performance.now() + (o.deadline ?? verb.deadline) * 1000
    const key = o.key ?? `${keys}-${++lastKey}`
    for (;;) {
      try {
        return await peer.call(verb, args, { ...o, key, deadline: (until - performance.now()) / 1000 }, stream)
      } catch (error) {
        const code = linkCode(error)
        if (code !== 'link.lost' && code !== 'link.down') throw error
        const wait = Math.min(until - performance.now(), (options.patience ?? PATIENCE) * 1000)
        peer = wait > 0 ? await back(host, wait, o.signal) : null
        if (!peer) throw error
        log.info({ host, verb: verb.name, key }, 'asking again after a lost link')
      }
    }
  }

  return {
    controller,
    serve: <E>(env: E, more: readonly Served<E>[]) => mount(served, more, env),
    accept,
    call: async (host, verb, args, o = {}) => (await ask(host, verb, args, o, false)).result,
    callStream: (host, verb, args, o = {}) => ask(host, verb, args, o, true),
    notify: (host, notice, ...payload) => links.get(host)?.notify(notice.name, payload[0]) ?? false,
    connected: () => [...links.keys()].sort(),
    isConnected: host => links.has(host),
    returningSince,
    watch(fn) {
      watchers.add(fn)
      return () => watchers.delete(fn)
    },
    announce(list) {
      if (list.length === addresses.length && list.every((address, i) => address === addresses[i])) return
      addresses = [...list]
      for (const peer of links.values()) peer.notify('link.controllers', addresses)
    },
    drop: (host, why) => links.get(host)?.close(why),
    async close() {
      closed = true
      for (const peer of [...links.values(), ...pending]) peer.close('the controller is stopping')
    },
  }
}
