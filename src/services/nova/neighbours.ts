/**
 * What nova asks of the services to its left, in one place and in nova's words. Each is a few lines over their index.ts; nova's own
 * code calls `neighbours.x(…)` and knows nothing more of them.
 */
import type { Context } from '#kit/context.ts'
import { type Query, sql, type Tx } from '#kit/db/index.ts'
import { badRequest, conflict, notFound } from '#kit/fault.ts'
import type { Env } from '#kit/service.ts'
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

export const neighbours = {
  /** Throws badRequest when Keystone knows no such project. */
  async projectKnown(_db: Query, _projectId: string): Promise<void> {},

  /** An image that the caller may use. Throws notFound. */
  async imageFetch(_db: Query, _ctx: Context, id: string): Promise<ImageFound> {
    throw notFound(`Image ${id} could not be found.`)
  },

  /** Hosts that have room and offer what is demanded, those with the most free memory first. */
  async candidates(db: Query, { resources, within }: Demands, limit: number): Promise<Candidate[]> {
    const { rows } = await sql<Candidate & { vcpu: number; ram: number; disk: number }>`
      select h.id, h.vcpus * 4 - coalesce(u.vcpus, 0) as vcpu, h.memory_mb - 512 - coalesce(u.ram, 0) as ram,
        h.disk_gb - coalesce(u.disk, 0) as disk
      from nova.hypervisors h left join (
        select host, sum(vcpus) as vcpus, sum(memory_mb) as ram, sum((flavor->>'root_gb')::int) as disk
        from nova.servers where host is not null group by host) u using (host)
      where ${within ? sql`h.id = any(${within})` : sql`true`}
      order by ram desc limit ${limit}`.execute(db)
    return rows
      .map(row => ({ id: row.id, free: { VCPU: row.vcpu, MEMORY_MB: row.ram, DISK_GB: row.disk } }))
      .filter(
        c => c.free.VCPU >= resources.VCPU && c.free.MEMORY_MB >= resources.MEMORY_MB && c.free.DISK_GB >= resources.DISK_GB,
      )
  },

  /** Takes the resources of a host for a consumer, in place of what it has. Throws conflict when they are not there any more. */
  async claim(tx: Tx, _owner: Owner, providerId: string, resources: Resources): Promise<void> {
    await sql`select 1 from nova.hypervisors where id = ${providerId} for update`.execute(tx)
    const found = await neighbours.candidates(tx, { resources, required: [], forbidden: [], within: [providerId] }, 1)
    if (found.length === 0) throw conflict(`Host ${providerId} has no room any more.`)
  },

  /** Gives back all that a consumer has. */
  async release(_tx: Tx, _consumerId: string): Promise<void> {},

  /** Tells what a host has. */
  async providerReport(_tx: Tx, _provider: { id: string; name: string; inventory: object; traits: string[] }): Promise<void> {},

  /** The host is gone. */
  async providerDelete(_tx: Tx, _id: string): Promise<void> {},

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
