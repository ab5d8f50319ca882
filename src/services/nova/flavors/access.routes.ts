/** Which projects may use a private flavor. */
import { conflict, notFound } from '#kit/fault.ts'
import { type Route, route } from '#kit/http/route.ts'
import * as S from '#kit/http/schema.ts'
import { query } from '../fields.ts'
import { neighbours } from '../neighbours.ts'
import { V } from '../versions.ts'
import { flavorAccess, flavorAccessAdd, flavorAccessRemove, flavorFetch } from './store.ts'

const shown = (id: string, projects: string[]): object => ({
  flavor_access: projects.map(tenant_id => ({ flavor_id: id, tenant_id })),
})

const tenant = <K extends string>(action: K) =>
  S.Object(
    {
      [action]: S.Object({ tenant: S.String({ minLength: 1, maxLength: 255 }) }, { additionalProperties: false }),
    } as Record<K, ReturnType<typeof S.Object<{ tenant: ReturnType<typeof S.String> }>>>,
    { additionalProperties: false },
  )

export const flavorAccessRoutes: Route[] = [
  route({
    method: 'GET',
    path: '/flavors/:id/os-flavor-access',
    policy: 'os_compute_api:os-flavor-access',
    query: query({}, V.flavorName),
    target: ({ db, ctx, params }) => flavorFetch(db, ctx, params.id!),
    policyTarget: ({ ctx }) => ({ project_id: ctx.projectId }),
    async handle({ db, target }) {
      if (target.is_public) throw notFound('Access list not available for public flavors.')
      return shown(target.id, await flavorAccess(db, target.id))
    },
  }),
  route({
    method: 'POST',
    path: '/flavors/:id/action',
    action: 'addTenantAccess',
    policy: 'os_compute_api:os-flavor-access:add_tenant_access',
    body: tenant('addTenantAccess'),
    async handle({ env, ctx, params, version, body }) {
      const project = body.addTenantAccess.tenant
      return env.db.tx(async tx => {
        await neighbours.projectKnown(tx, project)
        const flavor = await flavorFetch(tx, ctx, params.id!)
        if (flavor.is_public && version >= V.publicFlavorAccess) throw conflict('Can not add access to a public flavor.')
        await flavorAccessAdd(tx, flavor.id, project)
        return shown(flavor.id, await flavorAccess(tx, flavor.id))
      })
    },
  }),
  route({
    method: 'POST',
    path: '/flavors/:id/action',
    action: 'removeTenantAccess',
    policy: 'os_compute_api:os-flavor-access:remove_tenant_access',
    body: tenant('removeTenantAccess'),
    async handle({ env, ctx, params, body }) {
      return env.db.tx(async tx => {
        const flavor = await flavorFetch(tx, ctx, params.id!)
        await flavorAccessRemove(tx, flavor.id, body.removeTenantAccess.tenant)
        return shown(flavor.id, await flavorAccess(tx, flavor.id))
      })
    },
  }),
]
