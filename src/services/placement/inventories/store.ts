import { type Query, type Selectable, sql, type Tx } from '#kit/db/index.ts'
import { badRequest, conflict } from '#kit/fault.ts'
import { generationsBump } from '../allocations/store.ts'
import { CODE, MAX_INT } from '../edge.ts'
import { classesMissing, type Provider } from '../providers/store.ts'
import type { InventoriesTable } from '../tables.ts'
import { V } from '../versions.ts'

export type Inventory = Selectable<InventoriesTable>

/** An inventory as clients give it. */
export interface InventoryGiven {
  total: number
  reserved?: number
  min_unit?: number
  max_unit?: number
  step_size?: number
  allocation_ratio?: number
}

const whole = (provider_id: string, name: string, given: InventoryGiven) => ({
  provider_id,
  class: name,
  total: given.total,
  reserved: given.reserved ?? 0,
  min_unit: given.min_unit ?? 1,
  max_unit: given.max_unit ?? MAX_INT,
  step_size: given.step_size ?? 1,
  allocation_ratio: given.allocation_ratio ?? 1,
})

/** All inventories of a provider. */
export const inventoryList = (q: Query, provider: string): Promise<Inventory[]> =>
  q.selectFrom('placement.inventories').selectAll().where('provider_id', '=', provider).orderBy('class').execute()

/** Throws badRequest for an inventory of which nothing could ever be allocated. `what` opens the message. */
export function refuseCapacity(provider: string, name: string, given: InventoryGiven, version: number, what: string): void {
  const { total, reserved, allocation_ratio } = whole(provider, name, given)
  const capacity = Math.trunc((total - reserved) * allocation_ratio)
  if (version < V.reservedAll ? capacity > 0 : capacity >= 0) return
  const limit = version < V.reservedAll ? 'greater than or equal to' : 'greater than'
  throw badRequest(
    `${what} inventory for resource provider ${provider}: Invalid inventory for '${name}' on resource provider '${provider}'. The reserved value is ${limit} total.`,
  )
}

/** Throws badRequest for classes that do not exist. */
export async function refuseClasses(q: Query, provider: string, names: readonly string[]): Promise<void> {
  const [missing] = await classesMissing(q, names)
  if (missing !== undefined) {
    throw badRequest(`Unknown resource class in inventory for resource provider ${provider}: No such resource class ${missing}.`)
  }
}

/** Writes inventories, new and changed ones. */
export async function inventoriesWrite(tx: Tx, provider: string, given: Record<string, InventoryGiven>): Promise<void> {
  const rows = Object.entries(given).map(([name, inventory]) => whole(provider, name, inventory))
  if (rows.length === 0) return
  await tx
    .insertInto('placement.inventories')
    .values(rows)
    .onConflict(on =>
      on.columns(['provider_id', 'class']).doUpdateSet(eb => ({
        total: eb.ref('excluded.total'),
        reserved: eb.ref('excluded.reserved'),
        min_unit: eb.ref('excluded.min_unit'),
        max_unit: eb.ref('excluded.max_unit'),
        step_size: eb.ref('excluded.step_size'),
        allocation_ratio: eb.ref('excluded.allocation_ratio'),
        updated_at: sql<Date>`now()`,
      })),
    )
    .execute()
}

/** Removes all inventories of a provider but these. Throws conflict for one that is in use. */
export async function inventoriesKeep(
  tx: Tx,
  provider: string,
  kept: readonly string[],
  what = 'update conflict',
): Promise<void> {
  const used = await tx
    .selectFrom('placement.allocations')
    .select('class')
    .distinct()
    .where('provider_id', '=', provider)
    .where(sql<boolean>`not class = any(${kept})`)
    .orderBy('class')
    .execute()
  if (used.length > 0) {
    const names = used.map(row => row.class).join(', ')
    throw conflict(`${what}: Inventory for '${names}' on resource provider '${provider}' in use.`, {
      code: CODE.inventoryInUse,
    })
  }
  await tx
    .deleteFrom('placement.inventories')
    .where('provider_id', '=', provider)
    .where(sql<boolean>`not class = any(${kept})`)
    .execute()
}

/** Sets all inventories of a locked provider. Throws badRequest for unknown classes, conflict for one in use that would go. */
export async function inventoriesReplace(tx: Tx, provider: Provider, given: Record<string, InventoryGiven>): Promise<void> {
  const names = Object.keys(given)
  await refuseClasses(tx, provider.id, names)
  await inventoriesKeep(tx, provider.id, names)
  await inventoriesWrite(tx, provider.id, given)
  await generationsBump(tx, [provider.id])
}
