import { lock, type Query } from '#kit/db/index.ts'
import { badRequest, forbidden, notFound } from '#kit/fault.ts'
import { type Call, route } from '#kit/http/route.ts'
import { whole } from '../api/attributes.ts'
import { bodyUnder } from '../api/write.ts'
import { neutronSettings } from '../settings.ts'
import { defaultLimits, isResource, limitsOf, quotaLock, RESOURCES, type Resource, usageOf } from './quota.ts'

const configured = (call: Call) => defaultLimits(call.env.config.of(neutronSettings).quota)

function may(call: Call, rule: string, projectId: string): void {
  if (call.ctx.can(rule, { project_id: projectId })) return
  const why =
    rule === 'get_quota'
      ? 'Only admin can view or configure quota'
      : 'Only admin is authorized to access quotas for another tenant'
  throw forbidden(why, { type: rule === 'get_quota' ? 'AdminRequired' : 'PolicyNotAuthorized' })
}

/** What one may know of one's own project: a member sees its limits. */
function maySee(call: Call, projectId: string): void {
  if (projectId !== call.ctx.projectId) may(call, 'get_quota', projectId)
}

const quotaOf = async (call: Call, projectId: string) => ({ ...configured(call), ...(await limitsOf(call.db, projectId)) })

/** Routes of quotas: the limits of projects, what they use, and the defaults. */
export const quotaRoutes = [
  route({
    method: 'GET',
    path: '/quotas',
    policy: null,
    async handle(call) {
      may(call, 'get_quota', call.ctx.projectId ?? '')
      const rows = await call.db.selectFrom('neutron.quotas').select('project_id').distinct().orderBy('project_id').execute()
      const seen = call.ctx.isAdmin ? rows : rows.filter(row => row.project_id === call.ctx.projectId)
      const quotas = []
      for (const { project_id } of seen) quotas.push({ ...(await quotaOf(call, project_id)), tenant_id: project_id, project_id })
      return { quotas }
    },
  }),
  route({
    method: 'GET',
    path: '/quotas/:project',
    policy: null,
    async handle(call) {
      const project = call.params.project!
      // `/quotas/tenant` and `/quotas/project` say whose the token is.
      if (project === 'tenant' || project === 'project') return { [project]: { [`${project}_id`]: call.ctx.projectId } }
      maySee(call, project)
      return { quota: await quotaOf(call, project) }
    },
  }),
  route({
    method: 'GET',
    path: '/quotas/:project/default',
    policy: null,
    handle(call) {
      maySee(call, call.params.project!)
      return { quota: configured(call) }
    },
  }),
  ...['details', 'details.json'].map(name =>
    route({
      method: 'GET',
      path: `/quotas/:project/${name}`,
      policy: null,
      async handle(call) {
        const project = call.params.project!
        maySee(call, project)
        const limits = await quotaOf(call, project)
        const used = await usageOf(call.db, project, Object.keys(RESOURCES) as Resource[])
        const detail = Object.entries(limits).map(([name, limit]) => [name, { limit, used: used[name] ?? 0, reserved: 0 }])
        return { quota: Object.fromEntries(detail) }
      },
    }),
  ),
  route({
    method: 'PUT',
    path: '/quotas/:project',
    policy: null,
    async handle(call) {
      const project_id = call.params.project!
      may(call, 'update_quota', project_id)
      const given = bodyUnder(call, 'quota')
      const { tenant_id: _tenant, project_id: _project, force, check_limit, ...limits } = given
      const unknown = Object.keys(limits).filter(name => !isResource(name))
      if (unknown.length > 0)
        throw badRequest(`Unrecognized attribute(s) ${unknown.map(name => `'${name}'`).join(', ')}`, { type: 'HTTPBadRequest' })
      const rows = Object.entries(limits).map(([resource, value]) => ({
        project_id,
        resource,
        limit: whole(value, resource, -1, 2147483647),
      }))
      await call.env.db.tx(async tx => {
        await lock(tx, quotaLock(project_id))
        if (check_limit === true && force !== true) await usedFits(tx, project_id, rows)
        for (const row of rows) {
          await tx
            .insertInto('neutron.quotas')
            .values(row)
            .onConflict(on => on.columns(['project_id', 'resource']).doUpdateSet({ limit: row.limit }))
            .execute()
        }
      })
      return { quota: await quotaOf(call, project_id) }
    },
  }),
  route({
    method: 'DELETE',
    path: '/quotas/:project',
    success: 204,
    policy: null,
    async handle(call) {
      const project = call.params.project!
      may(call, 'delete_quota', project)
      const gone = await call.db.deleteFrom('neutron.quotas').where('project_id', '=', project).executeTakeFirst()
      if (gone.numDeletedRows === 0n)
        throw notFound(`Quota for tenant ${project} could not be found.`, { type: 'TenantQuotaNotFound' })
    },
  }),
]

/** Throws where a new limit is below what is used already, for clients that want to be told. */
async function usedFits(db: Query, projectId: string, rows: { resource: string; limit: number }[]): Promise<void> {
  const used = await usageOf(
    db,
    projectId,
    rows.map(row => row.resource as Resource),
  )
  const over = rows.find(({ resource, limit }) => limit >= 0 && used[resource]! > limit)
  if (!over) return
  throw badRequest(
    `Quota limit ${over.limit} of ${over.resource} must be greater than or equal to already used ${used[over.resource]}.`,
    {
      type: 'QuotaLimitTooLow',
    },
  )
}
