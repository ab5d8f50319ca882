import { badRequest } from '#kit/fault.ts'

// Mapping rules: how the attributes that an identity provider asserts become a user with groups and projects. A rule holds when all
// its remote conditions do; then its local part is filled with what the conditions captured ({0}, {1}, …).
//
//   {"type": "Email"}                             there, and captured whole
//   {"type": "role", "any_one_of": ["a", "b"]}    has one of them; captures nothing
//   {"type": "role", "not_any_of": ["x"]}         has none of them; captures nothing
//   {"type": "groups", "whitelist": ["g1"]}       captures those among them; "blacklist" the others
//
// With "regex": true values are patterns. They come from whoever may write mappings and run on what a stranger asserts, so both
// are bounded: nested repetition is refused when the mapping is written, and only so much of a value is looked at.

export interface Remote {
  type: string
  any_one_of?: string[]
  not_any_of?: string[]
  whitelist?: string[]
  blacklist?: string[]
  regex?: boolean
}

export interface DomainName {
  id?: string
  name?: string
}

export interface LocalUser {
  id?: string
  name?: string
  email?: string
  domain?: DomainName
  type?: 'ephemeral' | 'local'
}

export interface LocalProject {
  name: string
  roles: { name: string }[]
  domain?: DomainName
}

export interface Local {
  user?: LocalUser
  group?: { id?: string; name?: string; domain?: DomainName }
  groups?: string
  group_ids?: string
  projects?: LocalProject[]
  domain?: DomainName
}

export interface Rule {
  local: Local[]
  remote: Remote[]
}

/** What the rules make of an assertion. */
export interface Mapped {
  user: LocalUser
  groupIds: string[]
  groupNames: { name: string; domain: DomainName }[]
  projects: LocalProject[]
}

const MAX_RULES = 1000
const MAX_PATTERN = 1000
const MAX_VALUE = 4096
const MAX_VALUES = 1000

const wrong = (why: string) => badRequest(`Invalid mapping: ${why}.`)
const isObject = (value: unknown): value is Record<string, unknown> =>
  typeof value === 'object' && value !== null && !Array.isArray(value)

function only(value: Record<string, unknown>, allowed: string[], where: string): void {
  const odd = Object.keys(value).find(key => !allowed.includes(key))
  if (odd !== undefined) throw wrong(`Additional properties are not allowed ('${odd}' was unexpected) in ${where}`)
}

/** Refuses rules that are malformed, or whose patterns could run for very long. Throws badRequest. */
export function rulesCheck(rules: unknown[], version: string): void {
  if (rules.length === 0) throw wrong('rules must not be empty')
  if (rules.length > MAX_RULES) throw wrong(`more than ${MAX_RULES} rules`)
  for (const rule of rules) {
    if (!isObject(rule)) throw wrong('a rule must be an object')
    only(rule, ['local', 'remote'], 'a rule')
    if (!Array.isArray(rule.local) || !Array.isArray(rule.remote)) throw wrong("'local' and 'remote' are required properties")
    if (rule.remote.length === 0) throw wrong('remote must not be empty')
    for (const local of rule.local) localCheck(local, version)
    for (const remote of rule.remote) remoteCheck(remote)
  }
}

function domainCheck(domain: unknown): void {
  if (!isObject(domain)) throw wrong('a domain must be an object')
  only(domain, ['id', 'name'], 'domain')
}

function localCheck(local: unknown, version: string): void {
  if (!isObject(local)) throw wrong('an entry of local must be an object')
  only(local, ['user', 'group', 'groups', 'group_ids', 'projects', 'domain'], 'local')
  const { user, group, projects, domain } = local
  if (domain !== undefined) domainCheck(domain)
  if (user !== undefined) {
    if (!isObject(user)) throw wrong('user must be an object')
    only(user, ['id', 'name', 'email', 'domain', 'type'], 'user')
    if (user.type !== undefined && user.type !== 'ephemeral' && user.type !== 'local')
      throw wrong('the type of a user is ephemeral or local')
  }
  if (group !== undefined) {
    if (!isObject(group)) throw wrong('group must be an object')
    only(group, ['id', 'name', 'domain'], 'group')
    if ((group.id === undefined) === (group.name === undefined)) throw wrong('a group is named by id, or by name and domain')
    if (group.name !== undefined && group.domain === undefined) throw wrong('a group by name needs a domain')
  }
  for (const name of ['groups', 'group_ids'])
    if (local[name] !== undefined && typeof local[name] !== 'string') throw wrong(`${name} must be a string`)
  if (projects !== undefined) projectsCheck(projects, version)
}

