import { randomUUID } from 'node:crypto'
import { isDuplicate, json, sql } from '#kit/db/index.ts'
import { conflict, forbidden, notFound } from '#kit/fault.ts'
import { type Call, route } from '#kit/http/route.ts'
import * as S from '#kit/http/schema.ts'
import { type Attribute, idField, shown } from '../api/attributes.ts'
import { PARENT_OWNER } from '../api/authorize.ts'
import { readRoutes, rowById } from '../api/read.ts'
import { type Changing, type Making, type Resource, type Row, resource } from '../api/resource.ts'
import { touch, writeRoutes } from '../api/write.ts'
import { granted } from '../networks/facts.ts'
import { DSCP, INT, KINDS, type Kind } from './kinds.ts'
import { policies, policyChanged } from './policies.ts'
import { pledgeAddable } from './request.ts'

const ruleGone = (id: string, policy = '') =>
  notFound(`QoS rule ${id} for policy ${policy} could not be found.`, { type: 'QosRuleNotFound' })

/** Values that stand in the rule's document, but for its direction, which has a column. */
const inParams = (attributes: Record<string, Attribute>): Record<string, Attribute> =>
  Object.fromEntries(
    Object.entries(attributes).map(([name, attribute]) => [
      name,
      name === 'direction'
        ? attribute
        : { ...attribute, column: null, read: (_: unknown, row: Row) => (row.params as Row)[name] },
    ]),
  )

function rulesOf(kind: Kind): Resource {
  const name = `${kind.type}_rule`
  const own = Object.keys(kind.attributes).filter(key => key !== 'direction')
  const pick = (from: Row): Row => Object.fromEntries(own.filter(key => key in from).map(key => [key, from[key]]))
  return resource({
    name,
    plural: `${name}s`,
    rule: `policy_${name}`,
    path: `/qos/policies/:policy_id/${name}s`,
    table: 'neutron.qos_rules',
    standard: false,
    bulk: false,
    visible: () => sql<boolean>`true`,
    gone: ruleGone,
    parent: { param: 'policy_id', column: 'policy_id', fetch: (db, ctx, id) => rowById(policies, db, ctx, id) },
    attributes: { id: idField, ...inParams(kind.attributes), type: shown(S.String(), { show: false }) },
    columns: ctx => [
      sql`(select p.project_id from neutron.qos_policies p where p.id = neutron.qos_rules.policy_id)`.as(PARENT_OWNER),
      granted('qos_policy', 'access_as_shared', 'neutron.qos_rules.policy_id', ctx.projectId).as('policy_shared'),
    ],
    target: row => ({ shared: row.policy_shared }),
    // A table holds all kinds.
    where: () => sql<boolean>`neutron.qos_rules.type = ${kind.type}`,
    async create({ env, tx, params, given }: Making) {
      const id = randomUUID()
      const direction = kind.ways ? (given.direction as string) : null
      if (kind.type === 'minimum_bandwidth') await pledgeAddable(tx, params.policy_id!)
      try {
        await tx
          .insertInto('neutron.qos_rules')
          .values({ id, policy_id: params.policy_id!, type: kind.type, direction, params: json(pick(given)) })
          .execute()
      } catch (error) {
        throw isDuplicate(error) ? clash(id, params.policy_id!) : error
      }
      await touched(env, tx, params.policy_id!)
      return id
    },
    async update({ env, tx, row, changes }: Changing) {
      try {
        await tx
          .updateTable('neutron.qos_rules')
          .set({
            params: json({ ...(row.params as Row), ...pick(changes) }),
            ...('direction' in changes && { direction: changes.direction as string }),
          })
          .where('id', '=', row.id as string)
          .execute()
      } catch (error) {
        throw isDuplicate(error) ? clash(row.id as string, row.policy_id as string) : error
      }
      await touched(env, tx, row.policy_id as string)
    },
    async remove({ env, tx, row }) {
      await tx
        .deleteFrom('neutron.qos_rules')
        .where('id', '=', row.id as string)
        .execute()
      await touched(env, tx, row.policy_id as string)
    },
  })
}

const clash = (id: string, policy: string) =>
  conflict(`Rule ${id} conflicts with another rule of its kind and direction in QoS Policy ${policy}.`, {
    type: 'QoSRulesConflict',
  })

async function touched(env: Making['env'], tx: Making['tx'], policy: string): Promise<void> {
  await touch(tx, 'neutron.qos_policies', [policy])
  await policyChanged(env, tx, policy)
}

export const ruleNouns: readonly Resource[] = KINDS.map(rulesOf)

/** The same rules without their policy in the path. */
function aliasOf(kind: Kind): Resource {
  const plain = rulesOf(kind)
  const { parent: _parent, ...alias } = plain
  const name = `alias_${kind.type}_rule`
  return {
    ...alias,
    name,
    plural: `${name}s`,
    rule: name,
    path: `/qos/${name}s`,
    verbs: ['show', 'update', 'delete'],
    noun: { ...plain.noun, name, plural: `${name}s` },
  }
}

const aliases = KINDS.filter(kind =>
  ['bandwidth_limit', 'dscp_marking', 'minimum_bandwidth', 'minimum_packet_rate'].includes(kind.type),
).map(aliasOf)

const named = (call: Call, type: string): boolean => !call.search.has('type') || call.search.getAll('type').includes(type)

/** What this cloud's hosts enforce, and (minimum_bandwidth) what its scheduler does. */
const ENFORCED: readonly string[] = ['bandwidth_limit', 'packet_rate_limit', 'dscp_marking', 'minimum_bandwidth']

function parameterView(kind: Kind, name: string) {
  const choices = name === 'direction' ? kind.ways : name === 'dscp_mark' ? DSCP : null
  return {
    parameter_name: name,
    parameter_type: choices ? 'choices' : 'range',
    parameter_values: choices ?? { start: 0, end: INT },
  }
}

const typeView = (kind: Kind) => ({
  type: kind.type,
  drivers: ENFORCED.includes(kind.type)
    ? [{ name: 'linuxbridge', supported_parameters: Object.keys(kind.attributes).map(name => parameterView(kind, name)) }]
    : [],
})

export const qosRoutes = [
  ...ruleNouns.flatMap(noun => [...readRoutes(noun), ...writeRoutes(noun)]),
  ...aliases.flatMap(noun => [...readRoutes(noun), ...writeRoutes(noun)]),
  route({
    method: 'GET',
    path: '/qos/rule-types',
    policy: 'get_rule_type',
    handle(call) {
      const all = S.toBoolean(call.search.get('all_rules') ?? false) === true
      return {
        rule_types: KINDS.filter(kind => named(call, kind.type) && (all || ENFORCED.includes(kind.type))).map(({ type }) => ({
          type,
        })),
      }
    },
  }),
  route({
    method: 'GET',
    path: '/qos/rule-types/:type',
    policy: 'get_rule_type',
    handle(call) {
      // What enforces it is no tenant's business; no rule says so, as upstream.
      if (!call.ctx.isAdmin) throw forbidden('Only administrators may see the drivers of a rule type.', { type: 'NotAuthorized' })
      const kind = KINDS.find(one => one.type === call.params.type)
      if (!kind) throw notFound(`QoS rule type ${call.params.type} could not be found.`, { type: 'QosRuleTypeNotFound' })
      return { rule_type: typeView(kind) }
    },
  }),
]
