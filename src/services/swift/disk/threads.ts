/** The way to the threads of the devices: one that writes and one that reads for each, started when first needed. */
import { Worker } from 'node:worker_threads'
import type { LookOptions, Seen, SmallFile, Stored } from './files.ts'
import { type Disk, deviceDir } from './layout.ts'
import type { Ask, Told, Trouble } from './worker.ts'

export interface Disks {
  /** Lists an object's folder, with the bytes of what counts in it where they are few. */
  read(disk: Disk, dir: string, options: LookOptions): Promise<Seen>
  /** Puts a small file in place, durably. Rejects with what the device says. */
  store(disk: Disk, file: SmallFile): Promise<Stored>
  /** Puts in place what a loss of power took from there; to be called before anything else is done with a device. Answers how many files. */
  recover(disk: Disk): Promise<number>
  /** Resolves when what was stored before is safe under its name, and no start will put it in place again. */
  settle(disk: Disk): Promise<void>
  close(): Promise<void>
}

/** Files up to this size, checksums and metadata included, are read and written whole. */
export const SMALL = 128 * 1024

interface Thread {
  worker: Worker
  waiting: Map<number, { resolve(value: unknown): void; reject(error: Error): void }>
  /** Asked since the last turn of the event loop, sent together. */
  asks: Ask[]
}

type Question = Ask extends infer A ? (A extends { id: number } ? Omit<A, 'id'> : never) : never

/** Starts none yet. `report` hears of trouble that concerns no request. */
export function openDisks(report: (device: string, trouble: string) => void): Disks {
  const threads = new Map<string, Thread>()
  let id = 0
  const ask = <T>(disk: Disk, use: 'reads' | 'writes', question: Question): Promise<T> =>
    new Promise((resolve, reject) => {
      const device = deviceDir(disk)
      const key = `${use} ${device}`
      let thread = threads.get(key)
      if (!thread) {
        thread = start(device, report, () => threads.delete(key))
        threads.set(key, thread)
      }
      id += 1
      thread.waiting.set(id, { resolve: resolve as (value: unknown) => void, reject })
      if (thread.waiting.size === 1) thread.worker.ref()
      if (thread.asks.length === 0) setImmediate(send, thread)
      thread.asks.push({ ...question, id } as Ask)
    })
  return {
    read: (disk, dir, options) => ask(disk, 'reads', { do: 'read', dir, options, most: SMALL }),
    store: (disk, file) => ask(disk, 'writes', { do: 'store', file }),
    recover: disk => ask(disk, 'writes', { do: 'recover' }),
    settle: disk => ask(disk, 'writes', { do: 'settle' }),
    async close() {
      await Promise.all([...threads.values()].map(thread => thread.worker.terminate()))
    },
  }
}

function send(thread: Thread): void {
  const { asks } = thread
  thread.asks = []
  thread.worker.postMessage(
    asks,
    asks.flatMap(ask => (ask.do === 'store' ? [ask.file.bytes.buffer as ArrayBuffer] : [])),
  )
}

function start(device: string, report: (device: string, trouble: string) => void, ended: () => void): Thread {
  const worker = new Worker(new URL('./worker.ts', import.meta.url), { workerData: { device } })
  const thread: Thread = { worker, waiting: new Map(), asks: [] }
  worker.unref()
  worker.on('message', (told: Told[] | Trouble) => {
    if ('trouble' in told) return report(device, told.trouble)
    for (const one of told) {
      const asked = thread.waiting.get(one.id)
      thread.waiting.delete(one.id)
      if (one.error) asked?.reject(Object.assign(new Error(one.error.message), { code: one.error.code }))
      else asked?.resolve(one.value)
    }
    if (thread.waiting.size === 0) worker.unref()
  })
  const failed = (error: Error): void => {
    ended()
    for (const asked of thread.waiting.values()) asked.reject(error)
    thread.waiting.clear()
  }
  worker.on('error', failed)
  worker.on('exit', () => failed(new Error(`the thread of ${device} has ended`)))
  return thread
}
