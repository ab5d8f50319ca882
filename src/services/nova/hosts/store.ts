/** Compute hosts: services, hypervisors, aggregates, as the scheduler and the operators' APIs need them. */
import { randomUUID } from 'node:crypto'
import { json, type Query, type Selectable, sql, type Tx } from '#kit/db/index.ts'
import type { Env } from '#kit/service.ts'
import { neighbours } from '../neighbours.ts'
import type { HostInventory } from '../spec.ts'
import type { AggregatesTable, HypervisorsTable, ServicesTable } from '../tables.ts'

/** A service with when its host was last seen. */
export type Service = Selectable<ServicesTable> & { up: boolean; seen: Date | null }
export type Hypervisor = Selectable<HypervisorsTable> & { inventory: HostInventory }
export type Aggregate = Selectable<AggregatesTable>

/** The services, with whether what they run in is there: a host that is connected, or a controller that lives. */
export function serviceRows(db: Query) {
  return db
    .selectFrom('nova.services as s')
    .leftJoin('kit.host_states as h', j => j.onRef('h.name', '=', 's.host').on('s.program', '=', 'nova-compute'))
    .leftJoin('kit.controllers as c', j => j.onRef('c.name', '=', 's.host').on('s.program', '!=', 'nova-compute'))
    .selectAll('s')
    .select([
      sql<boolean>`coalesce(h.up, c.seen_at > now() - interval '30 seconds', false)`.as('up'),
      sql<Date | null>`coalesce(h.last_seen_at, c.seen_at)`.as('seen'),
    ])
}

/** Whether a service is there: by the link to its host here, or by what other controllers see. */
export const isUp = (env: Pick<Env, 'hosts'>, row: Pick<Service, 'forced_down' | 'up' | 'host'>): boolean =>
  !row.forced_down && (row.up || env.hosts.isConnected(row.host) || env.hosts.controller === row.host)

/** Of these hosts, those that are not here yet after a restart of this controller, but on their way: what is asked of them waits. */
export async function hostsReturning(
  db: Query,
  hosts: Pick<Env['hosts'], 'isConnected' | 'returningSince'>,
  among: readonly { host: string }[],
): Promise<Set<string>> {
  const since = hosts.returningSince()
  const away = among.filter(({ host }) => !hosts.isConnected(host)).map(({ host }) => host)
  if (!since || away.length === 0) return new Set()
  const rows = await db
    .selectFrom('kit.hosts')
    .select('name')
    .where('name', 'in', away)
    .where('last_seen_at', '>=', since)
    .execute()
  return new Set(rows.map(row => row.name))
}

/** Notes that this controller schedules and conducts. */
export async function controllerServices(env: Pick<Env, 'db' | 'hosts'>): Promise<void> {
  const programs = ['nova-conductor', 'nova-scheduler']
  await env.db.tx(async tx => {
    await tx
      .insertInto('nova.services')
      .values(programs.map(program => ({ id: randomUUID(), program, host: env.hosts.controller })))
      .onConflict(c => c.columns(['host', 'program']).doNothing())
      .execute()
  })
}

/**
 * Writes what a host said of itself: its service, its hypervisor, its resource provider. Returns the hypervisor's id. The rows of a host
 * that is not new change only where what it says differs.
 */
export async function hostReport(tx: Tx, env: Pick<Env, 'config'>, host: string, inventory: HostInventory): Promise<string> {
  const service = await tx
    .insertInto('nova.services')
    .values({ id: randomUUID(), program: 'nova-compute', host, last_seen: sql<Date>`now()` })
    .onConflict(c => c.columns(['host', 'program']).doUpdateSet({ last_seen: sql`now()` }))
    .returning('disabled')
    .executeTakeFirstOrThrow()
  const values = {
    hypervisor_hostname: inventory.hostname,
    hypervisor_type: inventory.hypervisorType,
    hypervisor_version: inventory.hypervisorVersion,
    host_ip: inventory.hostIp ?? null,
    vcpus: inventory.vcpus,
    memory_mb: inventory.memoryMb,
    disk_gb: inventory.diskGb,
    inventory: json(inventory),
    updated_at: sql<Date>`now()`,
  }
  const { id } = await tx
    .insertInto('nova.hypervisors')
    .values({ id: randomUUID(), host, ...values } as never)
    .onConflict(c => c.column('host').doUpdateSet(values as never))
    .returning('id')
    .executeTakeFirstOrThrow()
  await neighbours.providerReport(tx, env.config, { id, host }, inventory, service.disabled)
  return id
}

/** All aggregates. There are few. */
export const aggregates = (db: Query): Promise<Aggregate[]> =>
  db.selectFrom('nova.aggregates').selectAll().orderBy('id').execute()

/** The zone that each host is in by its aggregates; hosts in no zone are left out. */
export function zonesOf(all: readonly Aggregate[]): Map<string, string> {
  const zones = new Map<string, string>()
  for (const { metadata, hosts } of all) {
    if (metadata.availability_zone) for (const host of hosts) zones.set(host, metadata.availability_zone)
  }
  return zones
}
