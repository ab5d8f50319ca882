/**
 * The query parameters of a list of servers as conditions in SQL. What upstream matches as a regular expression is matched so here, by
 * PostgreSQL; a pattern that is none is refused.
 */
import { type RawBuilder, sql } from '#kit/db/index.ts'
import { badRequest, forbidden } from '#kit/fault.ts'
import type { Call } from '#kit/http/route.ts'
import { toBoolean } from '#kit/http/schema.ts'
import { V } from '../versions.ts'
import { statesOf } from './states.ts'

export type Condition = RawBuilder<boolean>

const EXACT: Record<string, string> = {
  user_id: 'user_id',
  project_id: 'project_id',
  tenant_id: 'project_id',
  launch_index: 'launch_index::text',
  image: 'image_ref',
  image_ref: 'image_ref',
  vm_state: 'vm_state',
  task_state: 'task_state',
  host: 'host',
  uuid: 'id',
  flavor: 'flavor_id',
}

const REGEX: Record<string, string> = {
  name: 'name',
  display_name: 'name',
  description: 'description',
  display_description: 'description',
  hostname: 'hostname',
  key_name: 'key_name',
  power_state: 'power_state::text',
  node: 'node',
  reservation_id: 'reservation_id',
  launched_at: "to_char(launched_at, 'YYYY-MM-DD HH24:MI:SS.US')",
  terminated_at: "to_char(terminated_at, 'YYYY-MM-DD HH24:MI:SS.US')",
  created_at: "to_char(created_at, 'YYYY-MM-DD HH24:MI:SS.US')",
  availability_zone: 'availability_zone',
  locked_by: 'locked_by',
  root_device_name: 'root_device_name',
  access_ip_v4: 'access_ip_v4',
  access_ip_v6: 'access_ip_v6',
  auto_disk_config: "case disk_config when 'AUTO' then '1' else '0' end",
  config_drive: "case when config_drive then 'True' else '' end",
  progress: 'progress::text',
  kernel_id: "image->'properties'->>'kernel_id'",
  ramdisk_id: "image->'properties'->>'ramdisk_id'",
}

/** Names of joined tables upstream: asking for them was always an error. */
const REFUSED = [
  'block_device_mapping',
  'services',
  'metadata',
  'system_metadata',
  'info_cache',
  'security_groups',
  'pci_devices',
]
export const TAG_FILTERS = ['tags', 'tags-any', 'not-tags', 'not-tags-any']

/** All filters by name, for the query's schema. */
export const FILTER_NAMES = [
  ...new Set([...Object.keys(EXACT), ...Object.keys(REGEX), ...REFUSED]),
  'all_tenants',
  'soft_deleted',
  'deleted',
  'status',
  'changes-since',
  'ip',
  'ip6',
]

/** The filters that everybody may use at a version. */
function openFilters(version: number): Set<string> {
  const open = ['reservation_id', 'name', 'status', 'image', 'flavor', 'ip', 'changes-since', 'all_tenants']
  if (version >= V.ip6Filter) open.push('ip6')
  if (version >= V.tags) open.push(...TAG_FILTERS)
  if (version >= V.changesBefore) open.push('changes-before')
  if (version >= V.lockReason) open.push('locked')
  if (version >= V.moreFilters) {
    open.push('availability_zone', 'config_drive', 'key_name', 'created_at', 'launched_at', 'terminated_at', 'power_state')
    open.push('task_state', 'vm_state', 'progress', 'user_id')
  }
  if (version >= V.hostname) open.push('hostname')
  return new Set(open)
}

export interface Filters {
  conditions: Condition[]
  /** Which rows: those that live, the deleted ones, or both. */
  which: 'live' | 'deleted' | 'both'
  /** Certainly nothing matches. */
  nothing: boolean
}

