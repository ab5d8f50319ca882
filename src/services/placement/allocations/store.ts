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
  const before = await tx
    .selectFrom('placement.allocations')
    .select(['consumer_id', 'provider_id'])
    .distinct()
    .where('consumer_id', 'in', consumers)
    .execute()
  const wanted = [...new Set(changes.flatMap(c => Object.keys(c.wants)))]
  const touched = [...new Set([...wanted, ...before.map(row => row.provider_id)])]
  if (touched.length > 0) {
    const there = await providersLock(tx, touched)
    const missing = wanted.find(id => !there.includes(id))
    if (missing) throw conflict(`Allocation for resource provider '${missing}' that does not exist.`)
    await refuseOverCapacity(tx, changes, wanted, consumers)
  }
  if (before.length > 0) await tx.deleteFrom('placement.allocations').where('consumer_id', 'in', consumers).execute()
  const rows = changes.flatMap(c =>
    Object.entries(c.wants).flatMap(([provider_id, resources]) =>
      Object.entries(resources).map(([name, used]) => ({ consumer_id: c.consumerId, provider_id, class: name, used })),
    ),
  )
  // As Placement counts: a provider that a consumer leaves for another is not changed by that; one that it leaves for nothing is.
  const gone = changes.filter(c => Object.keys(c.wants).length === 0).map(c => c.consumerId)
  const left = before.filter(row => gone.includes(row.consumer_id)).map(row => row.provider_id)
  const changed = [...new Set([...wanted, ...left])]
  // In this order: consumers before what refers to them.
  await Promise.all([
    consumersWrite(tx, changes),
    rows.length > 0 && tx.insertInto('placement.allocations').values(rows).execute(),
    changed.length > 0 && generationsBump(tx, changed),
  ])
}

async function refuseOverCapacity(tx: Tx, changes: readonly Change[], wanted: string[], consumers: string[]): Promise<void> {
  if (wanted.length === 0) return
  const inventories = new Map((await capacityList(tx, wanted, consumers)).map(row => [`${row.provider_id} ${row.class}`, row]))
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

async function consumersWrite(tx: Tx, changes: readonly Change[]): Promise<void> {
  const staying = changes.filter(c => Object.keys(c.wants).length > 0)
  const going = changes.filter(c => Object.keys(c.wants).length === 0).map(c => c.consumerId)
  await Promise.all([
    going.length > 0 && tx.deleteFrom('placement.consumers').where('id', 'in', going).execute(),
    staying.length > 0 && consumersUpsert(tx, staying),
  ])
}

const consumersUpsert = (tx: Tx, changes: readonly Change[]) =>
  tx
    .insertInto('placement.consumers')
    .values(
      changes.map(({ consumerId, consumer }) => ({
        id: consumerId,
        project_id: consumer.projectId,
        user_id: consumer.userId,
        type: consumer.type ?? null,
        generation: 1,
      })),
    )
    .onConflict(on =>
      on.column('id').doUpdateSet(eb => ({
        project_id: eb.ref('excluded.project_id'),
        user_id: eb.ref('excluded.user_id'),
        type: sql<string | null>`coalesce(excluded.type, consumers.type)`,
        generation: sql<number>`consumers.generation + 1`,
        updated_at: sql<Date>`now()`,
      })),
    )
    .execute()

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
