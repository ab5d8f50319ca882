import { sql } from '#kit/db/index.ts'
import { conflict, notFound } from '#kit/fault.ts'
import { type Call, route } from '#kit/http/route.ts'
import * as S from '#kit/http/schema.ts'
import { bool, idField, nullableText, shown } from '../api/attributes.ts'
import { visibleView } from '../api/authorize.ts'
import { rowById, rowsById } from '../api/read.ts'
import { type Row, resource } from '../api/resource.ts'
import { updateRow } from '../api/write.ts'
import { dhcpPlace, dhcpRelease } from '../dhcp/dhcp.ts'
import { gone, told } from '../faults.ts'
import { changed } from '../hosts/changed.ts'
import { errorsOf, errorText, type HostError } from '../hosts/errors.ts'
import { networks } from '../networks/networks.ts'
import { routers } from '../routers/routers.ts'
import { legsBind } from '../routers/store.ts'

const moment = (at: unknown): string =>
  (at as Date)
    .toISOString()
    .replace('T', ' ')
    .replace(/\.\d+Z$/, '')
const time = (column: string) => shown(S.String(), { column, read: moment, filter: false })
const UP = sql<boolean>`exists (select from kit.host_states s where s.name = neutron.agents.host and s.up)`

/** Agents: what runs for networks on each host. They come with their hosts; an administrator may switch them off. */
export const agents = resource({
  name: 'agent',
  plural: 'agents',
  path: '/agents',
  table: 'neutron.agents',
  standard: false,
  visible: null,
  verbs: ['list', 'show', 'update', 'delete'],
  gone: id => notFound(`Agent ${id} could not be found.`, { type: 'AgentNotFound' }),
  attributes: {
    id: idField,
    agent_type: shown(S.String()),
    binary: shown(S.String()),
    topic: shown(S.String()),
    host: shown(S.String()),
    admin_state_up: bool(undefined),
    created_at: time('created_at'),
    started_at: time('started_at'),
    heartbeat_timestamp: shown(S.String(), { column: null, read: (_, row) => moment(row.seen ?? row.heartbeat_at) }),
    alive: shown(S.Boolean(), { column: null, read: (_, row) => row.up }),
    configurations: shown(S.Unknown(), { filter: false, sort: false }),
    description: nullableText(255),
    availability_zone: shown(S.Nullable(S.String()), { nullable: true }),
    resources_synced: shown(S.Nullable(S.Boolean()), { column: null, read: () => null }),
  },
  columns: () => [
    UP.as('up'),
    sql<Date | null>`(select s.last_seen_at from kit.host_states s where s.name = neutron.agents.host)`.as('seen'),
    errorsOf('neutron.agents.host').as('errors'),
    sql<number>`(select count(*) from neutron.dhcp_bindings d where d.host = neutron.agents.host)`.as('served'),
    sql<number>`(select count(*) from neutron.router_bindings b where b.host = neutron.agents.host)`.as('routed'),
  ],
  filters: { alive: values => sql<boolean>`${UP} = ${S.toBoolean(values[0]) ?? false}` },
  view: (view, row) => ({ ...view, configurations: { ...(view.configurations as Row), ...counts(row), errors: errorsFor(row) } }),
  async update({ tx, row, changes }) {
    await updateRow(agents, tx, row.id as string, changes)
  },
})

const KINDS: Record<string, readonly HostError['kind'][]> = {
  'DHCP agent': ['dhcp'],
  'L3 agent': ['router'],
  'Metadata agent': ['metadata'],
}

/** What an agent could not do in its last round; what belongs to no other is the bridge agent's. */
function errorsFor(row: Row): string[] {
  const own = KINDS[row.agent_type as string]
  const others = Object.values(KINDS).flat()
  return (row.errors as HostError[]).filter(({ kind }) => (own ? own.includes(kind) : !others.includes(kind))).map(errorText)
}

function counts(row: Row): Row {
  if (row.agent_type === 'DHCP agent') return { networks: row.served }
  return row.agent_type === 'L3 agent' ? { routers: row.routed } : {}
}

