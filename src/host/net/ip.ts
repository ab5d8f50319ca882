// Links, addresses, routes, neighbours and forwarding entries through iproute2: JSON in, argument lists and batches out.
//
// Reading and writing are apart: readers give plain facts, callers compare them with what they want and hand the difference to a batch.
// A batch is one process however long it is, and stops at the first line that fails, so that an error names that line.
import { type RunPlace, run } from '../run.ts'

/** An interface as `ip -j -d addr show` tells it. */
export interface Link {
  index: number
  name: string
  mtu: number
  mac: string
  up: boolean
  /** Bridge (or other master) that it is plugged into. */
  master: string | null
  /** Kernel's kind: bridge, veth, vxlan, tun, vlan, …; null for a physical one. */
  kind: string | null
  /** What its packets wait in on their way out. */
  qdisc: string | null
  /** Facts of its kind as iproute2 names them (info_data), and as a port of its master (info_slave_data). */
  data: Record<string, unknown>
  portData: Record<string, unknown>
  /** Parent of a vlan; other end of a veth in the same namespace. */
  parent: string | null
  addresses: Address[]
}

export interface Address {
  ip: string
  prefixLength: number
  scope: string
}

export interface Route {
  destination: string
  gateways: string[]
  device: string | null
  protocol: string
  scope: string | null
  metric: number | null
}

export interface Neighbour {
  ip: string
  mac: string
  device: string
  permanent: boolean
}

export interface ForwardingEntry {
  mac: string
  device: string
  /** Far tunnel end, for an entry of a vxlan link itself. */
  destination: string | null
  /** Bridge, for an entry of the bridge that `device` is plugged into. */
  master: string | null
  state: string
}

type Json = Record<string, unknown>

const list = (text: string): Json[] =>
  text.trim() === '' ? [] : (JSON.parse(text) as Json[]).filter(row => Object.keys(row).length > 0)
const text = (value: unknown): string | null => (typeof value === 'string' ? value : null)

/** Parses `ip -j -d addr show` (or `link show`: then without addresses). */
export function parseLinks(output: string): Link[] {
  return list(output).map(row => {
    const info = (row.linkinfo ?? {}) as Json
    return {
      index: Number(row.ifindex),
      name: String(row.ifname),
      mtu: Number(row.mtu),
      mac: String(row.address ?? ''),
      up: (row.flags as string[]).includes('UP'),
      master: text(row.master),
      kind: text(info.info_kind),
      qdisc: text(row.qdisc),
      data: (info.info_data ?? {}) as Json,
      portData: (info.info_slave_data ?? {}) as Json,
      parent: text(row.link),
      addresses: ((row.addr_info ?? []) as Json[])
        .filter(address => typeof address.local === 'string')
        .map(address => ({ ip: String(address.local), prefixLength: Number(address.prefixlen), scope: String(address.scope) })),
    }
  })
}

/** Parses `ip -j route show` and `ip -6 -j route show`. */
export function parseRoutes(output: string): Route[] {
  return list(output).map(row => ({
    destination: String(row.dst),
    gateways: row.nexthops
      ? (row.nexthops as Json[]).map(hop => String(hop.gateway))
      : typeof row.gateway === 'string'
        ? [row.gateway]
        : [],
    device: text(row.dev),
    protocol: String(row.protocol ?? 'boot'),
    scope: text(row.scope),
    metric: typeof row.metric === 'number' ? row.metric : null,
  }))
}

/** Parses `ip -j neigh show`. */
export function parseNeighbours(output: string): Neighbour[] {
  return list(output)
    .filter(row => typeof row.lladdr === 'string')
    .map(row => ({
      ip: String(row.dst),
      mac: String(row.lladdr),
      device: String(row.dev),
      permanent: ((row.state ?? []) as string[]).includes('PERMANENT'),
    }))
}

/** Parses `bridge -j fdb show`. */
export function parseForwarding(output: string): ForwardingEntry[] {
  return list(output).map(row => ({
    mac: String(row.mac),
    device: String(row.ifname),
    destination: text(row.dst),
    master: text(row.master),
    state: String(row.state ?? ''),
  }))
}

/** All links of a namespace with their addresses. */
export async function linkList(place: RunPlace): Promise<Map<string, Link>> {
  const { stdout } = await run(['ip', '-j', '-d', 'addr', 'show'], place)
  return new Map(parseLinks(stdout).map(link => [link.name, link]))
}

/** One link, or undefined if it is not there. */
export async function linkFetch(place: RunPlace, name: string): Promise<Link | undefined> {
  const { stdout, code } = await run(['ip', '-j', '-d', 'addr', 'show', 'dev', name], { ...place, codes: [0, 1] })
  return code === 0 ? parseLinks(stdout)[0] : undefined
}

/** Main table of one version. */
export async function routeList(place: RunPlace, version: 4 | 6): Promise<Route[]> {
  const { stdout } = await run(['ip', `-${version}`, '-j', 'route', 'show'], place)
  return parseRoutes(stdout)
}

/** Permanent neighbours of a link, both versions. */
export async function neighbourList(place: RunPlace, device: string): Promise<Neighbour[]> {
  const { stdout } = await run(['ip', '-j', 'neigh', 'show', 'dev', device, 'nud', 'permanent'], place)
  return parseNeighbours(stdout).map(row => ({ ...row, device, permanent: true }))
}

/** Forwarding entries of a bridge port: those of its bridge and, for a vxlan link, its own. */
export async function forwardingList(place: RunPlace, device: string): Promise<ForwardingEntry[]> {
  const { stdout } = await run(['bridge', '-j', 'fdb', 'show', 'dev', device], place)
  return parseForwarding(stdout)
}

/** One line of a batch: a command without its leading `ip` (`bridge`, `tc`). Words have no spaces: names, numbers, addresses. */
export type Line = readonly (string | number)[]

/**
 * Runs lines through `ip -batch -` (or `bridge`, or `tc`), stopping at the first that fails.
 * @throws RunError, whose message names the failing command.
 */
export async function batch(place: RunPlace, lines: readonly Line[], tool: 'ip' | 'bridge' | 'tc' = 'ip'): Promise<void> {
  if (lines.length === 0) return
  for (const line of lines) for (const word of line) checkWord(word)
  const input = lines.map(line => line.join(' ')).join('\n')
  try {
    await run([tool, '-batch', '-'], { ...place, input: `${input}\n` })
  } catch (error) {
    const number = /Command failed -:(\d+)/.exec((error as Error).message)?.[1]
    const line = number && lines[Number(number) - 1]
    if (line && error instanceof Error) error.message = `${tool} ${line.join(' ')}: ${error.message}`
    throw error
  }
}

// A batch is split at white space, and '#' starts a comment: a word that holds either would be read as something else.
function checkWord(word: string | number): void {
  if (typeof word === 'string' && !/^[\w.:/@%+=,-]+$/.test(word))
    throw new TypeError(`not a word for a batch: ${JSON.stringify(word)}`)
}
