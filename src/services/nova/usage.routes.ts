/** What projects have used: /os-simple-tenant-usage, computed from the servers that are and those that were, and the usage audit log. */
import { type Query, sql } from '#kit/db/index.ts'
import { badRequest, notFound } from '#kit/fault.ts'
import { type Call, type Route, route } from '#kit/http/route.ts'
import * as S from '#kit/http/schema.ts'
import { PAGING, pageOf, query, TEXT } from './fields.ts'
import { isUp, serviceRows } from './hosts/store.ts'
import { novaSettings } from './settings.ts'
import type { FlavorKept } from './tables.ts'
import { V } from './versions.ts'
import { bareTime, nextLink } from './wire.ts'

interface Used {
  id: string
  name: string
  project_id: string
  flavor: FlavorKept
  vm_state: string
  launched_at: Date
  terminated_at: Date | null
}

const HOUR = 3_600_000
const FORMS = /^(\d{4}-\d{2}-\d{2})(?:[T ](\d{2}:\d{2}:\d{2})(?:\.(\d{1,6}))?)?$/

interface Period {
  start: Date
  stop: Date
  /** Both as answers show them: to the microsecond that was asked for, which a Date cannot hold. */
  shown: { start: string; stop: string }
}

/** A time of the query, in UTC, and as answers show it. Throws badRequest. */
function timeOf(text: string | null, otherwise: Date): { at: Date; shown: string } {
  if (text === null || text === '') return { at: otherwise, shown: bareTime(otherwise) }
  const [, day, time = '00:00:00', fraction = ''] = FORMS.exec(text) ?? []
  const shown = `${day}T${time}.${fraction.padEnd(6, '0')}`
  const at = new Date(`${shown}Z`)
  if (day === undefined || Number.isNaN(at.getTime())) throw badRequest('Datetime is in invalid format')
  return { at, shown }
}

function periodOf(search: URLSearchParams): Period {
  const now = new Date()
  const start = timeOf(search.get('start'), new Date(now.getTime() - 28 * 24 * HOUR))
  const stop = timeOf(search.get('end'), now)
  if (start.shown >= stop.shown) throw badRequest('Invalid start time. The start time cannot occur after the end time.')
  return { start: start.at, stop: stop.at, shown: { start: start.shown, stop: stop.shown } }
}

/** The servers that ran in the period, in the order of their ids: all that are asked for, or a page. */
async function usedServers(
  db: Query,
  { start, stop }: Period,
  { project, after, limit }: { project: string | null; after: string | null; limit: number | null },
): Promise<Used[]> {
  const { rows } = await sql<Used>`
    select id, name, project_id, flavor, vm_state, launched_at, terminated_at
    from (select * from nova.servers union all select * from nova.deleted_servers) s
    where launched_at is not null and launched_at < ${stop} and (terminated_at is null or terminated_at >= ${start})
      ${project === null ? sql`` : sql`and project_id = ${project}`} ${after === null ? sql`` : sql`and id > ${after}`}
    order by id ${limit === null ? sql`` : sql`limit ${limit}`}`.execute(db)
  return rows
}

function serverUsage(server: Used, { start, stop }: Period) {
  const from = Math.max(server.launched_at.getTime(), start.getTime())
  const to = Math.min(server.terminated_at?.getTime() ?? Infinity, stop.getTime())
  const { flavor } = server
  return {
    instance_id: server.id,
    name: server.name,
    hours: Math.max(0, to - from) / HOUR,
    flavor: flavor.name,
    tenant_id: server.project_id,
    memory_mb: flavor.memory_mb,
    local_gb: flavor.root_gb + flavor.ephemeral_gb,
    vcpus: flavor.vcpus,
    started_at: bareTime(server.launched_at),
    ended_at: server.terminated_at && bareTime(server.terminated_at),
    state: server.terminated_at ? 'terminated' : server.vm_state === 'soft-delete' ? 'stopped' : server.vm_state,
    uptime: Math.floor(((server.terminated_at ?? new Date()).getTime() - server.launched_at.getTime()) / 1000),
  }
}

function projectUsage(project: string, servers: Used[], period: Period, detailed: boolean) {
  const usages = servers.map(server => serverUsage(server, period))
  const sum = (of: (usage: (typeof usages)[number]) => number): number => usages.reduce((total, usage) => total + of(usage), 0)
  return {
    tenant_id: project,
    total_hours: sum(u => u.hours),
    total_vcpus_usage: sum(u => u.hours * u.vcpus),
    total_memory_mb_usage: sum(u => u.hours * u.memory_mb),
    total_local_gb_usage: sum(u => u.hours * u.local_gb),
    ...period.shown,
    ...(detailed ? { server_usages: usages } : {}),
  }
}

const pageFor = ({ search, env, version }: Pick<Call, 'search' | 'env' | 'version'>) => {
  if (version < V.usagePages) return { after: null, limit: null }
  const { limit, marker } = pageOf(search, env.config.of(novaSettings).max_limit)
  return { after: marker, limit }
}

