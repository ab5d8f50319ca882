// Subports go where their trunk's parent port goes: bound to its host with it, unbound with it.
import { sql, type Tx } from '#kit/db/index.ts'
import type { Env } from '#kit/service.ts'
import { changed } from '../hosts/changed.ts'
import { networksFacts } from '../networks/facts.ts'
import { bindingOf } from '../ports/store.ts'

/** Device owner of a port that is carried by a trunk. */
export const SUBPORT = 'trunk:subport'

/** Binds subports to a host ('': to none). `owner`: what they are from now on; as they are unless given. */
export async function subportsBind(env: Env, tx: Tx, ids: readonly string[], host: string, owner?: string): Promise<void> {
  if (ids.length === 0) return
  const ports = await tx
    .selectFrom('neutron.ports')
    .select(['id', 'network_id', 'host', 'vnic_type'])
    .where('id', 'in', [...ids])
    .orderBy('id')
    .forNoKeyUpdate()
    .execute()
  const networks = new Map((await networksFacts(tx, [...new Set(ports.map(port => port.network_id))], null)).map(n => [n.id, n]))
  for (const port of ports) {
    await tx
      .updateTable('neutron.ports')
      .set({
        ...(port.host !== host && { ...bindingOf(host, port.vnic_type, networks.get(port.network_id)!), status: 'DOWN' }),
        ...(owner !== undefined && { device_owner: owner }),
        revision_number: sql`revision_number + 1`,
        updated_at: sql`now()`,
      })
      .where('id', '=', port.id)
      .execute()
  }
  changed(env, tx, { hosts: [host, ...ports.map(port => port.host)], networks: [...networks.keys()] })
}

/** Takes a parent port's subports to the host that it has now. Does nothing where it is no parent. */
export async function trunkFollow(env: Env, tx: Tx, parentId: string, host: string): Promise<void> {
  const { rows } = await sql<{ id: string }>`
    select s.port_id as id from neutron.subports s join neutron.trunks t on t.id = s.trunk_id where t.port_id = ${parentId}`.execute(
    tx,
  )
  await subportsBind(
    env,
    tx,
    rows.map(row => row.id),
    host,
  )
}
