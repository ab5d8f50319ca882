/**
 * Allocations: who uses how much of what. A claim locks the rows of its providers, in the order of their ids, so that two claims for the
 * last unit meet there and one of them is told that there is none left.
 */
import { type Query, sql, type Tx } from '#kit/db/index.ts'
import { conflict } from '#kit/fault.ts'

/** Amount of each resource class. */
export type Resources = Record<string, number>

/** Whose allocation it is. */
export interface Consumer {
  projectId: string
  userId: string
  /** `INSTANCE`, `MIGRATION`, …; null before types existed. */
  type?: string | null
}

interface Capacity {
  provider_id: string
  class: string
  total: number
  reserved: number
  min_unit: number
  max_unit: number
  step_size: number
  allocation_ratio: number
  used: number
}

/** Inventories of these providers with what others than `except` use of them. */
export async function capacityList(q: Query, providers: readonly string[], except: readonly string[] = []): Promise<Capacity[]> {
  const { rows } = await sql<Capacity>`
    select i.provider_id, i.class, i.total, i.reserved, i.min_unit, i.max_unit, i.step_size, i.allocation_ratio, coalesce(a.used, 0)::int as used
    from placement.inventories i
    left join (
      select provider_id, class, sum(used) as used from placement.allocations
      where provider_id = any(${providers}) and not consumer_id = any(${except}) group by provider_id, class
    ) a on a.provider_id = i.provider_id and a.class = i.class
    where i.provider_id = any(${providers})`.execute(q)
  return rows
}

/** Why this amount cannot be had; undefined when it can. */
export function refusal(inventory: Capacity | undefined, amount: number): string | undefined {
  if (!inventory) return 'it has no inventory of it'
  if (amount < inventory.min_unit) return `at least ${inventory.min_unit} must be asked for at once`
  if (amount > inventory.max_unit) return `at most ${inventory.max_unit} can be asked for at once`
  if (amount % inventory.step_size !== 0) return `the amount must be a multiple of ${inventory.step_size}`
  const capacity = Math.trunc((inventory.total - inventory.reserved) * inventory.allocation_ratio)
  if (inventory.used + amount > capacity) return `its capacity of ${capacity} has ${Math.max(0, capacity - inventory.used)} left`
  return undefined
}

/** Locks providers' rows in one order everywhere. Returns the ids that exist. */
export async function providersLock(tx: Tx, ids: readonly string[]): Promise<string[]> {
  const rows = await tx
    .selectFrom('placement.providers')
    .select('id')
    .where('id', 'in', [...ids])
    .orderBy('id')
    .forUpdate()
    .execute()
  return rows.map(row => row.id)
}

/** A change of one consumer's allocations: all of them are replaced by these. None: the consumer goes. */
export interface Change {
  consumerId: string
  consumer: Consumer
  /** Provider id → amounts. */
  wants: Record<string, Resources>
}

/**
 * Replaces allocations of consumers, all or none. The caller has checked consumers' generations. Throws conflict naming provider and class when
 * capacity does not suffice, and when a provider does not exist.
 */
export async function allocationsReplace(tx: Tx, changes: readonly Change[]): Promise<void> {
  const consumers = changes.map(c => c.consumerId)
  const wanted = [...new Set(changes.flatMap(c => Object.keys(c.wants)))]
  // Sent together: what is used is read when the providers are locked.
  const [there, capacities] = await Promise.all([providersOf(tx, wanted, consumers), capacityList(tx, wanted, consumers)])
  const missing = wanted.find(id => !there.some(provider => provider.id === id))
  if (missing) throw conflict(`Allocation for resource provider '${missing}' that does not exist.`)
  refuseOverCapacity(changes, capacities)
  const before = there.some(provider => provider.had)
    ? await tx
        .deleteFrom('placement.allocations')
        .where('consumer_id', 'in', consumers)
        .returning(['consumer_id', 'provider_id'])
        .execute()
    : []
  // As Placement counts: a provider that a consumer leaves for another is not changed by that; one that it leaves for nothing is.
  const going = changes.filter(c => Object.keys(c.wants).length === 0).map(c => c.consumerId)
  const left = before.filter(row => going.includes(row.consumer_id)).map(row => row.provider_id)
  if (going.length > 0) await tx.deleteFrom('placement.consumers').where('id', 'in', going).execute()
  await allocationsWrite(
    tx,
    changes.filter(c => !going.includes(c.consumerId)),
    [...new Set([...wanted, ...left])],
  )
}

