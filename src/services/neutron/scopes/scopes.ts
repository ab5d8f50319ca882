import { sql } from '#kit/db/index.ts'
import { badRequest, conflict, notFound } from '#kit/fault.ts'
import * as S from '#kit/http/schema.ts'
import { bool, idField, int, project, text } from '../api/attributes.ts'
import { resource } from '../api/resource.ts'
import { insertRow, updateRow } from '../api/write.ts'
import { granted } from '../networks/facts.ts'
import { rbacForget, rbacShare } from '../rbac/store.ts'

const sharedWith = (projectId: string | null) =>
  granted('address_scope', 'access_as_shared', 'neutron.address_scopes.id', projectId)

/** Address scopes. */
export const scopes = resource({
  name: 'address_scope',
  plural: 'address_scopes',
  path: '/address-scopes',
  table: 'neutron.address_scopes',
  standard: false,
  gone: id => notFound(`Address scope ${id} could not be found.`, { type: 'AddressScopeNotFound' }),
  attributes: {
    id: idField,
    name: text('', 255),
    ...project,
    shared: bool(false, { column: null, read: (_, row) => row.shared }),
    ip_version: int(4, 6, { create: 'required', update: false }),
  },
  columns: ctx => [sharedWith(ctx.projectId).as('shared')],
  visible: ctx => sql<boolean>`(neutron.address_scopes.project_id = ${ctx.projectId} or ${sharedWith(ctx.projectId)})`,
  filters: { shared: (values, ctx) => sql<boolean>`${sharedWith(ctx.projectId)} = ${S.toBoolean(values[0]) ?? false}` },
  async create({ tx, given }) {
    if (given.ip_version === 5)
      throw badRequest(`Invalid input for ip_version. Reason: '5' is not in [4, 6].`, { type: 'HTTPBadRequest' })
    const id = await insertRow(scopes, tx, given)
    if (given.shared === true) await rbacShare(tx, given.project_id as string, 'address_scope', id, 'access_as_shared')
    return id
  },
  async update({ tx, row, changes }) {
    const id = row.id as string
    if (changes.shared === true) await rbacShare(tx, row.project_id as string, 'address_scope', id, 'access_as_shared')
    if (changes.shared === false && row.shared) {
      throw badRequest(`Unable to update address scope ${id} : Shared address scope can't be unshared.`, {
        type: 'AddressScopeUpdateError',
      })
    }
    await updateRow(scopes, tx, id, changes)
  },
  async remove({ tx, row }) {
    const id = row.id as string
    const used = await tx
      .selectFrom('neutron.subnetpools')
      .select('id')
      .where('address_scope_id', '=', id)
      .limit(1)
      .executeTakeFirst()
    if (used) {
      const why = 'There are one or more subnet pools in use on the address scope.'
      throw conflict(`Unable to complete operation on address scope ${id}. ${why}`, { type: 'AddressScopeInUse' })
    }
    await rbacForget(tx, 'address_scope', id)
    await tx.deleteFrom('neutron.address_scopes').where('id', '=', id).execute()
  },
})
