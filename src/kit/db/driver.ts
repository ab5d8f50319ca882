/**
 * The Kysely driver over a pg pool, made for little CPU per request. Most of a small query's cost is system calls and waiting, so:
 *
 * - connections are pipelined: a query is sent without waiting for the answer to the one before it. BEGIN travels together with the
 *   first query of its transaction;
 * - queries outside transactions share connections: those asked for at the same time travel and are answered together, at less
 *   than half the CPU of one connection each. A connection takes a few at a time, and none while its first is slow;
 * - statements seen often on a connection are prepared there, so that PostgreSQL parses and plans them once (`session.ts`).
 *
 * So session state (`set`, session locks, `listen`) has no place outside a transaction. A SELECT outside a transaction that was lost
 * with its connection is sent again.
 */
import { setTimeout as delay } from 'node:timers/promises'
import type { CompiledQuery, DatabaseConnection, Dialect, Driver, QueryResult, TransactionSettings } from 'kysely'
import { PostgresAdapter, PostgresIntrospector, PostgresQueryCompiler } from 'kysely'
import type pg from 'pg'
import { explain, isLost, isStale, lostPause, Session } from './session.ts'

/** Queries on one shared connection, before another is taken. */
const DEPTH = 8
/** A shared connection that made no progress for so many ms is busy with something slow. */
const SLOW_MS = 5
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
  #opening: Promise<void> | undefined

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

  /** Sends the statement on a shared connection. */
  async share(text: string, values: readonly unknown[]): Promise<pg.QueryResult> {
    let session = this.#pick()
    while (!session) {
      // Those who find none wait together for one more, so that they share it.
      this.#opening ??= this.#open().finally(() => {
        this.#opening = undefined
      })
      await this.#opening
      session = this.#pick()
    }
    try {
      return await session.send(text, values)
    } finally {
      // A broken one takes nothing more. Several that end together may each see that nothing is in flight: the first gives it back.
      if (session.broken || session.inFlight === 0) this.#shared = this.#shared.filter(other => other !== session)
      if (session.inFlight === 0 && this.#lent.delete(session)) this.give(session)
    }
  }

  async #open(): Promise<void> {
    const session = await this.take()
    this.#shared.push(session)
    this.#lent.add(session)
  }

  /** The first connection with room; when no more may be opened, the one with the least to do. */
  #pick(): Session | undefined {
    const now = performance.now()
    const free = this.#shared.find(s => s.inFlight < DEPTH && (s.inFlight === 0 || now - s.progress < SLOW_MS))
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

  async #run(query: CompiledQuery): Promise<pg.QueryResult> {
    const since = performance.now()
    for (let attempt = 1; ; attempt++) {
      try {
        return await (this.session
          ? this.session.send(query.sql, query.parameters)
          : this.lanes.share(query.sql, query.parameters))
      } catch (error) {
        // In a transaction that has failed by now: it runs again as a whole.
        if (!this.session) {
          if (isStale(error) && attempt < STALE_MAX) continue
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
    const { command } = await session!.send('commit', []).catch(error => {
      throw explain(error, 'commit')
    })
    // COMMIT of a transaction in which a statement failed (and the failure was caught) is answered with ROLLBACK.
    if (command !== 'COMMIT') throw new Error('the transaction was rolled back: one of its statements had failed')
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
