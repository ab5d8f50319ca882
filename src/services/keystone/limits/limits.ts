import { isDuplicate, type Query, type Selectable, type Tx } from '#kit/db/index.ts'
import { badRequest, conflict, forbidden } from '#kit/fault.ts'
import { type Call, type Route, route } from '#kit/http/route.ts'
import { Array, Integer, Nullable, Object, Optional, String, type TSchema } from '#kit/http/schema.ts'
import { identityOf } from '../identity.ts'
import { filtered, listView, missing, newId, pageOf, type Rows, selfUrl } from '../noun.ts'
import type { LimitsTable, RegisteredLimitsTable } from '../tables.ts'

// Unified limits. A registered limit is the default for a resource of a service (in a region or anywhere); a limit overrides it for
// one project or one domain. Under the model strict_two_level no project can have more than its domain.

type Registered = Selectable<RegisteredLimitsTable>
type Limit = Selectable<LimitsTable> & Pick<Registered, 'service_id' | 'region_id' | 'resource_name'>

const Amount = () => Integer({ minimum: -1, maximum: 0x7fffffff })
const ResourceName = () => String({ minLength: 1, maxLength: 255 })
const text = { schema: String() }
const REGISTERED_FIELDS = { service_id: text, region_id: text, resource_name: text }
const REGISTERED = {
  table: 'keystone.registered_limits',
  fields: REGISTERED_FIELDS,
  path: '/registered_limits',
  one: 'registered_limit',
}

const registeredView = (row: Registered, call: Call) => ({
  id: row.id,
  service_id: row.service_id,
  region_id: row.region_id,
  resource_name: row.resource_name,
  default_limit: row.default_limit,
  description: row.description,
  links: { self: selfUrl(call, `/registered_limits/${row.id}`) },
})

/** What a limit is about must exist. Throws badRequest. */
async function aboutCheck(
  db: Query,
  about: { service_id?: string; region_id?: string | null; project_id?: string | null; domain_id?: string | null },
): Promise<void> {
  const there = async (table: 'keystone.services' | 'keystone.regions' | 'keystone.projects', id: string) =>
    (await db.selectFrom(table).select('id').where('id', '=', id).executeTakeFirst()) !== undefined
  if (about.service_id !== undefined && !(await there('keystone.services', about.service_id)))
    throw badRequest('Expecting to find service_id in limit: there is no such service.')
  if (typeof about.region_id === 'string' && !(await there('keystone.regions', about.region_id)))
    throw badRequest('Expecting to find region_id in limit: there is no such region.')
  if (typeof about.project_id === 'string' && !(await there('keystone.projects', about.project_id)))
    throw badRequest('Expecting to find project_id in limit: there is no such project.')
  if (typeof about.domain_id === 'string' && !(await there('keystone.projects', about.domain_id)))
    throw badRequest('Expecting to find domain_id in limit: there is no such domain.')
}

const clash = (what: string) => conflict(`Conflict occurred attempting to store ${what} - Duplicate entry found.`)

async function guarded<T>(what: string, work: () => Promise<T>): Promise<T> {
  try {
    return await work()
  } catch (error) {
    if (isDuplicate(error)) throw clash(what)
    throw error
  }
}

const registeredFetch = async (call: Call): Promise<Registered | null> =>
  (await call.db
    .selectFrom('keystone.registered_limits')
    .selectAll()
    .where('id', '=', call.params.registered_limit_id!)
    .executeTakeFirst()) ?? null

function registeredMust(call: Call<unknown, unknown, Registered | null>): Registered {
  if (!call.target) throw missing('registered limit', call.params.registered_limit_id!)
  return call.target
}

async function referenced(db: Query, id: string): Promise<boolean> {
  return (
    (await db.selectFrom('keystone.limits').select('id').where('registered_limit_id', '=', id).executeTakeFirst()) !== undefined
  )
}

const registeredOne = {
  path: '/registered_limits/:registered_limit_id',
  target: registeredFetch,
  policyTarget: (call: Call<unknown, unknown, Registered | null>) => ({ ...call.params }),
}

