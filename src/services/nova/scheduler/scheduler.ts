/**
 * Chooses the host of a server, inside the transaction that claims it there. Placement says which hosts have room; filters say which of
 * those will do; weighers put them in order; the first that can still be claimed is it.
 *
 * Hosts are looked at in helpings: a few drawn at random, more of them only if none of those will do. So with a thousand hosts that are
 * alike a choice costs what it costs with a handful, and choices made at the same time seldom meet on one host.
 */
import type { Static } from 'typebox'
import { type Query, sql, type Tx } from '#kit/db/index.ts'
import { conflict, Fault } from '#kit/fault.ts'
import type { Env } from '#kit/service.ts'
import { type Aggregate, aggregates, type Hypervisor, hostsReturning, zonesOf } from '../hosts/store.ts'
import { type Candidate, neighbours, type Owner } from '../neighbours.ts'
import { novaSettings } from '../settings.ts'
import { FILTERS } from './filters.ts'
import type { HostState, Placed, ScheduleRequest } from './request.ts'

export type FilterSettings = Static<typeof novaSettings.schema>

/** Hosts of each helping; the last is all of them. */
const HELPINGS = [8, 128, 100_000]

/** Why a host was refused. */
interface Refusal {
  host: string
  filter: string
  why: string
}

/** No host will do. `refusals` goes into the log and, for administrators, into the fault's details. */
export class NoValidHost extends Fault {
  readonly refusals: readonly Refusal[]
  constructor(refusals: readonly Refusal[]) {
    super('conflict', sentence(refusals), { type: 'NoValidHost' })
    this.refusals = refusals
  }
}

function sentence(refusals: readonly Refusal[]): string {
  if (refusals.length === 0) return 'No valid host was found. There are not enough hosts available: none has room for it.'
  const shown = refusals.slice(0, 50).map(({ host, filter, why }) => `${host}: ${why} (${filter})`)
  const more = refusals.length > shown.length ? `; and ${refusals.length - shown.length} more` : ''
  return `No valid host was found. There are not enough hosts available. ${shown.join('; ')}${more}`
}

/** Chooses a host and claims the resources there for the server. Throws NoValidHost. */
export async function schedule(tx: Tx, env: Env, owner: Owner, request: ScheduleRequest): Promise<Placed> {
  const settings = env.config.of(novaSettings)
  const demands = demandsOf(request)
  const [groups, first] = await Promise.all([aggregates(tx), neighbours.candidates(tx, demands, HELPINGS[0]!)])
  const tried = new Set<string>()
  const refusals: Refusal[] = []
  for (const limit of HELPINGS) {
    const found = limit === HELPINGS[0] ? first : await neighbours.candidates(tx, demands, limit)
    const fresh = found.filter(candidate => !tried.has(candidate.id))
    for (const { id } of fresh) tried.add(id)
    const states = await hostStates(tx, env, fresh, groups)
    const fit = states.filter(state => accepts(state, request, settings, refusals))
    const asks = request.portRequests.length > 0
    const ids = fit.map(state => state.id)
    const below = asks ? await neighbours.below(tx, ids, request.portRequests) : undefined
    for (const state of weighed(fit, request, settings)) {
      if (below && !below.has(state.id)) {
        refusals.push({ host: state.host, filter: 'ports', why: 'its physical networks have not left what the ports ask' })
        continue
      }
      try {
        await neighbours.claim(tx, owner, { [state.id]: request.resources }, { below: below?.get(state.id) })
        return { host: state.host, node: state.node, zone: state.zone }
      } catch (error) {
        if (!(error instanceof Fault) || error.kind !== 'conflict') throw error
        refusals.push({ host: state.host, filter: 'claim', why: error.message })
      }
    }
    if (found.length < limit) break
  }
  throw new NoValidHost(refusals)
}

/** What Placement must know: resources, and traits out of the flavor and the image. */
function demandsOf({ resources, flavor, image }: ScheduleRequest) {
  const required: string[] = []
  const forbidden: string[] = []
  for (const specs of [flavor.extra_specs, image?.properties ?? {}]) {
    for (const [name, value] of Object.entries(specs)) {
      const trait = /^trait:(\w+)$/.exec(name)?.[1]
      if (trait) (value === 'forbidden' ? forbidden : required).push(trait)
    }
  }
  return { resources, required, forbidden }
}

interface HostRow {
  id: string
  /** The transaction that wrote the hypervisor's row: another one where it says something else. */
  version: string
  forced_down: boolean
  disabled: boolean
  disabled_reason: string | null
  servers: number
  busy: number
}

type Versioned = Map<string, { version: string; hypervisor: Hypervisor }>

/** What hosts said of themselves, which is long and seldom changes: kept as long as the row is the same. */
const kept = new WeakMap<object, Versioned>()

/** The hypervisors of these rows by id, read where they have changed since they were kept. */
async function hypervisorsOf(db: Query, env: Env, rows: readonly HostRow[]): Promise<Versioned> {
  const known: Versioned = kept.get(env.hosts) ?? new Map()
  kept.set(env.hosts, known)
  const stale = rows.filter(row => known.get(row.id)?.version !== row.version)
  if (stale.length === 0) return known
  const fresh = await db
    .selectFrom('nova.hypervisors')
    .selectAll()
    .select(sql<string>`xmin::text`.as('version'))
    .where(
      'id',
      'in',
      stale.map(row => row.id),
    )
    .execute()
  for (const { version, ...hypervisor } of fresh) known.set(hypervisor.id, { version, hypervisor: hypervisor as Hypervisor })
  return known
}

