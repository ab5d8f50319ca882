import { json, type Query, type Tx } from '#kit/db/index.ts'
import { forbidden, notFound } from '#kit/fault.ts'
import { type Call, type Method, type Route, route } from '#kit/http/route.ts'
import { Object as ObjectSchema, Record as RecordSchema, String as StringSchema, Unknown } from '#kit/http/schema.ts'
import type { Env } from '#kit/service.ts'
import { credentialOpen, credentialSeal } from '../credentials/seal.ts'
import { domains } from '../domains/domains.ts'
import { identityOf } from '../identity.ts'
import { missing, nounFetch, type Row } from '../noun.ts'
import { OPTIONS } from './options.ts'

// Settings of one domain (above all, which LDAP server its users live in), by group and option. Sensitive ones go in and are used,
// but never come out.

type Config = Record<string, Record<string, unknown>>

const refused = (reason: string) => forbidden(`Invalid domain specific configuration: ${reason}.`)

function groupCheck(group: string | undefined, option?: string): void {
  if (group === undefined) return
  const options = Object.hasOwn(OPTIONS, group) ? OPTIONS[group]! : undefined
  if (!options) throw refused(`Group ${group} is not supported for domain specific configurations`)
  if (option !== undefined && !Object.hasOwn(options, option)) {
    throw refused(`Option ${option} in group ${group} is not supported for domain specific configurations`)
  }
}

function configCheck(config: Config): void {
  if (Object.keys(config).length === 0) throw refused('No options specified')
  for (const [group, options] of Object.entries(config)) {
    if (typeof options !== 'object' || options === null || Array.isArray(options) || Object.keys(options).length === 0) {
      throw refused(`The value of group ${group} specified in the config should be a dictionary of options`)
    }
    for (const option of Object.keys(options)) groupCheck(group, option)
  }
}

async function stored(db: Query, domainId: string): Promise<Config> {
  const rows = await db
    .selectFrom('keystone.domain_config')
    .selectAll()
    .where('domain_id', '=', domainId)
    .orderBy('group')
    .orderBy('option')
    .execute()
  const config: Config = {}
  for (const { group, option, value } of rows) {
    config[group] ??= {}
    config[group][option] = value
  }
  return config
}

const visible = (config: Config): Config => {
  const shown: Config = {}
  for (const [group, options] of Object.entries(config)) {
    const open = Object.entries(options).filter(([option]) => !OPTIONS[group]?.[option]?.sensitive)
    if (open.length > 0) shown[group] = Object.fromEntries(open)
  }
  return shown
}

async function store(env: Env, tx: Tx, domainId: string, config: Config): Promise<void> {
  for (const [group, options] of Object.entries(config)) {
    for (const [option, given] of Object.entries(options)) {
      const value = OPTIONS[group]![option]!.sensitive ? credentialSeal(env, JSON.stringify(given)).sealed : given
      await tx
        .insertInto('keystone.domain_config')
        .values({ domain_id: domainId, group, option, value: json(value) })
        .onConflict(on => on.columns(['domain_id', 'group', 'option']).doUpdateSet({ value: json(value) }))
        .execute()
    }
  }
}

/** The whole configuration of a domain, sensitive options included and put into the others that name them (`%(password)s`). */
export async function domainConfigFetch(env: Env, domainId: string): Promise<Config> {
  const config = await stored(env.db.read, domainId)
  for (const [group, options] of Object.entries(config)) {
    const secrets: Record<string, unknown> = {}
    for (const [option, value] of Object.entries(options)) {
      if (OPTIONS[group]?.[option]?.sensitive)
        secrets[option] = options[option] = JSON.parse(credentialOpen(env, value as string))
    }
    for (const [option, value] of Object.entries(options)) {
      if (typeof value === 'string')
        options[option] = value.replace(/%\((\w+)\)s/g, (whole, name: string) =>
          name in secrets ? String(secrets[name]) : whole,
        )
    }
  }
  return config
}

const notThere = (domainId: string, group?: string, option?: string) => {
  const what = option ? `option ${option} in group ${group}` : group ? `group ${group}` : 'any options'
  return notFound(`Could not find ${what} in domain configuration for domain ${domainId}.`)
}

function pick(config: Config, domainId: string, group?: string, option?: string): unknown {
  if (group === undefined) {
    if (Object.keys(config).length === 0) throw notThere(domainId)
    return config
  }
  const options = config[group]
  if (!options || (option !== undefined && !Object.hasOwn(options, option))) throw notThere(domainId, group, option)
  return option === undefined ? { [group]: options } : { [option]: options[option] }
}

/** Passwords must look like this: told to anyone with a token, for the default domain alone. */
function complianceView(call: Call, domainId: string, option?: string): Record<string, unknown> {
  const { security_compliance: rules, identity } = identityOf(call.env).settings
  if (domainId !== identity.default_domain_id)
    throw refused(
      'Reading security compliance information for any domain other than the default domain is not allowed or supported',
    )
  const open = {
    password_regex: rules.password_regex ?? null,
    password_regex_description: rules.password_regex_description ?? null,
  }
  if (option === undefined) return { security_compliance: open }
  if (!Object.hasOwn(open, option))
    throw refused('Reading security compliance values other than password_regex and password_regex_description is not allowed')
  return { [option]: open[option as keyof typeof open] }
}

