/** /flavors/ID/os-extra_specs. Answers repeat what was sent, so a number stays a number there; what is kept is text. */
import { badRequest } from '#kit/fault.ts'
import { type Route, route } from '#kit/http/route.ts'
import * as S from '#kit/http/schema.ts'
import { query } from '../fields.ts'
import { V } from '../versions.ts'
import { checkExtraSpec } from './specs.ts'
import { flavorFetch, flavorSpecDelete, flavorSpecsMerge, noSpec } from './store.ts'

type Specs = Record<string, string | number>
const SPECS = {
  type: 'object',
  patternProperties: { '^[a-zA-Z0-9-_:. ]{1,255}$': { type: ['string', 'number'], maxLength: 255 } },
  additionalProperties: false,
}

function checked(specs: Specs, version: number): Record<string, string> {
  const texts = Object.fromEntries(Object.entries(specs).map(([name, value]) => [name, String(value)]))
  if (version >= V.extraSpecChecks) for (const [name, value] of Object.entries(texts)) checkExtraSpec(name, value)
  return texts
}

const own = ({ ctx }: { ctx: { projectId: string | null } }) => ({ project_id: ctx.projectId })

export const flavorSpecRoutes: Route[] = [
  route({
    method: 'GET',
    path: '/flavors/:id/os-extra_specs',
    policy: 'os_compute_api:os-flavor-extra-specs:index',
    query: query({}, V.flavorName),
    target: ({ db, ctx, params }) => flavorFetch(db, ctx, params.id!),
    policyTarget: own,
    handle: ({ target }) => ({ extra_specs: target.extra_specs }),
  }),
  route({
    method: 'GET',
    path: '/flavors/:id/os-extra_specs/:key',
    policy: 'os_compute_api:os-flavor-extra-specs:show',
    query: query({}, V.flavorName),
    target: ({ db, ctx, params }) => flavorFetch(db, ctx, params.id!),
    policyTarget: own,
    handle({ target, params }) {
      const key = params.key!
      if (!Object.hasOwn(target.extra_specs, key)) throw noSpec(target.id, key)
      return { [key]: target.extra_specs[key] }
    },
  }),
  route({
    method: 'POST',
    path: '/flavors/:id/os-extra_specs',
    policy: 'os_compute_api:os-flavor-extra-specs:create',
    body: S.Object({ extra_specs: S.Unsafe<Specs>(SPECS) }, { additionalProperties: false }),
    async handle({ env, params, body, version }) {
      const specs = checked(body.extra_specs, version)
      await env.db.tx(tx => flavorSpecsMerge(tx, params.id!, specs))
      return body
    },
  }),
  route({
    method: 'PUT',
    path: '/flavors/:id/os-extra_specs/:key',
    policy: 'os_compute_api:os-flavor-extra-specs:update',
    body: S.Unsafe<Specs>({ ...SPECS, minProperties: 1, maxProperties: 1 }),
    async handle({ env, params, body, version }) {
      const specs = checked(body, version)
      if (!Object.hasOwn(specs, params.key!)) throw badRequest('Request body and URI mismatch')
      await env.db.tx(tx => flavorSpecsMerge(tx, params.id!, specs))
      return body
    },
  }),
  route({
    method: 'DELETE',
    path: '/flavors/:id/os-extra_specs/:key',
    policy: 'os_compute_api:os-flavor-extra-specs:delete',
    async handle({ env, ctx, params, reply }) {
      await env.db.tx(async tx => {
        await flavorFetch(tx, ctx, params.id!)
        await flavorSpecDelete(tx, params.id!, params.key!)
      })
      reply.status = 200
    },
  }),
]
