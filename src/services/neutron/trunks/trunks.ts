// Trunks: a guest's port that carries others beside its own traffic, each under a VLAN tag.
import { isDuplicate, sql, type Tx } from '#kit/db/index.ts'
import { conflict, notFound } from '#kit/fault.ts'
import { type Call, route } from '#kit/http/route.ts'
import * as S from '#kit/http/schema.ts'
import { bool, idField, project, shown, standard, text, uuid, uuidClean, whole } from '../api/attributes.ts'
import { mayDo, targetOf, visibleView } from '../api/authorize.ts'
import { rowById } from '../api/read.ts'
import { type Changing, type Making, type Removing, type Row, resource } from '../api/resource.ts'
import { insertRow, lockedRow, touch, updateRow } from '../api/write.ts'
import { inUse, invalidInput, told } from '../faults.ts'
import { ports } from '../ports/ports.ts'
import { SUBPORT, subportsBind } from './follow.ts'

interface Subport {
  port_id: string
  segmentation_type: string
  segmentation_id: number
}

const SUBPORTS = sql<
  Subport[]
>`coalesce((select jsonb_agg(jsonb_build_object('port_id', s.port_id, 'segmentation_type', s.segmentation_type,
  'segmentation_id', s.segmentation_id) order by s.segmentation_id) from neutron.subports s where s.trunk_id = neutron.trunks.id), '[]')`
/** As its parent: what a guest cannot reach yet is down. */
const STATUS = sql<string>`(select case when p.status = 'ACTIVE' then 'ACTIVE' else 'DOWN' end from neutron.ports p where p.id = neutron.trunks.port_id)`

/** What a request says of a subport; `inherit` takes type and tag of the port's network. */
type Wanted = Omit<Subport, 'segmentation_id'> & { segmentation_id: number | null }

function subportsClean(value: unknown): Wanted[] {
  const bad = (why: string) => invalidInput('sub_ports', why)
  if (value === null || value === undefined) return []
  if (!Array.isArray(value)) throw bad(`'${told(value)}' is not a list`)
  const wanted = value.map(item => {
    if (typeof item !== 'object' || item === null) throw bad(`'${told(item)}' is not a valid dictionary for subports`)
    const { port_id, segmentation_type: type, segmentation_id: tag, ...rest } = item as Row
    if (Object.keys(rest).length > 0) throw bad(`Unexpected keys supplied: ${Object.keys(rest).join(', ')}`)
    if (port_id === undefined) throw bad('port_id is required')
    const id = uuidClean(port_id, 'port_id')
    if (type === 'inherit') return { port_id: id, segmentation_type: 'inherit', segmentation_id: null }
    if (type === undefined || tag === undefined) throw bad('segmentation_id and segmentation_type must both be given')
    if (type !== 'vlan') throw bad(`Unknown segmentation_type '${told(type)}'`)
    return { port_id: id, segmentation_type: 'vlan', segmentation_id: whole(tag, 'segmentation_id', 1, 4094) }
  })
  const twice = (keys: string[]) => keys.find((key, i) => keys.indexOf(key) !== i)
  const port = twice(wanted.map(one => one.port_id))
  if (port) throw bad(`Duplicate subport ${port}`)
  const tag = twice(wanted.flatMap(one => (one.segmentation_id === null ? [] : [String(one.segmentation_id)])))
  if (tag) throw bad(`Duplicate segmentation ID ${tag} of type vlan`)
  return wanted
}

