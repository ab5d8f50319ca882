/**
 * Pokes: telling hosts that what they should be has changed.
 *
 * Theory. A host's agent asks for all that should be on it; a poke only makes it ask sooner, so a poke that is lost costs time and no
 * truth. What costs is asking: a change to a network of a thousand ports concerns the DHCP server's host, the routers' and, for tunnels
 * and remote groups, every host with a member. So pokes are paced by what an answer costs (measured): hosts that the change is about go
 * first, each at most so often that answering it takes a fifth of the time; those that are only concerned wait in a queue that is
 * emptied at the same pace. A cloud of a few hosts never waits; one of a thousand spreads its rounds over seconds.
 *
 * Which hosts are concerned is asked after the commit, for all changes of the moment in one query. Hosts that are connected to another
 * controller are poked by it, told by NOTIFY.
 */
import { afterCommit, sql, type Tx } from '#kit/db/index.ts'
import { notify } from '#kit/link/index.ts'
import type { Env } from '#kit/service.ts'
import { netPoke } from '../verbs.ts'

/** What a transaction changed, as far as hosts may care. */
export interface Change {
  /** Hosts that it is about. Empty names are no hosts. */
  hosts?: readonly string[]
  /** Networks whose ports or subnets changed. */
  networks?: readonly string[]
  /** Networks that are something else now: every host with a port of them is concerned. */
  wholes?: readonly string[]
  routers?: readonly string[]
  /** Security groups whose members or their addresses changed. */
  members?: readonly string[]
  /** Security groups whose rules changed. */
  rules?: readonly string[]
  /** Address groups. */
  sets?: readonly string[]
}

const CHANNEL = 'neutron_poke'
/** A host is asked at most so often that answers take one part in so many of the time. */
const SHARE = 5

interface Poker {
  add(change: Change): void
  poke(hosts: Iterable<string>): void
  took(ms: number): void
  stop(): void
  /** Resolves when nothing waits to be sent. */
  idle(): Promise<void>
}

const pokers = new WeakMap<object, Poker>()

/** Tells the hosts concerned, once the transaction has committed. */
export function changed(env: Env, tx: Tx, change: Change): void {
  afterCommit(tx, () => pokerOf(env).add(change))
}

export function pokerOf(env: Env): Poker {
  const known = pokers.get(env.hosts)
  if (known) return known
  const made = poker(env)
  pokers.set(env.hosts, made)
  return made
}

/** Hears of changes that other controllers committed. Returns how to stop. */
export async function pokesStart(env: Env): Promise<() => Promise<void>> {
  const mine = pokerOf(env)
  const unlisten = await env.db.listen(CHANNEL, payload =>
    mine.poke((JSON.parse(payload) as string[]).filter(host => env.hosts.isConnected(host))),
  )
  return async () => {
    unlisten()
    mine.stop()
    await mine.idle()
  }
}

