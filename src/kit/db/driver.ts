/**
 * The Kysely driver over a pg pool. It differs from Kysely's own in three ways, each for CPU or round trips per request:
 * connections are pipelined (a query is sent without waiting for the answer to the one before), so BEGIN travels together with
 * the first query of its transaction; statements seen often on a connection are prepared there under a name, so that
 * PostgreSQL parses and plans them once; and an error carries the text of its statement.
 */
import type { CompiledQuery, DatabaseConnection, Dialect, Driver, QueryResult, TransactionSettings } from 'kysely'
import { PostgresAdapter, PostgresIntrospector, PostgresQueryCompiler } from 'kysely'
import type pg from 'pg'
import { unavailable } from '../fault.ts'

/** A statement is prepared on a connection once it ran there this many times: lists with odd filters never are. */
const PREPARE_AFTER = 3
/** And at most so many a connection: each costs memory in the database. */
const PREPARE_MAX = 256
/** Long statements are mostly inserts of many rows: rarely the same twice, and their text is costly to look up. */
const PREPARE_LENGTH = 8192
/** What is counted before it is prepared. When the table is full, counting starts again. */
const COUNTED_MAX = 2048

class Connection implements DatabaseConnection {
  readonly client: pg.PoolClient
  broken = false
  inTransaction = false
  #prepared = new Map<string, string>()
  #counts = new Map<string, number>()

  constructor(client: pg.PoolClient) {
    this.client = client
  }

  /** The name under which this text is prepared here; undefined to send it whole. */
  #name(text: string): string | undefined {
    if (text.length > PREPARE_LENGTH) return undefined
    const name = this.#prepared.get(text)
    if (name !== undefined || this.#prepared.size >= PREPARE_MAX) return name
    const count = (this.#counts.get(text) ?? 0) + 1
    if (count < PREPARE_AFTER) {
      if (this.#counts.size >= COUNTED_MAX) this.#counts.clear()
      this.#counts.set(text, count)
      return undefined
    }
    this.#counts.delete(text)
    const fresh = `n${this.#prepared.size}`
    this.#prepared.set(text, fresh)
    return fresh
  }

  async executeQuery<R>(query: CompiledQuery): Promise<QueryResult<R>> {
    const { command, rowCount, rows } = await this.#send(query.sql, query.parameters as unknown[])
    const writes = command === 'INSERT' || command === 'UPDATE' || command === 'DELETE' || command === 'MERGE'
    return { rows: rows ?? [], numAffectedRows: writes ? BigInt(rowCount ?? 0) : undefined }
  }

  async #send(text: string, values: unknown[]): Promise<pg.QueryResult> {
    const name = this.#name(text)
    try {
      return await this.client.query({ name, text, values })
    } catch (error) {
      // A prepared plan outlived a change of its table: this connection forgets all its plans, by being closed after this use.
      // A transaction has failed by now and runs again as a whole; a query alone can be sent again here.
      if (name !== undefined && (error as { code?: string }).code === '0A000') {
        this.broken = true
        if (!this.inTransaction) return await this.client.query({ text, values })
      }
      if (error instanceof Error) Object.assign(error, { statement: text })
      throw error
    }
  }

  // biome-ignore lint/correctness/useYield: refuses, as the interface demands a generator
  async *streamQuery<R>(): AsyncIterableIterator<QueryResult<R>> {
    throw new Error('streaming is not offered: read page by page')
  }
}

class PoolDriver implements Driver {
  readonly #pool: pg.Pool
  readonly #connections = new WeakMap<pg.PoolClient, Connection>()

  constructor(pool: pg.Pool) {
    this.#pool = pool
  }

  async init(): Promise<void> {}

  async acquireConnection(): Promise<Connection> {
    let client: pg.PoolClient
    try {
      client = await this.#pool.connect()
    } catch (cause) {
      throw unavailable('The database cannot be reached.', { cause })
    }
    let connection = this.#connections.get(client)
    if (!connection) {
      const fresh = new Connection(client)
      // The pool listens only while a connection is idle. In use, the queries on it fail by themselves.
      client.on('error', () => {
        fresh.broken = true
      })
      this.#connections.set(client, fresh)
      connection = fresh
    }
    return connection
  }

  async beginTransaction(connection: DatabaseConnection, settings: TransactionSettings): Promise<void> {
    const { client } = connection as Connection
    ;(connection as Connection).inTransaction = true
    const begin = client.query(
      `begin isolation level ${settings.isolationLevel ?? 'read committed'}${settings.accessMode ? ` ${settings.accessMode}` : ''}`,
    )
    // Not awaited: BEGIN fails only with its connection, and then so does every query behind it, COMMIT at the latest.
    begin.catch(() => {
      ;(connection as Connection).broken = true
    })
  }

  async commitTransaction(connection: DatabaseConnection): Promise<void> {
    const { command } = await (connection as Connection).client.query('commit')
    // COMMIT of a transaction in which a statement failed (and the failure was caught) is answered with ROLLBACK.
    if (command !== 'COMMIT') throw new Error('the transaction was rolled back: one of its statements had failed')
  }

  async rollbackTransaction(connection: DatabaseConnection): Promise<void> {
    try {
      await (connection as Connection).client.query('rollback')
    } catch (error) {
      ;(connection as Connection).broken = true
      throw error
    }
  }

  async releaseConnection(connection: DatabaseConnection): Promise<void> {
    ;(connection as Connection).inTransaction = false
    const { client, broken } = connection as Connection
    client.release(broken)
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
