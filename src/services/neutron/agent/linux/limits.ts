// Bandwidth limits of guests. What goes to a guest waits in a bucket on its tap. What it sends cannot wait on the tap, where it comes in: it is led
// through a link of its own (ifb), which has the bucket and sends it back. That bucket is put on last, so where it is right all else is.
import { batch, type Line, type Link } from '#host/net/ip.ts'
import {
  type Bucket,
  bucketGone,
  bucketLine,
  ingressGone,
  type Shaped,
  sameBucket,
  shapedList,
  throughLines,
} from '#host/net/tc.ts'
import type { DesiredLimits, DesiredPort } from '../desired.ts'
import { LIMIT, limitLink, TAP, tapName } from '../names.ts'
import type { NetConfig } from './config.ts'

/** What tc takes: sizes are 32 bits there. */
const MOST_BURST = 2 ** 31 - 1
/** A bucket must hold the largest packet, and what a timer tick lets through. */
const TICKS = 250

export function bucketOf(limits: DesiredLimits | undefined, mtu: number): Bucket | null {
  if (!limits?.bandwidth) return null
  const { kbps, burst } = limits.bandwidth
  const rate = kbps * 125
  return { rate, burst: Math.min(MOST_BURST, Math.max(burst * 125, Math.ceil(rate / TICKS), mtu + 64)) }
}

interface Work {
  /** Before links are taken away. */
  first: Line[]
  links: Line[]
  last: Line[]
}

function workFor(
  tap: string,
  port: DesiredPort | undefined,
  links: ReadonlyMap<string, Link>,
  shaped: ReadonlyMap<string, Shaped>,
) {
  const work: Work = { first: [], links: [], last: [] }
  const link = links.get(tap)
  const through = limitLink(tap)
  const there = links.has(through)
  const mtu = link?.mtu ?? 1500
  const [to, from] = [bucketOf(port?.qos?.ingress, mtu), bucketOf(port?.qos?.egress, mtu)]
  const now = shaped.get(tap)
  if (link && to && !sameBucket(now?.bucket, to)) work.last.push(bucketLine(tap, to))
  if (link && !to && now?.bucket) work.first.push(bucketGone(tap))
  if (!link || !from) {
    if (now?.ingress) work.first.push(ingressGone(tap))
    if (there) work.links.push(['link', 'del', through])
    return work
  }
  const bucket = shaped.get(through)?.bucket
  if (there && bucket && now?.ingress) {
    if (!sameBucket(bucket, from)) work.last.push(bucketLine(through, from))
    return work
  }
  if (now?.ingress) work.first.push(ingressGone(tap))
  if (!there) work.links.push(['link', 'add', through, 'type', 'ifb'])
  work.links.push(['link', 'set', through, 'up'])
  work.last.push(...throughLines(tap, through), bucketLine(through, from))
  return work
}

/**
 * Makes the limits of the taps among `links` those that these ports want, and takes away what limits nothing any more. Gives the words of what
 * failed, by port (or by tap, where no port wants it).
 */
export async function limitsEnsure(
  ports: readonly DesiredPort[],
  config: NetConfig,
  links: ReadonlyMap<string, Link>,
): Promise<Map<string, string>> {
  const errors = new Map<string, string>()
  const byTap = new Map(ports.map(port => [tapName(port.id), port]))
  const taps = new Set<string>()
  for (const [name, link] of links) {
    if (LIMIT.test(name)) taps.add(`tap${name.slice(3)}`)
    if (!TAP.test(name)) continue
    const qos = byTap.get(name)?.qos
    if (link.qdisc === 'tbf' || qos?.egress.bandwidth || qos?.ingress.bandwidth) taps.add(name)
  }
  if (taps.size === 0) return errors
  const place = config.place ?? {}
  const shaped = await shapedList(place)
  for (const tap of taps) {
    const port = byTap.get(tap)
    try {
      const work = workFor(tap, port, links, shaped)
      await batch(place, work.first, 'tc')
      await batch(place, work.links)
      await batch(place, work.last, 'tc')
    } catch (error) {
      errors.set(port?.id ?? tap, `bandwidth limit: ${(error as Error).message}`)
    }
  }
  return errors
}