const registeredRoutes: Route[] = [
  route({
    method: 'GET',
    path: '/registered_limits',
    policy: 'identity:list_registered_limits',
    policyTarget: () => ({}),
    async handle(call) {
      const all = call.db.selectFrom('keystone.registered_limits').selectAll('keystone.registered_limits') as unknown as Rows
      const found = await pageOf(filtered(all, call.search, REGISTERED), call, REGISTERED)
      return listView(
        'registered_limits',
        found.rows.map(row => registeredView(row as unknown as Registered, call)),
        found,
      )
    },
  }),
  route({
    method: 'POST',
    path: '/registered_limits',
    policy: 'identity:create_registered_limits',
    policyTarget: () => ({}),
    success: 201,
    body: Object({
      registered_limits: Array(
        Object(
          {
            service_id: String(),
            region_id: Optional(Nullable(String())),
            resource_name: ResourceName(),
            default_limit: Amount(),
            description: Optional(Nullable(String())),
          },
          { additionalProperties: false },
        ),
        { minItems: 1 },
      ),
    }),
    async handle(call) {
      const rows = await guarded('registered_limit', () =>
        call.env.db.tx(async tx => {
          for (const one of call.body.registered_limits) await aboutCheck(tx, one)
          const values = call.body.registered_limits.map(one => ({
            id: newId(),
            service_id: one.service_id,
            region_id: one.region_id ?? null,
            resource_name: one.resource_name,
            default_limit: one.default_limit,
            description: one.description ?? null,
          }))
          return tx.insertInto('keystone.registered_limits').values(values).returningAll().execute()
        }),
      )
      return { registered_limits: rows.map(row => registeredView(row, call)) }
    },
  }),
  route({
    ...registeredOne,
    method: 'GET',
    policy: 'identity:get_registered_limit',
    handle: call => ({ registered_limit: registeredView(registeredMust(call), call) }),
  }),
  route({
    ...registeredOne,
    method: 'PATCH',
    policy: 'identity:update_registered_limit',
    body: Object({
      registered_limit: Object(
        {
          service_id: Optional(String()),
          region_id: Optional(Nullable(String())),
          resource_name: Optional(ResourceName()),
          default_limit: Optional(Amount()),
          description: Optional(Nullable(String())),
        },
        { additionalProperties: false },
      ),
    }),
    async handle(call) {
      const row = registeredMust(call)
      const sent = call.body.registered_limit
      const moves = (['service_id', 'region_id', 'resource_name'] as const).some(
        name => sent[name] !== undefined && sent[name] !== row[name],
      )
      if (globalThis.Object.keys(sent).length === 0) return { registered_limit: registeredView(row, call) }
      const changed = await guarded('registered_limit', () =>
        call.env.db.tx(async tx => {
          await aboutCheck(tx, sent)
          if (moves && (await referenced(tx, row.id)))
            throw forbidden(
              `Unable to update or delete registered limit ${row.id} because there are project limits associated with it.`,
            )
          return tx
            .updateTable('keystone.registered_limits')
            .set(sent)
            .where('id', '=', row.id)
            .returningAll()
            .executeTakeFirstOrThrow()
        }),
      )
      return { registered_limit: registeredView(changed, call) }
    },
  }),
  route({
    ...registeredOne,
    method: 'DELETE',
    policy: 'identity:delete_registered_limit',
    success: 204,
    async handle(call) {
      const row = registeredMust(call)
      await call.env.db.tx(async tx => {
        if (await referenced(tx, row.id))
          throw forbidden(
            `Unable to update or delete registered limit ${row.id} because there are project limits associated with it.`,
          )
        await tx.deleteFrom('keystone.registered_limits').where('id', '=', row.id).execute()
      })
    },
  }),
]

const limits = (db: Query) =>
  db
    .selectFrom('keystone.limits as l')
    .innerJoin('keystone.registered_limits as r', 'r.id', 'l.registered_limit_id')
    .selectAll('l')
    .select(['r.service_id', 'r.region_id', 'r.resource_name'])

const limitView = (row: Limit, call: Call) => ({
  id: row.id,
  service_id: row.service_id,
  region_id: row.region_id,
  resource_name: row.resource_name,
  resource_limit: row.resource_limit,
  project_id: row.project_id,
  domain_id: row.domain_id,
  description: row.description,
  links: { self: selfUrl(call, `/limits/${row.id}`) },
})

