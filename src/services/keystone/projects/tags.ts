import { sql } from '#kit/db/index.ts'
import { badRequest } from '#kit/fault.ts'
import { type Call, type Method, type Route, route } from '#kit/http/route.ts'
import { Object, type TSchema } from '#kit/http/schema.ts'
import { missing, nounFetch, type Row, refuseImmutable, selfUrl } from '../noun.ts'
import { Tags } from '../shapes.ts'
import { projects } from './projects.ts'

// The tags of a project, all together and one by one.

const TAGS = '/projects/:project_id/tags'

function make(
  method: Method,
  path: string,
  rule: string,
  success: number,
  handle: (call: Call<unknown, never, Row>) => unknown,
  body?: TSchema,
): Route {
  return route({
    method,
    path,
    policy: `identity:${rule}`,
    success,
    body,
    target: call => nounFetch(projects, call, call.params.project_id!),
    policyTarget: call => ({ ...call.params, target: { project: call.target ?? {} } }),
    handle(call) {
      if (!call.target) throw missing('project', call.params.project_id!)
      return handle(call as unknown as Call<unknown, never, Row>)
    },
  }) as Route
}

const view = (call: Call, id: string, tags: string[]) => ({
  tags,
  links: { next: null, self: selfUrl(call, `/projects/${id}/tags`), previous: null },
})

/** Sets the tags from what they are, under the row's lock. */
async function change(call: Call<unknown, never, Row>, next: (tags: string[]) => string[]): Promise<string[]> {
  return call.env.db.tx(async tx => {
    const row = await tx
      .selectFrom('keystone.projects')
      .selectAll()
      .where('id', '=', call.target.id)
      .forUpdate()
      .executeTakeFirst()
    if (!row) throw missing('project', call.target.id)
    refuseImmutable(projects, row as unknown as Row, {})
    const tags = next(row.tags)
    if (tags.length > 80) throw badRequest('A project can have 80 tags.')
    await tx
      .updateTable('keystone.projects')
      .set({ tags: sql<string[]>`${tags}::text[]` })
      .where('id', '=', row.id)
      .execute()
    return tags
  })
}

function tagOf(call: Pick<Call, 'params'>): string {
  const tag = call.params.value!
  if (tag.length > 255 || /[,/]/.test(tag)) throw badRequest(`Invalid tag: ${tag}.`)
  return tag
}

export const tagRoutes = [
  make('GET', TAGS, 'list_project_tags', 200, call => view(call, call.target.id, call.target.tags as string[])),
  make(
    'PUT',
    TAGS,
    'update_project_tags',
    200,
    async call => view(call, call.target.id, await change(call, () => (call.body as { tags: string[] }).tags)),
    Object({ tags: Tags() }),
  ),
  make('DELETE', TAGS, 'delete_project_tags', 204, async call => {
    await change(call, () => [])
  }),
  make('GET', `${TAGS}/:value`, 'get_project_tag', 204, call => {
    if (!(call.target.tags as string[]).includes(call.params.value!)) throw missing('project tag', call.params.value!)
  }),
  make('PUT', `${TAGS}/:value`, 'create_project_tag', 201, async call => {
    const tag = tagOf(call)
    await change(call, tags => [...new Set([...tags, tag])])
    call.reply.headers.Location = selfUrl(call, `/projects/${call.target.id}/tags/${encodeURIComponent(tag)}`)
  }),
  make('DELETE', `${TAGS}/:value`, 'delete_project_tag', 204, async call => {
    const tag = tagOf(call)
    await change(call, tags => {
      if (!tags.includes(tag)) throw missing('project tag', tag)
      return tags.filter(one => one !== tag)
    })
  }),
]
