// A whole nftables table as a value: make the kernel's table match it, in one transaction, writing only what differs.
//
// What is there is read back as JSON. Sets and maps are compared element by element. Rules are not compared word by word, since nft
// rewrites them on the way in; instead each rule carries, as its comment, a digest of the text of its whole chain: a chain is right when it
// holds as many rules as wanted and all carry the digest. The fixed parts (types of sets, hooks) have a digest too, in the name of
// an empty chain; where it differs (another version of this program), the table is made anew in the same transaction.
import { createHash } from 'node:crypto'
import { type RunPlace, run } from '../run.ts'

export type NftFamily = 'inet' | 'ip' | 'ip6' | 'bridge' | 'netdev'

/** A set (values '') or a map. Keys and values as nft writes them; parts of a concatenation joined by ' . '. */
export interface NftSet {
  /** As in the language: 'type ifname : mark', 'type ipv4_addr; flags interval'. */
  definition: string
  /** Comes and goes with what is wanted; its name tells its definition. Others belong to the fixed parts. */
  transient?: true
  elements: Map<string, string>
}

export interface NftChain {
  /** 'type filter hook forward priority -5; policy accept' for a base chain. */
  hook?: string
  rules: readonly string[]
}

/** A connection tracking helper; its name tells what it is. */
export interface NftHelper {
  /** As the kernel calls it: ftp, tftp, Q.931, … */
  type: string
  protocol: 'tcp' | 'udp'
}

export interface NftTable {
  family: NftFamily
  name: string
  /** Come and go with what is wanted. */
  helpers?: ReadonlyMap<string, NftHelper>
  sets: Map<string, NftSet>
  chains: Map<string, NftChain>
}

/** What a listing tells of a table. */
export interface NftActual {
  sets: Map<string, Map<string, string>>
  /** Comment of each rule, in order. */
  chains: Map<string, (string | null)[]>
  helpers: Set<string>
}

type Json = Record<string, unknown>

const digest = (text: string) => createHash('sha256').update(text).digest('hex').slice(0, 12)

/** The digest that every rule of a chain with these rules carries. */
export const chainDigest = (rules: readonly string[]): string => digest(rules.join('\n'))

/** Digest of what cannot be changed in place: types of sets with stable names, hooks of base chains. */
function skeleton(table: NftTable): string {
  const hooks = [...table.chains].filter(([, chain]) => chain.hook).map(([name, chain]) => `${name} ${chain.hook}`)
  const kinds = [...table.sets].filter(([, set]) => !set.transient).map(([name, set]) => `${name} ${set.definition}`)
  return `version-${digest([...hooks, ...kinds].sort().join('\n'))}`
}

/** Reads one element (or a value) of the JSON back into the language's words. */
function word(value: unknown): string {
  if (typeof value === 'string' || typeof value === 'number') return String(value)
  const row = value as Json
  if (row.elem) return word((row.elem as Json).val)
  if (row.concat) return (row.concat as unknown[]).map(word).join(' . ')
  if (row.prefix) return `${(row.prefix as Json).addr}/${(row.prefix as Json).len}`
  if (row.range) return (row.range as unknown[]).map(word).join('-')
  for (const verdict of ['jump', 'goto']) if (row[verdict]) return `${verdict} ${(row[verdict] as Json).target}`
  return Object.keys(row)[0] ?? ''
}

/** Parses `nft -j list table`. */
export function parseTable(output: string): NftActual {
  const actual: NftActual = { sets: new Map(), chains: new Map(), helpers: new Set() }
  for (const entry of (JSON.parse(output) as { nftables: Json[] }).nftables) {
    const set = (entry.set ?? entry.map) as Json | undefined
    const chain = entry.chain as Json | undefined
    const rule = entry.rule as Json | undefined
    const helper = entry['ct helper'] as Json | undefined
    if (helper) actual.helpers.add(String(helper.name))
    if (set) {
      const elements = ((set.elem ?? []) as unknown[]).map(item =>
        entry.map ? ([word((item as unknown[])[0]), word((item as unknown[])[1])] as const) : ([word(item), ''] as const),
      )
      actual.sets.set(String(set.name), new Map(elements))
    }
    if (chain) actual.chains.set(String(chain.name), actual.chains.get(String(chain.name)) ?? [])
    if (rule) actual.chains.get(String(rule.chain))?.push(typeof rule.comment === 'string' ? rule.comment : null)
  }
  return actual
}