/** Reads the filters of a request. Throws badRequest, and forbidden for what the caller may not ask. */
export function filtersOf(call: Pick<Call, 'ctx' | 'search' | 'version'>, detail: boolean): Filters {
  const { ctx, search, version } = call
  const target = { project_id: ctx.projectId, user_id: ctx.userId }
  const all = ctx.can('os_compute_api:servers:allow_all_filters', target)
  const open = openFilters(version)
  const given = new Map<string, string[]>()
  for (const name of new Set(search.keys())) if (all || open.has(name)) given.set(name, search.getAll(name))
  for (const name of given.keys()) {
    if (REFUSED.includes(name) || name.startsWith('_')) throw badRequest(`Invalid filter field: ${name}.`)
  }
  const last = (name: string): string | undefined => given.get(name)?.at(-1)
  const conditions: Condition[] = []
  const statuses = search.getAll('status')
  let nothing = false
  if (statuses.length > 0) {
    const { vmStates, taskStates } = statesOf(statuses)
    if (vmStates.length === 0) {
      if (version >= V.statusFilter) throw badRequest('Invalid status value')
      nothing = true
    }
    if (vmStates.length === 1 && vmStates[0] === 'deleted') {
      if (!ctx.isAdmin) throw forbidden('Only administrators may list deleted instances')
      given.set('deleted', ['True'])
    }
    given.delete('vm_state')
    given.delete('task_state')
    conditions.push(sql<boolean>`vm_state = any(${vmStates})`)
    if (taskStates) conditions.push(sql<boolean>`task_state = any(${taskStates})`)
  }
  narrowToProject(call, detail, given, conditions)
  addTimes(last('changes-since'), version >= V.changesBefore ? last('changes-before') : undefined, conditions)
  const since = given.has('changes-since') || (version >= V.changesBefore && given.has('changes-before'))
  const which = addDeleted(last('deleted'), last('soft_deleted'), since, vmStatesAsked(statuses), conditions)
  addTags(version, given, conditions)
  if (version >= V.lockReason && given.has('locked')) conditions.push(lockedCondition(last('locked')!))
  addAddresses(last('ip'), last('ip6'), conditions)
  for (const [name, values] of given) {
    const exact = Object.hasOwn(EXACT, name) ? EXACT[name] : undefined
    const regex = Object.hasOwn(REGEX, name) ? REGEX[name] : undefined
    if (exact) conditions.push(exactly(exact, name, values))
    else if (regex) conditions.push(matching(regex, name, values.at(-1)!))
  }
  return { conditions, which, nothing }
}

const vmStatesAsked = (statuses: string[]): boolean => statuses.some(s => s.toUpperCase() === 'SOFT_DELETED')

function exactly(column: string, name: string, values: string[]): Condition {
  if (values.length > 1) return sql<boolean>`${sql.raw(column)} = any(${values})`
  const value = values[0]!
  if (name === 'task_state' && value.toLowerCase() === 'none') return sql<boolean>`task_state is null`
  return sql<boolean>`${sql.raw(column)} = ${value}`
}

/** A pattern that JavaScript takes is tried in PostgreSQL; its errors there are the caller's as well. */
function matching(column: string, name: string, pattern: string): Condition {
  checkPattern(name, pattern)
  return sql<boolean>`coalesce(${sql.raw(column)}, '') ~ ${pattern}`
}

function checkPattern(name: string, pattern: string): void {
  try {
    new RegExp(pattern)
  } catch {
    throw badRequest(`Invalid input for query parameters ${name}. Value: ${pattern}. '${pattern}' is not a 'regex'`)
  }
}

