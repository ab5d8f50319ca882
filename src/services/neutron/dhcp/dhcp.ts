/**
 * DHCP servers of networks: on which hosts they run, and the port through which each is reached. A network has them from its first subnet
 * with DHCP on; where no host was there to take one, the task `neutron.schedule` places it when a host comes.
 */
import { createHash } from 'node:crypto'
import { type Query, sql, type Tx } from '#kit/db/index.ts'
import type { Env } from '#kit/service.ts'
import { changed } from '../hosts/changed.ts'
import { hostsFor } from '../hosts/pick.ts'
import { networkFacts } from '../networks/facts.ts'
import { takeWanted } from '../ports/allocate.ts'
import { portFixedIps, portMake, portRemove } from '../ports/store.ts'
import { neutronSettings } from '../settings.ts'

/** The name under which the DHCP server of a host has its port. */
export function dhcpDevice(host: string, networkId: string): string {
  const hash = createHash('sha1').update(`dhcp ${host}`).digest('hex')
  const id = [hash.slice(0, 8), hash.slice(8, 12), `5${hash.slice(13, 16)}`, `a${hash.slice(17, 20)}`, hash.slice(20, 32)].join(
    '-',
  )
  return `dhcp${id}-${networkId}`
}

interface Wanting {
  id: string
  zones: string[]
  hosts: string[]
  subnets: { id: string; auto: boolean }[]
}

/** Networks with DHCP on somewhere, as far as scheduling cares; one of them or all. */
async function wanting(db: Query, only?: string): Promise<Wanting[]> {
  const { rows } = await sql<Wanting>`
    select n.id, n.availability_zone_hints as zones,
      array(select b.host from neutron.dhcp_bindings b where b.network_id = n.id order by b.host) as hosts,
      jsonb_agg(jsonb_build_object('id', s.id, 'auto', s.ip_version = 6 and s.ipv6_address_mode in ('slaac', 'dhcpv6-stateless'))
        order by s.created_at, s.id) as subnets
    from neutron.networks n join neutron.subnets s on s.network_id = n.id
    where s.enable_dhcp and (${only === undefined} or n.id = ${only ?? ''}) group by n.id`.execute(db)
  return rows
}

/** Gives a network the DHCP servers and ports that its subnets ask for, and takes away what they no longer do. */
export async function dhcpEnsure(env: Env, tx: Tx, networkId: string): Promise<void> {
  const [network] = await wanting(tx, networkId)
  if (!network) return dhcpRelease(env, tx, networkId)
  const count = env.config.of(neutronSettings).dhcp_agents_per_network
  const fresh =
    network.hosts.length < count
      ? await hostsFor(tx, 'DHCP agent', count - network.hosts.length, network.zones, network.hosts)
      : []
  for (const host of fresh) await dhcpBind(tx, networkId, host)
  for (const host of [...network.hosts, ...fresh]) await portEnsure(env, tx, network, host)
}

export async function dhcpBind(tx: Tx, networkId: string, host: string): Promise<boolean> {
  const made = await tx
    .insertInto('neutron.dhcp_bindings')
    .values({ network_id: networkId, host })
    .onConflict(on => on.doNothing())
    .executeTakeFirst()
  return made.numInsertedOrUpdatedRows === 1n
}

/** The DHCP server's port on a host, with an address in each subnet that it serves. */
async function portEnsure(env: Env, tx: Tx, network: Wanting, host: string): Promise<void> {
  const deviceId = dhcpDevice(host, network.id)
  const facts = await networkFacts(tx, network.id, null)
  const there = await tx
    .selectFrom('neutron.ports')
    .select(['id', 'mac_address'])
    .where('device_id', '=', deviceId)
    .where('network_id', '=', network.id)
    .forUpdate()
    .executeTakeFirst()
  if (!there) {
    await portMake(
      env,
      tx,
      {
        projectId: facts.project_id,
        networkId: network.id,
        deviceId,
        deviceOwner: 'network:dhcp',
        host,
        free: true,
        fixedIps: network.subnets.map(subnet => ({ subnet_id: subnet.id })),
      },
      facts,
    )
    return
  }
  const has = new Set((await portFixedIps(tx, there.id)).map(ip => ip.subnet_id))
  const served = new Set(network.subnets.map(subnet => subnet.id))
  const gone = [...has].filter(id => !served.has(id))
  if (gone.length > 0) {
    await tx.deleteFrom('neutron.ip_allocations').where('port_id', '=', there.id).where('subnet_id', 'in', gone).execute()
  }
  const missing = network.subnets.filter(subnet => !has.has(subnet.id))
  const taking = { networkId: network.id, portId: there.id, mac: there.mac_address, deviceOwner: 'network:dhcp' }
  const chosen = facts.subnets.filter(subnet => missing.some(({ id }) => id === subnet.id))
  if (missing.length > 0)
    await takeWanted(
      tx,
      taking,
      chosen,
      missing.map(({ id }) => ({ subnet_id: id })),
      has.size,
    )
  changed(env, tx, { hosts: [host], networks: [network.id] })
}

/** Takes a network's DHCP servers away, from one host or all. */
export async function dhcpRelease(env: Env, tx: Tx, networkId: string, host?: string): Promise<void> {
  let gone = tx.deleteFrom('neutron.dhcp_bindings').where('network_id', '=', networkId)
  if (host !== undefined) gone = gone.where('host', '=', host)
  const hosts = (await gone.returning('host').execute()).map(row => row.host)
  const ports = await tx
    .selectFrom('neutron.ports')
    .select(['id', 'host'])
    .where('network_id', '=', networkId)
    .where('device_owner', '=', 'network:dhcp')
    .execute()
  for (const port of ports) if (host === undefined || port.host === host) await portRemove(env, tx, port.id)
  if (hosts.length > 0) changed(env, tx, { hosts })
}

/** Places the DHCP servers of one network on a host that was chosen by hand. */
export async function dhcpPlace(env: Env, tx: Tx, networkId: string, host: string): Promise<boolean> {
  if (!(await dhcpBind(tx, networkId, host))) return false
  const [network] = await wanting(tx, networkId)
  if (network) await portEnsure(env, tx, network, host)
  changed(env, tx, { hosts: [host] })
  return true
}

/** Networks that have fewer DHCP servers than they should. */
export async function dhcpMissing(env: Env, db: Query): Promise<string[]> {
  const count = env.config.of(neutronSettings).dhcp_agents_per_network
  return (await wanting(db)).filter(network => network.hosts.length < count).map(network => network.id)
}
