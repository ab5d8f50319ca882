/** Traits: what things are, beside how much they have. */
import { type RawBuilder, sql } from '#kit/db/index.ts'
import { badRequest, conflict, notFound } from '#kit/fault.ts'
import { type Call, route } from '#kit/http/route.ts'
import * as S from '#kit/http/schema.ts'
import { generationsBump } from '../allocations/store.ts'
import { CUSTOM, dated, queryCheck } from '../edge.ts'
import { type Provider, providerFetch, refuseStale, traitsMissing } from '../providers/store.ts'
import { V } from '../versions.ts'

interface Trait {
  name: string
  updated_at: Date
}

const target = ({ db, params }: Pick<Call, 'db' | 'params'>): Promise<Provider> => providerFetch(db, params.uuid!)

async function traitFetch({ db, params }: Pick<Call, 'db' | 'params'>): Promise<Trait> {
  const row = await db.selectFrom('placement.traits').selectAll().where('name', '=', params.name!).executeTakeFirst()
  if (!row) throw notFound(`No such trait(s): ${params.name}.`)
  return row
}

const listQuery = queryCheck(
  S.Object({ name: S.Optional(S.String()), associated: S.Optional(S.String()) }, { additionalProperties: false }),
)

function conditionsOf(query: Record<string, string>): RawBuilder<boolean>[] {
  const conditions: RawBuilder<boolean>[] = []
  if (query.name !== undefined) {
    const [, op, value] = /^(in|startswith):(.*)$/s.exec(query.name) ?? []
    if (op === 'in') conditions.push(sql`t.name = any(${value!.split(',')})`)
    else if (op === 'startswith') conditions.push(sql`starts_with(t.name, ${value})`)
    else if (!query.name.includes(':')) {
      throw badRequest(
        `Badly formatted name parameter. Expected name query string parameter in form: ?name=[in|startswith]:[name1,name2|prefix]. Got: "${query.name}"`,
      )
    }
  }
  if (query.associated !== undefined) {
    const wanted = query.associated.toLowerCase()
    if (wanted !== 'true' && wanted !== 'false')
      throw badRequest('The query parameter "associated" only accepts "true" or "false"')
    const exists = sql`exists (select from placement.provider_traits p where p.trait = t.name)`
    conditions.push(wanted === 'true' ? sql<boolean>`${exists}` : sql<boolean>`not ${exists}`)
  }
  return conditions
}

async function ofProvider(call: Pick<Call, 'db' | 'reply' | 'version'>, id: string): Promise<unknown> {
  const { rows } = await sql<Trait>`
    select t.* from placement.traits t join placement.provider_traits p on p.trait = t.name where p.provider_id = ${id} order by t.name`.execute(
    call.db,
  )
  dated(
    call,
    rows.map(t => t.updated_at),
  )
  const { generation } = await providerFetch(call.db, id)
  return { traits: rows.map(t => t.name), resource_provider_generation: generation }
}

const INVALID =
  'The trait is invalid. A valid trait must be no longer than 255 characters, start with the prefix "CUSTOM_" and use following characters: "A"-"Z", "0"-"9" and "_"'
const path = '/resource_providers/:uuid/traits'

export const traitRoutes = [
  route({
    method: 'GET',
    path: '/traits',
    since: V.traits,
    policy: 'placement:traits:list',
    async handle(call) {
      const conditions = conditionsOf(listQuery(call.search, call.version))
      const { rows } = await sql<Trait>`
        select t.* from placement.traits t where ${conditions.length > 0 ? sql.join(conditions, sql` and `) : sql`true`} order by t.name`.execute(
        call.db,
      )
      dated(
        call,
        rows.map(t => t.updated_at),
      )
      return { traits: rows.map(t => t.name) }
    },
  }),
  route({
    method: 'GET',
    path: '/traits/:name',
    success: 204,
    since: V.traits,
    policy: 'placement:traits:show',
    target: traitFetch,
    handle: call => dated(call, [call.target.updated_at]),
  }),
  route({
    method: 'PUT',
    path: '/traits/:name',
    success: 204,
    since: V.traits,
    policy: 'placement:traits:update',
    async handle(call) {
      const { env, params, reply, self } = call
      const name = params.name!
      if (!CUSTOM.test(name) || name.length > 255) throw badRequest(INVALID)
      const made = await env.db.read
        .insertInto('placement.traits')
        .values({ name })
        .onConflict(on => on.doNothing())
        .returning('name')
        .executeTakeFirst()
      if (made) reply.status = 201
      reply.headers.Location = self(`/traits/${name}`)
      dated(call, [(await traitFetch(call)).updated_at])
    },
  }),
  route({
    method: 'DELETE',
    path: '/traits/:name',
    success: 204,
    since: V.traits,
    policy: 'placement:traits:delete',
    target: traitFetch,
    async handle({ env, target }) {
      if (!target.name.startsWith('CUSTOM_')) throw badRequest(`Cannot delete standard trait ${target.name}.`)
      await env.db.tx(async tx => {
        await tx.selectFrom('placement.traits').select('name').where('name', '=', target.name).forUpdate().execute()
        const used = await tx
          .selectFrom('placement.provider_traits')
          .select('provider_id')
          .where('trait', '=', target.name)
          .limit(1)
          .executeTakeFirst()
        if (used) throw conflict(`The trait ${target.name} is in use by a resource provider.`)
        await tx.deleteFrom('placement.traits').where('name', '=', target.name).execute()
      })
    },
  }),
  route({
    method: 'GET',
    path,
    since: V.traits,
    policy: 'placement:resource_providers:traits:list',
    target,
    handle: call => ofProvider(call, call.target.id),
  }),
  route({
    method: 'PUT',
    path,
    since: V.traits,
    policy: 'placement:resource_providers:traits:update',
    target,
    body: S.Object(
      {
        resource_provider_generation: S.Integer(),
        traits: S.Array(S.String({ maxLength: 255, pattern: '^[A-Z0-9_]+$' }), { uniqueItems: true }),
      },
      { additionalProperties: false },
    ),
    async handle(call) {
      const { env, target, body } = call
      await env.db.tx(async tx => {
        const provider = await providerFetch(tx, target.id, true)
        refuseStale(
          provider,
          body.resource_provider_generation,
          "Resource provider's generation already changed. Please update the generation and try again.",
        )
        const missing = await traitsMissing(tx, body.traits)
        if (missing.length > 0) throw badRequest(`No such trait ${missing.join(', ')}`)
        await tx.deleteFrom('placement.provider_traits').where('provider_id', '=', target.id).execute()
        await sql`insert into placement.provider_traits (provider_id, trait) select ${target.id}, unnest(${body.traits}::text[])`.execute(
          tx,
        )
        await generationsBump(tx, [target.id])
      })
      return ofProvider(call, target.id)
    },
  }),
  route({
    method: 'DELETE',
    path,
    success: 204,
    since: V.traits,
    policy: 'placement:resource_providers:traits:delete',
    target,
    async handle({ env, target }) {
      await env.db.tx(async tx => {
        await providerFetch(tx, target.id, true)
        await tx.deleteFrom('placement.provider_traits').where('provider_id', '=', target.id).execute()
        await generationsBump(tx, [target.id])
      })
    },
  }),
]
