import assert from 'node:assert/strict'
import { test } from 'node:test'
import { patternCheck, type Rule, rulesApply, rulesCheck } from './rules.ts'

const rules: Rule[] = [
  {
    local: [{ user: { name: '{0} {1}', email: '{2}' } }, { group: { id: 'g0' } }],
    remote: [{ type: 'First' }, { type: 'Last' }, { type: 'Email' }, { type: 'Kind', any_one_of: ['staff', 'boss'] }],
  },
  { local: [{ groups: '{0}', domain: { name: 'D' } }], remote: [{ type: 'Groups', blacklist: ['secret'] }] },
  { local: [{ group: { name: 'guests', domain: { id: 'd' } } }], remote: [{ type: 'Kind', not_any_of: ['^st'], regex: true }] },
]
const bob = { First: 'Bob', Last: 'Thompson', Email: 'bob@x.org', Kind: 'staff', Groups: "dev;secret;o'ps" }

test('a rule holds when all its conditions do, and fills its local part with what they captured', () => {
  rulesCheck(rules, '1.0')
  const mapped = rulesApply(rules, bob, '1.0')
  assert.deepEqual(mapped.user, { name: 'Bob Thompson', email: 'bob@x.org', type: 'ephemeral' })
  assert.deepEqual(mapped.groupIds, ['g0'])
  assert.deepEqual(mapped.groupNames, [
    { name: 'dev', domain: { name: 'D' } },
    { name: "o'ps", domain: { name: 'D' } },
  ])
})

test('none holds: refused', () => {
  assert.throws(() => rulesApply(rules.slice(0, 1), { ...bob, Kind: 'guest' }, '1.0'), /Could not map/)
  assert.throws(
    () => rulesApply([{ local: [{ user: { name: '{3}' } }], remote: [{ type: 'First' }] }], bob, '1.0'),
    /doesn't exist/,
  )
})

test('whitelists by pattern', () => {
  const mapped = rulesApply(
    [{ local: [{ user: { name: 'x' }, group_ids: '{0}' }], remote: [{ type: 'Groups', whitelist: ['^d', 's$'], regex: true }] }],
    bob,
    '1.0',
  )
  assert.deepEqual(mapped.groupIds, ['dev', "o'ps"])
})

test('version 2.0 takes the domain of a rule for its user and projects', () => {
  const made = rulesApply(
    [
      {
        local: [{ user: { name: '{0}' }, projects: [{ name: 'p', roles: [{ name: 'member' }] }], domain: { name: 'D' } }],
        remote: [{ type: 'First' }],
      },
    ],
    bob,
    '2.0',
  )
  assert.deepEqual(made.user.domain, { name: 'D' })
  assert.deepEqual(made.projects[0]?.domain, { name: 'D' })
})

for (const pattern of ['(a+)+$', '(a|a)*b', '([a-z]+)*', '((ab)*)*', '(x{1,9}){2,}', '(a)\\1']) {
  test(`a pattern that could run for ever is refused: ${pattern}`, () =>
    assert.throws(() => patternCheck(pattern), /Invalid mapping/))
}
for (const pattern of ['^.*@example\\.com$', '(?P<n>dev|ops)', '[a-z]+(-[a-z])?', '(?i)admin', 'a{2,5}']) {
  test(`a plain pattern is taken: ${pattern}`, () => patternCheck(pattern))
}

test('malformed rules are refused', () => {
  for (const bad of [
    [],
    [{}],
    [{ local: [], remote: [] }],
    [{ local: [{ odd: 1 }], remote: [{ type: 'x' }] }],
    [{ local: [], remote: [{ type: 'x', any_one_of: ['a'], whitelist: ['b'] }] }],
    [{ local: [{ group: { name: 'g' } }], remote: [{ type: 'x' }] }],
    [{ local: [{ user: { type: 'odd' } }], remote: [{ type: 'x' }] }],
  ]) {
    assert.throws(() => rulesCheck(bad, '1.0'), /Invalid mapping/)
  }
})
