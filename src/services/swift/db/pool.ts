/** The way to the account and container databases: operations by name, each database always on the same thread. */
import { Worker } from 'node:worker_threads'
import { md5 } from '../hash.ts'
import type { OperationName, Operations } from './operations.ts'
import type { Ask, Told } from './worker.ts'

type Args<K extends OperationName> = Parameters<Operations[K]> extends [unknown, infer A] ? A : undefined
type Value<K extends OperationName> = ReturnType<Operations[K]>

/** A database said no: `damaged` when the file is not what SQLite wrote. */
export class DatabaseError extends Error {
  readonly code: number
  readonly system: string
  constructor(message: string, code: number, system: string) {
    super(message)
    this.code = code
    this.system = system
  }
  /** SQLITE_CORRUPT or SQLITE_NOTADB. */
  get damaged(): boolean {
    return (this.code & 0xff) === 11 || (this.code & 0xff) === 26
  }
  /** SQLITE_FULL, SQLITE_IOERR, SQLITE_READONLY, SQLITE_CANTOPEN: the device is at fault. */
  get device(): boolean {
    return (
      [8, 10, 13, 14].includes(this.code & 0xff) ||
      ['ENOENT', 'ENOSPC', 'EROFS', 'EIO', 'EACCES', 'ENOTDIR'].includes(this.system)
    )
  }
}

export interface Databases {
  call<K extends OperationName>(op: K, path: string, ...args: Args<K> extends undefined ? [] : [Args<K>]): Promise<Value<K>>
  close(): Promise<void>
}

interface Thread {
  worker: Worker
  waiting: Map<number, { resolve(value: unknown): void; reject(error: Error): void }>
  /** Asked since the last turn of the event loop, sent together. */
  asks: Ask[]
}

/** The folder of the device that a database is on. */
const deviceOf = (path: string): string =>
  path.slice(0, Math.max(path.lastIndexOf('/accounts/'), path.lastIndexOf('/containers/')))

/** Threads of their own for each device, that many at most, started when first needed: one that is slow to sync delays no other. */
export function openDatabases(perDevice = 1): Databases {
  let id = 0
  const threads = new Map<string, Thread>()
  const threadOf = (op: OperationName, path: string): Thread => {
    // an audit reads all of a database, which may take many seconds: beside what changes it, by a connection of its own
    const which = op.endsWith('.audit') ? 'audit' : perDevice === 1 ? 0 : Number.parseInt(md5(path).slice(0, 4), 16) % perDevice
    const key = `${which} ${deviceOf(path)}`
    let thread = threads.get(key)
    if (!thread) {
      thread = start()
      threads.set(key, thread)
    }
    return thread
  }
  return {
    call: ((op: OperationName, path: string, args?: unknown) =>
      new Promise((resolve, reject) => {
        const thread = threadOf(op, path)
        id += 1
        thread.waiting.set(id, { resolve, reject })
        if (thread.waiting.size === 1) thread.worker.ref()
        if (thread.asks.length === 0) setImmediate(send, thread)
        thread.asks.push({ id, op, path, args })
      })) as Databases['call'],
    async close() {
      await Promise.all([...threads.values()].map(thread => thread.worker.terminate()))
    },
  }
}

function send(thread: Thread): void {
  const { asks } = thread
  thread.asks = []
  thread.worker.postMessage(asks)
}

function start(): Thread {
  const worker = new Worker(new URL('./worker.ts', import.meta.url))
  const thread: Thread = { worker, waiting: new Map(), asks: [] }
  worker.unref()
  worker.on('message', (list: Told[]) => {
    for (const told of list) {
      const ask = thread.waiting.get(told.id)
      thread.waiting.delete(told.id)
      if (told.error) ask?.reject(new DatabaseError(told.error.message, told.error.errcode, told.error.code))
      else ask?.resolve(told.value)
    }
    if (thread.waiting.size === 0) worker.unref()
  })
  worker.on('error', error => {
    for (const ask of thread.waiting.values()) ask.reject(error)
    thread.waiting.clear()
  })
  return thread
}
