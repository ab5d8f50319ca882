import { isDuplicate, isReferenced, sql, type Tx } from '#kit/db/index.ts'
import { conflict } from '#kit/fault.ts'
import * as S from '#kit/http/schema.ts'
import { bool, idField, project, shown, standard, text } from '../api/attributes.ts'
import { type Changing, type Making, type Removing, type Row, resource } from '../api/resource.ts'
import { insertRow, updateRow } from '../api/write.ts'
import { changed } from '../hosts/changed.ts'
import { granted } from '../networks/facts.ts'
import { boundToQos, rbacForget, rbacShare, rbacUnshare, sharingUsed } from '../rbac/store.ts'
import { policyGone } from './facts.ts'

const sharedWith = (projectId: string | null) => granted('qos_policy', 'access_as_shared', 'neutron.qos_policies.id', projectId)

/** QoS policies. */
export const policies = resource({
  name: 'policy',
  plural: 'policies',
  path: '/qos/policies',
  table: 'neutron.qos_policies',
  gone: policyGone,
  attributes: {
    id: idField,
    name: text(undefined, 255, { create: 'required' }),
    ...project,
    shared: bool(false, { column: null, read: (_, row) => row.shared }),
    is_default: bool(false),
    rules: shown(S.Array(S.Unknown()), {
      column: null,
      read: (_, row) => (row.rules as Row[]).map(({ params, ...rule }) => ({ ...(params as Row), ...rule })),
    }),
    ...standard,
  },
  columns: ctx => [
    sharedWith(ctx.projectId).as('shared'),
    sql<
      Row[]
    >`coalesce((select jsonb_agg(jsonb_strip_nulls(jsonb_build_object('id', r.id, 'qos_policy_id', r.policy_id, 'type', r.type,
      'direction', r.direction, 'params', r.params)) order by r.created_at, r.id)
      from neutron.qos_rules r where r.policy_id = neutron.qos_policies.id), '[]')`.as('rules'),
  ],
  visible: ctx => sql<boolean>`(neutron.qos_policies.project_id = ${ctx.projectId} or ${sharedWith(ctx.projectId)})`,
  filters: { shared: (values, ctx) => sql<boolean>`${sharedWith(ctx.projectId)} = ${S.toBoolean(values[0]) ?? false}` },
  create: policyMake,
  update: policyChange,
  remove: policyRemove,
})

const defaultThere = (projectId: string) =>
  conflict(`A default QoS policy exists for project ${projectId}.`, { type: 'QoSPolicyDefaultAlreadyExists' })

async function policyMake({ tx, given }: Making): Promise<string> {
  const owner = given.project_id as string
  try {
    const id = await insertRow(policies, tx, given)
    if (given.shared === true) await rbacShare(tx, owner, 'qos_policy', id, 'access_as_shared')
    return id
  } catch (error) {
    throw isDuplicate(error, 'qos_policies_default') ? defaultThere(owner) : error
  }
}

async function policyChange({ tx, row, changes }: Changing): Promise<void> {
  const id = row.id as string
  if (changes.shared === true) await rbacShare(tx, row.project_id as string, 'qos_policy', id, 'access_as_shared')
  if (changes.shared === false) {
    await unshareCheck(tx, id)
    await rbacUnshare(tx, 'qos_policy', id, 'access_as_shared')
  }
  try {
    await updateRow(policies, tx, id, changes)
  } catch (error) {
    throw isDuplicate(error, 'qos_policies_default') ? defaultThere(row.project_id as string) : error
  }
}

async function unshareCheck(tx: Tx, id: string): Promise<void> {
  if (!(await sharingUsed(tx, { type: 'qos_policy', id, action: 'access_as_shared', target: '*' }, boundToQos(id)))) return
  throw conflict(`RBAC policy on object ${id} cannot be removed because other objects depend on it.`, { type: 'RbacPolicyInUse' })
}

async function policyRemove({ tx, row }: Removing): Promise<void> {
  const id = row.id as string
  await rbacForget(tx, 'qos_policy', id)
  const { rows } = await sql<{ kind: string; id: string }>`
    select 'network' as kind, id from neutron.networks where qos_policy_id = ${id}
    union all select 'port', id from neutron.ports where qos_policy_id = ${id}
    union all select 'floatingip', id from neutron.floating_ips where qos_policy_id = ${id}
    union all select 'router', id from neutron.routers where gateway_qos_policy_id = ${id} limit 1`.execute(tx)
  const inUse = (by: string) => conflict(`QoS Policy ${id} is used by ${by}.`, { type: 'QosPolicyInUse' })
  if (rows[0]) throw inUse(`${rows[0].kind} ${rows[0].id}`)
  try {
    await tx.deleteFrom('neutron.qos_policies').where('id', '=', id).execute()
  } catch (error) {
    throw isReferenced(error) ? inUse('something that was made just now') : error
  }
}

/** Tells hosts whose ports or routers follow a policy that it changed. */
export async function policyChanged(env: Parameters<typeof changed>[0], tx: Tx, id: string): Promise<void> {
  const { rows } = await sql<{ host: string }>`
    select distinct p.host from neutron.ports p join neutron.networks n on n.id = p.network_id
    where (p.qos_policy_id = ${id} or (p.qos_policy_id is null and n.qos_policy_id = ${id})) and p.host <> ''
    union select b.host from neutron.router_bindings b join neutron.routers r on r.id = b.router_id where r.gateway_qos_policy_id = ${id}
    union select b.host from neutron.router_bindings b join neutron.floating_ips f on f.router_id = b.router_id where f.qos_policy_id = ${id}`.execute(
    tx,
  )
  // A router's leg on a network that follows the policy is among the ports.
  changed(env, tx, { hosts: rows.map(row => row.host) })
}