/** The agent named in the path, which must be of a kind. */
async function agentOf(call: Call, id: string, kind: 'DHCP agent' | 'L3 agent'): Promise<Row> {
  const row = await rowById(agents, call.db, call.ctx, id)
  if (row.agent_type === kind) return row
  const type = kind === 'L3 agent' ? 'InvalidL3Agent' : 'InvalidDHCPAgent'
  throw conflict(`Agent ${id} is not a valid ${kind}${kind === 'L3 agent' ? ' or has been disabled' : ''}`, { type })
}

const bodyId = (call: Call, key: string): string => told((call.body as Row | undefined)?.[key] ?? '')

const views = (call: Call, rows: Row[]) => rows.map(row => visibleView(call.ctx, agents, row) ?? {})

/** Agents of a kind on the hosts that a network or router was given to. */
async function agentsOn(call: Call, kind: string, hosts: readonly string[]) {
  if (hosts.length === 0) return { agents: [] }
  const ids = await call.db
    .selectFrom('neutron.agents')
    .select('id')
    .where('agent_type', '=', kind)
    .where('host', 'in', [...hosts])
    .orderBy('host')
    .execute()
  return {
    agents: views(
      call,
      await rowsById(
        agents,
        call.db,
        call.ctx,
        ids.map(row => row.id),
      ),
    ),
  }
}