function narrowToProject(
  { ctx, search }: Pick<Call, 'ctx' | 'search'>,
  detail: boolean,
  given: Map<string, string[]>,
  conditions: Condition[],
): void {
  const text = given.get('all_tenants')?.at(-1)
  given.delete('all_tenants')
  if (allTenants(text, search.has('all_tenants') && text !== undefined)) {
    ctx.must(`os_compute_api:servers:${detail ? 'detail' : 'index'}:get_all_tenants`, {
      project_id: ctx.projectId,
      user_id: ctx.userId,
    })
    return
  }
  given.delete('tenant_id')
  given.delete('project_id')
  if (ctx.projectId !== null) conditions.push(sql<boolean>`project_id = ${ctx.projectId}`)
  else conditions.push(sql<boolean>`user_id = ${ctx.userId}`)
}

function allTenants(text: string | undefined, given: boolean): boolean {
  if (!given) return false
  if (!text) return true
  const value = toBoolean(text.toLowerCase())
  if (value === undefined) throw badRequest(`Unrecognized value '${text}'`)
  return value
}

function addTimes(since: string | undefined, before: string | undefined, conditions: Condition[]): void {
  const time = (name: string, text: string): Date => {
    const at = new Date(/(Z|[+-]\d{2}:?\d{2})$/i.test(text) || !text.includes('T') ? text.replace(' ', '+') : `${text}Z`)
    if (Number.isNaN(at.getTime())) throw badRequest(`Invalid filter field: ${name}.`)
    return at
  }
  const from = since === undefined ? undefined : time('changes-since', since)
  const to = before === undefined ? undefined : time('changes-before', before)
  if (from && to && to < from) throw badRequest('The value of changes-since must be less than or equal to changes-before.')
  if (from) conditions.push(sql<boolean>`updated_at >= ${from}`)
  if (to) conditions.push(sql<boolean>`updated_at <= ${to}`)
}

function addDeleted(
  deleted: string | undefined,
  soft: string | undefined,
  since: boolean,
  softAsked: boolean,
  conditions: Condition[],
): Filters['which'] {
  if (deleted === undefined && since) return 'both'
  const wanted = deleted !== undefined && toBoolean(deleted.toLowerCase()) === true
  const softWanted = soft !== undefined && toBoolean(soft.toLowerCase()) === true
  if (wanted) {
    if (soft !== undefined && !softWanted) return 'deleted'
    conditions.push(sql<boolean>`vm_state in ('deleted', 'soft-delete')`)
    return 'both'
  }
  if (!softWanted && !softAsked) conditions.push(sql<boolean>`vm_state <> 'soft-delete'`)
  return 'live'
}

function addTags(version: number, given: Map<string, string[]>, conditions: Condition[]): void {
  if (version < V.tags) return
  const tags = (name: string): string[] | undefined => given.get(name)?.at(-1)?.split(',')
  const [every, any, notEvery, notAny] = TAG_FILTERS.map(tags)
  if (every) conditions.push(sql<boolean>`tags @> ${every}::text[]`)
  if (any) conditions.push(sql<boolean>`tags && ${any}::text[]`)
  if (notEvery) conditions.push(sql<boolean>`not tags @> ${notEvery}::text[]`)
  if (notAny) conditions.push(sql<boolean>`not tags && ${notAny}::text[]`)
}

function lockedCondition(text: string): Condition {
  const value = toBoolean(text.toLowerCase())
  if (value === undefined) throw badRequest(`Unrecognized value '${text}'`)
  return value ? sql<boolean>`locked_by is not null` : sql<boolean>`locked_by is null`
}

/** Part of an address, as Neutron's filter of ports takes it; regular expressions of the common kind come down to that. */
function addAddresses(ip: string | undefined, ip6: string | undefined, conditions: Condition[]): void {
  for (const [text, name] of [
    [ip, 'ip'],
    [ip6, 'ip6'],
  ] as const) {
    if (text === undefined) continue
    checkPattern(name, text)
    conditions.push(sql<boolean>`exists (
      select from jsonb_array_elements(nics) nic, jsonb_array_elements(nic->'addresses') a
      where a->>'type' = 'fixed' and (strpos(a->>'address', ${text}) > 0 or a->>'address' ~ ${text}))`)
  }
}
