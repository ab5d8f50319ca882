/**
 * PostgreSQL for the whole program: one pool, typed queries (Kysely), transactions that are run again when they clash, and
 * LISTEN/NOTIFY as a wake-up between processes. Each service declares its tables by augmenting `Tables`:
 *
 *     declare module '#kit/db/index.ts' { interface Tables { 'nova.servers': ServersTable } }
 *
 * Shapes of values: see `types.ts`. A function that only reads takes a `Query`, one that writes takes a `Tx`: so the type says
 * that its effects commit with its caller's.
 */
import { setTimeout as delay } from 'node:timers/promises'
import type { Dialect, RawBuilder } from 'kysely'
import { DummyDriver, Kysely, sql, Transaction } from 'kysely'
import pg from 'pg'
import { dialect } from './driver.ts'
import { listener } from './listen.ts'
import { codeOf, isClash, isLost, isStale, lostPause } from './session.ts'
import { types } from './types.ts'

export type { Insertable, RawBuilder, Selectable, Updateable } from 'kysely'
export { type ColumnType, type Generated, type Migration, type MigrationSet, migrate, migratePending } from './migrate.ts'
export { type PageKey, type PageOptions, page } from './page.ts'
export { codeOf } from './session.ts'
export { sql }

/** Every table of the program, `schema.table` to row type. Empty here; each service's tables.ts adds its own. */
// biome-ignore lint/suspicious/noEmptyInterface: made to be augmented
export interface Tables {}

/** What a reading function takes: the pool, or the transaction that it should read in. */
export type Query = Kysely<Tables>
/** What a writing function takes. */
export type Tx = Transaction<Tables>

export interface Db {
  /**
   * Queries outside a transaction, each on any connection, several at a time on one: no session state (`set`, session locks).
   * A SELECT that was lost with its connection is sent again, and so is any statement that clashed: each is a transaction of its own.
   */
  read: Query
  /**
   * Runs `fn` in a READ COMMITTED transaction and commits. On a serialization failure or a deadlock, or when the connection
   * breaks before COMMIT was sent (the server restarts), all of it runs again, within bounds: `fn` must have no side effects but
   * its queries; others go to `afterCommit`. `durable: false` lets COMMIT return before the disk has it (telemetry samples only).
   */
  tx<T>(fn: (tx: Tx) => Promise<T>, options?: TxOptions): Promise<T>
  /** Calls `fn` with the payload of each notification of the channel. See `listen.ts` for `Listening`. Returns how to stop. */
  listen(channel: string, fn: (payload: string) => void, listening?: Listening): Promise<() => void>
  /** The pool now: connections, those of them that are idle, and who waits for one. */
  stats(): { total: number; idle: number; waiting: number }
  /** Whether the database is on this machine: then a connection that has ended says so at once, and no notification is lost unnoticed. */
  readonly local: boolean
  /** Waits for running queries and closes every connection. */
  close(): Promise<void>
}

export interface TxOptions {
  durable?: boolean
}

export interface Listening {
  /** The connection was lost: notifications may be missed from now on. A cache kept fresh by them must be dropped. */
  onLost?: () => void
  /** It is back: what was read meanwhile may be stale, so drop or re-read again. */
  onBack?: () => void
}

type Report = (error: Error) => void

export interface OpenOptions {
  /** `postgresql://user@host/database`, or of a unix socket: `postgresql:///database?host=/folder&user=name`. */
  url: string
  /** Connections at most; 10 unless given. */
  max?: number
  /** Shown in pg_stat_activity. */
  name?: string
  /** Longest run of one statement in ms; 30 000 unless given. */
  statementTimeout?: number
  /**
   * For the log: connections that broke while idle, a lost LISTEN connection, what an `afterCommit` threw. Those concerned hear of
   * it anyway. A warning of the process unless given.
   */
  onError?: Report
}

/** At most so many runs of a transaction that clashes; the pauses between them add up to about 1 s. */
const TX_RUNS = 10

interface Hooks {
  before: ((tx: Tx) => Promise<void>)[]
  after: (() => void)[]
}

