/** Servers as answers show them, by microversion. Written by hand and flat, since lists of them are what clients ask most. */
import { createHash } from 'node:crypto'
import type { Call } from '#kit/http/route.ts'
import type { AddressKept, FaultKept, FlavorKept, ImageKept, NicKept } from '../tables.ts'
import { V } from '../versions.ts'
import { bareTime, bookmarkBase, isoTime, type Link, linker } from '../wire.ts'
import { statusOf } from './states.ts'
import type { Server } from './store.ts'

const FAULTY = new Set(['ERROR', 'DELETED'])
const PROGRESSING = new Set(['ACTIVE', 'BUILD', 'REBUILD', 'RESIZE', 'VERIFY_RESIZE', 'MIGRATING'])

const hostIds = new Map<string, string>()
/** What users see in place of the host's name: the same for a project's servers on one host. */
export function hostIdOf(host: string | null, projectId: string): string {
  if (host === null) return ''
  const key = projectId + host
  let id = hostIds.get(key)
  if (id === undefined) {
    if (hostIds.size > 10_000) hostIds.clear()
    id = createHash('sha224').update(key).digest('hex')
    hostIds.set(key, id)
  }
  return id
}

/** The name of the guest on its host (`instance_name_template` upstream; ours has the id). */
export const instanceName = (server: Pick<Server, 'seq'>): string => `instance-${server.seq.toString(16).padStart(8, '0')}`

const shownAddress = ({ address, version, type, mac }: AddressKept, extended: boolean): object =>
  extended ? { version, addr: address, 'OS-EXT-IPS:type': type, 'OS-EXT-IPS-MAC:mac_addr': mac } : { version, addr: address }

/** Addresses by network name, as `addresses` of a server shows them; …/ips shows less of each. */
export function addressesOf(nics: readonly NicKept[], extended = true): Record<string, object[]> {
  const networks: Record<string, { fixed: object[]; floating: object[] }> = {}
  for (const nic of nics) {
    const of = (networks[nic.network] ??= { fixed: [], floating: [] })
    for (const address of nic.addresses) of[address.type].push(shownAddress(address, extended))
  }
  return Object.fromEntries(Object.entries(networks).map(([name, { fixed, floating }]) => [name, [...fixed, ...floating]]))
}

export function embeddedFlavor(flavor: FlavorKept, specs: boolean): object {
  return {
    vcpus: flavor.vcpus,
    ram: flavor.memory_mb,
    disk: flavor.root_gb,
    ephemeral: flavor.ephemeral_gb,
    swap: flavor.swap_mb,
    original_name: flavor.name,
    ...(specs ? { extra_specs: flavor.extra_specs } : {}),
  }
}

function faultShown({ code, created, message, details }: FaultKept, isAdmin: boolean): object {
  return { code, created: isoTime(new Date(created)), message, ...(details && (isAdmin || code !== 500) ? { details } : {}) }
}

/** What all servers of one answer share. */
export interface Viewing {
  version: number
  isAdmin: boolean
  /** May see host and other inner attributes. */
  extended: boolean
  flavorSpecs: boolean
  links(id: string): Link[]
  imageBookmark: string
  flavorBookmark: string
  /** The state of a host, for those who may see it. */
  hostStatus?(host: string | null): string | undefined
}

/** Decides once for an answer what its servers show. */
export function viewingOf(call: Pick<Call, 'ctx' | 'self' | 'params' | 'version'>): Viewing {
  const { ctx, version } = call
  const target = { project_id: ctx.projectId, user_id: ctx.userId }
  return {
    version,
    isAdmin: ctx.isAdmin,
    extended: ctx.can('os_compute_api:os-extended-server-attributes', target),
    flavorSpecs: version >= V.embeddedFlavor && ctx.can('os_compute_api:servers:show:flavor-extra-specs', target),
    links: linker(call, 'servers'),
    imageBookmark: bookmarkBase(call, 'images'),
    flavorBookmark: bookmarkBase(call, 'flavors'),
  }
}

function imageShown(id: string | null, image: ImageKept | null, viewing: Viewing): object | string {
  if (id === null) return ''
  return {
    id,
    links: [{ rel: 'bookmark', href: viewing.imageBookmark + id }],
    ...(viewing.version >= V.imageProperties ? { properties: image?.properties ?? {} } : {}),
  }
}

export interface ShowOptions {
  /** What PUT and rebuild leave out below 2.75. */
  brief?: boolean
  /** The ids of its server groups; in answers about one server. */
  groups?: string[]
  /** The answer to a rebuild: it shows key and user data from the versions on in which a rebuild can change them. */
  rebuilt?: boolean
}

