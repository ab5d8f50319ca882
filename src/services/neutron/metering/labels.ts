// Metering: labels under which the routers of a project (of all, for a shared label) count what goes out and comes in, and what each counts.
import { sql, type Tx } from '#kit/db/index.ts'
import { badRequest, conflict, notFound } from '#kit/fault.ts'
import type { Env } from '#kit/service.ts'
import { overlap, parsePrefix } from '../address.ts'
import { type Attribute, bool, idField, oneOf, prefixClean, project, text, uuid } from '../api/attributes.ts'
import { type Making, resource } from '../api/resource.ts'
import { insertRow } from '../api/write.ts'
import { changed } from '../hosts/changed.ts'

const labelGone = (id: string) => notFound(`Metering label ${id} does not exist`, { type: 'MeteringLabelNotFound' })

/** Labels are made and removed, and not changed: what was counted under one stays what it was. */
export const meteringLabels = resource({
  name: 'metering_label',
  plural: 'metering_labels',
  path: '/metering/metering-labels',
  table: 'neutron.metering_labels',
  standard: false,
  verbs: ['list', 'show', 'create', 'delete'],
  gone: labelGone,
  attributes: {
    id: idField,
    name: text('', 255, { update: false }),
    description: text('', 1024, { update: false }),
    ...project,
    shared: bool(false, { update: false }),
  },
  // Before it goes: the routers are its project's.
  after: ({ env, tx }, _id, _verb, row) => countersChanged(env, tx, row as unknown as Label),
})

interface Label {
  project_id: string
  shared: boolean
}

/** Tells the hosts of the routers that count under a label. */
async function countersChanged(env: Env, tx: Tx, { project_id, shared }: Label): Promise<void> {
  const { rows } = await sql<{ host: string }>`
    select distinct b.host from neutron.router_bindings b join neutron.routers r on r.id = b.router_id
    where ${shared} or r.project_id = ${project_id}`.execute(tx)
  changed(env, tx, { hosts: rows.map(row => row.host) })
}

const prefix: Attribute = {
  schema: text(undefined).schema,
  initial: null,
  nullable: true,
  update: false,
  clean: (value, name) => (value === null ? null : prefixClean(value, name)),
}
const PREFIXES = ['remote_ip_prefix', 'source_ip_prefix', 'destination_ip_prefix']
const labelProject = sql<string>`(select l.project_id from neutron.metering_labels l where l.id = neutron.metering_label_rules.metering_label_id)`

export const meteringRules = resource({
  name: 'metering_label_rule',
  plural: 'metering_label_rules',
  path: '/metering/metering-label-rules',
  table: 'neutron.metering_label_rules',
  standard: false,
  verbs: ['list', 'show', 'create', 'delete'],
  gone: id => notFound(`Metering label rule ${id} does not exist`, { type: 'MeteringLabelRuleNotFound' }),
  attributes: {
    id: idField,
    metering_label_id: uuid({ create: 'required', update: false }),
    direction: oneOf(['ingress', 'egress'], { create: 'required', update: false }),
    excluded: bool(false, { update: false }),
    ...Object.fromEntries(PREFIXES.map(name => [name, prefix])),
  },
  columns: () => [labelProject.as('label_project')],
  visible: ctx => sql<boolean>`${labelProject} = ${ctx.projectId}`,
  target: row => ({ project_id: row.label_project, tenant_id: row.label_project }),
  makingTarget: async ({ tx, given }) => {
    const { project_id } = await labelOf(tx, given.metering_label_id as string)
    return { project_id, tenant_id: project_id }
  },
  create: ruleMake,
  after: async ({ env, tx }, _id, _verb, row) => countersChanged(env, tx, await labelOf(tx, row.metering_label_id as string)),
})

async function labelOf(tx: Tx, id: string) {
  const row = await tx.selectFrom('neutron.metering_labels').selectAll().where('id', '=', id).executeTakeFirst()
  if (!row) throw labelGone(id)
  return row
}

async function ruleMake({ tx, given }: Making): Promise<string> {
  const said = PREFIXES.filter(name => given[name] !== null)
  if (said.length === 0) throw badRequest(`One of ${PREFIXES.join(', ')} must be given.`, { type: 'BadRequest' })
  if (given.remote_ip_prefix !== null && said.length > 1) {
    const why = 'remote_ip_prefix cannot be given together with source_ip_prefix or destination_ip_prefix.'
    throw badRequest(why, { type: 'BadRequest' })
  }
  await tx
    .selectFrom('neutron.metering_labels')
    .select('id')
    .where('id', '=', given.metering_label_id as string)
    .forUpdate()
    .execute()
  const others = await tx
    .selectFrom('neutron.metering_label_rules')
    .select('remote_ip_prefix')
    .where('metering_label_id', '=', given.metering_label_id as string)
    .where('direction', '=', given.direction as string)
    .where('excluded', '=', given.excluded as boolean)
    .where('remote_ip_prefix', 'is not', null)
    .execute()
  const own = given.remote_ip_prefix === null ? undefined : parsePrefix(given.remote_ip_prefix)
  if (own && others.some(other => overlap(parsePrefix(other.remote_ip_prefix)!, own))) {
    const why = `Metering label rule with remote_ip_prefix '${String(given.remote_ip_prefix)}' overlaps another`
    throw conflict(why, { type: 'MeteringLabelRuleOverlaps' })
  }
  return insertRow(meteringRules, tx, given)
}
