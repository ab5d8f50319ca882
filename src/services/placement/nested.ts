/** Providers below a host's, for what is asked of one part of it: of a physical network, say. */
import { type Query, sql, type Tx } from '#kit/db/index.ts'
import { allocationsReplace, type Resources } from './allocations/store.ts'

/** All of it comes from one provider that has these traits. */
export interface NestedRequest {
  id: string
  required: readonly string[]
  resources: Resources
}

interface Nested {
  id: string
  root: string
  traits: string[]
  /** Class → what is left, and what may be asked for at once. */
  inventories: Record<string, { left: number; min: number; max: number; step: number }>
}

async function nestedOf(q: Query, roots: readonly string[]): Promise<Nested[]> {
  const { rows } = await sql<Nested>`
    select p.id, p.root_id as root, array(select t.trait from placement.provider_traits t where t.provider_id = p.id) as traits,
      coalesce((select jsonb_object_agg(i.class, jsonb_build_object('min', i.min_unit, 'max', i.max_unit, 'step', i.step_size,
        'left', trunc((i.total - i.reserved) * i.allocation_ratio) - coalesce((select sum(a.used) from placement.allocations a
          where a.provider_id = i.provider_id and a.class = i.class), 0)))
        from placement.inventories i where i.provider_id = p.id), '{}') as inventories
    from placement.providers p where p.root_id = any(${[...roots]}) and p.id <> p.root_id order by p.id`.execute(q)
  return rows
}

const offers = (provider: Nested, { required, resources }: NestedRequest): boolean =>
  required.every(trait => provider.traits.includes(trait)) && Object.keys(resources).every(name => provider.inventories[name])

const hasLeft = (provider: Nested, { resources }: NestedRequest): boolean =>
  Object.entries(resources).every(([name, amount]) => {
    const { left, min, max, step } = provider.inventories[name]!
    return amount <= left && amount >= min && amount <= max && amount % step === 0
  })

/** What providers below a root have in all: by id, class → total. Those that have nothing are left out. */
export async function nestedTotals(q: Query, root: string): Promise<Map<string, { name: string; totals: Resources }>> {
  const { rows } = await sql<{ id: string; name: string; totals: Resources }>`
    select p.id, p.name, jsonb_object_agg(i.class, i.total) as totals
    from placement.providers p join placement.inventories i on i.provider_id = p.id
    where p.root_id = ${root} and p.id <> p.root_id group by p.id, p.name`.execute(q)
  return new Map(rows.map(({ id, ...row }) => [id, row]))
}

/** What is to be taken of providers below each of these for all requests together; those that have not enough left are left out. */
export async function nestedFit(
  q: Query,
  roots: readonly string[],
  requests: readonly NestedRequest[],
): Promise<Map<string, Record<string, Resources>>> {
  const found = new Map<string, Record<string, Resources>>()
  const below = Map.groupBy(await nestedOf(q, roots), provider => provider.root)
  for (const root of roots) {
    const wants: Record<string, Resources> = {}
    const fits = requests.every(request => {
      const provider = (below.get(root) ?? []).find(one => offers(one, request) && hasLeft(one, request))
      if (!provider) return false
      const at = (wants[provider.id] ??= {})
      for (const [name, amount] of Object.entries(request.resources)) {
        provider.inventories[name]!.left -= amount
        at[name] = (at[name] ?? 0) + amount
      }
      return true
    })
    if (fits) found.set(root, wants)
  }
  return found
}

/** The provider below a root from which each request of a consumer is served: request → provider. */
export async function nestedServing(
  q: Query,
  root: string,
  consumer: string,
  requests: readonly NestedRequest[],
): Promise<Record<string, string>> {
  const [below, { rows }] = await Promise.all([
    nestedOf(q, [root]),
    sql<{ id: string }>`select distinct provider_id as id from placement.allocations where consumer_id = ${consumer}`.execute(q),
  ])
  const takenOf = new Set(rows.map(row => row.id))
  return Object.fromEntries(
    requests.flatMap(request => {
      const able = below.filter(provider => offers(provider, request))
      const provider = able.find(({ id }) => takenOf.has(id)) ?? able[0]
      return provider ? [[request.id, provider.id]] : []
    }),
  )
}

/**
 * Changes what a consumer has by these differences, which may be negative; providers' classes of which nothing is left go. Does nothing for a
 * consumer that is not there. Throws conflict where a provider has not enough.
 */
export async function allocationsAdjust(tx: Tx, consumerId: string, by: Record<string, Resources>): Promise<void> {
  const consumer = await tx
    .selectFrom('placement.consumers')
    .select(['project_id', 'user_id', 'type'])
    .where('id', '=', consumerId)
    .forUpdate()
    .executeTakeFirst()
  if (!consumer) return
  const rows = await tx
    .selectFrom('placement.allocations')
    .select(['provider_id', 'class', 'used'])
    .where('consumer_id', '=', consumerId)
    .execute()
  const wants: Record<string, Resources> = {}
  const add = (provider: string, name: string, amount: number): void => {
    const at = (wants[provider] ??= {})
    at[name] = (at[name] ?? 0) + amount
  }
  for (const row of rows) add(row.provider_id, row.class, row.used)
  for (const [provider, resources] of Object.entries(by)) for (const name in resources) add(provider, name, resources[name]!)
  for (const [provider, resources] of Object.entries(wants)) {
    for (const name in resources) if (resources[name]! <= 0) delete resources[name]
    if (Object.keys(resources).length === 0) delete wants[provider]
  }
  const { project_id: projectId, user_id: userId, type } = consumer
  await allocationsReplace(tx, [{ consumerId, consumer: { projectId, userId, type }, wants }])
}
