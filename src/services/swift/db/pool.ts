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
}

/** Starts that many threads. */
export function openDatabases(threads = 2): Databases {
  let id = 0
  const pool: Thread[] = Array.from({ length: threads }, start)
  return {
    call: ((op: OperationName, path: string, args?: unknown) =>
      new Promise((resolve, reject) => {
        const thread = pool[Number.parseInt(md5(path).slice(0, 4), 16) % threads]
        id += 1
        thread.waiting.set(id, { resolve, reject })
        if (thread.waiting.size === 1) thread.worker.ref()
        thread.worker.postMessage({ id, op, path, args } satisfies Ask)
      })) as Databases['call'],
    async close() {
      await Promise.all(pool.map(thread => thread.worker.terminate()))
    },
  }
}

function start(): Thread {
  const worker = new Worker(new URL('./worker.ts', import.meta.url))
  const thread: Thread = { worker, waiting: new Map() }
  worker.unref()
  worker.on('message', (told: Told) => {
    const ask = thread.waiting.get(told.id)
    thread.waiting.delete(told.id)
    if (thread.waiting.size === 0) worker.unref()
    if (told.error) ask?.reject(new DatabaseError(told.error.message, told.error.errcode, told.error.code))
    else ask?.resolve(told.value)
  })
  worker.on('error', error => {
    for (const ask of thread.waiting.values()) ask.reject(error)
    thread.waiting.clear()
  })
  return thread
}
