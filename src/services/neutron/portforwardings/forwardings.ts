import { sql, type Tx } from '#kit/db/index.ts'
import { badRequest, conflict, notFound } from '#kit/fault.ts'
import * as S from '#kit/http/schema.ts'
import { address, idField, int, oneOf, shown, standard, text, uuid } from '../api/attributes.ts'
import { PARENT_OWNER } from '../api/authorize.ts'
import { rowById } from '../api/read.ts'
import { type Changing, type Making, type Removing, type Row, resource, type Writing } from '../api/resource.ts'
import { insertRow, updateRow } from '../api/write.ts'
import { invalidInput, told } from '../faults.ts'
import { routerFor } from '../floatingips/associate.ts'
import { floatingips } from '../floatingips/floatingips.ts'
import { changed } from '../hosts/changed.ts'
import { ports } from '../ports/ports.ts'

const RANGE = /^(\d{1,5})(?::(\d{1,5}))?$/

function rangeClean(value: unknown, name: string): [number, number] {
  const read = RANGE.exec(String(value))
  const [first, last] = read ? [Number(read[1]), Number(read[2] ?? read[1])] : [0, 0]
  if (first < 1 || last > 65535 || first > last) throw invalidInput(name, `'${told(value)}' is not a valid range of ports`)
  return [first, last]
}

const single = (side: 'external' | 'internal') =>
  int(1, 65535, {
    column: null,
    nullable: true,
    read: (_, row) => (row[`${side}_first`] === row[`${side}_last`] ? row[`${side}_first`] : null),
  })
const range = (side: 'external' | 'internal') => ({
  schema: S.String(),
  column: null,
  clean: rangeClean,
  read: (_: unknown, row: Row) => `${String(row[`${side}_first`])}:${String(row[`${side}_last`])}`,
})

/** Port forwardings: ports of a floating IP that lead to a port's. */
export const forwardings = resource({
  name: 'port_forwarding',
  plural: 'port_forwardings',
  rule: 'floatingip_port_forwarding',
  path: '/floatingips/:floatingip_id/port_forwardings',
  table: 'neutron.port_forwardings',
  standard: false,
  visible: null,
  bulk: false,
  gone: id => notFound(`Port Forwarding ${id} could not be found.`, { type: 'PortForwardingNotFound' }),
  parent: {
    param: 'floatingip_id',
    column: 'floatingip_id',
    fetch: (db, ctx, id) => rowById(floatingips, db, ctx, id),
  },
  attributes: {
    id: idField,
    external_port: single('external'),
    internal_port: single('internal'),
    external_port_range: range('external'),
    internal_port_range: range('internal'),
    internal_ip_address: address({ nullable: true }),
    protocol: oneOf(['tcp', 'udp'], { create: 'required' }),
    internal_port_id: uuid({ create: 'required' }),
    description: text('', 255),
    floatingip_id: shown(S.String(), { show: false }),
    revision_number: { ...standard.revision_number!, show: false },
  },
  columns: () => [
    sql`(select f.project_id from neutron.floating_ips f where f.id = neutron.port_forwardings.floatingip_id)`.as(PARENT_OWNER),
  ],
  filters: {
    external_port: values => sql<boolean>`external_first::text in (${sql.join(values)})`,
    internal_port: values => sql<boolean>`internal_first::text in (${sql.join(values)})`,
  },
  create: forwardingMake,
  update: forwardingChange,
  remove: forwardingRemove,
})

const bad = (why: string) => badRequest(why, { type: 'BadRequest' })

/** The ranges of a forwarding after what was given, on both sides; as long as each other, or the inner one a single port. */
function rangesOf(given: Row, before?: Row) {
  const side = (name: 'external' | 'internal'): [number, number] => {
    const [port, ports] = [
      given[`${name}_port`] as number | undefined,
      given[`${name}_port_range`] as [number, number] | undefined,
    ]
    if (port != null && ports) throw bad(`The ${name}_port and ${name}_port_range cannot both be given`)
    if (ports) return ports
    if (port != null) return [port, port]
    if (before) return [before[`${name}_first`] as number, before[`${name}_last`] as number]
    throw bad(`The ${name}_port or ${name}_port_range is required`)
  }
  const [external, internal] = [side('external'), side('internal')]
  const length = (one: [number, number]): number => one[1] - one[0]
  if (length(external) !== length(internal) && length(internal) !== 0)
    throw bad('The ranges of external and internal ports differ in length')
  return { external_first: external[0], external_last: external[1], internal_first: internal[0], internal_last: internal[1] }
}

/** The router that does it, and the address that it leads to. */
async function target({ tx, ctx }: Writing, floating: Row, portId: string, wanted: string | null) {
  const port = await rowById(ports, tx, ctx, portId)
  const fixed = (port.fixed as { subnet_id: string; ip_address: string }[]).filter(ip => !ip.ip_address.includes(':'))
  const found = wanted === null ? fixed[0] : fixed.find(ip => ip.ip_address === wanted)
  if (!found)
    throw bad(wanted === null ? `Port ${portId} has no fixed IPv4 address` : `Port ${portId} does not have fixed ip ${wanted}`)
  const router = await routerFor(tx, found.subnet_id, floating.floating_network_id as string, portId)
  if (floating.router_id !== null && floating.router_id !== router) {
    throw bad(`The floating IP is served by another router than that of port ${portId}`)
  }
  return { internal_ip_address: found.ip_address, router }
}

