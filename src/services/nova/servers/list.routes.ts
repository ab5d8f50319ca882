/** GET /servers and /servers/detail. */
import { type PageKey, page, type Query, sql } from '#kit/db/index.ts'
import { badRequest, forbidden } from '#kit/fault.ts'
import { keptAnswer } from '#kit/http/kept.ts'
import { type Call, type Route, route } from '#kit/http/route.ts'
import * as S from '#kit/http/schema.ts'
import { DATE, PAGING, pageOf, query, TEXT } from '../fields.ts'
import { hostStatuses, seesHosts } from '../hosts/status.ts'
import { neighbours } from '../neighbours.ts'
import { novaSettings } from '../settings.ts'
import { V } from '../versions.ts'
import { linker, nextLink } from '../wire.ts'
import { FILTER_NAMES, type Filters, filtersOf, TAG_FILTERS } from './filters.ts'
import type { Server } from './store.ts'
import { serverBrief, serverView, viewingOf } from './view.ts'

/** Wire name → column, and whether it may be null. */
const SORT: Record<string, [column: string, nullable: boolean]> = {
  access_ip_v4: ['access_ip_v4', true],
  access_ip_v6: ['access_ip_v6', true],
  auto_disk_config: ['disk_config', false],
  availability_zone: ['availability_zone', true],
  config_drive: ['config_drive', false],
  created_at: ['created_at', false],
  display_description: ['description', true],
  display_name: ['name', false],
  host: ['host', true],
  hostname: ['hostname', false],
  image_ref: ['image_ref', true],
  instance_type_id: ['flavor_id', false],
  key_name: ['key_name', true],
  launch_index: ['launch_index', false],
  launched_at: ['launched_at', true],
  locked_by: ['locked_by', true],
  node: ['node', true],
  power_state: ['power_state', false],
  progress: ['progress', false],
  project_id: ['project_id', false],
  root_device_name: ['root_device_name', true],
  task_state: ['task_state', true],
  terminated_at: ['terminated_at', true],
  updated_at: ['updated_at', false],
  user_id: ['user_id', false],
  uuid: ['id', false],
  vm_state: ['vm_state', false],
  locked: ['locked_by', true],
}
/** Taken and ignored below 2.75. Kernel and ramdisk are in the image here: nothing to sort by. */
const IGNORED = [
  'architecture',
  'cell_name',
  'cleaned',
  'default_ephemeral_device',
  'default_swap_device',
  'deleted',
  'deleted_at',
  'disable_terminate',
  'ephemeral_gb',
  'ephemeral_key_uuid',
  'id',
  'key_data',
  'launched_on',
  'memory_mb',
  'os_type',
  'reservation_id',
  'root_gb',
  'shutdown_terminate',
  'user_data',
  'vcpus',
  'vm_mode',
]

const keys = (extra: string[]) => ({
  type: 'string',
  enum: [...Object.keys(SORT).filter(k => k !== 'locked'), 'kernel_id', 'ramdisk_id', ...extra],
})
const parameters = (names: string[], sortKeys: string[], more: object = {}) => ({
  ...Object.fromEntries(names.map(name => [name, TEXT])),
  'changes-since': DATE,
  sort_key: keys(sortKeys),
  sort_dir: TEXT,
  ...PAGING,
  ...more,
})

const before = [...IGNORED, 'locked']
const withTags = [...FILTER_NAMES, ...TAG_FILTERS]
const listQuery = S.byVersion(
  [0, query(parameters(FILTER_NAMES, before))],
  [V.tags, query(parameters(withTags, before))],
  [V.changesBefore, query(parameters(withTags, before, { 'changes-before': DATE }))],
  [V.lockReason, query(parameters([...withTags, 'locked'], before, { 'changes-before': DATE }))],
  [V.cleanup, query(parameters([...withTags, 'locked'], ['locked'], { 'changes-before': DATE }))],
)