/** Under strict_two_level: a project has at most what its domain has, which is its limit or the registered default. */
async function modelCheck(
  tx: Tx,
  call: Call,
  registered: Registered,
  limit: { project_id: string | null; domain_id: string | null; resource_limit: number },
): Promise<void> {
  if (identityOf(call.env).settings.unified_limit.enforcement_model !== 'strict_two_level') return
  if (limit.project_id !== null) {
    const project = await tx
      .selectFrom('keystone.projects')
      .select(['domain_id', 'parent_id'])
      .where('id', '=', limit.project_id)
      .executeTakeFirstOrThrow()
    const parent = await tx
      .selectFrom('keystone.limits')
      .select('resource_limit')
      .where('registered_limit_id', '=', registered.id)
      .where(eb => eb.or([eb('domain_id', '=', project.parent_id), eb('project_id', '=', project.parent_id)]))
      .executeTakeFirst()
    const most = parent?.resource_limit ?? registered.default_limit
    if (exceeds(limit.resource_limit, most))
      throw forbidden(`Invalid resource limit: a project cannot have more than its parent (${most}).`)
    return
  }
  const children = await tx
    .selectFrom('keystone.limits as l')
    .innerJoin('keystone.projects as p', 'p.id', 'l.project_id')
    .select('l.resource_limit')
    .where('l.registered_limit_id', '=', registered.id)
    .where('p.domain_id', '=', limit.domain_id)
    .execute()
  if (children.some(child => exceeds(child.resource_limit, limit.resource_limit)))
    throw forbidden('Invalid resource limit: a project of the domain has more.')
}

/** -1 is no limit. */
const exceeds = (child: number, parent: number): boolean => parent !== -1 && (child === -1 || child > parent)

interface LimitTarget {
  row: Limit
  domain: { id: string } | null
  project: { id: string; domain_id: string | null } | null
}

async function limitFetch(call: Call): Promise<LimitTarget> {
  const row = await limits(call.db).where('l.id', '=', call.params.limit_id!).executeTakeFirst()
  if (!row) throw missing('limit', call.params.limit_id!)
  const project =
    row.project_id === null
      ? undefined
      : await call.db
          .selectFrom('keystone.projects')
          .select(['id', 'domain_id'])
          .where('id', '=', row.project_id)
          .executeTakeFirst()
  return { row, project: project ?? null, domain: row.domain_id === null ? null : { id: row.domain_id } }
}

const limitOne = {
  path: '/limits/:limit_id',
  target: limitFetch,
  policyTarget: ({ params, target }: Call<unknown, unknown, LimitTarget>) => ({
    ...params,
    target: {
      limit: {
        ...target.row,
        ...(target.project && { project: target.project }),
        ...(target.domain && { domain: target.domain }),
      },
    },
  }),
}

async function visible(call: Call): Promise<Limit[]> {
  let query = limits(call.db).orderBy('l.id')
  for (const [name, column] of [
    ['service_id', 'r.service_id'],
    ['region_id', 'r.region_id'],
    ['resource_name', 'r.resource_name'],
    ['project_id', 'l.project_id'],
    ['domain_id', 'l.domain_id'],
  ] as const) {
    const value = call.search.get(name)
    if (value !== null) query = query.where(column, '=', value)
  }
  const { ctx } = call
  if (ctx.domainId) {
    query = query.where(eb =>
      eb.or([
        eb('l.domain_id', '=', ctx.domainId),
        eb('l.project_id', 'in', eb.selectFrom('keystone.projects').select('id').where('domain_id', '=', ctx.domainId)),
      ]),
    )
  } else if (ctx.projectId) query = query.where('l.project_id', '=', ctx.projectId)
  else if (!ctx.systemScope) return []
  return query.execute()
}

const NewLimit: TSchema = Object(
  {
    project_id: Optional(Nullable(String())),
    domain_id: Optional(Nullable(String())),
    service_id: String(),
    region_id: Optional(Nullable(String())),
    resource_name: ResourceName(),
    resource_limit: Amount(),
    description: Optional(Nullable(String())),
  },
  { additionalProperties: false },
)

interface Wanted {
  project_id?: string | null
  domain_id?: string | null
  service_id: string
  region_id?: string | null
  resource_name: string
  resource_limit: number
  description?: string | null
}

async function limitCreate(tx: Tx, call: Call, wanted: Wanted): Promise<string> {
  const {
    project_id = null,
    domain_id = null,
    service_id,
    region_id = null,
    resource_name,
    resource_limit,
    description = null,
  } = wanted
  if ((project_id === null) === (domain_id === null))
    throw badRequest('A limit is for a project or for a domain: name one of them.')
  await aboutCheck(tx, wanted)
  const registered = await tx
    .selectFrom('keystone.registered_limits')
    .selectAll()
    .where('service_id', '=', service_id)
    .where('region_id', region_id === null ? 'is' : '=', region_id)
    .where('resource_name', '=', resource_name)
    .executeTakeFirst()
  if (!registered) throw forbidden('Unable to create a limit that has no corresponding registered limit.')
  await modelCheck(tx, call, registered, { project_id, domain_id, resource_limit })
  const id = newId()
  await tx
    .insertInto('keystone.limits')
    .values({ id, registered_limit_id: registered.id, project_id, domain_id, resource_limit, description })
    .execute()
  return id
}

