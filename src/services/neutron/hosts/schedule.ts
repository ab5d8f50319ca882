import { sql } from '#kit/db/index.ts'
import type { Env } from '#kit/service.ts'
import { type Task, task } from '#kit/task.ts'
import { dhcpEnsure, dhcpMissing } from '../dhcp/dhcp.ts'
import { routerEnsure } from '../routers/store.ts'

/** Routers that have a leg and no host. */
async function routersHomeless(env: Env): Promise<string[]> {
  const { rows } = await sql<{ id: string }>`
    select r.id from neutron.routers r where not exists (select from neutron.router_bindings b where b.router_id = r.id)
    and exists (select from neutron.ports p where p.device_id = r.id and p.device_owner like 'network:router%') order by r.id`.execute(
    env.db.read,
  )
  return rows.map(row => row.id)
}

/** Whether any host could take something. */
async function anyHost(env: Env): Promise<boolean> {
  const { rows } = await sql`select from neutron.agents a join kit.host_states s on s.name = a.host and s.up limit 1`.execute(
    env.db.read,
  )
  return rows.length > 0
}

/** Gives DHCP servers and routers that have no host one, as soon as there is one. */
export const schedule: Task = task({
  name: 'neutron.schedule',
  every: 30,
  async run(env) {
    if (!(await anyHost(env))) return
    for (const id of await dhcpMissing(env, env.db.read)) await env.db.tx(tx => dhcpEnsure(env, tx, id))
    for (const id of await routersHomeless(env)) await env.db.tx(tx => routerEnsure(env, tx, id))
  },
})
