/**
 * What nova asks of the services to its left, in one place and in nova's words. Each is a few lines over their index.ts; nova's own
 * code calls `neighbours.x(…)` and knows nothing more of them.
 */

import type { Config } from '#kit/config.ts'
import type { Context } from '#kit/context.ts'
import type { Query, Tx } from '#kit/db/index.ts'
import { badRequest, notFound } from '#kit/fault.ts'
import type { Env } from '#kit/service.ts'
import * as placement from '#services/placement/index.ts'
import { novaSettings } from './settings.ts'
import type { HostInventory } from './spec.ts'
import type { BuildAsked, ImageKept, NicKept } from './tables.ts'

/** What a server takes of a host. */
export interface Resources {
  VCPU: number
  MEMORY_MB: number
  DISK_GB: number
}

/** A host that has room, with what is free there (allocation ratios and reservations counted). */
export interface Candidate {
  /** Of the hypervisor and of the resource provider: one id. */
  id: string
  free: Resources
}

/** What hosts must offer beside room. */
export interface Demands {
  resources: Resources
  required: string[]
  forbidden: string[]
  /** Only these providers. */
  within?: string[]
}

/** Who owns what is made for a server. */
export interface Owner {
  serverId: string
  projectId: string
  userId: string
}

export interface ImageFound extends ImageKept {
  status: string
}

/** Hosts whose service is disabled have it. */
const DISABLED = 'COMPUTE_STATUS_DISABLED'

/** The amounts that are any. */
const some = (resources: Resources): Record<string, number> =>
  Object.fromEntries(Object.entries(resources).filter(([, amount]) => amount > 0))

export const neighbours = {
  /** Throws badRequest when Keystone knows no such project. */
  async projectKnown(_db: Query, _projectId: string): Promise<void> {},

  /** An image that the caller may use. Throws notFound. */
  async imageFetch(_db: Query, _ctx: Context, id: string): Promise<ImageFound> {
    throw notFound(`Image ${id} could not be found.`)
  },

  /** Hosts that have room and offer what is demanded: so many at most, drawn at random. */
  async candidates(db: Query, { resources, required, forbidden, within }: Demands, limit: number): Promise<Candidate[]> {
    const found = await placement.candidates(db, { resources: some(resources), required, forbidden, among: within, limit })
    return found.map(({ id, summary }) => {
      const free = (name: string): number => (summary[name] ? summary[name].capacity - summary[name].used : 0)
      return { id, free: { VCPU: free('VCPU'), MEMORY_MB: free('MEMORY_MB'), DISK_GB: free('DISK_GB') } }
    })
  },

  /** Takes resources of hosts for a consumer, in place of what it has. Throws conflict when they are not there any more. */
  async claim(tx: Tx, owner: Owner, wants: Record<string, Resources>, consumerId = owner.serverId): Promise<void> {
    const { projectId, userId } = owner
    const type = consumerId === owner.serverId ? 'INSTANCE' : 'MIGRATION'
    const amounts = Object.fromEntries(Object.entries(wants).map(([id, resources]) => [id, some(resources)]))
    await placement.claim(tx, consumerId, { projectId, userId, type }, amounts)
  },

  /** Gives back all that a consumer has. */
  release: (tx: Tx, consumerId: string): Promise<void> => placement.release(tx, consumerId),

  /** Tells what a host has. `disabled`: nothing new goes there. */
  async providerReport(tx: Tx, config: Config, id: string, inventory: HostInventory, disabled: boolean): Promise<void> {
    const settings = config.of(novaSettings)
    const of = (total: number, reserved: number, ratio: number): placement.Inventory => ({
      total,
      reserved: Math.min(reserved, total),
      min_unit: 1,
      max_unit: total,
      step_size: 1,
      allocation_ratio: ratio,
    })
    const inventories: Record<string, placement.Inventory> = {}
    if (inventory.vcpus > 0) inventories.VCPU = of(inventory.vcpus, settings.reserved_host_cpus, settings.cpu_allocation_ratio)
    if (inventory.memoryMb > 0) {
      inventories.MEMORY_MB = of(inventory.memoryMb, settings.reserved_host_memory_mb, settings.ram_allocation_ratio)
    }
    if (inventory.diskGb > 0) {
      const reserved = Math.ceil(settings.reserved_host_disk_mb / 1024)
      inventories.DISK_GB = of(inventory.diskGb, reserved, settings.disk_allocation_ratio)
    }
    const traits = disabled ? [...inventory.traits, DISABLED] : inventory.traits
    await placement.providerEnsure(tx, { id, name: inventory.hostname, inventories, traits })
  },

  /** Whether nothing new goes to a host. */
  providerDisable: (tx: Tx, id: string, disabled: boolean): Promise<void> =>
    placement.providerTraitSet(tx, id, DISABLED, disabled),

  /** The host is gone. False while something is allocated from it. */
  providerDelete: (tx: Tx, id: string): Promise<boolean> => placement.providerRemove(tx, id),

  /** The aggregates that a host is in, by their UUIDs. */
  providerAggregates: (tx: Tx, id: string, aggregates: readonly string[]): Promise<void> =>
    placement.providerAggregatesSet(tx, id, aggregates),

  /**
   * Checks the networks asked for `count` servers before anything is made: that they exist, may be used and are unambiguous; that
   * ports are free; that the quota has room. Answers what to take: the one network that there is in place of nothing asked.
   */
  async networksCheck(_db: Query, _ctx: Context, asked: BuildAsked['networks'], _count: number): Promise<BuildAsked['networks']> {
    if (asked !== 'none' && asked !== 'auto' && asked.length > 0) throw badRequest('There is no network.')
    return 'none'
  },

  /** Security groups by name or id, as id and name. Throws badRequest for one that is unknown. */
  async securityGroups(_db: Query, _ctx: Context, names: readonly string[]): Promise<{ id: string; name: string }[]> {
    return names.map(name => ({ id: name, name }))
  },

  /** The groups of a server's ports as shown: those of these ids, or the project's default group for none. */
  async securityGroupsOf(_db: Query, _projectId: string, ids: readonly string[]): Promise<{ id: string; name: string }[]> {
    return ids.map(id => ({ id, name: id }))
  },

  /** Makes and binds a server's ports on a host. Runs twice harmlessly: ports are known by their server and place. */
  async portsTake(
    _tx: Tx,
    _owner: Owner,
    _host: string,
    _asked: { networks: BuildAsked['networks']; securityGroups: string[]; hostname: string; zone: string },
  ): Promise<NicKept[]> {
    return []
  },

  /** Adds a group to all ports of a server or takes it away. Throws notFound for an unknown group. */
  async securityGroupOfServer(
    _env: Env,
    _tx: Tx,
    _server: { id: string; project_id: string },
    name: string,
    _verb: 'add' | 'remove',
  ): Promise<void> {
    throw notFound(`Security group ${name} not found.`)
  },

  /** Whether these ports are wired on their host; throws when one cannot be. */
  async portsWired(_db: Query, _portIds: readonly string[]): Promise<boolean> {
    return true
  },

  /** Deletes the ports that nova made for a server, and frees the others. */
  async portsRelease(_tx: Tx, _serverId: string): Promise<void> {},

  /** The bytes of an image, for a host that runs a server of it. */
  async imageBytes(_env: Env, id: string): Promise<{ size: number | null; bytes: AsyncIterable<Uint8Array> }> {
    throw notFound(`Image ${id} could not be found.`)
  },
}