const limitRoutesOnly: Route[] = [
  route({
    method: 'GET',
    path: '/limits/model',
    policy: 'identity:get_limit_model',
    policyTarget: () => ({}),
    handle(call) {
      const name = identityOf(call.env).settings.unified_limit.enforcement_model
      const description =
        name === 'flat'
          ? 'Limit enforcement and validation does not take project hierarchy into consideration.'
          : 'This model requires project hierarchy never exceeds a depth of two'
      return { model: { name, description } }
    },
  }),
  route({
    method: 'GET',
    path: '/limits',
    policy: 'identity:list_limits',
    policyTarget: () => ({}),
    handle: async call =>
      listView(
        'limits',
        (await visible(call)).map(row => limitView(row, call)),
        { links: { next: null, self: selfUrl(call, '/limits'), previous: null }, truncated: false },
      ),
  }),
  route({
    method: 'POST',
    path: '/limits',
    policy: 'identity:create_limits',
    policyTarget: () => ({}),
    success: 201,
    body: Object({ limits: Array(NewLimit, { minItems: 1 }) }),
    async handle(call) {
      const rows = await guarded('limit', () =>
        call.env.db.tx(async tx => {
          const ids: string[] = []
          for (const one of call.body.limits as Wanted[]) ids.push(await limitCreate(tx, call, one))
          return limits(tx).where('l.id', 'in', ids).execute()
        }),
      )
      return { limits: rows.map(row => limitView(row, call)) }
    },
  }),
  route({
    ...limitOne,
    method: 'GET',
    policy: 'identity:get_limit',
    handle: call => ({ limit: limitView(call.target.row, call) }),
  }),
  route({
    ...limitOne,
    method: 'PATCH',
    policy: 'identity:update_limit',
    body: Object({
      limit: Object(
        { resource_limit: Optional(Amount()), description: Optional(Nullable(String())) },
        { additionalProperties: false },
      ),
    }),
    async handle(call) {
      const { row } = call.target
      const sent = call.body.limit
      const changed = await call.env.db.tx(async tx => {
        const registered = await tx
          .selectFrom('keystone.registered_limits')
          .selectAll()
          .where('id', '=', row.registered_limit_id)
          .executeTakeFirstOrThrow()
        if (sent.resource_limit !== undefined)
          await modelCheck(tx, call, registered, { ...row, resource_limit: sent.resource_limit })
        if (globalThis.Object.keys(sent).length > 0)
          await tx.updateTable('keystone.limits').set(sent).where('id', '=', row.id).execute()
        return limits(tx).where('l.id', '=', row.id).executeTakeFirstOrThrow()
      })
      return { limit: limitView(changed, call) }
    },
  }),
  route({
    ...limitOne,
    method: 'DELETE',
    policy: 'identity:delete_limit',
    success: 204,
    handle: call =>
      call.env.db.tx(async tx => void (await tx.deleteFrom('keystone.limits').where('id', '=', call.target.row.id).execute())),
  }),
]

export const limitRoutes = [...registeredRoutes, ...limitRoutesOnly]

/** The limit of each resource of a service for a project, by name: its own, else the registered default. For other services. */
export async function limitsOf(
  db: Query,
  of: { serviceType: string; projectId: string; region?: string },
): Promise<Map<string, number>> {
  const rows = await db
    .selectFrom('keystone.registered_limits as r')
    .innerJoin('keystone.services as s', 's.id', 'r.service_id')
    .leftJoin('keystone.limits as l', join =>
      join.onRef('l.registered_limit_id', '=', 'r.id').on('l.project_id', '=', of.projectId),
    )
    .select(['r.resource_name', 'r.default_limit', 'l.resource_limit', 'r.region_id'])
    .where('s.type', '=', of.serviceType)
    .where(eb => eb.or([eb('r.region_id', 'is', null), eb('r.region_id', '=', of.region ?? '')]))
    // A registration for the region wins over one for all.
    .orderBy('r.region_id', eb => eb.desc().nullsFirst())
    .execute()
  return new Map(rows.map(row => [row.resource_name, row.resource_limit ?? row.default_limit]))
}
