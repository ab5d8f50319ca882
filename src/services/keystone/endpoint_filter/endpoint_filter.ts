import { json, type Tx } from '#kit/db/index.ts'
import { badRequest } from '#kit/fault.ts'
import { type Call, type Method, type Route, route } from '#kit/http/route.ts'
import { Nullable, Record, String, Unknown } from '#kit/http/schema.ts'
import { groupHas } from '../catalog/catalog.ts'
import { endpoints } from '../endpoints/endpoints.ts'
import { listView, missing, type Noun, nounFetch, nounRoutes, nounViews, pageLinks, type Row, selfUrl } from '../noun.ts'
import { projects } from '../projects/projects.ts'
import { Name } from '../shapes.ts'
import { stale } from '../tokens/stale.ts'

// Which endpoints a project's catalog shows: those associated with it one by one, and those that pass the filter of an endpoint
// group associated with it. A project without any sees all.

const FILTERS = ['service_id', 'region_id', 'interface']

export const endpointGroups: Noun = {
  one: 'endpoint_group',
  many: 'endpoint_groups',
  path: '/OS-EP-FILTER/endpoint_groups',
  table: 'keystone.endpoint_groups',
  fields: {
    name: { schema: Name(), create: 'required' },
    description: { schema: Nullable(String()) },
    filters: { schema: Record(String(), Unknown()), create: 'required', write: json, filter: false, sort: false },
  },
  rules: {
    list: 'list_endpoint_groups',
    show: 'get_endpoint_group',
    create: 'create_endpoint_group',
    update: 'update_endpoint_group',
    delete: 'delete_endpoint_group',
  },
  beforeCreate: async (_tx, _call, values) => filtersCheck(values.filters),
  beforeUpdate: async (_tx, _call, _row, changes) => filtersCheck(changes.filters),
  afterUpdate: tx => stale(tx, 'catalog'),
  beforeDelete: tx => stale(tx, 'catalog'),
}

function filtersCheck(filters: unknown): void {
  if (filters === undefined) return
  const names = Object.keys(filters as object)
  if (names.length === 0 || names.some(name => !FILTERS.includes(name))) {
    throw badRequest(`Endpoint group filters must be of ${FILTERS.join(', ')}.`)
  }
  const face = (filters as { interface?: unknown }).interface
  if (face !== undefined && !['public', 'internal', 'admin'].includes(face as never))
    throw badRequest(`The interface of a filter must be public, internal or admin.`)
}

type Parts = { project: Row | null; endpoint: Row | null; endpoint_group: Row | null }
const OF = { project: projects, endpoint: endpoints, endpoint_group: endpointGroups }

async function partsOf(call: Call): Promise<Parts> {
  const find = (name: keyof Parts) =>
    call.params[`${name}_id`] === undefined ? null : nounFetch(OF[name], call, call.params[`${name}_id`]!)
  return { project: await find('project'), endpoint: await find('endpoint'), endpoint_group: await find('endpoint_group') }
}

function make(
  method: Method,
  path: string,
  rule: string,
  success: number,
  handle: (call: Call<unknown, unknown, Parts>, parts: { [K in keyof Parts]: Row }) => unknown,
): Route {
  return route({
    method,
    path: `/OS-EP-FILTER${path}`,
    policy: `identity:${rule}`,
    success,
    target: call => partsOf(call),
    policyTarget: call => ({ ...call.params }),
    handle(call) {
      for (const name of ['project', 'endpoint', 'endpoint_group'] as const) {
        const id = call.params[`${name}_id`]
        if (id !== undefined && !call.target[name]) throw missing(name.replace('_', ' '), id)
      }
      return handle(call, call.target as { [K in keyof Parts]: Row })
    },
  })
}

const list = async (call: Call, noun: Noun, rows: unknown[]) =>
  listView(noun.many, await nounViews(noun, rows as Row[], call), { links: pageLinks(call), truncated: false })

const change = (call: Call, work: (tx: Tx) => Promise<unknown>) =>
  call.env.db.tx(async tx => {
    await work(tx)
    await stale(tx, 'catalog')
  })

const PAIR = '/projects/:project_id/endpoints/:endpoint_id'
const GROUP_PAIR = '/endpoint_groups/:endpoint_group_id/projects/:project_id'

const endpointPair = (call: Call, project: Row, endpoint: Row) =>
  call.db
    .selectFrom('keystone.project_endpoints')
    .selectAll()
    .where('project_id', '=', project.id)
    .where('endpoint_id', '=', endpoint.id)
    .executeTakeFirst()
const groupPair = (call: Call, project: Row, group: Row) =>
  call.db
    .selectFrom('keystone.project_endpoint_groups')
    .selectAll()
    .where('project_id', '=', project.id)
    .where('endpoint_group_id', '=', group.id)
    .executeTakeFirst()

