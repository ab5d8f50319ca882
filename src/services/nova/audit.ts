/** What must agree in Nova: servers and what they take of hosts, their ports, their guests on the hosts, the operations on them, quota. */
import { audit } from '#kit/audit.ts'
import type { Config } from '#kit/config.ts'
import { type Query, sql } from '#kit/db/index.ts'
import * as neutron from '#services/neutron/index.ts'
import * as placement from '#services/placement/index.ts'
import { projectLimits, serverUsage } from './quotas/limits.ts'
import { resourcesOf } from './servers/place.ts'
import { serverResource } from './servers/store.ts'
import type { HostThing } from './spec.ts'
import type { FlavorKept, ResizeKept } from './tables.ts'
import { inventory } from './verbs.ts'

interface Found {
  what: string
  id: string
  why: string
}

/** A server as far as it is compared. */
interface Row {
  id: string
  project_id: string
  host: string | null
  vm_state: string
  task_state: string | null
  flavor: FlavorKept
  nics: { portId: string }[]
  resize: ResizeKept | null
  /** An operation works on it: its rows are right, its host is on the way. */
  busy: boolean
}

/** States in which a server has a guest on its host. */
const WITH_GUEST = new Set(['active', 'stopped', 'paused', 'suspended', 'resized', 'rescued', 'soft-delete', 'shelved'])

export const novaAudit = audit<HostThing[]>({
  inventory,
  async findings({ db, config, hosts }) {
    const { rows } = await sql<Row>`
      select id, project_id, host, vm_state, task_state, flavor, nics, resize,
        exists (select from kit.sagas k where k.resource = 'nova.server:' || s.id) as busy
      from nova.servers s`.execute(db)
    const servers = new Map(rows.map(row => [row.id, row]))
    const parts = [
      onItself(rows),
      await operations(db),
      await allocations(db, servers),
      await ports(db, servers),
      guests(servers, hosts),
      await quota(db, config, rows),
    ]
    return parts.flat()
  },

  async unsettled(db, seconds) {
    const { rows } = await sql<{ id: string; vm_state: string; task_state: string | null; since: Date }>`
      select id, vm_state, task_state, updated_at as since from nova.servers
      where (task_state is not null or vm_state = 'building') and updated_at < now() - make_interval(secs => ${seconds})`.execute(
      db,
    )
    return rows.map(({ id, vm_state, task_state, since }) => ({
      what: 'server',
      id,
      state: task_state === null ? vm_state : `${vm_state} (${task_state})`,
      since,
      why: null,
    }))
  },
})

/** A server that says that something is being done to it has an operation. */
function onItself(rows: readonly Row[]): Found[] {
  return rows.flatMap(({ id, vm_state, task_state, host, busy }) => {
    const found: Found[] = []
    const doing = task_state ?? (vm_state === 'building' ? 'building' : null)
    if (doing !== null && !busy)
      found.push({ what: 'server', id, why: `it says that it is ${doing}, but no operation works on it` })
    if (WITH_GUEST.has(vm_state) && host === null) found.push({ what: 'server', id, why: `it is ${vm_state}, but on no host` })
    return found
  })
}

async function operations(db: Query): Promise<Found[]> {
  const { rows } = await sql<{ id: string; name: string }>`
    select substr(resource, length(${serverResource('')}) + 1) as id, name from kit.sagas k
    where starts_with(resource, ${serverResource('')})
      and not exists (select from nova.servers s where ${serverResource('')} || s.id = k.resource)`.execute(db)
  return rows.map(({ id, name }) => ({ what: 'operation', id, why: `${name} works on a server that does not exist` }))
}

const amounts = (resources: Record<string, number>): string =>
  Object.entries(resources)
    .filter(([, amount]) => amount > 0)
    .sort(([a], [b]) => (a < b ? -1 : 1))
    .map(([name, amount]) => `${amount} ${name}`)
    .join(', ') || 'nothing'

