/** What happens to a request for new servers before any saga: it is read, checked against everything, and written with its quota. */
import { randomBytes, randomUUID } from 'node:crypto'
import type { Context } from '#kit/context.ts'
import type { Query, Tx } from '#kit/db/index.ts'
import { badRequest, Fault, forbidden, overQuota } from '#kit/fault.ts'
import type { Call } from '#kit/http/route.ts'
import { toBoolean } from '#kit/http/schema.ts'
import { sagaStart } from '#kit/saga/index.ts'
import type { Env } from '#kit/service.ts'
import { actionsBegin } from '../actions/store.ts'
import { addressText, wholeOf } from '../fields.ts'
import { type Flavor, flavorFetch } from '../flavors/store.ts'
import { aggregates, zonesOf } from '../hosts/store.ts'
import { keypairFetch } from '../keypairs/store.ts'
import { type ImageFound, neighbours } from '../neighbours.ts'
import { fits, projectLimits, serversAllowed } from '../quotas/limits.ts'
import { hostMustExist } from '../scheduler/scheduler.ts'
import { novaSettings } from '../settings.ts'
import type { BuildAsked, FlavorKept, ImageKept, NetworkAsked, ServersTable } from '../tables.ts'
import { V } from '../versions.ts'
import type { CreateBody, NetworkBody } from './create.body.ts'
import { createServer } from './create.saga.ts'
import { disksAsked } from './disks.ts'
import { groupJoin } from './groups.ts'
import { serverResource, serversInsert } from './store.ts'

type Asked = CreateBody['server']

export interface Reserved {
  ids: string[]
  reservationId: string
  diskConfig: string
  adminPassword: string
}

/** What was read of a request, the same for all its servers. */
interface Draft {
  flavor: FlavorKept
  image: ImageKept | null
  zone: string | null
  key: { name: string; type: string; public_key: string } | null
  build: BuildAsked
  groupId: string | null
  min: number
  max: number
}

const REASONS_400 = new Set(['notFound'])
/** What is not there is the request's mistake here, not the URL's. */
export async function named<T>(found: Promise<T>, message?: string): Promise<T> {
  try {
    return await found
  } catch (error) {
    if (error instanceof Fault && REASONS_400.has(error.kind)) throw badRequest(message ?? error.message, { cause: error })
    throw error
  }
}

export const keptFlavor = (flavor: Flavor): FlavorKept => ({
  id: flavor.id,
  name: flavor.name,
  vcpus: flavor.vcpus,
  memory_mb: flavor.memory_mb,
  root_gb: flavor.root_gb,
  ephemeral_gb: flavor.ephemeral_gb,
  swap_mb: flavor.swap_mb,
  rxtx_factor: flavor.rxtx_factor,
  extra_specs: flavor.extra_specs,
})

export function keptImage({ status: _, ...image }: ImageFound): ImageKept {
  return image
}

/** A password as upstream makes it: 12 characters of those that are not mistaken for one another. */
export function newPassword(): string {
  const letters = '23456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz'
  return [...randomBytes(12)].map(byte => letters[byte % letters.length]).join('')
}

/** A host name out of a server's name, as RFC 952 allows. `fallback` where nothing is left. */
export function hostnameOf(name: string, fallback: string): string {
  const host = name
    .normalize('NFKD')
    .replace(/[ _.]/g, '-')
    .replace(/[^A-Za-z0-9-]/g, '')
    .toLowerCase()
    .slice(0, 63)
    .replace(/^[.-]+|[.-]+$/g, '')
  return host || fallback
}

/** Splits `zone:host:node` (`zone::node`, `zone:host`). Throws badRequest. */
export function parseZone(text: string | undefined): { zone: string | null; host: string | null; node: string | null } {
  const parts = (text ?? '').split(':')
  if (parts.length > 3) throw badRequest('Invalid input received: Unable to parse availability_zone')
  const [zone, host, node] = parts.map(part => part || null)
  return { zone: zone ?? null, host: host ?? null, node: node ?? null }
}

