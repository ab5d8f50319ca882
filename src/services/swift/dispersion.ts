/**
 * How well copies are where they should be: a container and an object in a share of all partitions, and for each the question to every
 * primary whether it has its own. What is missing for these is missing for as great a share of the users'.
 */
import { readFile } from 'node:fs/promises'
import { parseArgs } from 'node:util'
import { openLog } from '#kit/log.ts'
import { discard, ok, readAll } from './http/message.ts'
import { request } from './internal.ts'
import { type Node, type NodeConfig, startNode } from './node.ts'
import type { Cluster } from './proxy/cluster.ts'
import { partitionFor, partitions, primaries, type Ring } from './ring/ring.ts'

const ACCOUNT = '.dispersion'

export const DISPERSION_HELP = `Usage: nubo swift dispersion populate|report --config NODE.json [--coverage PERCENT] [--json]

  populate    put a container and, for each storage policy, an object into that share of all partitions (1 % unless told)
  report      ask every device that should have a copy of them

  --config    a configuration of node.ts: rings, policies and the secrets of hashing

Exit code of report: 0 when every copy is there, else 1.
`

export interface Spread {
  /** "containers", or "objects of POLICY". */
  what: string
  asked: number
  copies: number
  expected: number
  /** How many partitions lack that many copies: index 0 is one copy. */
  lacking: number[]
}

type Client = Pick<Node, 'site' | 'client'>

/** The rings in which something is put, and how a number becomes a name in them. */
const kinds = ({ site: { cluster } }: Client) => [
  { what: 'containers', ring: cluster.containerRing, path: (n: string) => [ACCOUNT, `c${n}`] as const, policy: null },
  ...cluster.policies.map(policy => ({
    what: `objects of ${policy.name}`,
    ring: policy.ring,
    path: (n: string) => [ACCOUNT, `objects-${policy.index}`, n] as const,
    policy,
  })),
]
type Kind = ReturnType<typeof kinds>[number]

const partitionOf = (cluster: Cluster, ring: Ring, [account, container, object]: readonly string[]): number =>
  partitionFor(ring, cluster.secrets, account!, container, object)

/** Fills that share of the partitions, those that have one already left alone. Answers how many were put. */
export async function populate(node: Client, percent: number): Promise<number> {
  const put = async (path: string, headers: Record<string, string> = {}): Promise<void> => {
    const res = await node.client(request('PUT', path, { headers }))
    discard(res)
    if (!ok(res.status)) throw new Error(`PUT ${path} answered ${res.status}`)
  }
  let made = 0
  for (const { ring, path, policy } of kinds(node)) {
    if (policy) await put(`/v1/${ACCOUNT}/objects-${policy.index}`, { 'x-storage-policy': policy.name })
    const wanted = Math.max(1, Math.ceil((partitions(ring) * percent) / 100))
    const names = await namesOf(node, policy ? `objects-${policy.index}` : null)
    const covered = new Set(names.map(name => partitionOf(node.site.cluster, ring, path(name))))
    for (let n = 0; covered.size < wanted; n++) {
      const partition = partitionOf(node.site.cluster, ring, path(String(n)))
      if (covered.has(partition)) continue
      await put(`/v1/${path(String(n)).join('/')}`)
      covered.add(partition)
      made += 1
    }
  }
  return made
}

/** The numbers that were put into the container, or of the containers. */
async function namesOf(node: Client, container: string | null): Promise<string[]> {
  const names: string[] = []
  for (let marker = ''; ; ) {
    const query = new Map([
      ['format', 'json'],
      ['marker', marker],
    ])
    const path = container === null ? `/v1/${ACCOUNT}` : `/v1/${ACCOUNT}/${container}`
    const res = await node.client(request('GET', path, { query }))
    if (res.status === 404) return names
    if (!ok(res.status)) throw new Error(`GET ${path} answered ${res.status}`)
    const rows = JSON.parse((await readAll(res.body)).toString() || '[]') as { name: string }[]
    if (rows.length === 0) return names
    marker = rows.at(-1)!.name
    if (container !== null) names.push(...rows.map(row => row.name))
    else names.push(...rows.filter(row => /^c\d+$/.test(row.name)).map(row => row.name.slice(1)))
  }
}

/** Asks all that should have a copy. */
export async function report(node: Client): Promise<Spread[]> {
  const out: Spread[] = []
  for (const kind of kinds(node)) {
    const names = await namesOf(node, kind.policy ? `objects-${kind.policy.index}` : null)
    const spread: Spread = { what: kind.what, asked: names.length, copies: 0, expected: 0, lacking: [] }
    for (const name of names) {
      const { found, of } = await copiesOf(node.site.cluster, kind, name)
      spread.copies += found
      spread.expected += of
      if (found < of) spread.lacking[of - found - 1] = (spread.lacking[of - found - 1] ?? 0) + 1
    }
    out.push(spread)
  }
  return out
}

async function copiesOf(cluster: Cluster, { ring, path, policy }: Kind, name: string): Promise<{ found: number; of: number }> {
  const names = path(name)
  const partition = partitionOf(cluster, ring, names)
  const places = primaries(ring, partition)
  const there = await Promise.all(
    places.map(async place => {
      const res = await cluster.dial(place, policy ? 'object' : 'container', partition, {
        method: 'HEAD',
        path: `/${names.join('/')}`,
        headers: policy ? { 'x-backend-storage-policy-index': String(policy.index) } : {},
      })
      discard(res)
      return ok(res.status)
    }),
  )
  return { found: there.filter(Boolean).length, of: places.length }
}

const line = ({ what, asked, copies, expected, lacking }: Spread): string[] => [
  `${what}: ${asked} partitions asked, ${copies} of ${expected} copies found (${expected ? ((100 * copies) / expected).toFixed(2) : '100.00'} %)`,
  ...lacking.flatMap((n, i) => (n ? [`  ${n} partitions lack ${i + 1} ${i ? 'copies' : 'copy'}`] : [])),
]

/** Runs the command; answers the exit code. Throws Error for what is wrong. */
export async function dispersionCommand(argv: string[], print: (line: string) => void): Promise<number> {
  const { values, positionals } = parseArgs({
    args: argv,
    allowPositionals: true,
    options: {
      config: { type: 'string' },
      coverage: { type: 'string', default: '1' },
      json: { type: 'boolean', default: false },
    },
  })
  const percent = Number(values.coverage)
  if (!(percent > 0 && percent <= 100)) throw new Error(`--coverage ${values.coverage} is no share in percent`)
  if (!values.config) throw new Error('--config NODE.json is needed: rings, policies and secrets')
  const { storage: _, proxy: __, ...config } = JSON.parse(await readFile(values.config, 'utf8')) as NodeConfig
  const node = await startNode(config, openLog({ level: 'error' }))
  try {
    if (positionals[0] === 'populate') {
      print(`${await populate(node, percent)} put`)
      return 0
    }
    if (positionals[0] !== 'report') throw new Error(`'${positionals[0] ?? ''}' is neither populate nor report`)
    const spreads = await report(node)
    if (values.json) print(JSON.stringify(spreads))
    else for (const spread of spreads) line(spread).forEach(print)
    return spreads.every(spread => spread.copies === spread.expected) ? 0 : 1
  } finally {
    await node.close()
  }
}
