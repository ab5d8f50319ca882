/** /os-migrations and /servers/ID/migrations: moves of servers, as they go and as they went. */
import { type Query, sql } from '#kit/db/index.ts'
import { badRequest, conflict, notFound } from '#kit/fault.ts'
import { type Call, type Route, route } from '#kit/http/route.ts'
import * as S from '#kit/http/schema.ts'
import { sagaCancel } from '#kit/saga/index.ts'
import { actionEnd, actionsBegin } from '../actions/store.ts'
import { DATE, PAGING, pageOf, query, TEXT } from '../fields.ts'
import { serverTarget } from '../servers/routes.ts'
import { type Server, serverResource, serverTake, stateConflict } from '../servers/store.ts'
import { novaSettings } from '../settings.ts'
import { V } from '../versions.ts'
import { bareTime, bookmarkBase, nextLink } from '../wire.ts'
import { IN_PROGRESS, type Migration } from './store.ts'

type Listed = Migration & { old_seq: number | null; new_seq: number | null }

/** Migrations with the inner numbers of their flavors, null for flavors that are gone. */
const migrations = (db: Query) =>
  db
    .selectFrom('nova.migrations as m')
    .selectAll('m')
    .select([
      sql<number | null>`(select seq from nova.flavors f where f.id = m.old_flavor->>'id')`.as('old_seq'),
      sql<number | null>`(select seq from nova.flavors f where f.id = m.new_flavor->>'id')`.as('new_seq'),
    ])

/** What every form of a migration shows. Hosts are for those who may see them. */
const common = (row: Migration, version: number, hosts: boolean) => ({
  id: row.id,
  source_compute: hosts ? row.source_compute : null,
  source_node: hosts ? row.source_node : null,
  dest_compute: hosts ? row.dest_compute : null,
  dest_node: hosts ? row.dest_node : null,
  dest_host: hosts ? row.dest_host : null,
  status: row.status,
  created_at: bareTime(row.created_at),
  updated_at: bareTime(row.updated_at),
  ...(version >= V.migrationPages ? { uuid: row.uuid } : {}),
  ...(version >= V.migrationOwner ? { user_id: row.user_id, project_id: row.project_id } : {}),
})

function listedShown(call: Call, row: Listed, hosts: boolean): object {
  const { version, self } = call
  const path = `/servers/${row.server_id}/migrations/${row.id}`
  const live = row.migration_type === 'live-migration' && IN_PROGRESS.includes(row.status)
  return {
    ...common(row, version, hosts),
    instance_uuid: row.server_id,
    old_instance_type_id: row.old_seq,
    new_instance_type_id: row.new_seq,
    ...(version >= V.serverMigrations ? { migration_type: row.migration_type } : {}),
    ...(version >= V.serverMigrations && live
      ? {
          links: [
            { rel: 'self', href: self(path) },
            { rel: 'bookmark', href: bookmarkBase(call, `servers/${row.server_id}/migrations`) + row.id },
          ],
        }
      : {}),
  }
}

const progress = (row: Migration, version: number, hosts: boolean) => ({
  ...common(row, version, hosts),
  server_uuid: row.server_id,
  memory_total_bytes: row.memory_total,
  memory_processed_bytes: row.memory_processed,
  memory_remaining_bytes: row.memory_remaining,
  disk_total_bytes: row.disk_total,
  disk_processed_bytes: row.disk_processed,
  disk_remaining_bytes: row.disk_remaining,
})

const FILTERS = { hidden: TEXT, host: TEXT, instance_uuid: { type: 'string', format: 'uuid' }, source_compute: TEXT }
const MORE = { ...FILTERS, status: TEXT, migration_type: TEXT }
const PAGED = { ...MORE, ...PAGING, 'changes-since': DATE }
const BEFORE = { ...PAGED, 'changes-before': DATE }

