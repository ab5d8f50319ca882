// What hosts say: that they are there and what they can do (hello), and how a round went (report).
import { randomUUID } from 'node:crypto'
import { json, type Query, sql } from '#kit/db/index.ts'
import { sagasPoke } from '#kit/saga/index.ts'
import type { Env } from '#kit/service.ts'
import { poke } from '#kit/task.ts'
import { neutronSettings } from '../settings.ts'
import type { NetFacts, NetReport } from '../verbs.ts'
import { BRIDGE_AGENT, bandwidthsTell } from './bandwidths.ts'
import { schedule } from './schedule.ts'

/** The agents that operators know, all of which are one program here. */
const AGENTS = [
  { agent_type: BRIDGE_AGENT, binary: 'neutron-linuxbridge-agent', topic: 'N/A' },
  { agent_type: 'DHCP agent', binary: 'neutron-dhcp-agent', topic: 'dhcp_agent' },
  { agent_type: 'L3 agent', binary: 'neutron-l3-agent', topic: 'l3_agent' },
  { agent_type: 'Metadata agent', binary: 'neutron-metadata-agent', topic: 'N/A' },
]

function configurationsOf(type: string, facts: NetFacts): Record<string, unknown> {
  const bridges = {
    interface_mappings: facts.physicalNetworks,
    tunneling_ip: facts.overlayAddress,
    resource_provider_bandwidths: facts.bandwidths ?? {},
    tunnel_types: facts.overlayAddress ? ['vxlan'] : [],
  }
  if (type === BRIDGE_AGENT)
    return { ...bridges, l2_population: true, features: facts.features, tools: facts.tools, problems: facts.problems }
  if (type === 'DHCP agent') return { dhcp_driver: 'dnsmasq', notifies_port_ready: true }
  if (type === 'L3 agent') return { agent_mode: 'legacy', interface_driver: 'linuxbridge', handle_internal_only_routers: true }
  return { metadata_proxy_socket: null }
}

/** A host has connected: its rows are made or renewed, and networks and routers that wait for a host are placed. */
export async function hostHello(env: Env, host: string, facts: NetFacts): Promise<void> {
  const zone = env.config.of(neutronSettings).availability_zone
  await env.db.tx(async tx => {
    const values = {
      overlay_address: facts.overlayAddress,
      physical_networks: json(facts.physicalNetworks),
      features: json(facts.features),
      problems: json(facts.problems),
    }
    await tx
      .insertInto('neutron.host_networks')
      .values({ host, ...values, revision: null, errors: json([]), reported_at: null })
      .onConflict(on => on.column('host').doUpdateSet(values))
      .execute()
    await tx
      .insertInto('neutron.agents')
      .values(
        AGENTS.map(agent => ({
          ...agent,
          id: randomUUID(),
          host,
          availability_zone: ['DHCP agent', 'L3 agent'].includes(agent.agent_type) ? zone : null,
          description: null,
          configurations: json(configurationsOf(agent.agent_type, facts)),
        })),
      )
      .onConflict(on =>
        on.columns(['host', 'agent_type']).doUpdateSet(eb => ({
          configurations: eb.ref('excluded.configurations'),
          started_at: sql`now()`,
          heartbeat_at: sql`now()`,
        })),
      )
      .execute()
    await bandwidthsTell(tx, host)
    poke(tx, schedule)
  })
}

/**
 * Writes what a host says of its ports, routers and floating IPs; sagas that wait for a port wake. Each statement is a transaction of its own
 * that does not wait for the disk: what is lost with the power is said again by the next report.
 */
export async function hostReport(env: Env, host: string, report: NetReport): Promise<void> {
  const db = env.db.read
  const ids = report.ports.map(port => port.id)
  // A port that waits for its tap is down, as users know it.
  const statuses = report.ports.map(port => (port.status === 'BUILD' ? 'DOWN' : port.status))
  // A report about some ports says nothing of the rest, unless it says that nothing could be done at all.
  const whole = report.full || report.errors.length > 0
  const { rows } = await sql<{ woken: string[] }>`
    with changed as (
      update neutron.ports p set status = v.status, updated_at = now()
      from (select * from unnest(${ids}::text[], ${statuses}::text[]) as v (id, status) order by id) v
      where p.id = v.id and p.host = ${host} and p.status <> v.status returning p.status, p.wake),
    heard as (
      update neutron.host_networks set errors = ${json(report.errors)}, reported_at = now(),
        revision = case when ${report.full} then ${report.revision} else revision end
      where ${whole} and host = ${host})
    select coalesce(json_agg(wake) filter (where wake is not null and status = 'ACTIVE'), '[]') as woken, ${NOT_DURABLE} from changed`.execute(
    db,
  )
  await sagasPoke(db, rows[0]!.woken)
  await statesReported(db, host, report)
}

const NOT_DURABLE = sql`set_config('synchronous_commit', 'off', true)`

async function statesReported(db: Query, host: string, { routers, floatingIps }: NetReport): Promise<void> {
  if (routers.length > 0) {
    await sql`
      update neutron.routers r set status = v.status from unnest(${routers.map(r => r.id)}::text[], ${routers.map(r => r.status)}::text[]) as v (id, status)
      where r.id = v.id and r.status <> v.status
        and exists (select from neutron.router_bindings b where b.router_id = r.id and b.host = ${host})`.execute(db)
  }
  if (floatingIps.length > 0) {
    await sql`
      update neutron.floating_ips f set status = v.status
      from unnest(${floatingIps.map(f => f.id)}::text[], ${floatingIps.map(f => f.status)}::text[]) as v (id, status)
      where f.id = v.id and f.status <> v.status and f.port_id is not null
        and exists (select from neutron.router_bindings b where b.router_id = f.router_id and b.host = ${host})`.execute(db)
  }
}
