// Pools of floating IPs: the IPv4 subnets of networks that are external to a project, of which it may ask for an address.
import { sql } from '#kit/db/index.ts'
import { route } from '#kit/http/route.ts'
import { fieldsOf } from '../api/read.ts'
import { granted } from '../networks/facts.ts'

interface PoolView {
  network_id: string
  subnet_id: string
  subnet_name: string
  cidr: string
  tenant_id: string | null
  project_id: string | null
}

/** The path is written with a dash by the extension, and with an underscore by its documents. */
export const poolRoutes = ['/floatingip-pools', '/floatingip_pools'].map(path =>
  route({
    method: 'GET',
    path,
    policy: 'get_floatingip_pool',
    target: async ({ ctx }) => ({ project_id: ctx.projectId }),
    async handle({ db, ctx, search }) {
      const wanted = (name: string) => search.getAll(name)
      const one = (name: string, column: string) =>
        wanted(name).length === 0 ? sql`true` : sql`${sql.ref(column)}::text = any(${wanted(name)}::text[])`
      const { rows } = await sql<PoolView>`
        select s.network_id, s.id as subnet_id, s.name as subnet_name, s.cidr::text, ${ctx.projectId}::text as tenant_id,
          ${ctx.projectId}::text as project_id
        from neutron.subnets s join neutron.networks n on n.id = s.network_id
        where s.ip_version = 4 and n.external and (${ctx.isAdmin} or n.project_id = ${ctx.projectId}
          or ${granted('network', 'access_as_external', 'n.id', ctx.projectId)})
          and ${one('network_id', 's.network_id')} and ${one('subnet_id', 's.id')} and ${one('subnet_name', 's.name')} and ${one('cidr', 's.cidr')}
        order by s.created_at, s.id`.execute(db)
      const only = fieldsOf(search)
      return {
        floatingip_pools: only
          ? rows.map(row => Object.fromEntries(Object.entries(row).filter(([name]) => only.has(name))))
          : rows,
      }
    },
  }),
)
