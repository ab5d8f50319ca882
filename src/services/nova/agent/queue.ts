/** A guest's queue: verbs on one guest run one after another, and a destroy interrupts what runs and what waits. */
export interface Queue {
  tail: Promise<unknown>
  running: Set<AbortController>
}

export const queueNew = (): Queue => ({ tail: Promise.resolve(), running: new Set() })

/** Runs `fn` after all that was asked before. Its signal is the caller's and that of {@link interrupt}. */
export function queued<T>(queue: Queue, signal: AbortSignal | undefined, fn: (signal: AbortSignal) => Promise<T>): Promise<T> {
  const stop = new AbortController()
  queue.running.add(stop)
  const either = signal ? AbortSignal.any([signal, stop.signal]) : stop.signal
  const result = queue.tail
    .then(() => {
      either.throwIfAborted()
      return fn(either)
    })
    .finally(() => queue.running.delete(stop))
  queue.tail = result.catch(() => undefined)
  return result
}

/** Aborts what runs and what waits. */
export function interrupt(queue: Queue, why: Error): void {
  for (const stop of queue.running) stop.abort(why)
}