/** Locks the providers that consumers have something of or are to have, as {@link providersLock} does; which of them have it now. */
async function providersOf(tx: Tx, wanted: string[], consumers: string[]): Promise<{ id: string; had: boolean }[]> {
  const { rows } = await sql<{ id: string; had: boolean }>`
    select p.id, p.id in (select a.provider_id from placement.allocations a where a.consumer_id = any(${consumers})) as had
    from placement.providers p
    where p.id = any(array(select unnest(${wanted}::text[]) union
      select a.provider_id from placement.allocations a where a.consumer_id = any(${consumers})))
    order by p.id for update of p`.execute(tx)
  return rows
}

/** Consumers, what they have now, and that these providers have changed. */
async function allocationsWrite(tx: Tx, changes: readonly Change[], changed: string[]): Promise<void> {
  const of = <T>(value: (change: Change) => T): T[] => changes.map(value)
  const amounts = changes.flatMap(({ consumerId, wants }) =>
    Object.entries(wants).flatMap(([provider, resources]) =>
      Object.entries(resources).map(([name, used]) => ({ consumerId, provider, name, used })),
    ),
  )
  await sql`
    with consumers as (
      insert into placement.consumers (id, project_id, user_id, type, generation)
      select c.id, c.project_id, c.user_id, c.type, 1 from unnest(${of(c => c.consumerId)}::text[], ${of(c => c.consumer.projectId)}::text[],
        ${of(c => c.consumer.userId)}::text[], ${of(c => c.consumer.type ?? null)}::text[]) c (id, project_id, user_id, type)
      on conflict (id) do update set project_id = excluded.project_id, user_id = excluded.user_id,
        type = coalesce(excluded.type, consumers.type), generation = consumers.generation + 1, updated_at = now()),
    changed as (update placement.providers set generation = generation + 1, updated_at = now() where id = any(${changed}))
    insert into placement.allocations (consumer_id, provider_id, class, used)
    select * from unnest(${amounts.map(a => a.consumerId)}::text[], ${amounts.map(a => a.provider)}::text[],
      ${amounts.map(a => a.name)}::text[], ${amounts.map(a => a.used)}::int[])`.execute(tx)
}

function refuseOverCapacity(changes: readonly Change[], capacities: readonly Capacity[]): void {
  const inventories = new Map(capacities.map(row => [`${row.provider_id} ${row.class}`, row]))
  for (const { wants } of changes) {
    for (const [provider, resources] of Object.entries(wants)) {
      for (const [name, amount] of Object.entries(resources)) {
        const inventory = inventories.get(`${provider} ${name}`)
        const why = refusal(inventory, amount)
        if (why) {
          throw conflict(`Unable to allocate ${amount} of ${name} from resource provider ${provider}: ${why}.`, {
            code: inventory ? undefined : 'placement.undefined_code',
          })
        }
        inventory!.used += amount
      }
    }
  }
}

/** Something about these providers changed. */
export async function generationsBump(tx: Tx, ids: readonly string[]): Promise<void> {
  await tx
    .updateTable('placement.providers')
    .set({ generation: sql<number>`generation + 1`, updated_at: sql<Date>`now()` })
    .where('id', 'in', [...ids])
    .execute()
}

/** Amounts in use of each class, of one provider. */
export async function usagesOf(q: Query, provider: string): Promise<Resources> {
  const rows = await capacityList(q, [provider])
  return Object.fromEntries(rows.map(row => [row.class, row.used]))
}
