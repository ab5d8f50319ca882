/**
 * A prepared statement, run again. pg asks PostgreSQL anew each time what columns the answer has, and writes four messages one by one; of a
 * statement that was answered on the connection before, the columns are known (a change of the table makes it fail, see `isStale`). So it is
 * two messages and one write, and no object for each column.
 */
import pg from 'pg'
import { types } from './types.ts'

/** What callers look at of an answer. */
export type Result = Pick<pg.QueryResult, 'command' | 'rowCount' | 'rows'>

type Row = Record<string, unknown>

/** The columns of a statement's answer. */
export interface Columns {
  names: string[]
  parsers: ((text: string) => unknown)[]
  /** All null: copied for each row, so that rows have one shape. */
  empty: Row
}

export function columnsOf(fields: readonly pg.FieldDef[]): Columns {
  const names = fields.map(field => field.name)
  return {
    names,
    parsers: fields.map(field => types.getTypeParser(field.dataTypeID, 'text') as (text: string) => unknown),
    empty: Object.fromEntries(names.map(name => [name, null])),
  }
}

/** Runs a statement that is prepared on the connection under this name, behind what is on its way. Rejects with pg's error. */
export function execute(
  client: pg.ClientBase,
  { name, text, columns }: { name: string; text: string; columns: Columns },
  values: readonly unknown[],
): Promise<Result> {
  const message = messageOf(name, values)
  return new Promise((resolve, reject) => {
    client.query(new Execution(name, text, columns, message, resolve, reject) as unknown as pg.Submittable)
  })
}

interface Connection {
  stream: { writable: boolean; write(bytes: Buffer): unknown }
}

/** What pg's client drives: its own name for each message. */
class Execution {
  readonly name: string
  readonly text: string
  readonly callback: (error: Error) => void
  readonly #columns: Columns
  readonly #message: Buffer
  readonly #resolve: (result: Result) => void
  readonly #rows: Row[] = []
  #tag = ''
  #failure: Error | undefined

  constructor(
    name: string,
    text: string,
    columns: Columns,
    message: Buffer,
    resolve: (result: Result) => void,
    reject: (error: Error) => void,
  ) {
    this.name = name
    this.text = text
    this.callback = reject
    this.#columns = columns
    this.#message = message
    this.#resolve = resolve
  }

  submit({ stream }: Connection): null {
    if (stream.writable) stream.write(this.#message)
    return null
  }

  handleDataRow({ fields }: { fields: (string | null)[] }): void {
    if (this.#failure) return
    const { names, parsers, empty } = this.#columns
    const row = { ...empty }
    try {
      for (let i = 0; i < fields.length; i++) {
        const text = fields[i]
        if (text !== null) row[names[i]!] = parsers[i]!(text!)
      }
    } catch (error) {
      this.#failure = error as Error
    }
    this.#rows.push(row)
  }

  handleCommandComplete({ text }: { text: string }): void {
    this.#tag = text
  }

  handleError(error: Error): void {
    this.callback(error)
  }

  handleReadyForQuery(): void {
    if (this.#failure) {
      this.callback(this.#failure)
      return
    }
    const [command, ...numbers] = this.#tag.split(' ')
    this.#resolve({
      command: command!,
      rowCount: numbers.length > 0 ? Number(numbers.at(-1)) : null,
      rows: this.#rows,
    })
  }

  handleEmptyQuery(): void {}
}
// pg lets only its own kind of query share a connection with others.
Object.setPrototypeOf(Execution.prototype, pg.Query.prototype)

const EXECUTE_AND_SYNC = Buffer.from([0x45, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0x53, 0, 0, 0, 4])

/** Bind, Execute and Sync of a prepared statement; all values and columns as text, but for bytes. */
function messageOf(name: string, values: readonly unknown[]): Buffer {
  const parameters = values.map(parameterOf)
  const formats = parameters.some(Buffer.isBuffer) ? parameters.length : 0
  const lengths = parameters.map(p => (p === null ? -1 : typeof p === 'string' ? Buffer.byteLength(p) : p.length))
  const bind = 4 + 1 + name.length + 1 + 2 + 2 * formats + 2 + lengths.reduce((sum, n) => sum + 4 + Math.max(n, 0), 0) + 2
  const out = Buffer.allocUnsafe(1 + bind + EXECUTE_AND_SYNC.length)
  out[0] = 0x42
  let at = out.writeInt32BE(bind, 1)
  out[at++] = 0 // the portal without a name
  at += out.write(name, at, 'latin1')
  out[at++] = 0
  at = out.writeInt16BE(formats, at)
  if (formats > 0) for (const p of parameters) at = out.writeInt16BE(Buffer.isBuffer(p) ? 1 : 0, at)
  at = out.writeInt16BE(parameters.length, at)
  for (let i = 0; i < parameters.length; i++) {
    const p = parameters[i]!
    at = out.writeInt32BE(lengths[i]!, at)
    if (typeof p === 'string') at += out.write(p, at, 'utf8')
    else if (p !== null) at += p.copy(out, at)
  }
  at = out.writeInt16BE(0, at)
  EXECUTE_AND_SYNC.copy(out, at)
  return out
}

/** A value as PostgreSQL takes it, as pg writes it. */
function parameterOf(value: unknown): string | Buffer | null {
  if (value === null || value === undefined) return null
  if (typeof value === 'string') return value
  if (typeof value !== 'object') return String(value)
  if (ArrayBuffer.isView(value)) return Buffer.from(value.buffer, value.byteOffset, value.byteLength)
  if (value instanceof Date) return dateText(value)
  return Array.isArray(value) ? arrayText(value) : JSON.stringify(value)
}

function dateText(date: Date): string {
  const year = date.getUTCFullYear()
  // What is no date at all is for PostgreSQL to refuse.
  if (Number.isNaN(year)) return String(date)
  if (year > 0) return date.toISOString().replace(/^\+0*/, '')
  return `${date.toISOString().replace(/^-?\d+/, String(1 - year).padStart(4, '0'))} BC`
}

function arrayText(list: readonly unknown[]): string {
  const items = list.map(item => {
    if (item === null || item === undefined) return 'NULL'
    if (Array.isArray(item)) return arrayText(item)
    const text = parameterOf(item)
    if (Buffer.isBuffer(text)) return `"\\\\x${text.toString('hex')}"`
    return `"${(text as string).replace(/\\/g, '\\\\').replace(/"/g, '\\"')}"`
  })
  return `{${items.join(',')}}`
}
