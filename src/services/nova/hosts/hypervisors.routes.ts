/** /os-hypervisors. What is used is counted over the servers of each host. */
import { type Query, sql } from '#kit/db/index.ts'
import { badRequest, notFound } from '#kit/fault.ts'
import { isUuid } from '#kit/http/formats.ts'
import { type Call, type Route, route } from '#kit/http/route.ts'
import * as S from '#kit/http/schema.ts'
import type { Env } from '#kit/service.ts'
import { PAGING, pageOf, query, TEXT } from '../fields.ts'
import { novaSettings } from '../settings.ts'
import { V } from '../versions.ts'
import { nextLink } from '../wire.ts'
import { type Hypervisor, isUp } from './store.ts'

type Row = Hypervisor & {
  service_id: string
  service_seq: number
  disabled: boolean
  disabled_reason: string | null
  forced_down: boolean
  up: boolean
  servers: { uuid: string; name: string }[]
  vcpus_used: number
  memory_used: number
  disk_used: number
  workload: number
}

/** Hypervisors with their service and what their servers use. */
function rows(db: Query, where: ReturnType<typeof sql<boolean>>, limit?: number): Promise<Row[]> {
  return sql<Row>`
    select h.*, s.id as service_id, s.seq as service_seq, s.disabled, s.disabled_reason, s.forced_down, coalesce(k.up, false) as up,
      u.servers, u.vcpus_used, u.memory_used, u.disk_used, u.workload
    from nova.hypervisors h
    join nova.services s on s.host = h.host and s.program = 'nova-compute'
    left join kit.host_states k on k.name = h.host
    cross join lateral (
      select coalesce(jsonb_agg(jsonb_build_object('uuid', v.id, 'name', 'instance-' || lpad(to_hex(v.seq), 8, '0')) order by v.seq)
          filter (where v.id is not null), '[]') as servers,
        coalesce(sum(v.vcpus), 0)::int as vcpus_used, coalesce(sum(v.memory_mb), 0)::int as memory_used,
        coalesce(sum((v.flavor->>'root_gb')::int + (v.flavor->>'ephemeral_gb')::int), 0)::int as disk_used,
        (count(*) filter (where v.task_state is not null))::int as workload
      from nova.servers v where v.host = h.host) u
    where ${where} order by h.seq ${limit === undefined ? sql`` : sql`limit ${limit}`}`
    .execute(db)
    .then(result => result.rows)
}

const brief = (row: Row, version: number, env: Env) => ({
  id: version >= V.serviceUuid ? row.id : row.seq,
  hypervisor_hostname: row.hypervisor_hostname,
  state: isUp(env, row) ? 'up' : 'down',
  status: row.disabled ? 'disabled' : 'enabled',
})

/** As `uptime` prints it. */
function uptimeText({ inventory }: Row): string {
  const seconds = inventory.uptimeSeconds
  const days = Math.floor(seconds / 86_400)
  const clock = (n: number): string => String(Math.floor(n)).padStart(2, '0')
  const up = `${days > 0 ? `${days} days, ` : ''}${clock((seconds % 86_400) / 3600)}:${clock((seconds % 3600) / 60)}`
  const now = new Date().toISOString().slice(11, 19)
  return ` ${now} up ${up},  0 users,  load average: ${inventory.loadAverage.map(l => l.toFixed(2)).join(', ')}`
}

function cpuInfo({ inventory }: Row): object {
  const { cpu, architecture } = inventory
  const { topology } = cpu
  return { arch: architecture, model: cpu.model, vendor: cpu.vendor, features: cpu.features, topology: { ...topology, cells: 1 } }
}

function usage(row: Row, version: number): object {
  const reserved = 0
  return {
    vcpus: row.vcpus,
    memory_mb: row.memory_mb,
    local_gb: row.disk_gb,
    vcpus_used: row.vcpus_used,
    memory_mb_used: row.memory_used + reserved,
    local_gb_used: row.disk_used,
    free_ram_mb: row.memory_mb - row.memory_used - reserved,
    free_disk_gb: row.disk_gb - row.disk_used,
    current_workload: row.workload,
    running_vms: row.servers.length,
    disk_available_least: row.inventory.diskFreeGb,
    cpu_info: version >= V.cpuInfoObject ? cpuInfo(row) : JSON.stringify(cpuInfo(row)),
  }
}

function full(row: Row, version: number, env: Env): object {
  return {
    ...brief(row, version, env),
    hypervisor_type: row.hypervisor_type,
    hypervisor_version: row.hypervisor_version,
    host_ip: row.host_ip,
    service: {
      id: version >= V.serviceUuid ? row.service_id : row.service_seq,
      host: row.host,
      disabled_reason: row.disabled_reason,
    },
    ...(version < V.hypervisorSlim ? usage(row, version) : { uptime: isUp(env, row) ? uptimeText(row) : null }),
  }
}

const withServers = (row: Row, asked: boolean, version: number): object =>
  row.servers.length > 0 && asked ? { servers: row.servers } : asked && version >= V.cleanup ? { servers: [] } : {}

const byNumber = query({}, V.cleanup)
const paging = { ...PAGING }
const listQuery = S.byVersion(
  [0, byNumber],
  [V.hypervisorPages, query(paging)],
  [V.serviceUuid, query({ ...paging, hypervisor_hostname_pattern: TEXT, with_servers: TEXT })],
)

