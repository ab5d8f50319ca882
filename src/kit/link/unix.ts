/**
 * The unix socket form, between a controller and the agent of its own machine. Each message is its length (4 bytes, big endian), its kind
 * (1 byte: 0 text, 1 binary) and its bytes. The first message of the agent says who it is, the controller's first one that it is believed.
 */
import { chmod, unlink } from 'node:fs/promises'
import { connect, createServer, type Server, type Socket } from 'node:net'
import { reason } from '#kit/fault.ts'
import type { Way } from './agent.ts'
import { type Authenticate, type Claim, claimOf } from './identity.ts'
import type { Hosts } from './types.ts'
import type { LinkLog } from './verb.ts'
import { HEAD, headDecode, headEncode, MAX_MESSAGE, Malformed, type Side, type Wire, type WireEvents } from './wire.ts'

const HEADER = 5
/** A stranger may make this end hold so much, for so long. */
const CLAIM_BYTES = 4096
const CLAIM_MS = 5000
/** How long a closed connection may take to send what is left. */
const LINGER_MS = 2000

/** Messages over a stream socket. */
class SocketWire implements Wire {
  readonly name: string
  readonly remote = true
  readonly #socket: Socket
  #on: WireEvents | null = null
  #early: string[] = []
  #parts: Buffer[] = []
  #have = 0
  #need = HEADER
  /** The chunk whose bytes are coming: they are passed on as they come. */
  #chunk: { from: Side; id: number; left: number } | null = null
  #limit: number
  #corked = false
  /** Why this end closed; nothing is delivered from then on. */
  #closing: string | null = null
  #closed: string | null = null
  #error: Error | null = null

