/** Load on loopback: keep-alive connections that each send a request when the last was answered, for a bounded time. */
import { Agent, request } from 'node:http'
import { Worker } from 'node:worker_threads'

export interface Load {
  url: string
  connections: number
  /** Seconds. */
  seconds: number
  headers?: Record<string, string>
  method?: string
  body?: string
}

export interface Rate {
  perSecond: number
  answered: number
  /** Answers that were not 2xx. */
  failed: number
  /** Bytes of the last body. */
  bytes: number
}

/** Runs a load in a thread of its own, so that it disturbs nobody's event loop. */
export function load(options: Load): Promise<Rate> {
  return new Promise((resolve, reject) => {
    const worker = new Worker(new URL('./load.worker.ts', import.meta.url), { workerData: options })
    worker.once('message', resolve)
    worker.once('error', reject)
  })
}

/** What a load reached beside the limit, in one and the same moment. */
export interface Beside {
  value: number
  limit: number
}

/**
 * A load and its limit in turns, `rounds` times: a machine whose speed drifts, or that has others to serve, is as fast for one as for the other.
 * Returns the round whose ratio is the median. Throws when a request fails.
 */
export async function beside(own: Load, limit: Load, rounds = 15): Promise<Beside> {
  const rate = async (one: Load): Promise<number> => {
    const { perSecond, failed } = await load(one)
    if (failed > 0) throw new Error(`${failed} requests to ${one.url} failed`)
    return perSecond
  }
  // Both are warm before anything counts.
  for (const one of [own, limit]) await rate({ ...one, seconds: 2 })
  const found: Beside[] = []
  for (let round = 0; round < rounds; round++) found.push({ value: await rate(own), limit: await rate(limit) })
  return found.sort((a, b) => a.value / a.limit - b.value / b.limit)[Math.floor(rounds / 2)]!
}

export const median = (list: readonly number[]): number => [...list].sort((a, b) => a - b)[Math.floor(list.length / 2)]!

/** The limit of HTTP here: a raw node:http server, in a thread, that sends these bytes to every request. */
export async function rawServer(body: string): Promise<{ url: string; close(): Promise<void> }> {
  const worker = new Worker(new URL('./raw.worker.ts', import.meta.url), { workerData: body })
  const port = await new Promise<number>((resolve, reject) => {
    worker.once('message', resolve)
    worker.once('error', reject)
  })
  return {
    url: `http://127.0.0.1:${port}/`,
    async close() {
      await worker.terminate()
    },
  }
}

/** One request on a connection of an agent; resolves to status and body. */
export function once(
  agent: Agent,
  url: string,
  options: { method?: string; headers?: Record<string, string>; body?: string } = {},
): Promise<{ status: number; body: string; headers: Record<string, unknown> }> {
  return new Promise((resolve, reject) => {
    const req = request(
      url,
      {
        agent,
        method: options.method ?? 'GET',
        headers: {
          ...options.headers,
          ...(options.body === undefined
            ? {}
            : { 'content-type': 'application/json', 'content-length': Buffer.byteLength(options.body) }),
        },
      },
      res => {
        const parts: Buffer[] = []
        res.on('data', (part: Buffer) => parts.push(part))
        res.on('end', () => resolve({ status: res.statusCode!, body: Buffer.concat(parts).toString(), headers: res.headers }))
        res.on('error', reject)
      },
    )
    req.on('error', reject)
    req.end(options.body)
  })
}

export { Agent }
