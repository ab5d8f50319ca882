/**
 * Tasks keep the world matching the rows. A task has no arguments that a crash could lose: it looks at the rows, for all of its kind
 * or for one key, and makes what is match what should be. It runs on a timer and when poked; the next run is the retry.
 */
import { EventEmitter } from 'node:events'
import { afterCommit, type Migration, sql, type Tx } from './db/index.ts'
import { reason } from './fault.ts'
import type { Env } from './service.ts'

export interface Task {
  readonly name: string
  /** Seconds between runs for all keys. Of several controllers, one does each of these runs. */
  readonly every: number
  /** `key` limits the run to one thing; without it: everything. Must be safe beside itself in another process. */
  run(env: Env, key?: string): Promise<void>
}

/** Declares a task. */
export const task = (spec: Task): Task => spec

interface TasksTable {
  name: string
  ran_at: Date
  took_ms: number | null
  last_error: string | null
}

declare module './db/index.ts' {
  interface Tables {
    'kit.tasks': TasksTable
  }
}

export const taskMigrations: Migration[] = [
  {
    name: '0300_tasks',
    async up(tx) {
      await sql`
        create table kit.tasks (
          name text primary key,
          ran_at timestamptz(3) not null,
          took_ms integer,
          last_error text
        )`.execute(tx)
    },
    async down(tx) {
      await sql`drop table kit.tasks`.execute(tx)
    },
  },
]

const wakes = new EventEmitter()
wakes.setMaxListeners(0)

/** Runs the task soon, for this key or for all: after the commit when given a transaction, now when given nothing. */
export function poke(tx: Tx | undefined, what: Task, key?: string): void {
  const wake = (): void => void wakes.emit(what.name, key)
  if (tx) afterCommit(tx, wake)
  else wake()
}

export interface TaskRunner {
  /** Resolves when no run is under way or asked for. For tests. */
  idle(): Promise<void>
  stop(): Promise<void>
}

/** Runs tasks in this process. */
export function taskRunner(env: Env, tasks: readonly Task[]): TaskRunner {
  const lanes = tasks.map(each => lane(env, each))
  return {
    async idle() {
      while (lanes.some(l => l.busy())) await Promise.all(lanes.map(l => l.busy()))
    },
    async stop() {
      await Promise.all(lanes.map(l => l.stop()))
    },
  }
}

/** One task's runs: one after another, pokes for the same key while one runs fall together into one more run. */
function lane(env: Env, what: Task) {
  const log = env.log.child({ part: 'task', task: what.name })
  const asked = new Set<string | undefined>()
  let busy: Promise<void> | undefined
  let stopped = false
  const wake = (key?: string): void => {
    asked.add(key)
    busy ??= drain().finally(() => {
      busy = undefined
      if (asked.size > 0 && !stopped) wake([...asked][0])
    })
  }
  const drain = async (): Promise<void> => {
    for (const key of asked) {
      asked.delete(key)
      if (stopped) return
      try {
        await what.run(env, key)
      } catch (error) {
        if (!stopped) log.warn({ err: error, key }, 'task failed; its next run tries again')
      }
    }
  }
  const onTimer = async (): Promise<void> => {
    try {
      if (!(await ourTurn(env, what))) return
      const began = performance.now()
      let failure: string | null = null
      try {
        await what.run(env)
      } catch (error) {
        failure = reason(error)
        if (!stopped) log.warn({ err: error }, 'task failed; its next run tries again')
      }
      await env.db.read
        .updateTable('kit.tasks')
        .set({ took_ms: Math.round(performance.now() - began), last_error: failure })
        .where('name', '=', what.name)
        .execute()
    } catch (error) {
      if (!stopped) log.warn({ err: error }, 'task could not be run; trying again at its next time')
    }
  }
  let timed: Promise<void> = onTimer()
  const timer = setInterval(() => {
    timed = timed.then(onTimer)
  }, what.every * 1000).unref()
  wakes.on(what.name, wake)
  return {
    busy: () => busy,
    async stop() {
      stopped = true
      clearInterval(timer)
      wakes.off(what.name, wake)
      await Promise.all([busy, timed])
    },
  }
}

/** Whether this process is the one that does the run that is due. */
async function ourTurn(env: Env, what: Task): Promise<boolean> {
  const { rows } = await sql`
    insert into kit.tasks (name, ran_at) values (${what.name}, now())
    on conflict (name) do update set ran_at = now() where kit.tasks.ran_at < now() - ${what.every * 0.9} * interval '1 second'
    returning name`.execute(env.db.read)
  return rows.length > 0
}
