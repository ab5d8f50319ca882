// Addresses as numbers: IPv4 and IPv6 alike are BigInts with a version, so that pools, gaps and prefixes are arithmetic.
import { createHash } from 'node:crypto'
import ipaddr from 'ipaddr.js'

export type Version = 4 | 6

export interface Address {
  version: Version
  value: bigint
}

export interface Prefix extends Address {
  /** Length of the prefix; `value` is its first address. */
  length: number
}

export const bitsOf = (version: Version): number => (version === 4 ? 32 : 128)

// Dotted quads only: what inet_aton would also take (010.1, 0x7f.1, 1) is refused, as Neutron does.
const QUAD = /^\d{1,3}(\.\d{1,3}){3}$/

/** Reads an address; undefined for text that is none. */
export function parseAddress(text: unknown): Address | undefined {
  if (typeof text !== 'string') return undefined
  const v4 = QUAD.test(text)
  if (!v4 && (!text.includes(':') || text.includes('%') || !ipaddr.IPv6.isValid(text))) return undefined
  if (v4 && !ipaddr.IPv4.isValidFourPartDecimal(text)) return undefined
  const bytes = ipaddr.parse(text).toByteArray()
  let value = 0n
  for (const byte of bytes) value = (value << 8n) | BigInt(byte)
  return { version: v4 ? 4 : 6, value }
}

/** Reads `address/length`; an address alone is a prefix of full length. Bits after the prefix are kept in `host`. */
export function parsePrefix(text: unknown): (Prefix & { host: bigint }) | undefined {
  if (typeof text !== 'string') return undefined
  const [first, length, ...rest] = text.split('/')
  const address = parseAddress(first)
  if (!address || rest.length > 0 || (length !== undefined && !/^\d{1,3}$/.test(length))) return undefined
  const bits = bitsOf(address.version)
  const of = length === undefined ? bits : Number(length)
  if (of > bits) return undefined
  const mask = (1n << BigInt(bits - of)) - 1n
  return { version: address.version, value: address.value & ~mask, length: of, host: address.value & mask }
}

/** Canonical text, as RFC 5952 has it. */
export function showAddress({ version, value }: Address): string {
  const bytes: number[] = []
  for (let shift = BigInt(bitsOf(version) - 8); shift >= 0n; shift -= 8n) bytes.push(Number((value >> shift) & 0xffn))
  return ipaddr.fromByteArray(bytes).toString()
}

export const showPrefix = (prefix: Prefix): string => `${showAddress(prefix)}/${prefix.length}`

/** The last address of a prefix (IPv4: broadcast). */
export const lastOf = (prefix: Prefix): bigint => prefix.value | ((1n << BigInt(bitsOf(prefix.version) - prefix.length)) - 1n)

export const sizeOf = (prefix: Prefix): bigint => 1n << BigInt(bitsOf(prefix.version) - prefix.length)

export const contains = (prefix: Prefix, address: Address): boolean =>
  prefix.version === address.version && address.value >= prefix.value && address.value <= lastOf(prefix)

export const overlap = (a: Prefix, b: Prefix): boolean => a.version === b.version && a.value <= lastOf(b) && b.value <= lastOf(a)

/** The same address in its one spelling; undefined for text that is none. */
export function canonical(text: string): string | undefined {
  const address = parseAddress(text)
  return address && showAddress(address)
}

/** An IPv6 address from a /64 and a MAC address (RFC 4291, modified EUI-64). */
export function eui64(prefix: Prefix, mac: string): string {
  const [a, b, c, d, e, f] = mac.split(':').map(part => BigInt(Number.parseInt(part, 16))) as [
    bigint,
    bigint,
    bigint,
    bigint,
    bigint,
    bigint,
  ]
  const low = ((a ^ 2n) << 56n) | (b << 48n) | (c << 40n) | (0xfffen << 24n) | (d << 16n) | (e << 8n) | f
  return showAddress({ version: 6, value: prefix.value | low })
}

const MAC = /^([0-9a-fA-F]{2}[:-]){5}[0-9a-fA-F]{2}$/

/** A MAC address in lower case with colons; undefined for text that is none. */
export const parseMac = (text: unknown): string | undefined =>
  typeof text === 'string' && MAC.test(text) ? text.toLowerCase().replaceAll('-', ':') : undefined

/** A MAC address of the base's first three octets for the given seed: the same for the same seed. */
export function macOf(base: string, seed: string): string {
  const bytes = createHash('sha256').update(seed).digest()
  const tail = [bytes[0]!, bytes[1]!, bytes[2]!].map(byte => byte.toString(16).padStart(2, '0'))
  return `${base.slice(0, 8)}:${tail.join(':')}`
}
