import { sql } from '#kit/db/index.ts'
import type { Service } from '#kit/service.ts'
import { aggregateRoutes } from './aggregates/routes.ts'
import { allocationRoutes } from './allocations/routes.ts'
import { placementAudit } from './audit.ts'
import { candidatesRoute } from './candidates/route.ts'
import { classRoutes } from './classes/routes.ts'
import { inventoryRoutes } from './inventories/routes.ts'
import { base } from './migrations/0001_base.ts'
import { policies } from './policy.ts'
import { providerRoutes } from './providers/routes.ts'
import { reshaper } from './reshaper/route.ts'
import { root } from './root.route.ts'
import { placementSettings } from './settings.ts'
import { STANDARD_CLASSES, STANDARD_TRAITS } from './standard.ts'
import './tables.ts'
import { traitRoutes } from './traits/routes.ts'
import { usageRoutes } from './usages/routes.ts'
import { microversions } from './versions.ts'
import { wire } from './wire.ts'

/** Placement: everything it has. */
export const placement: Service = {
  name: 'placement',
  type: 'placement',
  prefix: '/placement',
  mounts: [''],
  microversions,
  wire,
  settings: placementSettings,
  policies,
  routes: [
    root,
    ...providerRoutes,
    ...inventoryRoutes,
    ...aggregateRoutes,
    ...traitRoutes,
    ...classRoutes,
    ...usageRoutes,
    ...allocationRoutes,
    candidatesRoute,
    reshaper,
  ],
  migrations: [base],
  audit: placementAudit,
  async start({ db }) {
    await sql`insert into placement.classes (name) select unnest(${STANDARD_CLASSES}::text[]) on conflict do nothing`.execute(
      db.read,
    )
    await sql`insert into placement.traits (name) select unnest(${STANDARD_TRAITS}::text[]) on conflict do nothing`.execute(
      db.read,
    )
    return undefined
  },
}