  /** `limit` holds until the wire is opened: what a stranger may send. */
  constructor(socket: Socket, name: string, limit: number) {
    this.#socket = socket
    this.name = name
    this.#limit = limit
    socket.on('data', (bytes: Buffer) => this.#data(bytes))
    socket.on('drain', () => this.#on?.drain())
    socket.on('error', error => (this.#error = error))
    socket.on('close', () => {
      this.#closed = this.#closing ?? (this.#error ? reason(this.#error) : 'closed by the far end')
      this.#finish()
    })
  }

  get buffered(): number {
    return this.#socket.writableLength
  }

  open(on: WireEvents): void {
    this.#on = on
    this.#limit = MAX_MESSAGE
    queueMicrotask(() => {
      const early = this.#early
      this.#early = []
      for (const text of early) if (this.#closing === null) on.text(text)
      this.#socket.resume()
      this.#finish()
    })
  }

  #finish(): void {
    if (this.#closed === null || this.#early.length > 0) return
    this.#on?.close(this.#closed)
    this.#on = null
  }

  /** The first message, taken before the wire is opened. Rejects when the connection ends instead, or `signal` aborts. */
  first(signal: AbortSignal): Promise<string> {
    return new Promise((resolve, reject) => {
      const done = (error?: unknown): void => {
        this.#on = null
        signal.removeEventListener('abort', aborted)
        if (error) {
          this.close('handshake failed')
          reject(error)
        }
      }
      const aborted = (): void => done(signal.reason)
      this.#on = {
        text: text => {
          done()
          this.#socket.pause()
          resolve(text)
        },
        chunk: () => done(new Malformed('bytes before a claim')),
        malformed: done,
        drain: () => undefined,
        close: why => done(new Error(why)),
      }
      signal.addEventListener('abort', aborted, { once: true })
      if (signal.aborted) aborted()
    })
  }

  send(text: string): void {
    if (!this.#begin()) return
    const size = Buffer.byteLength(text)
    const frame = Buffer.allocUnsafe(HEADER + size)
    frame.writeUInt32BE(size, 0)
    frame[4] = 0
    frame.write(text, HEADER)
    this.#socket.write(frame)
  }

  chunk(from: Side, id: number, bytes: Uint8Array): void {
    if (!this.#begin()) return
    const head = Buffer.allocUnsafe(HEADER)
    head.writeUInt32BE(HEAD + bytes.length, 0)
    head[4] = 1
    this.#socket.write(head)
    this.#socket.write(headEncode(from, id))
    this.#socket.write(bytes)
  }

  /** All messages of one turn leave in one system call. False when nothing can be sent. */
  #begin(): boolean {
    if (this.#closing !== null || this.#socket.destroyed) return false
    if (!this.#corked) {
      this.#corked = true
      this.#socket.cork()
      process.nextTick(() => {
        this.#corked = false
        this.#socket.uncork()
      })
    }
    return true
  }

  close(why: string): void {
    if (this.#closing !== null) return
    this.#closing = why
    this.#early = []
    this.#socket.end()
    this.#socket.resume()
    const timer = setTimeout(() => this.#socket.destroy(), LINGER_MS).unref()
    this.#socket.once('close', () => clearTimeout(timer))
  }

  #data(bytes: Buffer): void {
    if (this.#closing !== null) return
    this.#parts.push(bytes)
    this.#have += bytes.length
    if (this.#have < this.#need) return
    const all = this.#parts.length === 1 ? bytes : Buffer.concat(this.#parts)
    const rest = all.subarray(this.#frames(all))
    this.#parts = rest.length > 0 ? [rest] : []
    this.#have = rest.length
  }

  /** Delivers what is whole in `all` and returns where the rest begins; sets how many bytes it needs to go on. */
  #frames(all: Buffer): number {
    let at = 0
    while (this.#closing === null) {
      const left = all.length - at
      this.#need = this.#chunk ? 1 : HEADER
      if (left < this.#need) return at
      if (this.#chunk) at += this.#piece(this.#chunk, all.subarray(at))
      else {
        const size = all.readUInt32BE(at)
        const text = all[at + 4] === 0
        if (size > this.#limit || (!text && all[at + 4] !== 1)) {
          this.#malformed(new Malformed(`kind ${all[at + 4]}, ${size} bytes`))
          return all.length
        }
        this.#need = HEADER + (text ? size : HEAD)
        if (left < this.#need) return at
        const body = all.subarray(at + HEADER, at + this.#need)
        at += this.#need
        if (text) this.#text(body.toString())
        else this.#head(body, size)
      }
    }
    return all.length
  }

  #head(head: Buffer, size: number): void {
    try {
      this.#chunk = { ...headDecode(head, size), left: size - HEAD }
    } catch (error) {
      this.#malformed(error as Malformed)
    }
  }

  #piece(chunk: { from: Side; id: number; left: number }, all: Buffer): number {
    const bytes = all.subarray(0, chunk.left)
    chunk.left -= bytes.length
    if (chunk.left === 0) this.#chunk = null
    if (this.#on && this.#early.length === 0) this.#on.chunk(chunk.from, chunk.id, bytes)
    else this.#malformed(new Malformed('bytes before a greeting'))
    return bytes.length
  }

  #text(text: string): void {
    if (this.#on && this.#early.length === 0) this.#on.text(text)
    else {
      this.#early.push(text)
      this.#socket.pause()
    }
  }

  #malformed(error: Malformed): void {
    if (this.#on) this.#on.malformed(error)
    else this.close(error.message)
  }
}

/** A controller's listening socket. */
export interface UnixServer {
  path: string
  close(): Promise<void>
}

export interface UnixOptions {
  path: string
  hosts: Pick<Hosts, 'accept'>
  authenticate: Authenticate
  log: LinkLog
  /** Permission bits of the socket; the agent is root, so 0600 is right. */
  mode?: number
  /** How long a stranger may take to say who it is, in milliseconds. */
  claimMs?: number
}

/**
 * Listens for agents on a unix socket; a socket left by a dead process is replaced. Rejects with the system's error, EADDRINUSE when
 * another process listens there.
 */
export async function unixListen(options: UnixOptions): Promise<UnixServer> {
  const { path, log } = options
  const sockets = new Set<Socket>()
  const server = createServer(socket => {
    sockets.add(socket)
    socket.once('close', () => sockets.delete(socket))
    welcome(socket, options).catch(error => log.warn({ wire: `unix ${path}`, error: reason(error) }, 'a connection was refused'))
  })
  await listenAt(server, path)
  await chmod(path, options.mode ?? 0o600)
  server.on('error', error => log.error({ path, error: reason(error) }, 'the agent socket failed'))
  return {
    path,
    close: () =>
      new Promise(resolve => {
        server.close(() => resolve())
        for (const socket of sockets) socket.destroySoon()
      }),
  }
}

async function listenAt(server: Server, path: string): Promise<void> {
  const listen = (): Promise<void> =>
    new Promise((resolve, reject) => {
      server.once('error', reject)
      server.listen(path, () => {
        server.off('error', reject)
        resolve()
      })
    })
  try {
    await listen()
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'EADDRINUSE' || (await isAlive(path))) throw error
    await unlink(path)
    await listen()
  }
}

function isAlive(path: string): Promise<boolean> {
  return new Promise(resolve => {
    const probe = connect(path)
    probe.once('connect', () => {
      probe.destroy()
      resolve(true)
    })
    probe.once('error', () => resolve(false))
  })
}

async function welcome(socket: Socket, { path, hosts, authenticate, claimMs = CLAIM_MS }: UnixOptions): Promise<void> {
  const wire = new SocketWire(socket, `unix ${path}`, CLAIM_BYTES)
  const claim = claimOf(parsed(await wire.first(AbortSignal.timeout(claimMs))))
  try {
    if (!claim || !(await authenticate(claim))) {
      wire.send(JSON.stringify({ refused: 'not a known host, or not its secret' }))
      throw new Error(`wrong secret of ${claim ? `host ${claim.host}` : 'nobody'}`)
    }
  } catch (error) {
    wire.close('refused')
    throw error
  }
  wire.send(JSON.stringify({ welcome: claim.host }))
  hosts.accept({ host: claim.host, wire })
}

function parsed(message: string): Record<string, unknown> | null {
  try {
    const value: unknown = JSON.parse(message)
    return typeof value === 'object' ? (value as Record<string, unknown>) : null
  } catch {
    return null // A stranger's words: refused like any wrong claim.
  }
}

/** The way to a controller over its unix socket. `connect` rejects when nothing listens there, or the claim is refused. */
export function unixWay(path: string, claim: Claim): Way {
  return {
    address: `unix:${path}`,
    async connect(signal) {
      const wire = new SocketWire(connect(path), `unix ${path}`, MAX_MESSAGE)
      wire.send(JSON.stringify(claim))
      const answer = parsed(await wire.first(signal))
      if (answer?.welcome === claim.host) return wire
      wire.close('refused')
      throw new Error(`refused: ${typeof answer?.refused === 'string' ? answer.refused : 'no welcome'}`)
    },
  }
}
