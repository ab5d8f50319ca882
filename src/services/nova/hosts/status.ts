/** The state of servers' hosts, for those who may see it. */
import type { Call } from '#kit/http/route.ts'
import { V } from '../versions.ts'
import { isUp, serviceRows } from './store.ts'

/**
 * host_status by host: UP, DOWN, MAINTENANCE, UNKNOWN, or '' for a server without host. Undefined where the caller may see none, or the
 * version shows none.
 */
export async function hostStatuses(
  { ctx, db, env, version }: Pick<Call, 'ctx' | 'db' | 'env' | 'version'>,
  hosts: readonly (string | null)[],
  projectId = ctx.projectId,
): Promise<((host: string | null) => string | undefined) | undefined> {
  if (version < V.hostStatus) return undefined
  const target = { project_id: projectId }
  const any = ctx.can('os_compute_api:servers:show:host_status', target)
  if (!any && !ctx.can('os_compute_api:servers:show:host_status:unknown-only', target)) return undefined
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