/** The order of a list. Throws forbidden for keys that only administrators may sort by, badRequest for a bad direction. */
function orderOf({ search, ctx, version }: Call): PageKey[] {
  const names = search.getAll('sort_key').map(k => k.trim())
  const dirs = search.getAll('sort_dir').map(d => d.trim())
  for (const dir of dirs) {
    if (dir !== 'asc' && dir !== 'desc') throw badRequest(`Unknown sort direction, must be one of: asc, desc`)
  }
  const order: PageKey[] = []
  names.forEach((name, i) => {
    const known = Object.hasOwn(SORT, name) && (name !== 'locked' || version >= V.lockReason) ? SORT[name] : undefined
    if (!known) return
    if ((name === 'host' || name === 'node') && !ctx.isAdmin) {
      throw forbidden(`Only administrators can sort servers by ${name}`)
    }
    order.push({ column: known[0], nullable: known[1], dir: (dirs[i] ?? dirs.at(-1) ?? 'desc') as 'asc' | 'desc' })
  })
  const dir = (dirs[names.length] ?? dirs.at(-1) ?? 'desc') as 'asc' | 'desc'
  if (order.length === 0) order.push({ column: 'created_at', dir })
  if (!order.some(key => key.column === 'id')) order.push({ column: 'id', dir: order.at(-1)!.dir })
  return order
}

type Brief = Pick<Server, 'id' | 'name'>

interface Listed<T> {
  rows: T[]
  limit: number
}

const briefRows = (from: Source, db: Query) => db.selectFrom(from).select(['s.id', 's.name'])
const wholeRows = (from: Source, db: Query) => db.selectFrom(from).selectAll()

async function listed<T>(call: Call, detail: boolean): Promise<Listed<T>> {
  const { db, env, search } = call
  const filters = filtersOf(call, detail)
  const { limit, marker } = pageOf(search, env.config.of(novaSettings).max_limit)
  const order = orderOf(call)
  if (filters.nothing || limit === 0) return { rows: [], limit }
  const after = marker === null ? undefined : await markerOf(call, marker, order)
  const from = sourceOf(filters.which)
  let rows = detail ? wholeRows(from, db) : (briefRows(from, db) as unknown as ReturnType<typeof wholeRows>)
  for (const condition of filters.conditions) rows = rows.where(condition)
  return { rows: (await page(rows, order, { after, limit })) as T[], limit }
}

const COLUMNS_SOURCE = {
  live: sql<Server>`nova.servers`.as('s'),
  deleted: sql<Server>`nova.deleted_servers`.as('s'),
  both: sql<Server>`(select * from nova.servers union all select * from nova.deleted_servers)`.as('s'),
}
type Source = (typeof COLUMNS_SOURCE)[Filters['which']]
const sourceOf = (which: Filters['which']): Source => COLUMNS_SOURCE[which]

async function markerOf({ db }: Call, marker: string, order: PageKey[]): Promise<unknown[]> {
  const row =
    (await db.selectFrom('nova.servers').selectAll().where('id', '=', marker).executeTakeFirst()) ??
    (await db.selectFrom('nova.deleted_servers').selectAll().where('id', '=', marker).executeTakeFirst())
  if (!row) throw badRequest(`marker [${marker}] not found`)
  return order.map(key => (row as Record<string, unknown>)[key.column as string])
}

const links = (call: Call, { rows, limit }: Listed<{ id: string }>, path: string): object =>
  rows.length > 0 && rows.length === limit ? { servers_links: nextLink(call, path, rows.at(-1)!.id) } : {}

async function details(call: Call): Promise<object> {
  const list = await listed<Server>(call, true)
  const viewing = viewingOf(call)
  viewing.hostStatus = await hostStatuses(
    call,
    list.rows.map(row => row.host),
  )
  const nics = await neighbours.nicsNow(call.db, list.rows)
  const servers = list.rows.map(row => serverView({ ...row, nics: nics.get(row.id) ?? [] }, viewing))
  return { servers, ...links(call, list, '/servers/detail') }
}

export const serverListRoutes: Route[] = [
  route({
    method: 'GET',
    path: '/servers',
    policy: 'os_compute_api:servers:index',
    query: listQuery,
    async handle(call) {
      const list = await listed<Brief>(call, false)
      const linksOf = linker(call, 'servers')
      return { servers: list.rows.map(row => serverBrief(row, linksOf)), ...links(call, list, '/servers') }
    },
  }),
  route({
    method: 'GET',
    path: '/servers/detail',
    policy: 'os_compute_api:servers:detail',
    query: listQuery,
    handle: call => (seesHosts(call) ? details(call) : keptAnswer(call, () => details(call))),
  }),
]
