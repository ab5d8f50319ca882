/**
 * Actions by idempotency key, on an agent. A call whose link broke comes again with the same key, perhaps from another controller: it joins
 * the action if that still runs, and gets the kept result if it is done. Failures are not kept: a retry is meant to try again.
 */
import { timeout, unavailable } from '#kit/fault.ts'
import type { Streamed } from './verb.ts'

/** Results kept, their total size, and for how long. Longer than any reconnect and take-over of a saga; an agent that restarts forgets them. */
export interface Keep {
  count: number
  bytes: number
  ms: number
}

const KEEP: Keep = { count: 1024, bytes: 4 * 1024 * 1024, ms: 5 * 60_000 }

/** An action's result as JSON text, or a value that cannot be kept (bytes behind it). */
export type Outcome = { text: string } | { once: Streamed<unknown> }

interface Running {
  promise: Promise<Outcome>
  abort: AbortController
  askers: number
  /** Set while nobody asks: the lost link's caller may come back until its deadline. */
  timer?: NodeJS.Timeout
}

/** One caller's share in an action. */
export interface Joined {
  promise: Promise<Outcome>
  /** True for the caller whose question started it: only that one may take a result that cannot be kept. */
  first: boolean
  /** The caller cancelled: the action is aborted if no other asks for it. */
  cancel(): void
  /** The caller's link broke: the action goes on for `ms`, then is aborted if nobody asked again. */
  lost(ms: number): void
}

/** All keyed actions of an agent, shared by its links to all controllers. */
export class Actions {
  readonly #running = new Map<string, Running>()
  readonly #done = new Map<string, { text: string; at: number }>()
  readonly #keep: Keep
  #bytes = 0

  constructor(keep: Partial<Keep> = {}) {
    this.#keep = { ...KEEP, ...keep }
  }

  /** Starts the action of this verb and key, joins it, or returns its kept result. */
  join(verb: string, key: string, start: (signal: AbortSignal) => Promise<Outcome>): Joined {
    const id = `${verb} ${key}`
    this.#trim()
    const done = this.#done.get(id)
    if (done) return { promise: Promise.resolve(done), first: false, cancel() {}, lost() {} }
    let action = this.#running.get(id)
    const first = action === undefined || action.abort.signal.aborted
    if (action === undefined) action = this.#start(id, start)
    else if (first) action = this.#start(id, start, action.promise)
    action.askers++
    clearTimeout(action.timer)
    return this.#share(action, first)
  }

  /** Starts an action, after an aborted one of the same key has wound down: never both at a time. */
  #start(id: string, start: (signal: AbortSignal) => Promise<Outcome>, before?: Promise<unknown>): Running {
    const abort = new AbortController()
    const begin = () => start(abort.signal)
    const promise = before ? before.then(begin, begin) : begin()
    const action: Running = { promise, abort, askers: 0 }
    this.#running.set(id, action)
    promise.then(
      outcome => {
        this.#finish(id, action)
        if ('text' in outcome) this.#remember(id, outcome.text)
      },
      () => this.#finish(id, action), // The askers get the error.
    )
    return action
  }

  #share(action: Running, first: boolean): Joined {
    let in_ = true
    const leave = (): boolean => {
      const last = in_ && --action.askers === 0
      in_ = false
      return last
    }
    return {
      promise: action.promise,
      first,
      cancel: () => {
        if (leave()) action.abort.abort(timeout('The call was cancelled or its deadline passed.'))
      },
      lost: ms => {
        if (!leave()) return
        const late = () => action.abort.abort(unavailable('The link was lost and nobody asked again.'))
        action.timer = setTimeout(late, ms).unref()
      },
    }
  }

  #finish(id: string, action: Running): void {
    clearTimeout(action.timer)
    if (this.#running.get(id) === action) this.#running.delete(id)
  }

  #remember(id: string, text: string): void {
    this.#done.set(id, { text, at: performance.now() })
    this.#bytes += text.length
    this.#trim()
  }

  /** Drops the oldest results over the limits; the map is in order of finishing. */
  #trim(): void {
    const { count, bytes, ms } = this.#keep
    for (const [id, { text, at }] of this.#done) {
      if (this.#done.size <= count && this.#bytes <= bytes && at > performance.now() - ms) return
      this.#done.delete(id)
      this.#bytes -= text.length
    }
  }

  /** Aborts all that runs: the agent stops. */
  close(): void {
    for (const action of this.#running.values()) {
      clearTimeout(action.timer)
      action.abort.abort(unavailable('The agent is stopping.'))
    }
  }

  /** How many actions run and how many results are kept, for tests and status. */
  get sizes(): { running: number; kept: number; bytes: number } {
    return { running: this.#running.size, kept: this.#done.size, bytes: this.#bytes }
  }
}
