// What the network agent needs of a host, real or pretended. Both kinds pass the same contract test.
import type { NetThing } from '../verbs.ts'
import type { NetDesired, NetFacts, NetReport } from './desired.ts'

/** How much a driver finds out before it acts. */
export type Look = 'all' | 'some' | 'change'

/** A driver of one host's networks. Level-triggered: it is told what should be, finds out what is, and removes the difference. */
export interface NetDriver {
  /** What this host offers, as probed now. */
  probe(): Promise<NetFacts>
  /**
   * Makes the host match. What cannot be done is in the report, in the tool's words; the rest is done nevertheless. Calls run one after
   * another. Nothing that is right already is touched. `look`: at everything, even where the desired state is as it was before; at what is cheap
   * to look at (the default); or only at what the change of the desired state is about, as what an earlier call left is there still.
   * @throws only when the host cannot be read at all.
   */
  apply(desired: NetDesired, options?: { look?: Look; signal?: AbortSignal }): Promise<NetReport>
  /** Wires taps that have just appeared, as the last applied state wants it; gives the new status of their ports. Quick: for the boot path. */
  wire(taps: readonly string[]): Promise<NetReport['ports']>
  /** Calls back when a guest's tap appears or goes, from now on; gives what stops it. */
  watch(heard: (tap: string, there: boolean) => void): Promise<() => Promise<void>>
  /** Everything of ours on this host, and whether the last applied state wants it. */
  inventory(): Promise<NetThing[]>
  /** Removes everything of ours from this host, wanted or not; gives what it removed. Guests' taps are unplugged, not removed. */
  destroy(): Promise<NetThing[]>
  /** Stops what runs inside this process (metadata, monitor) and leaves the host as it is. */
  close(): Promise<void>
}

/** Who asks for metadata: found by the namespace in which the request came in and its source address. */
export interface MetadataGuest {
  portId: string
  deviceId: string
  networkId: string
  ip: string
}

export interface MetadataRequest {
  method: string
  /** Path with query, from the leading slash. */
  path: string
  headers: Record<string, string | string[] | undefined>
  body: Buffer
  signal: AbortSignal
}

export interface MetadataAnswer {
  status: number
  headers?: Record<string, string>
  body: string | Uint8Array
}

/** Answers a guest's request. Given by whoever knows the content (nova's agent); it answers from what it has on this host. */
export type MetadataSource = (guest: MetadataGuest, request: MetadataRequest) => Promise<MetadataAnswer>
