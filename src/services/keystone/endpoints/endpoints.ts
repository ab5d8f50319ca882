import type { Tx } from '#kit/db/index.ts'
import { badRequest } from '#kit/fault.ts'
import { Nullable, OneOf, String } from '#kit/http/schema.ts'
import { type Noun, nounRoutes, nounView } from '../noun.ts'
import { Flag, Id } from '../shapes.ts'
import { stale } from '../tokens/stale.ts'

/** Endpoints: where a service answers, for whom, in which region. */
export const endpoints: Noun = {
  one: 'endpoint',
  many: 'endpoints',
  path: '/endpoints',
  table: 'keystone.endpoints',
  fields: {
    service_id: { schema: Id(), create: 'required' },
    interface: { schema: OneOf('admin', 'internal', 'public'), create: 'required' },
    url: { schema: String({ minLength: 1, maxLength: 2048, pattern: '^[a-zA-Z0-9+.-]+:.+' }), create: 'required' },
    region_id: { schema: Nullable(String({ maxLength: 255 })) },
    /** the older name, which makes the region when it is not there */
    region: { schema: Nullable(String({ maxLength: 255 })), column: null, show: false },
    enabled: { schema: Flag() },
  },
  missingFirst: ['show', 'update', 'delete'],
  extra: true,
  rules: {
    list: 'list_endpoints',
    show: 'get_endpoint',
    create: 'create_endpoint',
    update: 'update_endpoint',
    delete: 'delete_endpoint',
  },
  async views(rows, call) {
    return rows.map(row => {
      const view = nounView(endpoints, row, call)
      return { ...view, region: view.region_id }
    })
  },
  beforeCreate: (tx, _call, values) => check(tx, values),
  beforeUpdate: (tx, _call, _row, changes) => check(tx, changes),
  afterCreate: tx => stale(tx, 'catalog'),
  afterUpdate: tx => stale(tx, 'catalog'),
  beforeDelete: tx => stale(tx, 'catalog'),
}

const NAMES = new Set([
  'project_id',
  'tenant_id',
  'user_id',
  'public_bind_host',
  'admin_bind_host',
  'compute_host',
  'admin_port',
  'public_port',
  'public_endpoint',
  'admin_endpoint',
])

async function check(tx: Tx, values: Record<string, unknown>): Promise<void> {
  if (typeof values.url === 'string') urlCheck(values.url)
  if (typeof values.service_id === 'string') {
    const service = await tx.selectFrom('keystone.services').select('id').where('id', '=', values.service_id).executeTakeFirst()
    if (!service) throw badRequest(`Expecting to find service_id: ${values.service_id} is no service.`)
  }
  if (typeof values.region === 'string' && values.region_id === undefined) {
    values.region_id = values.region
    await tx
      .insertInto('keystone.regions')
      .values({ id: values.region, parent_region_id: null })
      .onConflict(on => on.doNothing())
      .execute()
  } else if (typeof values.region_id === 'string') {
    const region = await tx.selectFrom('keystone.regions').select('id').where('id', '=', values.region_id).executeTakeFirst()
    if (!region) throw badRequest(`Could not find region: ${values.region_id}.`)
  }
}

/** A URL may name only what can be completed: `$(project_id)s` and the like. */
function urlCheck(url: string): void {
  const rest = url.replace(/[$%]\((\w+)\)s/g, (whole, name: string) => (NAMES.has(name) ? '' : whole))
  if (/[$%]\(/.test(rest)) throw badRequest(`Malformed endpoint URL (${url}), see ERROR log for details.`)
}

export const endpointRoutes = nounRoutes(endpoints)
