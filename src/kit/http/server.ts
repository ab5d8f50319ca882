/**
 * The one port: hands each request to the service whose prefix its path has. Plain HTTP on loopback and unix sockets, TLS elsewhere.
 * Besides the services it answers `/healthcheck`, `/metrics` (given by the caller) and upgrades (agent link, consoles).
 */
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http'
import { createServer as createTlsServer } from 'node:https'
import type { AddressInfo } from 'node:net'
import type { Duplex } from 'node:stream'
import type { ServicePolicy } from '../policy/index.ts'
import type { Env, Service } from '../service.ts'
import { type App, type AppOptions, app, type Identify } from './app.ts'
import type { Cors } from './cors.ts'

export interface ServerOptions {
  env: Env
  services: readonly Service[]
  identify: Identify
  /** The policy of each service by its name. */
  policyOf: (service: string) => ServicePolicy
  onAnswer?: AppOptions['onAnswer']
  keepBodies?: boolean
  /** Paths outside every service, whole: `/healthcheck`, `/metrics`, `/`. */
  extra?: Record<string, (req: IncomingMessage, res: ServerResponse) => void>
  /** Upgrades outside every service, by first path segment: `/agent`. */
  upgrades?: Record<string, (req: IncomingMessage, socket: Duplex, head: Buffer) => void>
  tls?: { key: string | Buffer; cert: string | Buffer; ca?: string | Buffer }
  /** What pages of other origins may do, with services whose requests are JSON. */
  cors?: Cors
}

type Mounted = { service: Service; app: App }

/** A listening server. */
export interface Listening {
  /** Base URL: `http://127.0.0.1:5000`. */
  url: string
  port: number
  server: Server
  /** Takes no new connections, lets running requests end (`graceMs` at most), closes. */
  close(graceMs?: number): Promise<void>
}

/** Builds the server; it does not listen yet. */
export function server(options: ServerOptions): Server {
  const mounted = new Map<string, Mounted>()
  for (const service of options.services) {
    mounted.set(service.prefix, { service, app: app({ ...options, service, policy: options.policyOf(service.name) }) })
  }
  const onRequest = (req: IncomingMessage, res: ServerResponse): void => {
    const { segment, path, search } = split(req.url!)
    const found = mounted.get(segment)
    if (found?.service.raw) found.service.raw(options.env, req, res, req.url!.slice(segment.length))
    else if (found) {
      if (!options.cors?.(req, res)) void found.app(req, res, path || '/', search)
    } else if (options.extra?.[segment || '/']) options.extra[segment || '/']!(req, res)
    else notHere(res)
  }
  const made = options.tls ? createTlsServer(options.tls, onRequest) : createServer(onRequest)
  made.requestTimeout = 0 // uploads of images take as long as they take; JSON bodies have a limit of their own
  made.headersTimeout = 30_000
  made.keepAliveTimeout = 75_000
  made.on('upgrade', (req: IncomingMessage, socket: Duplex, head: Buffer) => {
    const { segment, path } = split(req.url!)
    const found = mounted.get(segment)
    if (options.upgrades?.[segment]) options.upgrades[segment](req, socket, head)
    else if (!found?.service.upgrade?.(options.env, req, socket, head, path))
      socket.end('HTTP/1.1 404 Not Found\r\nConnection: close\r\n\r\n')
  })
  return made
}

/** Listens on a TCP address (port 0: any free one) or a unix socket path. Rejects with the system's error, e.g. EADDRINUSE. */
export async function listen(made: Server, at: { host: string; port: number } | { path: string }): Promise<Listening> {
  await new Promise<void>((resolve, reject) => {
    made.once('error', reject)
    made.listen(at, () => {
      made.off('error', reject)
      resolve()
    })
  })
  const scheme = 'setSecureContext' in made ? 'https' : 'http'
  const address = made.address()
  const port = typeof address === 'object' ? (address as AddressInfo).port : 0
  const host = 'host' in at ? (at.host.includes(':') ? `[${at.host}]` : at.host) : 'localhost'
  return {
    url: 'host' in at ? `${scheme}://${host}:${port}` : `unix:${at.path}`,
    port,
    server: made,
    async close(graceMs = 5000) {
      const closed = new Promise<void>(resolve => made.close(() => resolve()))
      made.closeIdleConnections()
      const timer = setTimeout(() => made.closeAllConnections(), graceMs)
      await closed
      clearTimeout(timer)
    },
  }
}

/** `/compute/v2.1/servers?limit=1` → segment `/compute`, path `/v2.1/servers`, search `?limit=1`. */
function split(url: string): { segment: string; path: string; search: string } {
  const mark = url.indexOf('?')
  const whole = mark < 0 ? url : url.slice(0, mark)
  const slash = whole.indexOf('/', 1)
  return {
    segment: slash < 0 ? whole : whole.slice(0, slash),
    path: slash < 0 ? '' : whole.slice(slash),
    search: mark < 0 ? '' : url.slice(mark),
  }
}

function notHere(res: ServerResponse): void {
  const body = JSON.stringify({ error: { code: 404, title: 'Not Found', message: 'No service of this cloud has this path.' } })
  res.writeHead(404, { 'Content-Type': 'application/json', 'Content-Length': Buffer.byteLength(body) }).end(body)
}

export type { Identify }
