/** What hangs on a server: metadata, tags, addresses, security groups, the guest's password, diagnostics, topology. */
import { badRequest, conflict, type Fault, notFound, notImplemented, overQuota } from '#kit/fault.ts'
import { type Call, type Route, route } from '#kit/http/route.ts'
import * as S from '#kit/http/schema.ts'
import { call as ask } from '#kit/link/index.ts'
import { Metadata, query, Tag } from '../fields.ts'
import { neighbours } from '../neighbours.ts'
import { fits, projectLimits } from '../quotas/limits.ts'
import type { Diagnostics } from '../spec.ts'
import { diagnostics } from '../verbs.ts'
import { V } from '../versions.ts'
import { serverTarget } from './routes.ts'
import { mustBeUnlocked, type Server, serverTake, serverUpdate, stateConflict } from './store.ts'
import { addressesOf } from './view.ts'

const CLOSED = { additionalProperties: false }
const STEADY = ['active', 'paused', 'suspended', 'stopped']
const MAX_TAGS = 50

/** Refuses a change of what hangs on a server while it is neither running nor at rest. */
function mustBeSteady(server: Server, action: string): void {
  if (!STEADY.includes(server.vm_state)) throw stateConflict(action, server.id, 'vm_state', server.vm_state)
}

type OnServer = Call<unknown, unknown, Server>

/** Changes a server's metadata as `change` says, within the quota. Returns what it is then. */
async function metadataChange(
  { ctx, env, params }: Pick<OnServer, 'ctx' | 'env' | 'params'>,
  action: string,
  change: (metadata: Record<string, string>) => Record<string, string>,
): Promise<Record<string, string>> {
  return env.db.tx(async tx => {
    const server = await serverTake(tx, ctx, params.id!)
    mustBeUnlocked(ctx, server)
    mustBeSteady(server, action)
    const metadata = change(server.metadata)
    const limits = await projectLimits(tx, env.config, server.project_id)
    if (!fits(limits.metadata_items, Object.keys(metadata).length)) {
      throw overQuota(`Maximum number of metadata items exceeds ${limits.metadata_items}`)
    }
    await serverUpdate(tx, server.id, { metadata })
    return metadata
  })
}

const noItem = (): Fault => notFound('Metadata item was not found')
const metadataBody = S.Object({ metadata: Metadata() }, CLOSED)

const metadataRoutes: Route[] = [
  route({
    method: 'GET',
    path: '/servers/:id/metadata',
    policy: 'os_compute_api:server-metadata:index',
    query: query({}, V.flavorName),
    target: serverTarget,
    handle: ({ target }) => ({ metadata: target.metadata }),
  }),
  route({
    method: 'POST',
    path: '/servers/:id/metadata',
    policy: 'os_compute_api:server-metadata:create',
    target: serverTarget,
    body: metadataBody,
    handle: async call => ({
      metadata: await metadataChange(call, 'update metadata', old => ({ ...old, ...call.body.metadata })),
    }),
  }),
  route({
    method: 'PUT',
    path: '/servers/:id/metadata',
    policy: 'os_compute_api:server-metadata:update_all',
    target: serverTarget,
    body: metadataBody,
    handle: async call => ({ metadata: await metadataChange(call, 'update metadata', () => call.body.metadata) }),
  }),
  route({
    method: 'GET',
    path: '/servers/:id/metadata/:key',
    policy: 'os_compute_api:server-metadata:show',
    query: query({}, V.flavorName),
    target: serverTarget,
    handle({ target, params }) {
      const key = params.key!
      if (!Object.hasOwn(target.metadata, key)) throw noItem()
      return { meta: { [key]: target.metadata[key] } }
    },
  }),
  route({
    method: 'PUT',
    path: '/servers/:id/metadata/:key',
    policy: 'os_compute_api:server-metadata:update',
    target: serverTarget,
    body: S.Object(
      {
        meta: S.Unsafe<Record<string, string>>({
          type: 'object',
          patternProperties: { '^[a-zA-Z0-9-_:. ]{1,255}$': { type: 'string', maxLength: 255 } },
          additionalProperties: false,
          minProperties: 1,
          maxProperties: 1,
        }),
      },
      CLOSED,
    ),
    async handle(call) {
      const { meta } = call.body
      if (!Object.hasOwn(meta, call.params.key!)) throw badRequest('Request body and URI mismatch')
      await metadataChange(call, 'update metadata', old => ({ ...old, ...meta }))
      return { meta }
    },
  }),
  route({
    method: 'DELETE',
    path: '/servers/:id/metadata/:key',
    success: 204,
    policy: 'os_compute_api:server-metadata:delete',
    target: serverTarget,
    async handle(call) {
      const key = call.params.key!
      await metadataChange(call, 'delete metadata', old => {
        if (!Object.hasOwn(old, key)) throw noItem()
        return Object.fromEntries(Object.entries(old).filter(([name]) => name !== key))
      })
    },
  }),
]

