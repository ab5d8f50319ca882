import { type Query, sql } from '#kit/db/index.ts'

/** Which hosts shall run a DHCP server or a router: living agents that are not switched off, those with the least to do first. */
export async function hostsFor(
  db: Query,
  kind: 'DHCP agent' | 'L3 agent',
  count: number,
  zones: readonly string[],
  except: readonly string[] = [],
): Promise<string[]> {
  const bindings = sql.table(kind === 'DHCP agent' ? 'neutron.dhcp_bindings' : 'neutron.router_bindings')
  const { rows } = await sql<{ host: string }>`
    select a.host from neutron.agents a join kit.host_states s on s.name = a.host and s.up
    left join (select host, count(*) as n from ${bindings} group by host) b on b.host = a.host
    where a.agent_type = ${kind} and a.admin_state_up and (${zones.length === 0} or a.availability_zone = any(${[...zones]}::text[]))
      and a.host <> all(${[...except]}::text[])
    order by coalesce(b.n, 0), a.host limit ${count}`.execute(db)
  return rows.map(row => row.host)
}
