// Conntrack helpers: connections that a router reads along, since they arrange further ones (FTP's data, SIP's media) which it must translate too.
import { isDuplicate, sql } from '#kit/db/index.ts'
import { badRequest, notFound } from '#kit/fault.ts'
import * as S from '#kit/http/schema.ts'
import { idField, int, oneOf, project, shown, text } from '../api/attributes.ts'
import { PARENT_OWNER } from '../api/authorize.ts'
import { rowById } from '../api/read.ts'
import { type Changing, type Making, type Row, resource } from '../api/resource.ts'
import { insertRow, touch, updateRow } from '../api/write.ts'
import { told } from '../faults.ts'
import { changed } from '../hosts/changed.ts'
import { routers } from '../routers/routers.ts'

/** What Linux can read along, and of which protocols. */
const HELPERS: Record<string, readonly string[]> = {
  amanda: ['udp'],
  ftp: ['tcp'],
  h323: ['udp', 'tcp'],
  irc: ['tcp'],
  'netbios-ns': ['udp'],
  pptp: ['tcp'],
  sane: ['tcp'],
  sip: ['udp', 'tcp'],
  snmp: ['udp'],
  tftp: ['udp'],
}
const PROTOCOLS = ['dccp', 'icmp', 'ipv6-icmp', 'sctp', 'tcp', 'udp']

export const conntrackHelpers = resource({
  name: 'conntrack_helper',
  plural: 'conntrack_helpers',
  rule: 'router_conntrack_helper',
  path: '/routers/:router_id/conntrack_helpers',
  table: 'neutron.conntrack_helpers',
  standard: false,
  bulk: false,
  visible: null,
  gone: id => notFound(`Conntrack Helper ${id} could not be found.`, { type: 'ConntrackHelperNotFound' }),
  parent: { param: 'router_id', column: 'router_id', fetch: (db, ctx, id) => rowById(routers, db, ctx, id) },
  attributes: {
    id: idField,
    project_id: { ...project.project_id!, column: null, show: false, filter: false, sort: false },
    protocol: oneOf(PROTOCOLS, { create: 'required' }),
    port: int(1, 65535, { create: 'required' }),
    helper: text(undefined, 64, { create: 'required' }),
    router_id: shown(S.String(), { show: false, filter: false }),
  },
  columns: () => [
    sql`(select r.project_id from neutron.routers r where r.id = neutron.conntrack_helpers.router_id)`.as(PARENT_OWNER),
  ],
  create: helperMake,
  update: helperChange,
  async after({ env, tx, params }) {
    await touch(tx, 'neutron.routers', [params.router_id!])
    changed(env, tx, { routers: [params.router_id!] })
  },
})

function possible({ helper, protocol }: Row): void {
  const name = helper as string
  if (!Object.hasOwn(HELPERS, name))
    throw badRequest(`Conntrack Helper ${told(name)} is not allowed.`, { type: 'ConntrackHelperNotAllowed' })
  const protocols = HELPERS[name]!
  if (protocols.includes(protocol as string)) return
  const why = `Conntrack Helper ${name} does not support: ${String(protocol)}. Supported protocols are: ${protocols.join(', ')}`
  throw badRequest(why, { type: 'InvalidProtocolForHelper' })
}

const twice = ({ protocol, port, helper }: Row) =>
  badRequest(
    `Bad conntrack_helper request: A duplicate conntrack helper entry with same attributes already exists, conflicting values are ${JSON.stringify({ protocol, port, helper })}.`,
    { type: 'BadRequest' },
  )

async function helperMake({ tx, given, params }: Making): Promise<string> {
  possible(given)
  try {
    return await insertRow(conntrackHelpers, tx, given, { router_id: params.router_id! })
  } catch (error) {
    throw isDuplicate(error) ? twice(given) : error
  }
}

async function helperChange({ tx, row, changes }: Changing): Promise<void> {
  possible({ ...row, ...changes })
  try {
    await updateRow(conntrackHelpers, tx, row.id as string, changes)
  } catch (error) {
    throw isDuplicate(error) ? twice({ ...row, ...changes }) : error
  }
}
