/**
 * The Kysely driver over a pg pool, made for little CPU per request. Most of a small query's cost is system calls and waiting, so:
 *
 * - connections are pipelined: a query is sent without waiting for the answer to the one before it. BEGIN travels together with the
 *   first query of its transaction;
 * - quick queries outside transactions share connections: those asked for at the same time travel and are answered together, at
 *   less than half the CPU of one connection each. As they wait for each other, only statements that are known to be quick do, a
 *   few at a time on a connection, and none on one where something takes long against expectation;
 * - statements seen often on a connection are prepared there, so that PostgreSQL parses and plans them once (`session.ts`).
 *
 * So session state (`set`, session locks, `listen`) has no place outside a transaction. A SELECT outside a transaction that was lost
 * with its connection is sent again.
 */
import { setTimeout as delay } from 'node:timers/promises'
import type { CompiledQuery, DatabaseConnection, Dialect, Driver, QueryResult, TransactionSettings } from 'kysely'
import { PostgresAdapter, PostgresIntrospector, PostgresQueryCompiler } from 'kysely'
import type pg from 'pg'
import type { Result } from './execution.ts'
import type { Answer } from './session.ts'
import { explain, isClash, isLost, isStale, lostPause, Session } from './session.ts'

/** Queries on one shared connection, before another is taken. */
const DEPTH = 8
/** A shared connection that made no progress for so many ms is busy with something slow. */
const STUCK_MS = 5
/** A statement that takes longer than this, in ms on average, has a connection for itself; so has one not seen before. */
const QUICK_MS = 20
/** How many statements' times are kept. When the table is full, all are new again. */
const KNOWN_MAX = 4096
/** The share of the last time in the average. */
const WEIGHT = 0.3
/** A statement whose plan is stale on one connection may meet other connections where it is so too. */
const STALE_MAX = 10

/** The pool's connections: some lent to transactions, some shared by everything else. */
class Lanes {
  readonly #pool: pg.Pool
  readonly #sharedMax: number
  readonly #sessions = new WeakMap<pg.PoolClient, Session>()
  /** Those that take more queries. */
  #shared: Session[] = []
  /** Those that must be given back. */
  readonly #lent = new Set<Session>()
  #opening: Promise<Session> | undefined
  /** The average time of each statement, in ms. */
  readonly #times = new Map<string, number>()

  constructor(pool: pg.Pool) {
    this.#pool = pool
    this.#sharedMax = Math.max(1, Math.floor(pool.options.max / 2))
  }

  /** A connection for the caller alone, until `give`. */
  async take(): Promise<Session> {
    const client = await this.#pool.connect()
    let session = this.#sessions.get(client)
    if (!session) {
      session = new Session(client)
      this.#sessions.set(client, session)
    }
    return session
  }

  give(session: Session): void {
    session.client.release(session.broken)
  }

  /** Sends the statement: with others if it is quick, else on a connection for itself. */
  async send(text: string, values: readonly unknown[]): Promise<Result> {
    const time = this.#times.get(text)
    const { result, ms } = await (time !== undefined && time < QUICK_MS ? this.#share(text, values) : this.#alone(text, values))
    if (time === undefined && this.#times.size >= KNOWN_MAX) this.#times.clear()
    this.#times.set(text, time === undefined ? ms : time + (ms - time) * WEIGHT)
    return result
  }

  async #alone(text: string, values: readonly unknown[]): Promise<Answer> {
    const session = await this.take()
    try {
      return await session.send(text, values)
    } finally {
      this.give(session)
    }
  }

  async #share(text: string, values: readonly unknown[]): Promise<Answer> {
    let session = this.#pick()
    while (!session) {
      // Those who find none wait together for one more, so that they share it.
      this.#opening ??= this.#open().finally(() => {
        this.#opening = undefined
      })
      const opened = await this.#opening
      // The first of them uses it, in any case: one that nobody used would never be given back.
      session = opened.inFlight < DEPTH ? opened : this.#pick()
    }
    try {
      return await session.send(text, values)
    } finally {
      // A broken one takes nothing more. Several that end together may each see that nothing is in flight: the first gives it back.
      if (session.broken || session.inFlight === 0) this.#shared = this.#shared.filter(other => other !== session)
      if (session.inFlight === 0 && this.#lent.delete(session)) this.give(session)
    }
  }

  async #open(): Promise<Session> {
    const session = await this.take()
    this.#shared.push(session)
    this.#lent.add(session)
    return session
  }

  /** The first connection with room; when no more may be opened, the one with the least to do. */
  #pick(): Session | undefined {
    const now = performance.now()
    const free = this.#shared.find(s => s.inFlight < DEPTH && (s.inFlight === 0 || now - s.progress < STUCK_MS))
    if (free) return free
    const full = this.#pool.idleCount === 0 && this.#pool.totalCount >= this.#pool.options.max
    if (this.#shared.length === 0 || (this.#shared.length < this.#sharedMax && !full)) return undefined
    return this.#shared.reduce((least, s) => (s.inFlight < least.inFlight ? s : least))
  }
}

