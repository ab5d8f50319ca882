import { json, type Query, sql } from '#kit/db/index.ts'
import { type Call, type Method, type Route, route } from '#kit/http/route.ts'
import { String, Unknown } from '#kit/http/schema.ts'
import { endpoints } from '../endpoints/endpoints.ts'
import { listView, missing, type Noun, newId, nounFetch, nounRoutes, nounView, nounViews, pageLinks, type Row } from '../noun.ts'
import { regions } from '../regions/regions.ts'
import { services } from '../services/services.ts'

// Policy documents that services could fetch, and which endpoint, service or region each is for. Kept because clients have the calls;
// Nubo's own services take their policy from files.

export const policyDocuments: Noun = {
  one: 'policy',
  many: 'policies',
  path: '/policies',
  table: 'keystone.policies',
  fields: {
    type: { schema: String({ minLength: 1, maxLength: 255 }), create: 'required' },
    blob: { schema: Unknown(), create: 'required', write: json, filter: false, sort: false },
  },
  extra: true,
  rules: { list: 'list_policies', show: 'get_policy', create: 'create_policy', update: 'update_policy', delete: 'delete_policy' },
}

type Parts = { policy: Row | null; endpoint: Row | null; service: Row | null; region: Row | null }

const OF = { policy: policyDocuments, endpoint: endpoints, service: services, region: regions }

async function partsOf(call: Call): Promise<Parts> {
  const find = (name: keyof Parts) =>
    call.params[`${name}_id`] === undefined ? null : nounFetch(OF[name], call, call.params[`${name}_id`]!)
  return {
    policy: await find('policy'),
    endpoint: await find('endpoint'),
    service: await find('service'),
    region: await find('region'),
  }
}

function present(call: Call<unknown, unknown, Parts>): Parts {
  for (const name of ['policy', 'endpoint', 'service', 'region'] as const) {
    const id = call.params[`${name}_id`]
    if (id !== undefined && !call.target[name]) throw missing(name, id)
  }
  return call.target
}

function make(
  method: Method,
  path: string,
  rule: string,
  success: number,
  handle: (call: Call<unknown, unknown, Parts>, parts: Parts) => unknown,
): Route {
  return route({
    method,
    path,
    policy: `identity:${rule}`,
    success,
    target: call => partsOf(call),
    policyTarget: call => ({ ...call.params }),
    handle: call => handle(call, present(call)),
  })
}

const about = ({ endpoint, service, region }: Parts) => ({
  endpoint_id: endpoint?.id ?? null,
  service_id: service?.id ?? null,
  region_id: region?.id ?? null,
})

const BASE = '/policies/:policy_id/OS-ENDPOINT-POLICY'

function associationRoutes(path: string, rule: string): Route[] {
  return [
    make('PUT', `${BASE}${path}`, `create_policy_association_for_${rule}`, 204, async (call, parts) => {
      await call.env.db.tx(async tx => {
        // One policy for each: a second replaces the first, also when both come at once.
        const policy_id = parts.policy!.id
        await tx
          .insertInto('keystone.policy_associations')
          .values({ id: newId(), policy_id, ...about(parts) })
          .onConflict(on =>
            on
              .expression(sql`coalesce(endpoint_id, ''), coalesce(service_id, ''), coalesce(region_id, '')`)
              .doUpdateSet({ policy_id }),
          )
          .execute()
      })
    }),
    make('GET', `${BASE}${path}`, `check_policy_association_for_${rule}`, 204, async (call, parts) => {
      let query = call.db.selectFrom('keystone.policy_associations').select('id').where('policy_id', '=', parts.policy!.id)
      for (const [name, id] of Object.entries(about(parts)))
        query = query.where(name as 'endpoint_id', id === null ? 'is' : '=', id)
      if (!(await query.executeTakeFirst())) throw missing('policy association', parts.policy!.id)
    }),
    make('DELETE', `${BASE}${path}`, `delete_policy_association_for_${rule}`, 204, async (call, parts) => {
      await call.env.db.tx(async tx => {
        let query = tx.deleteFrom('keystone.policy_associations').where('policy_id', '=', parts.policy!.id)
        for (const [name, id] of Object.entries(about(parts)))
          query = query.where(name as 'endpoint_id', id === null ? 'is' : '=', id)
        await query.execute()
      })
    }),
  ]
}

/**
 * Says for any endpoint which policy holds: its own; else that of its service in its region or the nearest region above; else that
 * of its service; undefined where none does. Two queries.
 */
async function effective(db: Query): Promise<(endpoint: Row) => string | undefined> {
  const rows = await db.selectFrom('keystone.policy_associations').selectAll().execute()
  const regionRows = await db.selectFrom('keystone.regions').select(['id', 'parent_region_id']).execute()
  const parents = new Map(regionRows.map(row => [row.id, row.parent_region_id]))
  return endpoint => {
    const own = rows.find(row => row.endpoint_id === endpoint.id)
    if (own) return own.policy_id
    const ofService = rows.filter(row => row.service_id === endpoint.service_id)
    for (let region = endpoint.region_id as string | null; region !== null; region = parents.get(region) ?? null) {
      const here = ofService.find(row => row.region_id === region)
      if (here) return here.policy_id
    }
    return ofService.find(row => row.region_id === null)?.policy_id
  }
}

export const policyRoutes: Route[] = [
  ...nounRoutes(policyDocuments),
  ...associationRoutes('/endpoints/:endpoint_id', 'endpoint'),
  ...associationRoutes('/services/:service_id', 'service'),
  ...associationRoutes('/services/:service_id/regions/:region_id', 'region_and_service'),
  make('GET', `${BASE}/endpoints`, 'list_endpoints_for_policy', 200, async (call, { policy }) => {
    const policyOf = await effective(call.db)
    const all = (await call.db.selectFrom('keystone.endpoints').selectAll().orderBy('id').execute()) as unknown as Row[]
    const mine = all.filter(endpoint => policyOf(endpoint) === policy!.id)
    return listView('endpoints', await nounViews(endpoints, mine, call), { links: pageLinks(call), truncated: false })
  }),
  make('GET', '/endpoints/:endpoint_id/OS-ENDPOINT-POLICY/policy', 'get_policy_for_endpoint', 200, async (call, { endpoint }) => {
    const id = (await effective(call.db))(endpoint!)
    if (id === undefined) throw missing('policy for endpoint', endpoint!.id)
    const row = await nounFetch(policyDocuments, call, id)
    return { policy: nounView(policyDocuments, row!, call) }
  }),
]
