// The QEMU Machine Protocol: JSON objects, one a line, over a unix socket. The server greets, the client leaves negotiation mode with
// qmp_capabilities, then each command is answered by `return` or `error` with the command's id; events come in between at any time.
// (docs/interop/qmp-spec of QEMU.) QEMU serves one client a socket at a time: a second connection waits until the first is closed,
// so a connection that greets nobody means that somebody else holds the guest.
//
// The guest agent speaks nearly the same over its virtio-serial channel, without greeting and capabilities: see agent.ts.
import { type FSWatcher, watch } from 'node:fs'
import { connect, type Socket } from 'node:net'
import { dirname } from 'node:path'

/** An event as QEMU sends it. */
export interface QmpEvent {
  event: string
  data: Record<string, unknown>
  /** Milliseconds since the epoch, by the host's clock. */
  at: number
}

/** QEMU's refusal of a command: its class (nearly always GenericError) and its sentence. */
export class QmpError extends Error {
  readonly command: string
  readonly errorClass: string
  constructor(command: string, errorClass: string, desc: string) {
    super(`${command}: ${desc}`)
    this.name = 'QmpError'
    this.command = command
    this.errorClass = errorClass
  }
}

/** The connection ended before the answer: QEMU has gone, or nobody listens there. */
export class QmpClosed extends Error {
  constructor(message: string, cause?: unknown) {
    super(message, { cause })
    this.name = 'QmpClosed'
  }
}

export interface Qmp {
  /** e.g. '7.2.22' */
  readonly version: string
  /**
   * Runs a command. `timeoutMs` (10 s by default) bounds the wait for its answer.
   * @throws QmpError when QEMU refuses, QmpClosed when the connection ends, Error at the deadline.
   */
  execute<T = Record<string, unknown>>(command: string, args?: Record<string, unknown>, timeoutMs?: number): Promise<T>
  /** Calls `fn` for each event. Returns what stops it. */
  on(fn: (event: QmpEvent) => void): () => void
  /**
   * The first event that `pick` accepts, from now on: call it before the command that causes the event, await it after.
   * @throws QmpClosed, Error at the deadline.
   */
  wait(pick: (event: QmpEvent) => boolean, timeoutMs: number, what: string): Promise<QmpEvent>
  /** Resolves when the connection has ended, whoever ended it. Never rejects. */
  readonly closed: Promise<void>
  readonly open: boolean
  close(): void
}

/** Splits a byte stream into lines; bounded, since the peer of a guest agent is the tenant. Pure but for its buffer. */
export function lineSplitter(onLine: (line: string) => void, maxBytes = 16 << 20): (chunk: Buffer) => void {
  let kept: Buffer[] = []
  let size = 0
  return chunk => {
    let from = 0
    for (let end = chunk.indexOf(10, from); end >= 0; end = chunk.indexOf(10, from)) {
      kept.push(chunk.subarray(from, end))
      const line = Buffer.concat(kept).toString('utf8').trim()
      kept = []
      size = 0
      from = end + 1
      if (line) onLine(line)
    }
    if (from < chunk.length) {
      kept.push(chunk.subarray(from))
      size += chunk.length - from
      if (size > maxBytes) throw new Error(`a line of more than ${maxBytes} bytes`)
    }
  }
}

/** QEMU's version as it greets: {"QMP": {"version": {"qemu": {major, minor, micro}}}}. */
export function greetingVersion(greeting: unknown): string | undefined {
  const q = (greeting as { QMP?: { version?: { qemu?: { major: number; minor: number; micro: number } } } }).QMP?.version?.qemu
  return q && `${q.major}.${q.minor}.${q.micro}`
}

interface Pending {
  command: string
  resolve(value: unknown): void
  reject(error: Error): void
  timer: NodeJS.Timeout
}

/** The calls under way on one connection, matched to answers by id. Shared by QMP and the guest agent. */
export function calls(send: (text: string) => void) {
  let last = 0
  const pending = new Map<number, Pending>()
  return {
    execute<T>(command: string, args: Record<string, unknown> | undefined, timeoutMs: number): Promise<T> {
      const id = ++last
      return new Promise<T>((resolve, reject) => {
        const timer = setTimeout(() => {
          pending.delete(id)
          reject(new Error(`${command}: no answer within ${timeoutMs} ms`))
        }, timeoutMs)
        pending.set(id, { command, resolve: resolve as (v: unknown) => void, reject, timer })
        send(`${JSON.stringify({ execute: command, ...(args && { arguments: args }), id })}\n`)
      })
    },
    /** An answer; false when nobody waits for it (its deadline has passed). */
    answer(message: { id?: unknown; return?: unknown; error?: { class: string; desc: string } }): boolean {
      const call = pending.get(message.id as number)
      if (!call) return false
      pending.delete(message.id as number)
      clearTimeout(call.timer)
      if (message.error) call.reject(new QmpError(call.command, message.error.class, message.error.desc))
      else call.resolve(message.return)
      return true
    },
    fail(error: Error): void {
      for (const call of pending.values()) {
        clearTimeout(call.timer)
        call.reject(error)
      }
      pending.clear()
    },
  }
}

