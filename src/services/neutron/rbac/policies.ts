import { isDuplicate, lock, type RawBuilder, sql, type Tx } from '#kit/db/index.ts'
import { badRequest, conflict, notFound } from '#kit/fault.ts'
import * as S from '#kit/http/schema.ts'
import { idField, oneOf, project, text, uuid } from '../api/attributes.ts'
import { type Making, type Removing, type Row, resource } from '../api/resource.ts'
import { insertRow, touch, updateRow } from '../api/write.ts'
import { gone, told } from '../faults.ts'
import { boundToQos, sharingUsed } from './store.ts'

interface Kind {
  table: string
  actions: readonly string[]
  missing: (id: string) => Error
  /** Whether others than the owner use the object by this sharing alone. */
  used?: (tx: Tx, row: Row, next: string) => Promise<boolean>
  /** Throws where the target would have the object but not what it stands in. */
  reaches?: (tx: Tx, id: string, target: string) => Promise<void>
}

const missing = (name: string, type: string) => (id: string) => notFound(`${name} ${id} could not be found.`, { type })

/** What the project (any, for '*') has on a network, as far as no other entry or ownership explains it. */
const networkUsed = async (tx: Tx, row: Row, next: string): Promise<boolean> => {
  const { object_id: id, target_project: target, action } = row as Record<string, string>
  const owners =
    action === 'access_as_external'
      ? sql`select r.project_id from neutron.ports p join neutron.routers r on r.id = p.device_id where p.network_id = ${id}
          and p.device_owner = 'network:router_gateway' union all select project_id from neutron.floating_ips where floating_network_id = ${id}`
      : sql`select project_id from neutron.ports where network_id = ${id} union all select project_id from neutron.subnets where network_id = ${id}`
  const { rows } = await sql`
    select from (${owners}) u where u.project_id <> '' and (${target === '*'} or u.project_id = ${target}) and ${next} not in ('*', u.project_id)
    and u.project_id <> (select project_id from neutron.networks where id = ${id})
    and not exists (select from neutron.rbac_policies o where o.object_type = 'network' and o.object_id = ${id} and o.action = ${action}
      and o.id <> ${row.id as string} and o.target_project in ('*', u.project_id)) limit 1`.execute(tx)
  return rows.length > 0
}

/** A change to another project counts as taking away, though it be the only user: so upstream has it for all but networks. */
const userOf =
  (bound: (id: string) => RawBuilder<unknown>) =>
  (tx: Tx, row: Row, next: string): Promise<boolean> => {
    const { object_type, object_id, action, target_project } = row as Record<string, string>
    return sharingUsed(
      tx,
      { type: object_type!, id: object_id!, action: action!, target: target_project! },
      bound(object_id!),
      next === '*' ? next : '',
    )
  }

/** Who is to have a subnet pool must have its address scope. */
async function scopeReached(tx: Tx, id: string, target: string): Promise<void> {
  const { rows } = await sql`
    select from neutron.subnetpools p join neutron.address_scopes s on s.id = p.address_scope_id
    where p.id = ${id} and s.project_id <> ${target} and not exists (select from neutron.rbac_policies r where r.object_type = 'address_scope'
      and r.object_id = s.id and r.action = 'access_as_shared' and r.target_project in ('*', ${target}))`.execute(tx)
  if (rows.length === 0) return
  const why = `Project ${target} has no access to the address scope of subnet pool ${id}.`
  throw badRequest(why, { type: 'InvalidInput' })
}

const KINDS: Record<string, Kind> = {
  network: {
    table: 'neutron.networks',
    actions: ['access_as_shared', 'access_as_external'],
    missing: gone.network,
    used: networkUsed,
  },
  qos_policy: {
    table: 'neutron.qos_policies',
    actions: ['access_as_shared'],
    missing: missing('QoS policy', 'QosPolicyNotFound'),
    used: userOf(boundToQos),
  },
  security_group: {
    table: 'neutron.security_groups',
    actions: ['access_as_shared'],
    missing: gone.security_group,
    used: userOf(
      id => sql`select p.project_id from neutron.port_security_groups m join neutron.ports p on p.id = m.port_id
        join neutron.security_groups g on g.id = m.security_group_id where g.id = ${id} and p.project_id <> g.project_id`,
    ),
  },
  address_scope: {
    table: 'neutron.address_scopes',
    actions: ['access_as_shared'],
    missing: missing('Address scope', 'AddressScopeNotFound'),
    used: userOf(
      id => sql`select p.project_id from neutron.subnetpools p join neutron.address_scopes s on s.id = p.address_scope_id
        where s.id = ${id} and p.project_id <> s.project_id`,
    ),
  },
  subnetpool: {
    table: 'neutron.subnetpools',
    actions: ['access_as_shared'],
    missing: missing('Subnet pool', 'SubnetPoolNotFound'),
    reaches: scopeReached,
    used: userOf(
      id => sql`select s.project_id from neutron.subnets s join neutron.subnetpools p on p.id = s.subnetpool_id
        where p.id = ${id} and s.project_id <> p.project_id`,
    ),
  },
  address_group: {
    table: 'neutron.address_groups',
    actions: ['access_as_shared'],
    missing: missing('Address group', 'AddressGroupNotFound'),
    used: userOf(
      id => sql`select r.project_id from neutron.security_group_rules r join neutron.address_groups a on a.id = r.remote_address_group_id
        where a.id = ${id} and r.project_id <> a.project_id`,
    ),
  },
}

