import { sql, type Tx } from '#kit/db/index.ts'
import { badRequest, conflict, notFound } from '#kit/fault.ts'
import * as S from '#kit/http/schema.ts'
import {
  type Attribute,
  idField,
  nullableText,
  nullableUuid,
  oneOf,
  project,
  shown,
  standard,
  text,
  uuid,
} from '../api/attributes.ts'
import { type Making, type Row, resource } from '../api/resource.ts'
import { insertRow, touch } from '../api/write.ts'
import { gone } from '../faults.ts'
import { changed } from '../hosts/changed.ts'
import { granted } from '../networks/facts.ts'
import { ethertypeClean, normalized, portClean, protocolClean, type RuleGiven, remoteClean, ruleCheck } from './check.ts'
import { usableGroups } from './store.ts'

const port: Attribute = {
  schema: S.Unsafe<number>({ type: ['integer', 'string', 'null'] }),
  clean: portClean,
  initial: null,
  nullable: true,
  parse: value => (/^\d+$/.test(value) ? Number(value) : undefined),
}

/** What rules of groups and templates of rules have in common. */
export const ruleAttributes: Record<string, Attribute> = {
  direction: oneOf(['ingress', 'egress'], { create: 'required' }),
  ethertype: { schema: S.Nullable(S.String()), clean: value => ethertypeClean(value ?? 'IPv4'), initial: 'IPv4' },
  port_range_min: port,
  port_range_max: port,
  protocol: {
    schema: S.Unsafe<string>({ type: ['integer', 'string', 'null'] }),
    clean: protocolClean,
    initial: null,
    nullable: true,
    parse: value => value.toLowerCase(),
  },
  remote_ip_prefix: nullableText(255, { clean: remoteClean }),
  remote_address_group_id: nullableUuid(),
}

const owner = sql`(select g.project_id from neutron.security_groups g where g.id = neutron.security_group_rules.security_group_id)`
const BELONGS = sql<boolean>`(select g.is_default from neutron.security_groups g where g.id = neutron.security_group_rules.security_group_id)`

/** Rules of security groups. They are made and removed, never changed. */
export const rules = resource({
  name: 'security_group_rule',
  plural: 'security_group_rules',
  path: '/security-group-rules',
  table: 'neutron.security_group_rules',
  gone: id => notFound(`Security group rule ${id} does not exist`, { type: 'SecurityGroupRuleNotFound' }),
  quota: 'security_group_rule',
  verbs: ['list', 'show', 'create', 'delete'],
  attributes: {
    id: idField,
    ...project,
    security_group_id: uuid({ create: 'required' }),
    ...ruleAttributes,
    // Whatever it names: what is not there is not found, spelt well or not.
    remote_group_id: nullableText(255, { clean: value => (value === '' ? null : value) }),
    ...standard,
    normalized_cidr: shown(S.Nullable(S.String()), {
      column: null,
      read: (_, row) => normalized(row.remote_ip_prefix as string | null),
    }),
    belongs_to_default_sg: shown(S.Boolean(), { column: null, read: (_, row) => row.belongs }),
    description: text('', 255),
  },
  columns: () => [owner.as('group_owner'), BELONGS.as('belongs')],
  visible: ctx => sql<boolean>`(neutron.security_group_rules.project_id = ${ctx.projectId} or ${owner} = ${ctx.projectId}
    or ${granted('security_group', 'access_as_shared', 'neutron.security_group_rules.security_group_id', ctx.projectId)})`,
  filters: {
    belongs_to_default_sg: values => sql<boolean>`${BELONGS} = ${S.toBoolean(values[0]) ?? false}`,
  },
  target: row => ({ 'security_group:project_id': row.group_owner }),
  makingTarget: async making => ({ 'security_group:project_id': (await groupFor(making)).project_id }),
  async begin(makings) {
    const groups = new Set(makings.map(making => making.given.security_group_id as string))
    if (groups.size > 1) {
      throw badRequest('Only allowed to update rules for one security profile at a time', {
        type: 'SecurityGroupNotSingleGroupRules',
      })
    }
  },
  create: ruleMake,
  after: ({ env, tx }, _id, _verb, row) => {
    const group = row.security_group_id as string
    // A remote group is a set of addresses that hosts may not have yet.
    changed(env, tx, { rules: [group] })
    return touch(tx, 'neutron.security_groups', [group])
  },
})

