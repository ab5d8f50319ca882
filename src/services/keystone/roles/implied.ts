import { isDuplicate, type Tx } from '#kit/db/index.ts'
import { badRequest, conflict, forbidden, notFound } from '#kit/fault.ts'
import { type Call, type Method, type Route, route } from '#kit/http/route.ts'
import { missing, nounFetch, type Row, selfUrl } from '../noun.ts'
import { stale } from '../tokens/stale.ts'
import { roles } from './roles.ts'

// "Who has the prior role has the implied one too." The rules form a graph without loops.

type Pair = { prior: Row | null; implied: Row | null }

const roleView = (call: Call, row: { id: string; name: unknown }) => ({
  id: row.id,
  name: row.name,
  links: { self: selfUrl(call, `/roles/${row.id}`) },
})

async function pairOf(call: Call): Promise<Pair> {
  const { prior_role_id, implied_role_id } = call.params
  return {
    prior: await nounFetch(roles, call, prior_role_id!),
    implied: implied_role_id === undefined ? null : await nounFetch(roles, call, implied_role_id),
  }
}

function present(call: Call<unknown, unknown, Pair>): { prior: Row; implied: Row } {
  const { prior, implied } = call.target
  if (!prior) throw missing('role', call.params.prior_role_id!)
  if (!implied && call.params.implied_role_id !== undefined) throw missing('role', call.params.implied_role_id)
  return { prior, implied: implied as Row }
}

/** Makes `prior` imply `implied`. Throws badRequest on a loop. */
export async function implicationCreate(tx: Tx, priorId: string, impliedId: string): Promise<void> {
  await tx.insertInto('keystone.implied_roles').values({ prior_id: priorId, implied_id: impliedId }).execute()
  const loop = await tx
    .withRecursive('up', cte =>
      cte
        .selectFrom('keystone.implied_roles')
        .select('prior_id')
        .where('implied_id', '=', priorId)
        .union(
          cte.selectFrom('keystone.implied_roles as i').innerJoin('up as u', 'i.implied_id', 'u.prior_id').select('i.prior_id'),
        ),
    )
    .selectFrom('up')
    .select('prior_id')
    .where('prior_id', '=', priorId)
    .executeTakeFirst()
  if (loop || priorId === impliedId) throw badRequest('Implied roles must not form a loop.')
  await stale(tx, 'all')
}

const ONE = '/roles/:prior_role_id/implies/:implied_role_id'

const make = (
  method: Method,
  path: string,
  rule: string,
  success: number,
  handle: (call: Call<unknown, unknown, Pair>) => unknown,
): Route =>
  route({
    method,
    path,
    policy: `identity:${rule}`,
    success,
    target: call => pairOf(call),
    policyTarget: call => ({
      ...call.params,
      target: { prior_role: call.target.prior ?? {}, implied_role: call.target.implied ?? {} },
    }),
    handle: call => handle(call as unknown as Call<unknown, unknown, Pair>),
  })

async function ruleFetch(call: Call<unknown, unknown, Pair>): Promise<void> {
  const { prior, implied } = present(call)
  const rule = await call.db
    .selectFrom('keystone.implied_roles')
    .select('prior_id')
    .where('prior_id', '=', prior.id)
    .where('implied_id', '=', implied.id)
    .executeTakeFirst()
  if (!rule) throw notFound(`${prior.id} does not imply ${implied.id}.`)
}

function ruleView(call: Call<unknown, unknown, Pair>) {
  const { prior, implied } = present(call)
  return {
    role_inference: { prior_role: roleView(call, prior as never), implies: roleView(call, implied as never) },
    links: { self: selfUrl(call, `/roles/${prior.id}/implies/${implied.id}`) },
  }
}

export const impliedRoutes: Route[] = [
  make('GET', '/roles/:prior_role_id/implies', 'list_implied_roles', 200, async call => {
    const { prior } = present(call)
    const implied = await call.db
      .selectFrom('keystone.implied_roles as i')
      .innerJoin('keystone.roles as r', 'r.id', 'i.implied_id')
      .select(['r.id', 'r.name'])
      .where('i.prior_id', '=', prior.id)
      .orderBy('r.name')
      .execute()
    return {
      role_inference: { prior_role: roleView(call, prior as never), implies: implied.map(row => roleView(call, row)) },
      links: { self: selfUrl(call, `/roles/${prior.id}/implies`) },
    }
  }),
  make('GET', ONE, 'get_implied_role', 200, async call => {
    await ruleFetch(call)
    return ruleView(call)
  }),
  make('HEAD', ONE, 'check_implied_role', 204, ruleFetch),
  make('PUT', ONE, 'create_implied_role', 201, async call => {
    const { prior, implied } = present(call)
    if (implied.name === 'admin') throw forbidden(`${implied.id} cannot be an implied role.`)
    if (implied.domain_id !== null && prior.domain_id !== implied.domain_id) {
      throw forbidden('A role of a domain cannot be implied by one from outside of it.')
    }
    try {
      await call.env.db.tx(tx => implicationCreate(tx, prior.id, implied.id))
    } catch (error) {
      if (isDuplicate(error)) throw conflict('Conflict occurred attempting to store implied_role - Duplicate entry.')
      throw error
    }
    return ruleView(call)
  }),
  make('DELETE', ONE, 'delete_implied_role', 204, async call => {
    await ruleFetch(call)
    const { prior, implied } = present(call)
    await call.env.db.tx(async tx => {
      await tx
        .deleteFrom('keystone.implied_roles')
        .where('prior_id', '=', prior.id)
        .where('implied_id', '=', implied.id)
        .execute()
      await stale(tx, 'all')
    })
  }),
  route({
    method: 'GET',
    path: '/role_inferences',
    policy: 'identity:list_role_inference_rules',
    policyTarget: () => ({}),
    async handle(call) {
      const rows = await call.db
        .selectFrom('keystone.implied_roles as i')
        .innerJoin('keystone.roles as p', 'p.id', 'i.prior_id')
        .innerJoin('keystone.roles as r', 'r.id', 'i.implied_id')
        .select(['p.id as prior_id', 'p.name as prior_name', 'r.id', 'r.name'])
        .orderBy('p.name')
        .orderBy('r.name')
        .execute()
      const byPrior = Map.groupBy(rows, row => row.prior_id)
      const inferences = [...byPrior.values()].map(group => ({
        prior_role: roleView(call, { id: group[0]!.prior_id, name: group[0]!.prior_name }),
        implies: group.map(row => roleView(call, row)),
      }))
      return { role_inferences: inferences, links: { self: selfUrl(call, '/role_inferences') } }
    },
  }),
]
