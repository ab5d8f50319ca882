// What controllers and network agents say to each other over the link.
import { notice, verb } from '#kit/link/index.ts'
import type { NetDesired, NetFacts, NetReport } from './agent/desired.ts'

export type * from './agent/desired.ts'

/** Agent → controller, on connect, when poked and on a slow timer: what should be on my host? `have` is the revision it made last (null: none). */
export const netDesired = verb<{ have: number | null }, NetDesired>('neutron.desired', { deadline: 30, idempotent: true })

/** Agent → controller, after it made a desired state: how it went. The answer says nothing. */
export const netReport = verb<NetReport, null>('neutron.report', { deadline: 30, idempotent: true })

/** Agent → controller, on connect: what this host can do (an agent's row: configurations, heartbeat). */
export const netHello = verb<NetFacts, null>('neutron.hello', { deadline: 30, idempotent: true })

/** Controller → agent: something of yours changed, ask. */
export const netPoke = notice('neutron.poke')

/** Controller → agent: what of ours is on this host that no desired row explains (for `nubo audit`)? */
export const netInventory = verb<Record<string, never>, NetThing[]>('neutron.inventory', { deadline: 60, idempotent: true })

/** Something that Nubo made on a host. */
export interface NetThing {
  kind: 'bridge' | 'link' | 'netns' | 'process' | 'table' | 'folder'
  /** Name of the link or namespace, pid and program, family and table, path. */
  name: string
  /** Id (or the first characters of it) that its name carries; null where it has none. */
  id: string | null
  /** False: nothing desired asks for it. */
  wanted: boolean
}
