// Connections that the kernel tracks, through conntrack(8).
import { type RunPlace, run } from '../run.ts'

/** One direction of a tracked connection, as its first packet went. */
export interface Flow {
  ipVersion: 4 | 6
  /** IP protocol number. */
  protocol: number
  source: string
  destination: string
  sourcePort: number | null
  destinationPort: number | null
  icmpType: number | null
  icmpCode: number | null
}

export interface Connection extends Flow {
  zone: number
  /** As the tool prints it, for deletion by exactly these words. */
  id: string | null
}

/** Parses `conntrack -L -o extended`: the first (original) direction of each line. */
export function parseConnections(output: string): Connection[] {
  const found: Connection[] = []
  for (const line of output.split('\n')) {
    const head = /^(ipv4|ipv6)\s+\d+\s+\S+\s+(\d+)\s/.exec(line)
    if (!head) continue
    const first = new Map<string, string>()
    let zone = 0
    for (const word of line.split(/\s+/)) {
      const at = word.indexOf('=')
      if (at < 0) continue
      const key = word.slice(0, at)
      if (key === 'zone' || key === 'zone-orig') zone = Number(word.slice(at + 1))
      else if (!first.has(key)) first.set(key, word.slice(at + 1))
    }
    const number = (key: string) => (first.has(key) ? Number(first.get(key)) : null)
    found.push({
      ipVersion: head[1] === 'ipv4' ? 4 : 6,
      protocol: Number(head[2]),
      source: first.get('src') ?? '',
      destination: first.get('dst') ?? '',
      sourcePort: number('sport'),
      destinationPort: number('dport'),
      icmpType: number('type'),
      icmpCode: number('code'),
      zone,
      id: first.get('id') ?? null,
    })
  }
  return found
}

/** All connections that a namespace tracks. */
export async function connectionListAll(place: RunPlace): Promise<Connection[]> {
  const both = await Promise.all(['ipv4', 'ipv6'].map(family => run(['conntrack', '-L', '-f', family, '-o', 'extended'], place)))
  return both.flatMap(({ stdout }) => parseConnections(stdout))
}

/** Forgets one connection: its next packet is a new one. Safe if it has ended meanwhile. */
export async function connectionDelete(place: RunPlace, flow: Connection): Promise<void> {
  const argv = [
    'conntrack',
    '-D',
    '-w',
    String(flow.zone),
    '-f',
    flow.ipVersion === 4 ? 'ipv4' : 'ipv6',
    '-p',
    String(flow.protocol),
  ]
  argv.push('-s', flow.source, '-d', flow.destination)
  if (flow.sourcePort !== null) argv.push('--sport', String(flow.sourcePort))
  if (flow.destinationPort !== null) argv.push('--dport', String(flow.destinationPort))
  await run(argv, { ...place, codes: [0, 1] })
}

/** Forgets every connection of a zone that an address began or answers. */
export async function connectionDeleteAll(place: RunPlace, zone: number, ip: string): Promise<void> {
  const family = ip.includes(':') ? 'ipv6' : 'ipv4'
  for (const side of ['-s', '-d'])
    await run(['conntrack', '-D', '-w', String(zone), '-f', family, side, ip], { ...place, codes: [0, 1] })
}
