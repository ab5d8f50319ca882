/** What `nubo status` shows, read from the database and the instance's own address. */
import { request as plainRequest } from 'node:http'
import { request as tlsRequest } from 'node:https'
import { type Query, sql } from '#kit/db/index.ts'
import { reason } from '#kit/fault.ts'
import { type HostState, hostList } from '#kit/link/index.ts'
import { sagaList } from '#kit/saga/index.ts'
import type { Service } from '#kit/service.ts'

/** Seconds without a heartbeat after which a controller counts as gone; it beats every ten. */
const GONE = 30

export interface ControllerView {
  name: string
  address: string | null
  up: boolean
  seenAt: Date
  /** Operations that it works on now. */
  operations: number
}

export interface HostView extends Omit<HostState, 'createdAt'> {
  /** Since when it is connected. */
  since: Date | null
}

export interface OperationView {
  resource: string
  name: string
  /** running, undoing or queued. */
  state: string
  began: Date
  step: string | null
  since: Date | null
  deadline: Date | null
  attempts: number
  error: string | null
  owner: string | null
}

export interface FailingTask {
  name: string
  ranAt: Date
  error: string
}

/** Events of one kind that wait to be delivered. */
export interface WaitingEvents {
  name: string
  count: number
  oldest: Date
  attempts: number
  error: string | null
}

export interface UnsettledView {
  service: string
  what: string
  id: string
  state: string
  since: Date
  why: string | null
}

export interface Gathered {
  controllers: ControllerView[]
  hosts: HostView[]
  operations: OperationView[]
  failingTasks: FailingTask[]
  events: WaitingEvents[]
  unsettled: UnsettledView[]
}

/** Everything that the database tells. `patience`: seconds after which a passing state counts as unsettled. */
export async function gather(db: Query, services: readonly Service[], patience: number): Promise<Gathered> {
  const [controllers, hosts, operations, failingTasks, events, unsettled] = await Promise.all([
    controllerList(db),
    hostViews(db),
    operationList(db),
    failingTaskList(db),
    eventList(db),
    unsettledList(db, services, patience),
  ])
  return { controllers, hosts, operations, failingTasks, events, unsettled }
}

async function controllerList(db: Query): Promise<ControllerView[]> {
  const { rows } = await sql<ControllerView>`
    select c.name, c.address, c.seen_at as "seenAt", c.seen_at > now() - make_interval(secs => ${GONE}) as up,
      (select count(*)::int from kit.sagas s where s.lease_until > now() and split_part(s.owner, '/', 1) = c.name) as operations
    from kit.controllers c order by c.name`.execute(db)
  return rows
}

async function hostViews(db: Query): Promise<HostView[]> {
  const links = await db.selectFrom('kit.host_links').select(['host', 'since']).orderBy('since').execute()
  const since = new Map(links.reverse().map(link => [link.host, link.since]))
  return (await hostList(db)).map(({ createdAt, ...host }) => ({ ...host, since: (host.up && since.get(host.name)) || null }))
}

async function operationList(db: Query): Promise<OperationView[]> {
  const more = await db.selectFrom('kit.sagas').select(['id', 'owner', 'created_at']).execute()
  const byId = new Map(more.map(row => [row.id, row]))
  return (await sagaList(db)).flatMap(({ id, ...saga }) => {
    const row = byId.get(id)
    // It ended between the two questions.
    return row ? [{ ...saga, began: row.created_at, owner: row.owner?.split('/')[0] ?? null }] : []
  })
}

async function failingTaskList(db: Query): Promise<FailingTask[]> {
  const rows = await db
    .selectFrom('kit.tasks')
    .select(['name', 'ran_at as ranAt', 'last_error as error'])
    .where('last_error', 'is not', null)
    .orderBy('name')
    .execute()
  return rows.map(row => ({ ...row, error: row.error! }))
}

async function eventList(db: Query): Promise<WaitingEvents[]> {
  const { rows } = await sql<WaitingEvents>`
    select name, count(*)::int as count, min(created_at) as oldest, max(attempts) as attempts,
      (array_agg(last_error order by id) filter (where last_error is not null))[1] as error
    from kit.events group by name order by min(id)`.execute(db)
  return rows
}

async function unsettledList(db: Query, services: readonly Service[], patience: number): Promise<UnsettledView[]> {
  const lists = services.map(async ({ name, audit }) =>
    ((await audit?.unsettled?.(db, patience)) ?? []).map(found => ({ service: name, ...found })),
  )
  return (await Promise.all(lists)).flat()
}

const ANSWER_MS = 5000

/** Whether the instance's address answers that it is well: undefined, or else why not. `ca`: whom to trust, in PEM. */
export function whyIll(url: string, ca: string | undefined): Promise<string | undefined> {
  const target = new URL('/healthcheck', url)
  const options = { agent: false as const, signal: AbortSignal.timeout(ANSWER_MS) }
  return new Promise(resolve => {
    const request = target.protocol === 'https:' ? tlsRequest(target, { ...options, ca }) : plainRequest(target, options)
    request.once('error', error => resolve(reason(error)))
    request.once('response', response => {
      response.resume()
      response.once('end', () => resolve(response.statusCode === 200 ? undefined : `it answers ${response.statusCode}`))
      response.once('error', error => resolve(reason(error)))
    })
    request.end()
  })
}