/** The floating IP, locked: its forwardings are looked at one request after the other. */
async function floatingLock({ tx, ctx, params }: Writing): Promise<Row> {
  await sql`select from neutron.floating_ips where id = ${params.floatingip_id!} for no key update`.execute(tx)
  return rowById(floatingips, tx, ctx, params.floatingip_id!)
}

async function overlapCheck(
  tx: Tx,
  floatingId: string,
  protocol: string,
  ranges: ReturnType<typeof rangesOf>,
  inner: Row,
  self = '',
): Promise<void> {
  const { rows } = await sql<{ outer: boolean }>`
    select (external_first <= ${ranges.external_last} and external_last >= ${ranges.external_first}) as outer from neutron.port_forwardings
    where floatingip_id = ${floatingId} and protocol = ${protocol} and id <> ${self}
      and ((external_first <= ${ranges.external_last} and external_last >= ${ranges.external_first})
        or (internal_port_id = ${inner.internal_port_id as string} and internal_ip_address = ${inner.internal_ip_address as string}::inet
          and internal_first <= ${ranges.internal_last} and internal_last >= ${ranges.internal_first})) limit 1`.execute(tx)
  if (rows.length === 0) return
  const side = rows[0]!.outer ? 'external' : 'internal'
  throw badRequest(`Bad port_forwarding request: A duplicate port forwarding entry with the same ${side} ports already exists.`, {
    type: 'BadRequest',
  })
}

async function forwardingMake(making: Making): Promise<string> {
  const { env, tx, given } = making
  const floating = await floatingLock(making)
  if (floating.port_id !== null) {
    throw conflict(`Floating IP ${String(floating.id)} in use by port ${String(floating.port_id)}`, { type: 'FipInUse' })
  }
  const portId = given.internal_port_id as string
  const { internal_ip_address, router } = await target(
    making,
    floating,
    portId,
    (given.internal_ip_address as string | undefined) ?? null,
  )
  const ranges = rangesOf(given)
  await portFree(tx, portId, internal_ip_address)
  await overlapCheck(tx, floating.id as string, given.protocol as string, ranges, {
    internal_port_id: portId,
    internal_ip_address,
  })
  const id = await insertRow(forwardings, tx, { ...given, internal_ip_address }, { floatingip_id: floating.id, ...ranges })
  await tx
    .updateTable('neutron.floating_ips')
    .set({ router_id: router, revision_number: sql`revision_number + 1` })
    .where('id', '=', floating.id as string)
    .execute()
  changed(env, tx, { routers: [router] })
  return id
}

/** Throws where the fixed address has a floating IP of its own. */
async function portFree(tx: Tx, portId: string, ip: string): Promise<void> {
  const other = await tx
    .selectFrom('neutron.floating_ips')
    .select('id')
    .where('port_id', '=', portId)
    .where(sql<boolean>`fixed_ip_address = ${ip}::inet`)
    .executeTakeFirst()
  if (other) throw conflict(`Port ${portId} has floating IP ${other.id} already.`, { type: 'PortHasBindingFloatingIP' })
}

async function forwardingChange(changing: Changing): Promise<void> {
  const { env, tx, row, changes } = changing
  const floating = await floatingLock(changing)
  const portId = (changes.internal_port_id as string | undefined) ?? (row.internal_port_id as string)
  const ip =
    'internal_ip_address' in changes
      ? (changes.internal_ip_address as string | null)
      : portId === row.internal_port_id
        ? (row.internal_ip_address as string).replace(/\/\d+$/, '')
        : null
  const { internal_ip_address } = await target(changing, floating, portId, ip)
  const ranges = rangesOf(changes, row)
  const protocol = (changes.protocol as string | undefined) ?? (row.protocol as string)
  await overlapCheck(
    tx,
    floating.id as string,
    protocol,
    ranges,
    { internal_port_id: portId, internal_ip_address },
    row.id as string,
  )
  await updateRow(forwardings, tx, row.id as string, { ...changes, internal_ip_address }, ranges)
  if (floating.router_id) changed(env, tx, { routers: [floating.router_id as string] })
}

async function forwardingRemove(removing: Removing): Promise<void> {
  const { env, tx, row } = removing
  const floating = await floatingLock(removing)
  await tx
    .deleteFrom('neutron.port_forwardings')
    .where('id', '=', row.id as string)
    .execute()
  const left = await tx
    .selectFrom('neutron.port_forwardings')
    .select('id')
    .where('floatingip_id', '=', floating.id as string)
    .limit(1)
    .executeTakeFirst()
  if (!left)
    await tx
      .updateTable('neutron.floating_ips')
      .set({ router_id: null })
      .where('id', '=', floating.id as string)
      .execute()
  if (floating.router_id) changed(env, tx, { routers: [floating.router_id as string] })
}
