import type { Query } from '#kit/db/index.ts'
import { badRequest } from '#kit/fault.ts'
import { route } from '#kit/http/route.ts'
import { dated } from '../edge.ts'
import { classesMissing, traitsMissing } from '../providers/store.ts'
import { placementSettings } from '../settings.ts'
import { V } from '../versions.ts'
import { type Forest, forestLoad, type Node } from './load.ts'
import { type Request, requestOf } from './request.ts'
import { type Candidate, search } from './search.ts'

/** Throws badRequest for classes and traits that do not exist. */
async function refuseUnknown(q: Query, { groups, rootTraits }: Request): Promise<void> {
  const [unknown] = await classesMissing(
    q,
    groups.flatMap(g => Object.keys(g.resources)),
  )
  if (unknown !== undefined) throw badRequest(`Invalid resource class in resources parameter: No such resource class ${unknown}.`)
  const traits = [
    ...groups.flatMap(g => [...g.traits.required.flat(), ...g.traits.forbidden]),
    ...(rootTraits?.required ?? []),
    ...(rootTraits?.forbidden ?? []),
  ]
  const missing = await traitsMissing(q, traits)
  if (missing.length > 0) throw badRequest(`No such trait(s): ${missing.join(', ')}.`)
}

function requestView({ allocations, mappings }: Candidate, version: number): unknown {
  const entries = [...allocations].map(([id, amounts]) => [id, Object.fromEntries(amounts)] as const)
  if (version < V.allocationDict) {
    return { allocations: entries.map(([uuid, resources]) => ({ resource_provider: { uuid }, resources })) }
  }
  return {
    allocations: Object.fromEntries(entries.map(([id, resources]) => [id, { resources }])),
    ...(version >= V.mappings && { mappings: Object.fromEntries(mappings) }),
  }
}

function summaryView(node: Node, asked: ReadonlySet<string>, version: number): unknown {
  const rooms = [...node.rooms].filter(([name]) => version >= V.allClasses || asked.has(name))
  return {
    resources: Object.fromEntries(rooms.map(([name, { capacity, used }]) => [name, { capacity, used }])),
    ...(version >= V.required && { traits: [...node.traits] }),
    ...(version >= V.nestedCandidates && { parent_provider_uuid: node.parent, root_provider_uuid: node.root }),
  }
}

/** Providers that candidates tell of: all of the trees that are used; before nesting was known, those used. */
function summarized(forest: Forest, candidates: readonly Candidate[], version: number): Node[] {
  const used = new Set(candidates.flatMap(c => [...c.allocations.keys()]))
  if (version < V.nestedCandidates) return [...used].map(id => forest.get(id)!)
  const roots = new Set([...used].map(id => forest.get(id)!.root))
  return [...forest.values()].filter(node => roots.has(node.root))
}

function shuffled<T>(items: readonly T[]): T[] {
  const all = [...items]
  for (let i = all.length - 1; i > 0; i--) {
    const j = Math.floor(Math.random() * (i + 1))
    ;[all[i], all[j]] = [all[j]!, all[i]!]
  }
  return all
}

export const candidatesRoute = route({
  method: 'GET',
  path: '/allocation_candidates',
  since: V.candidates,
  policy: 'placement:allocation_candidates:list',
  async handle(call) {
    const { db, env, version } = call
    const request = requestOf(call.search, version)
    await refuseUnknown(db, request)
    const settings = env.config.of(placementSettings)
    const forest = await forestLoad(db, request)
    const found = search(request, forest, {
      nested: version >= V.nestedCandidates,
      most: settings.max_allocation_candidates,
      breadthFirst: settings.allocation_candidates_generation_strategy === 'breadth-first',
    })
    const ordered = settings.randomize_allocation_candidates ? shuffled(found) : found
    const candidates = ordered.slice(0, request.limit)
    const asked = new Set(request.groups.flatMap(g => Object.keys(g.resources)))
    dated(call)
    return {
      allocation_requests: candidates.map(c => requestView(c, version)),
      provider_summaries: Object.fromEntries(
        summarized(forest, candidates, version).map(node => [node.id, summaryView(node, asked, version)]),
      ),
    }
  },
})
