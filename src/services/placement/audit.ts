/** What must agree in Placement: nobody has what there is not. That consumers exist is for those to say who own them. */
import { audit } from '#kit/audit.ts'
import { type Query, sql } from '#kit/db/index.ts'

const FINDINGS = `
select 'allocation' as what, a.consumer_id as id, 'it uses ' || a.used || ' ' || a.class || ' of provider ' || a.provider_id || ', which has none' as why
from placement.allocations a
where not exists (select from placement.inventories i where i.provider_id = a.provider_id and i.class = a.class)
union all
select 'provider', i.provider_id, 'its use of ' || i.class || ' is ' || u.used || ', its capacity '
  || trunc((i.total - i.reserved) * i.allocation_ratio)::bigint
from placement.inventories i
join (select provider_id, class, sum(used) as used from placement.allocations group by provider_id, class) u using (provider_id, class)
where u.used > trunc((i.total - i.reserved) * i.allocation_ratio)
union all
select 'consumer', c.id, 'it has no allocations' from placement.consumers c
where not exists (select from placement.allocations a where a.consumer_id = c.id)`

export const placementAudit = audit({
  findings: async ({ db }) => (await sql.raw<{ what: string; id: string; why: string }>(FINDINGS).execute(db)).rows,
})

interface Allocated {
  consumer: string
  type: string
  provider: string
  /** The topmost one above it. */
  root: string
  resources: Record<string, number>
}

/** All that consumers of these types have, for the audit of those who own them. */
export async function allocationList(q: Query, types: readonly string[]): Promise<Allocated[]> {
  const { rows } = await sql<Allocated>`
    select c.id as consumer, c.type, a.provider_id as provider, p.root_id as root, jsonb_object_agg(a.class, a.used) as resources
    from placement.consumers c join placement.allocations a on a.consumer_id = c.id join placement.providers p on p.id = a.provider_id
    where c.type = any(${types}) group by c.id, c.type, a.provider_id, p.root_id`.execute(q)
  return rows
}
