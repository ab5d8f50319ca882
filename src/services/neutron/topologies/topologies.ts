/**
 * A network for who has none: a network with a subnet of each default pool, and a router from it to the default external network, made
 * together on first use and kept by project. Servers that ask for `networks: auto` get theirs here.
 */
import type { Context } from '#kit/context.ts'
import { lock, type Query, type Tx } from '#kit/db/index.ts'
import { badRequest, conflict, forbidden } from '#kit/fault.ts'
import { type Call, route } from '#kit/http/route.ts'
import type { Env } from '#kit/service.ts'
import { fieldsOf, rowById } from '../api/read.ts'
import { makeInside, removeInside } from '../api/write.ts'
import { networks } from '../networks/networks.ts'
import { interfaceAdd, interfaceRemove } from '../routers/interfaces.ts'
import { routers } from '../routers/routers.ts'
import { INTERFACE, legsOf } from '../routers/store.ts'
import { subnets } from '../subnets/subnets.ts'

const failed = (why: string) => conflict(`Deployment error: ${why}.`, { type: 'AutoAllocationFailure' })

/** What a topology is made of; throws AutoAllocationFailure (409) where the cloud lacks it. */
async function requirements(db: Query): Promise<{ external: string; pools: { id: string; ip_version: number }[] }> {
  const external = await db
    .selectFrom('neutron.networks')
    .select('id')
    .where('external', '=', true)
    .where('is_default', '=', true)
    .executeTakeFirst()
  if (!external) throw failed('No default router:external network')
  const pools = await db
    .selectFrom('neutron.subnetpools')
    .select(['id', 'ip_version'])
    .where('is_default', '=', true)
    .orderBy('ip_version')
    .execute()
  if (pools.length === 0) throw failed('No default subnetpools defined')
  return { external: external.id, pools }
}

/** Throws AutoAllocationFailure (409) unless a network could be made for who asks. */
export async function topologyPossible(db: Query): Promise<void> {
  await requirements(db)
}

const topologyOf = (tx: Tx, projectId: string) =>
  tx.selectFrom('neutron.auto_topologies').selectAll().where('project_id', '=', projectId).executeTakeFirst()

/** The project's network, made now if it has none. Quota is claimed for what is made. */
export async function topologyEnsure(env: Env, tx: Tx, ctx: Context, projectId: string): Promise<string> {
  await lock(tx, `neutron.topology:${projectId}`)
  const there = await topologyOf(tx, projectId)
  if (there) return there.network_id
  const { external, pools } = await requirements(tx)
  const inside = { env, ctx, project: projectId }
  const network = await makeInside(networks, tx, inside, { name: 'auto_allocated_network' })
  const router = await makeInside(routers, tx, inside, {
    name: 'auto_allocated_router',
    external_gateway_info: { network_id: external },
  })
  for (const { id, ip_version } of pools) {
    const subnet = await makeInside(subnets, tx, inside, {
      name: `auto_allocated_subnet_v${ip_version}`,
      network_id: network.id,
      ip_version,
      subnetpool_id: id,
      ...(ip_version === 6 && { ipv6_address_mode: 'slaac', ipv6_ra_mode: 'slaac' }),
    })
    await interfaceAdd(env, tx, ctx, router, { subnetId: subnet.id as string })
  }
  const row = { project_id: projectId, network_id: network.id as string, router_id: router.id as string }
  await tx.insertInto('neutron.auto_topologies').values(row).execute()
  return row.network_id
}

/** Takes it away again. Throws what removing its parts would: NetworkInUse while servers are on it. */
async function topologyRemove(env: Env, tx: Tx, ctx: Context, projectId: string): Promise<void> {
  await lock(tx, `neutron.topology:${projectId}`)
  const there = await topologyOf(tx, projectId)
  if (!there) return
  if (there.router_id !== null) {
    const router = await rowById(routers, tx, ctx, there.router_id)
    for (const leg of await legsOf(tx, there.router_id)) {
      if (leg.owner === INTERFACE && leg.network_id === there.network_id)
        await interfaceRemove(env, tx, ctx, router, { subnetId: leg.subnet_id })
    }
    await removeInside(routers, tx, { env, ctx }, there.router_id)
  }
  await removeInside(networks, tx, { env, ctx }, there.network_id)
}

/** The project in the path; 'None' is how some clients say the caller's. */
function projectOf({ ctx, params }: Call): string {
  const said = params.project === 'None' ? ctx.projectId : params.project!
  if (said === null) throw badRequest('A token without a project must name the project.', { type: 'BadRequest' })
  if (said !== ctx.projectId && !ctx.isAdmin) throw forbidden('Not authorized.', { type: 'NotAuthorized' })
  return said
}

const view = (id: string, project: string) => ({ auto_allocated_topology: { id, tenant_id: project, project_id: project } })

const show = route({
  method: 'GET',
  path: '/auto-allocated-topology/:project',
  policy: null,
  async handle(call) {
    const { ctx, env } = call
    const project = projectOf(call)
    ctx.must('get_auto_allocated_topology', { project_id: project, tenant_id: project })
    const fields = fieldsOf(call.search)
    if (fields?.has('dry-run')) {
      await topologyPossible(call.db)
      return view('dry-run=pass', project)
    }
    if (fields) throw badRequest('Bad auto_allocate request: Unrecognized field.', { type: 'BadRequest' })
    return view(await env.db.tx(tx => topologyEnsure(env, tx, ctx, project)), project)
  },
})

const remove = route({
  method: 'DELETE',
  path: '/auto-allocated-topology/:project',
  success: 204,
  policy: null,
  async handle(call) {
    const { ctx, env } = call
    const project = projectOf(call)
    ctx.must('delete_auto_allocated_topology', { project_id: project, tenant_id: project })
    await env.db.tx(tx => topologyRemove(env, tx, ctx, project))
  },
})

export const topologyRoutes = [show, remove]