/** A server with everything. */
export function serverView(server: Server, viewing: Viewing, options: ShowOptions = {}): Record<string, unknown> {
  const { version } = viewing
  const status = statusOf(server.vm_state, server.task_state)
  const view: Record<string, unknown> = {
    id: server.id,
    name: server.name,
    status,
    tenant_id: server.project_id,
    user_id: server.user_id,
    metadata: server.metadata,
    hostId: hostIdOf(server.host, server.project_id),
    image: imageShown(server.image_ref, server.image, viewing),
    flavor:
      version >= V.embeddedFlavor
        ? embeddedFlavor(server.flavor, viewing.flavorSpecs)
        : { id: server.flavor_id, links: [{ rel: 'bookmark', href: viewing.flavorBookmark + server.flavor_id }] },
    created: isoTime(server.created_at),
    updated: isoTime(server.updated_at),
    addresses: server.vm_state === 'building' ? {} : addressesOf(server.nics, !options.brief),
    accessIPv4: server.access_ip_v4 ?? '',
    accessIPv6: server.access_ip_v6 ?? '',
    links: viewing.links(server.id),
    'OS-DCF:diskConfig': server.disk_config,
  }
  if (server.fault && FAULTY.has(status)) view.fault = faultShown(server.fault, viewing.isAdmin)
  if (PROGRESSING.has(status)) view.progress = server.progress
  if (!options.brief) addExtensions(view, server, viewing)
  if (options.rebuilt) addRebuilt(view, server, version)
  addByVersion(view, server, viewing, options)
  return view
}

function addRebuilt(view: Record<string, unknown>, server: Server, version: number): void {
  if (version >= V.rebuildKey) view.key_name = server.key_name
  if (version >= V.noPersonality) view.user_data = server.user_data
  // It has that name here, and only that.
  delete view['OS-EXT-SRV-ATTR:user_data']
}

function addExtensions(view: Record<string, unknown>, server: Server, viewing: Viewing): void {
  view['OS-EXT-AZ:availability_zone'] = server.availability_zone ?? ''
  view.config_drive = server.config_drive ? 'True' : ''
  view.key_name = server.key_name
  view['OS-SRV-USG:launched_at'] = server.launched_at && bareTime(server.launched_at)
  view['OS-SRV-USG:terminated_at'] = server.terminated_at && bareTime(server.terminated_at)
  if (server.security_groups.length > 0) view.security_groups = server.security_groups.map(({ name }) => ({ name }))
  if (viewing.extended) addInner(view, server, viewing.version)
  view['OS-EXT-STS:task_state'] = server.task_state
  view['OS-EXT-STS:vm_state'] = server.vm_state
  view['OS-EXT-STS:power_state'] = server.power_state
  view['os-extended-volumes:volumes_attached'] = []
}

function addInner(view: Record<string, unknown>, server: Server, version: number): void {
  view['OS-EXT-SRV-ATTR:host'] = server.host
  view['OS-EXT-SRV-ATTR:instance_name'] = instanceName(server)
  view['OS-EXT-SRV-ATTR:hypervisor_hostname'] = server.node
  if (version < V.extendedAttributes) return
  view['OS-EXT-SRV-ATTR:hostname'] = server.hostname
  view['OS-EXT-SRV-ATTR:kernel_id'] = server.image?.properties.kernel_id ?? ''
  view['OS-EXT-SRV-ATTR:launch_index'] = server.launch_index
  view['OS-EXT-SRV-ATTR:ramdisk_id'] = server.image?.properties.ramdisk_id ?? ''
  view['OS-EXT-SRV-ATTR:reservation_id'] = server.reservation_id
  view['OS-EXT-SRV-ATTR:root_device_name'] = server.root_device_name
  view['OS-EXT-SRV-ATTR:user_data'] = server.user_data
}

function addByVersion(view: Record<string, unknown>, server: Server, viewing: Viewing, options: ShowOptions): void {
  const { version } = viewing
  if (version < V.locked) return
  view.locked = server.locked_by !== null
  if (version >= V.hostStatus && viewing.hostStatus && !options.brief) {
    const status = viewing.hostStatus(server.host)
    if (status !== undefined) view.host_status = status
  }
  if (version < V.description) return
  view.description = server.description
  if (version >= V.tags) view.tags = server.tags
  if (version >= V.trustedCerts) view.trusted_image_certificates = server.trusted_certs
  if (version >= V.serverGroupsShown && options.groups) view.server_groups = options.groups
  if (version >= V.lockReason) view.locked_reason = server.locked_reason
  if (version >= V.hostname && !viewing.extended) view['OS-EXT-SRV-ATTR:hostname'] = server.hostname
  if (version >= V.pinnedZone) view.pinned_availability_zone = server.pinned_zone
  if (version >= V.schedulerHints) view.scheduler_hints = server.build.hints
}

/** A server in a plain list. */
export const serverBrief = ({ id, name }: Pick<Server, 'id' | 'name'>, links: Viewing['links']): object => ({
  id,
  name,
  links: links(id),
})
