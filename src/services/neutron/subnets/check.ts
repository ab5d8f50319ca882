// What a subnet may look like: addresses, pools, routes and modes against each other.
import { badRequest, conflict } from '#kit/fault.ts'
import {
  bitsOf,
  contains,
  lastOf,
  type Prefix,
  parseAddress,
  parsePrefix,
  showAddress,
  showPrefix,
  type Version,
} from '../address.ts'
import { contradicts, invalid, invalidInput, told } from '../faults.ts'
import type { HostRoute, Pool } from '../tables.ts'

export interface Range {
  start: bigint
  end: bigint
}

const range = (pool: Pool): Range => ({ start: parseAddress(pool.start)!.value, end: parseAddress(pool.end)!.value })

/** The pools of a subnet that was given none: all but network, broadcast and gateway. */
export function poolsFor(prefix: Prefix, gateway: string | null): Pool[] {
  const { version } = prefix
  const whole = prefix.length >= bitsOf(version) - 1
  // The first address of an IPv6 subnet is every router's; the last of an IPv4 subnet is everybody's.
  const first = prefix.value + (whole ? 0n : 1n)
  const last = lastOf(prefix) - (version === 4 && !whole ? 1n : 0n)
  const gone = gateway === null ? undefined : parseAddress(gateway)!.value
  const ranges: Range[] =
    gone === undefined || gone < first || gone > last
      ? [{ start: first, end: last }]
      : [
          { start: first, end: gone - 1n },
          { start: gone + 1n, end: last },
        ]
  const show = (value: bigint): string => showAddress({ version, value })
  return ranges.filter(({ start, end }) => start <= end).map(({ start, end }) => ({ start: show(start), end: show(end) }))
}

/** Pools as given, in canonical text and order. Throws for those outside the subnet, upside down or overlapping. */
export function poolsCheck(prefix: Prefix, given: unknown): Pool[] {
  if (!Array.isArray(given)) throw invalidInput('allocation_pools', `Invalid data format for IP pool: '${JSON.stringify(given)}'`)
  const pools = given.map((pool: Pool) => {
    const [start, end] = [parseAddress(pool?.start), parseAddress(pool?.end)]
    if (!start || !end || Object.keys(pool).length !== 2) {
      throw invalidInput('allocation_pools', `Invalid data format for IP pool: '${JSON.stringify(pool)}'`)
    }
    if (start.version !== prefix.version || end.version !== prefix.version || start.value > end.value) {
      throw invalid('InvalidAllocationPool', `The allocation pool ${pool.start}-${pool.end} is not valid.`)
    }
    const edges = prefix.version === 4 && prefix.length < 31 ? 1n : 0n
    if (
      start.value < prefix.value + (prefix.length < bitsOf(prefix.version) - 1 ? 1n : 0n) ||
      end.value > lastOf(prefix) - edges
    ) {
      throw invalid(
        'OutOfBoundsAllocationPool',
        `The allocation pool ${pool.start}-${pool.end} spans beyond the subnet cidr ${showPrefix(prefix)}.`,
      )
    }
    return { start: showAddress(start), end: showAddress(end) }
  })
  const sorted = pools.sort((a, b) => (range(a).start < range(b).start ? -1 : 1))
  sorted.forEach((pool, i) => {
    const next = sorted[i + 1]
    if (next && range(next).start <= range(pool).end) {
      const both = `${pool.start}-${pool.end} ${next.start}-${next.end}`
      throw conflict(`Found overlapping allocation pools: ${both} for subnet ${showPrefix(prefix)}.`, {
        type: 'OverlappingAllocationPools',
      })
    }
  })
  return sorted
}

