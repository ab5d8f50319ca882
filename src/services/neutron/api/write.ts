// Writing: POST of one or many, PUT, DELETE.
import { randomUUID } from 'node:crypto'
import type { Kysely, Transaction } from 'kysely'
import { type Query, sql, type Tx } from '#kit/db/index.ts'
import { badRequest, preconditionFailed } from '#kit/fault.ts'
import { type Call, type Route, route } from '#kit/http/route.ts'
import * as S from '#kit/http/schema.ts'
import { changesFor, valuesFor } from '#kit/noun/index.ts'
import { quotaClaim } from '../quotas/quota.ts'
import { neutronSettings } from '../settings.ts'
import { mayCreate, mayCreateAny, mayDo, mayUpdate, PARENT_OWNER, targetOf, visibleView } from './authorize.ts'
import { parentOf, rowById, rowsById } from './read.ts'
import type { Changing, Making, Removing, Resource, Row, Writing } from './resource.ts'

const loose = (db: Query | Tx) => db as unknown as Kysely<Record<string, Row>>
const looseTx = (tx: Tx) => tx as unknown as Transaction<Record<string, Row>>

const isObject = (value: unknown): value is Row => typeof value === 'object' && value !== null && !Array.isArray(value)

/** What stands under one key of a body. Throws for anything else. */
export function bodyUnder(call: Call, key: string): Row {
  const body = call.body
  if (!isObject(body) || !isObject(body[key]))
    throw badRequest(`Unable to find '${key}' in request body`, { type: 'HTTPBadRequest' })
  return body[key] as Row
}

function itemsOf(of: Resource, call: Call): { items: Row[]; many: boolean } {
  const body = call.body
  if (isObject(body) && of.bulk && of.plural in body) {
    const items = body[of.plural]
    if (!Array.isArray(items) || items.length === 0 || !items.every(isObject)) {
      throw badRequest(`Invalid input for ${of.plural}: a list of at least one ${of.name} is required.`, {
        type: 'HTTPBadRequest',
      })
    }
    // Each may stand under the noun's name once more.
    return {
      items: items.map(item => (isObject(item[of.name]) && !(of.name in of.attributes) ? (item[of.name] as Row) : item)),
      many: true,
    }
  }
  if (!isObject(body)) throw badRequest('Resource body required', { type: 'HTTPBadRequest' })
  return { items: [bodyUnder(call, of.name)], many: false }
}

const checks = new WeakMap<Resource, S.Check>()

/** The schema of all attributes, each optional: which of them a request may give is told apart by name. */
function check(of: Resource, given: Row): void {
  let known = checks.get(of)
  if (!known) {
    const fields = Object.fromEntries(of.noun.list.map(field => [field.name, S.Optional(field.schema)]))
    known = S.checker(
      S.Object(fields),
      'body',
      (field, _value, why) => `Invalid input for ${field.split('.')[0]}. Reason: ${why}.`,
    )
    checks.set(of, known)
  }
  known(given, 0)
}

const quoted = (names: string[]): string => names.map(name => `'${name}'`).join(', ')

/** What POST or PUT takes under the noun's name, for readers of the table of routes: {@link readGiven} is what checks it. */
function takes(of: Resource, verb: 'create' | 'update'): S.TSchema {
  const given = of.noun.list.filter(field => (verb === 'create' ? field.create !== 'never' : field.update !== false))
  const fields = given.map(({ name, create, schema }) => [
    name,
    verb === 'create' && create === 'required' ? schema : S.Optional(schema),
  ])
  return S.Object({ [of.name]: S.Object(Object.fromEntries(fields)) })
}

/** Reads what a request gives: no unknown name, none that this verb does not take, each value clean. */
function readGiven(of: Resource, item: Row, verb: 'create' | 'update'): Row {
  const names = Object.keys(item)
  const unknown = names.filter(name => !Object.hasOwn(of.attributes, name))
  if (unknown.length > 0) throw badRequest(`Unrecognized attribute(s) ${quoted(unknown)}`, { type: 'HTTPBadRequest' })
  const barred = names.filter(name =>
    verb === 'create' ? of.attributes[name]!.create === 'never' : of.attributes[name]!.update === false,
  )
  if (barred.length > 0) {
    const why =
      verb === 'create' ? `Attribute '${barred[0]}' not allowed in POST` : `Cannot update read-only attribute ${barred[0]}`
    throw badRequest(why, { type: 'HTTPBadRequest' })
  }
  check(of, item)
  const clean = (name: string): unknown => {
    const attribute = of.attributes[name]!
    return attribute.clean ? attribute.clean(item[name], name) : item[name]
  }
  return Object.fromEntries(names.map(name => [name, clean(name)]))
}