const flagOf = (call: Call, name: string): boolean => {
  const text = call.version >= V.serviceUuid ? call.search.get(name) : null
  if (text === null) return false
  const value = S.toBoolean(text.toLowerCase())
  if (value === undefined) throw badRequest(`Invalid input for query parameters ${name}. Value: ${text}. It is no boolean.`)
  return value
}

async function listed(call: Call, detail: boolean): Promise<object> {
  const { db, env, search, version } = call
  const servers = flagOf(call, 'with_servers')
  const show = (row: Row): object => ({
    ...(detail ? full(row, version, env) : brief(row, version, env)),
    ...withServers(row, servers, version),
  })
  const pattern = version >= V.serviceUuid ? search.get('hypervisor_hostname_pattern') : null
  if (pattern !== null) {
    if (search.has('limit') || search.has('marker'))
      throw badRequest('Paging over hypervisors with the hypervisor_hostname_pattern query parameter is not supported.')
    const found = await rows(db, sql<boolean>`strpos(h.hypervisor_hostname, ${pattern}) > 0`)
    if (found.length === 0) throw notFound(`No hypervisor matching '${pattern}' could be found.`)
    return { hypervisors: found.map(show) }
  }
  if (version < V.hypervisorPages) return { hypervisors: (await rows(db, sql<boolean>`true`)).map(show) }
  const { limit, marker } = pageOf(search, env.config.of(novaSettings).max_limit)
  let after = sql<boolean>`true`
  if (marker !== null) {
    const [row] = await rows(db, idIs(marker, version))
    if (!row) throw badRequest(`marker [${marker}] not found`)
    after = sql<boolean>`h.seq > ${row.seq}`
  }
  const found = await rows(db, after, limit)
  const more = found.length > 0 && found.length === limit
  const last = found.at(-1)
  const path = `/os-hypervisors${detail ? '/detail' : ''}`
  return {
    hypervisors: found.map(show),
    ...(more ? { hypervisors_links: nextLink(call, path, String(version >= V.serviceUuid ? last!.id : last!.seq)) } : {}),
  }
}

const idIs = (id: string, version: number) =>
  version >= V.serviceUuid ? sql<boolean>`h.id = ${id}` : sql<boolean>`h.seq = ${/^\d{1,15}$/.test(id) ? Number(id) : -1}`

async function fetched({ db, params, version }: Call): Promise<Row> {
  const id = params.id!
  if (version >= V.serviceUuid && !isUuid(id)) throw badRequest(`Invalid uuid ${id}`)
  const [row] = await rows(db, idIs(id, version))
  if (!row) throw notFound(`Hypervisor with ID '${id}' could not be found.`)
  return row
}

const read = (
  path: string,
  policy: string,
  handle: (call: Call) => Promise<object>,
  more: { until?: number; query?: S.TSchema } = {},
): Route =>
  route({ method: 'GET', path, policy: `os_compute_api:os-hypervisors:${policy}`, ...more, handle: call => handle(call as Call) })

async function statistics({ db }: Call): Promise<object> {
  const all = (await rows(db, sql<boolean>`not s.disabled`)).map(row => usage(row, V.cpuInfoObject) as Record<string, number>)
  const sum = (name: string): number => all.reduce((total, row) => total + row[name]!, 0)
  const names = ['vcpus', 'memory_mb', 'local_gb', 'vcpus_used', 'memory_mb_used', 'local_gb_used', 'free_ram_mb', 'free_disk_gb']
  const more = ['current_workload', 'running_vms', 'disk_available_least']
  return { hypervisor_statistics: { count: all.length, ...Object.fromEntries([...names, ...more].map(n => [n, sum(n)])) } }
}

const found = (show: (row: Row, call: Call) => object) => async (call: Call) => {
  const pattern = call.params.id!
  const matches = await rows(call.db, sql<boolean>`strpos(h.hypervisor_hostname, ${pattern}) > 0`)
  if (matches.length === 0) throw notFound(`No hypervisor matching '${pattern}' could be found.`)
  return { hypervisors: matches.map(row => show(row, call)) }
}

export const hypervisorRoutes: Route[] = [
  read('/os-hypervisors', 'list', call => listed(call, false), { query: listQuery }),
  read('/os-hypervisors/detail', 'list-detail', call => listed(call, true), { query: listQuery }),
  read('/os-hypervisors/statistics', 'statistics', statistics, { until: V.hypervisorSlim - 1 }),
  read(
    '/os-hypervisors/:id',
    'show',
    async call => {
      const row = await fetched(call)
      return {
        hypervisor: { ...full(row, call.version, call.env), ...withServers(row, flagOf(call, 'with_servers'), call.version) },
      }
    },
    { query: S.byVersion([0, byNumber], [V.serviceUuid, query({ with_servers: TEXT })]) },
  ),
  read(
    '/os-hypervisors/:id/uptime',
    'uptime',
    async call => {
      const row = await fetched(call)
      if (!isUp(call.env, row)) throw badRequest(`Compute service of ${row.host} is unavailable at this time.`)
      return { hypervisor: { ...brief(row, call.version, call.env), uptime: uptimeText(row) } }
    },
    { until: V.hypervisorSlim - 1 },
  ),
  read(
    '/os-hypervisors/:id/search',
    'search',
    found((row, call) => brief(row, call.version, call.env)),
    { until: V.serviceUuid - 1 },
  ),
  read(
    '/os-hypervisors/:id/servers',
    'servers',
    found((row, call) => ({ ...brief(row, call.version, call.env), ...withServers(row, true, call.version) })),
    { until: V.serviceUuid - 1 },
  ),
]
