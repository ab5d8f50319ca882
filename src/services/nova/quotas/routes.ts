/** /os-quota-sets, /os-quota-class-sets, /limits. Usage is counted when asked. */
import type { Config } from '#kit/config.ts'
import type { Query, Tx } from '#kit/db/index.ts'
import { badRequest } from '#kit/fault.ts'
import { type Route, route } from '#kit/http/route.ts'
import * as S from '#kit/http/schema.ts'
import { Flag, query, TEXT, Whole } from '../fields.ts'
import { keypairCount } from '../keypairs/store.ts'
import { neighbours } from '../neighbours.ts'
import { V } from '../versions.ts'
import { classLimits, type Limits, lockProject, projectLimits, RESOURCES, type Resource, serverUsage } from './limits.ts'

/** What was networking's, before networking was a service: shown without limit below 2.36 (sets) and 2.50 (classes). */
const NETWORK = ['fixed_ips', 'floating_ips', 'security_groups', 'security_group_rules'] as const
const INJECTED = ['injected_files', 'injected_file_content_bytes', 'injected_file_path_bytes']
const GROUPS = ['server_groups', 'server_group_members']

/** The resources that an answer of this version has. */
function named(version: number, networkUntil: number, groups = true): string[] {
  const own = RESOURCES.filter(r => (version < V.noPersonality || !INJECTED.includes(r)) && (groups || !GROUPS.includes(r)))
  return version < networkUntil ? [...own, ...NETWORK] : own
}

const limitOf = (limits: Limits, name: string): number => limits[name as Resource] ?? -1

const shown = (names: string[], value: (name: string) => unknown): Record<string, unknown> =>
  Object.fromEntries(names.map(name => [name, value(name)]))

/** What a project (or a user in it) uses of everything that is counted. */
async function usageOf(db: Query, projectId: string, userId?: string): Promise<Record<string, number>> {
  const servers = await serverUsage(db, projectId, userId)
  let groups = db
    .selectFrom('nova.server_groups')
    .select(eb => eb.fn.countAll<number>().as('count'))
    .where('project_id', '=', projectId)
  if (userId !== undefined) groups = groups.where('user_id', '=', userId)
  const { count } = await groups.executeTakeFirstOrThrow()
  return { ...servers, server_groups: count, ...(userId === undefined ? {} : { key_pairs: await keypairCount(db, userId) }) }
}

const userQuery = query({ user_id: TEXT })
const withUser = ({ search }: { search: URLSearchParams }): string => search.get('user_id') ?? ''
const ofProject = ({ params }: { params: Readonly<Record<string, string>> }) => ({ project_id: params.id! })

const Limit = () => S.Optional(Whole(-1))
const setFields = (networkUntil: number, groupsSince = 0) =>
  Object.fromEntries([
    ...RESOURCES.map(name => {
      const field = INJECTED.includes(name) ? S.until(V.noPersonality - 1, Limit()) : Limit()
      return [name, GROUPS.includes(name) ? S.since(groupsSince, field) : field]
    }),
    ...NETWORK.map(name => [name, S.until(networkUntil - 1, Limit())]),
  ]) as Record<string, S.TSchema>

const setBody = S.Object(
  { quota_set: S.Object({ ...setFields(V.noProxies), force: S.Optional(Flag()) }, { additionalProperties: false }) },
  { additionalProperties: false },
) as unknown as ReturnType<typeof S.Unsafe<{ quota_set: Record<string, unknown> }>>

const classBody = S.Object(
  { quota_class_set: S.Object(setFields(V.quotaClassGroups, V.quotaClassGroups), { additionalProperties: false }) },
  { additionalProperties: false },
) as unknown as ReturnType<typeof S.Unsafe<{ quota_class_set: Record<string, unknown> }>>

/** The limits of a body by resource. Those of networking are taken and not kept, as they count nothing here. */
function given(of: Record<string, unknown>): [Resource, number][] {
  return Object.entries(of)
    .filter(([name, value]) => (RESOURCES as readonly string[]).includes(name) && value !== '' && value !== null)
    .map(([name, value]) => [name as Resource, Number(value)])
}

const inf = (limit: number): number => (limit < 0 ? Number.POSITIVE_INFINITY : limit)

async function checkChange(
  tx: Tx,
  config: Config,
  projectId: string,
  userId: string,
  changes: [Resource, number][],
): Promise<void> {
  const used = await usageOf(tx, projectId, userId || undefined)
  const project = userId ? await projectLimits(tx, config, projectId) : undefined
  for (const [resource, limit] of changes) {
    const minimum = used[resource] ?? 0
    if (inf(limit) < minimum) {
      throw badRequest(
        `Quota limit ${limit} for ${resource} must be greater than or equal to already used and reserved ${minimum}.`,
      )
    }
    if (project && inf(limit) > inf(project[resource])) {
      throw badRequest(`Quota limit ${limit} for ${resource} must be less than or equal to ${project[resource]}.`)
    }
  }
}