function poker(env: Env): Poker {
  const log = env.log.child({ part: 'neutron.poke' })
  /** Mean cost of an answer, in ms. */
  let cost = 0
  let stopped = false
  let gathered: Change[] = []
  let asking: Promise<void> | undefined
  const next = new Map<string, number>()
  const timers = new Map<string, NodeJS.Timeout>()
  const queue = new Set<string>()
  let draining: NodeJS.Timeout | undefined

  const send = (host: string): void => {
    next.set(host, performance.now() + cost * SHARE)
    queue.delete(host)
    notify(env, host, netPoke)
  }
  /** Now, or as soon as the host's turn comes again; many pokes of one host meanwhile are one. */
  const poke = (host: string): void => {
    if (stopped || timers.has(host)) return
    const wait = (next.get(host) ?? 0) - performance.now()
    if (wait <= 0) {
      send(host)
      return
    }
    const timer = setTimeout(() => {
      timers.delete(host)
      send(host)
    }, wait)
    timers.set(host, timer)
    timer.unref()
  }
  const drain = (): void => {
    draining = undefined
    const [first] = queue
    if (first === undefined || stopped) return
    queue.delete(first)
    poke(first)
    if (queue.size > 0) draining = setTimeout(drain, cost * SHARE).unref()
  }
  const later = (hosts: readonly string[]): void => {
    for (const host of hosts) if (!timers.has(host)) queue.add(host)
    if (queue.size > 0 && !draining) drain()
  }
  const ask = async (): Promise<void> => {
    while (gathered.length > 0 && !stopped) {
      const changes = gathered
      gathered = []
      try {
        const { first, rest } = await concerned(env, changes)
        for (const host of first) poke(host)
        later(rest)
      } catch (error) {
        // Their own timers make the hosts ask in any case.
        if (!stopped) log.warn({ err: error }, 'which hosts a change concerns could not be read')
      }
    }
  }
  return {
    add(change) {
      if (stopped) return
      gathered.push(change)
      asking ??= ask().finally(() => {
        asking = undefined
      })
    },
    poke(hosts) {
      for (const host of hosts) poke(host)
    },
    took(ms) {
      cost = cost === 0 ? ms : cost * 0.9 + ms * 0.1
      // Pacing that a thousand hosts need must not be felt by a few.
      if (cost > 200) cost = 200
    },
    stop() {
      stopped = true
      for (const timer of timers.values()) clearTimeout(timer)
      clearTimeout(draining)
    },
    async idle() {
      while (asking) await asking
    },
  }
}

const all = (changes: readonly Change[], key: keyof Change): string[] => [
  ...new Set(changes.flatMap(change => change[key] ?? [])),
]

/** The hosts that changes are about, and those that are only concerned; of other controllers' hosts they are told. */
async function concerned(env: Env, changes: readonly Change[]): Promise<{ first: string[]; rest: string[] }> {
  const [networks, wholes, routers, members, rules, sets] = (
    ['networks', 'wholes', 'routers', 'members', 'rules', 'sets'] as const
  ).map(key => all(changes, key))
  const about = new Set(all(changes, 'hosts').filter(host => host !== ''))
  const rest = new Set<string>()
  if ([networks, wholes, routers, members, rules, sets].some(list => list!.length > 0)) {
    const { rows } = await sql<{ host: string; first: boolean }>`
      select host, true as first from neutron.dhcp_bindings where network_id = any(${networks}::text[])
      union select b.host, true from neutron.router_bindings b where b.router_id = any(${routers}::text[])
      union select b.host, true from neutron.router_bindings b join neutron.ports p on p.device_id = b.router_id
        where p.network_id = any(${networks}::text[]) and p.device_owner like 'network:router%'
      union select distinct p.host, false from neutron.ports p join neutron.host_networks h on h.host = p.host
        where p.network_id = any(${networks}::text[]) and h.overlay_address in (
          select overlay_address from neutron.host_networks where overlay_address is not null group by 1 having count(*) = 1)
      union select distinct host, false from neutron.ports where network_id = any(${wholes}::text[]) and host <> ''
      union select distinct p.host, false from neutron.security_group_rules r
        join neutron.port_security_groups g on g.security_group_id = r.security_group_id join neutron.ports p on p.id = g.port_id
        where (r.remote_group_id = any(${members}::text[]) or r.security_group_id = any(${rules}::text[])
          or r.remote_address_group_id = any(${sets}::text[])) and p.host <> ''`.execute(env.db.read)
    for (const { host, first } of rows) (first ? about : rest).add(host)
  }
  const here = (host: string): boolean => env.hosts.isConnected(host)
  const elsewhere = [...about, ...rest].filter(host => !here(host))
  for (let at = 0; at < elsewhere.length; at += 50) {
    await sql`select pg_notify(${CHANNEL}, ${JSON.stringify(elsewhere.slice(at, at + 50))})`.execute(env.db.read)
  }
  return { first: [...about].filter(here), rest: [...rest].filter(host => here(host) && !about.has(host)) }
}
