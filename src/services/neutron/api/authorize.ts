// Policy for each attribute: which rules a request must satisfy, and what is shown to whom.
import type { Context } from '#kit/context.ts'
import { forbidden, notFound } from '#kit/fault.ts'
import { viewOf } from '#kit/noun/index.ts'
import { isRule } from '../policy.ts'
import type { Resource, Row } from './resource.ts'

/** The rules beside the noun's own that giving these attributes asks for, those of their parts (`fixed_ips:ip_address`) included. */
function attributeRules(of: Resource, action: string, given: Row, names: Iterable<string>): string[] {
  const rules: string[] = []
  for (const name of names) {
    const rule = `${action}:${name}`
    if (!isRule(rule) || of.attributes[name]?.unguarded) continue
    rules.push(rule)
    const value = given[name]
    const parts = (Array.isArray(value) ? value : [value]).filter(part => typeof part === 'object' && part !== null) as object[]
    for (const key of new Set(parts.flatMap(Object.keys))) if (isRule(`${rule}:${key}`)) rules.push(`${rule}:${key}`)
  }
  return rules
}

const same = (a: unknown, b: unknown): boolean => a === b || JSON.stringify(a) === JSON.stringify(b)

/** The attributes given with another value than they would have had anyway. */
function beyondDefault(of: Resource, given: Row, explicit: ReadonlySet<string>): string[] {
  return [...explicit].filter(name => {
    const initial = of.attributes[name]?.initial
    return initial === undefined || !same(given[name], typeof initial === 'function' ? (initial as () => unknown)() : initial)
  })
}

const denied = (rules: string[]) => {
  const words = rules.map(rule => `rule:${rule}`).join(' and ')
  return forbidden(`${rules.length > 1 ? `(${words})` : words} is disallowed by policy`, { type: 'PolicyNotAuthorized' })
}

/** The parent of a nested noun is named in its rules: `create_policy_bandwidth_limit_rule`. */
const action = (verb: string, of: Resource): string => `${verb}_${of.rule}`

/** Throws PolicyNotAuthorized (403) unless the caller may make this. */
export function mayCreate(ctx: Context, of: Resource, given: Row, explicit: ReadonlySet<string>, target: Row): void {
  const verb = action('create', of)
  const rules = [verb, ...attributeRules(of, verb, given, beyondDefault(of, given, explicit))]
  if (!rules.every(rule => ctx.can(rule, target))) throw denied(rules)
}

/** Throws 403 where nobody of the caller's roles may make this under any parent: they are not told which parents there are. */
export function mayCreateAny(ctx: Context, of: Resource): void {
  const verb = action('create', of)
  const own = { project_id: ctx.projectId, tenant_id: ctx.projectId, [PARENT_OWNER]: ctx.projectId }
  if (of.parent && !ctx.can(verb, own)) throw denied([verb])
}

/** Throws 403 unless the caller may change this so, and 404 if it may not even see it. */
export function mayUpdate(ctx: Context, of: Resource, target: Row, changes: Row): void {
  const verb = action('update', of)
  const rules = [verb, ...attributeRules(of, verb, changes, Object.keys(changes))]
  const wanted = { ...target, ...changes }
  if (!rules.every(rule => ctx.can(rule, wanted))) throw told(ctx, of, target) ? denied(rules) : hidden()
}

/** As `mayUpdate`, for any other verb on something that is there. */
export function mayDo(ctx: Context, of: Resource, target: Row, rule: string): void {
  if (!ctx.can(rule, target)) throw told(ctx, of, target) ? denied([rule]) : hidden()
}

/** Whether a refusal may admit that the thing is there. */
const told = (ctx: Context, of: Resource, target: Row): boolean =>
  of.sharedUntold ? target.project_id === ctx.projectId : ctx.can(action('get', of), target)

/** What is not to be seen is not there. */
export const hidden = () => notFound('The resource could not be found.', { type: 'HTTPNotFound' })

const guarded = new WeakMap<Resource, [name: string, rule: string][]>()

/** Attributes that some may not see, with their rules. */
function guardedOf(of: Resource): [string, string][] {
  const known = guarded.get(of)
  if (known) return known
  const made = of.noun.list
    .map(({ name }): [string, string] => [name, `${action('get', of)}:${name}`])
    .filter(([, rule]) => isRule(rule))
  guarded.set(of, made)
  return made
}

/** The owner of what a nested thing hangs on, as rules name it; a column of nested nouns. */
export const PARENT_OWNER = 'ext_parent:project_id'

function targetFrom(of: Resource, row: Row, whole: Row): Row {
  if (!of.target && !(PARENT_OWNER in row)) return whole
  return { ...whole, ...(PARENT_OWNER in row && { [PARENT_OWNER]: row[PARENT_OWNER] }), ...of.target?.(row) }
}

/** A row whole, on the wire's terms: what policy looks at. */
export const targetOf = (of: Resource, row: Row): Row => targetFrom(of, row, viewOf(of.noun, row))

/** A row as this caller may see it; undefined if not at all. */
export function visibleView(ctx: Context, of: Resource, row: Row, only?: ReadonlySet<string>): Row | undefined {
  const whole = viewOf(of.noun, row)
  const target = targetFrom(of, row, whole)
  if (!ctx.can(action('get', of), target)) return undefined
  const view = of.view ? of.view({ ...whole }, row, ctx) : { ...whole }
  for (const [name, rule] of guardedOf(of)) if (!ctx.can(rule, target)) delete view[name]
  if (only) for (const name of Object.keys(view)) if (!only.has(name)) delete view[name]
  return view
}
