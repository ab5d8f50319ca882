/**
 * Finds allocation candidates in a forest. Pure.
 *
 * Theory. An anchor is the root of a tree. Each group has, for each anchor, the ways in which it can be satisfied: for a group with a suffix one provider
 * of the tree (or one that shares with it) that has everything; for the group without, one provider for each class, of the tree or sharing with it. A
 * candidate is one way of each group, all of one anchor, that together keep the rules of the whole request and fit where two groups meet on one provider.
 */
import { type Forest, type Node, type Room, SHARES } from './load.ts'
import type { Group, Request } from './request.ts'

/** One way to satisfy one group. */
interface Way {
  suffix: string
  /** Class and amount at each provider. */
  uses: { node: Node; class: string; amount: number }[]
  /** Providers of the group: also of one that asks for no resources. */
  nodes: Node[]
}

export interface Candidate {
  /** Provider id → class → amount. */
  allocations: Map<string, Map<string, number>>
  /** Suffix → provider ids. */
  mappings: Map<string, string[]>
}

export interface SearchOptions {
  /** Providers of one tree may be used together: from 1.29 on. */
  nested: boolean
  /** So many at most are looked for. */
  most: number
  /** Anchors take turns, so that the first candidates are not all of one tree. */
  breadthFirst: boolean
}

const fits = (room: Room | undefined, amount: number): boolean =>
  room !== undefined &&
  amount >= room.min &&
  amount <= room.max &&
  amount % room.step === 0 &&
  room.used + amount <= room.capacity

const inAll = (node: Node, lists: readonly string[][]): boolean =>
  lists.every(any => any.some(aggregate => node.aggregates.has(aggregate)))
const inAny = (node: Node, aggregates: readonly string[]): boolean => aggregates.some(a => node.aggregates.has(a))

/** Roots of the trees that each sharing provider lends to, its own among them. */
function anchorsOf(forest: Forest): Map<string, Set<string>> {
  const byAggregate = new Map<string, Set<string>>()
  for (const node of forest.values()) {
    for (const aggregate of node.aggregates) {
      const roots = byAggregate.get(aggregate) ?? new Set()
      byAggregate.set(aggregate, roots.add(node.root))
    }
  }
  const anchors = new Map<string, Set<string>>()
  for (const node of forest.values()) {
    if (!node.traits.has(SHARES)) continue
    anchors.set(node.id, new Set([node.root, ...[...node.aggregates].flatMap(a => [...byAggregate.get(a)!])]))
  }
  return anchors
}

/** Ways of a group that one provider satisfies, by anchor. */
function waysOfOne(group: Group, forest: Forest, anchors: Map<string, Set<string>>): Map<string, Way[]> {
  const ways = new Map<string, Way[]>()
  const tree = group.inTree && forest.get(group.inTree)?.root
  for (const node of forest.values()) {
    if (group.inTree && node.root !== tree) continue
    if (!Object.entries(group.resources).every(([name, amount]) => fits(node.rooms.get(name), amount))) continue
    if (!group.traits.required.every(any => any.some(t => node.traits.has(t)))) continue
    if (group.traits.forbidden.some(t => node.traits.has(t))) continue
    if (!inAll(node, group.aggregates.required) || inAny(node, group.aggregates.forbidden)) continue
    const uses = Object.entries(group.resources).map(([name, amount]) => ({ node, class: name, amount }))
    const way: Way = { suffix: group.suffix, uses, nodes: [node] }
    for (const anchor of anchors.get(node.id) ?? [node.root]) ways.set(anchor, [...(ways.get(anchor) ?? []), way])
  }
  return ways
}

/** Ways of the group that may be spread, by anchor. */
function waysOfSpread(group: Group, forest: Forest, anchors: Map<string, Set<string>>): Map<string, Way[]> {
  const tree = group.inTree && forest.get(group.inTree)?.root
  const byAnchor = new Map<string, Map<string, Node[]>>()
  const { required, forbidden } = group.aggregates
  for (const [name, amount] of Object.entries(group.resources)) {
    for (const node of forest.values()) {
      if (!fits(node.rooms.get(name), amount)) continue
      if (group.inTree && node.root !== tree) continue
      const lends = !group.inTree && inAll(node, required)
      for (const anchor of (lends && anchors.get(node.id)) || [node.root]) {
        const root = forest.get(anchor)!
        // A tree is in the aggregates of its root.
        if (!inAll(node, required) && !inAll(root, required)) continue
        if (inAny(node, forbidden) || inAny(root, forbidden)) continue
        const classes = byAnchor.get(anchor) ?? new Map<string, Node[]>()
        byAnchor.set(anchor, classes)
        classes.set(name, [...(classes.get(name) ?? []), node])
      }
    }
  }
  const wanted = Object.entries(group.resources)
  const ways = new Map<string, Way[]>()
  for (const [anchor, classes] of byAnchor) {
    if (classes.size < wanted.length) continue
    const found: Way[] = []
    for (const nodes of product(wanted.map(([name]) => classes.get(name)!))) {
      if (nodes.some(n => group.traits.forbidden.some(t => n.traits.has(t)))) continue
      if (!group.traits.required.every(any => any.some(t => nodes.some(n => n.traits.has(t))))) continue
      const uses = wanted.map(([name, amount], i) => ({ node: nodes[i]!, class: name, amount }))
      found.push({ suffix: group.suffix, uses, nodes: [...new Set(nodes)] })
    }
    if (found.length > 0) ways.set(anchor, found)
  }
  return ways
}