const target = text(undefined, 255, { column: 'target_project' })

/** RBAC policies: what a project shares with another, or with all. */
export const rbacPolicies = resource({
  name: 'rbac_policy',
  plural: 'rbac_policies',
  path: '/rbac-policies',
  table: 'neutron.rbac_policies',
  standard: false,
  quota: 'rbac_policy',
  gone: id => notFound(`RBAC policy with id ${id} not found`, { type: 'RbacPolicyNotFound' }),
  attributes: {
    id: idField,
    ...project,
    object_type: oneOf(Object.keys(KINDS), { create: 'required', update: false }),
    object_id: uuid({ create: 'required', update: false }),
    action: { schema: S.String(), create: 'required', update: false },
    target_tenant: target,
    target_project: { ...target, column: 'target_project', show: true },
  },
  create: policyMake,
  async update({ tx, row, changes }) {
    const wanted = (changes.target_project ?? changes.target_tenant ?? row.target_project) as string
    if (wanted === row.target_project) return
    await unusedCheck(tx, row, wanted)
    await policyWrite(() => updateRow(rbacPolicies, tx, row.id as string, { target_tenant: wanted, target_project: wanted }))
    await follow(tx, row)
  },
  remove: policyRemove,
  view: ({ target_project: _same, ...view }) => view,
})

async function policyMake({ tx, ctx, given }: Making): Promise<string> {
  const kind = KINDS[given.object_type as string]!
  const wanted = (given.target_project ?? given.target_tenant) as string | undefined
  if (wanted === undefined || wanted === '') {
    throw badRequest("Failed to parse request. Required attribute 'target_tenant' not specified", { type: 'HTTPBadRequest' })
  }
  if (!kind.actions.includes(given.action as string)) {
    throw badRequest(
      `Invalid action '${told(given.action)}' for object type '${told(given.object_type)}'. Valid actions: ${kind.actions.join(', ')}`,
      { type: 'InvalidInput' },
    )
  }
  const { rows } = await sql<{
    project_id: string
  }>`select project_id from ${sql.table(kind.table)} where id = ${given.object_id as string}`.execute(tx)
  if (!rows[0]) throw kind.missing(given.object_id as string)
  if (rows[0].project_id !== ctx.projectId && !ctx.isAdmin) {
    // What they cannot even see is not there for them.
    if (!(await sharedWith(tx, ctx.projectId ?? '', given))) throw kind.missing(given.object_id as string)
    throw badRequest('Invalid input for operation: Only admins can manipulate policies on objects they do not own.', {
      type: 'InvalidInput',
    })
  }
  await kind.reaches?.(tx, given.object_id as string, wanted)
  const id = await policyWrite(() => insertRow(rbacPolicies, tx, { ...given, target_tenant: wanted, target_project: wanted }))
  await follow(tx, given)
  return id
}

async function sharedWith(tx: Tx, projectId: string, { object_type, object_id }: Row): Promise<boolean> {
  const row = await tx
    .selectFrom('neutron.rbac_policies')
    .select('id')
    .where('object_type', '=', object_type as string)
    .where('object_id', '=', object_id as string)
    .where('target_project', 'in', ['*', projectId])
    .limit(1)
    .executeTakeFirst()
  return row !== undefined
}

async function policyWrite<T>(write: () => Promise<T>): Promise<T> {
  try {
    return await write()
  } catch (error) {
    if (isDuplicate(error)) throw conflict('An RBAC policy already exists with those values.', { type: 'DuplicateRbacPolicy' })
    throw error
  }
}

/** What a change of a network's entries means for it: another revision; and whether it is external follows from whether it is so for anybody. */
async function follow(tx: Tx, { object_type, object_id, action }: Row): Promise<void> {
  if (object_type !== 'network') return
  await touch(tx, 'neutron.networks', [object_id as string])
  if (action !== 'access_as_external') return
  await sql`update neutron.networks n set external = exists (select from neutron.rbac_policies r where r.object_type = 'network'
    and r.object_id = n.id and r.action = 'access_as_external') where n.id = ${object_id as string}`.execute(tx)
}

/** Throws RbacPolicyInUse where somebody would lose what it uses; `next`: whom the entry reaches from now on. */
async function unusedCheck(tx: Tx, row: Row, next = ''): Promise<void> {
  await lock(tx, `neutron.rbac:${String(row.object_id)}`)
  const kind = KINDS[row.object_type as string]!
  const owner = sql<{ project_id: string }>`select project_id from ${sql.table(kind.table)} where id = ${row.object_id as string}`
  // Its owner needs no sharing.
  if ((await owner.execute(tx)).rows[0]?.project_id === row.target_project) return
  if (!(await kind.used?.(tx, row, next))) return
  const why = `RBAC policy on object ${String(row.object_id)} cannot be removed because other objects depend on it.`
  throw conflict(why, { type: 'RbacPolicyInUse' })
}

async function policyRemove({ tx, row }: Removing): Promise<void> {
  await unusedCheck(tx, row)
  await tx
    .deleteFrom('neutron.rbac_policies')
    .where('id', '=', row.id as string)
    .execute()
  await follow(tx, row)
}
