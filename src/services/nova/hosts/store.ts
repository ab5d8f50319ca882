/** Compute hosts: services, hypervisors, aggregates, as the scheduler and the operators' APIs need them. */
import { randomUUID } from 'node:crypto'
import { json, type Query, type Selectable, sql, type Tx } from '#kit/db/index.ts'
import type { Env } from '#kit/service.ts'
import { neighbours } from '../neighbours.ts'
import type { HostInventory } from '../spec.ts'
import type { AggregatesTable, HypervisorsTable, ServicesTable } from '../tables.ts'

export type Service = Selectable<ServicesTable> & { up: boolean }
export type Hypervisor = Selectable<HypervisorsTable> & { inventory: HostInventory }
export type Aggregate = Selectable<AggregatesTable>

/** The services, with whether their host is connected to any controller now. */
export function services(db: Query) {
  return db
    .selectFrom('nova.services as s')
    .leftJoin('kit.host_states as h', 'h.name', 's.host')
    .selectAll('s')
    .select(sql<boolean>`coalesce(h.up, false) and not s.forced_down`.as('up'))
    .select('h.last_seen_at as seen')
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
  await neighbours.providerReport(tx, env.config, id, inventory, service.disabled)
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
