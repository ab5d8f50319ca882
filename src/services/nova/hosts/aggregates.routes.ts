/** /os-aggregates and /os-availability-zone: groups of hosts, and the zones that some of them are. */
import { randomUUID } from 'node:crypto'
import { isDuplicate, json, type Query, sql, type Tx } from '#kit/db/index.ts'
import { badRequest, conflict, notFound } from '#kit/fault.ts'
import { type Call, type Route, route } from '#kit/http/route.ts'
import * as S from '#kit/http/schema.ts'
import { call as ask } from '#kit/link/index.ts'
import type { Env } from '#kit/service.ts'
import { Fqdn, Name, query, ZoneName } from '../fields.ts'
import { imageRef } from '../guests/spec.ts'
import { neighbours } from '../neighbours.ts'
import { keptImage } from '../servers/create.ts'
import { novaSettings } from '../settings.ts'
import { cacheImage } from '../verbs.ts'
import { V } from '../versions.ts'
import { bareTime } from '../wire.ts'
import { type Aggregate, aggregates, isUp, serviceRows, zonesOf } from './store.ts'

const CLOSED = { additionalProperties: false }
const ZONE = 'availability_zone'

const shown = (row: Aggregate, version: number) => ({
  ...(version >= V.aggregateUuid ? { uuid: row.uuid } : {}),
  id: row.id,
  name: row.name,
  availability_zone: row.metadata[ZONE] ?? null,
  hosts: row.hosts,
  metadata: row.metadata,
  created_at: bareTime(row.created_at),
  updated_at: row.updated_at && bareTime(row.updated_at),
  deleted: false,
  deleted_at: null,
})

function idOf(text: string): number {
  if (!/^-?\d{1,15}$/.test(text)) throw badRequest(`id must be an integer`)
  return Number(text)
}

async function fetched(db: Query, text: string, lock = false): Promise<Aggregate> {
  let rows = db.selectFrom('nova.aggregates').selectAll().where('id', '=', idOf(text))
  if (lock) rows = rows.forUpdate()
  const row = await rows.executeTakeFirst()
  if (!row) throw notFound(`Aggregate ${text} could not be found.`)
  return row
}

const aggregateTarget = ({ db, params }: Pick<Call, 'db' | 'params'>) => fetched(db, params.id!)

type Change = { name?: string; metadata?: Record<string, string>; hosts?: string[] }

async function change(tx: Tx, row: Aggregate, { name, metadata, hosts }: Change): Promise<Aggregate> {
  try {
    return await tx
      .updateTable('nova.aggregates')
      .set({
        ...(name === undefined ? {} : { name }),
        ...(metadata === undefined ? {} : { metadata: json(metadata) }),
        ...(hosts === undefined ? {} : { hosts }),
        updated_at: sql`now()`,
      })
      .where('id', '=', row.id)
      .returningAll()
      .executeTakeFirstOrThrow()
  } catch (error) {
    if (!isDuplicate(error)) throw error
    throw conflict(`Aggregate ${name} already exists.`, { cause: error })
  }
}

/** A zone may change only while no server of it is on the hosts; a host is in one zone. */
async function mayChangeZone(tx: Tx, row: Aggregate, zone: string | undefined): Promise<void> {
  if (zone === row.metadata[ZONE] || row.hosts.length === 0) return
  const others = zonesOf((await aggregates(tx)).filter(a => a.id !== row.id))
  for (const host of row.hosts) {
    const other = others.get(host)
    if (zone !== undefined && other !== undefined && other !== zone) {
      throw badRequest(
        `Cannot perform action 'update' on aggregate ${row.id}. Reason: Host ${host} is already in another availability zone, ${other}.`,
      )
    }
  }
  const server = await tx.selectFrom('nova.servers').select('host').where('host', 'in', row.hosts).limit(1).executeTakeFirst()
  if (server) {
    throw badRequest(
      `Cannot perform action 'update' on aggregate ${row.id}. Reason: One or more hosts contain instances in this zone.`,
    )
  }
}

/** Placement knows hosts by aggregate as well. */
async function tellPlacement(tx: Tx, hosts: readonly string[]): Promise<void> {
  const all = await aggregates(tx)
  for (const host of hosts) {
    const node = await tx.selectFrom('nova.hypervisors').select('id').where('host', '=', host).executeTakeFirst()
    if (!node) continue
    await neighbours.providerAggregates(
      tx,
      node.id,
      all.filter(a => a.hosts.includes(host)).map(a => a.uuid),
    )
  }
}

