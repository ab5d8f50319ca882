// Ports: making, binding and removing them, inside the caller's transaction.
import { randomBytes, randomUUID } from 'node:crypto'
import { json, type Query, sql, type Tx } from '#kit/db/index.ts'
import { conflict } from '#kit/fault.ts'
import type { Env } from '#kit/service.ts'
import { contradicts, gone } from '../faults.ts'
import { changed } from '../hosts/changed.ts'
import { type NetworkFacts, networkFacts } from '../networks/facts.ts'
import { quotaClaim } from '../quotas/quota.ts'
import { defaultGroup, defaultGroupFind } from '../securitygroups/store.ts'
import { neutronSettings } from '../settings.ts'
import type { AddressPair, DhcpOption } from '../tables.ts'
import { type FixedIp, insertion, subnetsKnown, takeUsual, takeWanted, usualGuess, type WantedIp } from './allocate.ts'

/** A new port, as far as its maker knows it. */
export interface PortGiven {
  id?: string
  projectId: string
  networkId: string
  name?: string
  description?: string
  macAddress?: string
  adminStateUp?: boolean
  /** Absent: the usual addresses; []: none. */
  fixedIps?: readonly WantedIp[]
  /** Ids. Absent: the project's default group. */
  securityGroups?: readonly string[]
  /** Absent: as the network says. */
  portSecurity?: boolean
  deviceId?: string
  deviceOwner?: string
  host?: string
  vnicType?: string
  profile?: Record<string, unknown>
  allowedAddressPairs?: readonly AddressPair[]
  extraDhcpOpts?: readonly DhcpOption[]
  dnsName?: string
  dnsDomain?: string
  qosPolicyId?: string | null
  propagateUplinkStatus?: boolean
  numaAffinityPolicy?: string | null
  deviceProfile?: string | null
  hints?: Record<string, unknown> | null
  /** Resource of the saga that is poked when the port is wired. */
  wake?: string
  tags?: readonly string[]
  /** Port quota is not asked: ports that belong to the cloud itself. */
  free?: boolean
}

export interface PortMade {
  id: string
  network: NetworkFacts
  macAddress: string
  fixedIps: FixedIp[]
  securityGroups: string[]
  /** The project's default group, where the port got it. */
  defaultGroup: string | undefined
}

/** Owners whose ports are never filtered: the cloud's own legs. */
export const isTrusted = (deviceOwner: string): boolean => deviceOwner.startsWith('network:')

/**
 * Makes a port: its row, addresses, groups. Throws NetworkNotFound, OverQuota, and what addresses and MAC addresses that are taken give.
 */
export async function portMake(env: Env, tx: Tx, given: PortGiven, known?: NetworkFacts): Promise<PortMade> {
  const settings = env.config.of(neutronSettings)
  const deviceOwner = given.deviceOwner ?? ''
  const usual = !given.securityGroups && !isTrusted(deviceOwner) && given.projectId !== ''
  // Sent together.
  const [network, , group] = await Promise.all([
    known ?? networkFacts(tx, given.networkId, given.projectId),
    given.free || quotaClaim(tx, settings.quota, given.projectId, { port: 1 }),
    usual ? defaultGroupFind(tx, given.projectId) : undefined,
  ])
  const id = given.id ?? randomUUID()
  const portSecurity = isTrusted(deviceOwner) ? false : (given.portSecurity ?? network.port_security_enabled)
  const groups = await groupsOf(tx, given, portSecurity, deviceOwner, group)
  const guess = given.fixedIps ? undefined : usualGuess(network.subnets, deviceOwner)
  const made = await insertPort(tx, { ...given, id, deviceOwner, portSecurity, network }, groups, guess, settings.base_mac)
  const taking = { networkId: network.id, portId: id, mac: made.mac, deviceOwner }
  const fixedIps = given.fixedIps
    ? await wanted(tx, taking, network, given.fixedIps, settings.max_fixed_ips_per_port)
    : await takeUsual(tx, taking, network.subnets, made.first)
  changed(env, tx, { hosts: [given.host ?? ''], networks: [network.id], members: groups })
  return { id, macAddress: made.mac, network, fixedIps, securityGroups: groups, defaultGroup: usual ? groups[0] : undefined }
}