export const schedulerRoutes = [
  route({
    method: 'GET',
    path: '/agents/:id/dhcp-networks',
    policy: 'get_dhcp-networks',
    async handle(call) {
      const agent = await rowById(agents, call.db, call.ctx, call.params.id!)
      const ids = await call.db
        .selectFrom('neutron.dhcp_bindings')
        .select('network_id')
        .where('host', '=', agent.host as string)
        .execute()
      const rows =
        agent.agent_type === 'DHCP agent'
          ? await rowsById(
              networks,
              call.db,
              call.ctx,
              ids.map(row => row.network_id),
            )
          : []
      return { networks: rows.flatMap(row => visibleView(call.ctx, networks, row) ?? []) }
    },
  }),
  route({
    method: 'POST',
    path: '/agents/:id/dhcp-networks',
    success: 201,
    policy: 'create_dhcp-network',
    async handle(call) {
      const agent = await agentOf(call, call.params.id!, 'DHCP agent')
      const id = bodyId(call, 'network_id')
      await rowById(networks, call.db, call.ctx, id)
      const placed = await call.env.db.tx(tx => dhcpPlace(call.env, tx, id, agent.host as string))
      if (!placed)
        throw conflict(`The network ${id} has been already hosted by the DHCP Agent ${String(agent.id)}.`, {
          type: 'NetworkHostedByDHCPAgent',
        })
      return {}
    },
  }),
  route({
    method: 'DELETE',
    path: '/agents/:id/dhcp-networks/:network',
    success: 204,
    policy: 'delete_dhcp-network',
    async handle(call) {
      const agent = await agentOf(call, call.params.id!, 'DHCP agent')
      const id = call.params.network!
      await call.env.db.tx(async tx => {
        const there = await tx
          .selectFrom('neutron.dhcp_bindings')
          .select('host')
          .where('network_id', '=', id)
          .where('host', '=', agent.host as string)
          .executeTakeFirst()
        if (!there)
          throw conflict(`The network ${id} is not hosted by the DHCP agent ${String(agent.id)}.`, {
            type: 'NetworkNotHostedByDhcpAgent',
          })
        await dhcpRelease(call.env, tx, id, agent.host as string)
      })
    },
  }),
  route({
    method: 'GET',
    path: '/networks/:id/dhcp-agents',
    policy: 'get_dhcp-agents',
    async handle(call) {
      const rows = await call.db
        .selectFrom('neutron.dhcp_bindings')
        .select('host')
        .where('network_id', '=', call.params.id!)
        .execute()
      return agentsOn(
        call,
        'DHCP agent',
        rows.map(row => row.host),
      )
    },
  }),
  route({
    method: 'GET',
    path: '/agents/:id/l3-routers',
    policy: 'get_l3-routers',
    async handle(call) {
      const agent = await rowById(agents, call.db, call.ctx, call.params.id!)
      const ids = await call.db
        .selectFrom('neutron.router_bindings')
        .select('router_id')
        .where('host', '=', agent.host as string)
        .execute()
      const rows =
        agent.agent_type === 'L3 agent'
          ? await rowsById(
              routers,
              call.db,
              call.ctx,
              ids.map(row => row.router_id),
            )
          : []
      return { routers: rows.flatMap(row => visibleView(call.ctx, routers, row) ?? []) }
    },
  }),
  route({
    method: 'POST',
    path: '/agents/:id/l3-routers',
    success: 201,
    policy: 'create_l3-router',
    async handle(call) {
      const agent = await agentOf(call, call.params.id!, 'L3 agent')
      const id = bodyId(call, 'router_id')
      const host = agent.host as string
      await call.env.db.tx(async tx => {
        const router = await tx
          .selectFrom('neutron.routers')
          .select('id')
          .where('id', '=', id)
          .forNoKeyUpdate()
          .executeTakeFirst()
        if (!router) throw gone.router(id)
        const there = await tx.selectFrom('neutron.router_bindings').select('host').where('router_id', '=', id).executeTakeFirst()
        if (there?.host === host) return
        if (there)
          throw conflict(`The router ${id} has been already hosted by the L3 Agent ${String(agent.id)}.`, {
            type: 'RouterHostedByL3Agent',
          })
        await tx.insertInto('neutron.router_bindings').values({ router_id: id, host }).execute()
        await legsBind(tx, id, host)
        changed(call.env, tx, { hosts: [host] })
      })
      return {}
    },
  }),
  route({
    method: 'DELETE',
    path: '/agents/:id/l3-routers/:router',
    success: 204,
    policy: 'delete_l3-router',
    async handle(call) {
      const agent = await agentOf(call, call.params.id!, 'L3 agent')
      const host = agent.host as string
      await call.env.db.tx(async tx => {
        const { numDeletedRows } = await tx
          .deleteFrom('neutron.router_bindings')
          .where('router_id', '=', call.params.router!)
          .where('host', '=', host)
          .executeTakeFirst()
        if (numDeletedRows === 0n) {
          throw conflict(`The router ${call.params.router} is not hosted by L3 agent ${String(agent.id)}.`, {
            type: 'RouterNotHostedByL3Agent',
          })
        }
        await legsBind(tx, call.params.router!, '')
        changed(call.env, tx, { hosts: [host] })
      })
    },
  }),
  route({
    method: 'GET',
    path: '/routers/:id/l3-agents',
    policy: 'get_l3-agents',
    async handle(call) {
      const rows = await call.db
        .selectFrom('neutron.router_bindings')
        .select('host')
        .where('router_id', '=', call.params.id!)
        .execute()
      const { agents } = await agentsOn(
        call,
        'L3 agent',
        rows.map(row => row.host),
      )
      return { agents: agents.map(agent => ({ ...agent, ha_state: null })) }
    },
  }),
  route({
    method: 'GET',
    path: '/availability_zones',
    policy: 'get_availability_zone',
    async handle(call) {
      const { rows } = await sql<{ name: string; resource: string; up: boolean }>`
        select a.availability_zone as name, case a.agent_type when 'DHCP agent' then 'network' else 'router' end as resource,
          bool_or(a.admin_state_up) as up
        from neutron.agents a where a.availability_zone is not null group by 1, 2 order by 1, 2`.execute(call.db)
      const wanted = (name: string, value: string) => !call.search.has(name) || call.search.getAll(name).includes(value)
      const zones = rows.map(({ name, resource, up }) => ({ name, resource, state: up ? 'available' : 'unavailable' }))
      return {
        availability_zones: zones.filter(
          zone => wanted('name', zone.name) && wanted('resource', zone.resource) && wanted('state', zone.state),
        ),
      }
    },
  }),
]
