/**
 * What `nubo audit` and `nubo status` ask of each service. Nothing here keeps counters: an audit derives again, from rows alone, what other
 * rows and the hosts say, and tells where the two differ.
 */
import type { Config } from './config.ts'
import type { Query } from './db/index.ts'
import type { Verb } from './link/index.ts'

/** A difference between two things that must agree. */
export interface Finding {
  /** Whose: `nova`. */
  service: string
  /** The kind of thing: `allocation`. */
  what: string
  id: string
  /** A sentence: what there is and what there should be. */
  why: string
}

/** Something that is still in a state which it should have left. */
export interface Unsettled {
  service: string
  what: string
  id: string
  state: string
  since: Date
  /** What is known of the reason. */
  why: string | null
}

/** What an audit looks at. All queries of one look see the same moment. */
export interface Looked {
  db: Query
  /** The controller's own configuration, for what it keeps in files. */
  config: Config
  /** Whether those files are on this machine. */
  files: boolean
  /** What each connected host answered to the service's `inventory`. Hosts that are away, or could not tell, are not in it. */
  hosts: ReadonlyMap<string, unknown>
}

/** A service's part. Made by {@link audit}. */
export interface Audit {
  /** Asked of every connected host. */
  readonly inventory?: Verb<Record<string, never>, unknown>
  findings(looked: Looked): Promise<Omit<Finding, 'service'>[]>
  /** Resources that have been in a state that should pass for longer than these seconds. */
  unsettled?(db: Query, seconds: number): Promise<Omit<Unsettled, 'service'>[]>
}

/** Declares a service's audit, with the type of what hosts answer. */
export function audit<I = never>(spec: {
  inventory?: Verb<Record<string, never>, I>
  findings(looked: Omit<Looked, 'hosts'> & { hosts: ReadonlyMap<string, I> }): Promise<Omit<Finding, 'service'>[]>
  unsettled?: Audit['unsettled']
}): Audit {
  return {
    inventory: spec.inventory as Audit['inventory'],
    findings: looked => spec.findings({ ...looked, hosts: looked.hosts as ReadonlyMap<string, I> }),
    unsettled: spec.unsettled,
  }
}