async function hostStates(db: Query, env: Env, candidates: Candidate[], groups: Aggregate[]): Promise<HostState[]> {
  if (candidates.length === 0) return []
  const { rows } = await sql<HostRow>`
    select h.id, h.xmin::text as version, coalesce(s.forced_down, true) as forced_down, coalesce(s.disabled, true) as disabled,
      s.disabled_reason, coalesce(n.servers, 0)::int as servers, coalesce(n.busy, 0)::int as busy
    from nova.hypervisors h
    left join nova.services s on s.host = h.host and s.program = 'nova-compute'
    left join lateral (
      select count(*) as servers, count(*) filter (where vm_state = 'building' or task_state is not null) as busy
      from nova.servers v where v.host = h.host) n on true
    where h.id = any(${candidates.map(c => c.id)})`.execute(db)
  const free = new Map(candidates.map(c => [c.id, c.free]))
  const zones = zonesOf(groups)
  const known = await hypervisorsOf(db, env, rows)
  // One that was deleted between the two reads is no candidate any more.
  const found = rows.flatMap(row => (known.get(row.id) ? [{ row, hypervisor: known.get(row.id)!.hypervisor }] : []))
  const returning = await hostsReturning(
    db,
    env.hosts,
    found.map(one => one.hypervisor),
  )
  return found.map(({ row, hypervisor }) => ({
    id: row.id,
    host: hypervisor.host,
    node: hypervisor.hypervisor_hostname,
    zone: zones.get(hypervisor.host) ?? env.config.of(novaSettings).default_availability_zone,
    up: !row.forced_down && (env.hosts.isConnected(hypervisor.host) || returning.has(hypervisor.host)),
    disabled: row.disabled,
    disabledReason: row.disabled_reason,
    hypervisor,
    aggregates: groups.filter(g => g.hosts.includes(hypervisor.host)),
    free: free.get(row.id)!,
    servers: row.servers,
    busy: row.busy,
  }))
}

function accepts(state: HostState, request: ScheduleRequest, settings: FilterSettings, refusals: Refusal[]): boolean {
  const refuse = (filter: string, why: string): false => {
    refusals.push({ host: state.host, filter, why })
    return false
  }
  if (request.excluded.includes(state.host)) return refuse('RetryFilter', 'it was tried before')
  const { forcedHost, forcedNode, requestedHost, requestedNode } = request
  const host = forcedHost ?? requestedHost
  const node = forcedNode ?? requestedNode
  if (host !== null && host !== state.host) return refuse('requested host', `${host} is asked for`)
  if (node !== null && node !== state.node) return refuse('requested hypervisor', `${node} is asked for`)
  if (forcedHost !== null || forcedNode !== null) return true
  if (request.zone !== null && request.zone !== state.zone) {
    return refuse('AvailabilityZone', `it is in zone ${state.zone}, not ${request.zone}`)
  }
  for (const name of settings.enabled_filters) {
    const why = FILTERS[name]?.(state, request, settings)
    if (why) return refuse(name, why)
  }
  return true
}

type Weigher = (state: HostState, request: ScheduleRequest) => number

/** By upstream's defaults all have multiplier 1, and the more the better, but for busy hosts. */
const WEIGHERS: Weigher[] = [
  state => state.free.MEMORY_MB,
  state => state.free.VCPU,
  state => state.free.DISK_GB,
  state => -state.busy,
  (state, { group }) => (group?.policy === 'soft-affinity' ? group.hosts.filter(h => h === state.host).length : 0),
  (state, { group }) => (group?.policy === 'soft-anti-affinity' ? -group.hosts.filter(h => h === state.host).length : 0),
]

/** The hosts, best first. Each weigher counts from 0 (its worst host) to 1 (its best). Equal ones stand in random order. */
function weighed(states: HostState[], request: ScheduleRequest, settings: FilterSettings): HostState[] {
  if (states.length < 2) return states
  const total = new Map<HostState, number>(states.map(state => [state, 0]))
  for (const weigher of WEIGHERS) {
    const raw = states.map(state => weigher(state, request))
    const low = Math.min(...raw)
    const span = Math.max(...raw) - low
    if (span > 0) states.forEach((state, i) => void total.set(state, total.get(state)! + (raw[i]! - low) / span))
  }
  const order = new Map(states.map(state => [state, Math.random()]))
  const sorted = [...states].sort((a, b) => total.get(b)! - total.get(a)! || order.get(a)! - order.get(b)!)
  const subset = Math.min(settings.host_subset_size, sorted.length)
  const chosen = sorted.splice(Math.floor(Math.random() * subset), 1)
  return [...chosen, ...sorted]
}

/** Refuses a host or hypervisor that does not exist. */
export async function hostMustExist(db: Query, host: string | null, node: string | null): Promise<void> {
  if (host === null && node === null) return
  let query = db.selectFrom('nova.hypervisors').select('host')
  if (host !== null) query = query.where('host', '=', host)
  if (node !== null) query = query.where('hypervisor_hostname', '=', node)
  if (!(await query.executeTakeFirst())) throw conflict(`Compute host ${host ?? node} could not be found.`, { status: 400 })
}
