import { parentPort, workerData } from 'node:worker_threads'
import { Agent, type Load, once, type Rate } from './load.ts'

const { url, connections, seconds, headers, method, body } = workerData as Load
const agent = new Agent({ keepAlive: true, maxSockets: connections })
const end = performance.now() + seconds * 1000
const rate: Rate = { perSecond: 0, answered: 0, failed: 0, bytes: 0 }

async function client(): Promise<void> {
  while (performance.now() < end) {
    const answer = await once(agent, url, { method, headers, body })
    rate.answered++
    rate.bytes = answer.body.length
    if (answer.status < 200 || answer.status > 299) rate.failed++
  }
}

const began = performance.now()
await Promise.all(Array.from({ length: connections }, client))
rate.perSecond = rate.answered / ((performance.now() - began) / 1000)
agent.destroy()
parentPort!.postMessage(rate)