const BASE = '/domains/:domain_id/config'
const Body = ObjectSchema({ config: RecordSchema(StringSchema(), Unknown()) })

function domainMust(call: Call<unknown, unknown, Row | null>): string {
  if (!call.target) throw missing('domain', call.params.domain_id!)
  return call.target.id
}

const make = (
  method: Method,
  path: string,
  rule: string,
  success: number,
  handle: (call: Call<unknown, { config: Config }, Row | null>, domainId: string) => unknown,
): Route =>
  route({
    method,
    path,
    policy: `identity:${rule}`,
    success,
    body: method === 'PUT' || method === 'PATCH' ? Body : undefined,
    target: call => nounFetch(domains, call, call.params.domain_id!),
    policyTarget: call => ({ ...call.params }),
    handle: call => handle(call as unknown as Call<unknown, { config: Config }, Row | null>, domainMust(call)),
  }) as Route

const show = (path: string): Route =>
  make('GET', path, 'get_domain_config', 200, async (call, domainId) => {
    const { group, option } = call.params
    groupCheck(group, option)
    return { config: pick(visible(await stored(call.db, domainId)), domainId, group, option) }
  })

const update = (path: string): Route =>
  make('PATCH', path, 'update_domain_config', 200, async (call, domainId) => {
    const { group, option } = call.params
    const config =
      group !== undefined && option !== undefined
        ? { [group]: call.body.config as unknown as Record<string, unknown> }
        : call.body.config
    configCheck(config)
    groupCheck(group, option)
    if (group !== undefined) {
      const only =
        Object.keys(config).length === 1 &&
        Object.hasOwn(config, group) &&
        (option === undefined || (Object.keys(config[group]!).length === 1 && Object.hasOwn(config[group]!, option)))
      if (!only)
        throw refused(
          `Trying to update ${option ? `option ${option} in ` : ''}group ${group}, so that, and only that, must be specified in the config`,
        )
    }
    return call.env.db.tx(async tx => {
      const before = await stored(tx, domainId)
      if (Object.keys(before).length === 0) throw notThere(domainId)
      if (group !== undefined) pick(before, domainId, group, option)
      await store(call.env, tx, domainId, config)
      return { config: visible(await stored(tx, domainId)) }
    })
  })

const remove = (path: string): Route =>
  make('DELETE', path, 'delete_domain_config', 204, async (call, domainId) => {
    const { group, option } = call.params
    groupCheck(group, option)
    await call.env.db.tx(async tx => {
      if (group !== undefined) pick(await stored(tx, domainId), domainId, group, option)
      let query = tx.deleteFrom('keystone.domain_config').where('domain_id', '=', domainId)
      if (group !== undefined) query = query.where('group', '=', group)
      if (option !== undefined) query = query.where('option', '=', option)
      await query.execute()
    })
  })

const compliance = (path: string): Route =>
  route({
    method: 'GET',
    path,
    policy: 'identity:get_security_compliance_domain_config',
    policyTarget: call => ({ ...call.params }),
    handle: call => ({ config: complianceView(call, call.params.domain_id!, call.params.option) }),
  })

const defaults = (path: string): Route =>
  route({
    method: 'GET',
    path,
    policy: 'identity:get_domain_config_default',
    policyTarget: () => ({}),
    handle(call) {
      const { group, option } = call.params
      groupCheck(group, option)
      const open = ([name, { sensitive }]: [string, { sensitive?: true }]) =>
        !sensitive && (option === undefined || name === option)
      const of = (name: string) =>
        Object.fromEntries(
          Object.entries(OPTIONS[name]!)
            .filter(open)
            .map(([key, { initial }]) => [key, initial]),
        )
      if (option !== undefined) return { config: of(group!) }
      return { config: Object.fromEntries((group === undefined ? Object.keys(OPTIONS) : [group]).map(name => [name, of(name)])) }
    },
  })

export const domainConfigRoutes: Route[] = [
  make('PUT', BASE, 'create_domain_config', 201, async (call, domainId) => {
    configCheck(call.body.config)
    return call.env.db.tx(async tx => {
      const before = await tx.deleteFrom('keystone.domain_config').where('domain_id', '=', domainId).executeTakeFirst()
      if (before.numDeletedRows > 0n) call.reply.status = 200
      await store(call.env, tx, domainId, call.body.config)
      return { config: visible(await stored(tx, domainId)) }
    })
  }),
  show(BASE),
  show(`${BASE}/:group`),
  show(`${BASE}/:group/:option`),
  update(BASE),
  update(`${BASE}/:group`),
  update(`${BASE}/:group/:option`),
  remove(BASE),
  remove(`${BASE}/:group`),
  remove(`${BASE}/:group/:option`),
  compliance(`${BASE}/security_compliance`),
  compliance(`${BASE}/security_compliance/:option`),
  defaults('/domains/config/default'),
  defaults('/domains/config/:group/default'),
  defaults('/domains/config/:group/:option/default'),
]