function projectsCheck(projects: unknown, version: string): void {
  if (!Array.isArray(projects)) throw wrong('projects must be a list')
  for (const project of projects) {
    if (!isObject(project) || typeof project.name !== 'string' || !Array.isArray(project.roles))
      throw wrong('a project needs a name and roles')
    only(project, version === '1.0' ? ['name', 'roles'] : ['name', 'roles', 'domain'], 'projects')
    for (const role of project.roles) if (!isObject(role) || typeof role.name !== 'string') throw wrong('a role needs a name')
  }
}

const CONDITIONS = ['any_one_of', 'not_any_of', 'whitelist', 'blacklist'] as const

function remoteCheck(remote: unknown): void {
  if (!isObject(remote) || typeof remote.type !== 'string') throw wrong("'type' is a required property of remote")
  only(remote, ['type', 'regex', ...CONDITIONS], 'remote')
  const named = CONDITIONS.filter(name => remote[name] !== undefined)
  if (named.length > 1) throw wrong(`only one of ${CONDITIONS.join(', ')} can stand in one condition`)
  if (remote.regex !== undefined && (typeof remote.regex !== 'boolean' || named.length === 0))
    throw wrong('regex is a boolean beside a condition')
  for (const name of named) {
    const values = remote[name]
    if (!Array.isArray(values) || !values.every(value => typeof value === 'string'))
      throw wrong(`${name} must be a list of strings`)
    if (remote.regex === true) for (const value of values) patternCheck(value as string)
  }
}

/** Refuses a pattern that is none, that is very long, or that repeats what repeats: only such ones can take exponential time. */
export function patternCheck(pattern: string): void {
  if (pattern.length > MAX_PATTERN) throw wrong('a pattern is too long')
  try {
    new RegExp(python(pattern))
  } catch {
    throw wrong(`'${pattern}' is not a regular expression`)
  }
  if (repeats(pattern)) throw wrong(`the pattern '${pattern}' repeats a group that itself repeats or has alternatives`)
  if (/\\[1-9]|\(\?P=/.test(pattern)) throw wrong(`the pattern '${pattern}' refers back`)
}

/** Whether a group that holds a repetition or an alternative is itself repeated without a small bound. */
function repeats(pattern: string): boolean {
  const open: { risky: boolean }[] = []
  const text = pattern.replace(/\\./g, 'x').replace(/\[[^\]]*\]/g, 'x')
  for (let at = 0; at < text.length; at++) {
    const char = text[at]!
    if (char === '(') open.push({ risky: false })
    else if (char === ')') {
      const group = open.pop()
      const repeated = /^(?:[*+]|\{\d*,\d*\}|\{\d\d+\})/.test(text.slice(at + 1))
      if (group?.risky && repeated) return true
      if (group?.risky || repeated) for (const outer of open) outer.risky = true
    } else if ((/[*+|]/.test(char) || /^\{\d*,/.test(text.slice(at))) && open.length > 0)
      for (const group of open) group.risky = true
  }
  return false
}

/** Python's named groups and flags at the start, as JavaScript writes them. */
const python = (pattern: string): string => pattern.replace(/\(\?P</g, '(?<').replace(/^\(\?i\)/, '')

const matcher = (pattern: string): RegExp => new RegExp(python(pattern), pattern.startsWith('(?i)') ? 'i' : '')

/** An assertion as lists of values: several values of one attribute are joined by semicolons. */
export function assertionValues(assertion: Record<string, unknown>): Record<string, string[]> {
  const values: Record<string, string[]> = {}
  for (const [name, value] of Object.entries(assertion)) {
    if (typeof value === 'string') values[name] = value.split(';').slice(0, MAX_VALUES)
    else if (Array.isArray(value)) values[name] = value.map(String).slice(0, MAX_VALUES)
  }
  return values
}

/** What a rule's conditions capture; null when one does not hold. */
function captured(remotes: Remote[], assertion: Record<string, string[]>): string[][] | null {
  const captures: string[][] = []
  for (const remote of remotes) {
    const values = Object.hasOwn(assertion, remote.type) ? assertion[remote.type]! : []
    if (values.length === 0 || (values.length === 1 && values[0] === '')) return null
    const among = (list: string[]) => {
      const patterns = remote.regex ? list.map(matcher) : []
      return (value: string) =>
        remote.regex ? patterns.some(pattern => pattern.test(value.slice(0, MAX_VALUE))) : list.includes(value)
    }
    if (remote.any_one_of) {
      if (!values.some(among(remote.any_one_of))) return null
    } else if (remote.not_any_of) {
      if (values.some(among(remote.not_any_of))) return null
    } else if (remote.blacklist) {
      const listed = among(remote.blacklist)
      captures.push(values.filter(value => !listed(value)))
    } else if (remote.whitelist) captures.push(values.filter(among(remote.whitelist)))
    else captures.push(values)
  }
  return captures
}

/** A list in Python's notation is how several captured values go into one text. */
const pythonList = (values: string[]): string =>
  values.length === 1 ? values[0]! : `[${values.map(value => `'${value.replace(/[\\']/g, '\\$&')}'`).join(', ')}]`