/** The group of a new rule, locked: rules of one group are looked at one request after the other. Throws SecurityGroupNotFound. */
async function groupFor({ tx, ctx, given }: Making): Promise<{ id: string; project_id: string }> {
  const id = given.security_group_id as string
  const row = await tx
    .selectFrom('neutron.security_groups')
    .select(['id', 'project_id'])
    .where('id', '=', id)
    .forNoKeyUpdate()
    .executeTakeFirst()
  if (!row || !(await usableGroups(tx, [id], ctx.projectId ?? '', ctx.isAdmin)).has(id)) throw gone.security_group(id)
  return row
}

async function ruleMake({ tx, ctx, given }: Making): Promise<string> {
  const rule = ruleCheck(given as unknown as RuleGiven)
  if (rule.remote_group_id !== null) {
    const usable = await usableGroups(tx, [rule.remote_group_id], ctx.projectId ?? '', ctx.isAdmin)
    if (!usable.has(rule.remote_group_id)) throw gone.security_group(rule.remote_group_id)
  }
  if (rule.remote_address_group_id !== null) await addressGroupFor(tx, rule.remote_address_group_id)
  await duplicateCheck(tx, given.security_group_id as string, rule)
  return insertRow(rules, tx, { ...given, ...rule } as Row)
}

async function addressGroupFor(tx: Tx, id: string): Promise<void> {
  const row = await tx.selectFrom('neutron.address_groups').select('id').where('id', '=', id).executeTakeFirst()
  if (!row) throw notFound(`Address group ${id} could not be found.`, { type: 'AddressGroupNotFound' })
}

const COMPARED = [
  'direction',
  'ethertype',
  'protocol',
  'port_range_min',
  'port_range_max',
  'remote_ip_prefix',
  'remote_group_id',
  'remote_address_group_id',
] as const

/** That a row says the same as this rule. */
const sameRule = (rule: RuleGiven) =>
  sql.join(
    COMPARED.map(column => sql`${sql.ref(column)} is not distinct from ${rule[column]}`),
    sql` and `,
  )

async function duplicateCheck(tx: Tx, groupId: string, rule: RuleGiven): Promise<void> {
  const { rows } = await sql<{ id: string }>`
    select id from neutron.security_group_rules where security_group_id = ${groupId} and ${sameRule(rule)} limit 1`.execute(tx)
  if (rows[0])
    throw conflict(`Security group rule already exists. Rule id is ${rows[0].id}.`, { type: 'SecurityGroupRuleExists' })
}

/** Templates out of which a new group's rules are made. */
export const templates = resource({
  name: 'default_security_group_rule',
  plural: 'default_security_group_rules',
  path: '/default-security-group-rules',
  table: 'neutron.default_security_group_rules',
  gone: id => notFound(`Default security group rule ${id} does not exist`, { type: 'DefaultSecurityGroupRuleNotFound' }),
  verbs: ['list', 'show', 'create', 'delete'],
  visible: null,
  attributes: {
    id: idField,
    ...ruleAttributes,
    remote_group_id: nullableText(36),
    ...standard,
    used_in_default_sg: { schema: S.LooseBoolean(), initial: false, clean: value => S.toBoolean(value) },
    used_in_non_default_sg: { schema: S.LooseBoolean(), initial: true, clean: value => S.toBoolean(value) },
  },
  async create({ tx, given }) {
    const rule = ruleCheck(given as unknown as RuleGiven)
    const { rows } = await sql<{ id: string }>`
      select id from neutron.default_security_group_rules where ${sameRule(rule)} limit 1`.execute(tx)
    if (rows[0])
      throw conflict(`Default security group rule already exists. Rule id is ${rows[0].id}.`, {
        type: 'DefaultSecurityGroupRuleExists',
      })
    return insertRow(templates, tx, { ...given, ...rule } as Row)
  },
})
