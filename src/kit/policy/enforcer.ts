/**
 * Decides. Built once from the rules of all services and the operators' overrides; rules are linked to each other when they are
 * built, so that a decision is one look-up and one call.
 *
 * Each service has its own names, as each upstream service has its own policy.yaml: `context_is_admin` of Nova is not Glance's.
 * A name is looked for in the service's own rules and overrides, then among the aliases that the file for all services adds.
 * A decision asked by a service about another one's rule (Nova creating a port: `create_port`) finds it when only one service has it.
 */

import { type Fault, forbidden } from '#kit/fault.ts'
import { type Check, type Credentials, compileCheck, type Target } from './compile.ts'
import { type Override, PolicyError } from './files.ts'
import { type Node, PolicySyntaxError, parseCheck } from './parse.ts'
import type { PolicyRule, Scope } from './rules.ts'

/** A service's part of the policy. */
export interface PolicyService {
  name: string
  rules: readonly PolicyRule[]
  /** The refusal in the service's own words. Default: Nova's sentence. */
  denied?: (rule: string) => Fault
}

/** The policy as one service sees it. */
export interface ServicePolicy {
  readonly service: string
  /** Whether these credentials may. Unknown rules deny; so does a token of a scope that the rule does not take. */
  allows(rule: string, credentials: Credentials, target?: Target): boolean
  /** Whether there is such a rule. */
  has(rule: string): boolean
  /** The fault to throw when `allows` said no. */
  denied(rule: string): Fault
  /** The policy as another service sees it. Throws an Error if there is no such service. */
  as(service: string): ServicePolicy
  /** Grows with each reload: what was derived from decisions before is stale. */
  generation(): number
}

export interface Enforcer {
  /** Throws an Error if there is no such service. */
  of(service: string): ServicePolicy
  /** Replaces the overrides. Throws PolicyError, and keeps the rules as they were, when they cannot be used. */
  reload(overrides: readonly Override[]): void
  /** What an operator should know of the overrides in force: names nobody asks about, deprecated ones. One line each. */
  warnings(): readonly string[]
}

export interface EnforcerOptions {
  overrides?: readonly Override[]
  /** Refuse tokens of another scope than a rule's `scopes`. Default true, as upstream since 2023. */
  enforceScope?: boolean
}

/** What every service has unless it says otherwise. */
const COMMON: readonly PolicyRule[] = [
  { name: 'context_is_admin', check: 'role:admin', description: 'Whether a request counts as made by an administrator.' },
]

interface Entry {
  node: Node
  where: string
  override?: true
  scopes?: readonly Scope[]
}
interface Linked {
  check: Check
  scopes: readonly Scope[] | undefined
}

/** Builds the enforcer. Throws PolicyError naming every rule that is wrong, circular ones too. */
export function enforcer(
  services: readonly PolicyService[],
  { overrides = [], enforceScope = true }: EnforcerOptions = {},
): Enforcer {
  let tables = link(services, overrides)
  let generation = 1
  const views = new Map<string, ServicePolicy>()
  const of = (service: string): ServicePolicy => {
    const view = views.get(service)
    if (!view) throw new Error(`no policy of a service '${service}'`)
    return view
  }
  for (const { name, denied = notAllowed } of services) {
    const find = (rule: string) => tables.rules.get(name)!.get(rule) ?? tables.unique.get(rule)
    views.set(name, {
      service: name,
      allows(rule, credentials, target = NOTHING) {
        const found = find(rule)
        if (!found) return false
        if (enforceScope && found.scopes && !found.scopes.includes(scopeOf(credentials))) return false
        return found.check(credentials, target)
      },
      has: rule => find(rule) !== undefined,
      denied,
      as: of,
      generation: () => generation,
    })
  }
  return {
    of,
    reload(next) {
      tables = link(services, next)
      generation++
    },
    warnings: () => tables.warnings,
  }
}

const NOTHING: Target = Object.freeze({})

const notAllowed = (rule: string): Fault => forbidden(`Policy doesn't allow ${rule} to be performed.`)

/** The scope of a token as oslo.policy tells it: one that is neither of the system nor of a domain counts as a project's. */
export function scopeOf(credentials: Credentials): Scope {
  if (credentials.system_scope) return 'system'
  return credentials.domain_id ? 'domain' : 'project'
}

