/**
 * Sagas: long operations that finish or are undone, whatever dies meanwhile.
 *
 * Theory. A saga is a function of a `Run` and its arguments. Each thing it does is a named step whose outcome is kept in the saga's
 * journal, a row. Start and recovery are one path: the body runs again from its top, and steps that the journal has return at once
 * what they returned before. So a body must be deterministic between steps: it decides from arguments and step results alone.
 *
 * - `run.step` touches only the database: its rows and its journal entry commit together.
 * - `run.act` touches a machine. Its undo is in the journal before it acts; it must be safe to run twice and safe to undo although
 *   nothing happened. `key` is the same for every try, so the host can tell a repetition.
 * - `run.until` waits for rows to become as hoped, woken by `sagaPoke`.
 *
 * When a step fails for good, the undos of all steps begun so far run in reverse order, and `ifUndone` last, in the transaction that
 * closes the saga. A `forward` saga (a delete) has no undo: a failed step is tried again, visibly, until it works.
 *
 * A process owns a saga by a lease with a fencing number that every journal write checks: a worker that lost its lease can
 * write nothing more. Another process takes over when the lease ends. One saga runs for a resource at a time: a second is refused
 * with `conflict`, or queued behind the first, which is then asked to stop (`supersede`).
 */
import { randomUUID } from 'node:crypto'
import { afterCommit, json, type Query, sql, type Tx } from '../db/index.ts'
import { conflict } from '../fault.ts'
import type { Env } from '../service.ts'
import { runsHere, wakeRunners, wakeWaiters } from './wake.ts'
import './tables.ts'

/** What an `act` is given. */
export interface Acting {
  /** Aborted at the step's deadline, when the saga is cancelled, and when the process stops. */
  signal: AbortSignal
  /** The same for every try of this step of this saga. */
  key: string
  /** 1 for the first try. */
  attempt: number
}

export interface StepOptions {
  /** Seconds that the step may take with all its tries; 60 unless given. In a forward saga: each try. */
  deadline?: number
  /** Tries after the first; by default as many as fit into the deadline for faults that may pass, none for others. */
  retries?: number
}

export interface DatabaseStepOptions {
  /** The `act` that always follows, with its deadline: it is in the journal as begun in the same write. */
  next?: { name: string; deadline: number }
}

/** A saga's view of its own execution. */
export interface Run {
  readonly id: string
  readonly env: Env
  /** Runs when everything is undone, in the transaction that closes the saga. `error` says what failed, with its step. */
  ifUndone(fn: (tx: Tx, error: SagaFailure) => Promise<void>): void
  /**
   * Runs when every step is done, in the transaction that closes the saga: for what tells the world that the resource is free again, since
   * whoever sees that may start the next saga at once. It should not be able to fail; if it does, the saga is taken up again later.
   */
  ifDone(fn: (tx: Tx) => Promise<void>): void
  /** A step in the database alone. `fn` may run again (see `Db.tx`). */
  step<T>(name: string, fn: (tx: Tx) => Promise<T>, undo?: (tx: Tx) => Promise<void>, options?: DatabaseStepOptions): Promise<T>
  /** A step on a machine. */
  act<T>(
    name: string,
    fn: (acting: Acting) => Promise<T>,
    undo?: (acting: Acting) => Promise<void>,
    options?: StepOptions,
  ): Promise<T>
  /**
   * Waits until `check` returns something other than undefined. It is asked at once, at each `sagaPoke` of the resource, and now and then. A wait
   * that is soon over leaves no trace in the journal.
   */
  until<T>(name: string, check: (db: Query) => Promise<T | undefined>, options?: StepOptions): Promise<T>
}

/** Why a saga was undone. */
export interface SagaFailure {
  step: string
  message: string
  /** The fault's kind; `internal` for other errors. */
  kind: string
  code?: string
  /** Set when a later request asked the saga to stop. */
  cancelled?: boolean
}

export interface Saga<A> {
  readonly name: string
  readonly forward: boolean
  readonly body: (run: Run, args: A) => Promise<void>
}

/** Declares a saga. Its name is in the journal: a saga whose steps change gets a new name, and the old one stays until drained. */
export function saga<A extends object>(
  name: string,
  body: (run: Run, args: A) => Promise<void>,
  options: { forward?: boolean } = {},
): Saga<A> {
  return { name, body, forward: options.forward ?? false }
}

