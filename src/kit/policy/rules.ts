/** What a service's policy.ts declares. */

/** When an operator still overrides the old name of a rule, that override is taken for the new one. */
export interface DeprecatedRule {
  name: string
  reason?: string
  since?: string
}

/** One rule with its default. */
export interface PolicyRule {
  /** The upstream name, which operators use in their policy.yaml: `os_compute_api:servers:create`. */
  name: string
  /** The default, in oslo.policy's language. */
  check: string
  /** One sentence. */
  description: string
  /** The requests it guards, for the generated sample. */
  operations?: readonly { method: string | readonly string[]; path: string }[]
  /** Scopes of tokens that may use it at all; absent: any. */
  scopes?: readonly Scope[]
  deprecated?: DeprecatedRule
}

export type Scope = 'system' | 'domain' | 'project'

/** The operators' sample: every rule commented out with its default, its description, operations and scopes. YAML. */
export function policySample(rules: readonly PolicyRule[]): string {
  return rules.map(sampleOf).join('\n')
}

function sampleOf(rule: PolicyRule): string {
  const lines = wrap(rule.description)
  for (const { method, path } of rule.operations ?? []) lines.push(`${[method].flat().join('|')}  ${path}`)
  if (rule.scopes) lines.push(`Intended scope(s): ${rule.scopes.join(', ')}`)
  if (rule.deprecated) {
    const { name, since, reason } = rule.deprecated
    const what = name === rule.name ? 'The default changed' : `Replaces "${name}", which is still read`
    lines.push(...wrap(`${what}${since ? ` since ${since}` : ''}.${reason ? ` ${reason}` : ''}`))
  }
  return `${lines.map(line => `# ${line}`.trimEnd()).join('\n')}\n#${yamlPair(rule.name, rule.check)}\n`
}

const yamlPair = (name: string, check: string) => `${JSON.stringify(name)}: ${JSON.stringify(check)}`

function wrap(text: string, width = 77): string[] {
  const lines: string[] = []
  for (const word of text.split(/\s+/).filter(Boolean)) {
    const last = lines.at(-1)
    if (last === undefined || last.length + 1 + word.length > width) lines.push(word)
    else lines[lines.length - 1] = `${last} ${word}`
  }
  return lines
}
