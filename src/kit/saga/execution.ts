/** One execution of one saga: its body against its journal, with tries, deadlines and, when it fails, the undos. */
import { setTimeout as delay } from 'node:timers/promises'
import { type Db, json, type Query, type Selectable, sql, type Tables, type Tx } from '../db/index.ts'
import { Fault, internal, reason, timeout } from '../fault.ts'
import type { Env } from '../service.ts'
import type { Acting, DatabaseStepOptions, Run, Saga, SagaFailure, StepOptions } from './index.ts'
import type { JournalEntry } from './tables.ts'
import { onWaiters } from './wake.ts'

export type Row = Selectable<Tables['kit.sagas']>

/** The lease is another's now, or the process is stopping: this execution ends without a trace. */
export class Lost extends Error {}
/** The journal says that the saga is to be undone: thrown where the body reaches what it had not finished. */
class Unwind extends Error {}

interface Undo {
  name: string
  machine: boolean
  run(tx: Tx | Acting): Promise<void>
}

const NOT_DURABLE = sql`and set_config('synchronous_commit', 'off', true) is not null`
const MAX_BACKOFF_MS = 30_000
/** A wait that is over within so many ms is not worth a write: nobody could have looked at it. */
const UNSEEN_MS = 50
/** A wait asks now and then even if nobody woke it. */
const ASK_MS = 5000

/** What a runner gives its executions. */
export interface Surroundings {
  probe: (point: string) => void
  sabotage: (step: string) => void
  stopping: AbortSignal
}

/** One execution of one saga's body, from its top to its end or its undoing. */
export class Execution implements Run {
  readonly id: string
  readonly env: Env
  readonly began = Date.now()
  abort = new AbortController()
  readonly #db: Db
  readonly #row: Row
  readonly #saga: Saga<object>
  readonly #journal: Map<string, JournalEntry>
  readonly #undos: Undo[] = []
  readonly #around: Surroundings
  #undone: ((tx: Tx, failure: SagaFailure) => Promise<void>) | undefined
  #done: ((tx: Tx) => Promise<void>) | undefined
  #failure: SagaFailure | null
  #cancelled: boolean
  /** The act that this execution has written into the journal as begun, and not begun yet. */
  #announced: string | undefined

  constructor(db: Db, row: Row, saga: Saga<object>, env: Env, around: Surroundings) {
    this.id = row.id
    this.env = env
    this.#db = db
    this.#row = row
    this.#saga = saga
    this.#around = around
    this.#journal = new Map(row.journal.map(entry => [entry.step, entry]))
    this.#failure = row.failure
    this.#cancelled = row.cancel
  }