function link(services: readonly PolicyService[], overrides: readonly Override[]) {
  const problems: string[] = []
  const warnings: string[] = []
  const declared = new Map(services.map(s => [s.name, declare(s, problems)]))
  const aliases = new Map<string, Entry>()
  applyOverrides(services, overrides, declared, aliases, warnings)
  const rules = new Map<string, Map<string, Linked>>()
  for (const [service, entries] of declared) rules.set(service, linkOne(service, entries, aliases, problems, warnings))
  if (problems.length) throw new PolicyError(problems)
  const owners = new Map<string, Linked | null>()
  for (const own of rules.values()) for (const [name, linked] of own) owners.set(name, owners.has(name) ? null : linked)
  const unique = new Map([...owners].filter((pair): pair is [string, Linked] => pair[1] !== null))
  return { rules, unique, warnings: [...new Set(warnings)] }
}

function declare(service: PolicyService, problems: string[]): Map<string, Entry> {
  const entries = new Map<string, Entry>()
  for (const rule of [...COMMON.filter(c => !service.rules.some(r => r.name === c.name)), ...service.rules]) {
    const where = `${service.name}: ${rule.name} (default)`
    if (entries.has(rule.name)) problems.push(`${where}: declared twice`)
    try {
      entries.set(rule.name, { node: parseCheck(rule.check), where, scopes: rule.scopes })
    } catch (error) {
      if (!(error instanceof PolicySyntaxError)) throw error
      problems.push(`${where}: ${error.message}`)
    }
  }
  return entries
}

/** A service's own file wins over the file for all; a rule's own name over its deprecated one. */
function applyOverrides(
  services: readonly PolicyService[],
  overrides: readonly Override[],
  declared: Map<string, Map<string, Entry>>,
  aliases: Map<string, Entry>,
  warnings: string[],
): void {
  const used = new Set<Override>()
  for (const service of services) {
    const entries = declared.get(service.name)!
    const pick = (name: string) => {
      const found = overrides.filter(o => o.name === name)
      return found.find(o => o.service === service.name) ?? found.find(o => o.service === undefined)
    }
    for (const [name, entry] of entries) {
      const old = service.rules.find(r => r.name === name)?.deprecated?.name
      const byOldName = old === undefined || old === name || entries.has(old) ? undefined : pick(old)
      const override = pick(name) ?? byOldName
      if (!override) continue
      used.add(override)
      if (override === byOldName) warnings.push(`${override.where}: ${old} is deprecated: use ${name}`)
      entries.set(name, { ...entry, node: override.check, override: true, where: `${override.where}: ${override.name}` })
    }
  }
  for (const override of overrides) {
    if (used.has(override)) continue
    const entry: Entry = { node: override.check, override: true, where: `${override.where}: ${override.name}` }
    const overruled = override.service === undefined && services.some(s => declared.get(s.name)!.has(override.name))
    if (overruled) continue
    const home = override.service === undefined ? aliases : declared.get(override.service)
    home?.set(override.name, entry)
    if (!refersTo(overrides, override.name)) warnings.push(`${override.where}: ${override.name}: no such rule`)
  }
}

function refersTo(overrides: readonly Override[], name: string): boolean {
  const inNode = (node: Node): boolean => {
    if (node.op === 'rule') return node.name === name
    if (node.op === 'not') return inNode(node.of)
    return (node.op === 'and' || node.op === 'or') && node.of.some(inNode)
  }
  return overrides.some(o => inNode(o.check))
}

function linkOne(service: string, own: Map<string, Entry>, aliases: Map<string, Entry>, problems: string[], warnings: string[]) {
  const done = new Map<string, Linked>()
  const open: string[] = []
  const circular = new Set<string>()
  const build = (name: string): Linked | undefined => {
    const entry = own.get(name) ?? aliases.get(name)
    if (!entry) return undefined
    const ready = done.get(name)
    if (ready) return ready
    open.push(name)
    const check = compileCheck(entry.node, reference => {
      if (open.includes(reference)) {
        const cycle = [...open.slice(open.indexOf(reference)), reference]
        // The defaults have no circle, so an operator's override closed it: that line is the one to name.
        const guilty = cycle.map(member => (own.get(member) ?? aliases.get(member))!).find(e => e.override) ?? entry
        if (!circular.has(reference)) problems.push(`${guilty.where}: circular: ${cycle.join(' -> ')}`)
        for (const member of cycle) circular.add(member)
        return undefined
      }
      const linked = build(reference)
      if (!linked) warnings.push(`${entry.where}: refers to rule:${reference}, which ${service} does not have: it denies`)
      return linked?.check
    })
    open.pop()
    const linked = { check, scopes: entry.scopes }
    done.set(name, linked)
    return linked
  }
  for (const name of [...own.keys(), ...aliases.keys()]) build(name)
  // Aliases are there to be referred to; deciding by one directly is only for the rules of the service itself.
  return new Map([...done].filter(([name]) => own.has(name)))
}
