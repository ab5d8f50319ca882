import assert from 'node:assert/strict'
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'node:test'
import { parse as parseYaml } from 'yaml'
import { enforcer, PolicyError, type PolicyRule, parseOverrides, policySample, readOverrides, watchOverrides } from './index.ts'

const rule = (name: string, check: string, more: Partial<PolicyRule> = {}): PolicyRule => ({
  name,
  check,
  description: name,
  ...more,
})
const nova = {
  name: 'nova',
  rules: [
    rule('admin', 'role:admin'),
    rule('owner', 'project_id:%(project_id)s'),
    rule('servers:get', 'rule:admin or rule:owner', { scopes: ['project'] }),
    rule('hosts:get', 'rule:admin', { scopes: ['system', 'project'] }),
    rule('new', 'rule:admin', { deprecated: { name: 'old', since: '2025.1', reason: 'Renamed.' } }),
  ],
}
const glance = { name: 'glance', rules: [rule('admin', 'role:imager'), rule('get_image', 'rule:admin')] }
const admin = { roles: ['admin'], project_id: 'p', domain_id: null, system_scope: null }
const problems = (run: () => unknown) => {
  try {
    run()
  } catch (error) {
    assert.ok(error instanceof PolicyError, String(error))
    return error.problems
  }
  return assert.fail('accepted')
}

test('each service has its own names; one with a single owner is found from anywhere; unknown ones deny', () => {
  const all = enforcer([nova, glance])
  assert.equal(all.of('nova').allows('admin', admin), true)
  assert.equal(all.of('glance').allows('admin', admin), false)
  assert.equal(all.of('nova').allows('get_image', admin), false)
  assert.equal(all.of('nova').allows('get_image', { roles: ['imager'] }), true)
  assert.equal(all.of('nova').allows('nosuch', admin), false)
  assert.equal(all.of('nova').has('get_image'), true)
  assert.equal(all.of('nova').has('nosuch'), false)
  assert.throws(() => all.of('cinder'), /no policy of a service 'cinder'/)
})

test('a token of another scope is refused, unless scopes are not enforced', () => {
  const system = { ...admin, project_id: null, system_scope: 'all' }
  const domain = { ...admin, project_id: null, domain_id: 'd' }
  const ask = (enforceScope: boolean) => {
    const { allows } = enforcer([nova], { enforceScope }).of('nova')
    return [admin, system, domain].map(c => [allows('servers:get', c), allows('hosts:get', c)])
  }
  assert.deepEqual(ask(true), [
    [true, true],
    [false, true],
    [false, false],
  ])
  assert.deepEqual(ask(false).flat(), Array(6).fill(true))
})

test('overrides: one file for all, one a service that wins, aliases, deprecated names, warnings', () => {
  const whole = parseOverrides('admin: role:boss\nold: rule:helpers\nhelpers: role:helper\n"servers:gte": "@"\n', 'policy.yaml')
  const own = parseOverrides('admin: role:chief\n', 'nova.yaml', 'nova')
  const all = enforcer([nova, glance], { overrides: [...whole, ...own] })
  const may = (service: string, name: string, role: string) => all.of(service).allows(name, { roles: [role] })
  assert.deepEqual(
    [
      may('nova', 'admin', 'chief'),
      may('nova', 'admin', 'boss'),
      may('glance', 'admin', 'boss'),
      may('glance', 'get_image', 'boss'),
    ],
    [true, false, true, true],
  )
  assert.deepEqual([may('nova', 'new', 'helper'), may('nova', 'new', 'chief')], [true, false])
  assert.deepEqual(all.warnings(), ['policy.yaml:2: old is deprecated: use new', 'policy.yaml:4: servers:gte: no such rule'])
})

test('an alias decides only inside rules, and an override of the new name hides the old one', () => {
  const all = enforcer([nova], { overrides: parseOverrides('old: "@"\nnew: "!"\nmine: "@"\n"hosts:get": rule:mine', 'f') })
  assert.equal(all.of('nova').allows('new', admin), false)
  assert.equal(all.of('nova').allows('hosts:get', { roles: [] }), true)
  assert.equal(all.of('nova').allows('mine', admin), false)
})

test('circular rules are refused, wherever the circle is', () => {
  assert.deepEqual(
    problems(() => enforcer([{ name: 's', rules: [rule('a', 'rule:b'), rule('b', '@ or not rule:c'), rule('c', 'rule:b')] }])),
    ['s: c (default): circular: b -> c -> b'],
  )
  const overrides = parseOverrides('x: ""\nowner: "rule:servers:get and @"\n', 'policy.yaml')
  assert.deepEqual(
    problems(() => enforcer([nova], { overrides })),
    ['policy.yaml:2: owner: circular: owner -> servers:get -> owner'],
  )
})

test('wrong defaults are all named', () => {
  assert.deepEqual(
    problems(() => enforcer([{ name: 's', rules: [rule('a', 'x'), rule('b', '@'), rule('b', '@')] }])),
    ["s: a (default): 'x' is no check: it has no kind before a colon", 's: b (default): declared twice'],
  )
})

test('a reference to a rule that is not there denies and is told', () => {
  const all = enforcer([nova], { overrides: parseOverrides('admin: rule:nosuch or rule:owner', 'p.yaml') })
  assert.deepEqual(all.warnings(), ['p.yaml:1: admin: refers to rule:nosuch, which nova does not have: it denies'])
})