/** Whether it only reads: then it may be sent twice. */
const isSelect = ({ query, sql }: CompiledQuery): boolean =>
  query.kind === 'SelectQueryNode' || (query.kind === 'RawNode' && /^\s*select\b/i.test(sql))

class Connection implements DatabaseConnection {
  readonly lanes: Lanes
  /** Its own connection, within a transaction. */
  session: Session | undefined

  constructor(lanes: Lanes) {
    this.lanes = lanes
  }

  async executeQuery<R>(query: CompiledQuery): Promise<QueryResult<R>> {
    const { command, rowCount, rows } = await this.#run(query)
    const writes = command === 'INSERT' || command === 'UPDATE' || command === 'DELETE' || command === 'MERGE'
    return { rows: rows ?? [], numAffectedRows: writes ? BigInt(rowCount ?? 0) : undefined }
  }

  async #run(query: CompiledQuery): Promise<Result> {
    const since = performance.now()
    for (let attempt = 1; ; attempt++) {
      try {
        if (!this.session) return await this.lanes.send(query.sql, query.parameters)
        return (await this.session.send(query.sql, query.parameters)).result
      } catch (error) {
        // In a transaction that has failed by now: it runs again as a whole.
        if (!this.session) {
          if (isStale(error) && attempt < STALE_MAX) continue
          // The statement was a transaction of its own: what clashed has left nothing behind.
          if (isClash(error) && attempt < STALE_MAX) {
            await delay(Math.random() * Math.min(2 ** attempt * 4, 500))
            continue
          }
          const pause = isLost(error) && isSelect(query) ? lostPause(attempt, since) : undefined
          if (pause !== undefined) {
            await delay(pause)
            continue
          }
        }
        throw explain(error, query.sql)
      }
    }
  }

  // biome-ignore lint/correctness/useYield: refuses, as the interface demands a generator
  async *streamQuery<R>(): AsyncIterableIterator<QueryResult<R>> {
    throw new Error('streaming is not offered: read page by page')
  }
}

class PoolDriver implements Driver {
  readonly #pool: pg.Pool
  readonly #lanes: Lanes

  constructor(pool: pg.Pool) {
    this.#pool = pool
    this.#lanes = new Lanes(pool)
  }

  async init(): Promise<void> {}

  async acquireConnection(): Promise<Connection> {
    return new Connection(this.#lanes)
  }

  async beginTransaction(connection: DatabaseConnection, { isolationLevel, accessMode }: TransactionSettings): Promise<void> {
    const begin = `begin isolation level ${isolationLevel ?? 'read committed'}${accessMode ? ` ${accessMode}` : ''}`
    let session: Session
    try {
      session = await this.#lanes.take()
    } catch (error) {
      throw explain(error, begin)
    }
    ;(connection as Connection).session = session
    // Not awaited: BEGIN fails only with its connection, and then so does every query behind it, COMMIT at the latest.
    session.send(begin, []).catch(() => {
      session.broken = true
    })
  }

  async commitTransaction(connection: DatabaseConnection): Promise<void> {
    const { session } = connection as Connection
    const { result } = await session!.send('commit', []).catch(error => {
      throw explain(error, 'commit')
    })
    // COMMIT of a transaction in which a statement failed (and the failure was caught) is answered with ROLLBACK.
    if (result.command !== 'COMMIT') throw new Error('the transaction was rolled back: one of its statements had failed')
  }

  async rollbackTransaction(connection: DatabaseConnection): Promise<void> {
    const { session } = connection as Connection
    // A connection that is lost has rolled back by itself; it is closed in any case.
    if (session && !session.broken) await session.send('rollback', [])
  }

  async releaseConnection(connection: DatabaseConnection): Promise<void> {
    const { session } = connection as Connection
    if (session) this.#lanes.give(session)
  }

  async destroy(): Promise<void> {
    await this.#pool.end()
  }
}

/** The Kysely dialect over this pool; the pool must have been made with `pipeline: true`. */
export function dialect(pool: pg.Pool): Dialect {
  return {
    createDriver: () => new PoolDriver(pool),
    createQueryCompiler: () => new PostgresQueryCompiler(),
    createAdapter: () => new PostgresAdapter(),
    createIntrospector: db => new PostgresIntrospector(db),
  }
}
