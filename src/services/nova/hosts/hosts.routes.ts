/** /os-hosts, until 2.42: hosts as they were before services and hypervisors; and the bare metal nodes that no Nova of ours has. */
import { badRequest, notFound, notImplemented } from '#kit/fault.ts'
import { type Call, type Route, route } from '#kit/http/route.ts'
import * as S from '#kit/http/schema.ts'
import { query, TEXT } from '../fields.ts'
import { novaSettings } from '../settings.ts'
import type { FlavorKept } from '../tables.ts'
import { V } from '../versions.ts'
import { aggregates, serviceRows, zonesOf } from './store.ts'

const until = V.noHosts - 1

const noHost = (host: string) => notFound(`Compute host ${host} could not be found.`)

async function hypervisorOf({ db, params }: Pick<Call, 'db' | 'params'>) {
  const row = await db.selectFrom('nova.hypervisors').selectAll().where('host', '=', params.host!).executeTakeFirst()
  if (!row) throw noHost(params.host!)
  return row
}

/** Totals of the host, what is used now, the most that is promised, and each project's share. */
async function resources(call: Call): Promise<object[]> {
  const node = await hypervisorOf(call)
  const servers = await call.db
    .selectFrom('nova.servers')
    .select(['project_id', 'flavor'])
    .where('host', '=', node.host)
    .execute()
  const sum = (of: { flavor: FlavorKept }[]) => ({
    cpu: of.reduce((n, { flavor }) => n + flavor.vcpus, 0),
    memory_mb: of.reduce((n, { flavor }) => n + flavor.memory_mb, 0),
    disk_gb: of.reduce((n, { flavor }) => n + flavor.root_gb + flavor.ephemeral_gb, 0),
  })
  const entry = (project: string, amounts: object) => ({ resource: { host: node.host, project, ...amounts } })
  return [
    entry('(total)', { cpu: node.vcpus, memory_mb: node.memory_mb, disk_gb: node.disk_gb }),
    entry('(used_now)', sum(servers)),
    entry('(used_max)', sum(servers)),
    ...[...Map.groupBy(servers, server => server.project_id)].map(([project, its]) => entry(project, sum(its))),
  ]
}

const power = (verb: string, rule: string): Route =>
  route({
    method: 'GET',
    path: `/os-hosts/:host/${verb}`,
    until,
    policy: `os_compute_api:os-hosts:${rule}`,
    async handle(call) {
      await hypervisorOf(call)
      throw notImplemented('The hypervisor of this host cannot turn its machine on or off.')
    },
  })

const bareMetal = (method: 'GET' | 'POST' | 'DELETE', path: string): Route =>
  route({
    method,
    path: `/os-baremetal-nodes${path}`,
    until: V.noProxies - 1,
    policy: method === 'GET' ? `os_compute_api:os-baremetal-nodes:${path === '' ? 'list' : 'show'}` : null,
    handle() {
      if (method === 'GET') throw notImplemented('There is no bare metal service.')
      throw badRequest('Command Not supported. Please use Ironic command to perform this action.')
    },
  })

export const hostRoutes: Route[] = [
  route({
    method: 'GET',
    path: '/os-hosts',
    until,
    policy: 'os_compute_api:os-hosts:list',
    query: query({ zone: TEXT }),
    async handle({ db, env, search }) {
      const settings = env.config.of(novaSettings)
      const zones = zonesOf(await aggregates(db))
      const hosts = (await serviceRows(db).orderBy('s.seq').execute()).map(({ host, program }) => ({
        host_name: host,
        service: program.replace(/^nova-/, ''),
        zone:
          program === 'nova-compute'
            ? (zones.get(host) ?? settings.default_availability_zone)
            : settings.internal_service_availability_zone,
      }))
      const zone = search.get('zone')
      return { hosts: zone ? hosts.filter(host => host.zone === zone) : hosts }
    },
  }),
  route({
    method: 'GET',
    path: '/os-hosts/:host',
    until,
    policy: 'os_compute_api:os-hosts:show',
    handle: async call => ({ host: await resources(call) }),
  }),
  route({
    method: 'PUT',
    path: '/os-hosts/:host',
    until,
    policy: 'os_compute_api:os-hosts:update',
    body: S.Object(
      {
        status: S.Optional(S.OneOf('enable', 'disable', 'Enable', 'Disable', 'ENABLE', 'DISABLE')),
        maintenance_mode: S.Optional(S.OneOf('enable', 'disable', 'Enable', 'Disable', 'ENABLE', 'DISABLE')),
      },
      { additionalProperties: false, minProperties: 1 },
    ),
    async handle(call) {
      await hypervisorOf(call)
      throw notImplemented('Hosts are enabled and disabled by os-services.')
    },
  }),
  power('startup', 'start'),
  power('shutdown', 'shutdown'),
  power('reboot', 'reboot'),
  bareMetal('GET', ''),
  bareMetal('POST', ''),
  bareMetal('GET', '/:id'),
  bareMetal('DELETE', '/:id'),
  bareMetal('POST', '/:id/action'),
]
