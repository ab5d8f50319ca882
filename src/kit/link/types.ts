/** The two faces of the agent link: what a controller holds ({@link Hosts}) and what an agent holds ({@link AgentLink}). */
import type { Readable } from 'node:stream'
import type { CallOptions, Notice, Served, Verb } from './verb.ts'
import type { Wire } from './wire.ts'

/** An answer with bytes behind it: read `body` to its end or destroy it. */
export interface StreamedAnswer<Result> {
  result: Result
  body: Readable
}

/** All hosts that an agent connected to this controller. Part of `Env`. */
export interface Hosts {
  /** The name of this controller among its peers. */
  readonly controller: string
  /** Adds handlers for what agents ask. Called once at start for each service, since `env` holds this object. */
  serve<E>(env: E, served: readonly Served<E>[]): void
  /** Takes a link whose far end was proven to be `host`. An older link of the same host is closed: the host has restarted. */
  accept(link: { host: string; wire: Wire }): void
  /**
   * Asks a host. Faults: what the handler threw; `unavailable` with code `link.down` (not connected: at once, saying when it was last seen),
   * `link.lost` (connection broke and the call could not be repeated) or `link.busy`; `notImplemented` `link.refused` (the agent does not
   * serve this verb); `timeout` `link.deadline`; `tooLarge` `link.size`. A call with a key, or of an idempotent verb, whose link was lost is
   * repeated when the host is back within its deadline.
   */
  call<Args, Result>(host: string, verb: Verb<Args, Result>, args: Args, options?: CallOptions): Promise<Result>
  /** As {@link call}, for a verb that answers with `streamed(…)`. */
  callStream<Args, Result>(
    host: string,
    verb: Verb<Args, Result>,
    args: Args,
    options?: CallOptions,
  ): Promise<StreamedAnswer<Result>>
  /** Pokes a host: true if it was sent. Nothing is queued for a host that is away: it asks when it connects. */
  notify<Payload>(host: string, notice: Notice<Payload>, ...payload: Payload extends undefined ? [] : [Payload]): boolean
  /** Names of the hosts that are connected to this controller, sorted. */
  connected(): string[]
  isConnected(host: string): boolean
  /**
   * Since when a host must have been seen to count as on its way back, shortly after this controller started: its agent dials again. Null
   * once that time is over.
   */
  returningSince(): Date | null
  /** Calls back for each connect and disconnect from now on; returns how to stop. */
  watch(fn: (change: HostChange) => void): () => void
  /** Closes all links and stops writing to the registry. */
  close(): Promise<void>
}

export interface HostChange {
  host: string
  change: 'connect' | 'disconnect'
  /** Why it disconnected. */
  reason?: string
}

/** An agent's side of the link, to all its controllers at once. */
export interface AgentLink {
  /** Begins to connect, where `held` was asked for. */
  open(): void
  readonly host: string
  /**
   * Asks any connected controller; waits for one within the deadline. A call of an idempotent verb, or with a key, whose link was lost is
   * repeated on the next. Faults: as `Hosts.call`, with `link.down` when no controller came in time.
   */
  ask<Args, Result>(verb: Verb<Args, Result>, args: Args, options?: CallOptions): Promise<Result>
  /** As {@link ask}, for a verb that answers with `streamed(…)`. */
  askStream<Args, Result>(verb: Verb<Args, Result>, args: Args, options?: CallOptions): Promise<StreamedAnswer<Result>>
  /** Pokes every connected controller; true if at least one was. */
  notify<Payload>(notice: Notice<Payload>, ...payload: Payload extends undefined ? [] : [Payload]): boolean
  /** Runs after each connection to a controller (at once if there is one already): the place to pull desired state. Returns how to stop. */
  onConnect(fn: () => void | Promise<void>): () => void
  /** Adds handlers for what controllers ask. A service's agent lists them before or after the link is up. */
  serve(served: readonly Served<undefined>[]): void
  isConnected(): boolean
  /** Stops: no reconnect, running actions are aborted, links are closed. */
  close(): Promise<void>
}

/** The host verbs' usual form: `call(env, host, ensure, args)`. See `Hosts.call`. */
export function call<Args, Result>(
  env: { hosts: Hosts },
  host: string,
  verb: Verb<Args, Result>,
  args: Args,
  options?: CallOptions,
): Promise<Result> {
  return env.hosts.call(host, verb, args, options)
}

/**
 * Waits until a host is connected to this controller, `seconds` at most: after a controller's restart its hosts are back in a moment. Resolves either
 * way, since a call says best what is wrong with a host that stays away. Rejects with the signal's reason.
 */
export async function hostAwaited(env: { hosts: Hosts }, host: string, seconds: number, signal: AbortSignal): Promise<void> {
  signal.throwIfAborted()
  let timer: NodeJS.Timeout | undefined
  let unwatch = (): void => {}
  const stop = new AbortController()
  try {
    await new Promise<void>((resolve, reject) => {
      signal.addEventListener('abort', () => reject(signal.reason), { once: true, signal: stop.signal })
      timer = setTimeout(resolve, seconds * 1000)
      unwatch = env.hosts.watch(({ host: name, change }) => {
        if (name === host && change === 'connect') resolve()
      })
      if (env.hosts.isConnected(host)) resolve()
    })
  } finally {
    clearTimeout(timer)
    unwatch()
    stop.abort()
  }
}

/** See `Hosts.callStream`. */
export function callStream<Args, Result>(
  env: { hosts: Hosts },
  host: string,
  verb: Verb<Args, Result>,
  args: Args,
  options?: CallOptions,
): Promise<StreamedAnswer<Result>> {
  return env.hosts.callStream(host, verb, args, options)
}

/** Pokes a host: `notify(env, host, novaPoke, { serverId })`. True if it was sent. See `Hosts.notify`. */
export function notify<Payload>(
  env: { hosts: Hosts },
  host: string,
  notice: Notice<Payload>,
  ...payload: Payload extends undefined ? [] : [Payload]
): boolean {
  return env.hosts.notify(host, notice, ...payload)
}
