/**
 * A wire carries messages between two processes, in order, until it is cut: texts, which are JSON frames, and chunks of byte streams. The forms are memory, unix socket and WebSocket; `peer.ts` says what the messages mean, and is the same over all.
 */

/** One end of a connection. */
export interface Wire {
  /** For logs and errors: `memory`, `unix`, `wss 192.0.2.7:41022`. */
  readonly name: string
  /** Whether liveness must be probed: false where the far end is this very process. */
  readonly remote: boolean
  /** Sends a text; it is queued if the far end is slow. Does nothing when closed. */
  send(text: string): void
  /** Sends bytes of the stream of this call, at most MAX_CHUNK; they must not change from then on. The far end may get them in several pieces. */
  chunk(from: Side, id: number, bytes: Uint8Array): void
  /** Bytes accepted by `send` and `chunk` that have not left this process. */
  readonly buffered: number
  /** Cuts the connection, after what was sent before. Both ends hear of it. */
  close(reason: string): void
  /** Says who takes what arrives, once; until then messages, and a close, wait. */
  open(on: WireEvents): void
}

export interface WireEvents {
  text(text: string): void
  /** Bytes of a stream, at least one. */
  chunk(from: Side, id: number, bytes: Uint8Array): void
  /** `buffered` fell to a level at which more may be sent. */
  drain(): void
  /** What came is no message at all: the peer cuts the link. */
  malformed(error: Malformed): void
  /** The connection is cut, by either end; comes once, and nothing after it. */
  close(reason: string): void
}

/** The longest arguments or result as JSON, in bytes: a host's whole desired state. */
export const MAX_FRAME = 8 * 1024 * 1024
/** The longest message: the above and what the protocol adds. */
export const MAX_MESSAGE = MAX_FRAME + 16 * 1024
/** The longest chunk of a stream. */
export const MAX_CHUNK = 256 * 1024

/** What the texts say. `id` numbers the calls of whoever asked; `from` says whose call a stream belongs to, seen by who sends the bytes. */
export type Frame =
  | { t: 'call'; id: number; verb: string; ms: number; key?: string; body?: boolean; args?: unknown }
  | { t: 'ok'; id: number; body?: boolean; result?: unknown }
  | { t: 'fail'; id: number; kind: string; message: string; details?: Record<string, unknown> }
  | { t: 'cancel'; id: number }
  | { t: 'note'; name: string; payload?: unknown }
  | { t: 'more'; id: number; from: Side; bytes: number }
  | { t: 'end'; id: number; from: Side; kind?: string; message?: string }
  | { t: 'stop'; id: number; from: Side }
  | { t: 'ping' }
  | { t: 'pong' }
  | { t: 'bye'; reason: string }

/** 0: bytes that the sender's own call brings along; 1: bytes behind the sender's answer to a call of the other side. */
export type Side = 0 | 1

/** A message that this protocol does not know. The link is closed: nothing after it can be trusted. */
export class Malformed extends Error {
  override readonly name = 'Malformed'
}

/** Bytes of a chunk's head. */
export const HEAD = 5

/** Before each chunk where it crosses as bytes: side (1 byte), call id (4 bytes, big endian). */
export function headEncode(from: Side, id: number): Buffer {
  const head = Buffer.allocUnsafe(HEAD)
  head[0] = from
  head.writeUInt32BE(id, 1)
  return head
}

/** Reads the head of a chunk whose whole message has this size. Throws {@link Malformed}. */
export function headDecode(message: Uint8Array, size: number): { from: Side; id: number } {
  const from = message[0]
  if (size <= HEAD || size > HEAD + MAX_CHUNK || (from !== 0 && from !== 1)) {
    throw new Malformed(`a binary message of ${size} bytes is no chunk of a stream`)
  }
  return { from, id: ((message[1]! << 24) | (message[2]! << 16) | (message[3]! << 8) | message[4]!) >>> 0 }
}

/** Reads a text and checks every field that the protocol itself uses; arguments and results are the handlers' to judge. Throws {@link Malformed}. */
export function frameDecode(text: string): Frame {
  let frame: unknown
  try {
    frame = JSON.parse(text)
  } catch {
    throw new Malformed(`not JSON: ${text.slice(0, 80)}`)
  }
  if (typeof frame !== 'object' || frame === null || !wellFormed(frame as Record<string, unknown>)) {
    throw new Malformed(`not a frame: ${text.slice(0, 80)}`)
  }
  return frame as Frame
}

function wellFormed(f: Record<string, unknown>): boolean {
  switch (f.t) {
    case 'call':
      return isId(f.id) && isText(f.verb) && isCount(f.ms) && (f.key === undefined || isText(f.key)) && isFlag(f.body)
    case 'ok':
      return isId(f.id) && isFlag(f.body)
    case 'fail':
      return isId(f.id) && isText(f.kind) && typeof f.message === 'string' && isDetails(f.details)
    case 'cancel':
      return isId(f.id)
    case 'note':
      return isText(f.name)
    case 'more':
      return isId(f.id) && isSide(f.from) && isCount(f.bytes)
    case 'end':
      return isId(f.id) && isSide(f.from) && optional(f.kind, 'string') && optional(f.message, 'string')
    case 'stop':
      return isId(f.id) && isSide(f.from)
    case 'ping':
    case 'pong':
      return true
    case 'bye':
      return typeof f.reason === 'string'
    default:
      return false
  }
}

const isId = (v: unknown): boolean => typeof v === 'number' && v >= 0 && v <= 0xffffffff && Number.isInteger(v)
/** Milliseconds or bytes: within what a timer or a window can hold. */
const isCount = (v: unknown): boolean => typeof v === 'number' && v >= 0 && v <= 0x7fffffff
const isText = (v: unknown): boolean => typeof v === 'string' && v.length > 0 && v.length <= 512
const isFlag = (v: unknown): boolean => v === undefined || v === true
const isSide = (v: unknown): boolean => v === 0 || v === 1
const isDetails = (v: unknown): boolean => v === undefined || (typeof v === 'object' && v !== null && !Array.isArray(v))
const optional = (v: unknown, type: string): boolean => v === undefined || typeof v === type