/** What a listing of the table would tell once it is in force: elements and rules are written as nft lists them. */
export function nftOnce(table: NftTable): NftActual {
  return {
    helpers: new Set(table.helpers?.keys()),
    sets: new Map([...table.sets].map(([name, set]) => [name, set.elements])),
    chains: new Map<string, (string | null)[]>([
      [skeleton(table), []],
      ...[...table.chains].map(([name, { rules }]) => [name, rules.map(() => chainDigest(rules))] as const),
    ]),
  }
}

/** Reads a table; null if it is not there. */
export async function nftRead(place: RunPlace, family: NftFamily, name: string): Promise<NftActual | null> {
  const { stdout, stderr, code } = await run(['nft', '-j', 'list', 'table', family, name], { ...place, codes: [0, 1] })
  if (code === 0) return parseTable(stdout)
  if (stderr.includes('No such file or directory')) return null
  throw new Error(`nft list table ${family} ${name}: ${stderr.trim()}`)
}

const element = ([key, value]: [string, string]) => (value === '' ? key : `${key} : ${value}`)

/** Long lists are cut into several commands of the one transaction. */
function elements(command: 'add' | 'delete', where: string, entries: [string, string][]): string[] {
  const lines: string[] = []
  for (let i = 0; i < entries.length; i += 500) {
    const words = entries.slice(i, i + 500).map(entry => (command === 'add' ? element(entry) : entry[0]))
    lines.push(`${command} element ${where} { ${words.join(', ')} }`)
  }
  return lines
}

/**
 * The transaction that turns `actual` into `wanted`; '' when they match already. Pure.
 * Order: remove elements, make helpers, sets and chains, fill changed chains, add elements, then remove what nothing uses any more.
 */
export function nftDiff(wanted: NftTable, actual: NftActual | null): string {
  const at = `${wanted.family} ${wanted.name}`
  const version = skeleton(wanted)
  if (actual !== null && !actual.chains.has(version)) {
    return `delete table ${at}\n${nftDiff(wanted, null)}`
  }
  const lines: string[] = []
  const tail: string[] = []
  const have: NftActual = actual ?? { sets: new Map(), chains: new Map(), helpers: new Set() }
  if (actual === null) lines.push(`add table ${at}`, `add chain ${at} ${version}`)
  for (const [name, { type, protocol }] of wanted.helpers ?? [])
    if (!have.helpers.has(name)) lines.push(`add ct helper ${at} ${name} { type "${type}" protocol ${protocol}; }`)
  for (const name of have.helpers) if (!wanted.helpers?.has(name)) tail.push(`delete ct helper ${at} ${name}`)

  for (const [name, set] of wanted.sets) {
    const there = have.sets.get(name)
    // A verdict map may hold a jump to a chain that is made below, so only the set itself is made here.
    if (!there) lines.push(`add ${set.definition.includes(' : ') ? 'map' : 'set'} ${at} ${name} { ${set.definition}; }`)
    const stale = [...(there ?? [])].filter(([key, value]) => set.elements.get(key) !== value)
    lines.push(...elements('delete', `${at} ${name}`, stale))
  }
  const fill: string[] = []
  for (const [name, chain] of wanted.chains) {
    const there = have.chains.get(name)
    const mark = chainDigest(chain.rules)
    if (!there) lines.push(`add chain ${at} ${name}${chain.hook ? ` { ${chain.hook}; }` : ''}`)
    if (there?.length === chain.rules.length && there.every(comment => comment === mark)) continue
    if (there?.length) fill.push(`flush chain ${at} ${name}`)
    fill.push(...chain.rules.map(rule => `add rule ${at} ${name} ${rule} comment "${mark}"`))
  }
  lines.push(...fill)
  for (const [name, set] of wanted.sets) {
    const there = have.sets.get(name)
    const missing = [...set.elements].filter(([key, value]) => there?.get(key) !== value)
    lines.push(...elements('add', `${at} ${name}`, missing))
  }
  const gone = [...have.chains.keys()].filter(name => name !== version && !wanted.chains.has(name))
  for (const name of gone) lines.push(`flush chain ${at} ${name}`)
  for (const [name, there] of have.sets) {
    if (wanted.sets.has(name)) continue
    if (there.size > 0) lines.push(`flush set ${at} ${name}`)
    tail.push(`delete set ${at} ${name}`)
  }
  for (const name of gone) lines.push(`delete chain ${at} ${name}`)
  lines.push(...tail)
  return lines.length === 0 ? '' : `${lines.join('\n')}\n`
}

