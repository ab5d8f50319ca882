import { sql } from '#kit/db/index.ts'
import type { Service } from '#kit/service.ts'
import { placementAudit } from './audit.ts'
import { base } from './migrations/0001_base.ts'
import { STANDARD_CLASSES, STANDARD_TRAITS } from './standard.ts'
import './tables.ts'
import { wire } from './wire.ts'

/** Placement: everything it has. */
export const placement: Service = {
  name: 'placement',
  type: 'placement',
  prefix: '/placement',
  mounts: [''],
  microversions: { type: 'placement', major: 1, min: 0, max: 39 },
  wire,
  routes: [],
  policies: [],
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
