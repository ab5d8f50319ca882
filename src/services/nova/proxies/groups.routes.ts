/** Security groups as they were asked of Nova until 2.35, and those of a server, which are asked so to this day: Neutron answers. */
import { badRequest, Fault, forbidden, notFound } from '#kit/fault.ts'
import { type Call, type Route, route } from '#kit/http/route.ts'
import * as S from '#kit/http/schema.ts'
import { query, TEXT } from '../fields.ts'
import { neighbours } from '../neighbours.ts'
import { serverTarget } from '../servers/routes.ts'
import { V } from '../versions.ts'
import { ask, cidrOf } from './networks.routes.ts'

const until = V.noProxies - 1

interface Rule {
  id: string
  direction: string
  protocol: string | null
  port_range_min: number | null
  port_range_max: number | null
  remote_ip_prefix: string | null
  remote_group_id: string | null
  security_group_id: string
  ethertype: string
}

interface Group {
  id: string
  name: string
  description: string
  project_id: string
  security_group_rules: Rule[]
}

type Owner = { name: string; tenant_id: string }

const UUID = /^[0-9a-f]{8}-?([0-9a-f]{4}-?){3}[0-9a-f]{12}$/i
function idOf(id: string): string {
  if (!UUID.test(id)) throw badRequest('Security group id should be uuid')
  return id
}

/** The group, as the caller sees it. */
async function groupOf(call: Call, id: string): Promise<Group> {
  const { security_groups } = await ask<{ security_groups: Group[] }>(
    call,
    'GET',
    `/security-groups?id=${encodeURIComponent(id)}`,
  )
  if (!security_groups[0]) throw notFound(`Security group ${id} not found.`)
  return security_groups[0]
}

/** From and to as Nova says them: all ports of a protocol that has some, -1 for one that has none. */
function portsOf({ protocol, port_range_min: min, port_range_max: max }: Rule): {
  from_port: number | null
  to_port: number | null
} {
  if (protocol === null || min !== null || max !== null) return { from_port: min, to_port: max }
  return ['tcp', 'udp'].includes(protocol.toLowerCase()) ? { from_port: 1, to_port: 65_535 } : { from_port: -1, to_port: -1 }
}

const ruleShown = (rule: Rule, source: Owner | null) => ({
  id: rule.id,
  parent_group_id: rule.security_group_id,
  ip_protocol: rule.protocol,
  ...portsOf(rule),
  group: source ?? {},
  ip_range: source ? {} : { cidr: rule.remote_ip_prefix ?? '0.0.0.0/0' },
})

/** Groups with their rules for what comes in. Rules for members of a group that is gone are left out. */
async function groupsShown(call: Call, groups: Group[]): Promise<object[]> {
  const owners = new Map<string, Owner>(groups.map(({ id, name, project_id }) => [id, { name, tenant_id: project_id }]))
  const remote = groups.flatMap(group => group.security_group_rules.flatMap(rule => rule.remote_group_id ?? []))
  const unknown = [...new Set(remote)].filter(id => !owners.has(id))
  if (unknown.length > 0) {
    const path = `/security-groups?${unknown.map(id => `id=${id}`).join('&')}`
    for (const group of (await ask<{ security_groups: Group[] }>(call, 'GET', path)).security_groups)
      owners.set(group.id, { name: group.name, tenant_id: group.project_id })
  }
  const shown = groups.map(group => ({
    id: group.id,
    name: group.name,
    description: group.description,
    tenant_id: group.project_id,
    rules: group.security_group_rules
      .filter(rule => rule.direction === 'ingress' && (rule.remote_group_id === null || owners.has(rule.remote_group_id)))
      .map(rule => ruleShown(rule, rule.remote_group_id === null ? null : owners.get(rule.remote_group_id)!)),
  }))
  return shown.sort((a, b) => (a.tenant_id + a.name < b.tenant_id + b.name ? -1 : 1))
}