/** Networks of the body in nova's own form: an empty list is "nothing said". Throws badRequest. */
export function networksOf(networks: NetworkBody[] | 'auto' | 'none' | undefined): BuildAsked['networks'] {
  if (networks === 'auto' || networks === 'none') return networks
  return (networks ?? []).map(({ uuid, port, fixed_ip, tag }): NetworkAsked => {
    if (port && fixed_ip) {
      throw badRequest(
        `Specified Fixed IP '${fixed_ip}' cannot be used with port '${port}': the two cannot be specified together.`,
      )
    }
    if (!port && !uuid) throw badRequest("Bad network format: missing 'uuid'")
    if (!port && !/^[0-9a-f]{8}-?([0-9a-f]{4}-?){3}[0-9a-f]{12}$/i.test(uuid!)) {
      throw badRequest(`Bad networks format: network uuid is not in proper format (${uuid})`)
    }
    return { network: port ? undefined : uuid, port: port ?? undefined, fixedIp: fixed_ip, tag }
  })
}

/** Checks a flavor against an image, as upstream does before anything is built. */
export function checkFlavorImage(ctx: Context, flavor: FlavorKept, image: ImageFound): void {
  if (image.status !== 'active') throw badRequest(`Image ${image.id} is not active.`)
  if (flavor.memory_mb < image.minRam) throw badRequest("Flavor's memory is too small for requested image.")
  const GiB = 1024 ** 3
  if (flavor.root_gb === 0) {
    if (!ctx.can('os_compute_api:servers:create:zero_disk_flavor', { project_id: ctx.projectId, user_id: ctx.userId })) {
      throw forbidden('Only volume-backed servers are allowed for flavors with zero disk.')
    }
    return
  }
  if ((image.size ?? 0) > flavor.root_gb * GiB) {
    throw badRequest(
      `Flavor's disk is too small for requested image. Flavor disk is ${flavor.root_gb * GiB} bytes, image is ${image.size} bytes.`,
    )
  }
  if (image.minDisk > flavor.root_gb) {
    throw badRequest(
      `Flavor's disk is smaller than the minimum size specified in image metadata. Flavor disk is ${flavor.root_gb * GiB} bytes, ` +
        `minimum size is ${image.minDisk * GiB} bytes.`,
    )
  }
}

/** A question whose answer is looked at later: that it fails is heard then. */
function ahead<T>(asked: Promise<T>): Promise<T> {
  asked.catch(() => {})
  return asked
}

const networksChecked = async (db: Query, env: Env, ctx: Context, asked: Asked, version: number) =>
  neighbours.networksCheck(env, db, ctx, networksOf(asked.networks), countOf(asked, version).max)

/** Reads and checks everything that the request names. Nothing is written. */
async function draftOf(db: Query, env: Env, ctx: Context, body: CreateBody, version: number): Promise<Draft> {
  const asked = body.server
  const target = { project_id: ctx.projectId, user_id: ctx.userId, availability_zone: asked.availability_zone }
  const place = await placeOf(db, env, ctx, asked, target)
  if (asked.block_device_mapping?.length) {
    if (asked.block_device_mapping_v2?.length)
      throw badRequest('Using different block_device_mapping syntaxes is not allowed in the same request.')
    throw badRequest('Block Device Mapping is Invalid: there is no block storage service, so no disk can be a volume.')
  }
  // Asked together, so that they travel together; what is wrong is told in the order in which it is looked at below.
  const flavorAhead = ahead(flavorFetch(db, ctx, String(asked.flavorRef)))
  const imageAhead = asked.imageRef ? ahead(neighbours.imageFetch(db, ctx, asked.imageRef)) : undefined
  const networksAhead = ahead(networksChecked(db, env, ctx, asked, version))
  const flavor = keptFlavor(await named(flavorAhead))
  if (asked.block_device_mapping_v2?.length) ctx.must('os_compute_api:servers:create:attach_volume', target)
  const { disks, root, image: mapped } = disksAsked(asked.block_device_mapping_v2 ?? [], flavor)
  const imageId = asked.imageRef || mapped
  if (!imageId) {
    throw badRequest('Invalid imageRef provided.')
  }
  if (asked.imageRef && mapped && asked.imageRef !== mapped) {
    throw badRequest(
      'Block Device Mapping is Invalid: Boot sequence for the instance and image/block device mapping combination is not valid.',
    )
  }
  const image = await named(imageAhead ?? neighbours.imageFetch(db, ctx, imageId), 'Can not find requested image')
  checkFlavorImage(ctx, flavor, image)
  if (asked.networks !== undefined && asked.networks !== 'none' && asked.networks !== 'auto') {
    ctx.must('os_compute_api:servers:create:attach_network', target)
  }
  const { min, max } = countOf(asked, version)
  const key =
    asked.key_name === undefined ? null : await named(keypairFetch(db, ctx.userId, asked.key_name), 'Invalid key_name provided.')
  const networks = networksOf(asked.networks)
  if (max > 1 && Array.isArray(networks) && networks.some(n => n.port || n.fixedIp)) {
    throw badRequest('Failed to launch instances: max_count cannot be greater than 1 if an fixed_ip or a port is specified.')
  }
  const hints = body['os:scheduler_hints'] ?? body['OS-SCH-HNT:scheduler_hints'] ?? {}
  const groupNames = [...new Set((asked.security_groups ?? []).flatMap(g => (g.name ? [g.name] : [])))]
  const groups = await named(neighbours.securityGroups(db, ctx, groupNames))
  const build: BuildAsked = {
    networks: await networksAhead,
    securityGroups: groups.map(g => g.id),
    disks,
    root,
    hints,
    forcedHost: place.host,
    forcedNode: place.node,
    requestedHost: asked.host ?? null,
    requestedNode: asked.hypervisor_hostname ?? null,
    personality: (asked.personality ?? []).map(file => ({ path: file.path ?? '', contents: file.contents ?? '' })),
  }
  const group = [hints.group].flat()[0]
  return {
    flavor,
    image: keptImage(image),
    zone: place.zone,
    key,
    build,
    groupId: typeof group === 'string' ? group : null,
    min,
    max,
  }
}