/** The hooks of each open transaction. A run that is rolled back takes its hooks with it. */
const hooks = new WeakMap<Tx, Hooks>()

function hooksOf(tx: Tx): Hooks {
  const found = hooks.get(tx)
  if (!found) throw new Error('not a transaction of db.tx, or one that has ended')
  return found
}

/** Calls `fn` once the transaction has committed; never if it was rolled back. What it throws is only reported: the commit stands. */
export function afterCommit(tx: Tx, fn: () => void): void {
  hooksOf(tx).after.push(fn)
}

/** Runs `fn` as the last thing inside the transaction, for writes that are gathered while it runs. */
export function beforeCommit(tx: Tx, fn: (tx: Tx) => Promise<void>): void {
  hooksOf(tx).before.push(fn)
}

/**
 * Runs `fn` so that its failure takes back only what it did, its hooks too, and the transaction can go on: by a savepoint. Rejects
 * with the failure. A failure that makes the whole transaction run again (a deadlock, a lost connection) must be thrown on.
 */
export async function attempt<T>(tx: Tx, fn: () => Promise<T>): Promise<T> {
  const { before, after } = hooksOf(tx)
  const [befores, afters] = [before.length, after.length]
  await sql`savepoint attempt`.execute(tx)
  try {
    const value = await fn()
    await sql`release savepoint attempt`.execute(tx)
    return value
  } catch (error) {
    if (!isLost(error)) {
      await sql`rollback to savepoint attempt`.execute(tx)
      await sql`release savepoint attempt`.execute(tx)
    }
    before.length = befores
    after.length = afters
    throw error
  }
}

/** A jsonb parameter. Needed for arrays and bare scalars, which pg would write in other ways; good for all. */
export function json<T>(value: T): RawBuilder<T> {
  return sql<T>`${JSON.stringify(value)}::jsonb`
}

/** Wakes every `listen` on the channel when this transaction commits. The payload has at most 8000 bytes. */
export async function notify(tx: Tx, channel: string, payload = ''): Promise<void> {
  await sql`select pg_notify(${channel}, ${payload})`.execute(tx)
}

/** Holds the lock of this name, across all processes, until the transaction ends; waits for it. */
export async function lock(tx: Tx, name: string): Promise<void> {
  await sql`select pg_advisory_xact_lock(hashtextextended(${name}, 0))`.execute(tx)
}

/**
 * As {@link lock} where the condition holds; where it does not, the lock is held together with others for whom it did not either. Returns whether
 * it is held alone. What the condition is about must be read again afterwards: it is looked at before the lock is had.
 */
export async function lockIf(tx: Tx, name: string, condition: RawBuilder<boolean>): Promise<boolean> {
  const { rows } = await sql<{ alone: boolean }>`
    select c.alone, case when c.alone then pg_advisory_xact_lock(c.key) else pg_advisory_xact_lock_shared(c.key) end as had
    from (select ${condition} as alone, hashtextextended(${name}, 0) as key) c`.execute(tx)
  return rows[0]!.alone
}

/** Takes the lock of this name until the transaction ends; false if another transaction holds it. */
export async function tryLock(tx: Tx, name: string): Promise<boolean> {
  const { rows } = await sql<{ ok: boolean }>`select pg_try_advisory_xact_lock(hashtextextended(${name}, 0)) as ok`.execute(tx)
  return rows[0]!.ok
}

/** Whether this is a violation of a unique constraint, of this one if named. */
export function isDuplicate(error: unknown, constraint?: string): boolean {
  return codeOf(error) === '23505' && (constraint === undefined || (error as { constraint?: string }).constraint === constraint)
}

/** Whether this is a violation of a foreign key, of this one if named. */
export function isReferenced(error: unknown, constraint?: string): boolean {
  return codeOf(error) === '23503' && (constraint === undefined || (error as { constraint?: string }).constraint === constraint)
}

