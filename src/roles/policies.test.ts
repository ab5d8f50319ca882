/** Derived from every service's table of contents: no route asks for a rule that nobody declared, and no rule is declared that nobody asks for. */
import assert from 'node:assert/strict'
import { globSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'node:test'
import type { Service } from '#kit/service.ts'
import { SERVICES } from './services.ts'

const FOLDER = join(import.meta.dirname, '../services')

test('every rule that a route asks for is declared, once', () => {
  for (const { name, routes, policies } of SERVICES) {
    const declared = policies.map(rule => rule.name)
    assert.deepEqual(declared.length, new Set(declared).size, `${name}: a rule is declared twice`)
    const missing = routes.flatMap(route => (route.policy !== null && !declared.includes(route.policy) ? [route.policy] : []))
    assert.deepEqual(missing, [], `${name}: routes ask for rules that policy.ts does not declare`)
  }
})

test('every rule says what it is for', () => {
  for (const { name, policies } of SERVICES)
    for (const rule of policies) assert.match(rule.description, /\S{2}/, `${name}: ${rule.name}`)
})

/** Upstream declares them and asks for none of them; operators' files hold them, or rules that refer to them. */
const KEPT: Record<string, readonly string[]> = {
  keystone: [
    'admin_or_token_subject',
    'service_admin_or_token_subject',
    'identity:list_projects_for_user',
    'identity:list_domains_for_user',
  ],
  placement: ['context_is_admin', 'admin_api'],
  glance: ['download_from_store', 'modify_task', 'manage_image_cache', 'metadef_default'],
}

/** The rules of a service that no route, no other rule and no line of its code names. */
function unasked({ name, routes, policies }: Service): string[] {
  const code = globSync('**/*.ts', { cwd: join(FOLDER, name) })
    .filter(file => file !== 'policy.ts' && !file.endsWith('.test.ts'))
    .map(file => readFileSync(join(FOLDER, name, file), 'utf8'))
    .join('\n')
  const asked = new Set(routes.map(route => route.policy))
  const checks = new Set(policies.flatMap(rule => [...rule.check.matchAll(/rule:([\w:.-]+)/g)].map(found => found[1])))
  return policies
    .map(rule => rule.name)
    .filter(rule => !asked.has(rule) && !checks.has(rule) && !code.includes(`'${rule}'`) && !KEPT[name]?.includes(rule))
}

// Compute's and networking's code builds names of rules (`${verb}_${noun}:${field}`), so that text does not tell.
for (const service of SERVICES.filter(s => ['keystone', 'placement', 'glance'].includes(s.name))) {
  test(`${service.name}: every rule is asked for`, () => assert.deepEqual(unasked(service), []))
}