const act = <T extends S.TSchema>(
  key: string,
  value: T,
  run: (tx: Tx, row: Aggregate, value: S.Static<T>) => Promise<Aggregate>,
): Route =>
  route({
    method: 'POST',
    path: '/os-aggregates/:id/action',
    action: key,
    policy: `os_compute_api:os-aggregates:${key}`,
    body: S.Object({ [key]: value as S.TSchema }, CLOSED),
    async handle({ env, params, version, body }) {
      const row = await env.db.tx(async tx =>
        run(tx, await fetched(tx, params.id!, true), (body as Record<string, unknown>)[key] as S.Static<T>),
      )
      return { aggregate: shown(row, version) }
    },
  })

const onHost = S.Object({ host: Fqdn() }, CLOSED)

async function addHost(tx: Tx, row: Aggregate, { host }: { host: string }): Promise<Aggregate> {
  const known = await tx.selectFrom('nova.hypervisors').select('id').where('host', '=', host).executeTakeFirst()
  if (!known) throw notFound(`Compute host ${host} could not be found.`)
  if (row.hosts.includes(host)) throw conflict(`Aggregate ${row.id} already has host ${host}.`)
  const zone = row.metadata[ZONE]
  const other = zonesOf(await aggregates(tx)).get(host)
  if (zone !== undefined && other !== undefined && other !== zone) {
    throw conflict(
      `Cannot perform action 'add_host_to_aggregate' on aggregate ${row.id}. Reason: Host already in availability zone "${other}".`,
    )
  }
  const made = await change(tx, row, { hosts: [...row.hosts, host] })
  await tellPlacement(tx, [host])
  return made
}

async function removeHost(tx: Tx, row: Aggregate, { host }: { host: string }): Promise<Aggregate> {
  if (!row.hosts.includes(host)) throw notFound(`Cannot remove host ${host} in aggregate ${row.id}`)
  const made = await change(tx, row, { hosts: row.hosts.filter(other => other !== host) })
  await tellPlacement(tx, [host])
  return made
}

const metadataBody = S.Object(
  {
    metadata: S.Unsafe<Record<string, string | null>>({
      type: 'object',
      patternProperties: { '^[a-zA-Z0-9-_:. ]{1,255}$': { type: ['string', 'null'], maxLength: 255 } },
      additionalProperties: false,
    }),
  },
  CLOSED,
)

async function setMetadata(
  tx: Tx,
  row: Aggregate,
  { metadata }: { metadata: Record<string, string | null> },
): Promise<Aggregate> {
  const merged = Object.entries({ ...row.metadata, ...metadata }).filter((pair): pair is [string, string] => pair[1] !== null)
  const after = Object.fromEntries(merged)
  if (after[ZONE] === '')
    throw badRequest(`Cannot perform action 'update_meta' on aggregate ${row.id}. Reason: The zone is empty.`)
  await mayChangeZone(tx, row, after[ZONE])
  return change(tx, row, { metadata: after })
}

const Zone = () => S.Optional(S.Nullable(ZoneName()))

