/**
 * The agent's side: it dials every controller it knows, keeps each connection up, and shares one table of keyed actions among them, so that
 * a call repeated over another controller joins the action that the first one started.
 */

import { reason } from '#kit/fault.ts'
import { Actions, type Keep } from './actions.ts'
import { linkCode, linkDown } from './faults.ts'
import { Peer } from './peer.ts'
import { type Mounted, mount } from './serving.ts'
import type { AgentLink, StreamedAnswer } from './types.ts'
import type { CallOptions, LinkLog, Served, Verb } from './verb.ts'
import type { Wire } from './wire.ts'

/** A way to a controller: proves to be the host and returns the wire. Rejects with why it could not. */
export interface Way {
  /** What tells ways apart, and what logs say: an address. */
  readonly address: string
  connect(signal: AbortSignal): Promise<Wire>
}

export interface DialOptions {
  host: string
  /** Ways that are tried whatever the controllers announce. */
  ways: readonly Way[]
  /** Makes a way of an address that a controller announced, or none where it is not to be dialled; absent: announcements are ignored. */
  way?(address: string): Way | undefined
  serve?: readonly Served<undefined>[]
  /** Connects at `open` only, so that whatever will be served is there for the first call. */
  held?: boolean
  log: LinkLog
  keep?: Partial<Keep>
  /** Longest pause between attempts, in milliseconds. */
  pauseMax?: number
  /** The controllers' addresses changed: for an agent that writes them down. */
  onControllers?(addresses: readonly string[]): void
}

const PAUSE_MIN = 50
const PAUSE_MAX = 3000
/** A link that lasted so long makes the next pause short again. */
const STABLE_MS = 5000
const CONNECT_MS = 10_000
const HANDSHAKE_MS = 10_000

/** Connects a host to its controllers and keeps it connected until `close`. */
export function dial(options: DialOptions): AgentLink {
  return new Agent(options)
}

class Agent implements AgentLink {
  readonly host: string
  readonly #o: DialOptions
  readonly #served = new Map<string, Mounted>()
  readonly #actions: Actions
  readonly #lines = new Map<string, Line>()
  /** Controllers by name, in order of connecting: asks go to the first. */
  readonly #up = new Map<string, Peer>()
  readonly #hooks = new Set<() => void | Promise<void>>()
  readonly #waiters = new Set<() => void>()
  #lastSeen: Date | null = null
  #lastKey = 0
  #closed = false

  constructor(options: DialOptions) {
    this.host = options.host
    this.#o = options
    this.#actions = new Actions(options.keep)
    this.serve(options.serve ?? [])
    if (!options.held) this.open()
  }