/** Fills in what was not given. Throws for what is required. */
function filled(of: Resource, given: Row): Row {
  const whole: Row = {}
  for (const { name, create, initial } of of.noun.list) {
    if (create === 'never') continue
    if (Object.hasOwn(given, name)) whole[name] = given[name]
    else if (create === 'required') {
      throw badRequest(`Failed to parse request. Required attribute '${name}' not specified`, { type: 'HTTPBadRequest' })
    } else if (initial !== undefined) whole[name] = typeof initial === 'function' ? (initial as () => unknown)() : initial
  }
  return whole
}

/** Whose the new thing is: an administrator may say, others may only say their own. */
function projectOf(of: Resource, call: Call, given: Row): string | null {
  if (!of.attributes.project_id) return null
  const said = (given.project_id ?? given.tenant_id) as string | undefined
  if (given.project_id !== undefined && given.tenant_id !== undefined && given.project_id !== given.tenant_id) {
    throw badRequest("'project_id' and 'tenant_id' do not match", { type: 'HTTPBadRequest' })
  }
  if (said !== undefined && said !== call.ctx.projectId && !call.ctx.isAdmin) {
    const why = "Specifying 'project_id' or 'tenant_id' other than the authenticated project in request requires admin privileges"
    throw badRequest(why, { type: 'HTTPBadRequest' })
  }
  const project = said ?? call.ctx.projectId
  if (project === null) throw badRequest('A token without a project must name the project_id.', { type: 'HTTPBadRequest' })
  return project
}

function makingOf(of: Resource, call: Call, item: Row): Omit<Making, 'tx'> {
  const read = readGiven(of, item, 'create')
  const explicit = new Set(Object.keys(read))
  const given = filled(of, read)
  const project = projectOf(of, call, read)
  if (project !== null) Object.assign(given, { project_id: project, tenant_id: project })
  return { env: call.env, ctx: call.ctx, params: call.params, given, explicit }
}

/** Inserts the attributes' columns under a new id (or the one given). */
export async function insertRow(of: Resource, tx: Tx, given: Row, more: Row = {}): Promise<string> {
  const id = randomUUID()
  const values = { id, ...valuesFor(of.noun, given), ...more }
  await looseTx(tx).insertInto(of.table).values(values).execute()
  return values.id
}

/** Writes the attributes' columns of an update; the row's revision grows by one. */
export async function updateRow(of: Resource, tx: Tx, id: string, changes: Row, more: Row = {}): Promise<void> {
  const values = { ...changesFor(of.noun, changes), ...more }
  const standing = of.standard ? { revision_number: sql`revision_number + 1`, updated_at: sql`now()` } : {}
  if (Object.keys(values).length + Object.keys(standing).length === 0) return
  await looseTx(tx)
    .updateTable(of.table)
    .set({ ...values, ...standing })
    .where('id', '=', id as never)
    .execute()
}

/** Says that rows have changed though none of their own columns did: something that belongs to them has. */
export async function touch(tx: Tx, table: string, ids: readonly string[]): Promise<void> {
  if (ids.length === 0) return
  await looseTx(tx)
    .updateTable(table)
    .set({ revision_number: sql`revision_number + 1`, updated_at: sql`now()` })
    .where('id', 'in', [...ids] as never)
    .execute()
}

/** Makes what one POST asks for and gives back its rows. Policy and quota included. */
export async function make(of: Resource, tx: Tx, makings: readonly Omit<Making, 'tx'>[], parent?: Row): Promise<Row[]> {
  const all = makings.map(making => ({ ...making, tx }))
  for (const making of all) {
    const owner = parent ? { [PARENT_OWNER]: parent.project_id } : {}
    const target = { ...making.given, ...owner, ...(await of.makingTarget?.(making)) }
    mayCreate(making.ctx, of, making.given, making.explicit, target)
  }
  return write(of, tx, all)
}

/** Makes what policy allows. */
async function write(of: Resource, tx: Tx, all: readonly Making[]): Promise<Row[]> {
  if (of.quota) {
    const byProject = Map.groupBy(all, making => making.given.project_id as string)
    const { quota } = all[0]!.env.config.of(neutronSettings)
    for (const project of [...byProject.keys()].sort())
      await quotaClaim(tx, quota, project, { [of.quota]: byProject.get(project)!.length })
  }
  await of.begin?.(all)
  const ids: string[] = []
  for (const making of all) {
    const id = of.create ? await of.create(making) : await insertRow(of, tx, making.given, parentColumn(of, making))
    ids.push(id)
    await of.after?.(making, id, 'create', making.given)
  }
  return rowsById({ ...of, visible: null }, tx, all[0]!.ctx, ids)
}

/** Makes one for a project from inside the house: as a POST would, but nobody's policy is asked. */
export async function makeInside(
  of: Resource,
  tx: Tx,
  { env, ctx, project }: Pick<Writing, 'env' | 'ctx'> & { project: string },
  given: Row,
): Promise<Row> {
  const whole = { ...filled(of, given), project_id: project, tenant_id: project }
  const [row] = await write(of, tx, [{ env, tx, ctx, params: {}, given: whole, explicit: new Set(Object.keys(given)) }])
  return row!
}