async function wanted(
  tx: Tx,
  taking: Parameters<typeof takeWanted>[1],
  network: NetworkFacts,
  wants: readonly WantedIp[],
  max: number,
): Promise<FixedIp[]> {
  if (wants.length > max) throw contradicts('Exceeded maximum amount of fixed ips per port')
  await subnetsKnown(tx, wants)
  return takeWanted(tx, taking, network.subnets, wants)
}

async function groupsOf(
  tx: Tx,
  given: PortGiven,
  portSecurity: boolean,
  deviceOwner: string,
  found: string | undefined,
): Promise<string[]> {
  if (given.securityGroups) {
    if (!portSecurity && given.securityGroups.length > 0) throw portSecurityOff()
    return [...new Set(given.securityGroups)]
  }
  if (!portSecurity || isTrusted(deviceOwner) || given.projectId === '') return []
  return [found ?? (await defaultGroup(tx, given.projectId))]
}

export const portSecurityOff = () =>
  conflict('Port security must be enabled and port must have an IP address in order to use security groups.', {
    type: 'PortSecurityAndIPRequiredForSecurityGroups',
    status: 400,
  })

type Row = PortGiven & { id: string; deviceOwner: string; portSecurity: boolean; network: NetworkFacts }

const MAC_TRIES = 16

/**
 * Inserts the row under the MAC address given, or random ones until one is free, with its groups and, where there is a guess, its first address:
 * absent when all that was guessed is taken.
 */
async function insertPort(
  tx: Tx,
  row: Row,
  groups: readonly string[],
  guess: ReturnType<typeof usualGuess>,
  base: string,
): Promise<{ mac: string; first?: FixedIp }> {
  for (let left = MAC_TRIES; left > 0; left--) {
    const mac = row.macAddress ?? macNew(base)
    const port = tx
      .insertInto('neutron.ports')
      .values(valuesOf(row, mac))
      .onConflict(on => on.columns(['network_id', 'mac_address']).doNothing())
      .returning('id')
    const address = guess && sql`, taken as (${insertion(sql`select id from port`, guess.subnet, guess.ips, 0)})`
    const { rows } = await sql<{ ip: string | null }>`
      with port as (${port}),
        linked as (insert into neutron.port_security_groups (port_id, security_group_id)
          select port.id, g from port, unnest(${[...groups]}::text[]) g)${address ?? sql``}
      select ${address ? sql`(select ip from taken)` : sql`null`} as ip from port`.execute(tx)
    if (rows[0]) {
      const { ip } = rows[0]
      return ip === null ? { mac } : { mac, first: { subnet_id: guess!.subnet.id, ip_address: ip } }
    }
    if (row.macAddress !== undefined) throw macInUse(mac, row.networkId)
  }
  throw conflict(`Unable to generate unique mac on network ${row.networkId}.`, {
    type: 'MacAddressGenerationFailure',
    status: 503,
  })
}

export const macInUse = (mac: string, networkId: string) =>
  conflict(`Unable to complete operation for network ${networkId}. The mac address ${mac} is in use.`, {
    type: 'MacAddressInUse',
  })

const macNew = (base: string): string =>
  `${base}:${[...randomBytes(3)].map(byte => byte.toString(16).padStart(2, '0')).join(':')}`