test('mistakes in a file are all named with line and column', () => {
  const text = [
    'a: role:x and',
    'b: "role:x or http://h"',
    'c: !',
    'd: 5',
    'e:',
    "f: 'not(role:x)'",
    'g: >-',
    '  role:x or',
    '  (role:y',
    'h: [["role:x"], [3]]',
  ].join('\n')
  assert.deepEqual(
    problems(() => parseOverrides(text, 'p.yaml')),
    [
      "p.yaml:1:14: a: ends where a check, 'not' or '(' was expected",
      "p.yaml:2:15: b: 'http:' checks, which ask another server about each request, are not supported",
      "p.yaml:3:5: c: a bare ! means nothing in YAML: write '!' in quotes",
      "p.yaml:4:4: d: must be an expression (text): write '' in quotes to allow everybody",
      "p.yaml:5:3: e: must be an expression (text): write '' in quotes to allow everybody",
      "p.yaml:6:5: f: 'not(role' is neither a literal nor a credential's name",
      "p.yaml:7:4: g: ends where 'and', 'or' or ')' was expected",
      'p.yaml:10:4: h: an item is not a check',
    ],
  )
  assert.match(problems(() => parseOverrides('a: "@"\na: "!"', 'p.yaml'))[0]!, /^p\.yaml:2:1: Map keys must be unique/)
  assert.match(problems(() => parseOverrides('a: @', 'p.yaml'))[0]!, /^p\.yaml:1:4: /)
  assert.deepEqual(
    problems(() => parseOverrides('- a', 'p.yaml')),
    ['p.yaml:1:1: the file must be a mapping from rule names to expressions'],
  )
  assert.deepEqual(parseOverrides('# nothing\n', 'p.yaml'), [])
  const [first, second] = parseOverrides('a: &own "role:a"\nb: *own\n', 'p.yaml')
  assert.deepEqual(second!.check, first!.check, 'an anchor and its alias')
})

test('files are read from the data folder, and a reload that fails changes nothing', () => {
  const folder = mkdtempSync(join(tmpdir(), 'policy-files-'))
  assert.deepEqual(readOverrides(folder, ['nova']), [])
  mkdirSync(join(folder, 'policy.d'))
  writeFileSync(join(folder, 'policy.yaml'), '{"admin": "role:boss"}')
  writeFileSync(join(folder, 'policy.d', 'nova.yaml'), 'admin: role:chief\n')
  const all = enforcer([nova], { overrides: readOverrides(folder, ['nova']) })
  const chief = () => all.of('nova').allows('admin', { roles: ['chief'] })
  assert.equal(chief(), true)
  assert.throws(() => all.reload(parseOverrides('admin: rule:admin', 'p')), /circular/)
  assert.deepEqual([chief(), all.of('nova').generation()], [true, 1])
  all.reload([])
  assert.deepEqual([chief(), all.of('nova').generation()], [false, 2])
  writeFileSync(join(folder, 'policy.d', 'nova.yaml'), 'admin: (\n')
  assert.match(problems(() => readOverrides(folder, ['nova']))[0]!, /policy\.d\/nova\.yaml:1:9: admin: ends/)
  rmSync(folder, { recursive: true })
})

test('a changed file is noticed', async () => {
  const folder = mkdtempSync(join(tmpdir(), 'policy-watch-'))
  const noticed = Promise.withResolvers<void>()
  const stop = watchOverrides(folder, noticed.resolve, noticed.reject)
  const alive = setTimeout(() => noticed.reject(new Error('not noticed in 5 s')), 5000)
  writeFileSync(join(folder, 'policy.yaml'), 'a: "@"')
  await noticed.promise
  clearTimeout(alive)
  stop()
  rmSync(folder, { recursive: true })
})

test('a file with a mistake, while all runs, is told and ends nothing', async () => {
  const folder = mkdtempSync(join(tmpdir(), 'policy-watch-'))
  const told = Promise.withResolvers<Error>()
  const stop = watchOverrides(folder, () => readOverrides(folder, []), told.resolve)
  const alive = setTimeout(() => told.reject(new Error('not told in 5 s')), 5000)
  writeFileSync(join(folder, 'policy.yaml'), 'a: (\n')
  assert.match((await told.promise).message, /policy\.yaml:1:5: a: ends/)
  clearTimeout(alive)
  stop()
  rmSync(folder, { recursive: true })
})

test('the sample is YAML that says the defaults once its comments are taken off', () => {
  const rules = [
    rule('servers:get', "role:reader and project_id:%(project_id)s or 'x':%(y)s", {
      description: `Show a server. ${'Long words follow here. '.repeat(8)}`,
      operations: [{ method: ['GET', 'HEAD'], path: '/servers/{id}' }],
      scopes: ['project'],
    }),
    ...nova.rules.slice(4),
  ]
  const text = policySample(rules)
  assert.ok(text.split('\n').every(line => line === '' || (line.startsWith('#') && line.length < 120)))
  assert.match(text, /^# GET\|HEAD {2}\/servers\/\{id\}$/m)
  assert.match(text, /^# Intended scope\(s\): project$/m)
  assert.match(text, /^# Replaces "old", which is still read since 2025\.1\. Renamed\.$/m)
  assert.deepEqual(parseYaml(text), null)
  assert.deepEqual(parseYaml(text.replaceAll(/^#"/gm, '"')), { 'servers:get': rules[0]!.check, new: 'rule:admin' })
})