/** Neutron's conflicts are mistakes of the request here, its quota a refusal. */
async function asNova<T>(asked: Promise<T>): Promise<T> {
  try {
    return await asked
  } catch (error) {
    if (!(error instanceof Fault)) throw error
    if (error.kind === 'overQuota' || error.details.type === 'OverQuota') throw forbidden(error.message, { cause: error })
    if (error.kind === 'conflict') throw badRequest(error.message, { cause: error })
    throw error
  }
}

const groupBody = S.Object({
  security_group: S.Object({ name: S.String({ maxLength: 255 }), description: S.String({ maxLength: 255 }) }),
})

/** Text that is more than white space, as Nova always wanted. */
function named(field: string, text: string): string {
  if (text.trim() === '') throw badRequest(`Security group ${field} cannot be empty`)
  return text
}

const groupRoutes: Route[] = [
  route({
    method: 'GET',
    path: '/os-security-groups',
    until,
    policy: 'os_compute_api:os-security-groups:get',
    query: query({ limit: TEXT, offset: TEXT, all_tenants: TEXT }, Infinity),
    async handle(call) {
      const { ctx, search } = call
      const all = ctx.isAdmin && search.has('all_tenants')
      const path = `/security-groups${all ? '' : `?project_id=${ctx.projectId}`}`
      const { security_groups } = await ask<{ security_groups: Group[] }>(call, 'GET', path)
      const shown = await groupsShown(call, security_groups)
      const number = (name: string, otherwise: number): number => {
        const text = search.get(name)
        if (text !== null && !/^\d+$/.test(text)) throw badRequest(`${name} param must be an integer`)
        return text === null ? otherwise : Number(text)
      }
      const offset = number('offset', 0)
      return { security_groups: shown.slice(offset, offset + number('limit', shown.length)) }
    },
  }),
  route({
    method: 'POST',
    path: '/os-security-groups',
    until,
    policy: 'os_compute_api:os-security-groups:create',
    body: groupBody,
    async handle(call) {
      const { name, description } = call.body.security_group
      const made = ask<{ security_group: Group }>(call, 'POST', '/security-groups', {
        security_group: { name: named('name', name), description },
      })
      return { security_group: (await groupsShown(call, [(await asNova(made)).security_group]))[0] }
    },
  }),
  route({
    method: 'GET',
    path: '/os-security-groups/:id',
    until,
    policy: 'os_compute_api:os-security-groups:show',
    handle: async call => ({ security_group: (await groupsShown(call, [await groupOf(call, idOf(call.params.id!))]))[0] }),
  }),
  route({
    method: 'PUT',
    path: '/os-security-groups/:id',
    until,
    policy: 'os_compute_api:os-security-groups:update',
    body: groupBody,
    async handle(call) {
      const { id } = await groupOf(call, idOf(call.params.id!))
      const { name, description } = call.body.security_group
      const changed = ask<{ security_group: Group }>(call, 'PUT', `/security-groups/${id}`, {
        security_group: { name, description },
      })
      return { security_group: (await groupsShown(call, [(await asNova(changed)).security_group]))[0] }
    },
  }),
  route({
    method: 'DELETE',
    path: '/os-security-groups/:id',
    until,
    success: 202,
    policy: 'os_compute_api:os-security-groups:delete',
    async handle(call) {
      const { id, name } = await groupOf(call, idOf(call.params.id!))
      if (name === 'default') throw badRequest('Insufficient rights for removing default security group.')
      await asNova(ask(call, 'DELETE', `/security-groups/${id}`))
    },
  }),
]

const Loose = () => S.Optional(S.Unsafe<unknown>({}))
const ruleBody = S.Object({
  security_group_rule: S.Object({
    parent_group_id: S.Uuid(),
    group_id: S.Optional(S.Nullable(S.Uuid())),
    from_port: Loose(),
    to_port: Loose(),
    ip_protocol: Loose(),
    cidr: Loose(),
  }),
})
type RuleAsked = S.Static<typeof ruleBody>['security_group_rule']

const number = (value: unknown): number | null => {
  if (value === undefined || value === null) return null
  const found = Number(value)
  if (value === '' || !Number.isInteger(found)) throw badRequest('To and From ports must be integers')
  return found
}

