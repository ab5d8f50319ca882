/**
 * What is asked of allocation candidates: groups of resources, each with traits, aggregates and a tree; and what holds for all of them. The group without
 * a suffix may be spread over a tree and its sharing providers; each other group is satisfied by one provider.
 */
import { badRequest } from '#kit/fault.ts'
import * as S from '#kit/http/schema.ts'
import {
  type AggregatesWanted,
  aggregatesWanted,
  CODE,
  queryCheck,
  resourcesOf,
  type TraitsWanted,
  traitsWanted,
  UUID,
  uuidOf,
} from '../edge.ts'
import { V } from '../versions.ts'

export interface Group {
  suffix: string
  resources: Record<string, number>
  traits: TraitsWanted
  aggregates: AggregatesWanted
  /** Id of a provider of the tree. */
  inTree?: string
}

export interface Request {
  groups: Group[]
  limit?: number
  isolate: boolean
  rootTraits?: { required: string[]; forbidden: string[] }
  /** Suffixes of groups whose providers are below one of them. */
  sameSubtrees: string[][]
}

const NUMBERED = '[1-9][0-9]*'
const NAMED = '[a-zA-Z0-9_-]{1,64}'
const KINDS = ['resources', 'required', 'member_of', 'in_tree']
const text = { type: 'string' }
const grouped = (pattern: string, kinds: string[]) => Object.fromEntries(kinds.map(kind => [`^${kind}(${pattern})?$`, text]))

const limit = { type: 'string', pattern: '^[1-9][0-9]*$', minLength: 1 }
const policy = { type: 'string', enum: ['none', 'isolate'] }
const closed = { type: 'object', additionalProperties: false }

/** The query's shape from each version on. */
const SHAPES: [number, object][] = [
  [V.candidates, { ...closed, properties: { resources: text }, required: ['resources'] }],
  [V.limit, { ...closed, properties: { resources: text, limit }, required: ['resources'] }],
  [V.required, { ...closed, properties: { resources: text, limit, required: text }, required: ['resources'] }],
  [
    V.candidatesMemberOf,
    { ...closed, properties: { resources: text, limit, required: text, member_of: text }, required: ['resources'] },
  ],
  [V.groups, { ...closed, properties: { limit, group_policy: policy }, patternProperties: grouped(NUMBERED, KINDS.slice(0, 3)) }],
  [V.inTree, { ...closed, properties: { limit, group_policy: policy }, patternProperties: grouped(NUMBERED, KINDS) }],
  [V.namedGroups, { ...closed, properties: { limit, group_policy: policy }, patternProperties: grouped(NAMED, KINDS) }],
  [
    V.rootRequired,
    { ...closed, properties: { limit, group_policy: policy, root_required: text }, patternProperties: grouped(NAMED, KINDS) },
  ],
  [
    V.sameSubtree,
    {
      ...closed,
      properties: { limit, group_policy: policy, root_required: text, same_subtree: text },
      patternProperties: grouped(NAMED, KINDS),
    },
  ],
]
const checks = SHAPES.map(([from, shape]) => [from, queryCheck(S.Unsafe(shape))] as const)

/** Reads a query. Throws badRequest for what cannot be asked, at all or in this version. */
export function requestOf(search: URLSearchParams, version: number): Request {
  const check = checks.filter(([from]) => from <= version).at(-1)![1]
  const query = check(search, version)
  const groups = groupsOf(search, version)
  const sameSubtrees = version < V.sameSubtree ? [] : subtreesOf(search)
  refuseOrphans(groups, sameSubtrees, version)
  if (version >= V.forbidden) refuseContradictions(groups)
  if (query.group_policy === undefined && groups.filter(g => g.suffix !== '').length > 1) {
    throw badRequest('The "group_policy" parameter is required when specifying more than one "resources{N}" parameter.')
  }
  return {
    groups,
    limit: query.limit === undefined ? undefined : Number(search.get('limit')),
    isolate: search.get('group_policy') === 'isolate',
    rootTraits: rootOf(search, version),
    sameSubtrees,
  }
}