/** Removes one from inside the house: as a DELETE would, but nobody's policy is asked. */
export async function removeInside(of: Resource, tx: Tx, { env, ctx }: Pick<Writing, 'env' | 'ctx'>, id: string): Promise<void> {
  await remove(of, { env, tx, ctx, params: {}, row: await rowById(of, tx, ctx, id) })
}

const parentColumn = (of: Resource, { params }: Writing | Omit<Making, 'tx'>): Row =>
  of.parent ? { [of.parent.column]: params[of.parent.param] } : {}

const REVISION = /^\s*revision_number\s*=\s*(\d+)\s*$/

/** Throws RevisionNumberConstraintFailed (412) where the client insists on another revision than there is. */
export function revisionCheck(call: Call, row: Row): void {
  const said = call.headers['if-match']
  if (said === undefined) return
  const read = REVISION.exec(said)
  if (!read) throw badRequest(`Invalid value for If-Match: ${said}. Expected revision_number=N.`, { type: 'HTTPBadRequest' })
  if (Number(read[1]) === row.revision_number) return
  const why = `Constrained to ${read[1]}, but current revision is ${String(row.revision_number)}`
  throw preconditionFailed(why, { type: 'RevisionNumberConstraintFailed' })
}

/** The row, locked for this transaction, with its extra columns as they are then. Throws the noun's 404. */
export async function lockedRow(of: Resource, tx: Tx, call: Call, id: string, parentId?: string): Promise<Row> {
  // Queued on one connection: the second reads after the first has its lock.
  const [, row] = await Promise.all([
    sql`select from ${sql.table(of.table)} where id = ${id} for no key update`.execute(tx),
    rowById(of, tx, call.ctx, id, parentId),
  ])
  revisionCheck(call, row)
  return row
}

/** Changes a row as a PUT asks, policy included, and gives it back. */
async function change(of: Resource, tx: Tx, call: Call, given: Row, parentId?: string): Promise<Row> {
  const row = await lockedRow(of, tx, call, call.params.id!, parentId)
  mayUpdate(call.ctx, of, targetOf(of, row), given)
  const changing: Changing = { env: call.env, tx, ctx: call.ctx, params: call.params, row, changes: given }
  const id = row.id as string
  if (of.update) await of.update(changing)
  else await updateRow(of, tx, id, given)
  await of.after?.(changing, id, 'update', row)
  return rowById({ ...of, visible: null }, tx, call.ctx, id)
}

async function removeOne(of: Resource, tx: Tx, call: Call, parentId?: string): Promise<void> {
  const row = await lockedRow(of, tx, call, call.params.id!, parentId)
  mayDo(call.ctx, of, targetOf(of, row), `delete_${of.rule}`)
  await remove(of, { env: call.env, tx, ctx: call.ctx, params: call.params, row })
}

async function remove(of: Resource, removing: Removing): Promise<void> {
  const { tx, row } = removing
  if (of.remove) await of.remove(removing)
  else
    await loose(tx)
      .deleteFrom(of.table)
      .where('id', '=', row.id as never)
      .execute()
  await of.after?.(removing, row.id as string, 'delete', row)
}

/** Routes that write. */
export function writeRoutes(of: Resource): Route[] {
  const post = route({
    method: 'POST',
    path: of.path,
    success: 201,
    policy: null,
    takes: takes(of, 'create'),
    async handle(call) {
      mayCreateAny(call.ctx, of)
      const { items, many } = itemsOf(of, call)
      const makings = items.map(item => makingOf(of, call, item))
      const parent = await parentOf(of, call)
      const rows = await call.env.db.tx(tx => make(of, tx, makings, parent.row))
      const views = rows.map(row => visibleView(call.ctx, of, row) ?? { id: row.id })
      return many ? { [of.plural]: views } : { [of.name]: views[0] }
    },
  })
  const put = route({
    method: 'PUT',
    path: `${of.path}/:id`,
    policy: null,
    takes: takes(of, 'update'),
    async handle(call) {
      const given = readGiven(of, bodyUnder(call, of.name), 'update')
      const parent = await parentOf(of, call)
      const row = await call.env.db.tx(tx => change(of, tx, call, { ...given }, parent.id))
      return { [of.name]: visibleView(call.ctx, of, row) ?? { id: row.id } }
    },
  })
  const gone = route({
    method: 'DELETE',
    path: `${of.path}/:id`,
    success: 204,
    policy: null,
    async handle(call) {
      const parent = await parentOf(of, call)
      await call.env.db.tx(tx => removeOne(of, tx, call, parent.id))
    },
  })
  const has = (verb: 'create' | 'update' | 'delete') => of.verbs?.includes(verb) ?? true
  return [...(has('create') ? [post] : []), ...(has('update') ? [put] : []), ...(has('delete') ? [gone] : [])]
}
