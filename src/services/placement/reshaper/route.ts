/** Moves inventories, and what is allocated of them, between providers: in one transaction, so that nobody sees a half. */
import { badRequest, conflict } from '#kit/fault.ts'
import { route } from '#kit/http/route.ts'
import * as S from '#kit/http/schema.ts'
import { allocationsChange, askedOf } from '../allocations/change.ts'
import { Many } from '../allocations/schema.ts'
import { generationsBump, providersLock } from '../allocations/store.ts'
import { CODE, uuidOf } from '../edge.ts'
import { All } from '../inventories/routes.ts'
import { inventoriesKeep, inventoriesWrite, refuseClasses } from '../inventories/store.ts'
import { V } from '../versions.ts'

const Body = S.Object(
  {
    inventories: S.Unsafe<Record<string, S.Static<typeof All>>>({
      type: 'object',
      minProperties: 1,
      patternProperties: { '^[0-9a-fA-F-]{36}$': All },
      additionalProperties: false,
    }),
    allocations: Many(0),
  },
  { additionalProperties: false },
)

export const reshaper = route({
  method: 'POST',
  path: '/reshaper',
  success: 204,
  since: V.reshaper,
  policy: 'placement:reshaper:reshape',
  body: Body,
  bodyLimit: 16 * 1024 * 1024,
  async handle({ env, body, version }) {
    const wanted = Object.entries(body.inventories).map(([id, given]) => ({ id: uuidOf(id), ...given }))
    const asked = Object.entries(body.allocations).map(([id, one]) => askedOf(id, one, version))
    const ids = wanted.map(w => w.id)
    await env.db.tx(async tx => {
      // All providers that anything of this touches, in the one order of locks.
      const touched = new Set([...wanted.map(w => w.id), ...asked.flatMap(a => Object.keys(a.wants))])
      await providersLock(tx, [...touched])
      const rows = await tx.selectFrom('placement.providers').select(['id', 'generation']).where('id', 'in', ids).execute()
      const generations = new Map(rows.map(row => [row.id, row.generation]))
      for (const { id, resource_provider_generation: given } of wanted) {
        const actual = generations.get(id)
        if (actual === undefined) {
          throw badRequest(`Resource provider ${id} in inventories not found: No resource provider with uuid ${id} found`, {
            code: CODE.providerNotFound,
          })
        }
        if (actual !== given) {
          throw conflict(`resource provider generation conflict for provider ${id}: actual: ${actual}, given: ${given}`, {
            code: CODE.concurrentUpdate,
          })
        }
      }
      for (const { id, inventories } of wanted) {
        await refuseClasses(tx, id, Object.keys(inventories))
        await inventoriesWrite(tx, id, inventories)
      }
      await generationsBump(tx, ids)
      if (asked.length > 0) await allocationsChange(tx, asked)
      for (const { id, inventories } of wanted) await inventoriesKeep(tx, id, Object.keys(inventories))
      await generationsBump(tx, ids)
    })
  },
})
