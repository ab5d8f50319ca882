/**
 * Makes and changes rings. Each tier (region, zone, host, device) gets a share of every partition's replicas: by weight, bent towards an
 * even spread as far as `overload` allows, and never more than it has devices. A rebalance takes partitions from removed devices, from
 * tiers that hold more replicas of a partition than their share, and from devices above their share, at most one replica of a partition
 * within `minPartHours`, and gives them to where the share is least used.
 */
import type { Device } from '../http/client.ts'
import type { Ring } from './ring.ts'

export interface Builder {
  power: number
  /** May have a fraction: that share of the partitions has one replica more. */
  replicas: number
  minPartHours: number
  overload: number
  devices: (Device | null)[]
  table: Uint32Array[]
  /** When a replica of the partition was last moved, in hours since 1970. */
  moved: number[]
  version: number
  nextPartPower: number | null
  /** Devices that go at the next rebalance. */
  removed: number[]
}

const NONE = 0xffffffff

/** An empty builder. */
export function newBuilder(power: number, replicas: number, minPartHours: number): Builder {
  if (!Number.isInteger(power) || power < 0 || power > 32) throw new RangeError('the part power is a whole number from 0 to 32')
  if (!(replicas >= 1)) throw new RangeError('at least one replica')
  return {
    power,
    replicas,
    minPartHours,
    overload: 0,
    devices: [],
    table: [],
    moved: [],
    version: 0,
    nextPartPower: null,
    removed: [],
  }
}

/** Adds a device; answers its id. Throws when that device of that host is there already. */
export function addDevice(b: Builder, device: Omit<Device, 'id'> & { id?: number }): number {
  const same = b.devices.find(
    known =>
      known &&
      !b.removed.includes(known.id) &&
      known.ip === device.ip &&
      known.port === device.port &&
      known.device === device.device,
  )
  if (same) throw new Error(`device ${same.id} is already ${device.ip}:${device.port}/${device.device}`)
  if (!(device.weight >= 0)) throw new RangeError('a weight is not negative')
  const id = device.id ?? b.devices.length
  if (b.devices[id]) throw new Error(`there is a device ${id}`)
  while (b.devices.length < id) b.devices.push(null)
  b.devices[id] = { ...device, id }
  b.version += 1
  return id
}

/** Changes a weight; 0 empties the device over time. */
export function setWeight(b: Builder, id: number, weight: number): void {
  const device = b.devices[id]
  if (!device) throw new Error(`there is no device ${id}`)
  device.weight = weight
  b.version += 1
}

/** Takes a device out at the next rebalance, all its partitions at once. */
export function removeDevice(b: Builder, id: number): void {
  const device = b.devices[id]
  if (!device) throw new Error(`there is no device ${id}`)
  device.weight = 0
  b.removed.push(id)
  b.version += 1
}

interface Tier {
  key: string
  children: Tier[]
  device: Device | null
  weight: number
  /** Devices with weight below. */
  size: number
  /** Replicas of each partition that belong here, on the average. */
  share: number
}

const keysOf = (d: Device): string[] => [`r${d.region}`, `r${d.region}z${d.zone}`, `r${d.region}z${d.zone}-${d.ip}`, `d${d.id}`]

/** The tree of tiers with their shares. */
export function plan(b: Builder): { root: Tier; tiers: Map<string, Tier> } {
  const tiers = new Map<string, Tier>()
  const tier = (key: string, parent: Tier | null): Tier => {
    let known = tiers.get(key)
    if (!known) {
      known = { key, children: [], device: null, weight: 0, size: 0, share: 0 }
      tiers.set(key, known)
      parent?.children.push(known)
    }
    return known
  }
  const root = tier('', null)
  for (const device of b.devices) {
    if (!device || b.removed.includes(device.id)) continue
    let at = root
    const chain = [root]
    for (const key of keysOf(device)) {
      at = tier(key, at)
      chain.push(at)
    }
    at.device = device
    for (const one of chain) {
      one.weight += device.weight
      if (device.weight > 0) one.size += 1
    }
  }
  if (root.size < Math.ceil(b.replicas))
    throw new Error(`${b.replicas} replicas need as many devices with a weight; there are ${root.size}`)
  root.share = b.replicas
  divide(root, b.overload)
  return { root, tiers }
}

