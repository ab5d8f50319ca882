/** /os-services: who works, who is let work. */
import { sql, type Tx } from '#kit/db/index.ts'
import { badRequest, conflict, notFound } from '#kit/fault.ts'
import { isUuid } from '#kit/http/formats.ts'
import { type Route, route } from '#kit/http/route.ts'
import * as S from '#kit/http/schema.ts'
import type { Env } from '#kit/service.ts'
import { Flag, Fqdn, query, TEXT } from '../fields.ts'
import { neighbours } from '../neighbours.ts'
import { novaSettings } from '../settings.ts'
import { V } from '../versions.ts'
import { aggregates, isUp, type Service, serviceRows, zonesOf } from './store.ts'

const CLOSED = { additionalProperties: false }
const Reason = () => S.String({ minLength: 1, maxLength: 255 })

/** A moment as upstream prints it bare. */
const when = (at: Date | null): string | null => at && `${at.toISOString().slice(0, -1)}000`

function shown(row: Service, version: number, env: Env, zones: Map<string, string>) {
  const settings = env.config.of(novaSettings)
  const compute = row.program === 'nova-compute'
  return {
    binary: row.program,
    host: row.host,
    id: version >= V.serviceUuid ? row.id : row.seq,
    zone: compute ? (zones.get(row.host) ?? settings.default_availability_zone) : settings.internal_service_availability_zone,
    status: row.disabled ? 'disabled' : 'enabled',
    state: isUp(env, row) ? 'up' : 'down',
    updated_at: when(row.seen ?? row.updated_at ?? row.created_at),
    disabled_reason: row.disabled_reason,
    ...(version >= V.forcedDown ? { forced_down: row.forced_down } : {}),
  }
}

type Change = Partial<{ disabled: boolean; disabled_reason: string | null; forced_down: boolean }>

/** Changes a compute service; Placement is told when it is disabled or enabled. */
async function serviceChange(tx: Tx, row: Service, change: Change): Promise<void> {
  if (row.program !== 'nova-compute') {
    throw badRequest(`Updating a ${row.program} service is not supported. Only nova-compute services can be updated.`)
  }
  await tx
    .updateTable('nova.services')
    .set({ ...change, updated_at: sql`now()` })
    .where('id', '=', row.id)
    .execute()
  if (change.disabled === undefined) return
  const node = await tx.selectFrom('nova.hypervisors').select('id').where('host', '=', row.host).executeTakeFirst()
  if (node) await neighbours.providerDisable(tx, node.id, change.disabled)
}

const oldBody = S.Object(
  {
    host: Fqdn(),
    binary: S.String({ minLength: 1, maxLength: 255 }),
    disabled_reason: S.Optional(Reason()),
    forced_down: S.since(V.forcedDown, S.Optional(Flag())),
  },
  CLOSED,
)

const newBody = S.Object(
  {
    status: S.Optional(S.OneOf('enabled', 'disabled')),
    disabled_reason: S.Optional(Reason()),
    forced_down: S.Optional(Flag()),
  },
  CLOSED,
)

type OldBody = S.Static<typeof oldBody>
/** PUT /os-services/VERB: what changes, and what is answered. */
const OLD_VERBS: Record<string, (body: OldBody) => { change: Change; answer: object }> = {
  enable: () => ({ change: { disabled: false, disabled_reason: null }, answer: { status: 'enabled' } }),
  disable: () => ({ change: { disabled: true, disabled_reason: null }, answer: { status: 'disabled' } }),
  'disable-log-reason': ({ disabled_reason }) => {
    if (disabled_reason === undefined) throw badRequest('Missing disabled reason field')
    return { change: { disabled: true, disabled_reason }, answer: { status: 'disabled', disabled_reason } }
  },
  'force-down': ({ forced_down }) => {
    if (forced_down === undefined) throw badRequest('Missing forced_down field')
    const down = S.toBoolean(forced_down) ?? false
    return { change: { forced_down: down }, answer: { forced_down: down } }
  },
}

const list = route({
  method: 'GET',
  path: '/os-services',
  policy: 'os_compute_api:os-services:list',
  query: query({ host: TEXT, binary: TEXT }),
  async handle({ db, env, search, version }) {
    let rows = serviceRows(db).orderBy('s.program').orderBy('s.host')
    const host = search.get('host')
    const program = search.get('binary')
    if (host) rows = rows.where('s.host', '=', host)
    if (program) rows = rows.where('s.program', '=', program)
    const zones = zonesOf(await aggregates(db))
    return { services: (await rows.execute()).map(row => shown(row, version, env, zones)) }
  },
})

