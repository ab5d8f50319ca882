// What remains of a project that is gone.
import type { Subscription } from '#kit/events.ts'
import { on } from '#kit/events.ts'
import { projectDeleted } from '#services/keystone/index.ts'

/** Takes away what exists only for a project: its limits, its default group while no port has it, and what was shared with it by name. */
export const projectGone: Subscription = on(projectDeleted, async (env, { id }) => {
  await env.db.tx(async tx => {
    await tx.deleteFrom('neutron.quotas').where('project_id', '=', id).execute()
    await tx.deleteFrom('neutron.rbac_policies').where('target_project', '=', id).execute()
    await tx
      .deleteFrom('neutron.security_groups as g')
      .where('g.project_id', '=', id)
      .where('g.is_default', '=', true)
      .where(eb =>
        eb.not(
          eb.exists(
            eb.selectFrom('neutron.port_security_groups as p').select('p.port_id').whereRef('p.security_group_id', '=', 'g.id'),
          ),
        ),
      )
      .execute()
  })
})