  open(): void {
    for (const way of this.#o.ways) this.#add(way)
  }

  #add(way: Way): void {
    if (this.#lines.has(way.address)) return
    const line = new Line(way, {
      host: this.host,
      log: this.#o.log,
      pauseMax: this.#o.pauseMax ?? PAUSE_MAX,
      served: this.#served,
      actions: this.#actions,
      taken: controller => this.#up.has(controller),
      up: (controller, peer) => this.#onUp(controller, peer),
      down: controller => this.#onDown(controller),
      controllers: addresses => this.#onControllers(addresses),
    })
    this.#lines.set(way.address, line)
    line.start()
  }

  #onUp(controller: string, peer: Peer): void {
    this.#up.set(controller, peer)
    for (const wake of this.#waiters) wake()
    for (const hook of this.#hooks) this.#hook(hook)
  }

  #onDown(controller: string): void {
    this.#up.delete(controller)
    this.#lastSeen = new Date()
    for (const line of this.#lines.values()) line.freed(controller)
  }

  /** Follows the controllers' list; the ways given at start are kept, since one may be an address that moves between controllers. */
  #onControllers(addresses: readonly string[]): void {
    const { way } = this.#o
    if (!way || this.#closed) return
    const wanted = new Set([...addresses, ...this.#o.ways.map(w => w.address)])
    for (const address of addresses) {
      const made = this.#lines.has(address) ? undefined : way(address)
      if (made) this.#add(made)
    }
    for (const [address, line] of this.#lines) {
      if (wanted.has(address)) continue
      this.#lines.delete(address)
      line.stop('no longer a controller')
    }
    this.#o.onControllers?.(addresses)
  }

  #hook(hook: () => void | Promise<void>): void {
    const failed = (error: unknown) => this.#o.log.error({ error: reason(error) }, 'what an agent does on connecting failed')
    try {
      Promise.resolve(hook()).catch(failed)
    } catch (error) {
      failed(error)
    }
  }

  /** The first controller's link, waiting for one until `until` (of performance.now()), or null. */
  #peer(until: number, signal?: AbortSignal): Promise<Peer | null> | Peer | null {
    const [first] = this.#up.values()
    if (first || this.#closed) return first ?? null
    return new Promise((resolve, reject) => {
      const done = (): void => {
        clearTimeout(timer)
        this.#waiters.delete(wake)
        signal?.removeEventListener('abort', aborted)
      }
      const wake = (): void => {
        done()
        const [peer] = this.#up.values()
        resolve(peer ?? null)
      }
      const aborted = (): void => {
        done()
        reject(signal!.reason)
      }
      const timer = setTimeout(wake, Math.min(0x7fffffff, Math.max(0, until - performance.now())))
      this.#waiters.add(wake)
      signal?.addEventListener('abort', aborted, { once: true })
      if (signal?.aborted) aborted()
    })
  }

  async #ask<A, R>(verb: Verb<A, R>, args: A, o: CallOptions, stream: boolean): Promise<StreamedAnswer<R>> {
    const until = performance.now() + (o.deadline ?? verb.deadline) * 1000
    const repeatable = !o.body && (o.key !== undefined || verb.idempotent)
    const key = o.key ?? (repeatable ? `${this.host}-${++this.#lastKey}` : undefined)
    for (;;) {
      const peer = await this.#peer(until, o.signal)
      if (!peer) throw linkDown('any controller', verb.name, this.#lastSeen)
      try {
        return await peer.call(verb, args, { ...o, key, deadline: Math.max(0, until - performance.now()) / 1000 }, stream)
      } catch (error) {
        const code = linkCode(error)
        // A link that was down before the call was never asked, so asking another one repeats nothing.
        const again = code === 'link.down' || (code === 'link.lost' && repeatable)
        if (!again || this.#closed || performance.now() >= until) throw error
      }
    }
  }

  async ask<A, R>(verb: Verb<A, R>, args: A, options: CallOptions = {}): Promise<R> {
    return (await this.#ask(verb, args, options, false)).result
  }

  askStream<A, R>(verb: Verb<A, R>, args: A, options: CallOptions = {}): Promise<StreamedAnswer<R>> {
    return this.#ask(verb, args, options, true)
  }

  notify<P>(notice: { name: string; types?: (payload: P) => void }, ...payload: unknown[]): boolean {
    let sent = false
    for (const peer of this.#up.values()) sent = peer.notify(notice.name, payload[0]) || sent
    return sent
  }

  onConnect(fn: () => void | Promise<void>): () => void {
    this.#hooks.add(fn)
    if (this.#up.size > 0) this.#hook(fn)
    return () => this.#hooks.delete(fn)
  }

  serve(served: readonly Served<undefined>[]): void {
    mount(this.#served, served, undefined)
  }

  isConnected(): boolean {
    return this.#up.size > 0
  }

  async close(): Promise<void> {
    if (this.#closed) return
    this.#closed = true
    for (const line of this.#lines.values()) line.stop('the agent is stopping')
    this.#actions.close()
    for (const wake of [...this.#waiters]) wake()
  }
}

interface LineOptions {
  host: string
  log: LinkLog
  pauseMax: number
  served: ReadonlyMap<string, Mounted>
  actions: Actions
  /** Whether another way leads to this controller already. */
  taken(controller: string): boolean
  up(controller: string, peer: Peer): void
  down(controller: string): void
  controllers(addresses: readonly string[]): void
}

/** One way to a controller, kept connected. */
class Line {
  readonly #way: Way
  readonly #o: LineOptions
  #stopped = false
  #attempt: AbortController | null = null
  #peer: Peer | null = null
  #timer: NodeJS.Timeout | undefined
  #failures = 0
  #since = 0
  /** The controller behind this way, when another way leads there already: nothing is done until that one is lost. */
  #double: string | null = null
  #why = ''

  constructor(way: Way, options: LineOptions) {
    this.#way = way
    this.#o = options
  }

  start(): void {
    void this.#connect()
  }

  async #connect(): Promise<void> {
    const attempt = new AbortController()
    this.#attempt = attempt
    const timer = setTimeout(() => attempt.abort(new Error(`no connection within ${CONNECT_MS / 1000} s`)), CONNECT_MS)
    try {
      const wire = await this.#way.connect(attempt.signal)
      if (this.#stopped) wire.close('the agent is stopping')
      else this.#handshake(wire)
    } catch (error) {
      this.#again(reason(error))
    } finally {
      clearTimeout(timer)
      this.#attempt = null
    }
  }

  #handshake(wire: Wire): void {
    const { host, log, served, actions } = this.#o
    let controller: string | null = null
    const timer = setTimeout(() => peer.close('no handshake'), HANDSHAKE_MS).unref()
    const peer = new Peer({
      wire,
      host,
      far: 'the controller',
      served,
      actions,
      log,
      onOwn: (name, payload) => {
        if (name === 'link.controllers') this.#o.controllers(strings(payload))
        const hello = name === 'link.hello' && controller === null ? helloOf(payload) : null
        if (!hello) return
        clearTimeout(timer)
        if (this.#o.taken(hello.controller)) {
          this.#double = hello.controller
          peer.close('connected to this controller already')
          return
        }
        controller = hello.controller
        this.#since = performance.now()
        this.#why = ''
        peer.notify('link.ready', null)
        log.info({ controller, address: this.#way.address }, 'connected to a controller')
        this.#o.up(controller, peer)
        if (hello.controllers.length > 0) this.#o.controllers(hello.controllers)
      },
      onClose: why => {
        clearTimeout(timer)
        this.#peer = null
        if (controller !== null) this.#o.down(controller)
        // A link that broke at once is no success: two processes that take one host's name must not chase each other.
        if (controller !== null && performance.now() - this.#since > STABLE_MS) this.#failures = 0
        this.#again(why)
      },
    })
    this.#peer = peer
  }

  /** Tries again after a pause that doubles up to the limit, with jitter so that a thousand hosts do not come back at one instant. */
  #again(why: string): void {
    if (this.#stopped || this.#double !== null) return
    if (why !== this.#why)
      this.#o.log.warn({ address: this.#way.address, reason: why }, 'not connected to a controller, trying again')
    this.#why = why
    const pause = Math.min(this.#o.pauseMax, PAUSE_MIN * 2 ** Math.min(this.#failures++, 16))
    this.#timer = setTimeout(() => void this.#connect(), pause * (0.5 + Math.random() / 2))
  }

  /** Another way to this controller was lost: this one may work. */
  freed(controller: string): void {
    if (this.#double !== controller || this.#stopped) return
    this.#double = null
    void this.#connect()
  }

  stop(why: string): void {
    this.#stopped = true
    this.#attempt?.abort(new Error(why))
    clearTimeout(this.#timer)
    this.#peer?.close(why)
  }
}

function strings(value: unknown): string[] {
  return Array.isArray(value) ? value.filter((one): one is string => typeof one === 'string') : []
}

function helloOf(payload: unknown): { controller: string; controllers: string[] } | null {
  const { controller, controllers } = (payload ?? {}) as Record<string, unknown>
  return typeof controller === 'string' ? { controller, controllers: strings(controllers) } : null
}