const updateOld = route({
  method: 'PUT',
  path: '/os-services/:id',
  until: V.serviceUuid - 1,
  policy: 'os_compute_api:os-services:update',
  body: oldBody,
  async handle({ env, params, body, version }) {
    const verb = params.id!
    if (!Object.hasOwn(OLD_VERBS, verb) || (verb === 'force-down' && version < V.forcedDown)) throw notFound('Unknown action')
    const { change, answer } = OLD_VERBS[verb]!(body)
    if (body.binary !== 'nova-compute') {
      throw badRequest(`Updating a ${body.binary} service is not supported. Only nova-compute services can be updated.`)
    }
    await env.db.tx(async tx => {
      const row = await serviceRows(tx).where('s.host', '=', body.host).where('s.program', '=', body.binary).executeTakeFirst()
      if (!row) throw notFound(`Could not find binary ${body.binary} on host ${body.host}.`)
      await serviceChange(tx, row, change)
    })
    return { service: { host: body.host, binary: body.binary, ...answer } }
  },
})

const update = route({
  method: 'PUT',
  path: '/os-services/:id',
  since: V.serviceUuid,
  policy: 'os_compute_api:os-services:update',
  body: newBody,
  async handle({ env, params, body, version }) {
    const id = params.id!
    if (!isUuid(id)) throw badRequest(`Invalid uuid ${id}`)
    const { status, disabled_reason, forced_down } = body
    if (status === undefined && disabled_reason === undefined && forced_down === undefined) {
      throw badRequest("No updates were requested. Fields 'status' or 'forced_down' should be specified.")
    }
    if (disabled_reason !== undefined && status !== 'disabled') {
      throw badRequest("Specifying 'disabled_reason' requires that 'status' is 'disabled'.")
    }
    return env.db.tx(async tx => {
      const row = await serviceRows(tx).where('s.id', '=', id).executeTakeFirst()
      if (!row) throw notFound(`Service ${id} could not be found.`)
      await serviceChange(tx, row, {
        ...(status === undefined ? {} : { disabled: status === 'disabled', disabled_reason: disabled_reason ?? null }),
        ...(forced_down === undefined ? {} : { forced_down: S.toBoolean(forced_down) ?? false }),
      })
      const now = await serviceRows(tx).where('s.id', '=', id).executeTakeFirstOrThrow()
      return { service: shown(now, version, env, zonesOf(await aggregates(tx))) }
    })
  },
})

const remove = route({
  method: 'DELETE',
  path: '/os-services/:id',
  success: 204,
  policy: 'os_compute_api:os-services:delete',
  async handle({ env, params, version }) {
    const id = params.id!
    const byUuid = version >= V.serviceUuid
    if (byUuid && !isUuid(id)) throw badRequest(`Invalid uuid ${id}`)
    if (!byUuid && !/^\d{1,15}$/.test(id)) throw badRequest(`Invalid input for field/attribute id. Value: ${id}.`)
    await env.db.tx(async tx => {
      const row = await serviceRows(tx)
        .where(byUuid ? 's.id' : 's.seq', '=', (byUuid ? id : Number(id)) as never)
        .executeTakeFirst()
      if (!row) throw notFound(`Service ${id} not found.`)
      if (row.program === 'nova-compute') await computeRemove(tx, row.host)
      await tx.deleteFrom('nova.services').where('id', '=', row.id).execute()
    })
  },
})

/** Forgets a compute host that has no servers. */
async function computeRemove(tx: Tx, host: string): Promise<void> {
  const server = await tx.selectFrom('nova.servers').select('id').where('host', '=', host).limit(1).executeTakeFirst()
  if (server) {
    throw conflict('Unable to delete compute service that is hosting instances. Migrate or delete the instances first.')
  }
  const node = await tx.deleteFrom('nova.hypervisors').where('host', '=', host).returning('id').executeTakeFirst()
  if (node && !(await neighbours.providerDelete(tx, node.id))) {
    throw conflict('Unable to delete compute service: resources of it are still allocated.')
  }
  await tx
    .updateTable('nova.aggregates')
    .set({ hosts: sql`array_remove(hosts, ${host})` })
    .where(sql<boolean>`${host} = any(hosts)`)
    .execute()
}

export const serviceRoutes: Route[] = [list, updateOld, update, remove]
