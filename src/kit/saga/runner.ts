/** Runs sagas: claims rows, has them executed, renews leases, takes over from the dead. */
import { randomUUID } from 'node:crypto'
import { type Db, sql } from '../db/index.ts'
import type { Env } from '../service.ts'
import { Execution, isProbe, Lost, type Row } from './execution.ts'
import type { Saga } from './index.ts'
import { onRunners, onWaiters, wakeRunners, wakeWaiters } from './wake.ts'

export interface RunnerOptions {
  env: Env
  sagas: readonly Saga<never>[]
  /** This controller's name. A restarted controller takes over at once what its former self held. */
  name?: string
  /** Seconds that a lease lasts; 6 unless given. */
  lease?: number
  /** Sagas run at once in this process; 256 unless given. */
  parallel?: number
  /** Called at each point at which the process could die, with its name. What it throws ends the runner like `kill -9` would. For tests. */
  probe?: (point: string) => void
  /** Called when a step has acted, before that is recorded. What it throws is that step's failure. For tests. */
  sabotage?: (step: string) => void
}

export interface Runner {
  /** Resolves when no saga of this process is running or to be claimed. For tests and orderly stops. */
  idle(): Promise<void>
  /** Lets go: running acts are aborted, nothing more is written, leases are given back. */
  stop(): Promise<void>
}

const POLL_MS = 2000

/** Starts the runner of this process. */
export async function sagaRunner(options: RunnerOptions): Promise<Runner> {
  const { env } = options
  const { db } = env
  const log = env.log.child({ part: 'saga' })
  const byName = new Map(options.sagas.map(s => [s.name, s as unknown as Saga<object>]))
  const name = options.name ?? randomUUID()
  const owner = `${name}/${randomUUID()}`
  const lease = options.lease ?? 6
  const parallel = options.parallel ?? 256
  const probe = options.probe ?? (() => {})
  const sabotage = options.sabotage ?? (() => {})
  const stopping = new AbortController()
  const running = new Map<string, Execution>()
  const idlers: (() => void)[] = []
  let claiming = false
  let again = false
  let dead = false

  const unlisten = await db.listen('kit_saga', wakeWaiters)
  const unwake = onRunners(() => void claim())
  const pollTimer = setInterval(() => void claim(), POLL_MS).unref()
  const renewTimer = setInterval(() => void renew(), (lease * 1000) / 3).unref()
  void claim()

  return {
    async idle() {
      while (claiming || running.size > 0) await new Promise<void>(resolve => idlers.push(resolve))
    },
    async stop() {
      clearInterval(pollTimer)
      clearInterval(renewTimer)
      unwake()
      stopping.abort(new Lost('the process stops'))
      for (const execution of running.values()) execution.abort.abort(new Lost('the process stops'))
      while (running.size > 0) await new Promise<void>(resolve => idlers.push(resolve))
      if (!dead) await release()
      await unlisten()
    },
  }

  async function release(): Promise<void> {
    await db.read.updateTable('kit.sagas').set({ owner: null, lease_until: null }).where('owner', '=', owner).execute()
  }

  /** Takes what nobody holds: new sagas, those of dead owners, and those of a former self. */
  async function claim(): Promise<void> {
    if (claiming) {
      again = true
      return
    }
    claiming = true
    try {
      do {
        again = false
        const room = parallel - running.size
        if (room <= 0 || dead || stopping.signal.aborted) break
        const rows = await claimRows(db, owner, name, lease, room)
        for (const row of rows) void execute(row)
        if (rows.length === room) again = true
      } while (again)
    } catch (error) {
      if (!stopping.signal.aborted) log.warn({ err: error }, 'sagas could not be claimed; trying again soon')
    } finally {
      claiming = false
      settle()
    }
  }

  function settle(): void {
    for (const resolve of idlers.splice(0)) resolve()
  }

  async function renew(): Promise<void> {
    if (running.size === 0 || dead) return
    try {
      const { rows } = await sql<{ id: string; cancel: boolean }>`
        update kit.sagas set lease_until = now() + ${lease} * interval '1 second'
        where owner = ${owner} and id = any(${[...running.keys()]}) returning id, cancel`.execute(db.read)
      const held = new Map(rows.map(row => [row.id, row.cancel]))
      for (const [id, execution] of running) {
        if (held.get(id) === true) execution.cancel()
        if (!held.has(id) && execution.began < Date.now() - 1000) execution.abort.abort(new Lost('the lease was lost'))
      }
    } catch (error) {
      log.warn({ err: error }, 'leases could not be renewed; trying again soon')
    }
  }

  async function execute(row: Row): Promise<void> {
    const saga = byName.get(row.name)
    if (!saga) {
      log.error({ saga: row.name, id: row.id }, 'no such saga in this version; it stays as it is')
      return
    }
    const execution = new Execution(db, row, saga, env, { probe, sabotage, stopping: stopping.signal })
    running.set(row.id, execution)
    const deaf = onWaiters(`cancel ${row.resource}`, () => execution.cancel())
    try {
      await execution.run()
    } catch (error) {
      if (error instanceof Lost) log.info({ id: row.id, saga: row.name }, error.message)
      else {
        // What reaches this place is no failure of a step: the database is away, or a probe killed us. The lease ends; somebody goes on.
        if (isProbe(error)) dead = true
        else log.error({ err: error, id: row.id, saga: row.name }, 'saga interrupted; it is taken up again when its lease ends')
      }
    } finally {
      deaf()
      running.delete(row.id)
      wakeRunners()
      settle()
    }
  }
}

async function claimRows(db: Db, owner: string, name: string, lease: number, limit: number): Promise<Row[]> {
  const { rows } = await sql<Row>`
    update kit.sagas set owner = ${owner}, fence = fence + 1, lease_until = now() + ${lease} * interval '1 second'
    where id in (
      select id from kit.sagas
      where state <> 'queued' and (owner is null or lease_until < now() or (owner like ${`${name.replace(/[\\%_]/g, '\\$&')}/%`} and owner <> ${owner}))
      order by created_at limit ${limit} for update skip locked)
    returning *`.execute(db.read)
  return rows
}
