/** From a body to the change of allocations that it asks for. */
import type { Query, Tx } from '#kit/db/index.ts'
import { badRequest, conflict } from '#kit/fault.ts'
import { CODE, uuidOf } from '../edge.ts'
import { classesMissing } from '../providers/store.ts'
import { V } from '../versions.ts'
import type { KeyedBody } from './schema.ts'
import { allocationsReplace, type Change, type Resources } from './store.ts'

/** Owner of allocations that were made before they had one. */
const NOBODY = '00000000-0000-0000-0000-000000000000'

/** A change and what its author believes of the consumer. */
export interface Asked extends Change {
  /** Null: that it does not exist. Undefined: nothing. */
  generation: number | null | undefined
}

/** Reads one consumer's part of a body. */
export function askedOf(
  consumerId: string,
  body: Partial<Omit<KeyedBody, 'allocations'>> & { allocations: Record<string, { resources: Resources }> },
  version: number,
): Asked {
  return {
    consumerId: uuidOf(consumerId),
    consumer: {
      projectId: body.project_id ?? NOBODY,
      userId: body.user_id ?? NOBODY,
      type: body.consumer_type ?? null,
    },
    wants: Object.fromEntries(Object.entries(body.allocations).map(([id, { resources }]) => [uuidOf(id), resources])),
    generation: version < V.consumerGeneration ? undefined : body.consumer_generation,
  }
}

/**
 * Makes allocations as asked, all or none. Throws badRequest for providers and classes that do not exist, conflict when a consumer is not what the author
 * saw or there is no room.
 */
export async function allocationsChange(tx: Tx, asked: readonly Asked[]): Promise<void> {
  await refuseUnknown(tx, asked)
  // Consumers first, in one order, so that two requests about the same one wait for each other.
  const ids = asked.map(a => a.consumerId)
  const rows = await tx
    .selectFrom('placement.consumers')
    .select(['id', 'generation'])
    .where('id', 'in', ids)
    .orderBy('id')
    .forUpdate()
    .execute()
  const known = new Map(rows.map(row => [row.id, row.generation]))
  for (const { consumerId, generation } of asked) {
    if (generation === undefined) continue
    const actual = known.get(consumerId)
    if (actual === undefined ? generation !== null : actual !== generation) {
      throw conflict(`consumer generation conflict - expected ${actual ?? 'null'} but got ${generation ?? 'None'}`, {
        code: CODE.concurrentUpdate,
      })
    }
  }
  await allocationsReplace(tx, asked)
}

async function refuseUnknown(q: Query, asked: readonly Asked[]): Promise<void> {
  const providers = [...new Set(asked.flatMap(a => Object.keys(a.wants)))]
  if (providers.length === 0) return
  const rows = await q.selectFrom('placement.providers').select('id').where('id', 'in', providers).execute()
  const there = new Set(rows.map(row => row.id))
  const missing = providers.find(id => !there.has(id))
  if (missing !== undefined) throw badRequest(`Allocation for resource provider '${missing}' that does not exist.`)
  const classes = asked.flatMap(a => Object.values(a.wants).flatMap(r => Object.keys(r)))
  const [unknown] = await classesMissing(q, classes)
  if (unknown !== undefined) {
    throw badRequest(`Unable to allocate inventory for consumer ${asked[0]!.consumerId}: No such resource class ${unknown}.`)
  }
}
