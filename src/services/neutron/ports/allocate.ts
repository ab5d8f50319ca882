/**
 * Addresses of ports.
 *
 * Theory. An address is taken by the row that says so: (subnet, address) is the primary key of ip_allocations. So nothing is locked and
 * no pool is kept: a candidate that looks free is inserted, and if somebody else's uncommitted row holds it the insert waits for them and
 * then either has it or goes on to the next. A port gets a random free address of a pool, so that those who come at once seldom meet;
 * where a pool is nearly full the gaps between taken addresses are read from the index. `none left` is only said after a look at the
 * gaps that saw none: the last free address goes to exactly one.
 */
import { type RawBuilder, sql, type Tx } from '#kit/db/index.ts'
import { conflict, type Fault } from '#kit/fault.ts'
import { contains, eui64, type Prefix, parseAddress, parsePrefix, showAddress } from '../address.ts'
import { contradicts, gone, invalid } from '../faults.ts'
import type { Pool } from '../tables.ts'

export interface AllocSubnet {
  id: string
  network_id: string
  cidr: string
  ip_version: 4 | 6
  gateway_ip: string | null
  allocation_pools: Pool[]
  ipv6_address_mode: string | null
  service_types: string[]
  segment_id?: string | null
}

export interface FixedIp {
  subnet_id: string
  ip_address: string
}

/** What a port asks for: an address, a subnet to take one from, or both. */
export interface WantedIp {
  subnet_id?: string
  ip_address?: string
}

interface Taking {
  networkId: string
  portId: string
  mac: string
  deviceOwner: string
}

const ROUTER_OWNERS = /^network:(router|ha_router|floatingip)/

/** Whether addresses of the subnet follow from MAC addresses. */
export const isAuto = (subnet: Pick<AllocSubnet, 'ip_version' | 'ipv6_address_mode'>): boolean =>
  subnet.ip_version === 6 && (subnet.ipv6_address_mode === 'slaac' || subnet.ipv6_address_mode === 'dhcpv6-stateless')

const prefixOf = (subnet: AllocSubnet): Prefix => parsePrefix(subnet.cidr)!

/** Addresses for a port that asks for none in particular: one of each version, and one of every subnet that numbers itself. */
export function usualWants(subnets: readonly AllocSubnet[], deviceOwner: string): AllocSubnet[][] {
  const fits = serviceSubnets(subnets, deviceOwner)
  const router = ROUTER_OWNERS.test(deviceOwner)
  const v4 = fits.filter(s => s.ip_version === 4)
  const stateful = fits.filter(s => s.ip_version === 6 && (router || !isAuto(s)))
  const auto = router ? [] : fits.filter(isAuto)
  return [v4, stateful, ...auto.map(s => [s])].filter(group => group.length > 0)
}

/** The subnets that serve this kind of port: those of its service type, else those of no type. */
export function serviceSubnets(subnets: readonly AllocSubnet[], deviceOwner: string): AllocSubnet[] {
  const typed = subnets.filter(s => s.service_types.some(type => deviceOwner.startsWith(type)))
  return typed.length > 0 ? typed : subnets.filter(s => s.service_types.length === 0)
}

/** Takes what was asked for. Throws for addresses that are taken or belong to no subnet of the network. */
export async function takeWanted(
  tx: Tx,
  taking: Taking,
  subnets: readonly AllocSubnet[],
  wants: readonly WantedIp[],
  place = 0,
): Promise<FixedIp[]> {
  const plan = wants.map(want => ({ want, subnet: subnetFor(taking, subnets, want) }))
  const router = ROUTER_OWNERS.test(taking.deviceOwner)
  const named = new Set(plan.map(({ subnet }) => subnet.id))
  // A guest hears the announcements of every self-numbering subnet, so it has their addresses too.
  const auto =
    router || plan.length === 0 ? [] : subnets.filter(s => isAuto(s) && !named.has(s.id) && s.service_types.length === 0)
  const taken: FixedIp[] = []
  for (const { want, subnet } of plan) {
    const ip = want.ip_address === undefined ? undefined : showAddress(parseAddress(want.ip_address)!)
    if (ip !== undefined) taken.push(await takeThis(tx, taking, subnet, ip, place + taken.length))
    else taken.push(await takeAny(tx, taking, [subnet], place + taken.length))
  }
  for (const subnet of auto) taken.push(await takeAny(tx, taking, [subnet], place + taken.length))
  return taken
}