function filled<T>(template: T, captures: string[][]): T {
  if (typeof template === 'string') {
    return template.replace(/\{(\d+)\}/g, (_, index: string) => {
      const values = captures[Number(index)]
      if (!values)
        throw badRequest("Local section in mapping refers to a remote match that doesn't exist (e.g. {0} in a local section).")
      return pythonList(values)
    }) as T
  }
  if (Array.isArray(template)) return template.map(item => filled(item, captures)) as T
  if (isObject(template))
    return Object.fromEntries(Object.entries(template).map(([key, value]) => [key, filled(value, captures)])) as T
  return template
}

/** Reads a list in Python's notation; anything else is one value. */
function listed(text: string): string[] {
  if (!/^\[.*\]$/s.test(text)) return [text]
  const items = [...text.slice(1, -1).matchAll(/\s*(?:'((?:[^'\\]|\\.)*)'|"((?:[^"\\]|\\.)*)")\s*(?:,|$)/g)]
  return items.map(([, single, double]) => (single ?? double ?? '').replace(/\\(.)/g, '$1'))
}

/** Applies the rules of a mapping. Throws badRequest when none holds, or a rule refers to what it did not capture. */
export function rulesApply(rules: Rule[], assertion: Record<string, unknown>, version: string): Mapped {
  const values = assertionValues(assertion)
  const locals: Local[] = []
  for (const rule of rules) {
    const captures = captured(rule.remote, values)
    if (captures) locals.push(...rule.local.map(local => filled(local, captures)))
  }
  if (locals.length === 0) {
    throw badRequest(
      'Could not map any federated user properties to identity values. Check debug logs or the mapping used for additional details.',
    )
  }
  const mapped: Mapped = { user: {}, groupIds: [], groupNames: [], projects: [] }
  let user: LocalUser | undefined
  for (const local of locals) {
    if (local.user)
      user ??= version === '1.0' || local.user.domain || !local.domain ? local.user : { ...local.user, domain: local.domain }
    if (local.group?.id !== undefined) mapped.groupIds.push(local.group.id)
    else if (local.group?.name !== undefined) mapped.groupNames.push({ name: local.group.name, domain: local.group.domain ?? {} })
    if (local.groups !== undefined) mapped.groupNames.push(...groupNames(local.groups, local.domain))
    if (local.group_ids !== undefined) mapped.groupIds.push(...listed(local.group_ids))
    if (local.projects)
      mapped.projects = local.projects.map(project =>
        version !== '1.0' && !project.domain && local.domain ? { ...project, domain: local.domain } : project,
      )
  }
  mapped.user = { ...user, type: user?.type ?? 'ephemeral' }
  mapped.groupIds = [...new Set(mapped.groupIds)]
  mapped.groupNames = [
    ...new Map(
      mapped.groupNames.map(group => [JSON.stringify([group.name, group.domain.id, group.domain.name]), group]),
    ).values(),
  ]
  return mapped
}

function groupNames(text: string, domain: DomainName | undefined): { name: string; domain: DomainName }[] {
  return listed(text).map(item => {
    if (item.startsWith('JSON:')) {
      const group = JSON.parse(item.slice(5)) as { name: string; domain?: DomainName }
      if (!group.domain) throw badRequest("Invalid rule: both 'groups' and 'domain' keywords must be specified.")
      return { name: group.name, domain: group.domain }
    }
    if (!domain) throw badRequest("Invalid rule: both 'groups' and 'domain' keywords must be specified.")
    return { name: item, domain }
  })
}
