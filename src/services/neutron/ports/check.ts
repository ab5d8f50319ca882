// What a port may be given: addresses, pairs, options.
import { badRequest, conflict } from '#kit/fault.ts'
import { parseAddress, parsePrefix, showAddress, showPrefix } from '../address.ts'
import { addressClean, macClean, uuidClean, whole } from '../api/attributes.ts'
import { invalid, invalidInput, told } from '../faults.ts'
import type { AddressPair, DhcpOption } from '../tables.ts'
import type { WantedIp } from './allocate.ts'

const isObject = (value: unknown): value is Record<string, unknown> =>
  typeof value === 'object' && value !== null && !Array.isArray(value)

function listOf(value: unknown, name: string): Record<string, unknown>[] {
  if (!Array.isArray(value)) throw invalidInput(name, `Invalid data format for ${name}: '${JSON.stringify(value)}'`)
  for (const item of value) if (!isObject(item)) throw invalidInput(name, `'${JSON.stringify(item)}' is not a dictionary`)
  return value as Record<string, unknown>[]
}

function onlyKeys(item: Record<string, unknown>, keys: readonly string[], name: string): void {
  const unknown = Object.keys(item).filter(key => !keys.includes(key))
  if (unknown.length > 0) throw invalidInput(name, `Unexpected keys supplied: ${unknown.join(', ')}`)
}

/** Addresses that a port asks for. */
export function fixedIpsClean(value: unknown): WantedIp[] {
  const seen = new Set<string>()
  return listOf(value ?? [], 'fixed_ips').map(item => {
    onlyKeys(item, ['subnet_id', 'ip_address'], 'fixed_ips')
    const wanted: WantedIp = {}
    if (item.ip_address !== undefined) {
      wanted.ip_address = addressClean(item.ip_address, 'fixed_ips')
      if (seen.has(wanted.ip_address)) throw invalidInput('fixed_ips', `Duplicate IP address '${wanted.ip_address}'`)
      seen.add(wanted.ip_address)
    }
    if (item.subnet_id !== undefined) wanted.subnet_id = uuidClean(item.subnet_id, 'fixed_ips')
    return wanted
  })
}

const MULTICAST = [parsePrefix('224.0.0.0/4')!, parsePrefix('ff00::/8')!]

/** Pairs of addresses that a port may also send from; the MAC address is the port's own where none is given. */
export function pairsClean(value: unknown): Partial<AddressPair>[] {
  const name = 'allowed_address_pairs'
  const seen = new Set<string>()
  return listOf(value ?? [], name).map(item => {
    onlyKeys(item, ['ip_address', 'mac_address'], name)
    if (item.ip_address === undefined) throw invalid('AllowedAddressPairsMissingIP', 'AllowedAddressPair must contain ip_address')
    const prefix = parsePrefix(item.ip_address)
    if (!prefix) throw invalidInput(name, `'${told(item.ip_address)}' is not a valid IP address`)
    const cast = MULTICAST.find(range => range.version === prefix.version)!
    if (
      prefix.length >= cast.length &&
      prefix.value >= cast.value &&
      prefix.value < cast.value + (1n << BigInt((prefix.version === 4 ? 32 : 128) - cast.length))
    ) {
      throw invalidInput(name, `AllowedAddressPair ${told(item.ip_address)} is a multicast address`)
    }
    const plain = String(item.ip_address).includes('/')
    const ip_address = plain
      ? showPrefix({ ...prefix, value: prefix.value + prefix.host })
      : showAddress(parseAddress(item.ip_address)!)
    const pair: Partial<AddressPair> = { ip_address }
    if (item.mac_address !== undefined && item.mac_address !== null) pair.mac_address = macClean(item.mac_address, name)
    const key = `${pair.ip_address} ${pair.mac_address ?? ''}`
    if (seen.has(key)) {
      const why = `Request contains duplicate address pair: mac_address ${pair.mac_address ?? 'None'} ip_address ${pair.ip_address}.`
      throw invalid('DuplicateAddressPairInRequest', why)
    }
    seen.add(key)
    return pair
  })
}

export function pairsLimit(pairs: readonly unknown[], max: number): void {
  if (pairs.length > max)
    throw invalid('AllowedAddressPairExhausted', `The number of allowed address pair exceeds the maximum ${max}.`)
}

export const pairsNeedSecurity = () =>
  conflict('Port Security must be enabled in order to have allowed address pairs on a port.', {
    type: 'AddressPairAndPortSecurityRequired',
  })

/** Options for a port's DHCP client. A null value takes an option away. */
export function dhcpOptsClean(value: unknown): (Omit<DhcpOption, 'opt_value'> & { opt_value: string | null })[] {
  const name = 'extra_dhcp_opts'
  const seen = new Set<string>()
  return listOf(value ?? [], name).map(item => {
    onlyKeys(item, ['opt_name', 'opt_value', 'ip_version', 'id'], name)
    if (typeof item.opt_name !== 'string' || item.opt_name.trim() === '') {
      throw badRequest(`Invalid data format for extra-dhcp-opt: ${JSON.stringify(item)}`, { type: 'HTTPBadRequest' })
    }
    // A line break would end the line of the server's file that the option stands in.
    if (item.opt_name.length > 64 || /[^\w:.-]/.test(item.opt_name))
      throw invalidInput(name, `'${item.opt_name}' is not a valid option name`)
    if (
      item.opt_value !== null &&
      (typeof item.opt_value !== 'string' || item.opt_value.length > 255 || /[\r\n]/.test(item.opt_value))
    ) {
      throw invalidInput(name, `'${told(item.opt_value)}' is not a valid option value`)
    }
    if (item.opt_value === '') throw invalidInput(name, `'' Blank strings are not permitted for option ${item.opt_name}`)
    const ip_version = item.ip_version === undefined ? 4 : whole(item.ip_version, name, 4, 6)
    if (ip_version !== 4 && ip_version !== 6) throw invalidInput(name, `'${ip_version}' is not in [4, 6]`)
    const key = `${item.opt_name} ${ip_version}`
    if (seen.has(key)) throw invalidInput(name, `Duplicate option '${item.opt_name}'`)
    seen.add(key)
    return { opt_name: item.opt_name, opt_value: (item.opt_value ?? null) as string | null, ip_version: ip_version as 4 | 6 }
  })
}

/** Options as they are after an update: given ones win, null takes away. */
export function dhcpOptsMerged(before: readonly DhcpOption[], given: ReturnType<typeof dhcpOptsClean>): DhcpOption[] {
  const key = (option: { opt_name: string; ip_version: number }): string => `${option.opt_name} ${option.ip_version}`
  const merged = new Map(before.map(option => [key(option), option]))
  for (const option of given) {
    if (option.opt_value === null) merged.delete(key(option))
    else merged.set(key(option), option as DhcpOption)
  }
  return [...merged.values()]
}

/** Ids of security groups. */
export function groupsClean(value: unknown): string[] {
  if (value === null) return []
  if (!Array.isArray(value)) throw invalidInput('security_groups', `'${JSON.stringify(value)}' is not a list`)
  const ids = value.map(id => uuidClean(id, 'security_groups'))
  const twice = ids.find((id, i) => ids.indexOf(id) !== i)
  if (twice !== undefined) throw invalidInput('security_groups', `Duplicate items in the list: '${twice}'`)
  return ids
}
