/**
 * Logs: one JSON object a line on standard error or in a file, a readable line when a person looks at a terminal. Every record goes
 * through `maskSecrets`, at any depth, so no call has to remember what must not be written.
 */

import { type DestinationStream, pino } from 'pino'
import { maskSecrets, maskText } from './mask.ts'

export type Level = 'trace' | 'debug' | 'info' | 'warn' | 'error' | 'fatal'

interface Write {
  (fields: object, message?: string): void
  (message: string): void
}

/** Writes records. `fields` first, then a plain sentence; an Error goes into `fields` as `err` (or alone in place of them). */
export interface Log {
  readonly trace: Write
  readonly debug: Write
  readonly info: Write
  readonly warn: Write
  readonly error: Write
  readonly fatal: Write
  /** A log that adds these fields to every record, e.g. `{ service: 'nova' }` or `{ request_id }`. */
  child(fields: Record<string, unknown>): Log
  /** Whether records of this level are written: spares the making of costly fields. */
  on(level: Level): boolean
}

export interface LogOptions {
  level?: Level
  /** Path of the file to append to; its folder is made. Without it: standard error. */
  file?: string
  /** Instead of a file: receives each line as text. For tests. */
  sink?: (line: string) => void
  /** Readable lines instead of JSON. Default: when the output is standard error and a terminal. */
  readable?: boolean
}

/** The log of a process. */
export interface RootLog extends Log {
  setLevel(level: Level): void
  /** Opens the file anew, after a log rotation moved it away. */
  reopen(): void
}

/** Makes the log of a process. Throws the system's error when the file cannot be opened. */
export function openLog(options: LogOptions = {}): RootLog {
  // Synchronous: a line is in the kernel when the call returns, so that a killed process has said all it knew.
  const file = options.sink ? undefined : pino.destination({ dest: options.file ?? 2, mkdir: true, append: true, sync: true })
  const end: DestinationStream = file ?? { write: options.sink! }
  const readable = options.readable ?? (!options.file && !options.sink && process.stderr.isTTY === true)
  const stream: DestinationStream = readable
    ? { write: line => end.write(readableLine(line, process.stderr.isTTY === true)) }
    : end
  const base = pino(
    {
      level: options.level ?? 'info',
      base: { pid: process.pid },
      timestamp: () => `,"time":"${new Date().toISOString()}"`,
      messageKey: 'message',
      formatters: { level: label => ({ level: label }) },
      serializers: { err: (value: unknown) => value }, // maskSecrets made a plain object of it
    },
    stream,
  )
  return {
    ...wrap(base),
    setLevel: level => {
      base.level = level
    },
    reopen: () => {
      if (options.file) file?.reopen()
    },
  }
}

function wrap(logger: pino.Logger): Log {
  const write =
    (level: Level): Write =>
    (first: object | string, message?: string) => {
      if (!logger.isLevelEnabled(level)) return
      if (typeof first === 'string') return logger[level](maskText(first))
      const text = message ?? (first instanceof Error ? first.message : undefined)
      logger[level](maskSecrets(first instanceof Error ? { err: first } : first) as object, text && maskText(text))
    }
  return {
    trace: write('trace'),
    debug: write('debug'),
    info: write('info'),
    warn: write('warn'),
    error: write('error'),
    fatal: write('fatal'),
    child: fields => wrap(logger.child(maskSecrets(fields) as Record<string, unknown>)),
    on: level => logger.isLevelEnabled(level),
  }
}

/** A log that keeps its records for a test to look at. */
export function memoryLog(level: Level = 'trace'): Log & { records: Record<string, unknown>[] } {
  const records: Record<string, unknown>[] = []
  return { ...openLog({ level, sink: line => records.push(JSON.parse(line)), readable: false }), records }
}

/** A log that writes nothing. */
export const silentLog: Log = openLog({ sink: () => {}, level: 'fatal', readable: false })

const COLOR: Record<string, number> = { trace: 90, debug: 90, info: 32, warn: 33, error: 31, fatal: 35 }

/** `12:30:01.123 INFO  nova: server created id=… (req-…)`, the stack of an error on the lines below. */
export function readableLine(json: string, color: boolean): string {
  const { level, time, message, service, request_id, pid, err, ...rest } = JSON.parse(json) as Record<string, unknown>
  const paint = (code: number, text: string) => (color ? `\u001b[${code}m${text}\u001b[0m` : text)
  const name = String(level)
  const fields = Object.entries(rest).map(
    ([key, value]) => paint(36, `${key}=`) + (typeof value === 'string' ? value : JSON.stringify(value)),
  )
  const parts = [
    paint(90, String(time).slice(11, 23)),
    paint(COLOR[name] ?? 0, name.toUpperCase().padEnd(5)),
    service === undefined ? '' : `${String(service)}:`,
    message === undefined ? '' : String(message),
    ...fields,
    request_id === undefined ? '' : paint(90, `(${String(request_id)})`),
  ]
  const error = err as { stack?: string; message?: string } | undefined
  const stack = error ? `\n  ${String(error.stack || error.message).replaceAll('\n', '\n  ')}` : ''
  return `${parts.filter(Boolean).join(' ')}${stack}\n`
}
