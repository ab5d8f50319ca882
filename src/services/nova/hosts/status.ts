/** The state of servers' hosts, for those who may see it. */
import type { Call } from '#kit/http/route.ts'
import { V } from '../versions.ts'
import { isUp, serviceRows } from './store.ts'

const ALL = 'os_compute_api:servers:show:host_status'
const UNKNOWN_ONLY = 'os_compute_api:servers:show:host_status:unknown-only'

/** Whether the caller is shown the state of hosts: what depends on the moment, and not on rows alone. */
export const seesHosts = ({ ctx, version }: Pick<Call, 'ctx' | 'version'>, projectId = ctx.projectId): boolean =>
  version >= V.hostStatus && (ctx.can(ALL, { project_id: projectId }) || ctx.can(UNKNOWN_ONLY, { project_id: projectId }))

/**
 * host_status by host: UP, DOWN, MAINTENANCE, UNKNOWN, or '' for a server without host. Undefined where the caller may see none, or the
 * version shows none.
 */
export async function hostStatuses(
  call: Pick<Call, 'ctx' | 'db' | 'env' | 'version'>,
  hosts: readonly (string | null)[],
  projectId = call.ctx.projectId,
): Promise<((host: string | null) => string | undefined) | undefined> {
  if (!seesHosts(call, projectId)) return undefined
  const { ctx, db, env } = call
  const any = ctx.can(ALL, { project_id: projectId })
  const names = [...new Set(hosts.filter(host => host !== null))]
  const rows =
    names.length === 0 ? [] : await serviceRows(db).where('s.host', 'in', names).where('s.program', '=', 'nova-compute').execute()
  const statuses = new Map(
    rows.map(row => {
      const up = isUp(env, row)
      return [row.host, row.forced_down ? 'DOWN' : !up ? 'UNKNOWN' : row.disabled ? 'MAINTENANCE' : 'UP']
    }),
  )
  return host => {
    const status = host === null ? '' : (statuses.get(host) ?? 'UNKNOWN')
    return any || status === 'UNKNOWN' ? status : undefined
  }
}
