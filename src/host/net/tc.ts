// Traffic control: token buckets on what leaves a link, and what comes in sent through a link of its own, since only what leaves can wait.
import { type RunPlace, run } from '../run.ts'
import type { Line } from './ip.ts'

/** Bytes per second, and how many of them may go at once. */
export interface Bucket {
  rate: number
  burst: number
}

/** What hangs on a link: the bucket at its way out, and whether what comes in is handled at all. */
export interface Shaped {
  bucket: Bucket | null
  ingress: boolean
}

type Json = Record<string, unknown>

/** Parses `tc -j qdisc show`: by link. */
export function parseQdiscs(output: string): Map<string, Shaped> {
  const shaped = new Map<string, Shaped>()
  for (const row of JSON.parse(output) as Json[]) {
    const name = String(row.dev)
    const one = shaped.get(name) ?? { bucket: null, ingress: false }
    const options = (row.options ?? {}) as Json
    if (row.kind === 'ingress') one.ingress = true
    if (row.kind === 'tbf' && row.root === true) one.bucket = { rate: Number(options.rate), burst: Number(options.burst) }
    shaped.set(name, one)
  }
  return shaped
}

/** What hangs on the links of a namespace. */
export async function shapedList(place: RunPlace): Promise<Map<string, Shaped>> {
  return parseQdiscs((await run(['tc', '-j', 'qdisc', 'show'], place)).stdout)
}

/** Whether a bucket is the wanted one: the kernel keeps bursts as times, so they come back rounded. */
export const sameBucket = (there: Bucket | null | undefined, wanted: Bucket): boolean =>
  there?.rate === wanted.rate && Math.abs(there.burst - wanted.burst) <= 1 + wanted.burst / 100

/** How long a packet may wait in a bucket before it is dropped. */
const LATENCY = '50ms'

/** Lines of a batch of `tc`: what leaves the link passes this bucket from now on. */
export const bucketLine = (link: string, { rate, burst }: Bucket): Line => [
  ...['qdisc', 'replace', 'dev', link, 'root', 'tbf'],
  ...['rate', `${rate}bps`, 'burst', burst, 'latency', LATENCY],
]

/** What comes into the link leaves `through` first, which sends it back to where it was going. */
export const throughLines = (link: string, through: string): Line[] => [
  ['qdisc', 'add', 'dev', link, 'handle', 'ffff:', 'ingress'],
  [
    ...['filter', 'add', 'dev', link, 'parent', 'ffff:', 'protocol', 'all', 'prio', 1, 'u32', 'match', 'u32', 0, 0],
    ...['action', 'mirred', 'egress', 'redirect', 'dev', through],
  ],
]

export const bucketGone = (link: string): Line => ['qdisc', 'del', 'dev', link, 'root']
export const ingressGone = (link: string): Line => ['qdisc', 'del', 'dev', link, 'ingress']