function valuesOf(row: Row, mac: string) {
  const binding = bindingOf(row.host ?? '', row.vnicType ?? 'normal', row.network)
  return {
    id: row.id,
    network_id: row.networkId,
    project_id: row.projectId,
    name: row.name ?? '',
    description: row.description ?? '',
    mac_address: mac,
    admin_state_up: row.adminStateUp ?? true,
    status: 'DOWN',
    device_id: row.deviceId ?? '',
    device_owner: row.deviceOwner,
    port_security_enabled: row.portSecurity,
    vnic_type: row.vnicType ?? 'normal',
    profile: json(row.profile ?? {}),
    ...binding,
    allowed_address_pairs: json(
      (row.allowedAddressPairs ?? []).map(pair => ({ ip_address: pair.ip_address, mac_address: pair.mac_address ?? mac })),
    ),
    extra_dhcp_opts: json(row.extraDhcpOpts ?? []),
    dns_name: row.dnsName ?? '',
    dns_domain: row.dnsDomain ?? '',
    qos_policy_id: row.qosPolicyId ?? null,
    data_plane_status: null,
    propagate_uplink_status: row.propagateUplinkStatus ?? true,
    numa_affinity_policy: row.numaAffinityPolicy ?? null,
    device_profile: row.deviceProfile ?? null,
    hints: row.hints ? json(row.hints) : null,
    wake: row.wake ?? null,
    tags: [...new Set(row.tags ?? [])],
  }
}

/** How a port on this host is wired: what Nova and clients read in `binding:*`. */
export function bindingOf(host: string, vnicType: string, network: Pick<NetworkFacts, 'type' | 'physical'>) {
  if (host === '') return { host: '', vif_type: 'unbound', vif_details: json({}) }
  // Only taps on bridges are there: other kinds of card have no driver.
  if (vnicType !== 'normal') return { host, vif_type: 'binding_failed', vif_details: json({}) }
  const details = { connectivity: 'l2', port_filter: true }
  if (network.physical !== null)
    return { host, vif_type: 'bridge', vif_details: json({ ...details, physical_network: network.physical }) }
  return { host, vif_type: 'bridge', vif_details: json(details) }
}

/** Replaces a port's groups. Throws SecurityGroupNotFound for an id that does not exist. */
export async function groupsSet(tx: Tx, portId: string, groups: readonly string[]): Promise<void> {
  if (groups.length === 0) return
  await tx
    .insertInto('neutron.port_security_groups')
    .values(groups.map(security_group_id => ({ port_id: portId, security_group_id })))
    .execute()
}

/** The row, locked: what is decided from it still holds when it is written. Throws PortNotFound. */
export async function portLock(tx: Tx, id: string) {
  const row = await tx.selectFrom('neutron.ports').selectAll().where('id', '=', id).forNoKeyUpdate().executeTakeFirst()
  if (!row) throw gone.port(id)
  return row
}

export async function portFixedIps(db: Query, id: string): Promise<FixedIp[]> {
  const rows = await db
    .selectFrom('neutron.ip_allocations')
    .select(['subnet_id', sql<string>`host(ip)`.as('ip_address')])
    .where('port_id', '=', id)
    .orderBy('place')
    .execute()
  return rows
}

/**
 * Removes a port with its addresses; floating IPs lose it. Does nothing where there is none. What must not be removed by hand (router
 * legs, floating ports) is refused by the API, not here.
 */
export async function portRemove(env: Env, tx: Tx, id: string): Promise<void> {
  const port = await tx
    .selectFrom('neutron.ports')
    .select(['network_id', 'host'])
    .where('id', '=', id)
    .forUpdate()
    .executeTakeFirst()
  if (!port) return
  const groups = await tx
    .deleteFrom('neutron.port_security_groups')
    .where('port_id', '=', id)
    .returning('security_group_id')
    .execute()
  await tx.deleteFrom('neutron.port_forwardings').where('internal_port_id', '=', id).execute()
  await tx
    .updateTable('neutron.floating_ips')
    .set({ port_id: null, fixed_ip_address: null, router_id: null, status: 'DOWN', updated_at: sql`now()` })
    .where('port_id', '=', id)
    .execute()
  await tx.deleteFrom('neutron.ports').where('id', '=', id).execute()
  changed(env, tx, { hosts: [port.host], networks: [port.network_id], members: groups.map(row => row.security_group_id) })
}