async function placeOf(db: Query, env: Env, ctx: Context, asked: Asked, target: Record<string, unknown>) {
  const place = parseZone(asked.availability_zone)
  const settings = env.config.of(novaSettings)
  if (place.host !== null || place.node !== null) ctx.must('os_compute_api:servers:create:forced_host', target)
  if (asked.host !== undefined || asked.hypervisor_hostname !== undefined) {
    ctx.must('compute:servers:create:requested_destination', target)
    if (place.host !== null || place.node !== null) {
      throw badRequest(
        'One mechanism with host and/or hypervisor_hostname and another mechanism with zone:host:node are mutually exclusive.',
      )
    }
    await hostMustExist(db, asked.host ?? null, asked.hypervisor_hostname ?? null)
  }
  const zone = place.zone ?? (settings.default_schedule_zone || null)
  if (place.host !== null || place.node !== null) {
    // The host decides: a zone that it is not in is not kept.
    await hostMustExist(db, place.host, place.node)
    return { ...place, zone: null }
  }
  if (zone !== null && zone !== settings.default_availability_zone) {
    const zones = new Set(zonesOf(await aggregates(db)).values())
    if (!zones.has(zone)) throw badRequest('The requested availability zone is not available')
  }
  return { ...place, zone }
}

function countOf(asked: Asked, version: number): { min: number; max: number } {
  const min = wholeOf(asked.min_count ?? 1, 'server.min_count', 1)
  const max = wholeOf(asked.max_count ?? min, 'server.max_count', 1)
  if (min > max) throw badRequest('min_count must be <= max_count')
  if (max > 1 && asked.hostname !== undefined && version >= V.hostname) {
    throw badRequest('Unable to allocate a single hostname to multiple instances')
  }
  return { min, max }
}

async function checkItemQuotas(tx: Tx, env: Env, ctx: Context, asked: Asked, build: BuildAsked): Promise<void> {
  const items = Object.keys(asked.metadata ?? {}).length
  const files = build.personality
  if (items === 0 && files.length === 0) return
  const limits = await projectLimits(tx, env.config, ctx.projectId ?? '')
  if (!fits(limits.metadata_items, items)) throw overQuota(`Maximum number of metadata items exceeds ${limits.metadata_items}`)
  if (!fits(limits.injected_files, files.length)) throw overQuota('Personality file limit exceeded')
  for (const { path, contents } of files) {
    if (!fits(limits.injected_file_path_bytes, path.length)) {
      throw overQuota(`Personality file path exceeds maximum ${limits.injected_file_path_bytes}`)
    }
    if (!fits(limits.injected_file_content_bytes, Buffer.from(contents, 'base64').length)) {
      throw overQuota(`Personality file content exceeds maximum ${limits.injected_file_content_bytes}`)
    }
  }
}