/** Connects to a unix socket that is to appear: woken by the folder's changes, ended by the deadline or `signal`. */
export function connectWhenThere(
  path: string,
  { timeoutMs, signal }: { timeoutMs: number; signal?: AbortSignal },
): Promise<Socket> {
  return new Promise((resolve, reject) => {
    let watcher: FSWatcher | undefined
    let retry: NodeJS.Timeout | undefined
    let trying = false
    let ended = false
    const finish = (act: () => void) => {
      if (ended) return
      ended = true
      clearTimeout(deadline)
      clearTimeout(retry)
      watcher?.close()
      signal?.removeEventListener('abort', onAbort)
      act()
    }
    const onAbort = () => finish(() => reject(new QmpClosed(`${path}: cancelled`, signal?.reason)))
    const deadline = setTimeout(
      () => finish(() => reject(new QmpClosed(`${path}: nobody listens after ${timeoutMs} ms`))),
      timeoutMs,
    )
    const attempt = () => {
      if (trying || ended) return
      trying = true
      const socket = connect(path)
      socket.once('connect', () => {
        socket.removeAllListeners('error')
        if (ended) socket.destroy()
        else finish(() => resolve(socket))
      })
      socket.once('error', (error: NodeJS.ErrnoException) => {
        trying = false
        // Not there yet, or bound and not yet listening; the latter makes no event, so look once more shortly.
        if (error.code === 'ECONNREFUSED' || error.code === 'EAGAIN') retry = setTimeout(attempt, 5)
        else if (error.code !== 'ENOENT') finish(() => reject(new QmpClosed(`${path}: ${error.message}`, error)))
      })
    }
    if (signal?.aborted) return onAbort()
    signal?.addEventListener('abort', onAbort, { once: true })
    try {
      watcher = watch(dirname(path), attempt)
      watcher.on('error', () => undefined)
    } catch (error) {
      return finish(() => reject(new QmpClosed(`${path}: ${(error as Error).message}`, error)))
    }
    attempt()
  })
}

/**
 * Connects and negotiates. The socket may still have to appear: it is waited for within `timeoutMs` (10 s by default).
 * @throws QmpClosed when nobody greets in time.
 */
export async function qmpConnect(path: string, options: { timeoutMs?: number; signal?: AbortSignal } = {}): Promise<Qmp> {
  const { timeoutMs = 10_000, signal } = options
  const until = performance.now() + timeoutMs
  const socket = await connectWhenThere(path, { timeoutMs, signal })
  const listeners = new Set<(event: QmpEvent) => void>()
  const call = calls(text => socket.write(text))
  let open = true
  let lastError: Error | undefined
  let greet: (version: string) => void = () => undefined
  const { promise: closed, resolve: setClosed } = Promise.withResolvers<void>()

  const onMessage = (text: string) => {
    const message = JSON.parse(text) as Record<string, unknown>
    if ('QMP' in message) return greet(greetingVersion(message) ?? '0.0.0')
    if (typeof message.event !== 'string') return void call.answer(message)
    const stamp = message.timestamp as { seconds: number; microseconds: number } | undefined
    const at = stamp ? stamp.seconds * 1000 + Math.floor(stamp.microseconds / 1000) : Date.now()
    const event = { event: message.event, data: (message.data ?? {}) as Record<string, unknown>, at }
    for (const fn of [...listeners]) fn(event)
  }
  const split = lineSplitter(onMessage)
  socket.on('data', chunk => {
    try {
      split(chunk)
    } catch (error) {
      socket.destroy(error as Error)
    }
  })
  socket.on('error', error => {
    lastError = error
  })
  socket.on('close', () => {
    open = false
    call.fail(new QmpClosed(`${path}: qemu closed the connection`, lastError))
    setClosed()
  })

  const execute = <T>(command: string, args?: Record<string, unknown>, ms = 10_000): Promise<T> =>
    open ? call.execute<T>(command, args, ms) : Promise.reject(new QmpClosed(`${command}: ${path} is closed`, lastError))

  try {
    const version = await new Promise<string>((resolve, reject) => {
      greet = resolve
      const left = Math.max(1, until - performance.now())
      const timer = setTimeout(() => reject(new QmpClosed(`${path}: no greeting within ${timeoutMs} ms`)), left)
      void closed.then(() => reject(new QmpClosed(`${path}: closed before the greeting`, lastError)))
      const done = greet
      greet = v => {
        clearTimeout(timer)
        done(v)
      }
    })
    await execute('qmp_capabilities', undefined, Math.max(1, until - performance.now()))
    return {
      version,
      execute,
      on(fn) {
        listeners.add(fn)
        return () => void listeners.delete(fn)
      },
      wait: (pick, ms, what) => waitFor(listeners, closed, pick, ms, what),
      closed,
      get open() {
        return open
      },
      close: () => socket.destroy(),
    }
  } catch (error) {
    socket.destroy()
    throw error
  }
}

function waitFor(
  listeners: Set<(event: QmpEvent) => void>,
  closed: Promise<void>,
  pick: (event: QmpEvent) => boolean,
  timeoutMs: number,
  what: string,
): Promise<QmpEvent> {
  const waiting = new Promise<QmpEvent>((resolve, reject) => {
    const done = (act: () => void) => {
      clearTimeout(timer)
      listeners.delete(hear)
      act()
    }
    const hear = (event: QmpEvent) => pick(event) && done(() => resolve(event))
    const timer = setTimeout(() => done(() => reject(new Error(`${what}: not within ${timeoutMs} ms`))), timeoutMs)
    listeners.add(hear)
    void closed.then(() => done(() => reject(new QmpClosed(`${what}: qemu closed the connection`))))
  })
  // The caller awaits it after the command that causes the event; if that command fails, nobody does.
  waiting.catch(() => undefined)
  return waiting
}