/** Trunks. */
export const trunks = resource({
  name: 'trunk',
  plural: 'trunks',
  path: '/trunks',
  table: 'neutron.trunks',
  quota: 'trunk',
  gone: id => notFound(`Trunk ${id} could not be found.`, { type: 'TrunkNotFound' }),
  attributes: {
    id: idField,
    name: text('', 255),
    ...project,
    admin_state_up: bool(true),
    port_id: uuid({ create: 'required', update: false }),
    status: shown(S.String(), { column: null, read: (_, row) => row.state }),
    sub_ports: {
      schema: S.Nullable(S.Unknown()),
      initial: () => [],
      column: null,
      update: false,
      filter: false,
      sort: false,
      clean: subportsClean,
      read: (_, row) => row.subports,
    },
    ...standard,
  },
  columns: () => [SUBPORTS.as('subports'), STATUS.as('state')],
  filters: { status: values => sql<boolean>`${STATUS} in (${sql.join(values)})` },
  create: trunkMake,
  update: trunkChange,
  remove: trunkRemove,
})

const parentInUse = (id: string) =>
  conflict(`Port ${id} is currently in use and is not eligible for use as a parent port.`, { type: 'ParentPortInUse' })
const portInUse = (id: string) => conflict(`Port ${id} is in use by another trunk.`, { type: 'TrunkPortInUse' })

async function trunkMake(making: Making): Promise<string> {
  const { env, tx, ctx, given } = making
  const parentId = given.port_id as string
  const wanted = given.sub_ports as Wanted[]
  // Shown by policy to whom it belongs; locked, so that it becomes no subport of another meanwhile.
  const parent = await lockedPort(making, parentId)
  if (parent.device_owner === SUBPORT) throw portInUse(parentId)
  const { sub_ports: _own, ...columns } = given
  let id: string
  try {
    id = await insertRow(trunks, tx, columns)
  } catch (error) {
    throw isDuplicate(error, 'trunks_port') ? parentInUse(parentId) : error
  }
  await subportsAdd({ env, tx, ctx }, id, parent, wanted)
  return id
}

type Within = Pick<Making, 'env' | 'tx' | 'ctx'>

async function lockedPort({ tx, ctx }: Pick<Making, 'tx' | 'ctx'>, id: string): Promise<Row> {
  await sql`select from neutron.ports where id = ${id} for no key update`.execute(tx)
  return rowById(ports, tx, ctx, id)
}

interface Network {
  mtu: number
  network_type: string | null
  segmentation_id: number | null
}

async function networkOf(tx: Tx, id: string): Promise<Network> {
  const { rows } = await sql<Network>`select n.mtu, g.network_type, g.segmentation_id from neutron.networks n
    left join neutron.segments g on g.network_id = n.id and g.segment_index = 0 where n.id = ${id}`.execute(tx)
  return rows[0]!
}

async function subportsAdd({ env, tx, ctx }: Within, trunkId: string, parent: Row, wanted: readonly Wanted[]): Promise<void> {
  if (wanted.length === 0) return
  const { mtu } = await networkOf(tx, parent.network_id as string)
  for (const one of [...wanted].sort((a, b) => (a.port_id < b.port_id ? -1 : 1))) {
    const id = one.port_id
    if (id === parent.id) throw parentInUse(id)
    const port = await lockedPort({ tx, ctx }, id)
    const network = await networkOf(tx, port.network_id as string)
    if (network.mtu > mtu) {
      const why = `MTU ${network.mtu} of subport ${id} cannot be greater than MTU ${mtu} of trunk ${trunkId}.`
      throw conflict(why, { type: 'SubPortMtuGreaterThanTrunkPortMtu' })
    }
    if (port.device_owner === SUBPORT) throw portInUse(id)
    if (port.device_id !== '') throw conflict(`Port ${id} is in use by device ${String(port.device_id)}.`, { type: 'PortInUse' })
    const parented = await tx.selectFrom('neutron.trunks').select('id').where('port_id', '=', id).executeTakeFirst()
    if (parented) throw parentInUse(id)
    const tag = one.segmentation_id ?? network.segmentation_id
    if (one.segmentation_id === null && network.network_type !== 'vlan')
      throw invalidInput('sub_ports', `Unknown segmentation_type '${String(network.network_type)}'`)
    try {
      const values = { trunk_id: trunkId, port_id: id, segmentation_type: 'vlan', segmentation_id: tag! }
      await tx.insertInto('neutron.subports').values(values).execute()
    } catch (error) {
      if (!isDuplicate(error)) throw error
      const why = `segmentation_type vlan and segmentation_id ${tag} already in use on trunk ${trunkId}.`
      throw conflict(why, { type: 'DuplicateSubPort' })
    }
  }
  await subportsBind(
    env,
    tx,
    wanted.map(one => one.port_id),
    parent.host as string,
    SUBPORT,
  )
}

