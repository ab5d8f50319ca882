// Metadata for guests: HTTP at 169.254.169.254 in the namespaces of routers and DHCP servers.
//
// Who asks is told by the namespace in which the connection came in and its source address, which anti-spoofing has checked at the guest's
// tap. No header a guest sends takes part. The answer comes from a function of this process: no other process, no control plane.
import { stat } from 'node:fs/promises'
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http'
import { type ListenAddress, listenIn } from '#host/net/listen.ts'
import type { MetadataAnswer, MetadataGuest, MetadataSource } from '../driver.ts'

const LIMITS = {
  bodyBytes: 64 << 10,
  headerBytes: 16 << 10,
  answerMs: 10_000,
  /** Requests at a time, of one guest and of one namespace. */
  perGuest: 16,
  perNamespace: 512,
}

/** Where to listen and whom to know there. */
export interface MetadataPlace {
  netns: string
  addresses: ListenAddress[]
  guests: ReadonlyMap<string, MetadataGuest>
}

interface Listening {
  /** Number of the namespace: one made anew under the same name has another. */
  inode: number
  key: string
  servers: Server[]
  place: MetadataPlace
}

export interface MetadataProxy {
  /** Listens in exactly these places; gives for each place that failed what went wrong. */
  ensure(places: readonly MetadataPlace[]): Promise<Map<string, string>>
  close(): Promise<void>
}

/** `source` knows the content. */
export function metadataProxy(source: MetadataSource, limits: Partial<typeof LIMITS> = {}): MetadataProxy {
  const bounds = { ...LIMITS, ...limits }
  const listening = new Map<string, Listening>()

  const open = async (place: MetadataPlace, key: string, inode: number) => {
    const entry: Listening = { inode, key, servers: [], place }
    const busy = new Map<string, number>()
    for (const handle of await listenIn(place.netns, place.addresses)) {
      const server = createServer(
        { maxHeaderSize: bounds.headerBytes, headersTimeout: 5000, requestTimeout: bounds.answerMs, keepAliveTimeout: 5000 },
        (request, response) => void handleRequest(entry, busy, source, bounds, request, response),
      )
      // Who asks first whether a body is welcome is told before it is sent.
      server.on('checkContinue', (request: IncomingMessage, response: ServerResponse) => {
        if (Number(request.headers['content-length']) > bounds.bodyBytes) return end(response, TOO_LARGE)
        response.writeContinue()
        void handleRequest(entry, busy, source, bounds, request, response)
      })
      server.maxConnections = bounds.perNamespace
      server.listen(handle)
      entry.servers.push(server)
    }
    listening.set(place.netns, entry)
  }
  const shut = async (netns: string) => {
    const entry = listening.get(netns)
    listening.delete(netns)
    for (const server of entry?.servers ?? []) {
      server.close()
      server.closeAllConnections()
    }
  }
  return {
    async ensure(places) {
      const errors = new Map<string, string>()
      const wanted = new Set(places.map(place => place.netns))
      for (const netns of [...listening.keys()]) if (!wanted.has(netns)) await shut(netns)
      for (const place of places) {
        try {
          const { ino } = await stat(`/run/netns/${place.netns}`)
          const key = JSON.stringify(place.addresses)
          const there = listening.get(place.netns)
          if (there?.inode === ino && there.key === key) {
            there.place = place
            continue
          }
          await shut(place.netns)
          await open(place, key, ino)
        } catch (error) {
          errors.set(place.netns, (error as Error).message)
        }
      }
      return errors
    },
    async close() {
      for (const netns of [...listening.keys()]) await shut(netns)
    },
  }
}

async function handleRequest(
  entry: Listening,
  busy: Map<string, number>,
  source: MetadataSource,
  bounds: typeof LIMITS,
  request: IncomingMessage,
  response: ServerResponse,
): Promise<void> {
  const address = (request.socket.remoteAddress ?? '').replace(/%.*$/, '')
  const guest = entry.place.guests.get(address)
  if (!guest) return end(response, { status: 404, body: `No server has the address ${address} on this network.\n` })
  const running = busy.get(address) ?? 0
  if (running >= bounds.perGuest)
    return end(response, { status: 429, headers: { 'retry-after': '1' }, body: 'Too many requests at a time.\n' })
  busy.set(address, running + 1)
  // One signal for the deadline and for a guest that went away.
  const gone = new AbortController()
  response.once('close', () => gone.abort())
  const signal = AbortSignal.any([gone.signal, AbortSignal.timeout(bounds.answerMs)])
  try {
    const body = await readBody(request, bounds.bodyBytes)
    if (body === null) return end(response, TOO_LARGE)
    const asked = { method: request.method ?? 'GET', path: request.url ?? '/', headers: request.headers, body, signal }
    end(response, await within(signal, source(guest, asked)))
  } catch (error) {
    if (response.destroyed) return
    if (signal.aborted) end(response, { status: 504, body: 'No answer in time.\n' })
    else end(response, { status: 500, body: `${(error as Error).message}\n` })
  } finally {
    const left = (busy.get(address) ?? 1) - 1
    if (left > 0) busy.set(address, left)
    else busy.delete(address)
  }
}

function within<T>(signal: AbortSignal, work: Promise<T>): Promise<T> {
  return new Promise((resolve, reject) => {
    signal.addEventListener('abort', () => reject(signal.reason), { once: true })
    work.then(resolve, reject)
  })
}

const TOO_LARGE: MetadataAnswer = { status: 413, headers: { connection: 'close' }, body: 'The request is too large.\n' }

/**
 * The whole body; null if it is larger than `most`. What is too much is read and dropped, within reason: an answer to a sender that still
 * sends may never reach it.
 */
async function readBody(request: IncomingMessage, most: number): Promise<Buffer | null> {
  const chunks: Buffer[] = []
  let size = 0
  for await (const chunk of request.iterator({ destroyOnReturn: false }) as AsyncIterable<Buffer>) {
    size += chunk.length
    if (size > 64 * most) break
    if (size <= most) chunks.push(chunk)
  }
  return size > most ? null : Buffer.concat(chunks)
}

function end(response: ServerResponse, answer: MetadataAnswer): void {
  const body = Buffer.from(answer.body as Uint8Array)
  response.writeHead(answer.status, {
    'content-type': 'text/plain; charset=UTF-8',
    ...answer.headers,
    'content-length': body.length,
  })
  response.end(body)
}