  async run(): Promise<void> {
    try {
      await this.#saga.body(this, this.#row.args)
      if (this.#failure) throw new Unwind() // every step had finished when the stop was asked for
    } catch (error) {
      if (error instanceof Lost || this.abort.signal.reason instanceof Lost)
        throw error instanceof Lost ? error : new Lost('stopped')
      if (!(error instanceof Unwind)) await this.#bodyFailed(error)
      await this.#unwind()
      return
    }
    await this.#close()
  }

  ifUndone(fn: (tx: Tx, failure: SagaFailure) => Promise<void>): void {
    this.#undone = fn
  }

  ifDone(fn: (tx: Tx) => Promise<void>): void {
    this.#done = fn
  }

  async step<T>(
    name: string,
    fn: (tx: Tx) => Promise<T>,
    undo?: (tx: Tx) => Promise<void>,
    { next }: DatabaseStepOptions = {},
  ): Promise<T> {
    const known = this.#enter(name)
    if (undo) this.#undos.push({ name, machine: false, run: tx => undo(tx as Tx) })
    if (known?.state === 'done') return known.result as T
    if (this.#failure) throw new Unwind()
    const result = await this.#try(name, { deadline: 60 }, false, () =>
      this.#db.tx(async tx => {
        const result = await fn(tx)
        const behind: JournalEntry[] = next ? [{ step: next.name, state: 'begun' }] : []
        const at = next && { step: next.name, deadline: next.deadline }
        await this.#write(tx, [{ step: name, state: 'done', result }, ...behind], at)
        this.#around.sabotage(name)
        this.#around.probe(`${name}: before commit`)
        return result
      }),
    )
    this.#journal.set(name, { step: name, state: 'done', result })
    if (next) this.#begun(next.name)
    this.#around.probe(`${name}: done`)
    return result
  }

  /** The step was written into the journal together with the one before it. */
  #begun(name: string): void {
    this.#journal.set(name, { step: name, state: 'begun' })
    this.#announced = name
  }

  async act<T>(
    name: string,
    fn: (acting: Acting) => Promise<T>,
    undo?: (acting: Acting) => Promise<void>,
    options: StepOptions = {},
  ): Promise<T> {
    const known = this.#enter(name)
    if (undo && known) this.#undos.push({ name, machine: true, run: acting => undo(acting as Acting) })
    if (known?.state === 'done') return known.result as T
    if (this.#failure) throw new Unwind()
    if (this.#announced !== name)
      await this.#record({ step: name, state: 'begun' }, { step: name, deadline: options.deadline ?? 60 })
    this.#announced = undefined
    if (undo && !known) this.#undos.push({ name, machine: true, run: acting => undo(acting as Acting) })
    this.#around.probe(`${name}: begun`)
    const result = await this.#try(name, options, true, async acting => {
      const acted = await fn(acting)
      this.#around.sabotage(name)
      return acted
    })
    this.#around.probe(`${name}: acted`)
    // Written with the next entry, which comes at once: until then it would be done again, which it may.
    this.#journal.set(name, { step: name, state: 'done', result })
    return result
  }

  async until<T>(name: string, check: Parameters<Run['until']>[1], options: StepOptions = {}): Promise<T> {
    const known = this.#enter(name)
    if (known?.state === 'done') return known.result as T
    if (this.#failure) throw new Unwind()
    const result = await this.#try(name, { retries: 0, ...options }, true, ({ signal }) =>
      this.#await<T>(name, check, options.deadline ?? 60, signal),
    )
    // Written with the next entry: until then it would be asked again, which it may.
    this.#journal.set(name, { step: name, state: 'done', result })
    return result
  }

  async #await<T>(name: string, check: Parameters<Run['until']>[1], deadline: number, signal: AbortSignal): Promise<T> {
    let wake: () => void = () => {}
    const stop = onWaiters(this.#row.resource, () => wake())
    let seen = false
    try {
      for (;;) {
        const woken = new Promise<boolean>(resolve => {
          wake = () => resolve(true)
        })
        const found = await check(this.#db.read)
        if (found !== undefined) return found as T
        const timer = new AbortController()
        const either = AbortSignal.any([signal, timer.signal])
        const asked = await Promise.race([woken, delay(seen ? ASK_MS : UNSEEN_MS, false, { signal: either })]).finally(() =>
          timer.abort(),
        )
        if (asked || seen) continue
        seen = true
        await this.#record({ step: name, state: 'begun' }, { step: name, deadline })
        this.#around.probe(`${name}: begun`)
      }
    } finally {
      stop()
    }
  }

  /** Called when a later request asked this saga to stop. A forward saga goes on. */
  cancel(): void {
    if (this.#saga.forward || this.#cancelled) return
    this.#cancelled = true
    this.abort.abort(new Error('a later request asked to stop'))
  }

  #enter(name: string): JournalEntry | undefined {
    if (this.abort.signal.reason instanceof Lost) throw this.abort.signal.reason
    return this.#journal.get(name)
  }

  /**
   * Runs a step's work with deadline and retries; turns a final failure into the saga's. Work on a machine is left behind at its
   * deadline (`abandon`); a transaction is waited for, since it may yet commit, and its statements have a time limit of their own.
   */
  async #try<T>(name: string, options: StepOptions, abandon: boolean, fn: (acting: Acting) => Promise<T>): Promise<T> {
    const seconds = options.deadline ?? 60
    let end = Date.now() + seconds * 1000
    for (let attempt = 1; ; attempt++) {
      if (this.#cancelled && !this.#saga.forward) await this.#fail(name, new Error('It was asked to stop.'), true)
      const timer = AbortSignal.timeout(Math.max(1, end - Date.now()))
      const signal = AbortSignal.any([timer, this.abort.signal])
      try {
        const work = fn({ signal, key: `${this.id}/${name}`, attempt })
        return await (abandon ? raceAbort(signal, work) : work)
      } catch (error) {
        if (this.abort.signal.reason instanceof Lost) throw this.abort.signal.reason
        if (error instanceof Lost) throw error
        if (this.#cancelled && !this.#saga.forward) await this.#fail(name, error, true)
        const failure = timer.aborted ? timeout(`It did not finish within ${seconds} s.`, { cause: causeOf(error) }) : error
        const left = this.#saga.forward
          ? Infinity
          : timer.aborted
            ? 0
            : (options.retries ?? (mayPass(error) ? Infinity : 0)) - attempt + 1
        const pause = Math.min(MAX_BACKOFF_MS, 100 * 2 ** Math.min(attempt, 12)) * (0.5 + Math.random() / 2)
        if (left <= 0 || (!this.#saga.forward && Date.now() + pause > end)) await this.#fail(name, failure, false)
        await this.#note(name, attempt, reason(failure), seconds)
        await delay(pause, undefined, { signal: this.abort.signal }).catch(() => {})
        if (this.#saga.forward) end = Date.now() + seconds * 1000
      }
    }
  }

  /** The body threw outside its steps: between them it only reads and decides, so this is final for a saga that can be undone. */
  async #bodyFailed(error: unknown): Promise<void> {
    if (isProbe(error) || this.#saga.forward) throw error
    if (this.#failure) return
    await this.#fail('between steps', error, false).catch(thrown => {
      if (!(thrown instanceof Unwind)) throw thrown
    })
  }

  /** Decides that the saga is undone, and ends the body. */
  async #fail(step: string, error: unknown, cancelled: boolean): Promise<never> {
    if (isProbe(error)) throw error
    const fault = error instanceof Fault ? error : internal(reason(error), { cause: error })
    const failure: SagaFailure = {
      step,
      message: reason(error),
      kind: fault.kind,
      code: fault.details.code,
      cancelled: cancelled || undefined,
    }
    this.env.log.warn(
      { err: error, saga: this.#row.name, id: this.id, resource: this.#row.resource, step },
      'saga step failed; undoing',
    )
    await this.#update({ state: 'undoing', failure: json(failure) as never, last_error: failure.message })
    this.#failure = failure
    this.#around.probe(`${step}: failed`)
    throw new Unwind()
  }

  async #unwind(): Promise<void> {
    this.abort = new AbortController()
    const stop = () => this.abort.abort(new Lost('the process stops'))
    this.#around.stopping.addEventListener('abort', stop)
    if (this.#around.stopping.aborted) stop()
    try {
      for (const undo of this.#undos.reverse()) {
        const entry = this.#journal.get(undo.name)
        // A database step that is not in the journal has not happened; a machine step that was begun may have.
        if (!entry || entry.state === 'undone') continue
        await this.#undoOne(undo)
      }
      await this.#close()
    } finally {
      this.#around.stopping.removeEventListener('abort', stop)
    }
  }

  async #undoOne(undo: Undo): Promise<void> {
    for (let attempt = 1; ; attempt++) {
      try {
        const entry: JournalEntry = { step: undo.name, state: 'undone' }
        if (undo.machine) {
          const signal = AbortSignal.any([AbortSignal.timeout(60_000), this.abort.signal])
          await raceAbort(signal, undo.run({ signal, key: `${this.id}/${undo.name}/undo`, attempt }))
          this.#around.probe(`${undo.name}: undo acted`)
          await this.#record(entry, { step: `undo ${undo.name}`, deadline: 60 })
        } else {
          await this.#db.tx(async tx => {
            await undo.run(tx)
            await this.#write(tx, [entry])
            this.#around.probe(`${undo.name}: undo before commit`)
          })
          this.#journal.set(undo.name, entry)
        }
        this.#around.probe(`${undo.name}: undone`)
        return
      } catch (error) {
        if (this.abort.signal.reason instanceof Lost) throw this.abort.signal.reason
        if (error instanceof Lost || isProbe(error)) throw error
        await this.#note(`undo ${undo.name}`, attempt, reason(error), 60)
        await delay(Math.min(MAX_BACKOFF_MS, 200 * 2 ** Math.min(attempt, 12)), undefined, { signal: this.abort.signal }).catch(
          () => {},
        )
      }
    }
  }

  /** The end: the row goes, the outcome of an undone saga is written, the saga that waits behind this one may start. */
  async #close(): Promise<void> {
    this.#around.probe('before close')
    await this.#db.tx(async tx => {
      // The update reads from the delete, so it comes after it: there is one running saga of a resource at any time.
      const [{ rows }] = await Promise.all([
        sql<{ gone: number }>`
          with gone as (delete from kit.sagas where id = ${this.id} and fence = ${this.#row.fence} returning resource),
            next as (update kit.sagas s set state = 'running' from gone where s.resource = gone.resource and s.state = 'queued')
          select count(*)::int as gone from gone`.execute(tx),
        this.#failure ? this.#undone?.(tx, this.#failure) : this.#done?.(tx),
      ])
      if (rows[0]!.gone === 0) throw new Lost('the lease was lost')
    })
    this.#around.probe('closed')
  }

  async #record(entry: JournalEntry, at?: { step: string; deadline: number }): Promise<void> {
    try {
      await this.#write(this.#db.read, [entry], at, false)
    } catch (error) {
      if (!mayPass(error)) throw error
      // The connection was lost. A transaction is tried again for as long as the database may take to be back.
      await this.#db.tx(tx => this.#write(tx, [entry], at), { durable: false })
    }
    this.#journal.set(entry.step, entry)
  }

  /**
   * Writes entries into the journal. Not durable: COMMIT does not wait for the disk, as an entry lost with the power makes the step run again, which it
   * may. The setting is part of the statement, which so is a transaction of its own, in one round trip.
   */
  async #write(
    db: Query,
    entries: readonly JournalEntry[],
    at?: { step: string; deadline: number },
    durable = true,
  ): Promise<void> {
    const names = entries.map(entry => entry.step)
    const journal = [...this.#journal.values()].filter(e => !names.includes(e.step)).concat(entries)
    const { rows } = await sql<{ cancel: boolean }>`
      update kit.sagas set journal = ${JSON.stringify(journal)}::jsonb, attempts = 0, last_error = ${this.#failure?.message ?? null},
        step = ${at?.step ?? names[0]}, step_since = now(), step_deadline = now() + ${at?.deadline ?? 60} * interval '1 second'
      where id = ${this.id} and fence = ${this.#row.fence} ${durable ? sql`` : NOT_DURABLE} returning cancel`.execute(db)
    if (rows.length === 0) throw new Lost('the lease was lost')
    if (rows[0]!.cancel && !this.#saga.forward) this.#cancelled = true
  }

  /** Makes a failed try visible. */
  async #note(step: string, attempts: number, error: string, seconds: number): Promise<void> {
    this.env.log.warn(
      { saga: this.#row.name, id: this.id, resource: this.#row.resource, step, attempt: attempts, error },
      'saga step failed; trying again',
    )
    const { rows } = await sql`
      update kit.sagas set attempts = ${attempts}, last_error = ${error}, step = ${step},
        step_since = case when step = ${step} then step_since else now() end,
        step_deadline = case when step = ${step} then step_deadline else now() + ${seconds} * interval '1 second' end
      where id = ${this.id} and fence = ${this.#row.fence} returning id`.execute(this.#db.read)
    if (rows.length === 0) throw new Lost('the lease was lost')
  }

  async #update(set: Partial<Row>): Promise<void> {
    await this.#db.tx(async tx => {
      const done = await tx
        .updateTable('kit.sagas')
        .set(set)
        .where('id', '=', this.id)
        .where('fence', '=', this.#row.fence)
        .executeTakeFirst()
      if (done.numUpdatedRows === 0n) throw new Lost('the lease was lost')
    })
  }
}

/** Thrown by a test's probe. */
export class Killed extends Error {}
export const isProbe = (error: unknown): boolean => error instanceof Killed

const PASSING = new Set(['unavailable', 'timeout', 'tooMany'])
/** Whether trying again may help: the host or the database was away or busy, rather than refusing. */
const mayPass = (error: unknown): boolean => error instanceof Fault && PASSING.has(error.kind)

const causeOf = (error: unknown): unknown => (error instanceof Error && error.name === 'TimeoutError' ? undefined : error)

/** Settles as `work` does, or rejects with the signal's reason, whichever comes first. */
async function raceAbort<T>(signal: AbortSignal, work: Promise<T>): Promise<T> {
  let onAbort: () => void = () => {}
  const aborted = new Promise<never>((_, reject) => {
    onAbort = () => reject(signal.reason)
    if (signal.aborted) onAbort()
    else signal.addEventListener('abort', onAbort, { once: true })
  })
  try {
    return await Promise.race([work, aborted])
  } finally {
    signal.removeEventListener('abort', onAbort)
    work.catch(() => {})
  }
}
