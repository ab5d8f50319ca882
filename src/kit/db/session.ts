/** One pg connection and what we know of it: its prepared statements, what is on its way, whether it is still good. */
import type { Duplex } from 'node:stream'
import pg from 'pg'
import { unavailable } from '../fault.ts'
import { type Columns, columnsOf, execute, type Result } from './execution.ts'

/** A statement is prepared on a connection once it succeeded there this many times: lists with odd filters never are. */
const PREPARE_AFTER = 2
/** And at most so many a connection: each costs memory in the database. */
const PREPARE_MAX = 256
/** Long statements are mostly inserts of many rows: rarely the same twice, and their text is costly to look up. */
const PREPARE_LENGTH = 8192
/** What is counted before it is prepared. When the table is full, counting starts again. */
const COUNTED_MAX = 2048

/** SQLSTATEs by which the server ends or refuses a connection, and what the system says of its socket. */
const LOST = new Set(['57P01', '57P02', '57P03', '53300', 'ECONNRESET', 'ECONNREFUSED', 'ENOENT', 'EPIPE'])
/** The SQLSTATE or system code of a failure, looked for through its causes. */
export function codeOf(error: unknown): string | undefined {
  for (let at = error; at instanceof Error; at = at.cause) {
    const { code } = at as { code?: unknown }
    if (typeof code === 'string') return code
  }
  return undefined
}

/** Whether the connection was lost, or not had, rather than the statement refused. pg gives some of these errors no code. */
export function isLost(error: unknown): boolean {
  for (let at = error; at instanceof Error; at = at.cause) if (isStarved(at)) return false
  const code = codeOf(error)
  if (code !== undefined) return LOST.has(code) || code.startsWith('08')
  for (let at = error; at instanceof Error; at = at.cause) {
    if (/Connection terminated|not queryable/.test(at.message)) return true
  }
  return false
}

/** Whether the pool had no connection to give for too long: all are in use, or the database does not answer. Trying again adds to it. */
const isStarved = (error: unknown): boolean =>
  error instanceof Error && /timeout exceeded when trying to connect|due to connection timeout/.test(error.message)

/** How long what was lost with its connection is tried again: a crashed server is back in about 0.3 s, an upgraded one in a few. */
const LOST_MS = 5000

/** The pause in ms before what was lost is tried again, growing to 0.25 s; undefined when it was first tried too long ago. */
export function lostPause(attempt: number, since: number): number | undefined {
  if (performance.now() - since > LOST_MS) return undefined
  return Math.min(10 * 2 ** attempt, 250) * (0.5 + Math.random())
}

/**
 * Whether the statement failed only because this connection had prepared it for another shape of its table ("cached plan must not
 * change result type", told by where it was raised, as 0A000 has other uses), or had not prepared it after all (26000).
 */
export function isStale(error: unknown): boolean {
  const { code, routine } = error as { code?: unknown; routine?: unknown }
  return code === '26000' || (code === '0A000' && routine === 'RevalidateCachedQuery')
}

const CLASH = new Set(['40001', '40P01'])

/** Whether the transaction was ended because of another one: a serialization failure, a deadlock. */
export const isClash = (error: unknown): boolean => CLASH.has(codeOf(error) ?? '')

/** What the caller sees of a failure: 503 when the database cannot be reached, else the database's own error with its statement. */
export function explain(error: unknown, statement: string): unknown {
  if (isStarved(error)) return unavailable('The database is too busy.', { cause: error })
  if (isLost(error)) return unavailable('The database cannot be reached.', { cause: error })
  return error instanceof Error ? Object.assign(error, { statement }) : error
}

interface Prepared {
  name: string
  /** Known when it was answered under its name. */
  columns?: Columns
}

export interface Answer {
  result: Result
  /** How long the server worked on it, without what was before it on this connection. */
  ms: number
}

export class Session {
  readonly client: pg.PoolClient
  /** To be closed when it is released. */
  broken = false
  /** Queries that were sent and not answered. */
  inFlight = 0
  /** When it last made progress, by `performance.now()`; meaningful while something is in flight. */
  progress = 0
  #corked = false
  #prepared = new Map<string, Prepared>()
  #counts = new Map<string, number>()

  constructor(client: pg.PoolClient) {
    this.client = client
    // The pool listens only while a connection is idle. In use, the queries on it fail by themselves.
    client.on('error', () => {
      this.broken = true
    })
  }

  /** Sends the statement behind those on their way. Rejects with pg's error. */
  async send(text: string, values: readonly unknown[]): Promise<Answer> {
    this.#gather()
    const sent = performance.now()
    if (this.inFlight++ === 0) this.progress = sent
    try {
      const result = await this.#run(text, values)
      return { result, ms: performance.now() - Math.max(sent, this.progress) }
    } catch (error) {
      if (isStale(error) || !(error instanceof pg.DatabaseError) || isLost(error)) this.broken = true
      // From where it was asked, not from where the answer was read.
      if (error instanceof Error) Error.captureStackTrace(error)
      throw error
    } finally {
      this.inFlight--
      this.progress = performance.now()
    }
  }

  async #run(text: string, values: readonly unknown[]): Promise<Result> {
    const prepared = this.#prepared.get(text)
    if (prepared?.columns) return execute(this.client, { ...prepared, text, columns: prepared.columns }, values)
    const result = await this.client.query({ name: prepared?.name, text, values: values as unknown[] })
    if (prepared) prepared.columns = columnsOf(result.fields)
    else this.#count(text)
    return result
  }

  /** What is sent before the event loop goes on travels in one system call, the costliest part of a small query. */
  #gather(): void {
    if (this.#corked) return
    const { stream } = (this.client as unknown as { connection: { stream: Duplex } }).connection
    this.#corked = true
    stream.cork()
    process.nextTick(() => {
      this.#corked = false
      stream.uncork()
    })
  }

  #count(text: string): void {
    if (text.length > PREPARE_LENGTH || this.#prepared.size >= PREPARE_MAX) return
    const count = (this.#counts.get(text) ?? 0) + 1
    if (count < PREPARE_AFTER) {
      if (this.#counts.size >= COUNTED_MAX) this.#counts.clear()
      this.#counts.set(text, count)
    } else if (!this.#prepared.has(text)) {
      this.#counts.delete(text)
      this.#prepared.set(text, { name: `n${this.#prepared.size}` })
    }
  }
}
