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

/** Several loads in turn, `rounds` times, so that a machine whose speed drifts is fair to all. Returns each one's median rate. */
export async function inTurns(loads: readonly Load[], rounds = 5): Promise<number[]> {
  const rates: number[][] = loads.map(() => [])
  for (let round = -1; round < rounds; round++) {
    for (const [i, one] of loads.entries()) {
      const { perSecond, failed } = await load(one)
      if (failed > 0) throw new Error(`${failed} requests to ${one.url} failed`)
      if (round >= 0) rates[i]!.push(perSecond) // the first round warms up
    }
  }
  return rates.map(median)
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