/** A subnet for the first usual address of a port, with addresses to try there: for one who takes it in the statement that makes the port. */
export function usualGuess(
  subnets: readonly AllocSubnet[],
  deviceOwner: string,
): { subnet: AllocSubnet; ips: string[] } | undefined {
  const subnet = usualWants(subnets, deviceOwner)[0]?.[0]
  if (!subnet || (isAuto(subnet) && !ROUTER_OWNERS.test(deviceOwner))) return undefined
  return { subnet, ips: guesses(subnet) }
}

/** Takes the usual addresses of a port, the first of which it may have already. A network without subnets gives none. */
export async function takeUsual(tx: Tx, taking: Taking, subnets: readonly AllocSubnet[], first?: FixedIp): Promise<FixedIp[]> {
  const taken: FixedIp[] = []
  for (const group of usualWants(subnets, taking.deviceOwner)) {
    if (first && taken.length === 0) taken.push(first)
    else taken.push(await takeAny(tx, taking, group, taken.length))
  }
  if (taken.length === 0 && subnets.length > 0) {
    throw conflict(`No valid service subnet for the given device owner, network ${taking.networkId}, ${taking.deviceOwner}.`, {
      type: 'IpAddressGenerationFailureNoMatchingSubnet',
    })
  }
  return taken
}

function subnetFor(taking: Taking, subnets: readonly AllocSubnet[], want: WantedIp): AllocSubnet {
  const address = want.ip_address === undefined ? undefined : parseAddress(want.ip_address)
  if (want.ip_address !== undefined && !address) throw contradicts(`'${want.ip_address}' is not a valid IP address`)
  if (want.subnet_id !== undefined) {
    const subnet = subnets.find(s => s.id === want.subnet_id)
    if (!subnet) {
      throw contradicts(
        `Failed to create port on network ${taking.networkId}, because fixed_ips included invalid subnet ${want.subnet_id}`,
      )
    }
    if (address && !contains(prefixOf(subnet), address)) {
      throw invalid('InvalidIpForSubnet', `IP address ${want.ip_address} is not a valid IP for the specified subnet.`)
    }
    return subnet
  }
  if (!address) throw contradicts('IP allocation requires subnet_id or ip_address')
  const subnet = subnets.find(s => contains(prefixOf(s), address))
  if (!subnet) {
    throw invalid(
      'InvalidIpForNetwork',
      `IP address ${want.ip_address} is not a valid IP for any of the subnets on the specified network.`,
    )
  }
  return subnet
}

async function takeThis(tx: Tx, taking: Taking, subnet: AllocSubnet, ip: string, place: number): Promise<FixedIp> {
  const router = ROUTER_OWNERS.test(taking.deviceOwner)
  if (isAuto(subnet) && !router && ip !== eui64(prefixOf(subnet), taking.mac)) {
    throw contradicts(
      `IPv6 address ${ip} can not be directly assigned to a port on subnet ${subnet.id} since the subnet is configured for automatic addresses`,
    )
  }
  const prefix = prefixOf(subnet)
  const { value } = parseAddress(ip)!
  const edge = prefix.version === 4 && prefix.length < 31
  if ((edge && value === prefix.value) || (edge && value === prefix.value + (1n << BigInt(32 - prefix.length)) - 1n)) {
    throw invalid('InvalidIpForSubnet', `IP address ${ip} is not a valid IP for the specified subnet.`)
  }
  if (await insert(tx, taking, subnet, [ip], place)) return { subnet_id: subnet.id, ip_address: ip }
  throw inUseFault(ip, subnet.id)
}

export const inUseFault = (ip: string, subnetId: string): Fault =>
  conflict(`IP address ${ip} already allocated in subnet ${subnetId}`, { type: 'IpAddressAlreadyAllocated' })

/** Takes an address of the first of the subnets that has one. Throws IpAddressGenerationFailure (409) when none has. */
async function takeAny(tx: Tx, taking: Taking, subnets: readonly AllocSubnet[], place: number): Promise<FixedIp> {
  for (const subnet of subnets) {
    const ip =
      isAuto(subnet) && !ROUTER_OWNERS.test(taking.deviceOwner)
        ? await insert(tx, taking, subnet, [eui64(prefixOf(subnet), taking.mac)], place)
        : ((await insert(tx, taking, subnet, guesses(subnet), place)) ?? (await fromGaps(tx, taking, subnet, place)))
    if (ip) return { subnet_id: subnet.id, ip_address: ip }
  }
  throw conflict(`No more IP addresses available on network ${taking.networkId}.`, { type: 'IpAddressGenerationFailure' })
}

