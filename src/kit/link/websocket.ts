/**
 * The WebSocket form: over TLS at the API's port, under `/agent`, so that one open port and one certificate serve agents too. The agent says
 * who it is in the upgrade request, and a stranger gets its 401 before any message of the link is read.
 */
import type { IncomingMessage } from 'node:http'
import { isIP } from 'node:net'
import type { Duplex } from 'node:stream'
import { WebSocket, WebSocketServer } from 'ws'
import { reason } from '#kit/fault.ts'
import type { Way } from './agent.ts'
import { type Authenticate, type Claim, claimOf } from './identity.ts'
import type { Hosts } from './types.ts'
import type { LinkLog } from './verb.ts'
import { HEAD, headDecode, headEncode, MAX_MESSAGE, type Malformed, type Side, type Wire, type WireEvents } from './wire.ts'

const LINGER_MS = 2000

/** Messages over a WebSocket and the connection under it. */
class WebSocketWire implements Wire {
  readonly name: string
  readonly remote = true
  readonly #ws: WebSocket
  readonly #under: Duplex
  #on: WireEvents | null = null
  #early: (string | Buffer)[] = []
  #corked = false
  #closing: string | null = null
  #closed: string | null = null
  #error: Error | null = null

  constructor(ws: WebSocket, under: Duplex, name: string) {
    this.#ws = ws
    this.#under = under
    this.name = name
    ws.on('message', (data: Buffer, binary: boolean) => this.#message(binary ? data : data.toString()))
    under.on('drain', () => this.#on?.drain())
    ws.on('error', error => (this.#error = error))
    ws.on('close', (_code, why) => {
      this.#closed = this.#closing ?? (this.#error ? reason(this.#error) : why.toString() || 'closed by the far end')
      this.#finish()
    })
  }

  get buffered(): number {
    return this.#ws.bufferedAmount
  }

  open(on: WireEvents): void {
    this.#on = on
    queueMicrotask(() => {
      const early = this.#early
      this.#early = []
      for (const message of early) if (this.#closing === null) this.#deliver(on, message)
      if (this.#ws.isPaused) this.#ws.resume()
      this.#finish()
    })
  }

  #finish(): void {
    if (this.#closed === null || this.#early.length > 0) return
    this.#on?.close(this.#closed)
    this.#on = null
  }

  #message(message: string | Buffer): void {
    if (this.#closing !== null) return
    if (this.#on && this.#early.length === 0) this.#deliver(this.#on, message)
    else {
      this.#early.push(message)
      this.#ws.pause()
    }
  }

  #deliver(on: WireEvents, message: string | Buffer): void {
    if (typeof message === 'string') {
      on.text(message)
      return
    }
    try {
      const { from, id } = headDecode(message, message.length)
      on.chunk(from, id, message.subarray(HEAD))
    } catch (error) {
      on.malformed(error as Malformed)
    }
  }

  send(text: string): void {
    if (!this.#begin()) return
    this.#ws.send(text)
  }

  chunk(from: Side, id: number, bytes: Uint8Array): void {
    if (!this.#begin()) return
    this.#ws.send(headEncode(from, id), { binary: true, fin: false })
    this.#ws.send(bytes, { binary: true, fin: true })
  }

  /** All messages of one turn leave together: one system call, and one record of TLS. False when nothing can be sent. */
  #begin(): boolean {
    if (this.#closing !== null || this.#ws.readyState !== WebSocket.OPEN) return false
    if (!this.#corked) {
      this.#corked = true
      this.#under.cork()
      process.nextTick(() => {
        this.#corked = false
        this.#under.uncork()
      })
    }
    return true
  }

  close(why: string): void {
    if (this.#closing !== null) return
    this.#closing = why
    this.#early = []
    this.#ws.close(1000, Buffer.from(why).subarray(0, 120).toString().replace(/�$/, ''))
    if (this.#ws.isPaused) this.#ws.resume()
    const timer = setTimeout(() => this.#ws.terminate(), LINGER_MS).unref()
    this.#ws.once('close', () => clearTimeout(timer))
  }
}

/** What the API port needs to serve agents: an entry for `upgrades['/agent']`. */
export interface AgentEndpoint {
  upgrade(req: IncomingMessage, socket: Duplex, head: Buffer): void
}

/** Takes agents' connections for a controller. */
export function agentEndpoint(options: {
  hosts: Pick<Hosts, 'accept'>
  authenticate: Authenticate
  log: LinkLog
}): AgentEndpoint {
  const { hosts, authenticate, log } = options
  const server = new WebSocketServer({ noServer: true, clientTracking: false, perMessageDeflate: false, maxPayload: MAX_MESSAGE })
  const answer = async (req: IncomingMessage, socket: Duplex, head: Buffer): Promise<void> => {
    const from = req.socket.remoteAddress ?? 'nowhere'
    const claim = claimOf(basic(req.headers.authorization))
    if (!claim || !(await authenticate(claim))) {
      log.warn({ from, host: claim?.host }, 'an agent was refused: not a known host, or not its secret')
      refuse(socket, '401 Unauthorized', 'not a known host, or not its secret')
    } else if (!socket.destroyed) {
      server.handleUpgrade(req, socket, head, ws => {
        hosts.accept({ host: claim.host, wire: new WebSocketWire(ws, socket, `websocket ${from}:${req.socket.remotePort}`) })
      })
    }
  }
  return {
    upgrade(req, socket, head) {
      const broken = (error: Error): void => log.debug({ error: reason(error) }, 'an agent left while it was asked who it is')
      socket.on('error', broken)
      answer(req, socket, head).catch(error => {
        log.error({ error: reason(error) }, 'an agent could not be asked who it is')
        refuse(socket, '503 Service Unavailable', 'try again')
      })
    },
  }
}

function refuse(socket: Duplex, status: string, text: string): void {
  const headers = `Connection: close\r\nContent-Type: text/plain\r\nContent-Length: ${text.length}`
  socket.end(`HTTP/1.1 ${status}\r\n${headers}\r\n\r\n${text}`)
}

/** Reads HTTP Basic credentials: a host's name holds no colon. */
function basic(header: string | undefined): { host: string; secret: string } | null {
  const match = header?.match(/^Basic ([A-Za-z0-9+/=]{1,1024})$/)
  if (!match) return null
  const text = Buffer.from(match[1]!, 'base64').toString()
  const colon = text.indexOf(':')
  return colon < 0 ? null : { host: text.slice(0, colon), secret: text.slice(colon + 1) }
}

export interface WebSocketOptions extends Claim {
  /** The cloud's own CA, in PEM; without it the system's are trusted. */
  ca?: string
}

/**
 * The way to a controller at its API: `wss://host:port/agent`; `ws:` to loopback only. `connect` rejects when the controller cannot be
 * reached, its certificate is not trusted, or it refuses the claim. Throws Error for another kind of address.
 */
export function webSocketWay(address: string, { host, secret, ca }: WebSocketOptions): Way {
  const url = new URL(address)
  if (url.protocol !== 'wss:' && !(url.protocol === 'ws:' && isLoopback(url.hostname))) {
    throw new Error(`${address}: agents speak wss:, or ws: to loopback only`)
  }
  const authorization = `Basic ${Buffer.from(`${host}:${secret}`).toString('base64')}`
  return {
    address,
    connect: signal =>
      new Promise((resolve, reject) => {
        const ws = new WebSocket(url, { headers: { authorization }, ca, perMessageDeflate: false, maxPayload: MAX_MESSAGE })
        const aborted = (): void => {
          reject(signal.reason)
          ws.terminate()
        }
        signal.addEventListener('abort', aborted, { once: true })
        ws.once('upgrade', response => {
          const wire = new WebSocketWire(ws, response.socket, `websocket ${url.host}`)
          ws.once('open', () => {
            signal.removeEventListener('abort', aborted)
            resolve(wire)
          })
        })
        ws.once('unexpected-response', (request, response) => {
          reject(new Error(`refused: ${response.statusCode} ${response.statusMessage}`))
          request.destroy()
        })
        ws.on('error', error => {
          signal.removeEventListener('abort', aborted)
          reject(error)
        })
      }),
  }
}

function isLoopback(name: string): boolean {
  const bare = name.replace(/^\[|\]$/g, '')
  return name === 'localhost' || bare === '::1' || (isIP(bare) === 4 && bare.startsWith('127.'))
}
