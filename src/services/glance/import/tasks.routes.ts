/** Tasks: imports as the API shows them. Only administrators list them all; an image shows its own. */
import { randomUUID } from 'node:crypto'
import type { Context } from '#kit/context.ts'
import { page, type Query, type Selectable } from '#kit/db/index.ts'
import { badRequest, notFound } from '#kit/fault.ts'
import { route } from '#kit/http/route.ts'
import * as S from '#kit/http/schema.ts'
import { propertiesOf } from '../images/create.route.ts'
import { imageFetch, imageRegister } from '../images/store.ts'
import { type Image, when } from '../images/view.ts'
import { glanceSettings } from '../settings.ts'
import { storesOf } from '../stores.ts'
import type { TasksTable } from '../tables.ts'
import { importStart } from './import.routes.ts'
import { uriAllowed } from './uri.ts'

type Row = Selectable<TasksTable>

const brief = (t: Row) => ({
  id: t.id,
  type: t.type,
  status: t.status,
  owner: t.owner,
  ...(t.expires_at && { expires_at: when(t.expires_at) }),
  created_at: when(t.created_at),
  updated_at: when(t.updated_at),
  self: `/v2/tasks/${t.id}`,
  schema: '/v2/schemas/task',
})

const whole = (t: Row) => ({
  ...brief(t),
  input: t.input,
  result: t.result,
  message: t.message,
  image_id: t.image_id,
  request_id: t.request_id,
  user_id: t.user_id,
})

async function taskFetch(db: Query, ctx: Context, id: string): Promise<Row> {
  const row = await db.selectFrom('glance.tasks').selectAll().where('id', '=', id).executeTakeFirst()
  if (!row || !(ctx.isAdmin || row.owner === ctx.projectId)) throw notFound(`No task found with ID ${id}`)
  return row
}

const SORTABLE = ['created_at', 'updated_at', 'id', 'status', 'type', 'expires_at'] as const

const Listed = S.Object({
  limit: S.Optional(S.Integer({ minimum: 0 })),
  marker: S.Optional(S.String()),
  sort_key: S.Optional(S.OneOf(...SORTABLE)),
  sort_dir: S.Optional(S.OneOf('asc', 'desc')),
  status: S.Optional(S.OneOf('pending', 'processing', 'success', 'failure')),
  type: S.Optional(S.OneOf('import', 'api_image_import', 'location_import')),
})

export const taskRoutes = [
  route({
    method: 'GET',
    path: '/tasks',
    policy: 'tasks_api_access',
    query: Listed,
    async handle({ ctx, db, env, query, search }) {
      ctx.must('get_tasks')
      const settings = env.config.of(glanceSettings)
      const limit = Math.min(query.limit ?? settings.limit_param_default, settings.api_limit_max)
      const key = query.sort_key ?? 'created_at'
      const dir = query.sort_dir ?? 'desc'
      const after = query.marker === undefined ? undefined : await taskFetch(db, ctx, query.marker)
      let found = db.selectFrom('glance.tasks').selectAll()
      if (!ctx.isAdmin) found = found.where('owner', '=', ctx.projectId)
      if (query.status) found = found.where('status', '=', query.status)
      if (query.type) found = found.where('type', '=', query.type)
      const keys = key === 'id' ? (['id'] as const) : ([key, 'id'] as const)
      const rows = await page(
        found,
        keys.map(column => ({ column, dir, nullable: column === 'expires_at' })),
        { after: after && keys.map(k => after[k]), limit: limit + 1 },
      )
      const rest = new URLSearchParams([...search].filter(([name]) => name !== 'marker'))
      const first = `/v2/tasks${rest.size > 0 ? `?${rest}` : ''}`
      const more = rows.length > limit && limit > 0
      if (more) rest.set('marker', rows[limit - 1]!.id)
      return {
        tasks: rows.slice(0, limit).map(brief),
        first,
        ...(more && { next: `/v2/tasks?${rest}` }),
        schema: '/v2/schemas/tasks',
      }
    },
  }),
  route({
    method: 'GET',
    path: '/tasks/:id',
    policy: 'tasks_api_access',
    target: ({ db, ctx, params }) => taskFetch(db, ctx, params.id!),
    handle({ ctx, target }) {
      ctx.must('get_task', target as never)
      return whole(target)
    },
  }),
  route({
    method: 'POST',
    path: '/tasks',
    success: 201,
    policy: 'tasks_api_access',
    body: S.Object({
      type: S.OneOf('import'),
      input: S.Object(
        {
          import_from: S.String(),
          import_from_format: S.String(),
          image_properties: S.Record(S.String(), S.Unknown()),
        },
        { additionalProperties: true },
      ),
    }),
    async handle(call) {
      const { ctx, env, body, reply, self } = call
      ctx.must('add_task')
      const { import_from: uri, image_properties: given } = body.input
      if (!URL.canParse(uri)) throw badRequest(`${uri} is not a URL.`)
      uriAllowed(env, new URL(uri))
      const taskId = randomUUID()
      await env.db.tx(async tx => {
        const properties = propertiesOf(given)
        const formats = { disk_format: body.input.import_from_format, container_format: 'bare' }
        const image = await imageRegister(tx, { ...formats, ...(given as Partial<Image>), owner: ctx.projectId, properties })
        const store = storesOf(env)[0]!.id
        const asked = { taskId, source: { method: 'web-download' as const, uri }, stores: [store], allMustSucceed: true }
        await importStart(tx, { ctx }, image.id, asked, body.input, 'import')
      })
      reply.headers.Location = self(`/tasks/${taskId}`)
      return whole(await taskFetch(env.db.read, ctx, taskId))
    },
  }),
  route({
    method: 'GET',
    path: '/images/:id/tasks',
    policy: 'get_image',
    target: ({ db, ctx, params }) => imageFetch(db, ctx, params.id!),
    async handle({ db, target }) {
      const rows = await db
        .selectFrom('glance.tasks')
        .selectAll()
        .where('image_id', '=', target.id)
        .orderBy('created_at')
        .orderBy('id')
        .execute()
      return { tasks: rows.map(whole) }
    },
  }),
]
