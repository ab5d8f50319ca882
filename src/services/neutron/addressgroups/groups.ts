import { sql } from '#kit/db/index.ts'
import { conflict, notFound } from '#kit/fault.ts'
import { type Call, route } from '#kit/http/route.ts'
import * as S from '#kit/http/schema.ts'
import { parsePrefix, showPrefix } from '../address.ts'
import { idField, project, shown, standard, text } from '../api/attributes.ts'
import { mayDo, targetOf, visibleView } from '../api/authorize.ts'
import { rowById } from '../api/read.ts'
import { type Row, resource } from '../api/resource.ts'
import { bodyUnder, insertRow, lockedRow, updateRow } from '../api/write.ts'
import { invalid, invalidInput, told } from '../faults.ts'
import { changed } from '../hosts/changed.ts'
import { granted } from '../networks/facts.ts'
import { rbacForget } from '../rbac/store.ts'

const sharedWith = (projectId: string | null) =>
  granted('address_group', 'access_as_shared', 'neutron.address_groups.id', projectId)

/** Prefixes in their one spelling; `bare`: an address without a length is one too. */
function addressesClean(value: unknown, bare: boolean): string[] {
  if (!Array.isArray(value)) throw invalidInput('addresses', `'${JSON.stringify(value)}' is not a list`)
  return [
    ...new Set(
      value.map(item => {
        const read = bare || told(item).includes('/') ? parsePrefix(item) : undefined
        if (!read) throw invalidInput('addresses', `'${told(item)}' is not a valid IP subnet`)
        return showPrefix(read)
      }),
    ),
  ]
}

/** Address groups: named lists of prefixes for rules of security groups. */
export const addressGroups = resource({
  name: 'address_group',
  plural: 'address_groups',
  path: '/address-groups',
  table: 'neutron.address_groups',
  gone: id => notFound(`Address group ${id} could not be found.`, { type: 'AddressGroupNotFound' }),
  attributes: {
    id: idField,
    name: text('', 255),
    ...project,
    addresses: {
      schema: S.Array(S.Unknown()),
      initial: () => [],
      clean: value => addressesClean(value, false),
      update: false,
      filter: false,
      sort: false,
    },
    shared: shown(S.Boolean(), { column: null, read: (_, row) => row.shared }),
    ...standard,
  },
  columns: ctx => [sharedWith(ctx.projectId).as('shared')],
  sharedUntold: true,
  visible: ctx => sql<boolean>`(neutron.address_groups.project_id = ${ctx.projectId} or ${sharedWith(ctx.projectId)})`,
  filters: { shared: (values, ctx) => sql<boolean>`${sharedWith(ctx.projectId)} = ${S.toBoolean(values[0]) ?? false}` },
  create: ({ tx, given }) => insertRow(addressGroups, tx, given),
  async remove({ tx, row }) {
    const id = row.id as string
    const used = await tx
      .selectFrom('neutron.security_group_rules')
      .select('id')
      .where('remote_address_group_id', '=', id)
      .limit(1)
      .executeTakeFirst()
    if (used) throw conflict(`Address group ${id} is in use on one or more security group rules.`, { type: 'AddressGroupInUse' })
    await rbacForget(tx, 'address_group', id)
    await tx.deleteFrom('neutron.address_groups').where('id', '=', id).execute()
  },
})

async function change(call: Call, rule: string, after: (before: string[], given: string[]) => string[]): Promise<Row> {
  // Clients give the list at the top of the body; documents show it below the group's name.
  const { body } = call
  const isBare = typeof body === 'object' && body !== null && 'addresses' in body
  const given = addressesClean(isBare ? body.addresses : bodyUnder(call, 'address_group').addresses, true)
  return call.env.db.tx(async tx => {
    const row = await lockedRow(addressGroups, tx, call, call.params.id!)
    mayDo(call.ctx, addressGroups, targetOf(addressGroups, row), rule)
    const id = row.id as string
    await updateRow(addressGroups, tx, id, {}, { addresses: after(row.addresses as string[], given) })
    changed(call.env, tx, { sets: [id] })
    return rowById(addressGroups, tx, call.ctx, id)
  })
}

const view = (call: Call, row: Row) => ({ address_group: visibleView(call.ctx, addressGroups, row) })

export const addressGroupRoutes = [
  route({
    method: 'PUT',
    path: '/address-groups/:id/add_addresses',
    policy: null,
    handle: async call =>
      view(
        call,
        await change(call, 'add_addresses', (before, given) => {
          const there = given.filter(one => before.includes(one))
          if (there.length > 0)
            throw invalid(
              'AddressesAlreadyExist',
              `Addresses ${there.join(', ')} already exist in the address group ${call.params.id}.`,
            )
          return [...before, ...given]
        }),
      ),
  }),
  route({
    method: 'PUT',
    path: '/address-groups/:id/remove_addresses',
    policy: null,
    handle: async call =>
      view(
        call,
        await change(call, 'remove_addresses', (before, given) => {
          const missing = given.filter(one => !before.includes(one))
          if (missing.length > 0)
            throw notFound(`Addresses ${missing.join(', ')} not found in the address group ${call.params.id}.`, {
              type: 'AddressesNotFound',
            })
          return before.filter(one => !given.includes(one))
        }),
      ),
  }),
]