async function trunkChange({ tx, row, changes }: Changing): Promise<void> {
  await updateRow(trunks, tx, row.id as string, changes)
}

const disabled = (id: unknown) => conflict(`Trunk ${String(id)} is currently disabled.`, { type: 'TrunkDisabled' })

async function trunkRemove({ env, tx, row }: Removing): Promise<void> {
  if (row.admin_state_up !== true) throw disabled(row.id)
  const id = row.id as string
  const subports = (row.subports as Subport[]).map(one => one.port_id)
  const parent = await tx
    .selectFrom('neutron.ports')
    .select('host')
    .where('id', '=', row.port_id as string)
    .executeTakeFirst()
  if (parent && parent.host !== '' && subports.length > 0) throw inUse('TrunkInUse', `Trunk ${id} is currently in use.`)
  await tx.deleteFrom('neutron.trunks').where('id', '=', id).execute()
  await subportsBind(env, tx, subports, '', '')
}

async function change(
  call: Call,
  rule: 'add_subports' | 'remove_subports',
  write: (within: Within, row: Row, given: unknown) => Promise<void>,
): Promise<Row> {
  const body = call.body as Row | undefined
  return call.env.db.tx(async tx => {
    const row = await lockedRow(trunks, tx, call, call.params.id!)
    mayDo(call.ctx, trunks, targetOf(trunks, row), rule)
    const given = body?.sub_ports
    if (!Array.isArray(given)) throw invalidInput('sub_ports', `'${JSON.stringify(given)}' is not a list`)
    if (row.admin_state_up !== true) throw disabled(row.id)
    await write({ env: call.env, tx, ctx: call.ctx }, row, given)
    await touch(tx, 'neutron.trunks', [row.id as string])
    return visibleView(call.ctx, trunks, await rowById(trunks, tx, call.ctx, row.id as string)) ?? {}
  })
}

async function subportsDrop({ env, tx }: Within, row: Row, given: unknown): Promise<void> {
  const ids = (given as unknown[]).map(item => uuidClean((item as Row | null)?.port_id, 'port_id'))
  for (const id of ids) {
    const { numDeletedRows } = await tx
      .deleteFrom('neutron.subports')
      .where('trunk_id', '=', row.id as string)
      .where('port_id', '=', id)
      .executeTakeFirst()
    if (numDeletedRows === 0n)
      throw notFound(`SubPort ${id} on trunk ${String(row.id)} could not be found.`, { type: 'SubPortNotFound' })
  }
  await subportsBind(env, tx, ids, '', '')
}

export const trunkRoutes = [
  route({
    method: 'PUT',
    path: '/trunks/:id/add_subports',
    policy: null,
    handle: call =>
      change(call, 'add_subports', async (within, row, given) =>
        subportsAdd(within, row.id as string, await lockedPort(within, row.port_id as string), subportsClean(given)),
      ),
  }),
  route({
    method: 'PUT',
    path: '/trunks/:id/remove_subports',
    policy: null,
    handle: call => change(call, 'remove_subports', subportsDrop),
  }),
  route({
    method: 'GET',
    path: '/trunks/:id/get_subports',
    policy: null,
    async handle(call) {
      const row = await rowById(trunks, call.db, call.ctx, call.params.id!)
      mayDo(call.ctx, trunks, targetOf(trunks, row), 'get_subports')
      return { sub_ports: row.subports }
    },
  }),
]
