/**
 * What nova asks of the services to its left, in one place and in nova's words. Each is a few lines over their index.ts; nova's own
 * code calls `neighbours.x(…)` and knows nothing more of them.
 */

import type { Config } from '#kit/config.ts'
import type { Context } from '#kit/context.ts'
import type { Query, Tx } from '#kit/db/index.ts'
import { badRequest, Fault } from '#kit/fault.ts'
import type { Env } from '#kit/service.ts'
import * as glance from '#services/glance/index.ts'
import * as keystone from '#services/keystone/index.ts'
import * as placement from '#services/placement/index.ts'
import { type Owner, type PortRequest, portNeighbours } from './neighbours.ports.ts'
import { novaSettings } from './settings.ts'
import type { HostInventory } from './spec.ts'
import type { ImageKept } from './tables.ts'

export type { Interface, Owner, PortRequest } from './neighbours.ports.ts'

/** What a server takes of a host. */
export interface Resources {
  VCPU: number
  MEMORY_MB: number
  DISK_GB: number
}

/** What is taken of the parts of a host: provider → class → amount. */
export type Taken = Record<string, Record<string, number>>

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

/** An image that Nova makes. */
export interface ImageMade {
  name: string
  projectId: string
  format: string
  minDisk: number
  minRam: number
  properties: Record<string, string>
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
  async projectKnown(db: Query, projectId: string): Promise<void> {
    try {
      await keystone.projectFetch(db, projectId)
    } catch (error) {
      if (!(error instanceof Fault) || error.kind !== 'notFound') throw error
      throw badRequest(`Project ID ${projectId} is not a valid project.`, { cause: error })
    }
  },

  /** An image that the caller may use. Throws notFound. */
  async imageFetch(db: Query, ctx: Context, id: string): Promise<ImageFound> {
    const image = await glance.imageFetch(db, ctx.as('glance'), id)
    return {
      id: image.id,
      name: image.name,
      diskFormat: image.disk_format ?? 'raw',
      containerFormat: image.container_format,
      size: image.size,
      minDisk: image.min_disk,
      minRam: image.min_ram,
      ...(image.os_hash_value !== null && { checksum: { algorithm: 'sha512' as const, hex: image.os_hash_value } }),
      properties: image.properties,
      status: image.status,
    }
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
  async claim(
    tx: Tx,
    owner: Owner,
    wants: Record<string, Resources>,
    { consumerId = owner.serverId, below = {} }: { consumerId?: string; below?: Taken } = {},
  ): Promise<void> {
    const { projectId, userId } = owner
    const type = consumerId === owner.serverId ? 'INSTANCE' : 'MIGRATION'
    const amounts = Object.fromEntries(Object.entries(wants).map(([id, resources]) => [id, some(resources)]))
    await placement.claim(tx, consumerId, { projectId, userId, type }, { ...amounts, ...below })
  },

  /** What one consumer has is the other's, in place of what that has. False: it has nothing. */
  async claimsPass(tx: Tx, owner: Owner, from: string, to: string): Promise<boolean> {
    const has = (await placement.allocationsOf(tx, [from])).get(from)
    if (!has) return false
    await placement.release(tx, from)
    const type = to === owner.serverId ? 'INSTANCE' : 'MIGRATION'
    await placement.claim(tx, to, { projectId: owner.projectId, userId: owner.userId, type }, has)
    return true
  },

  /** What is to be taken below each of these hosts' providers for what ports ask; those that have not enough left are left out. */
  below: (db: Query, hosts: readonly string[], requests: readonly PortRequest[]): Promise<Map<string, Taken>> =>
    placement.nestedFit(db, hosts, requests),

  /** Gives back all that a consumer has. */
  release: (tx: Tx, consumerId: string): Promise<void> => placement.release(tx, consumerId),

  /** Tells what a host has. `disabled`: nothing new goes there. */
  async providerReport(
    tx: Tx,
    config: Config,
    { id, host }: { id: string; host: string },
    inventory: HostInventory,
    disabled: boolean,
  ): Promise<void> {
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
    // What is below it follows when it is new, or something else now.
    if (await placement.providerEnsure(tx, { id, name: inventory.hostname, inventories, traits }))
      await portNeighbours.bandwidths(tx, host, id)
  },

  /** Whether nothing new goes to a host. */
  providerDisable: (tx: Tx, id: string, disabled: boolean): Promise<void> =>
    placement.providerTraitSet(tx, id, DISABLED, disabled),

  /** The host is gone. False while something is allocated from it. */
  providerDelete: (tx: Tx, id: string): Promise<boolean> => placement.providerRemove(tx, id),

  /** The aggregates that a host is in, by their UUIDs. */
  providerAggregates: (tx: Tx, id: string, aggregates: readonly string[]): Promise<void> =>
    placement.providerAggregatesSet(tx, id, aggregates),

  /** A new image of a project that waits for its bytes. Returns its id. */
  async imageNew(tx: Tx, image: ImageMade): Promise<string> {
    const { id } = await glance.imageRegister(tx, {
      name: image.name,
      owner: image.projectId,
      visibility: 'private',
      disk_format: image.format,
      container_format: 'bare',
      min_disk: image.minDisk,
      min_ram: image.minRam,
      properties: image.properties,
    })
    return id
  },

  /** Gives an image its bytes. Does nothing for one that has them. Throws notFound where the image is gone, and what Glance refuses. */
  async imageUpload(env: Env, id: string, bytes: () => Promise<{ size: number; bytes: AsyncIterable<Buffer> }>): Promise<void> {
    const image = await glance.imageAny(env.db.read, id)
    if (image.status === 'active') return
    const { size, bytes: stream } = await bytes()
    await glance.imageFill(env, image, stream, undefined, size)
  },

  /** Removes an image that Nova made. Fine when it is gone. */
  imageRemove: (tx: Tx, id: string): Promise<void> => glance.imageRemove(tx, id),

  /** The images of a project with these properties, the newest first. */
  imagesWith: async (db: Query, projectId: string, properties: Record<string, string>): Promise<string[]> =>
    (await glance.imagesWith(db, projectId, properties)).map(image => image.id),

  /** The bytes of an image, for a host that runs a server of it. */
  async imageBytes(env: Env, id: string): Promise<{ size: number | null; bytes: AsyncIterable<Uint8Array> }> {
    const { size, stream } = await glance.imageOpen(env, id)
    return { size, bytes: stream }
  },

  ...portNeighbours,
}