/** Each server takes of its host what its flavor says, and nobody else takes anything. */
async function allocations(db: Query, servers: ReadonlyMap<string, Row>): Promise<Found[]> {
  const found: Found[] = []
  const providers = await db.selectFrom('nova.hypervisors').select(['id', 'host']).execute()
  const hostOf = new Map(providers.map(({ id, host }) => [id, host]))
  const providerOf = new Map(providers.map(({ id, host }) => [host, id]))
  const migrations = new Map(
    (await db.selectFrom('nova.migrations').select(['uuid', 'server_id']).execute()).map(row => [row.uuid, row.server_id]),
  )
  const taken = new Map<string, { provider: string; root: string; resources: Record<string, number> }[]>()
  for (const { consumer, type, provider, root, resources } of await placement.allocationList(db, ['INSTANCE', 'MIGRATION'])) {
    const server = type === 'MIGRATION' ? migrations.get(consumer) : consumer
    if (server === undefined || !servers.has(server)) {
      const on = hostOf.get(root) ?? provider
      found.push({
        what: 'allocation',
        id: consumer,
        why: `it takes ${amounts(resources)} of ${on} for a server that does not exist`,
      })
    } else if (type === 'INSTANCE') taken.set(server, [...(taken.get(server) ?? []), { provider, root, resources }])
  }
  for (const { id, host, flavor, busy } of servers.values()) {
    // While an operation moves or resizes it, what it has on the way is the operation's business.
    if (busy) continue
    const has = taken.get(id) ?? []
    const want = host === null ? undefined : providerOf.get(host)
    const elsewhere = has.find(({ root }) => root !== want)
    if (elsewhere) {
      const on = hostOf.get(elsewhere.root) ?? elsewhere.provider
      found.push({
        what: 'allocation',
        id,
        why: `the server is ${host === null ? 'on no host' : `on host ${host}`}, but takes ${amounts(elsewhere.resources)} of ${on}`,
      })
    }
    if (host === null) continue
    if (want === undefined) {
      found.push({ what: 'server', id, why: `it is on host ${host}, which is no compute host` })
      continue
    }
    const [should, does] = [
      amounts({ ...resourcesOf(flavor) }),
      amounts(has.find(({ provider }) => provider === want)?.resources ?? {}),
    ]
    if (should !== does)
      found.push({ what: 'allocation', id, why: `the server takes ${does} of host ${host} and should take ${should}` })
  }
  return found
}

/** Ports of servers exist, say whose they are, and are bound where the server is; no port is bound for a server that does not exist. */
async function ports(db: Query, servers: ReadonlyMap<string, Row>): Promise<Found[]> {
  const found: Found[] = []
  const bound = new Map((await neutron.portsBound(db, 'compute:')).map(port => [port.id, port]))
  for (const { id, device, host } of bound.values()) {
    const server = servers.get(device)
    if (!server) found.push({ what: 'port', id, why: `it is bound on host ${host} for server ${device}, which does not exist` })
    else if (!server.busy && server.host !== host)
      found.push({ what: 'port', id, why: `it is bound on host ${host}, its server ${device} is on ${server.host ?? 'no host'}` })
  }
  for (const { id, nics, busy, host } of servers.values()) {
    if (busy || host === null) continue
    for (const { portId } of nics) {
      const port = bound.get(portId)
      if (port?.device !== id)
        found.push({ what: 'server', id, why: `its port ${portId} is ${port ? `server ${port.device}'s` : 'not bound'}` })
    }
  }
  return found
}

/** Each host that told has the guests of its servers and nothing else. */
function guests(servers: ReadonlyMap<string, Row>, hosts: ReadonlyMap<string, HostThing[]>): Found[] {
  const found: Found[] = []
  for (const [host, things] of hosts) {
    const there = new Set<string>()
    for (const { kind, name, guest, wanted } of things) {
      // A real host knows a guest by its folder, a pretended one by itself.
      if ((kind === 'guest' || kind === 'folder') && guest !== null && wanted) there.add(guest)
      if (!wanted) found.push({ what: kind, id: name, why: `host ${host} has it, and no guest asks for it` })
    }
    for (const id of there) {
      const server = servers.get(id)
      if (!server) found.push({ what: 'guest', id, why: `host ${host} has it, but there is no such server` })
      else if (!server.busy && server.host !== host && server.resize?.host !== host)
        found.push({ what: 'guest', id, why: `host ${host} has it, but the server is on ${server.host ?? 'no host'}` })
    }
    for (const { id, host: where, vm_state, busy } of servers.values()) {
      if (where === host && !busy && WITH_GUEST.has(vm_state) && !there.has(id))
        found.push({ what: 'guest', id, why: `host ${host} does not have it, but the server is there and ${vm_state}` })
    }
  }
  return found
}

async function quota(db: Query, config: Config, rows: readonly Row[]): Promise<Found[]> {
  const found: Found[] = []
  for (const project of new Set(rows.map(row => row.project_id))) {
    const [limits, used] = [await projectLimits(db, config, project), await serverUsage(db, project)]
    for (const resource of ['instances', 'cores', 'ram'] as const) {
      if (limits[resource] >= 0 && Number(used[resource]) > limits[resource])
        found.push({
          what: 'quota',
          id: project,
          why: `the project has ${used[resource]} ${resource}, its limit is ${limits[resource]}`,
        })
    }
  }
  return found
}