function divide(tier: Tier, overload: number): void {
  const children = tier.children.filter(child => child.size > 0)
  if (children.length === 0) return
  const byWeight = capped(children, tier.share, child => child.weight)
  const even = capped(children, tier.share, () => 1)
  let shares = byWeight
  if (overload > 0) {
    const wanted = children.map((_, i) => (even[i] > byWeight[i] ? Math.min(even[i], byWeight[i] * (1 + overload)) : byWeight[i]))
    const extra = wanted.reduce((a, c) => a + c, 0) - tier.share
    const spare = children.map((_, i) => Math.max(0, wanted[i] - even[i]))
    const total = spare.reduce((a, c) => a + c, 0)
    shares = wanted.map((share, i) => (total > 0 ? share - (extra * spare[i]) / total : share))
  }
  for (const [i, child] of children.entries()) {
    child.share = shares[i]
    divide(child, overload)
  }
}

/** Divides by that measure, none above the number of its devices; what is cut off goes to the others. */
function capped(children: Tier[], total: number, measure: (child: Tier) => number): number[] {
  const out = children.map(() => 0)
  const open = new Set(children.keys())
  let left = total
  while (open.size) {
    const sum = [...open].reduce((a, i) => a + measure(children[i]), 0)
    const full = [...open].filter(i => (left * measure(children[i])) / sum > children[i].size + 1e-9)
    if (full.length === 0) {
      for (const i of open) out[i] = (left * measure(children[i])) / sum
      return out
    }
    for (const i of full) {
      out[i] = children[i].size
      left -= children[i].size
      open.delete(i)
    }
  }
  return out
}

export interface Rebalanced {
  moved: number
  /** How far the worst device is from its share, in percent. */
  balance: number
  removed: number
}

/** A repeatable sequence of numbers in [0, 1). */
function random(seed: number): () => number {
  let state = seed >>> 0
  return () => {
    state = (state + 0x6d2b79f5) >>> 0
    let t = Math.imul(state ^ (state >>> 15), 1 | state)
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296
  }
}

/** Assigns and moves partitions. `hour`: now, in hours since 1970. */
export function rebalance(b: Builder, options: { seed?: number; hour?: number } = {}): Rebalanced {
  const dice = random(options.seed ?? 1)
  const hour = options.hour ?? Math.floor(Date.now() / 3_600_000)
  const parts = 2 ** b.power
  const { root, tiers } = plan(b)
  resize(b, parts)
  const before = b.table.map(row => row.slice())
  const wanted = new Map<number, number>()
  const want = (tier: Tier): void => {
    if (tier.device) wanted.set(tier.device.id, tier.share * parts)
    tier.children.forEach(want)
  }
  want(root)
  for (const row of b.table) for (const id of row) if (id !== NONE && wanted.has(id)) wanted.set(id, wanted.get(id)! - 1)
  const open: [part: number, replica: number][] = []
  const touched = new Set<number>()
  const take = (part: number, replica: number): void => {
    const id = b.table[replica][part]
    if (id !== NONE && wanted.has(id)) wanted.set(id, wanted.get(id)! + 1)
    b.table[replica][part] = NONE
    open.push([part, replica])
    touched.add(part)
  }
  const free = (part: number): boolean => !touched.has(part) && hour - (b.moved[part] ?? 0) >= b.minPartHours
  for (const [replica, row] of b.table.entries()) {
    for (let part = 0; part < row.length; part++) {
      if (row[part] === NONE || !wanted.has(row[part])) take(part, replica)
    }
  }
  if (before.some(row => row.some(id => id !== NONE))) {
    gatherCrowded(b, tiers, free, take)
    gatherHeavy(b, wanted, free, take, dice)
  }
  assign(b, root, wanted, shuffled(open, dice), dice)
  let moved = 0
  for (const [part, replica] of open) {
    if (before[replica]?.[part] === b.table[replica][part]) continue
    moved += 1
    if (before[replica]?.[part] !== NONE) b.moved[part] = hour
  }
  const removed = b.removed.length
  for (const id of b.removed) b.devices[id] = null
  b.removed = []
  b.version += 1
  return { moved, balance: balanceOf(b), removed }
}

function resize(b: Builder, parts: number): void {
  const lengths = Array.from({ length: Math.ceil(b.replicas) }, (_, i) =>
    i < Math.floor(b.replicas) ? parts : Math.round(parts * (b.replicas % 1)),
  )
  b.table = lengths.map((length, i) => {
    const row = new Uint32Array(length).fill(NONE)
    if (b.table[i]) row.set(b.table[i].subarray(0, length))
    return row
  })
  while (b.moved.length < parts) b.moved.push(0)
}