/** Every choice of one item of each list; `keep` cuts a branch off early. */
function* product<T>(lists: readonly T[][], keep: (partial: T[]) => boolean = () => true, chosen: T[] = []): Generator<T[]> {
  if (chosen.length === lists.length) {
    yield chosen
    return
  }
  for (const item of lists[chosen.length]!) {
    const next = [...chosen, item]
    if (keep(next)) yield* product(lists, keep, next)
  }
}

/** Whether the ways together fit where they meet on one provider. */
function fitTogether(ways: Way[]): boolean {
  const sums = new Map<string, number>()
  for (const { uses } of ways) {
    for (const { node, class: name, amount } of uses) {
      const key = `${node.id} ${name}`
      const sum = (sums.get(key) ?? 0) + amount
      sums.set(key, sum)
      const room = node.rooms.get(name)!
      if (room.used + sum > room.capacity || sum > room.max) return false
    }
  }
  return true
}

const isolated = (ways: Way[]): boolean => {
  const ids = ways.filter(w => w.suffix !== '').flatMap(w => w.nodes.map(n => n.id))
  return new Set(ids).size === ids.length
}

function ancestors(node: Node, forest: Forest): Set<string> {
  const above = new Set<string>()
  for (let at: Node | undefined = node; at; at = at.parent === null ? undefined : forest.get(at.parent)) above.add(at.id)
  return above
}

/** Whether all providers of these groups are one of them or below it. */
function inOneSubtree(ways: Way[], suffixes: readonly string[], forest: Forest): boolean {
  const nodes = ways.filter(w => suffixes.includes(w.suffix)).flatMap(w => w.nodes)
  const lines = nodes.map(node => ancestors(node, forest))
  return nodes.some(top => lines.every(line => line.has(top.id)))
}

/** Before nesting was known, a candidate used at most one provider of each tree. */
const flat = (ways: Way[]): boolean => {
  const nodes = new Set(ways.flatMap(w => w.uses.map(u => u.node)))
  return new Set([...nodes].map(n => n.root)).size === nodes.size
}

/** All candidates, the same only once. */
export function search(request: Request, forest: Forest, options: SearchOptions): Candidate[] {
  const anchors = anchorsOf(forest)
  const perGroup = request.groups.map(group =>
    group.suffix === '' ? waysOfSpread(group, forest, anchors) : waysOfOne(group, forest, anchors),
  )
  const roots = [...(perGroup[0]?.keys() ?? [])].filter(anchor => {
    if (!perGroup.every(ways => ways.has(anchor))) return false
    const traits = forest.get(anchor)!.traits
    const { required, forbidden } = request.rootTraits ?? { required: [], forbidden: [] }
    return required.every(t => traits.has(t)) && !forbidden.some(t => traits.has(t))
  })
  const branches = roots.map(anchor =>
    product(
      perGroup.map(ways => ways.get(anchor)!),
      fitTogether,
    ),
  )
  const found = new Map<string, Candidate>()
  for (const ways of options.breadthFirst ? inTurn(branches) : oneByOne(branches)) {
    if (request.isolate && !isolated(ways)) continue
    if (!request.sameSubtrees.every(suffixes => inOneSubtree(ways, suffixes, forest))) continue
    if (!options.nested && !flat(ways)) continue
    const candidate = combined(ways)
    found.set(keyOf(candidate), candidate)
    if (found.size >= options.most) break
  }
  return [...found.values()]
}

function* oneByOne<T>(branches: Generator<T>[]): Generator<T> {
  for (const branch of branches) yield* branch
}

function* inTurn<T>(branches: Generator<T>[]): Generator<T> {
  let left = branches
  while (left.length > 0) {
    const going: Generator<T>[] = []
    for (const branch of left) {
      const { done, value } = branch.next()
      if (done) continue
      yield value
      going.push(branch)
    }
    left = going
  }
}

function combined(ways: Way[]): Candidate {
  const allocations: Candidate['allocations'] = new Map()
  const mappings: Candidate['mappings'] = new Map()
  for (const { suffix, uses, nodes } of ways) {
    for (const { node, class: name, amount } of uses) {
      const at = allocations.get(node.id) ?? new Map<string, number>()
      allocations.set(node.id, at)
      at.set(name, (at.get(name) ?? 0) + amount)
    }
    mappings.set(
      suffix,
      nodes.map(n => n.id),
    )
  }
  return { allocations, mappings }
}

const keyOf = ({ allocations, mappings }: Candidate): string =>
  JSON.stringify([
    [...allocations].map(([id, amounts]) => [id, [...amounts].sort()]).sort(),
    [...mappings].map(([suffix, ids]) => [suffix, ids.toSorted()]).sort(),
  ])
