/** PUTs of new names, or GETs of names that were PUT, over kept connections for some seconds. */
import { Agent, request } from 'node:http'
import { parentPort, workerData } from 'node:worker_threads'

export interface Asked {
  url: string
  headers: Record<string, string>
  method: 'PUT' | 'GET'
  connections: number
  seconds: number
  size: number
  round: number
}
export interface Measured {
  perSecond: number
  count: number
  failed: number
  why: string
}

const { url, headers, method, connections, seconds, size, round } = workerData as Asked
const agent = new Agent({ keepAlive: true, maxSockets: connections })
const body = Buffer.alloc(size, 'x')
const measured: Measured = { perSecond: 0, count: 0, failed: 0, why: '' }
const KEPT = size > 100_000 ? 2 : 200

const once = (verb: string, name: string): Promise<boolean> =>
  new Promise((resolve, reject) => {
    const sent = verb === 'PUT' ? { 'content-length': String(size) } : {}
    const outgoing = request(`${url}/c/${name}`, { agent, method: verb, headers: { ...headers, ...sent } }, incoming => {
      let bytes = 0
      incoming.on('data', (part: Buffer) => {
        bytes += part.length
      })
      incoming.on('error', reject)
      incoming.on('end', () => {
        const good = incoming.statusCode! < 300 && (verb === 'PUT' || bytes === size)
        if (!good) measured.why = `${incoming.statusCode}, ${bytes} bytes`
        resolve(good)
      })
    })
    outgoing.on('error', reject)
    outgoing.end(verb === 'PUT' ? body : undefined)
  })

if (method === 'GET') {
  let i = 0
  const fill = async (): Promise<void> => {
    for (let own = i++; own < KEPT; own = i++) await once('PUT', `kept-${size}-${own}`)
  }
  await Promise.all(Array.from({ length: connections }, fill))
}
parentPort!.postMessage('begins')
const began = performance.now()
const end = began + seconds * 1000
let next = 0
await Promise.all(
  Array.from({ length: connections }, async () => {
    while (performance.now() < end) {
      next += 1
      // large ones take turns on a few names, so that the disk does not fill
      const name =
        method === 'GET' ? `kept-${size}-${next % KEPT}` : size > 100_000 ? `large-${next % connections}` : `${round}-${next}`
      if (!(await once(method, name))) measured.failed += 1
      measured.count += 1
    }
  }),
)
measured.perSecond = measured.count / ((performance.now() - began) / 1000)
agent.destroy()
parentPort!.postMessage(measured)
