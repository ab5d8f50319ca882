/** Resource classes: what there can be an amount of. */
import { attempt, isDuplicate } from '#kit/db/index.ts'
import { badRequest, conflict, notFound } from '#kit/fault.ts'
import { type Call, route } from '#kit/http/route.ts'
import * as S from '#kit/http/schema.ts'
import { CUSTOM, dated } from '../edge.ts'
import { STANDARD_CLASSES } from '../standard.ts'
import { V } from '../versions.ts'

interface Class {
  name: string
  updated_at: Date
}

async function classFetch({ db, params }: Pick<Call, 'db' | 'params'>): Promise<Class> {
  const row = await db.selectFrom('placement.classes').selectAll().where('name', '=', params.name!).executeTakeFirst()
  if (!row) throw notFound(`No such resource class ${params.name}.`)
  return row
}

const view = (name: string) => ({ name, links: [{ rel: 'self', href: `/placement/resource_classes/${name}` }] })
const place = (name: string): number => STANDARD_CLASSES.indexOf(name) + 1 || STANDARD_CLASSES.length + 1
const Named = S.Object({ name: S.String({ pattern: CUSTOM.source, maxLength: 255 }) }, { additionalProperties: false })

export const classRoutes = [
  route({
    method: 'GET',
    path: '/resource_classes',
    since: V.classes,
    policy: 'placement:resource_classes:list',
    async handle(call) {
      const rows = await call.db.selectFrom('placement.classes').selectAll().orderBy('name').execute()
      dated(
        call,
        rows.map(c => c.updated_at),
      )
      return { resource_classes: rows.sort((a, b) => place(a.name) - place(b.name)).map(c => view(c.name)) }
    },
  }),
  route({
    method: 'POST',
    path: '/resource_classes',
    success: 201,
    since: V.classes,
    policy: 'placement:resource_classes:create',
    body: Named,
    async handle({ env, body: { name }, reply, self }) {
      const made = await env.db.read
        .insertInto('placement.classes')
        .values({ name })
        .onConflict(on => on.doNothing())
        .returning('name')
        .executeTakeFirst()
      if (!made) throw conflict(`Conflicting resource class already exists: ${name}`)
      reply.headers.Location = self(`/resource_classes/${name}`)
    },
  }),
  route({
    method: 'GET',
    path: '/resource_classes/:name',
    since: V.classes,
    policy: 'placement:resource_classes:show',
    target: classFetch,
    handle(call) {
      dated(call, [call.target.updated_at])
      return view(call.target.name)
    },
  }),
  route({
    method: 'PUT',
    path: '/resource_classes/:name',
    since: V.classes,
    until: V.putClass - 1,
    policy: 'placement:resource_classes:update',
    body: Named,
    async handle(call) {
      const { env, body } = call
      const { name } = body
      const target = await classFetch(call)
      if (!target.name.startsWith('CUSTOM_')) throw badRequest(`Cannot update standard resource class ${target.name}`)
      await env.db.tx(async tx => {
        try {
          await attempt(tx, () => tx.insertInto('placement.classes').values({ name }).execute())
        } catch (error) {
          if (isDuplicate(error)) throw conflict(`Resource class already exists: ${name}`, { cause: error })
          throw error
        }
        for (const table of ['placement.inventories', 'placement.allocations'] as const)
          await tx.updateTable(table).set({ class: name }).where('class', '=', target.name).execute()
        await tx.deleteFrom('placement.classes').where('name', '=', target.name).execute()
      })
      return view(name)
    },
  }),
  route({
    method: 'PUT',
    path: '/resource_classes/:name',
    success: 204,
    since: V.putClass,
    policy: 'placement:resource_classes:update',
    async handle({ env, params, reply, self }) {
      const name = params.name!
      if (!CUSTOM.test(name) || name.length > 255)
        throw badRequest(`JSON does not validate: '${name}' does not match '${CUSTOM.source}'`)
      const made = await env.db.read
        .insertInto('placement.classes')
        .values({ name })
        .onConflict(on => on.doNothing())
        .returning('name')
        .executeTakeFirst()
      if (made) reply.status = 201
      reply.headers.Location = self(`/resource_classes/${name}`)
    },
  }),
  route({
    method: 'DELETE',
    path: '/resource_classes/:name',
    success: 204,
    since: V.classes,
    policy: 'placement:resource_classes:delete',
    target: classFetch,
    async handle({ env, target }) {
      if (!target.name.startsWith('CUSTOM_'))
        throw badRequest(`Error in delete resource class: Cannot delete standard resource class ${target.name}.`)
      await env.db.tx(async tx => {
        await tx.selectFrom('placement.classes').select('name').where('name', '=', target.name).forUpdate().execute()
        const used = await tx
          .selectFrom('placement.inventories')
          .select('provider_id')
          .where('class', '=', target.name)
          .limit(1)
          .executeTakeFirst()
        if (used)
          throw conflict(
            `Error in delete resource class: Cannot delete resource class ${target.name}. Class is in use in inventory.`,
          )
        await tx.deleteFrom('placement.classes').where('name', '=', target.name).execute()
      })
    },
  }),
]