const GUESSES = 4

/** Some random addresses of the subnet's pools. */
function guesses(subnet: AllocSubnet): string[] {
  const pools = subnet.allocation_pools
  if (pools.length === 0) return []
  return Array.from({ length: GUESSES }, () => {
    const pool = pools[Math.floor(Math.random() * pools.length)]!
    const start = parseAddress(pool.start)!
    const size = parseAddress(pool.end)!.value - start.value + 1n
    const room = Number(size > 1n << 48n ? 1n << 48n : size)
    return showAddress({ version: start.version, value: start.value + BigInt(Math.floor(Math.random() * room)) })
  })
}

/** Inserts the first of the addresses that no visible row has; undefined if there is none, or somebody else's commit won it. */
async function insert(
  tx: Tx,
  taking: Taking,
  subnet: AllocSubnet,
  ips: readonly string[],
  place: number,
): Promise<string | undefined> {
  if (ips.length === 0) return undefined
  const { rows } = await insertion(sql`${taking.portId}`, subnet, ips, place).execute(tx)
  return rows[0]?.ip
}

/** The statement behind {@link insert}. `port` is the port's id, or a query that finds none where there is to be no address. */
export const insertion = (port: RawBuilder<unknown>, subnet: AllocSubnet, ips: readonly string[], place: number) => sql<{
  ip: string
}>`
    insert into neutron.ip_allocations (subnet_id, ip, port_id, network_id, place)
    select ${subnet.id}, c.ip, p.id, ${subnet.network_id}, ${place}
    from (select (${port})::text as id) p, unnest(${ips}::inet[]) with ordinality as c (ip, n)
    where p.id is not null and not exists (select from neutron.ip_allocations a where a.subnet_id = ${subnet.id} and a.ip = c.ip)
    order by c.n limit 1
    on conflict (subnet_id, ip) do nothing returning host(ip) as ip`

const GAPS = 32

/** Takes an address beside the taken ones, for pools that are nearly full; undefined when all is taken. */
async function fromGaps(tx: Tx, taking: Taking, subnet: AllocSubnet, place: number): Promise<string | undefined> {
  for (;;) {
    const free = await gaps(tx, subnet)
    if (free.length === 0) return undefined
    // In random order, so that those who read the same gaps do not all wait for the first of them.
    const shuffled = free.map(ip => ({ ip, by: Math.random() })).sort((a, b) => a.by - b.by)
    const ip = await insert(
      tx,
      taking,
      subnet,
      shuffled.map(({ ip }) => ip),
      place,
    )
    if (ip !== undefined) return ip
  }
}

/** Free addresses: the first of a pool, and those that follow a taken one. Every run of free addresses begins with one of these. */
async function gaps(tx: Tx, subnet: AllocSubnet): Promise<string[]> {
  const pools = JSON.stringify(subnet.allocation_pools)
  const { rows } = await sql<{ ip: string }>`
    select distinct host(c.ip) as ip from jsonb_to_recordset(${pools}::jsonb) as p (start inet, "end" inet)
    cross join lateral (
      select p.start as ip
      union all
      select a.ip + 1 from neutron.ip_allocations a where a.subnet_id = ${subnet.id} and a.ip >= p.start and a.ip < p."end"
    ) c
    where not exists (select from neutron.ip_allocations t where t.subnet_id = ${subnet.id} and t.ip = c.ip)
    limit ${GAPS}`.execute(tx)
  return rows.map(row => row.ip)
}

/** Throws SubnetNotFound unless every subnet that is named exists: a wrong id is another mistake than a wrong network. */
export async function subnetsKnown(tx: Tx, wants: readonly WantedIp[]): Promise<void> {
  const ids = [...new Set(wants.flatMap(want => want.subnet_id ?? []))]
  if (ids.length === 0) return
  const rows = await tx.selectFrom('neutron.subnets').select('id').where('id', 'in', ids).execute()
  const missing = ids.find(id => !rows.some(row => row.id === id))
  if (missing !== undefined) throw gone.subnet(missing)
}