/** Changes a server's tags. Returns whether they changed. */
async function tagsChange(call: OnServer, action: string, change: (tags: string[]) => string[] | undefined): Promise<boolean> {
  const { ctx, env, params } = call
  return env.db.tx(async tx => {
    const server = await serverTake(tx, ctx, params.id!)
    mustBeSteady(server, action)
    const tags = change(server.tags)
    if (!tags) return false
    if (tags.length > MAX_TAGS) throw badRequest(`The number of tags exceeded the per-server limit ${MAX_TAGS}`)
    await serverUpdate(tx, server.id, { tags })
    return true
  })
}

const noTag = ({ params }: OnServer): Fault => notFound(`Server ${params.id} has no tag '${params.tag}'`)
const tagged = { since: V.tags, target: serverTarget }

const tagRoutes: Route[] = [
  route({
    ...tagged,
    method: 'GET',
    path: '/servers/:id/tags',
    policy: 'os_compute_api:os-server-tags:index',
    query: query({}, V.flavorName),
    handle: ({ target }) => ({ tags: target.tags }),
  }),
  route({
    ...tagged,
    method: 'PUT',
    path: '/servers/:id/tags',
    policy: 'os_compute_api:os-server-tags:update_all',
    body: S.Object({ tags: S.Array(Tag(), { maxItems: MAX_TAGS }) }, CLOSED),
    async handle(call) {
      const tags = [...new Set(call.body.tags)]
      await tagsChange(call, 'update tags', () => tags)
      return { tags }
    },
  }),
  route({
    ...tagged,
    method: 'DELETE',
    path: '/servers/:id/tags',
    success: 204,
    policy: 'os_compute_api:os-server-tags:delete_all',
    async handle(call) {
      await tagsChange(call, 'delete tags', () => [])
    },
  }),
  route({
    ...tagged,
    method: 'GET',
    path: '/servers/:id/tags/:tag',
    success: 204,
    policy: 'os_compute_api:os-server-tags:show',
    query: query({}, V.flavorName),
    handle(call) {
      if (!call.target.tags.includes(call.params.tag!)) throw noTag(call)
    },
  }),
  route({
    ...tagged,
    method: 'PUT',
    path: '/servers/:id/tags/:tag',
    success: 201,
    policy: 'os_compute_api:os-server-tags:update',
    async handle(call) {
      const tag = call.params.tag!
      if (!/^[^,/]{1,60}$/u.test(tag)) {
        throw badRequest(`Tag '${tag}' is invalid. It must be a non empty string of at most 60 characters without '/' and ','.`)
      }
      const added = await tagsChange(call, 'update tag', tags => (tags.includes(tag) ? undefined : [...tags, tag]))
      if (added) call.reply.headers.Location = call.self(`/servers/${call.target.id}/tags/${encodeURIComponent(tag)}`)
      else call.reply.status = 204
    },
  }),
  route({
    ...tagged,
    method: 'DELETE',
    path: '/servers/:id/tags/:tag',
    success: 204,
    policy: 'os_compute_api:os-server-tags:delete',
    async handle(call) {
      const tag = call.params.tag!
      await tagsChange(call, 'delete tag', tags => {
        if (!tags.includes(tag)) throw noTag(call)
        return tags.filter(other => other !== tag)
      })
    },
  }),
]

const addressRoutes: Route[] = [
  route({
    method: 'GET',
    path: '/servers/:id/ips',
    policy: 'os_compute_api:ips:index',
    query: query({}, V.flavorName),
    target: serverTarget,
    handle: async ({ db, target }) => ({ addresses: addressesOf(await nicsOf(db, target), false) }),
  }),
  route({
    method: 'GET',
    path: '/servers/:id/ips/:network',
    policy: 'os_compute_api:ips:show',
    query: query({}, V.flavorName),
    target: serverTarget,
    async handle({ db, target, params }) {
      const addresses = addressesOf(await nicsOf(db, target), false)
      const network = params.network!
      if (!Object.hasOwn(addresses, network)) throw notFound('Instance is not a member of specified network')
      return { [network]: addresses[network] }
    },
  }),
]

const nicsOf = async (db: OnServer['db'], server: Server) => (await neighbours.nicsNow(db, [server])).get(server.id) ?? []