/** Replicas in a tier that already has its whole share of that partition. */
function gatherCrowded(
  b: Builder,
  tiers: Map<string, Tier>,
  free: (part: number) => boolean,
  take: (part: number, replica: number) => void,
): void {
  for (let part = 0; part < b.table[0].length; part++) {
    if (!free(part)) continue
    const counts = new Map<string, number>()
    for (const [replica, row] of b.table.entries()) {
      if (part >= row.length || row[part] === NONE) continue
      const keys = keysOf(b.devices[row[part]]!)
      if (keys.some(key => (counts.get(key) ?? 0) + 1 > Math.ceil(tiers.get(key)!.share - 1e-9))) {
        take(part, replica)
        break
      }
      for (const key of keys) counts.set(key, (counts.get(key) ?? 0) + 1)
    }
  }
}

function gatherHeavy(
  b: Builder,
  wanted: Map<number, number>,
  free: (part: number) => boolean,
  take: (part: number, replica: number) => void,
  dice: () => number,
): void {
  const parts = b.table[0].length
  const start = Math.floor(dice() * parts)
  for (let i = 0; i < parts; i++) {
    const part = (start + i) % parts
    if (!free(part)) continue
    for (const [replica, row] of b.table.entries()) {
      if (part < row.length && row[part] !== NONE && wanted.get(row[part])! <= -1) {
        take(part, replica)
        break
      }
    }
  }
}

function shuffled<T>(list: T[], dice: () => number): T[] {
  const out = [...list]
  for (let i = out.length - 1; i > 0; i--) {
    const j = Math.floor(dice() * (i + 1))
    ;[out[i], out[j]] = [out[j], out[i]]
  }
  return out
}

function assign(b: Builder, root: Tier, wanted: Map<number, number>, open: [number, number][], dice: () => number): void {
  const hunger = new Map<Tier, number>()
  const fill = (tier: Tier): number => {
    const sum = tier.device ? wanted.get(tier.device.id)! : tier.children.reduce((a, child) => a + fill(child), 0)
    hunger.set(tier, sum)
    return sum
  }
  fill(root)
  const pathTo = (tier: Tier, counts: Map<string, number>): Tier[] => {
    if (tier.device) return [tier]
    const score = (child: Tier): [number, number] => {
      const count = counts.get(child.key) ?? 0
      const rank = count < Math.floor(child.share + 1e-9) ? 0 : count < Math.ceil(child.share - 1e-9) ? 1 : 2 + count
      // within the share, a tier with nothing left to take comes after one that still wants some
      return [rank < 2 && hunger.get(child)! <= 0 ? 1.5 : rank, -hunger.get(child)! / Math.max(child.share, 1e-9) - dice() * 1e-6]
    }
    const usable = tier.children.filter(child => child.size > (counts.get(child.key) ?? 0))
    const [best] = usable
      .map(child => ({ child, score: score(child) }))
      .sort((x, y) => x.score[0] - y.score[0] || x.score[1] - y.score[1])
    return [tier, ...pathTo(best.child, counts)]
  }
  for (const [part, replica] of open) {
    const counts = new Map<string, number>()
    for (const row of b.table) {
      if (part >= row.length || row[part] === NONE) continue
      for (const key of keysOf(b.devices[row[part]]!)) counts.set(key, (counts.get(key) ?? 0) + 1)
    }
    const path = pathTo(root, counts)
    for (const tier of path) hunger.set(tier, hunger.get(tier)! - 1)
    b.table[replica][part] = path.at(-1)!.device!.id
  }
}

/** How far the worst device is from what its weight asks for, in percent. */
export function balanceOf(b: Builder): number {
  const total = b.devices.reduce((sum, device) => sum + (device?.weight ?? 0), 0)
  const slots = b.table.reduce((sum, row) => sum + row.length, 0)
  const counts = new Map<number, number>()
  for (const row of b.table) for (const id of row) counts.set(id, (counts.get(id) ?? 0) + 1)
  let worst = 0
  for (const device of b.devices) {
    if (!device) continue
    const share = (slots * device.weight) / total
    const has = counts.get(device.id) ?? 0
    worst = Math.max(worst, share > 0 ? Math.abs((100 * has) / share - 100) : has > 0 ? 999.99 : 0)
  }
  return worst
}