function groupsOf(search: URLSearchParams, version: number): Group[] {
  const pattern = new RegExp(`^(${KINDS.join('|')})(${version < V.namedGroups ? NUMBERED : NAMED})?$`)
  const groups = new Map<string, Group>()
  for (const [key, value] of search) {
    const match = pattern.exec(key)
    if (!match) continue
    const [, kind, suffix = ''] = match
    const group = groups.get(suffix) ?? {
      suffix,
      resources: {},
      traits: { required: [], forbidden: [] },
      aggregates: { required: [], forbidden: [] },
    }
    groups.set(suffix, group)
    if (kind === 'resources') group.resources = resourcesOf(value)
    else if (kind === 'required') group.traits = traitsWanted(search.getAll(key), version)
    else if (kind === 'member_of') group.aggregates = aggregatesWanted(search.getAll(key), version, suffix)
    else if (!UUID.test(value.trim()))
      throw badRequest(`Invalid query string parameters: Expected 'in_tree' parameter to be a format of uuid. Got: ${value}`)
    else group.inTree = uuidOf(value.trim())
  }
  return [...groups.values()]
}

function subtreesOf(search: URLSearchParams): string[][] {
  return search.getAll('same_subtree').map(value => {
    const suffixes = [...new Set(value.split(',').map(s => s.trim()))]
    if (suffixes.includes('')) {
      throw badRequest('Empty string (unsuffixed group) can not be specified in `same_subtree` ', { code: CODE.badValue })
    }
    return suffixes
  })
}

const bare = (group: Group): boolean => Object.keys(group.resources).length === 0

function refuseOrphans(groups: Group[], sameSubtrees: string[][], version: number): void {
  if (version >= V.sameSubtree) {
    if (groups.every(bare)) {
      throw badRequest('There must be at least one resources or resources[$S] parameter.', { code: CODE.missingValue })
    }
    const named = new Set(sameSubtrees.flat())
    const alone = groups.filter(g => bare(g) && !named.has(g.suffix)).map(g => g.suffix)
    if (alone.length > 0) {
      throw badRequest(
        `Resourceless suffixed group request should be specified in \`same_subtree\` query param: bad group(s) - ${alone.join(', ')}.`,
        { code: CODE.badValue },
      )
    }
    const suffixes = groups.map(g => g.suffix)
    const unreal = [...named].filter(s => !suffixes.includes(s))
    if (unreal.length > 0) {
      throw badRequest(
        `Real suffixes should be specified in \`same_subtree\`: ${unreal.join(', ')} not found in ${suffixes.join(', ')}.`,
        { code: CODE.badValue },
      )
    }
    return
  }
  const traits = groups.filter(g => bare(g) && g.traits.required.length > 0).map(g => `required${g.suffix}`)
  if (traits.length > 0) {
    throw badRequest(
      `All traits parameters must be associated with resources.  Found the following orphaned traits keys: ${traits.join(', ')}`,
    )
  }
  const aggregates = groups
    .filter(g => bare(g) && g.aggregates.required.length + g.aggregates.forbidden.length > 0)
    .map(g => `member_of${g.suffix}`)
  if (aggregates.length > 0) {
    throw badRequest(
      `All member_of parameters must be associated with resources. Found the following orphaned member_of keys: ${aggregates.join(', ')}`,
    )
  }
  if (groups.length === 0) throw badRequest('At least one request group (`resources` or `resources{$S}`) is required.')
  if (groups.some(bare)) throw badRequest('All request groups must specify resources.')
}

function refuseContradictions(groups: Group[]): void {
  const wrong = groups.flatMap(({ suffix, traits }) =>
    traits.required
      .filter(any => any.every(t => traits.forbidden.includes(t)))
      .map(any => `required${suffix}: (${any.toSorted().join(', ')})`),
  )
  if (wrong.length > 0) {
    throw badRequest(`Conflicting required and forbidden traits found in the following traits keys: ${wrong.sort().join(', ')}`)
  }
}

function rootOf(search: URLSearchParams, version: number): Request['rootTraits'] {
  const values = version < V.rootRequired ? [] : search.getAll('root_required')
  if (values.length === 0) return undefined
  if (values.length > 1)
    throw badRequest("Query parameter 'root_required' may be specified only once.", { code: CODE.duplicateKey })
  const { required, forbidden } = traitsWanted(values, Math.min(version, V.anyTraits - 1))
  const all = required.flat()
  const both = all.filter(t => forbidden.includes(t))
  if (both.length > 0) {
    throw badRequest(`Conflicting required and forbidden traits found in root_required: ${both.join(', ')}`, {
      code: CODE.badValue,
    })
  }
  return { required: all, forbidden }
}
