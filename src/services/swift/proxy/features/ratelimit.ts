/** Slows down writes: so many a second to an account's containers, fewer the larger the container. 498 when the wait would be too long. */
import type { Res } from '../../http/message.ts'
import { refuse } from '../../http/message.ts'
import { containerInfo } from '../info.ts'
import { pathOf, type Step } from '../site.ts'

const MOST_WAIT = 60_000
const BUFFER = 5_000

/** Waits until a write of that rate may go on; false when that is too far away. */
export function pacer(): (key: string, perSecond: number) => Promise<boolean> {
  const next = new Map<string, number>()
  return async (key, perSecond) => {
    const now = Date.now()
    const cost = 1000 / perSecond
    const due = Math.max(next.get(key) ?? 0, now - BUFFER)
    const wait = due - now
    if (wait > MOST_WAIT) return false
    next.set(key, due + cost)
    if (next.size > 100_000) next.delete(next.keys().next().value!)
    if (wait > 0) await new Promise(resolve => setTimeout(resolve, wait))
    return true
  }
}

const refused = (): Res => refuse(498, 'Slow down')

/** The step of the pipeline. */
export const ratelimit: Step = (next, site) => {
  const pace = pacer()
  const { accountRate, containerRates } = site.settings
  return async req => {
    const path = pathOf(req)
    if (!path?.container || !['PUT', 'POST', 'DELETE', 'COPY'].includes(req.method)) return next(req)
    if (path.object === null) {
      if (accountRate > 0 && req.method !== 'POST' && !(await pace(path.account, accountRate))) return refused()
      return next(req)
    }
    if (containerRates.length === 0) return next(req)
    const info = await containerInfo(site.cluster, req.env, path.account, path.container)
    const rate = rateFor(containerRates, Number(info.headers['x-container-object-count'] ?? 0))
    if (rate !== null && !(await pace(`${path.account}/${path.container}`, rate))) return refused()
    return next(req)
  }
}

/** The writes a second for a container of that size: between two given sizes, on the line between their rates. */
export function rateFor(rates: [size: number, rate: number][], size: number): number | null {
  let last: [number, number] | null = null
  for (const [at, rate] of rates) {
    if (size < at) {
      if (!last) return null
      return last[1] + ((rate - last[1]) * (size - last[0])) / (at - last[0])
    }
    last = [at, rate]
  }
  return last === null ? null : last[1]
}
