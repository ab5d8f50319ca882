/**
 * Placement's tables. Usage is never stored: it is the sum of allocations. A provider's generation changes with everything that is about
 * it, so that a client's read-modify-write is refused when somebody was faster.
 */
import type { Generated } from '#kit/db/index.ts'

export interface ProvidersTable {
  id: string
  name: string
  generation: Generated<number>
  parent_id: string | null
  root_id: string
  created_at: Generated<Date>
  updated_at: Generated<Date>
}

export interface InventoriesTable {
  provider_id: string
  class: string
  total: number
  reserved: number
  min_unit: number
  max_unit: number
  step_size: number
  allocation_ratio: number
  updated_at: Generated<Date>
}

export interface ConsumersTable {
  id: string
  project_id: string
  user_id: string
  /** Null: made before types existed; shown as `unknown`. */
  type: string | null
  generation: Generated<number>
  created_at: Generated<Date>
  updated_at: Generated<Date>
}

export interface AllocationsTable {
  consumer_id: string
  provider_id: string
  class: string
  used: number
  updated_at: Generated<Date>
}

declare module '#kit/db/index.ts' {
  interface Tables {
    'placement.providers': ProvidersTable
    'placement.inventories': InventoriesTable
    'placement.provider_traits': { provider_id: string; trait: string }
    'placement.provider_aggregates': { provider_id: string; aggregate: string }
    'placement.traits': { name: string; updated_at: Generated<Date> }
    'placement.classes': { name: string; updated_at: Generated<Date> }
    'placement.consumers': ConsumersTable
    'placement.allocations': AllocationsTable
  }
}