const quotaSets: Route[] = [
  route({
    method: 'GET',
    path: '/os-quota-sets/:id',
    policy: 'os_compute_api:os-quota-sets:show',
    policyTarget: ofProject,
    query: userQuery,
    async handle(call) {
      const { db, env, params, version } = call
      await neighbours.projectKnown(db, params.id!)
      const limits = await projectLimits(db, env.config, params.id!, withUser(call))
      return { quota_set: { id: params.id, ...shown(named(version, V.noProxies), name => limitOf(limits, name)) } }
    },
  }),
  route({
    method: 'GET',
    path: '/os-quota-sets/:id/detail',
    policy: 'os_compute_api:os-quota-sets:detail',
    policyTarget: ofProject,
    query: userQuery,
    async handle(call) {
      const { db, env, params, version } = call
      await neighbours.projectKnown(db, params.id!)
      const user = withUser(call)
      const limits = await projectLimits(db, env.config, params.id!, user)
      const used = await usageOf(db, params.id!, user || undefined)
      const detail = (name: string) => ({ limit: limitOf(limits, name), in_use: used[name] ?? 0, reserved: 0 })
      return { quota_set: { id: params.id, ...shown(named(version, V.noProxies), detail) } }
    },
  }),
  route({
    method: 'GET',
    path: '/os-quota-sets/:id/defaults',
    policy: 'os_compute_api:os-quota-sets:defaults',
    policyTarget: ofProject,
    async handle({ db, env, params, version }) {
      await neighbours.projectKnown(db, params.id!)
      const limits = await classLimits(db, env.config)
      return { quota_set: { id: params.id, ...shown(named(version, V.noProxies), name => limitOf(limits, name)) } }
    },
  }),
  route({
    method: 'PUT',
    path: '/os-quota-sets/:id',
    policy: 'os_compute_api:os-quota-sets:update',
    policyTarget: ofProject,
    query: userQuery,
    body: setBody,
    async handle(call) {
      const { env, params, version, body } = call
      const project = params.id!
      const user = withUser(call)
      const changes = given(body.quota_set)
      const force = S.toBoolean(body.quota_set.force ?? false) === true
      return env.db.tx(async tx => {
        await neighbours.projectKnown(tx, project)
        await lockProject(tx, project)
        if (!force) await checkChange(tx, env.config, project, user, changes)
        for (const [resource, hard_limit] of changes) {
          await tx
            .insertInto('nova.quotas')
            .values({ project_id: project, user_id: user, resource, hard_limit })
            .onConflict(c => c.columns(['project_id', 'user_id', 'resource']).doUpdateSet({ hard_limit }))
            .execute()
        }
        const limits = await projectLimits(tx, env.config, project, user)
        return { quota_set: shown(named(version, V.noProxies), name => limitOf(limits, name)) }
      })
    },
  }),
  route({
    method: 'DELETE',
    path: '/os-quota-sets/:id',
    success: 202,
    policy: 'os_compute_api:os-quota-sets:delete',
    policyTarget: ofProject,
    query: userQuery,
    async handle(call) {
      const user = withUser(call)
      await call.env.db.tx(async tx => {
        const rows = tx.deleteFrom('nova.quotas').where('project_id', '=', call.params.id!)
        await (user ? rows.where('user_id', '=', user) : rows).execute()
      })
    },
  }),
]

const quotaClasses: Route[] = [
  route({
    method: 'GET',
    path: '/os-quota-class-sets/:id',
    policy: 'os_compute_api:os-quota-class-sets:show',
    query: query({}, V.flavorName),
    async handle({ db, env, params, version }) {
      const limits = await classLimits(db, env.config, params.id)
      const names = named(version, V.quotaClassGroups, version >= V.quotaClassGroups)
      return { quota_class_set: { id: params.id, ...shown(names, name => limitOf(limits, name)) } }
    },
  }),
  route({
    method: 'PUT',
    path: '/os-quota-class-sets/:id',
    policy: 'os_compute_api:os-quota-class-sets:update',
    body: classBody,
    async handle({ env, params, version, body }) {
      const name = params.id!
      if (name.length > 255) throw badRequest('quota_class_name has more than 255 characters.')
      return env.db.tx(async tx => {
        for (const [resource, hard_limit] of given(body.quota_class_set)) {
          await tx
            .insertInto('nova.quota_classes')
            .values({ class_name: name, resource, hard_limit })
            .onConflict(c => c.columns(['class_name', 'resource']).doUpdateSet({ hard_limit }))
            .execute()
        }
        const limits = await classLimits(tx, env.config, name)
        const names = named(version, V.quotaClassGroups, version >= V.quotaClassGroups)
        return { quota_class_set: shown(names, resource => limitOf(limits, resource)) }
      })
    },
  }),
]

const limits = route({
  method: 'GET',
  path: '/limits',
  policy: 'os_compute_api:limits',
  query: query({ tenant_id: TEXT, reserved: TEXT }),
  async handle({ ctx, db, env, search, version }) {
    const other = search.get('tenant_id')
    if (other !== null) ctx.must('os_compute_api:limits:other_project', { project_id: ctx.projectId, user_id: ctx.userId })
    const project = other ?? ctx.projectId ?? ''
    const max = await projectLimits(db, env.config, project)
    const used = await usageOf(db, project)
    const network = version < V.noProxies
    return {
      limits: {
        rate: [],
        absolute: {
          maxTotalRAMSize: max.ram,
          maxTotalInstances: max.instances,
          maxTotalCores: max.cores,
          maxTotalKeypairs: max.key_pairs,
          maxServerMeta: max.metadata_items,
          ...(version < V.noImageMetadata ? { maxImageMeta: max.metadata_items } : {}),
          ...(version < V.noPersonality
            ? { maxPersonality: max.injected_files, maxPersonalitySize: max.injected_file_content_bytes }
            : {}),
          maxServerGroups: max.server_groups,
          maxServerGroupMembers: max.server_group_members,
          ...(network ? { maxTotalFloatingIps: -1, maxSecurityGroups: -1, maxSecurityGroupRules: -1 } : {}),
          totalRAMUsed: used.ram,
          totalCoresUsed: used.cores,
          totalInstancesUsed: used.instances,
          ...(network ? { totalFloatingIpsUsed: 0, totalSecurityGroupsUsed: 0 } : {}),
          totalServerGroupsUsed: used.server_groups,
        },
      },
    }
  },
})

export const quotaRoutes: Route[] = [...quotaSets, ...quotaClasses, limits]
