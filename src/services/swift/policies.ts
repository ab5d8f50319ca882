/** Storage policies: how many copies or fragments an object has, and by which ring. */
import type { Ring } from './ring/ring.ts'

export interface ErasureCode {
  data: number
  parity: number
  /** Bytes of the object that are coded together. */
  segmentSize: number
  /** How many times each fragment is stored. */
  duplication: number
}

export interface Policy {
  index: number
  name: string
  aliases: string[]
  default: boolean
  deprecated: boolean
  ring: Ring
  /** Erasure coded; else replicated. */
  code: ErasureCode | null
}

/** Finds by name or alias, in any case. */
export const policyNamed = (policies: Policy[], name: string): Policy | undefined =>
  policies.find(policy => [policy.name, ...policy.aliases].some(known => known.toLowerCase() === name.toLowerCase()))

/** The policy of new containers. */
export const defaultPolicy = (policies: Policy[]): Policy => policies.find(policy => policy.default) ?? policies[0]

/** How many of `n` must agree before a write is acknowledged. */
export const quorum = (n: number): number => Math.floor((n + 1) / 2)