/** The share of replicas that sit where their tier has too many of the partition, in percent. */
export function dispersionOf(b: Builder): number {
  const { tiers } = plan(b)
  let crowded = 0
  for (let part = 0; part < b.table[0].length; part++) {
    const counts = new Map<string, number>()
    for (const row of b.table)
      if (part < row.length) for (const key of keysOf(b.devices[row[part]]!)) counts.set(key, (counts.get(key) ?? 0) + 1)
    let worst = 0
    for (const [key, count] of counts) worst = Math.max(worst, count - Math.ceil((tiers.get(key)?.share ?? 0) - 1e-9))
    crowded += worst
  }
  return (100 * crowded) / (b.table[0].length * b.replicas)
}

/** The ring to give out. */
export const ringOf = (b: Builder): Ring => ({
  partShift: 32 - b.power,
  devices: b.devices,
  table: b.table,
  version: b.version,
  nextPartPower: b.nextPartPower,
})

/** A builder for a ring whose builder is lost. */
export function builderOf(ring: Ring, minPartHours: number): Builder {
  const parts = 2 ** (32 - ring.partShift)
  const replicas = ring.table.reduce((sum, row) => sum + row.length, 0) / parts
  return {
    power: 32 - ring.partShift,
    replicas,
    minPartHours,
    overload: 0,
    devices: ring.devices,
    table: ring.table,
    moved: Array.from({ length: parts }, () => 0),
    version: ring.version,
    nextPartPower: ring.nextPartPower,
    removed: [],
  }
}

/** Doubles the partitions: 1 announces it (the relinker makes links), 2 does it, 3 ends it. Each needs its own ring to be given out. */
export function increasePower(b: Builder, step: 1 | 2 | 3): void {
  if (step === 1) {
    if (b.nextPartPower !== null) throw new Error('an increase of the part power is under way')
    b.nextPartPower = b.power + 1
  } else if (step === 2) {
    if (b.nextPartPower !== b.power + 1) throw new Error('the increase of the part power was not prepared')
    b.table = b.table.map(row => Uint32Array.from({ length: row.length * 2 }, (_, i) => row[i >> 1]))
    b.moved = b.moved.flatMap(hour => [hour, hour])
    b.power += 1
  } else {
    if (b.nextPartPower !== b.power) throw new Error('the part power was not increased')
    b.nextPartPower = null
  }
  b.version += 1
}

/** Takes back an announced growth: the relinker removes its links, then `increasePower(b, 3)` ends it. */
export function cancelPower(b: Builder): void {
  if (b.nextPartPower !== b.power + 1) throw new Error('there is no announced increase of the part power')
  b.nextPartPower = b.power
  b.version += 1
}

/** What is wrong with the assignments: a sentence each. */
export function validate(b: Builder): string[] {
  if (b.table.length === 0) return ['nothing is assigned yet: rebalance first']
  const problems: string[] = []
  for (let part = 0; part < b.table[0].length; part++) {
    const ids = b.table.flatMap(row => (part < row.length ? [row[part]] : []))
    const gone = ids.find(id => !b.devices[id])
    if (gone !== undefined) problems.push(`partition ${part} is assigned to device ${gone}, which is not there`)
    if (new Set(ids).size < ids.length) problems.push(`partition ${part} has two replicas on one device`)
  }
  return problems
}

/** One ring of several, each of which gives its own replicas (composite rings): devices are numbered anew. */
export function composite(rings: Ring[]): Ring {
  const [first] = rings
  if (rings.some(ring => ring.partShift !== first.partShift)) throw new Error('the rings have different part powers')
  const devices: (Device | null)[] = []
  const table: Uint32Array[] = []
  const regions = new Set<number>()
  for (const ring of rings) {
    const own = new Set(ring.devices.filter(device => device !== null).map(device => device.region))
    if ([...own].some(region => regions.has(region))) throw new Error('two rings share a region')
    for (const region of own) regions.add(region)
    const offset = devices.length
    devices.push(...ring.devices.map(device => device && { ...device, id: device.id + offset }))
    table.push(...ring.table.map(row => row.map(id => id + offset)))
  }
  return {
    partShift: first.partShift,
    devices,
    table,
    version: Math.max(...rings.map(ring => ring.version)),
    nextPartPower: null,
  }
}
