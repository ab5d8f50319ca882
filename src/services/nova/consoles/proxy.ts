/**
 * WebSockets to consoles: bytes between a browser and a guest's VNC or serial socket, over the link to its host. The token in the URL is
 * used up by the connection. A page of another origin may not open one.
 */
import type { IncomingMessage } from 'node:http'
import type { Duplex } from 'node:stream'
import { PassThrough, type Readable } from 'node:stream'
import { type RawData, type WebSocket, WebSocketServer } from 'ws'
import { reason } from '#kit/fault.ts'
import { callStream } from '#kit/link/index.ts'
import type { Env, UpgradeHandler } from '#kit/service.ts'
import { consoleOpen } from '../verbs.ts'
import { type ConsoleToken, consoleTokenTake } from './store.ts'

/** Path below the service's prefix → kind of console. */
const PATHS: Record<string, 'vnc' | 'serial'> = { '/novnc/websockify': 'vnc', '/serial/websockify': 'serial' }

const sockets = new WebSocketServer({
  noServer: true,
  // websockify's clients ask for `binary`; nothing else is spoken here.
  handleProtocols: protocols => (protocols.has('binary') ? 'binary' : false),
  maxPayload: 1 << 20,
})

function refuse(socket: Duplex, status: string): void {
  socket.end(`HTTP/1.1 ${status}\r\nConnection: close\r\nContent-Length: 0\r\n\r\n`)
}

/** Whether the page that asks is ours. Clients that are no browsers send no origin. */
function isOurs(req: IncomingMessage): boolean {
  const { origin, host } = req.headers
  if (origin === undefined) return true
  const allowed = [req.headers['x-forwarded-host'], host].flat().filter(name => name !== undefined)
  return URL.canParse(origin) && allowed.includes(new URL(origin).host)
}

/** Takes connections for consoles. */
export const consoleUpgrade: UpgradeHandler = (env, req, socket, head, path) => {
  const kind = Object.hasOwn(PATHS, path) ? PATHS[path]! : undefined
  if (!kind) return false
  socket.on('error', () => socket.destroy())
  void open(env, req, socket, head, kind).catch(error => {
    env.log.warn({ err: error }, 'a console could not be opened')
    if (!socket.destroyed) refuse(socket, '503 Service Unavailable')
  })
  return true
}

async function open(env: Env, req: IncomingMessage, socket: Duplex, head: Buffer, kind: 'vnc' | 'serial'): Promise<void> {
  if (!isOurs(req)) return refuse(socket, '403 Forbidden')
  const token = new URL(req.url!, 'http://localhost').searchParams.get('token')
  const found = token ? await env.db.tx(tx => consoleTokenTake(tx, token, kind)) : undefined
  if (!found) return refuse(socket, '403 Forbidden')
  const fromClient = new PassThrough()
  const ended = new AbortController()
  const { body } = await callStream(
    env,
    found.host,
    consoleOpen,
    { id: found.server_id, kind },
    { body: fromClient, signal: ended.signal },
  )
  if (socket.destroyed) {
    ended.abort(new Error('the client went away'))
    return
  }
  sockets.handleUpgrade(req, socket, head, ws => join(env, ws, fromClient, body, ended, found))
}

/** Couples the two ends until either is gone. */
function join(
  env: Env,
  ws: WebSocket,
  fromClient: PassThrough,
  fromGuest: Readable,
  ended: AbortController,
  token: ConsoleToken,
): void {
  const log = env.log.child({ part: 'console', server: token.server_id, kind: token.kind })
  const finish = (why: string, code = 1000): void => {
    if (ended.signal.aborted) return
    ended.abort(new Error(why))
    log.info({ why }, 'console closed')
    fromClient.end()
    fromGuest.destroy()
    ws.close(code)
  }
  log.info({ host: token.host }, 'console opened')
  ws.on('message', (data: RawData) => {
    const bytes = Array.isArray(data) ? Buffer.concat(data) : Buffer.from(data as ArrayBuffer)
    if (fromClient.write(bytes)) return
    ws.pause()
    fromClient.once('drain', () => ws.resume())
  })
  ws.on('close', () => finish('the client left'))
  ws.on('error', error => finish(reason(error), 1011))
  fromClient.on('error', error => finish(reason(error), 1011))
  fromGuest.on('data', (bytes: Buffer) => {
    fromGuest.pause()
    ws.send(bytes, { binary: true }, error => (error ? finish(reason(error), 1011) : fromGuest.resume()))
  })
  fromGuest.on('end', () => finish('the guest closed it'))
  fromGuest.on('error', error => finish(reason(error), 1011))
}
