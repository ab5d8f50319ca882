/**
 * Keeps the database told which hosts are connected to this controller. A link is written when it comes and when it goes, all that changed
 * together in one transaction; between, the controller's own heartbeat vouches for all its links. So a thousand hosts at rest cost what one
 * does: a row every ten seconds.
 */
import { type Db, type Query, sql, type Tx } from '../db/index.ts'
import { reason } from '../fault.ts'
import type { Change, HostMemory, OpenHosts } from './hosts.ts'
import { HOST_REMOVED, hostsEnsure } from './registry.ts'
import { CONTROLLER_GONE } from './tables.ts'
import type { LinkLog } from './verb.ts'

export interface PresenceOptions {
  db: Db
  log: LinkLog
  /** This controller's name: unique among controllers that live. */
  controller: string
  /** Where agents of other machines reach it; null for a controller of its own machine only. */
  address: string | null
  /** Seconds between heartbeats. */
  every?: number
}

/** Give it to `hostsOpen` as `memory`, then start it. */
export interface Presence extends HostMemory {
  /** Writes the first heartbeat, takes over from an earlier process of this name, and goes on. */
  start(hosts: OpenHosts): Promise<void>
  /** Beats now: reads which controllers live and tells the agents. */
  beat(): Promise<void>
  /** Resolves when all changes so far are written, or rejects with why not. */
  flushed(): Promise<void>
  /** Writes what is left and takes this controller out. After `hosts.close()`. */
  stop(): Promise<void>
}

const EVERY = 10
const REMOVED = 'the host was removed'
const GONE = sql.lit(CONTROLLER_GONE)

export function presenceOf(options: PresenceOptions): Presence {
  const { db, log, controller } = options
  const every = (options.every ?? EVERY) * 1000
  const changes = new Map<string, Change>()
  let running: Promise<void> | null = null
  let started: OpenHosts | null = null
  let unlisten: (() => void) | null = null
  let timer: NodeJS.Timeout | undefined
  let stopped = false

  /** One transaction for all that changed while the last one ran. What failed is tried again at the next heartbeat. */
  const flush = async (): Promise<void> => {
    while (changes.size > 0) {
      const now = new Map(changes)
      changes.clear()
      try {
        await db.tx(tx => write(tx, controller, now))
      } catch (error) {
        for (const [host, change] of now) if (!changes.has(host)) changes.set(host, change)
        throw error
      }
    }
  }
  const flushed = (): Promise<void> => {
    running ??= flush().finally(() => {
      running = null
    })
    return running
  }
  const kick = (): void => {
    if (started) flushed().catch(error => log.warn({ error: reason(error) }, 'hosts that came or went could not be written yet'))
  }

  const beat = async (): Promise<void> => {
    const known = await heartbeat(db.read, controller, options.address)
    const gone = known.filter(one => !one.alive)
    if (gone.length > 0) {
      await db.tx(async tx => {
        for (const { name } of gone) await settle(tx, name)
      })
    }
    started?.announce(known.flatMap(({ alive, address }) => (alive && address !== null ? [address] : [])))
    if (changes.size > 0) await flushed()
  }
  const schedule = (): void => {
    timer = setTimeout(
      () => {
        beat()
          .catch(error => log.warn({ error: reason(error) }, 'the heartbeat could not be written'))
          .finally(() => {
            if (!stopped) schedule()
          })
      },
      every * (0.9 + Math.random() / 5),
    ).unref()
  }

  /** After notifications may have been missed. */
  const recheck = async (hosts: OpenHosts): Promise<void> => {
    await flushed()
    const here = hosts.connected()
    const { rows } = await sql<{ name: string }>`
      select name from unnest(${here}::text[]) as here (name) where not exists (select from kit.hosts h where h.name = here.name)`.execute(
      db.read,
    )
    for (const { name } of rows) hosts.drop(name, REMOVED)
  }

  return {
    changed(host, change) {
      changes.set(host, change)
      kick()
    },
    async lastSeen(host) {
      const row = await db.read.selectFrom('kit.host_states').select('last_seen_at').where('name', '=', host).executeTakeFirst()
      return row?.last_seen_at ?? null
    },
    async start(hosts) {
      await db.tx(tx => settle(tx, controller))
      started = hosts
      await beat()
      const onBack = (): void => {
        recheck(hosts).catch(error => log.warn({ error: reason(error) }, 'whether hosts were removed could not be read'))
      }
      unlisten = await db.listen(HOST_REMOVED, host => hosts.drop(host, REMOVED), { onBack })
      await flushed()
      schedule()
    },
    beat,
    flushed,
    async stop() {
      stopped = true
      clearTimeout(timer)
      unlisten?.()
      await flushed()
      await db.tx(tx => settle(tx, controller))
    },
  }
}

/** Writes who came and who went. A host of this process may come without a row; a proven one that has none was removed meanwhile. */
async function write(tx: Tx, controller: string, changes: Map<string, Change>): Promise<void> {
  const of = (...kinds: Change[]): string[] => [...changes].filter(([, kind]) => kinds.includes(kind)).map(([host]) => host)
  const own = of('own')
  const came = of('own', 'proven')
  const went = of('left')
  if (own.length > 0) await hostsEnsure(tx, own)
  if (came.length > 0) {
    await sql`
      with seen as (update kit.hosts set last_seen_at = now() where name = any(${came}::text[]) returning name)
      insert into kit.host_links (host, controller) select name, ${controller} from seen
      on conflict (host, controller) do update set since = now()`.execute(tx)
  }
  if (went.length > 0) {
    await sql`delete from kit.host_links where controller = ${controller} and host = any(${went}::text[])`.execute(tx)
    await sql`update kit.hosts set last_seen_at = now() where name = any(${went}::text[])`.execute(tx)
  }
}

interface Known {
  name: string
  address: string | null
  alive: boolean
}

/** Says that this controller lives, and returns all that were ever heard of, by address. One that is lost in a crash is written again soon. */
async function heartbeat(db: Query, controller: string, address: string | null): Promise<Known[]> {
  const { rows } = await sql<Known>`
    with quick as (select set_config('synchronous_commit', 'off', true)),
    own as (
      insert into kit.controllers (name, address) select ${controller}, ${address}::text from quick
      on conflict (name) do update set seen_at = now(), address = excluded.address
      returning name, address)
    select name, address, true as alive from own union all
    select name, address, seen_at > now() - make_interval(secs => ${GONE}) from kit.controllers where name <> ${controller}
    order by address`.execute(db)
  return rows
}

/** Takes a controller out: its hosts were last seen when it was. */
async function settle(tx: Tx, controller: string): Promise<void> {
  await sql`
    update kit.hosts h set last_seen_at = greatest(h.last_seen_at, c.seen_at)
    from kit.host_links l join kit.controllers c on c.name = l.controller
    where l.host = h.name and c.name = ${controller}`.execute(tx)
  await sql`delete from kit.controllers where name = ${controller}`.execute(tx)
}