const passwordRoutes: Route[] = [
  route({
    method: 'GET',
    path: '/servers/:id/os-server-password',
    policy: 'os_compute_api:os-server-password:show',
    query: query({}, V.flavorName),
    target: serverTarget,
    handle: ({ target }) => ({ password: target.password ?? '' }),
  }),
  route({
    method: 'DELETE',
    path: '/servers/:id/os-server-password',
    success: 204,
    policy: 'os_compute_api:os-server-password:clear',
    target: serverTarget,
    async handle({ env, target }) {
      await env.db.tx(tx => serverUpdate(tx, target.id, { password: null }))
    },
  }),
]

/** The form that all drivers share since 2.48. */
const standard = (d: Diagnostics) => ({
  state: d.state,
  driver: d.driver,
  hypervisor: d.hypervisor,
  hypervisor_os: d.hypervisorOs,
  uptime: d.uptimeSeconds,
  config_drive: d.configDrive,
  num_cpus: d.cpus.length,
  num_nics: d.nics.length,
  num_disks: d.disks.length,
  cpu_details: d.cpus.map(cpu => ({ id: cpu.id, time: cpu.timeNs, utilisation: cpu.utilisation })),
  memory_details: { maximum: d.memory.maximumMb, used: d.memory.usedMb },
  disk_details: d.disks.map(disk => ({
    read_bytes: disk.readBytes,
    read_requests: disk.readRequests,
    write_bytes: disk.writeBytes,
    write_requests: disk.writeRequests,
    errors_count: disk.errorsCount,
  })),
  nic_details: d.nics.map(nic => ({
    mac_address: nic.mac,
    rx_octets: nic.rxOctets,
    rx_errors: nic.rxErrors,
    rx_drop: nic.rxDrop,
    rx_packets: nic.rxPackets,
    rx_rate: nic.rxRate,
    tx_octets: nic.txOctets,
    tx_errors: nic.txErrors,
    tx_drop: nic.txDrop,
    tx_packets: nic.txPackets,
    tx_rate: nic.txRate,
  })),
})

/** The older form: a flat list of numbers. */
const flat = (d: Diagnostics): Record<string, number | null> => ({
  ...Object.fromEntries(d.cpus.map(cpu => [`cpu${cpu.id}_time`, cpu.timeNs])),
  memory: d.memory.maximumMb * 1024,
  'memory-actual': (d.memory.usedMb ?? d.memory.maximumMb) * 1024,
  ...Object.fromEntries(
    d.disks.flatMap((disk, i) => {
      const name = `vd${String.fromCharCode(97 + i)}`
      return [
        [`${name}_read`, disk.readBytes],
        [`${name}_read_req`, disk.readRequests],
        [`${name}_write`, disk.writeBytes],
        [`${name}_write_req`, disk.writeRequests],
        [`${name}_errors`, disk.errorsCount],
      ]
    }),
  ),
})

const diagnosticsRoute = route({
  method: 'GET',
  path: '/servers/:id/diagnostics',
  policy: 'os_compute_api:os-server-diagnostics',
  query: query({}, V.flavorName),
  target: serverTarget,
  async handle({ env, target, version, signal }) {
    if (target.host === null) throw conflict(`Instance ${target.id} is not ready`)
    if (!['active', 'paused', 'suspended', 'rescued'].includes(target.vm_state)) {
      throw stateConflict('get_diagnostics', target.id, 'vm_state', target.vm_state)
    }
    const found = await ask(env, target.host, diagnostics, { id: target.id }, { signal })
    return version >= V.diagnostics ? standard(found) : flat(found)
  },
})

const topologyRoute = route({
  method: 'GET',
  path: '/servers/:id/topology',
  since: V.topology,
  policy: 'compute:server:topology:index',
  query: query({}, V.flavorName),
  target: serverTarget,
  // Guests are given no NUMA nodes of their own: there is nothing to tell of them.
  handle: () => ({ nodes: [], pagesize_kb: null }),
})

const sharesRoute = route({
  method: 'GET',
  path: '/servers/:id/shares',
  since: V.shares,
  policy: 'os_compute_api:os-server-shares:index',
  target: serverTarget,
  handle: () => ({ shares: [] }),
})

const sharesCreate = route({
  method: 'POST',
  path: '/servers/:id/shares',
  since: V.shares,
  policy: 'os_compute_api:os-server-shares:create',
  target: serverTarget,
  handle() {
    throw notImplemented('There is no shared file system service.')
  },
})

export const serverPartRoutes: Route[] = [
  ...metadataRoutes,
  ...tagRoutes,
  ...addressRoutes,
  ...passwordRoutes,
  diagnosticsRoute,
  topologyRoute,
  sharesRoute,
  sharesCreate,
]