/** How long to wait, in ms, before the transaction runs again; undefined if it must not. */
function pauseAfter(error: unknown, committing: boolean, run: number, since: number): number | undefined {
  const clash = isClash(error) || isStale(error)
  if (clash) return run < TX_RUNS ? Math.random() * Math.min(2 ** run * 4, 500) : undefined
  // A COMMIT whose answer was lost may have happened.
  return !committing && isLost(error) ? lostPause(run, since) : undefined
}

/**
 * The transaction without Kysely's queue, which holds a statement back until the one before it is answered: statements that are started
 * together travel together, and are run in their order.
 */
async function pipelined(tx: Tx, dialect: Dialect): Promise<Tx> {
  const executor = tx.getExecutor()
  const connection = await executor.provideConnection(async one => one)
  const direct = executor.withConnectionProvider({ provideConnection: consumer => consumer(connection) })
  return new Transaction({ config: { dialect }, dialect, driver: new DummyDriver(), executor: direct })
}

async function runTx<T>(
  kysely: Query,
  dialect: Dialect,
  report: Report,
  fn: (tx: Tx) => Promise<T>,
  options?: TxOptions,
): Promise<T> {
  const since = performance.now()
  for (let run = 1; ; run++) {
    const mine: Hooks = { before: [], after: [] }
    let committing = false
    let result: T
    try {
      result = await kysely.transaction().execute(async queued => {
        const tx = await pipelined(queued, dialect)
        hooks.set(tx, mine)
        try {
          // Not awaited: it counts at COMMIT. It fails only where a statement of `fn` has failed before it, or with the connection.
          if (options?.durable === false) sql`set local synchronous_commit = off`.execute(tx).catch(() => undefined)
          const value = await fn(tx)
          for (const before of mine.before) await before(tx)
          committing = true
          return value
        } finally {
          hooks.delete(tx)
        }
      })
    } catch (error) {
      const pause = pauseAfter(error, committing, run, since)
      if (pause === undefined) throw error
      await delay(pause)
      continue
    }
    for (const after of mine.after) {
      try {
        after()
      } catch (error) {
        report(error as Error)
      }
    }
    return result
  }
}

/** Whether a URL names a database of this machine: by a socket's folder, or a loopback address. */
function isLocal(url: string): boolean {
  const { hostname, searchParams } = new URL(url)
  const host = searchParams.get('host') ?? hostname
  return host === '' || host.startsWith('/') || host === 'localhost' || host === '[::1]' || host.startsWith('127.')
}

/** Opens a pool on a database. Connects lazily: that the database is there is first known by a query. */
export function open(options: OpenOptions): Db {
  const config: pg.PoolConfig = {
    connectionString: options.url,
    application_name: options.name ?? 'nubo',
    statement_timeout: options.statementTimeout ?? 30_000,
    idle_in_transaction_session_timeout: 60_000,
    connectionTimeoutMillis: 10_000,
    options: '-c TimeZone=UTC -c DateStyle=ISO -c IntervalStyle=postgres',
    types,
    pipeline: true,
  }
  // What looks each minute would else have a server process made each time, and lose it again.
  const lasting = { min: 2, idleTimeoutMillis: 150_000, allowExitOnIdle: true }
  const pool = new pg.Pool({ ...config, ...lasting, max: options.max ?? 10 })
  const report = options.onError ?? (error => process.emitWarning(error))
  let closing = false
  // An idle connection that breaks is dropped by the pool; without a listener it would end the process.
  pool.on('error', error => closing || report(error))
  // One that breaks in the instant between its connecting and its use: whoever uses it then finds out.
  pool.on('connect', client => client.on('error', () => {}))
  const spoken = dialect(pool)
  const kysely = new Kysely<Tables>({ dialect: spoken })
  const ears = listener(config, report)
  return {
    read: kysely,
    tx: (fn, txOptions) => runTx(kysely, spoken, report, fn, txOptions),
    listen: ears.listen,
    local: isLocal(options.url),
    stats: () => ({ total: pool.totalCount, idle: pool.idleCount, waiting: pool.waitingCount }),
    async close() {
      closing = true
      await ears.close()
      await kysely.destroy()
      if (!pool.ended && !pool.ending) await pool.end()
    },
  }
}