const list = route({
  method: 'GET',
  path: '/os-migrations',
  policy: 'os_compute_api:os-migrations:index',
  query: S.byVersion(
    [0, query(MORE)],
    [V.migrationPages, query(PAGED, V.migrationPages)],
    [V.changesBefore, query(BEFORE, V.migrationPages)],
    [V.migrationOwner, query({ ...BEFORE, user_id: TEXT, project_id: TEXT }, V.migrationPages)],
  ),
  async handle(call) {
    const { ctx, db, env, search, version } = call
    const paged = version >= V.migrationPages
    let rows = migrations(db).orderBy('m.id', 'desc')
    const filter = (name: string, column: 'm.server_id' | 'm.source_compute' | 'm.status' | 'm.migration_type') => {
      const value = search.get(name)
      if (value !== null) rows = rows.where(column, '=', value)
    }
    filter('instance_uuid', 'm.server_id')
    filter('source_compute', 'm.source_compute')
    filter('status', 'm.status')
    filter('migration_type', 'm.migration_type')
    const host = search.get('host')
    if (host !== null) rows = rows.where(eb => eb.or([eb('m.source_compute', '=', host), eb('m.dest_compute', '=', host)]))
    if (!ctx.can('os_compute_api:os-migrations:index:all_projects')) rows = rows.where('m.project_id', '=', ctx.projectId ?? '')
    if (version >= V.migrationOwner) {
      for (const name of ['user_id', 'project_id'] as const) {
        const value = search.get(name)
        if (value !== null) rows = rows.where(`m.${name}`, '=', value)
      }
    }
    const { limit, marker } = pageOf(search, env.config.of(novaSettings).max_limit)
    if (paged) {
      const since = search.get('changes-since')
      const before = version >= V.changesBefore ? search.get('changes-before') : null
      if (since !== null && before !== null && new Date(since) > new Date(before)) {
        throw badRequest('The value of changes-since must be less than or equal to changes-before.')
      }
      if (since !== null) rows = rows.where('m.updated_at', '>=', new Date(since))
      if (before !== null) rows = rows.where('m.updated_at', '<=', new Date(before))
      if (marker !== null) {
        const at = await db.selectFrom('nova.migrations').select('id').where('uuid', '=', marker).executeTakeFirst()
        if (!at) throw badRequest(`Marker ${marker} could not be found.`)
        rows = rows.where('m.id', '<', at.id)
      }
      rows = rows.limit(limit)
    }
    const found: Listed[] = paged && limit === 0 ? [] : await rows.execute()
    const hosts = ctx.can('os_compute_api:os-migrations:index:host')
    const more = paged && found.length > 0 && found.length === limit
    return {
      migrations: found.map(row => listedShown(call, row, hosts)),
      ...(more ? { migrations_links: nextLink(call, '/os-migrations', found.at(-1)!.uuid) } : {}),
    }
  },
})

type OnServer = Call<unknown, unknown, Server>

/** A live migration of the server that goes on. Throws notFound, badRequest for one that is of another kind. */
async function underWay({ db, params, target }: Pick<OnServer, 'db' | 'params' | 'target'>): Promise<Migration> {
  const number = Number(params.migration)
  const row = Number.isSafeInteger(number)
    ? await db
        .selectFrom('nova.migrations')
        .selectAll()
        .where('id', '=', number)
        .where('server_id', '=', target.id)
        .executeTakeFirst()
    : undefined
  if (!row) throw notFound(`Migration ${params.migration} for server ${target.id} could not be found.`)
  if (row.migration_type !== 'live-migration') {
    throw notFound(`Migration ${row.id} for server ${target.id} is not live-migration.`)
  }
  if (!IN_PROGRESS.includes(row.status)) {
    throw notFound(`Live migration ${row.id} for server ${target.id} is not in progress.`)
  }
  return row
}

const of = (method: 'GET' | 'DELETE' | 'POST', path: string) => ({
  method,
  path: `/servers/:id/migrations${path}`,
  target: serverTarget,
})

const inProgress: Route[] = [
  route({
    ...of('GET', ''),
    since: V.serverMigrations,
    policy: 'os_compute_api:servers:migrations:index',
    async handle({ ctx, db, target, version }) {
      const rows = await db
        .selectFrom('nova.migrations')
        .selectAll()
        .where('server_id', '=', target.id)
        .where('migration_type', '=', 'live-migration')
        .where('status', 'in', IN_PROGRESS)
        .orderBy('id')
        .execute()
      const hosts = ctx.can('os_compute_api:servers:migrations:index:host')
      return { migrations: rows.map(row => progress(row, version, hosts)) }
    },
  }),
  route({
    ...of('GET', '/:migration'),
    since: V.serverMigrations,
    policy: 'os_compute_api:servers:migrations:show',
    handle: async call => ({ migration: progress(await underWay(call), call.version, true) }),
  }),
  route({
    ...of('DELETE', '/:migration'),
    since: V.abortMigration,
    success: 202,
    policy: 'os_compute_api:servers:migrations:delete',
    async handle(call) {
      const { ctx, env, params, target } = call
      const migration = await underWay(call)
      await env.db.tx(async tx => {
        const server = await serverTake(tx, ctx, params.id!)
        if (server.task_state !== 'migrating')
          throw stateConflict('abort live migration', server.id, 'task_state', server.task_state)
        await actionsBegin(tx, ctx, 'live_migration_cancel', [server])
        await sagaCancel(tx, serverResource(target.id))
        await actionEnd(tx, server.id, ctx.requestId, { event: 'compute_live_migration_abort', host: migration.source_compute })
      })
    },
  }),
  route({
    ...of('POST', '/:migration/action'),
    action: 'force_complete',
    since: V.forceComplete,
    success: 202,
    policy: 'os_compute_api:servers:migrations:force_complete',
    body: S.Object({ force_complete: S.Null() }, { additionalProperties: false }),
    async handle(call) {
      const { status, id } = await underWay(call)
      // The guest stands still while it moves: it is as fast as it can be.
      if (status !== 'running') {
        throw badRequest(
          `Migration ${id} state of instance ${call.target.id} is ${status}. Cannot force_complete while the migration is in this state.`,
        )
      }
      if (call.target.task_state === null) throw conflict(`Instance ${call.target.id} is not being migrated.`)
    },
  }),
]

export const migrationRoutes: Route[] = [list, ...inProgress]
