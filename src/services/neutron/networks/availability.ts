// How many addresses each network has, and how many are taken.
import { sql } from '#kit/db/index.ts'
import { badRequest } from '#kit/fault.ts'
import { type Call, route } from '#kit/http/route.ts'
import { parseAddress } from '../address.ts'
import { fieldsOf } from '../api/read.ts'
import { gone } from '../faults.ts'
import type { Pool } from '../tables.ts'

interface Counted {
  id: string
  name: string
  project_id: string
  subnets: { id: string; name: string; cidr: string; ip_version: number; pools: Pool[]; used: number }[]
}

const sizeOf = (pools: readonly Pool[]): bigint =>
  pools.reduce((sum, pool) => sum + parseAddress(pool.end)!.value - parseAddress(pool.start)!.value + 1n, 0n)

/** IPv6 pools are larger than what a double holds exactly: the digits are written as they are. (JSON.rawJSON is in no library of types yet.) */
const plain = (size: bigint): unknown => (JSON as unknown as { rawJSON(digits: string): unknown }).rawJSON(String(size))

function view(row: Counted, call: Call) {
  const subnets = row.subnets.map(subnet => ({
    subnet_id: subnet.id,
    subnet_name: subnet.name,
    cidr: subnet.cidr,
    ip_version: subnet.ip_version,
    total_ips: plain(sizeOf(subnet.pools)),
    used_ips: subnet.used,
  }))
  const whole = {
    network_id: row.id,
    network_name: row.name,
    tenant_id: row.project_id,
    project_id: row.project_id,
    subnet_ip_availability: subnets,
    total_ips: plain(row.subnets.reduce((sum, subnet) => sum + sizeOf(subnet.pools), 0n)),
    used_ips: row.subnets.reduce((sum, subnet) => sum + subnet.used, 0),
  }
  const only = fieldsOf(call.search)
  return only ? Object.fromEntries(Object.entries(whole).filter(([name]) => only.has(name))) : whole
}

async function counted(call: Call, id?: string): Promise<Counted[]> {
  const many = (name: string): string[] => call.search.getAll(name)
  const versions = many('ip_version').map(Number)
  if (versions.some(version => version !== 4 && version !== 6))
    throw badRequest('Invalid input for ip_version', { type: 'HTTPBadRequest' })
  const projects = [...many('tenant_id'), ...many('project_id')]
  const { rows } = await sql<Counted>`
    select n.id, n.name, n.project_id, coalesce(jsonb_agg(jsonb_build_object('id', s.id, 'name', s.name, 'cidr', s.cidr, 'ip_version', s.ip_version,
      'pools', s.allocation_pools, 'used', (select count(*) from neutron.ip_allocations a where a.subnet_id = s.id))
      order by s.created_at, s.id) filter (where s.id is not null), '[]') as subnets
    from neutron.networks n left join neutron.subnets s on s.network_id = n.id
    where (${id === undefined} or n.id = ${id ?? ''})
      and (${many('network_id').length === 0} or n.id = any(${many('network_id')}::text[]))
      and (${many('network_name').length === 0} or n.name = any(${many('network_name')}::text[]))
      and (${projects.length === 0} or n.project_id = any(${projects}::text[]))
      and (${versions.length === 0} or s.ip_version = any(${versions}::int[]))
    group by n.id order by n.id`.execute(call.db)
  return rows
}

export const availabilityRoutes = [
  route({
    method: 'GET',
    path: '/network-ip-availabilities',
    policy: 'get_network_ip_availability',
    handle: async call => ({ network_ip_availabilities: (await counted(call)).map(row => view(row, call)) }),
  }),
  route({
    method: 'GET',
    path: '/network-ip-availabilities/:id',
    policy: 'get_network_ip_availability',
    async handle(call) {
      const [row] = await counted(call, call.params.id!)
      if (!row) throw gone.network(call.params.id!)
      return { network_ip_availability: view(row, call) }
    },
  }),
]