export const endpointFilterRoutes: Route[] = [
  ...nounRoutes(endpointGroups),
  make('PUT', PAIR, 'add_endpoint_to_project', 204, (call, { project, endpoint }) =>
    change(call, tx =>
      tx
        .insertInto('keystone.project_endpoints')
        .values({ project_id: project.id, endpoint_id: endpoint.id })
        .onConflict(on => on.doNothing())
        .execute(),
    ),
  ),
  make('GET', PAIR, 'check_endpoint_in_project', 204, async (call, { project, endpoint }) => {
    if (!(await endpointPair(call, project, endpoint))) throw missing('endpoint in project', endpoint.id)
  }),
  make('DELETE', PAIR, 'remove_endpoint_from_project', 204, async (call, { project, endpoint }) => {
    if (!(await endpointPair(call, project, endpoint))) throw missing('endpoint in project', endpoint.id)
    await change(call, tx =>
      tx
        .deleteFrom('keystone.project_endpoints')
        .where('project_id', '=', project.id)
        .where('endpoint_id', '=', endpoint.id)
        .execute(),
    )
  }),
  make('GET', '/endpoints/:endpoint_id/projects', 'list_projects_for_endpoint', 200, async (call, { endpoint }) =>
    list(
      call,
      projects,
      await call.db
        .selectFrom('keystone.project_endpoints as a')
        .innerJoin('keystone.projects as p', 'p.id', 'a.project_id')
        .selectAll('p')
        .where('a.endpoint_id', '=', endpoint.id)
        .orderBy('p.id')
        .execute(),
    ),
  ),
  make('GET', '/projects/:project_id/endpoints', 'list_endpoints_for_project', 200, async (call, { project }) => {
    const own = await call.db
      .selectFrom('keystone.project_endpoints')
      .select('endpoint_id')
      .where('project_id', '=', project.id)
      .execute()
    const groups = await groupsOf(call, project)
    const all = await call.db.selectFrom('keystone.endpoints').selectAll().orderBy('id').execute()
    const mine = all.filter(
      one => own.some(row => row.endpoint_id === one.id) || groups.some(group => groupHas(group.filters, one)),
    )
    return list(call, endpoints, mine)
  }),
  make('GET', '/projects/:project_id/endpoint_groups', 'list_endpoint_groups_for_project', 200, async (call, { project }) =>
    list(call, endpointGroups, await groupsOf(call, project)),
  ),
  make(
    'GET',
    '/endpoint_groups/:endpoint_group_id/projects',
    'list_projects_associated_with_endpoint_group',
    200,
    async (call, { endpoint_group }) =>
      list(
        call,
        projects,
        await call.db
          .selectFrom('keystone.project_endpoint_groups as a')
          .innerJoin('keystone.projects as p', 'p.id', 'a.project_id')
          .selectAll('p')
          .where('a.endpoint_group_id', '=', endpoint_group.id)
          .orderBy('p.id')
          .execute(),
      ),
  ),
  make(
    'GET',
    '/endpoint_groups/:endpoint_group_id/endpoints',
    'list_endpoints_associated_with_endpoint_group',
    200,
    async (call, { endpoint_group }) => {
      const all = await call.db.selectFrom('keystone.endpoints').selectAll().orderBy('id').execute()
      return list(
        call,
        endpoints,
        all.filter(one => groupHas(endpoint_group.filters as { [name: string]: unknown }, one)),
      )
    },
  ),
  make('PUT', GROUP_PAIR, 'add_endpoint_group_to_project', 204, (call, { project, endpoint_group }) =>
    change(call, tx =>
      tx
        .insertInto('keystone.project_endpoint_groups')
        .values({ project_id: project.id, endpoint_group_id: endpoint_group.id })
        .onConflict(on => on.doNothing())
        .execute(),
    ),
  ),
  make('GET', GROUP_PAIR, 'get_endpoint_group_in_project', 200, async (call, { project, endpoint_group }) => {
    if (!(await groupPair(call, project, endpoint_group))) throw missing('endpoint group in project', endpoint_group.id)
    const path = `/OS-EP-FILTER/endpoint_groups/${endpoint_group.id}/projects/${project.id}`
    return {
      project_endpoint_group: {
        endpoint_group_id: endpoint_group.id,
        project_id: project.id,
        links: { self: selfUrl(call, path) },
      },
    }
  }),
  make('DELETE', GROUP_PAIR, 'remove_endpoint_group_from_project', 204, async (call, { project, endpoint_group }) => {
    if (!(await groupPair(call, project, endpoint_group))) throw missing('endpoint group in project', endpoint_group.id)
    await change(call, tx =>
      tx
        .deleteFrom('keystone.project_endpoint_groups')
        .where('project_id', '=', project.id)
        .where('endpoint_group_id', '=', endpoint_group.id)
        .execute(),
    )
  }),
]

const groupsOf = (call: Call, project: Row) =>
  call.db
    .selectFrom('keystone.project_endpoint_groups as a')
    .innerJoin('keystone.endpoint_groups as g', 'g.id', 'a.endpoint_group_id')
    .selectAll('g')
    .where('a.project_id', '=', project.id)
    .orderBy('g.id')
    .execute()