type NewServer = Parameters<typeof serversInsert>[1][number]

function rowsOf(
  ctx: Context,
  asked: Asked,
  draft: Draft,
  count: number,
  env: Env,
  version: number,
  reservationId: string,
): NewServer[] {
  const { flavor, image, build, key } = draft
  const properties = image?.properties ?? {}
  const wantsDrive = asked.config_drive !== undefined && toBoolean(asked.config_drive) === true
  const many = draft.max > 1
  const name = asked.name
  return Array.from({ length: count }, (_, i) => {
    const id = randomUUID()
    const own = many ? `${name}-${i + 1}` : name
    return {
      id,
      name: own,
      project_id: ctx.projectId!,
      user_id: ctx.userId,
      vm_state: 'building',
      task_state: 'scheduling',
      availability_zone: draft.zone,
      pinned_zone: draft.zone,
      flavor_id: flavor.id,
      flavor,
      vcpus: flavor.vcpus,
      memory_mb: flavor.memory_mb,
      image_ref: image?.id ?? null,
      image,
      key_name: key?.name ?? null,
      key_type: key?.type ?? null,
      public_key: key?.public_key ?? null,
      user_data: asked.user_data ?? null,
      config_drive: wantsDrive || properties.img_config_drive === 'mandatory' || env.config.of(novaSettings).force_config_drive,
      metadata: asked.metadata ?? {},
      tags: [...new Set(asked.tags ?? [])],
      description: version >= V.description ? (asked.description ?? null) : name,
      hostname: asked.hostname ?? hostnameOf(own, `server-${id}`),
      access_ip_v4: addressText(asked.accessIPv4 ?? null),
      access_ip_v6: addressText(asked.accessIPv6 ?? null),
      disk_config: asked['OS-DCF:diskConfig'] ?? (toBoolean(properties.auto_disk_config ?? '') ? 'AUTO' : 'MANUAL'),
      launch_index: i,
      reservation_id: reservationId,
      root_device_name: '/dev/vda',
      trusted_certs: asked.trusted_image_certificates ?? null,
      group_id: draft.groupId,
      build,
    } satisfies Partial<Record<keyof ServersTable, unknown>>
  })
}

const newReservation = (): string => `r-${[...randomBytes(8)].map(b => '0123456789abcdefghijklmnopqrstuvwxyz'[b % 36]).join('')}`

/**
 * Takes a request for servers: rows, quota, action and saga of each, in one transaction. Throws badRequest for what is named and not there,
 * overQuota, conflict.
 */
export async function serversReserve(call: Call<unknown, CreateBody>): Promise<Reserved> {
  const { ctx, env, body, version } = call
  if (ctx.projectId === null) throw badRequest('A token of a project is needed to create a server.')
  const asked = body.server
  const target = { project_id: ctx.projectId, user_id: ctx.userId }
  if (asked.trusted_image_certificates?.length) ctx.must('os_compute_api:servers:create:trusted_certs', target)
  const draft = await draftOf(env.db.read, env, ctx, body, version)
  const adminPassword = asked.adminPass ?? newPassword()
  const reservationId = newReservation()
  const ids = await env.db.tx(async tx => {
    await checkItemQuotas(tx, env, ctx, asked, draft.build)
    const count = await serversAllowed(tx, env.config, ctx.projectId!, draft.flavor, draft.min, draft.max)
    if (draft.build.networks === 'auto') draft.build.networks = await neighbours.networkAuto(env, tx, ctx)
    const rows = rowsOf(ctx, asked, draft, count, env, version, reservationId)
    if (draft.groupId !== null) await groupJoin(tx, env, ctx, draft.groupId, rows.length)
    const { requestId } = ctx
    await Promise.all([
      serversInsert(tx, rows),
      actionsBegin(tx, ctx, 'create', rows),
      ...rows.map(({ id: serverId }) =>
        sagaStart(tx, createServer, { serverId, requestId, adminPassword }, { resource: serverResource(serverId) }),
      ),
    ])
    return rows.map(row => row.id)
  })
  const diskConfig = asked['OS-DCF:diskConfig'] ?? (toBoolean(draft.image?.properties.auto_disk_config ?? '') ? 'AUTO' : 'MANUAL')
  return { ids, reservationId, diskConfig, adminPassword }
}