/**
 * Makes the kernel's table match, in one transaction: either all of it or, when nft refuses a line, nothing.
 * `actual` may be given when it was just read. Returns what was sent ('' if all was right).
 */
export async function nftEnsure(place: RunPlace, wanted: NftTable, actual?: NftActual | null): Promise<string> {
  const script = nftDiff(wanted, actual === undefined ? await nftRead(place, wanted.family, wanted.name) : actual)
  if (script !== '') await run(['nft', '-f', '-'], { ...place, input: script })
  return script
}

/** Removes a table. Safe if it is not there. */
export async function nftDelete(place: RunPlace, family: NftFamily, name: string): Promise<void> {
  if ((await nftRead(place, family, name)) !== null) await run(['nft', 'delete', 'table', family, name], place)
}

/** Prefixes of an interval set may not overlap: gives the widest ones only. Input canonical CIDRs or addresses of one version. */
export function widest(prefixes: Iterable<string>): string[] {
  const parsed = [...new Set(prefixes)]
    .map(text => ({ text, ...range(text) }))
    .sort((a, b) => (a.first < b.first ? -1 : a.first > b.first ? 1 : b.last > a.last ? 1 : -1))
  const kept: string[] = []
  let end = -1n
  for (const { text, last } of parsed) {
    if (last <= end) continue
    kept.push(text)
    end = last
  }
  return kept
}

function range(prefix: string): { first: bigint; last: bigint } {
  const [ip = '', length] = prefix.split('/')
  const bits = ip.includes(':') ? 128 : 32
  const host = BigInt(bits - (length === undefined ? bits : Number(length)))
  const first = (addressNumber(ip) >> host) << host
  return { first, last: first + (1n << host) - 1n }
}

/** An address as a number: 32 bits, or 128 with a colon in it. */
export function addressNumber(ip: string): bigint {
  if (!ip.includes(':')) return ip.split('.').reduce((sum, part) => (sum << 8n) + BigInt(part), 0n)
  const v4 = /^(.*:)(\d+\.\d+\.\d+\.\d+)$/.exec(ip)
  const groups = (text: string) => (text === '' ? [] : text.split(':').map(part => Number.parseInt(part, 16)))
  let textual = ip
  if (v4) {
    const number = Number(addressNumber(v4[2] as string))
    textual = `${v4[1]}${(number >>> 16).toString(16)}:${(number & 0xffff).toString(16)}`
  }
  const [head = '', tail] = textual.split('::')
  const front = groups(head)
  const back = tail === undefined ? [] : groups(tail)
  const all = [...front, ...Array<number>(8 - front.length - back.length).fill(0), ...back]
  return all.reduce((sum, part) => (sum << 16n) + BigInt(part), 0n)
}

/** Whether an address lies in a prefix (or equals an address) of its version. */
export function within(ip: string, prefix: string): boolean {
  if (ip.includes(':') !== prefix.includes(':')) return false
  const { first, last } = range(prefix)
  const number = addressNumber(ip)
  return number >= first && number <= last
}
