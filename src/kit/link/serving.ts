/** One question at work in a handler: what the handler is told, and how it ends early. */
import { Readable } from 'node:stream'
import { conflict, timeout, unavailable } from '#kit/fault.ts'
import type { Actions, Joined, Outcome } from './actions.ts'
import { linkSize } from './faults.ts'
import { isStreamed, type LinkLog, type Served, type Serving } from './verb.ts'
import { MAX_FRAME } from './wire.ts'

/** A handler with the environment it was added with. */
export interface Mounted {
  served: Served<never>
  env: unknown
}

/** Adds handlers to a table. Throws Error for a name that is there already. */
export function mount(table: Map<string, Mounted>, served: readonly Served<never>[], env: unknown): void {
  for (const one of served) {
    if (table.has(one.name)) throw new Error(`${one.name} is served twice`)
    table.set(one.name, { served: one, env })
  }
}

/** A value as JSON; '' for undefined. Throws Fault tooLarge `link.size`, and TypeError for what JSON cannot hold. */
export function textOf(verb: string, what: string, value: unknown): string {
  const text = JSON.stringify(value) ?? ''
  if (text.length * 3 > MAX_FRAME) {
    const bytes = Buffer.byteLength(text)
    if (bytes > MAX_FRAME) throw linkSize(verb, what, bytes)
  }
  return text
}

export interface Question {
  mounted: Mounted
  args: unknown
  key: string | null
  ms: number
  host: string
  log: LinkLog
  body: Readable | null
}

/** What handlers get as `Serving`. Signal, log and empty body are made when first looked at: most handlers look at none. */
export class Answering implements Serving {
  readonly key: string | null
  readonly host: string
  readonly env: unknown
  /** Nobody waits for the answer any more. */
  unwanted = false
  readonly #q: Question
  readonly #since = performance.now()
  #body: Readable | null
  #abort: AbortController | null = null
  #signal: AbortSignal | null = null
  #joined: Joined | null = null

  constructor(question: Question) {
    this.#q = question
    this.#body = question.body
    this.key = question.key
    this.host = question.host
    this.env = question.mounted.env
  }

  get verb(): string {
    return this.#q.mounted.served.name
  }

  get signal(): AbortSignal {
    this.#signal ??= this.#aborter().signal
    return this.#signal
  }

  get log(): LinkLog {
    const { key, host, verb } = this
    return this.#q.log.child(key === null ? { host, verb } : { host, verb, key })
  }

  get body(): Readable {
    this.#body ??= Readable.from([])
    return this.#body
  }

  #aborter(): AbortController {
    this.#abort ??= new AbortController()
    return this.#abort
  }

  /** Runs the handler, or joins the action of the same key. Rejects with what the handler threw. */
  async run(actions: Actions | null): Promise<Outcome> {
    if (!actions || this.key === null || this.#q.body) return this.#act()
    this.#joined = actions.join(this.verb, this.key, signal => {
      this.#signal = signal
      return this.#act()
    })
    const outcome = await this.#joined.promise
    if ('once' in outcome && !this.#joined.first) throw conflict(`${this.verb} with this key is answered to another call.`)
    return outcome
  }

  async #act(): Promise<Outcome> {
    const result = await this.#q.mounted.served.run(this.#q.args, this as Serving<unknown> as Serving<never>)
    return isStreamed(result) ? { once: result } : { text: textOf(this.verb, 'result', result) }
  }

  /** The asker gave up. */
  cancel(): void {
    if (this.unwanted) return
    this.unwanted = true
    if (this.#joined) this.#joined.cancel()
    else this.#aborter().abort(timeout('The call was cancelled or its deadline passed.'))
    this.#q.body?.destroy()
  }

  /** The link broke: a keyed action goes on until its caller's deadline, since the caller may come back; others stop. */
  lost(why: string): void {
    if (this.unwanted) return
    this.unwanted = true
    if (this.#joined) this.#joined.lost(Math.max(0, this.#q.ms - (performance.now() - this.#since)))
    else this.#aborter().abort(unavailable(`The link was lost (${why}).`))
  }

  /** The answer is sent: what was not read of the body is not wanted. */
  finish(): void {
    this.#q.body?.destroy()
  }
}
