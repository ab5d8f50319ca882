/** A body that one writer gives to one reader, a few pieces ahead at most. */

const AHEAD = 1024 * 1024

export interface Feed extends AsyncIterable<Buffer> {
  /** Resolves when there is room for more. Does nothing after `stop`. */
  push(chunk: Buffer): Promise<void> | null
  end(): void
  /** The reader gets this error in place of the rest. */
  fail(error: Error): void
  /** The reader is gone: what is pushed from now on is thrown away. */
  stop(): void
}

/** A new, empty feed. */
export function feed(): Feed {
  const queue: Buffer[] = []
  let bytes = 0
  let ended = false
  let error: Error | null = null
  let stopped = false
  let wakeReader: (() => void) | null = null
  let room: { promise: Promise<void>; resolve: () => void } | null = null
  const wake = (): void => {
    const call = wakeReader
    wakeReader = null
    call?.()
  }
  const freed = (): void => {
    const waiting = room
    room = null
    waiting?.resolve()
  }
  return {
    push(chunk) {
      if (stopped) return null
      queue.push(chunk)
      bytes += chunk.length
      wake()
      if (bytes < AHEAD) return null
      room ??= Promise.withResolvers<void>()
      return room.promise
    },
    end() {
      ended = true
      wake()
    },
    fail(reason) {
      error = reason
      wake()
    },
    stop() {
      stopped = true
      queue.length = 0
      bytes = 0
      freed()
    },
    async *[Symbol.asyncIterator]() {
      for (;;) {
        if (error) throw error
        const chunk = queue.shift()
        if (chunk) {
          bytes -= chunk.length
          if (bytes < AHEAD) freed()
          yield chunk
        } else if (ended) return
        else
          await new Promise<void>(resolve => {
            wakeReader = resolve
          })
      }
    },
  }
}
