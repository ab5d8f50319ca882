/**
 * What may be said over the agent link. A verb is a value that both ends import: its name is what crosses the wire, its types never do.
 * A notice is a poke: no answer, no promise that it arrives; whoever hears it looks at the rows (or asks), and a timer stands behind it.
 */
import type { Readable } from 'node:stream'

/** A question with an answer. Made by {@link verb}. */
export interface Verb<Args, Result> {
  readonly kind: 'verb'
  readonly name: string
  /** Seconds after which the asker gives up, unless a call says otherwise. */
  readonly deadline: number
  /** Running it twice does what running it once does, so a call whose link was lost is repeated by the link itself. */
  readonly idempotent: boolean
  /** Never present: carries the types. */
  readonly types?: (args: Args) => Result
}

/** A poke without an answer. Made by {@link notice}. */
export interface Notice<Payload> {
  readonly kind: 'notice'
  readonly name: string
  /** Never present: carries the type. */
  readonly types?: (payload: Payload) => void
}

/** The part of a logger that the link and its handlers use; `#kit/log.ts`'s fits. */
export interface LinkLog {
  debug(fields: object, message: string): void
  info(fields: object, message: string): void
  warn(fields: object, message: string): void
  error(fields: object, message: string): void
  child(fields: Record<string, unknown>): LinkLog
}

/** What a handler is told beside the arguments. */
export interface Serving<E = unknown> {
  /** Aborted when the asker cancels, its deadline passes, or the link is lost and nobody asked again in time. */
  readonly signal: AbortSignal
  /** The idempotency key of the call. A second call with the key joins the running action or gets its result; it is not run twice. */
  readonly key: string | null
  /** The host at the far end (on a controller: pinned to the link by its secret, so trust this and nothing in the arguments), or this host (on an agent). */
  readonly host: string
  /** A child logger with host, verb and key. */
  readonly log: LinkLog
  /** Bytes that came with the question; ends at once if none did. */
  readonly body: Readable
  /** The environment of the process that serves: `Env` on a controller, whatever `dial` was given on an agent. */
  readonly env: E
}

/** A source of bytes to send: a file's read stream, a response body, a generator. */
export type Bytes = AsyncIterable<Uint8Array> | Iterable<Uint8Array>

/** A result that has bytes behind it. Made by {@link streamed}. */
export interface Streamed<Result> {
  readonly result: Result
  readonly bytes: Bytes
}

/** A handler bound to its verb or notice, to be listed in a service's `hostVerbs` or an agent's `serve`. */
export interface Served<E = unknown> {
  readonly kind: 'verb' | 'notice'
  readonly name: string
  run(args: unknown, on: Serving<E>): unknown
}

/** What a call may say beside its arguments. */
export interface CallOptions {
  /** Idempotency key: the far end runs an action of this verb and key once, however often it is called within some minutes. Failures are not kept. */
  key?: string
  /** Aborting it rejects the call at once with the signal's reason and aborts the handler's signal. */
  signal?: AbortSignal
  /** Seconds, instead of the verb's own. With a body: seconds without progress. */
  deadline?: number
  /** Bytes to send along. A call with a body is never repeated by the link. */
  body?: Bytes
}

const NAME = /^[a-z][a-z0-9]*(?:[._-][a-zA-Z0-9]+)*$/

function checked(name: string): string {
  if (!NAME.test(name)) throw new Error(`'${name}' is not a name for the link: lower case words joined by dots, like nova.ensure`)
  return name
}

/**
 * A typed verb, in either direction: `verb<EnsureArgs, EnsureResult>('nova.ensure', { deadline: 60 })`.
 * Arguments and results cross as JSON: plain objects, arrays, strings, numbers, booleans, null.
 * `deadline` is in seconds. Throws Error for a malformed name.
 */
export function verb<Args, Result>(name: string, options: { deadline: number; idempotent?: true }): Verb<Args, Result> {
  return { kind: 'verb', name: checked(name), deadline: options.deadline, idempotent: options.idempotent ?? false }
}

/** A typed notice: `notice<{ serverId: string }>('nova.poke')`. Throws Error for a malformed name. */
export function notice<Payload = undefined>(name: string): Notice<Payload> {
  return { kind: 'notice', name: checked(name) }
}

/**
 * Binds a handler to a verb. What the handler throws reaches the asker: a Fault with its kind, message and details; any other error as
 * `internal` with its own text. On a controller write `({ env, host }: Serving<Env>)` to have the environment typed.
 */
export function serve<Args, Result, E = unknown>(
  on: Verb<Args, Result>,
  handler: (args: Args, on: Serving<E>) => Promise<Result | Streamed<Result>> | Result | Streamed<Result>,
): Served<E> {
  return { kind: 'verb', name: on.name, run: (args, serving) => handler(args as Args, serving) }
}

/** Binds a handler to a notice. What it throws is logged, since nobody waits for it. */
export function hear<Payload, E = unknown>(
  on: Notice<Payload>,
  handler: (payload: Payload, on: Serving<E>) => Promise<void> | void,
): Served<E> {
  return { kind: 'notice', name: on.name, run: (payload, serving) => handler(payload as Payload, serving) }
}

const streams = new WeakSet<object>()

/** Answers a call with a result and bytes behind it; the asker takes both by `callStream` or `askStream`. */
export function streamed<Result>(result: Result, bytes: Bytes): Streamed<Result> {
  const answer = { result, bytes }
  streams.add(answer)
  return answer
}

/** Whether a handler's answer was made by {@link streamed}. */
export function isStreamed(answer: unknown): answer is Streamed<unknown> {
  return typeof answer === 'object' && answer !== null && streams.has(answer)
}