/** Throws where the gateway is no address a router could have, or lies in a pool. */
export function gatewayCheck(prefix: Prefix, gateway: string | null, pools: readonly Pool[]): void {
  if (gateway === null) return
  const at = parseAddress(gateway)!
  if (at.version !== prefix.version) {
    throw contradicts(`gateway_ip '${gateway}' does not match the ip_version '${prefix.version}'`)
  }
  const inside = contains(prefix, at)
  const edge = at.value === prefix.value || (prefix.version === 4 && at.value === lastOf(prefix))
  if (inside && edge && prefix.length < bitsOf(prefix.version) - 1 && !(prefix.version === 6))
    throw contradicts('Gateway is not valid on subnet')
  if (at.value === 0n) throw contradicts('Cidr cannot be the unspecified address')
  const pool = pools.find(one => range(one).start <= at.value && at.value <= range(one).end)
  if (pool) {
    throw conflict(`Gateway ip ${gateway} conflicts with allocation pool ${pool.start}-${pool.end}.`, {
      type: 'GatewayConflictWithAllocationPools',
    })
  }
}

/** Name servers in canonical text. */
export function dnsCheck(given: unknown, max: number): string[] {
  if (!Array.isArray(given))
    throw invalidInput('dns_nameservers', `Invalid data format for nameserver: '${JSON.stringify(given)}'`)
  const servers = given.map(server => {
    const read = parseAddress(server)
    if (!read)
      throw invalidInput(
        'dns_nameservers',
        `'${told(server)}' is not a valid nameserver. '${told(server)}' is not a valid IP address`,
      )
    return showAddress(read)
  })
  if (new Set(servers).size !== servers.length) throw invalidInput('dns_nameservers', 'Duplicate nameserver')
  if (servers.length > max) {
    throw invalid(
      'DNSNameServersExhausted',
      `Unable to complete operation. The number of DNS nameservers exceeds the limit ${max}.`,
    )
  }
  return servers
}

/** Host routes in canonical text. `field` names them in refusals. */
export function routesCheck(given: unknown, max: number, field = 'host_routes', version?: Version): HostRoute[] {
  if (!Array.isArray(given)) throw invalidInput(field, `Invalid data format for hostroute: '${JSON.stringify(given)}'`)
  const seen = new Set<string>()
  const routes = given.map((item: Partial<HostRoute> | null) => {
    const keys = Object.keys(item ?? {})
      .sort()
      .join()
    if (keys !== 'destination,nexthop') throw invalidInput(field, `Invalid data format for hostroute: '${JSON.stringify(item)}'`)
    const [to, by] = [parsePrefix(item!.destination), parseAddress(item!.nexthop)]
    if (!to || !String(item!.destination).includes('/'))
      throw invalidInput(field, `'${told(item!.destination)}' is not a valid IP subnet`)
    if (!by) throw invalidInput(field, `'${told(item!.nexthop)}' is not a valid IP address`)
    if (to.version !== by.version || (version !== undefined && by.version !== version)) {
      throw invalidInput(field, `'${item!.nexthop}' does not match the IP version of '${item!.destination}'`)
    }
    const route = { destination: showPrefix(to), nexthop: showAddress(by) }
    const key = `${route.destination} ${route.nexthop}`
    if (seen.has(key)) throw invalidInput(field, `Duplicate hostroute '${key}'`)
    seen.add(key)
    return route
  })
  if (routes.length > max) {
    throw invalid('HostRoutesExhausted', `Unable to complete operation. The number of host routes exceeds the limit ${max}.`)
  }
  return routes
}

/** IPv6 modes against each other and the prefix. */
export function modesCheck(prefix: Prefix, dhcp: boolean, ra: string | null, address: string | null): void {
  if (ra === null && address === null) return
  if (prefix.version === 4) throw contradicts('ipv6_ra_mode and ipv6_address_mode cannot be set when ip_version is not 6')
  if (!dhcp)
    throw badRequest('ipv6_ra_mode or ipv6_address_mode cannot be set when enable_dhcp is set to False', { type: 'BadRequest' })
  if (ra !== null && address !== null && ra !== address) {
    throw contradicts(
      `ipv6_ra_mode set to '${ra}' with ipv6_address_mode set to '${address}' is not valid. If both attributes are set, they must be the same value`,
    )
  }
  const auto = ['slaac', 'dhcpv6-stateless'].includes(address ?? ra!)
  if (auto && prefix.length !== 64) {
    throw contradicts(`IPv6 address assignment ('${address ?? ra}') requires a /64 prefix, not '${showPrefix(prefix)}'`)
  }
}
