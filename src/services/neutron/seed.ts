import { randomUUID } from 'node:crypto'
import { json, type Tx } from '#kit/db/index.ts'
import type { Env } from '#kit/service.ts'
import { type Address, lastOf, overlap, type Prefix, parsePrefix, showAddress, showPrefix } from './address.ts'
import { dhcpEnsure } from './dhcp/dhcp.ts'
import { mtuOf, segmentTake } from './networks/segments.ts'
import { portMake } from './ports/store.ts'
import { rbacShare } from './rbac/store.ts'
import { GATEWAY, INTERFACE, routerEnsure } from './routers/store.ts'
import { defaultGroup } from './securitygroups/store.ts'
import { poolsFor } from './subnets/check.ts'

export interface Seed {
  /** Owner of `private` and of its router. */
  project: string
  /** Owner of `public`. */
  adminProject: string
  /** Other projects that may use `private` as their own. The administrator's is one of them. */
  sharedWith?: readonly string[]
  /** Addresses outside; the first of them is the host's, and the gateway. */
  externalCidr: string
  externalPhysicalNetwork?: string
  privateCidr?: string
}

const POOLS = ['10.128.0.0/16', '172.31.0.0/16', '192.168.128.0/17', '10.192.0.0/16']
const PRIVATE = ['10.0.0.0/24', '192.168.222.0/24', '172.30.0.0/24']

/**
 * The networks of a new cloud: `public` (external, flat), `private` and a router between them. Does nothing where any network is there.
 * `private` belongs to one project and is shared with the others by name (an RBAC entry each), so `--network private` means the same
 * network to all of them, and no project that comes later finds it.
 */
export async function seedNetworks(env: Env, tx: Tx, seed: Seed): Promise<void> {
  if (await tx.selectFrom('neutron.networks').select('id').limit(1).executeTakeFirst()) return
  const outside = parsePrefix(seed.externalCidr)
  if (outside?.version !== 4) throw new Error(`'${seed.externalCidr}' is no IPv4 prefix for the public network`)
  const inside = [...(seed.privateCidr ? [seed.privateCidr] : []), ...PRIVATE]
    .map(cidr => parsePrefix(cidr)!)
    .find(one => !overlap(one, outside))!
  const physical = seed.externalPhysicalNetwork ?? 'public'
  const flat = { network_type: 'flat', physical_network: physical, segmentation_id: null }
  const external = await network(env, tx, { project: seed.adminProject, name: 'public', segment: flat, external: true })
  await rbacShare(tx, seed.adminProject, 'network', external, 'access_as_external')
  await subnet(tx, { project: seed.adminProject, network: external, name: 'public-subnet', prefix: outside, dhcp: false })
  const vxlan = { network_type: 'vxlan', physical_network: null, segmentation_id: null }
  const own = await network(env, tx, { project: seed.project, name: 'private', segment: vxlan, external: false })
  for (const project of seed.sharedWith ?? []) {
    if (project !== seed.project) await rbacShare(tx, seed.project, 'network', own, 'access_as_shared', project)
  }
  const ownSubnet = await subnet(tx, { project: seed.project, network: own, name: 'private-subnet', prefix: inside, dhcp: true })
  const router = randomUUID()
  await tx
    .insertInto('neutron.routers')
    .values({
      id: router,
      project_id: seed.project,
      name: 'router1',
      flavor_id: null,
      routes: json([]),
      gateway_qos_policy_id: null,
    })
    .execute()
  await portMake(env, tx, { projectId: '', networkId: external, deviceId: router, deviceOwner: GATEWAY, free: true })
  const gateway = { subnet_id: ownSubnet, ip_address: firstOf(inside) }
  await portMake(env, tx, {
    projectId: seed.project,
    networkId: own,
    deviceId: router,
    deviceOwner: INTERFACE,
    free: true,
    fixedIps: [gateway],
  })
  await pool(tx, seed.adminProject, [inside, outside])
  await dhcpEnsure(env, tx, own)
  await routerEnsure(env, tx, router)
  for (const project of new Set([seed.project, seed.adminProject])) await welcome(tx, project)
}

/** Ping and ssh reach the first two projects' servers, so that the first server can be entered at once. Projects made later have the usual rules. */
async function welcome(tx: Tx, project: string): Promise<void> {
  const group = await defaultGroup(tx, project)
  const rule = { project_id: project, security_group_id: group, direction: 'ingress', ethertype: 'IPv4' }
  const anywhere = { remote_ip_prefix: '0.0.0.0/0', remote_group_id: null, remote_address_group_id: null }
  await tx
    .insertInto('neutron.security_group_rules')
    .values([
      { ...rule, ...anywhere, id: randomUUID(), protocol: 'icmp', port_range_min: null, port_range_max: null },
      { ...rule, ...anywhere, id: randomUUID(), protocol: 'tcp', port_range_min: 22, port_range_max: 22 },
    ])
    .execute()
}

/** Where projects' networks come from that ask for just any: a pool for all, apart from the first networks. */
async function pool(tx: Tx, project: string, taken: readonly Prefix[]): Promise<void> {
  const prefix = POOLS.map(cidr => parsePrefix(cidr)!).find(one => !taken.some(other => overlap(one, other)))!
  const id = randomUUID()
  await tx
    .insertInto('neutron.subnetpools')
    .values({
      id,
      project_id: project,
      name: 'shared-default-subnetpool-v4',
      ip_version: 4,
      prefixes: [showPrefix(prefix)],
      default_prefixlen: 24,
      min_prefixlen: 8,
      max_prefixlen: 32,
      default_quota: null,
      is_default: true,
      address_scope_id: null,
    })
    .execute()
  await rbacShare(tx, project, 'subnetpool', id, 'access_as_shared')
}

const firstOf = (prefix: Prefix): string => showAddress({ version: prefix.version, value: prefix.value + 1n } satisfies Address)

interface NetworkSeed {
  project: string
  name: string
  segment: Parameters<typeof segmentTake>[3]
  external: boolean
}

async function network(env: Env, tx: Tx, { project, name, segment, external }: NetworkSeed): Promise<string> {
  const id = randomUUID()
  const mtu = mtuOf(env, segment.network_type)
  await tx
    .insertInto('neutron.networks')
    .values({ id, project_id: project, name, mtu, external, is_default: external, vlan_transparent: null, qos_policy_id: null })
    .execute()
  await segmentTake(env, tx, id, segment, 0)
  return id
}

interface SubnetSeed {
  project: string
  network: string
  name: string
  prefix: Prefix
  dhcp: boolean
}

async function subnet(tx: Tx, { project, network, name, prefix, dhcp }: SubnetSeed): Promise<string> {
  if (lastOf(prefix) - prefix.value < 7n) throw new Error(`${showPrefix(prefix)} is too small for a network`)
  const id = randomUUID()
  const gateway = firstOf(prefix)
  await tx
    .insertInto('neutron.subnets')
    .values({
      id,
      project_id: project,
      network_id: network,
      name,
      ip_version: prefix.version,
      cidr: showPrefix(prefix),
      gateway_ip: gateway,
      enable_dhcp: dhcp,
      host_routes: json([]),
      allocation_pools: json(poolsFor(prefix, gateway)),
      ipv6_ra_mode: null,
      ipv6_address_mode: null,
      subnetpool_id: null,
      segment_id: null,
    })
    .execute()
  return id
}
