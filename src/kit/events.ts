/**
 * Events: how a service speaks to those to its right. An event is a row written with the transaction it tells of, and handed to its
 * subscribers after the commit, at least once each, in order of id as far as retries allow. A handler must be safe to run twice.
 */
import { EventEmitter } from 'node:events'
import { afterCommit, type Generated, json, type Migration, sql, type Tx } from './db/index.ts'
import { reason } from './fault.ts'
import type { Env } from './service.ts'

/** A kind of event. Both sides import the value. */
export interface Event<T> {
  readonly name: string
  /** Never present: carries the type. */
  readonly types?: (payload: T) => void
}

/** A handler bound to its event, listed in a service's `on`. */
export interface Subscription {
  readonly name: string
  run(env: Env, payload: unknown): Promise<void>
}

interface EventsTable {
  id: Generated<number>
  name: string
  payload: object
  created_at: Generated<Date>
  attempts: Generated<number>
  not_before: Generated<Date>
  last_error: string | null
}

declare module './db/index.ts' {
  interface Tables {
    'kit.events': EventsTable
  }
}

export const eventMigrations: Migration[] = [
  {
    name: '0200_events',
    async up(tx) {
      await sql`
        create table kit.events (
          id bigint generated always as identity primary key,
          name text not null,
          payload jsonb not null,
          created_at timestamptz(3) not null default now(),
          attempts integer not null default 0,
          not_before timestamptz(3) not null default now(),
          last_error text
        )`.execute(tx)
    },
    async down(tx) {
      await sql`drop table kit.events`.execute(tx)
    },
  },
]

/** Declares an event: `event<{ id: string }>('nova.server.deleted')`. */
export const event = <T extends object>(name: string): Event<T> => ({ name })

/** Subscribes: `on(serverDeleted, async (env, { id }) => …)`. */
export function on<T extends object>(what: Event<T>, run: (env: Env, payload: T) => Promise<void>): Subscription {
  return { name: what.name, run: (env, payload) => run(env, payload as T) }
}

const wakes = new EventEmitter()
wakes.setMaxListeners(0)

/** Tells it, if the transaction commits. */
export async function emit<T extends object>(tx: Tx, what: Event<T>, payload: T): Promise<void> {
  await tx
    .insertInto('kit.events')
    .values({ name: what.name, payload: json(payload) })
    .execute()
  afterCommit(tx, () => void wakes.emit('events'))
}

export interface Dispatcher {
  /** Resolves when every event that can be delivered now has been. For tests. */
  idle(): Promise<void>
  stop(): Promise<void>
}

const POLL_MS = 10_000
const BATCH = 50

/** Delivers events in this process. Several processes share the work. */
export function eventDispatcher(env: Env, subscriptions: readonly Subscription[]): Dispatcher {
  const byName = Map.groupBy(subscriptions, s => s.name)
  const log = env.log.child({ part: 'events' })
  let busy: Promise<void> | undefined
  let again = false
  let stopped = false
  const wake = (): void => {
    again = true
    busy ??= work().finally(() => {
      busy = undefined
      if (again && !stopped) wake()
    })
  }
  const work = async (): Promise<void> => {
    try {
      while (again && !stopped) {
        again = false
        if ((await deliver(env, byName)) > 0) again = true
      }
    } catch (error) {
      if (!stopped) log.warn({ err: error }, 'events could not be delivered; trying again soon')
    }
  }
  wakes.on('events', wake)
  const look = (): void => {
    isDue(env).then(
      due => due && !stopped && wake(),
      error => stopped || log.warn({ err: error }, 'whether events are due could not be read; trying again soon'),
    )
  }
  const timer = setInterval(look, POLL_MS).unref()
  wake()
  return {
    async idle() {
      while (busy) await busy
    },
    async stop() {
      stopped = true
      clearInterval(timer)
      wakes.off('events', wake)
      await busy
    },
  }
}

/** Whether any is to be delivered: one that failed before, or one of a process that died before it could. */
async function isDue(env: Env): Promise<boolean> {
  const { rows } = await sql<{ due: boolean }>`select exists (select from kit.events where not_before <= now()) as due`.execute(
    env.db.read,
  )
  return rows[0]!.due
}

/** Takes up to a batch of events, hands each to its subscribers, and removes those that all of them took. Returns how many were taken. */
async function deliver(env: Env, byName: Map<string, Subscription[]>): Promise<number> {
  return env.db.tx(async tx => {
    const rows = await tx
      .selectFrom('kit.events')
      .select(['id', 'name', 'payload', 'attempts'])
      .where('not_before', '<=', sql<Date>`now()`)
      .orderBy('id')
      .limit(BATCH)
      .forUpdate()
      .skipLocked()
      .execute()
    const taken: number[] = []
    for (const row of rows) {
      try {
        for (const subscription of byName.get(row.name) ?? []) await subscription.run(env, row.payload)
        taken.push(row.id)
      } catch (error) {
        env.log.warn({ err: error, event: row.name, id: row.id }, 'event handler failed; trying again')
        const pause = Math.min(60, 2 ** Math.min(row.attempts, 6))
        await tx
          .updateTable('kit.events')
          .set({ attempts: row.attempts + 1, last_error: reason(error), not_before: sql`now() + ${pause} * interval '1 second'` })
          .where('id', '=', row.id)
          .execute()
      }
    }
    if (taken.length > 0) await tx.deleteFrom('kit.events').where('id', 'in', taken).execute()
    return taken.length
  })
}