const aggregateRoutes: Route[] = [
  route({
    method: 'GET',
    path: '/os-aggregates',
    policy: 'os_compute_api:os-aggregates:index',
    query: query({}, V.flavorName),
    handle: async ({ db, version }) => ({ aggregates: (await aggregates(db)).map(row => shown(row, version)) }),
  }),
  route({
    method: 'POST',
    path: '/os-aggregates',
    policy: 'os_compute_api:os-aggregates:create',
    body: S.Object({ aggregate: S.Object({ name: Name(), availability_zone: Zone() }, CLOSED) }, CLOSED),
    async handle({ env, body, version }) {
      const { name, availability_zone: zone } = body.aggregate
      const row = await env.db.tx(async tx => {
        try {
          return await tx
            .insertInto('nova.aggregates')
            .values({ uuid: randomUUID(), name, metadata: json<Record<string, string>>(zone ? { [ZONE]: zone } : {}) })
            .returningAll()
            .executeTakeFirstOrThrow()
        } catch (error) {
          if (!isDuplicate(error)) throw error
          throw conflict(`Aggregate ${name} already exists.`, { cause: error })
        }
      })
      const { hosts: _hosts, metadata: _metadata, ...rest } = shown(row, version)
      return { aggregate: rest }
    },
  }),
  route({
    method: 'GET',
    path: '/os-aggregates/:id',
    policy: 'os_compute_api:os-aggregates:show',
    query: query({}, V.flavorName),
    policyTarget: ({ ctx }) => ({ project_id: ctx.projectId }),
    target: aggregateTarget,
    handle: ({ target, version }) => ({ aggregate: shown(target, version) }),
  }),
  route({
    method: 'PUT',
    path: '/os-aggregates/:id',
    policy: 'os_compute_api:os-aggregates:update',
    body: S.Object(
      { aggregate: S.Object({ name: S.Optional(Name()), availability_zone: Zone() }, { ...CLOSED, minProperties: 1 }) },
      CLOSED,
    ),
    async handle({ env, params, body, version }) {
      const { name, availability_zone: zone } = body.aggregate
      const row = await env.db.tx(async tx => {
        const before = await fetched(tx, params.id!, true)
        if (zone === undefined) return change(tx, before, { name })
        await mayChangeZone(tx, before, zone ?? undefined)
        const { [ZONE]: _, ...rest } = before.metadata
        return change(tx, before, { name, metadata: zone ? { ...rest, [ZONE]: zone } : rest })
      })
      return { aggregate: shown(row, version) }
    },
  }),
  route({
    method: 'DELETE',
    path: '/os-aggregates/:id',
    policy: 'os_compute_api:os-aggregates:delete',
    async handle({ env, params, reply }) {
      await env.db.tx(async tx => {
        const row = await fetched(tx, params.id!, true)
        if (row.hosts.length > 0) {
          throw badRequest(`Cannot perform action 'delete' on aggregate ${row.id}. Reason: Host aggregate is not empty.`)
        }
        await tx.deleteFrom('nova.aggregates').where('id', '=', row.id).execute()
      })
      reply.status = 200
    },
  }),
  act('add_host', onHost, addHost),
  act('remove_host', onHost, removeHost),
  act('set_metadata', metadataBody, setMetadata),
  route({
    method: 'POST',
    path: '/os-aggregates/:id/images',
    since: V.imageCache,
    success: 202,
    policy: 'compute:aggregates:images',
    body: S.Object({ cache: S.Array(S.Object({ id: S.Uuid() }, CLOSED), { minItems: 1 }) }, CLOSED),
    async handle({ ctx, db, env, params, body }) {
      const ids = body.cache.map(image => image.id)
      if (new Set(ids).size < ids.length) throw badRequest('Duplicate images in request')
      const { hosts } = await fetched(db, params.id!)
      for (const id of ids) {
        const image = imageRef(keptImage(await neighbours.imageFetch(db, ctx, id)))
        for (const host of hosts) {
          // A cache that could not be filled is filled by the first server: nothing waits for it.
          ask(env, host, cacheImage, { image }).catch(error => env.log.warn({ err: error, host, image: id }, 'image not cached'))
        }
      }
    },
  }),
]

interface ZoneHosts {
  available: boolean
  hosts: Record<string, Record<string, { available: boolean; active: boolean; updated_at: string | null }>>
}

/** The zones with the services that are in them. A zone is available while a service that is enabled is in it. */
async function zones(db: Query, env: Env): Promise<Map<string, ZoneHosts>> {
  const settings = env.config.of(novaSettings)
  const byHost = zonesOf(await aggregates(db))
  const out = new Map<string, ZoneHosts>()
  for (const row of await serviceRows(db).orderBy('s.host').execute()) {
    const zone =
      row.program === 'nova-compute'
        ? (byHost.get(row.host) ?? settings.default_availability_zone)
        : settings.internal_service_availability_zone
    const of = out.get(zone) ?? { available: false, hosts: {} }
    if (!row.disabled) {
      of.available = true
      const at = (of.hosts[row.host] ??= {})
      at[row.program] = { available: isUp(env, row), active: true, updated_at: row.seen && bareTime(row.seen) }
    }
    out.set(zone, of)
  }
  return out
}

const zoneRoutes: Route[] = [
  route({
    method: 'GET',
    path: '/os-availability-zone',
    policy: 'os_compute_api:os-availability-zone:list',
    query: query({}, V.flavorName),
    async handle({ db, env }) {
      const internal = env.config.of(novaSettings).internal_service_availability_zone
      const shownZones = [...(await zones(db, env))].filter(([name]) => name !== internal)
      return {
        availabilityZoneInfo: shownZones.map(([zoneName, { available }]) => ({
          zoneName,
          zoneState: { available },
          hosts: null,
        })),
      }
    },
  }),
  route({
    method: 'GET',
    path: '/os-availability-zone/detail',
    policy: 'os_compute_api:os-availability-zone:detail',
    query: query({}, V.flavorName),
    async handle({ db, env }) {
      return {
        availabilityZoneInfo: [...(await zones(db, env))].map(([zoneName, { available, hosts }]) => ({
          zoneName,
          zoneState: { available },
          hosts: available ? hosts : null,
        })),
      }
    },
  }),
]

export const aggregateAndZoneRoutes: Route[] = [...aggregateRoutes, ...zoneRoutes]