async function markerKnown(db: Query, marker: string | null): Promise<void> {
  if (marker === null) return
  const { rows } = await sql`
    select from nova.servers where id = ${marker} union all select from nova.deleted_servers where id = ${marker}`.execute(db)
  if (rows.length === 0) throw badRequest(`marker [${marker}] not found`)
}

const period = { start: TEXT, end: TEXT }
const usageQuery = (more: Record<string, object>) =>
  S.byVersion(
    [0, query({ ...period, ...more })],
    [V.usagePages, query({ ...period, ...more, ...PAGING })],
    [V.cleanup, query({ ...period, ...more, ...PAGING }, V.cleanup)],
  )

const tenantUsage: Route[] = [
  route({
    method: 'GET',
    path: '/os-simple-tenant-usage',
    policy: 'os_compute_api:os-simple-tenant-usage:list',
    query: usageQuery({ detailed: TEXT }),
    async handle(call) {
      const { db, search, url } = call
      // A project that is named by nothing is none; it is not all of them.
      if (url.split('?')[0]!.endsWith('/')) throw notFound('The resource could not be found.')
      const asked = periodOf(search)
      const { after, limit } = pageFor(call)
      await markerKnown(db, after)
      const servers = await usedServers(db, asked, { project: null, after, limit })
      const detailed = search.get('detailed') === '1'
      const byProject = [...Map.groupBy(servers, server => server.project_id)]
      const usages = byProject.map(([project, its]) => projectUsage(project, its, asked, detailed))
      const more = limit !== null && servers.length > 0 && servers.length === limit
      return {
        tenant_usages: usages,
        ...(more ? { tenant_usages_links: nextLink(call, '/os-simple-tenant-usage', servers.at(-1)!.id) } : {}),
      }
    },
  }),
  route({
    method: 'GET',
    path: '/os-simple-tenant-usage/:project',
    policy: 'os_compute_api:os-simple-tenant-usage:show',
    policyTarget: ({ params }) => ({ project_id: params.project }),
    query: usageQuery({}),
    async handle(call) {
      const { db, params, search } = call
      const project = params.project!
      const asked = periodOf(search)
      const { after, limit } = pageFor(call)
      await markerKnown(db, after)
      const servers = await usedServers(db, asked, { project, after, limit })
      const more = limit !== null && servers.length > 0 && servers.length === limit
      return {
        tenant_usage: servers.length === 0 ? {} : projectUsage(project, servers, asked, true),
        ...(more ? { tenant_usage_links: nextLink(call, `/os-simple-tenant-usage/${project}`, servers.at(-1)!.id) } : {}),
      }
    },
  }),
]

/**
 * The usage audit of the month before `before`. Usage is computed from the rows whenever it is asked for, so no host ever has an audit left
 * to run: those that are there are done.
 */
async function auditLog({ db, env }: Pick<Call, 'db' | 'env'>, before: Date): Promise<object> {
  const end = new Date(Date.UTC(before.getUTCFullYear(), before.getUTCMonth(), 1))
  const begin = new Date(Date.UTC(end.getUTCFullYear(), end.getUTCMonth() - 1, 1))
  const services = await serviceRows(db).where('s.program', '=', 'nova-compute').orderBy('s.host').execute()
  const up = services.filter(service => isUp(env, service))
  const plain = (at: Date): string => bareTime(at).slice(0, 19).replace('T', ' ')
  return {
    period_beginning: plain(begin),
    period_ending: plain(end),
    num_hosts: services.length,
    num_hosts_done: up.length,
    num_hosts_running: 0,
    num_hosts_not_run: services.length - up.length,
    hosts_not_run: services.filter(service => !up.includes(service)).map(service => service.host),
    total_instances: 0,
    total_errors: 0,
    overall_status:
      up.length === services.length ? 'ALL hosts done. 0 errors.' : `${up.length} of ${services.length} hosts done. 0 errors.`,
    log: {},
  }
}

const auditRoutes: Route[] = [
  route({
    method: 'GET',
    path: '/os-instance_usage_audit_log',
    policy: 'os_compute_api:os-instance-usage-audit-log:list',
    handle: async call => ({ instance_usage_audit_logs: await auditLog(call, new Date()) }),
  }),
  route({
    method: 'GET',
    path: '/os-instance_usage_audit_log/:before',
    policy: 'os_compute_api:os-instance-usage-audit-log:show',
    async handle(call) {
      const text = call.params.before!
      const at = new Date(`${text.replace(' ', 'T')}Z`)
      if (!/^\d{4}-\d{2}-\d{2} \d{2}:\d{2}:\d{2}(\.\d+)?$/.test(text) || Number.isNaN(at.getTime())) {
        throw badRequest(`Invalid timestamp for date ${text}`)
      }
      return { instance_usage_audit_log: await auditLog(call, at) }
    },
  }),
]

export const usageRoutes: Route[] = [...tenantUsage, ...auditRoutes]
