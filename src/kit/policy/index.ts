export type { Check, Credentials, Target } from './compile.ts'
export { type Enforcer, type EnforcerOptions, enforcer, type PolicyService, type ServicePolicy, scopeOf } from './enforcer.ts'
export { type Override, PolicyError, parseOverrides, readOverrides, watchOverrides } from './files.ts'
export { type DeprecatedRule, type PolicyRule, policySample, type Scope } from './rules.ts'
