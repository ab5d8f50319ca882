/**
 * Bytes over the link, with credit: the reader grants a window, the sender never has more than that on its way, so a slow reader holds back
 * its own stream and nothing else, and neither end buffers more than the window.
 */
import { Readable } from 'node:stream'
import type { Bytes } from './verb.ts'
import { MAX_CHUNK, Malformed } from './wire.ts'

/** Bytes that may be on their way to a reader before it grants more. Both ends know it. */
export const WINDOW = 1024 * 1024

/** What a sender needs of its link. */
export interface Outlet {
  chunk(bytes: Uint8Array): void
  end(error?: unknown): void
  /** Whether the link's send buffer is full; `Sender.wake` is called when it no longer is. */
  full(): boolean
}

/** Sends a source of bytes as its reader grants credit. */
export class Sender {
  #credit = WINDOW
  #stopped = false
  #wake: (() => void) | null = null
  readonly #source: Bytes
  readonly #out: Outlet

  constructor(source: Bytes, out: Outlet) {
    this.#source = source
    this.#out = out
  }

  /** Runs until the source ends, fails (told to the reader) or the reader stops. Never rejects. */
  async pump(): Promise<void> {
    const source = Symbol.asyncIterator in this.#source ? this.#source[Symbol.asyncIterator]() : this.#source[Symbol.iterator]()
    let open = true
    try {
      while (!this.#stopped) {
        const next = await source.next()
        if (next.done) {
          open = false
          if (!this.#stopped) this.#out.end()
          return
        }
        await this.#chunks(next.value)
      }
    } catch (error) {
      open = false
      if (!this.#stopped) this.#out.end(error)
    } finally {
      // The reader went away and the source is still open; what closing it throws concerns nobody any more.
      if (open) await Promise.resolve(source.return?.()).catch(() => undefined)
    }
  }

  async #chunks(bytes: Uint8Array): Promise<void> {
    for (let at = 0; at < bytes.byteLength; ) {
      while (!this.#stopped && (this.#credit <= 0 || this.#out.full())) await new Promise<void>(wake => (this.#wake = wake))
      if (this.#stopped) return
      const size = Math.min(bytes.byteLength - at, this.#credit, MAX_CHUNK)
      this.#credit -= size
      this.#out.chunk(bytes.subarray(at, at + size))
      at += size
    }
  }

  /** The reader took `bytes` more. */
  more(bytes: number): void {
    this.#credit = Math.min(WINDOW, this.#credit + bytes)
    this.wake()
  }

  /** Looks again whether it may send. */
  wake(): void {
    this.#wake?.()
    this.#wake = null
  }

  /** The reader wants no more, or is gone. */
  stop(): void {
    if (this.#stopped) return
    this.#stopped = true
    if (this.#source instanceof Readable) this.#source.destroy()
    this.wake()
  }
}

/** What a reader needs of its link. */
export interface Inlet {
  /** Grants the sender this many bytes more. */
  grant(bytes: number): void
  /** The reader was destroyed before the end. */
  stop(): void
  /** Fails the reader when it waits this long (milliseconds) for a byte; absent: it waits for ever. */
  idle?: { ms: number; fault: () => Error }
  /** The error for a reader whose link broke. */
  lost(why: string): Error
}

/** The receiving end: `body` is what the consumer reads. */
export interface Incoming {
  readonly body: Readable
  /** A chunk came. Throws {@link Malformed} when the sender overran its credit. */
  chunk(bytes: Uint8Array): void
  /** The sender finished, or failed. */
  end(error?: Error): void
  /** The link broke; a stream that had ended already is still read to its end. */
  lost(why: string): void
}

/** A new receiving end with a full window. */
export function incoming(inlet: Inlet): Incoming {
  const queue: Uint8Array[] = []
  let window = WINDOW
  let owed = 0
  let wanted = false
  let ended = false
  let timer: NodeJS.Timeout | undefined

  const give = (bytes: Uint8Array): void => {
    owed += bytes.byteLength
    if (owed >= WINDOW / 4 && !ended) {
      window += owed
      inlet.grant(owed)
      owed = 0
    }
    body.push(bytes)
  }
  const body = new Readable({
    highWaterMark: MAX_CHUNK,
    read() {
      const bytes = queue.shift()
      if (bytes) give(bytes)
      else if (ended) body.push(null)
      else {
        wanted = true
        if (inlet.idle) timer = setTimeout(() => body.destroy(inlet.idle!.fault()), inlet.idle.ms)
      }
    },
    destroy(error, done) {
      clearTimeout(timer)
      queue.length = 0
      if (!ended) inlet.stop()
      ended = true
      done(error)
    },
  })
  // Whoever reads meets the error there. If nobody reads, nobody misses the bytes, and an unheard 'error' must not end the process.
  body.on('error', () => undefined)

  const unwait = (): boolean => {
    const was = wanted
    wanted = false
    clearTimeout(timer)
    return was
  }
  const end = (error?: Error): void => {
    ended = true
    if (error) body.destroy(error)
    else if (unwait()) body.push(null)
  }
  return {
    body,
    chunk(bytes) {
      window -= bytes.byteLength
      if (window < 0) throw new Malformed('a stream overran its credit')
      if (body.destroyed) return
      if (unwait()) give(bytes)
      else queue.push(bytes)
    },
    end,
    lost: why => {
      if (!ended) end(inlet.lost(why))
    },
  }
}
