/** /os-server-groups: which servers stand together or apart. */
import { randomUUID } from 'node:crypto'
import type { Context } from '#kit/context.ts'
import { json, type Query, type Selectable, sql } from '#kit/db/index.ts'
import { badRequest, notFound, overQuota } from '#kit/fault.ts'
import { type Route, route } from '#kit/http/route.ts'
import * as S from '#kit/http/schema.ts'
import { COUNT, Name, query, TEXT, Whole } from '../fields.ts'
import { fits, lockProject, projectLimits } from '../quotas/limits.ts'
import { novaSettings } from '../settings.ts'
import type { ServerGroupsTable } from '../tables.ts'
import { V } from '../versions.ts'

const CLOSED = { additionalProperties: false }
type Group = Selectable<ServerGroupsTable> & { members: string[] }

const rows = (db: Query, where: ReturnType<typeof sql<boolean>>, limit = 1_000_000, offset = 0): Promise<Group[]> =>
  sql<Group>`
    select g.*, array(select s.id from nova.servers s where s.group_id = g.id order by s.seq) as members
    from nova.server_groups g where ${where} order by g.seq limit ${limit} offset ${offset}`
    .execute(db)
    .then(result => result.rows)

const shown = (group: Group, version: number) => ({
  id: group.id,
  name: group.name,
  ...(version >= V.groupRules ? { policy: group.policy, rules: group.rules } : { policies: [group.policy], metadata: {} }),
  members: group.members,
  ...(version >= V.serverGroupOwner ? { project_id: group.project_id, user_id: group.user_id } : {}),
})

async function groupFetch(db: Query, ctx: Pick<Context, 'isAdmin' | 'projectId'>, id: string): Promise<Group> {
  const [group] = await rows(db, sql<boolean>`g.id = ${id}`)
  if (!group || (!ctx.isAdmin && group.project_id !== ctx.projectId)) throw notFound(`Instance group ${id} could not be found.`)
  return group
}

const HARD = ['anti-affinity', 'affinity']
const ALL = [...HARD, 'soft-anti-affinity', 'soft-affinity']
const Policies = (names: string[]) =>
  S.Unsafe<string[]>({ type: 'array', items: { type: 'string', enum: names }, minItems: 1, maxItems: 1 })

interface GroupBody {
  server_group: { name: string; policies?: string[]; policy?: string; rules?: { max_server_per_host?: number | string } }
}
const createBody = S.byVersion(
  [0, S.Object({ server_group: S.Object({ name: Name(), policies: Policies(HARD) }, CLOSED) }, CLOSED)],
  [V.softAffinity, S.Object({ server_group: S.Object({ name: Name(), policies: Policies(ALL) }, CLOSED) }, CLOSED)],
  [
    V.groupRules,
    S.Object(
      {
        server_group: S.Object(
          {
            name: Name(),
            policy: S.Unsafe<string>({ type: 'string', enum: ALL }),
            rules: S.Optional(S.Object({ max_server_per_host: S.Optional(Whole(1)) }, CLOSED)),
          },
          CLOSED,
        ),
      },
      CLOSED,
    ),
  ],
) as unknown as ReturnType<typeof S.Unsafe<GroupBody>>

export const serverGroupRoutes: Route[] = [
  route({
    method: 'GET',
    path: '/os-server-groups',
    policy: 'os_compute_api:os-server-groups:index',
    query: query({ all_projects: TEXT, limit: COUNT, offset: COUNT }),
    async handle({ ctx, db, env, search, version }) {
      const all = search.has('all_projects') && ctx.isAdmin
      if (all) ctx.must('os_compute_api:os-server-groups:index:all_projects', { project_id: ctx.projectId })
      const max = env.config.of(novaSettings).max_limit
      const limit = Math.min(max, Number(search.get('limit') ?? max) || max)
      const where = all ? sql<boolean>`true` : sql<boolean>`g.project_id = ${ctx.projectId}`
      const groups = await rows(db, where, limit, Math.min(Number(search.get('offset') ?? 0), 1_000_000_000))
      return { server_groups: groups.map(group => shown(group, version)) }
    },
  }),
  route({
    method: 'POST',
    path: '/os-server-groups',
    policy: 'os_compute_api:os-server-groups:create',
    body: createBody,
    async handle({ ctx, env, body, version }) {
      if (ctx.projectId === null) throw badRequest('A token of a project is needed to create a server group.')
      const { name, policies, policy = policies![0]!, rules = {} } = body.server_group
      if (policy !== 'anti-affinity' && Object.keys(rules).length > 0) {
        throw badRequest('Only anti-affinity policy supports rules.')
      }
      const most = rules.max_server_per_host
      const kept: Record<string, number> = most === undefined ? {} : { max_server_per_host: Number(most) }
      return env.db.tx(async tx => {
        await lockProject(tx, ctx.projectId!)
        const limits = await projectLimits(tx, env.config, ctx.projectId!, ctx.userId)
        const { count } = await tx
          .selectFrom('nova.server_groups')
          .select(eb => eb.fn.countAll<number>().as('count'))
          .where('project_id', '=', ctx.projectId)
          .executeTakeFirstOrThrow()
        if (!fits(limits.server_groups, count + 1)) throw overQuota('Quota exceeded, too many server groups.')
        const group = await tx
          .insertInto('nova.server_groups')
          .values({ id: randomUUID(), name, project_id: ctx.projectId!, user_id: ctx.userId, policy, rules: json(kept) })
          .returningAll()
          .executeTakeFirstOrThrow()
        return { server_group: shown({ ...group, members: [] }, version) }
      })
    },
  }),
  route({
    method: 'GET',
    path: '/os-server-groups/:id',
    policy: 'os_compute_api:os-server-groups:show',
    query: query({}, V.flavorName),
    target: ({ db, ctx, params }) => groupFetch(db, ctx, params.id!),
    handle: ({ target, version }) => ({ server_group: shown(target, version) }),
  }),
  route({
    method: 'DELETE',
    path: '/os-server-groups/:id',
    success: 204,
    policy: 'os_compute_api:os-server-groups:delete',
    target: ({ db, ctx, params }) => groupFetch(db, ctx, params.id!),
    async handle({ env, target }) {
      await env.db.tx(async tx => {
        await tx.deleteFrom('nova.server_groups').where('id', '=', target.id).execute()
        await tx.updateTable('nova.servers').set({ group_id: null }).where('group_id', '=', target.id).execute()
      })
    },
  }),
]
