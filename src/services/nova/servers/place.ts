/** Finds a server its place: a host by the scheduler, its resources, its ports, in the caller's transaction. */
import type { Query, Tx } from '#kit/db/index.ts'
import type { Env } from '#kit/service.ts'
import { neighbours, type Resources } from '../neighbours.ts'
import type { Placed, ScheduleRequest } from '../scheduler/request.ts'
import { schedule } from '../scheduler/scheduler.ts'
import type { FlavorKept } from '../tables.ts'
import { groupHosts } from './groups.ts'
import { noServer, type Server, serverLock, serverResource, serverUpdate } from './store.ts'

/** What a server of this flavor takes of a host. `resources:X` of the extra specs replaces an amount. */
export function resourcesOf(flavor: FlavorKept): Resources {
  const of: Resources = {
    VCPU: flavor.vcpus,
    MEMORY_MB: flavor.memory_mb,
    DISK_GB: flavor.root_gb + flavor.ephemeral_gb + Math.ceil(flavor.swap_mb / 1024),
  }
  for (const name of Object.keys(of) as (keyof Resources)[]) {
    const value = flavor.extra_specs[`resources:${name}`]
    if (value !== undefined && /^\d+$/.test(value)) of[name] = Number(value)
  }
  return of
}

async function hostsOf(db: Query, hint: unknown): Promise<string[] | null> {
  const ids = [hint].flat().filter((id): id is string => typeof id === 'string' && id !== '')
  if (ids.length === 0) return null
  const rows = await db.selectFrom('nova.servers').select('host').where('id', 'in', ids).where('host', 'is not', null).execute()
  return rows.map(row => row.host!)
}

/** The ports that its user brought: those that nova makes are promised nothing. */
function broughtPorts({ nics, build }: Server): string[] {
  if (nics.length > 0) return nics.flatMap(nic => (nic.ours ? [] : [nic.portId]))
  return Array.isArray(build.networks) ? build.networks.flatMap(nic => nic.port ?? []) : []
}

/** The scheduler's question for a server; `changes` for a move or a resize. */
export async function requestOf(db: Query, server: Server, changes: Partial<ScheduleRequest> = {}): Promise<ScheduleRequest> {
  const { build } = server
  return {
    serverId: server.id,
    projectId: server.project_id,
    flavor: server.flavor,
    image: server.image,
    resources: resourcesOf(changes.flavor ?? server.flavor),
    portRequests: await neighbours.portRequests(db, broughtPorts(server)),
    zone: server.pinned_zone,
    hints: build.hints,
    group: await groupHosts(db, server.group_id, server.id),
    sameHosts: await hostsOf(db, build.hints.same_host),
    differentHosts: await hostsOf(db, build.hints.different_host),
    forcedHost: build.forcedHost,
    forcedNode: build.forcedNode,
    requestedHost: build.requestedHost,
    requestedNode: build.requestedNode,
    excluded: [],
    ...changes,
  }
}

/** Places a new server: host, claim, ports, and the row says so: answered as it is now. Throws NoValidHost and what Neutron refuses. */
export async function serverPlace(tx: Tx, env: Env, id: string, excluded: string[]): Promise<{ placed: Placed; server: Server }> {
  const server = await serverLock(tx, id)
  if (!server) throw noServer(id)
  if (server.group_id !== null) {
    // Members of a group are placed one after another, so that each sees where the others are.
    await tx.selectFrom('nova.server_groups').select('id').where('id', '=', server.group_id).forUpdate().execute()
  }
  const owner = { serverId: id, projectId: server.project_id, userId: server.user_id }
  const placed = await schedule(tx, env, owner, await requestOf(tx, server, { excluded }))
  const { build } = server
  const { nics, securityGroups } = await neighbours.portsTake(env, tx, owner, placed.host, {
    networks: build.networks,
    securityGroups: build.securityGroups,
    hostname: server.hostname,
    zone: placed.zone,
    wake: serverResource(id),
  })
  const values = {
    host: placed.host,
    node: placed.node,
    availability_zone: placed.zone,
    task_state: 'spawning',
    nics,
    security_groups: securityGroups,
  }
  await serverUpdate(tx, id, values)
  return { placed, server: { ...server, ...values } }
}

/** Takes back what {@link serverPlace} did. */
export async function serverUnplace(env: Env, tx: Tx, id: string): Promise<void> {
  const server = await serverLock(tx, id)
  await neighbours.portsRelease(env, tx, id, server?.nics ?? [])
  await neighbours.release(tx, id)
  await serverUpdate(tx, id, { host: null, node: null, nics: [] })
}