export interface StartOptions {
  /** What it works on: `nova.server:ID`. One saga at a time. */
  resource: string
  /** What the refused caller is told; a general sentence unless given. */
  busy?: (running: { name: string; step: string | null }) => string
  /** Asks a running saga to stop and be undone, and starts this one after it, instead of refusing. */
  supersede?: boolean
}

/**
 * Starts a saga with the transaction that wrote what it is about: both or neither. Returns its id. Throws `conflict` when another
 * runs on the resource, unless `supersede`; a saga that is queued behind another already is not queued twice (its id is returned).
 */
export async function sagaStart<A extends object>(tx: Tx, started: Saga<A>, args: A, options: StartOptions): Promise<string> {
  const id = randomUUID()
  if (await sagaInsert(tx, { id, name: started.name, resource: options.resource, args, state: 'running' })) return id
  const running = await tx
    .selectFrom('kit.sagas')
    .select(['id', 'name', 'step', 'state'])
    .where('resource', '=', options.resource)
    .forUpdate()
    .execute()
  if (running.length > 0 && !options.supersede) {
    const first = running[0]!
    throw conflict(
      options.busy?.(first) ??
        `Another operation on it is in progress (${first.name}${first.step ? `, step ${first.step}` : ''}).`,
    )
  }
  const queued = running.find(row => row.state === 'queued')
  if (queued) return queued.id
  const state = running.length > 0 ? 'queued' : 'running'
  if (!(await sagaInsert(tx, { id, name: started.name, resource: options.resource, args, state })))
    throw conflict('Another operation on it has just begun.')
  if (running.length > 0) await sagaCancel(tx, options.resource)
  return id
}

interface NewSaga {
  id: string
  name: string
  resource: string
  args: object
  state: 'running' | 'queued'
}

/** Writes a saga, which is claimed after the commit. False when there is one on its resource already. */
async function sagaInsert(tx: Tx, { args, ...row }: NewSaga): Promise<boolean> {
  const made = await tx
    .insertInto('kit.sagas')
    .values({ ...row, args: json(args) })
    .onConflict(on => on.doNothing())
    .executeTakeFirst()
  if (made.numInsertedOrUpdatedRows !== 1n) return false
  afterCommit(tx, wakeRunners)
  return true
}

/** Asks the saga that runs on this resource to stop and be undone. A forward saga goes on. Does nothing where none runs. */
export async function sagaCancel(tx: Tx, resource: string): Promise<void> {
  await tx
    .updateTable('kit.sagas')
    .set({ cancel: true })
    .where('resource', '=', resource)
    .where('state', '!=', 'queued')
    .execute()
  afterCommit(tx, () => wakeWaiters(`cancel ${resource}`))
  if (!runsHere(resource)) await sql`select pg_notify('kit_saga', ${`cancel ${resource}`})`.execute(tx)
}

/** Tells the saga that runs on this resource, in whatever process, that rows it waits for have changed. */
export async function sagaPoke(tx: Tx, resource: string): Promise<void> {
  afterCommit(tx, () => wakeWaiters(resource))
  if (!runsHere(resource)) await sql`select pg_notify('kit_saga', ${resource})`.execute(tx)
}

/** As {@link sagaPoke}, of several, for rows that are committed already. */
export async function sagasPoke(db: Query, resources: readonly string[]): Promise<void> {
  for (const resource of resources) wakeWaiters(resource)
  const elsewhere = resources.filter(resource => !runsHere(resource))
  if (elsewhere.length > 0) await sql`select pg_notify('kit_saga', x) from unnest(${elsewhere}::text[]) x`.execute(db)
}

/** A saga as operators see it: what waits, since when, until when, and why. */
export interface SagaView {
  id: string
  name: string
  resource: string
  state: string
  step: string | null
  since: Date | null
  deadline: Date | null
  attempts: number
  error: string | null
}

/** The sagas in progress, the oldest first; of one resource if named. */
export async function sagaList(db: Query, resource?: string): Promise<SagaView[]> {
  let query = db
    .selectFrom('kit.sagas')
    .select([
      'id',
      'name',
      'resource',
      'state',
      'step',
      'step_since as since',
      'step_deadline as deadline',
      'attempts',
      'last_error as error',
    ])
    .orderBy('created_at')
  if (resource !== undefined) query = query.where('resource', '=', resource)
  return query.execute()
}

export { type Runner, type RunnerOptions, sagaRunner } from './runner.ts'