/** Protocol and ports as Neutron takes them. Throws badRequest for what Nova never allowed. */
function trafficOf(asked: RuleAsked) {
  let [from, to] = [number(asked.from_port), number(asked.to_port)]
  const protocol = asked.ip_protocol === undefined || asked.ip_protocol === null ? null : String(asked.ip_protocol)
  const kind = protocol?.toUpperCase()
  if (asked.group_id && from === null && to === null) {
    if (kind === 'ICMP') [from, to] = [-1, -1]
    if (kind === 'TCP' || kind === 'UDP') [from, to] = [1, 65_535]
  }
  if (!protocol || from === null || to === null) {
    if (asked.group_id) return { protocol: null, port_range_min: null, port_range_max: null }
    throw badRequest('Not enough parameters to build a valid rule.')
  }
  if (!['TCP', 'UDP', 'ICMP'].includes(kind!)) throw badRequest(`Invalid IP protocol ${protocol}.`)
  const refuse = (why: string) => badRequest(`Invalid port range ${from}:${to}. ${why}`)
  if (kind === 'ICMP') {
    if (Math.min(from, to) < -1 || Math.max(from, to) > 255) throw refuse('For ICMP, the type:code must be valid')
  } else {
    if (from > to) throw refuse('Former value cannot be greater than the later')
    if (from < 1 || to > 65_535) throw refuse(`Valid ${kind} ports should be between 1-65535`)
  }
  const none = from === -1 && to === -1
  return { protocol: protocol.toLowerCase(), port_range_min: none ? null : from, port_range_max: none || to === -1 ? null : to }
}

const ruleRoutes: Route[] = [
  route({
    method: 'POST',
    path: '/os-security-group-rules',
    until,
    policy: 'os_compute_api:os-security-groups:rule:create',
    body: ruleBody,
    async handle(call) {
      const asked = call.body.security_group_rule
      const parent = await groupOf(call, asked.parent_group_id)
      const source = asked.group_id ? await groupOf(call, asked.group_id) : null
      const traffic = trafficOf(asked)
      const cidr = source ? null : cidrOf(asked.cidr ? String(asked.cidr) : '0.0.0.0/0')
      if (cidr?.endsWith('/0') && !['0.0.0.0/0', '::/0'].includes(cidr))
        throw badRequest(`Bad prefix for network in cidr ${cidr}`)
      const made = ask<{ security_group_rule: Rule }>(call, 'POST', '/security-group-rules', {
        security_group_rule: {
          direction: 'ingress',
          ethertype: cidr?.includes(':') ? 'IPv6' : 'IPv4',
          security_group_id: parent.id,
          remote_group_id: source?.id ?? null,
          remote_ip_prefix: cidr,
          ...traffic,
        },
      })
      const { security_group_rule: rule } = await asNova(made)
      return { security_group_rule: ruleShown(rule, source && { name: source.name, tenant_id: source.project_id }) }
    },
  }),
  route({
    method: 'DELETE',
    path: '/os-security-group-rules/:id',
    until,
    success: 202,
    policy: 'os_compute_api:os-security-groups:rule:delete',
    async handle(call) {
      const id = idOf(call.params.id!)
      await asNova(ask(call, 'DELETE', `/security-group-rules/${id}`))
    },
  }),
]

const ofServer = route({
  method: 'GET',
  path: '/servers/:id/os-security-groups',
  policy: 'os_compute_api:os-security-groups:list',
  query: query({}, V.flavorName),
  target: serverTarget,
  async handle(call) {
    const ids = (await neighbours.securityGroupsOf(call.db, call.target.id)).map(group => `id=${group.id}`)
    if (ids.length === 0) return { security_groups: [] }
    const { security_groups } = await ask<{ security_groups: Group[] }>(call, 'GET', `/security-groups?${ids.join('&')}`)
    return { security_groups: await groupsShown(call, security_groups) }
  },
})

export const groupProxyRoutes: Route[] = [...groupRoutes, ...ruleRoutes, ofServer]
