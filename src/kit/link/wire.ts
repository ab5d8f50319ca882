/**
 * A wire carries whole messages between two processes, in order, until it is cut: text messages are JSON frames, binary ones are chunks of
 * streams. The forms are memory, unix socket and WebSocket; `peer.ts` says what the messages mean, and is the same over all.
 */

/** One end of a connection. Events are single functions set by the peer before the next turn of the event loop. */
export interface Wire {
  /** For logs and errors: `memory`, `unix`, `wss 192.0.2.7:41022`. */
  readonly name: string
  /** Whether liveness must be probed: false where the far end is this very process. */
  readonly remote: boolean
  /** Sends one message; it is queued if the far end is slow. Does nothing when closed. */
  send(message: string | Uint8Array): void
  /** Bytes accepted by `send` that have not left this process. */
  readonly buffered: number
  /** Cuts the connection. The far end's and the own `onClose` run once. */
  close(reason: string): void
  onMessage: (message: string | Uint8Array) => void
  /** `buffered` fell to a level at which more may be sent. */
  onDrain: () => void
  onClose: (reason: string) => void
}

/** The longest text message, in bytes: arguments, results, a host's whole desired state. */
export const MAX_FRAME = 8 * 1024 * 1024
/** The longest chunk of a stream. */
export const MAX_CHUNK = 256 * 1024
