/** What must agree in Neutron: addresses and their ports, routers' legs and DHCP servers and where they run, floating addresses, quota, hosts. */
import { audit } from '#kit/audit.ts'
import { type Query, sql } from '#kit/db/index.ts'
import { errorsOf, errorText, type HostError } from './hosts/errors.ts'
import { defaultLimits, RESOURCES, type Resource } from './quotas/quota.ts'
import { neutronSettings } from './settings.ts'
import { type NetThing, netInventory } from './verbs.ts'

interface Found {
  what: string
  id: string
  why: string
}

const FINDINGS = `
select 'port' as what, a.port_id as id, 'its address ' || host(a.ip) || ' is outside ' || s.cidr || ' of subnet ' || s.id as why
from neutron.ip_allocations a join neutron.subnets s on s.id = a.subnet_id where not a.ip <<= s.cidr
union all
select 'port', p.id, 'it is on network ' || p.network_id || ', its address ' || host(a.ip) || ' of subnet ' || s.id || ' is of network ' || s.network_id
from neutron.ip_allocations a join neutron.ports p on p.id = a.port_id join neutron.subnets s on s.id = a.subnet_id
where p.network_id <> s.network_id or a.network_id <> s.network_id
union all
select 'port', p.id, 'it is ' || p.device_owner || ' of router ' || p.device_id || ', which does not exist'
from neutron.ports p where p.device_owner like 'network:router%' and not exists (select from neutron.routers r where r.id = p.device_id)
union all
select 'port', p.id, 'it serves DHCP on host ' || p.host || ', which is not asked to'
from neutron.ports p where p.device_owner = 'network:dhcp' and p.host <> ''
  and not exists (select from neutron.dhcp_bindings b where b.network_id = p.network_id and b.host = p.host)
union all
select 'port', p.id, 'it belongs to the floating address ' || p.device_id || ', which does not exist'
from neutron.ports p where p.device_owner = 'network:floatingip'
  and not exists (select from neutron.floating_ips f where f.floating_port_id = p.id)
union all
select 'floating address', f.id, 'it is ' || host(f.floating_ip_address) || ', which its port ' || f.floating_port_id || ' does not have'
from neutron.floating_ips f
where not exists (select from neutron.ip_allocations a where a.port_id = f.floating_port_id and a.ip = f.floating_ip_address)
union all
select 'floating address', f.id, 'it leads to ' || host(f.fixed_ip_address) || ', which port ' || f.port_id || ' does not have'
from neutron.floating_ips f
where f.port_id is not null and not exists (select from neutron.ip_allocations a where a.port_id = f.port_id and a.ip = f.fixed_ip_address)
union all
select 'floating address', f.id, 'it goes through router ' || f.router_id || ', which has no gateway on network ' || f.floating_network_id
from neutron.floating_ips f
where f.router_id is not null and not exists (select from neutron.ports p
  where p.device_id = f.router_id and p.device_owner = 'network:router_gateway' and p.network_id = f.floating_network_id)
union all
select 'security group', g.security_group_id, 'port ' || p.id || ' of network ' || p.network_id || ' has it, but no port security'
from neutron.port_security_groups g join neutron.ports p on p.id = g.port_id where not p.port_security_enabled
union all
select 'segment', min(s.id), s.network_type || ' ' || s.segmentation_id || ' has ' || count(*) || ' networks'
from neutron.segments s where s.network_type <> 'local' and s.segmentation_id is not null
group by s.network_type, coalesce(s.physical_network, ''), s.segmentation_id having count(*) > 1`

export const neutronAudit = audit<NetThing[]>({
  inventory: netInventory,
  async findings({ db, config, hosts }) {
    const { rows } = await sql.raw<Found>(FINDINGS).execute(db)
    const limits = defaultLimits(config.of(neutronSettings).quota as Record<string, number>)
    return [...rows, ...(await overQuota(db, limits)), ...onHosts(hosts)]
  },

  async unsettled(db, seconds) {
    const { rows } = await sql<{ host: string; errors: HostError[]; since: Date }>`
      select host, ${errorsOf('o.host')} as errors, reported_at as since from neutron.host_networks o where errors <> '[]'`.execute(
      db,
    )
    const { rows: ports } = await sql<{ id: string; status: string; since: Date; host: string }>`
      select id, status, updated_at as since, host from neutron.ports
      where host <> '' and vif_type not in ('unbound', 'binding_failed') and status in ('BUILD', 'DOWN') and admin_state_up
        and updated_at < now() - make_interval(secs => ${seconds})
        and exists (select from kit.sagas s where s.resource = 'nova.server:' || device_id)`.execute(db)
    return [
      ...rows.map(({ host, errors, since }) => ({
        what: 'host',
        id: host,
        state: 'not as it should be',
        since,
        why: errors.map(errorText).join('; '),
      })),
      ...ports.map(({ id, status, since, host }) => ({
        what: 'port',
        id,
        state: status,
        since,
        why: `host ${host} has not wired it`,
      })),
    ]
  },
})

async function overQuota(db: Query, defaults: Record<Resource, number>): Promise<Found[]> {
  const found: Found[] = []
  for (const resource of Object.keys(RESOURCES) as Resource[]) {
    const { rows } = await sql<{ project: string; used: number; limit: number }>`
      select c.project_id as project, c.used, coalesce(q."limit", ${defaults[resource]}::int) as "limit"
      from (select project_id, count(*)::int as used from ${sql.table(RESOURCES[resource].table)} where project_id <> '' group by project_id) c
      left join neutron.quotas q on q.project_id = c.project_id and q.resource = ${resource}
      where coalesce(q."limit", ${defaults[resource]}::int) >= 0 and c.used > coalesce(q."limit", ${defaults[resource]}::int)`.execute(
      db,
    )
    for (const { project, used, limit } of rows)
      found.push({ what: 'quota', id: project, why: `the project has ${used} of ${resource}, its limit is ${limit}` })
  }
  return found
}

/** What hosts have that nothing asks for. The filter's tables are the driver's own: they stay, empty, on a host without networks. */
function onHosts(hosts: ReadonlyMap<string, NetThing[]>): Found[] {
  return [...hosts].flatMap(([host, things]) =>
    things
      .filter(thing => !thing.wanted && thing.kind !== 'table')
      .map(({ kind, name }) => ({ what: kind, id: name, why: `host ${host} has it, and nothing asks for it` })),
  )
}

/** The ports that are bound for a device of these owners, for the audit of those who own the devices. */
export async function portsBound(q: Query, ownerPrefix: string): Promise<{ id: string; device: string; host: string }[]> {
  const { rows } = await sql<{ id: string; device: string; host: string }>`
    select id, device_id as device, host from neutron.ports
    where starts_with(device_owner, ${ownerPrefix}) and device_id <> '' and host <> ''`.execute(q)
  return rows
}
