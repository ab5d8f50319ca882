import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { type Check, type Credentials, compileCheck, type Target } from './compile.ts'
import { type Node, PolicySyntaxError, parseCheck } from './parse.ts'

const RULES: Record<string, Check> = { yes: () => true, no: () => false }
const check = (source: string | unknown[], credentials: Credentials = {}, target: Target = {}) =>
  compileCheck(parseCheck(source), name => RULES[name])(credentials, target)
const refused = (source: string | unknown[]) => {
  try {
    parseCheck(source)
  } catch (error) {
    assert.ok(error instanceof PolicySyntaxError)
    return `${error.at}: ${error.message}`
  }
  return assert.fail(`accepted: ${JSON.stringify(source)}`)
}

test('everybody, nobody, other rules, precedence', () => {
  const cases: [string | unknown[], boolean][] = [
    ['', true],
    ['@', true],
    ['!', false],
    ['rule:yes', true],
    ['rule:no', false],
    ['rule:unknown', false],
    ['not rule:unknown', true],
    ['@ or @ and !', true],
    ['! and @ or @', true],
    ['(@ or @) and !', false],
    ['not ! and !', false],
    ['not (! and !)', true],
    ['NOT ! And @', true],
    ['not not @', true],
    ['((@))', true],
    ['( @ and ( not ! ) )', true],
    [[], true],
    [[[]], false],
    [['rule:no', 'rule:yes'], true],
    [[['rule:yes', 'rule:no'], ['rule:no']], false],
    [[['rule:yes', '@']], true],
  ]
  for (const [source, expected] of cases) assert.equal(check(source), expected, JSON.stringify(source))
})

test('roles compare without case and may come from the target', () => {
  const c = { roles: ['Admin', 'reader'] }
  assert.equal(check('role:admin', c), true)
  assert.equal(check('role:READER', c), true)
  assert.equal(check('role:member', c), false)
  assert.equal(check('role:%(need)s', c, { need: 'ADMIN' }), true)
  assert.equal(check('role:%(need)s', c), false)
  assert.equal(check('role:compute:%(x)s', { roles: ['compute:op'] }, { x: 'op' }), true)
  assert.equal(check('role:admin', {}), false)
  assert.equal(check('role:admin', { roles: 'admin' }), false)
})

test('credentials compare with the target, flat and nested, as Python prints them', () => {
  const c = {
    user_id: 'u',
    project_id: null,
    is_admin: true,
    n: 5,
    token: { project: { domain: { id: 'd' } }, roles: [{ id: 'r1' }, { id: 'r2' }] },
    groups: ['g1', 'g2'],
  }
  const cases: [string, Target, boolean][] = [
    ['user_id:u', {}, true],
    ['user_id:%(user_id)s', { user_id: 'u' }, true],
    ['user_id:%(user_id)s', { user_id: 'v' }, false],
    ['user_id:%(user_id)s', {}, false],
    ['user_id:%(target.user.id)s', { 'target.user.id': 'u' }, true],
    ['user_id:%(target.user.id)s', { target: { user: { id: 'u' } } }, true],
    ['user_id:%(target.user.id)s', { target: { user: null } }, false],
    ['user_id:%(target.user.id)s', { target: 'text' }, false],
    ['tenant_id:%(network:tenant_id)s', { 'network:tenant_id': 'x' }, false],
    ['project_id:None', {}, true],
    ['project_id:%(project_id)s', { project_id: null }, true],
    ['project_id:%(project_id)s', { project_id: undefined }, false],
    ['nothing:None', {}, false],
    ['n:5', {}, true],
    ['n:%(n)s', { n: 5 }, true],
    ['token.project.domain.id:%(d)s', { d: 'd' }, true],
    ['token.project.domain:%(d)s', { d: 'd' }, false],
    ['token.roles.id:r2', {}, true],
    ['token.roles.id:r3', {}, false],
    ['groups:g2', {}, true],
    ['user_id.id:u', {}, false],
    ["'public':%(visibility)s", { visibility: 'public' }, true],
    ['"public":%(visibility)s', { visibility: 'private' }, false],
    ["'a:b':%(x)s", { x: 'a:b' }, true],
    ["(role:nobody or 'public':%(visibility)s)", { visibility: 'public' }, true],
    ['None:%(x)s', { x: null }, true],
    ['None:%(x)s', {}, false],
    ['True:%(enabled)s', { enabled: true }, true],
    ['False:%(enabled)s', { enabled: true }, false],
    ['1:%(x)s', { x: 1 }, true],
    ['user_id:%(a)s%(b)s', { a: '', b: 'u' }, true],
    ['user_id:x%%%(b)s', { b: 'u' }, false],
    ['is_admin:True', {}, true],
    ['is_admin:1', {}, true],
    ['is_admin:false', {}, false],
    ['user_id:', {}, false],
    ['constructor:%(constructor)s', {}, false],
    ['__proto__:%(__proto__)s', {}, false],
  ]
  for (const [source, target, expected] of cases)
    assert.equal(check(source, c, target), expected, `${source} ${JSON.stringify(target)}`)
  assert.equal(check('is_admin:False', {}), false)
})

test('field checks look at the target alone', () => {
  assert.equal(check('field:networks:shared=True', {}, { shared: true }), true)
  assert.equal(check('field:networks:shared=True', {}, { shared: false }), false)
  assert.equal(check('field:networks:shared=True'), false)
  assert.equal(check('field:networks:router:external=True', {}, { 'router:external': true }), true)
  assert.equal(check('field:port:device_owner=~^network:', {}, { device_owner: 'network:dhcp' }), true)
  assert.equal(check('not field:port:device_owner=~^network:', {}, { device_owner: 'compute:nova' }), true)
  assert.equal(check('field:port:device_owner=~etwork', {}, { device_owner: 'network:dhcp' }), false)
  assert.equal(check('field:port:status=UP', {}, { status: 'UP' }), true)
})

test('what is not in the language is refused, with its place', () => {
  assert.match(refused('  '), /^0: blank/)
  assert.match(refused('role:a role:b'), /^7: 'role:b' where 'and', 'or' or the end/)
  assert.match(refused('role:a and'), /^10: ends where a check/)
  assert.match(refused('(role:a'), /^7: ends where 'and', 'or' or '\)'/)
  assert.match(refused('role:a)'), /^6: '\)'/)
  assert.match(refused('or role:a'), /^0: 'or' where a check/)
  assert.match(refused('not(role:a)'), /^0: 'not\(role' is neither/)
  assert.match(refused('()'), /^1: '\)' where/)
  assert.match(refused('@ or admin'), /^5: 'admin' is no check: it has no kind/)
  assert.match(refused('"role:admin"'), /quoted as a whole/)
  assert.match(refused('@ and http://host/%(x)s'), /^6: 'http:' checks.* not supported/)
  assert.match(refused('https://host/'), /'https:' checks/)
  assert.match(refused('%(a)s:%(b)s'), /'%\(a\)s' is no kind/)
  assert.match(refused('user_id:%(a)d'), /^8: '%' must be/)
  assert.match(refused('user_id:100%'), /^11: '%' must be/)
  assert.match(refused('field:port:name'), /wants RESOURCE:NAME=VALUE/)
  assert.match(refused('field:port:name=~(('), /regular expression/)
  assert.match(refused([['a:b'], 5]), /neither a check/)
  assert.match(refused([[['a']]]), /not a check/)
  assert.match(refused(`${'('.repeat(300)}@${')'.repeat(300)}`), /nested deeper than 200/)
})

// Fuzz 1: any tree, printed with random white space, case and needless parentheses, decides as a plain reading of the tree does.

type Tree = { op: 'and' | 'or'; of: Tree[] } | { op: 'not'; of: Tree[] } | { op: 'leaf'; text: string; says: boolean }

const CREDENTIALS: Credentials = { user_id: 'u', roles: ['admin'], project_id: null }
const TARGET: Target = { user_id: 'u', a: { b: 'u' } }
const leaf: fc.Arbitrary<Tree> = fc.constantFrom(
  ...[
    ['@', true],
    ['!', false],
    ['role:ADMIN', true],
    ['role:x', false],
    ['rule:yes', true],
    ['rule:nosuch', false],
    ['user_id:%(a.b)s', true],
    ['user_id:%(zz)s', false],
    ["'u':%(user_id)s", true],
    ['project_id:None', true],
  ].map(([text, says]) => ({ op: 'leaf', text, says }) as Tree),
)
const { tree } = fc.letrec<{ tree: Tree }>(tie => ({
  tree: fc.oneof(
    { depthSize: 'medium', withCrossShrink: true },
    leaf,
    fc.record({ op: fc.constantFrom('and' as const, 'or' as const), of: fc.array(tie('tree'), { minLength: 2, maxLength: 4 }) }),
    fc.record({ op: fc.constant('not' as const), of: fc.tuple(tie('tree')) }),
  ),
}))

function reading(t: Tree): boolean {
  if (t.op === 'leaf') return t.says
  if (t.op === 'not') return !reading(t.of[0]!)
  let out = t.op === 'and'
  for (const part of t.of) out = t.op === 'and' ? reading(part) && out : reading(part) || out
  return out
}

const BINDING = { or: 0, and: 1, not: 2, leaf: 3 }

function print(t: Tree, outer: number, random: () => number): string {
  const space = () => ' \t\n'.charAt(random() % 3).repeat(1 + (random() % 2))
  const word = (w: string) => [...w].map(ch => (random() % 2 ? ch.toUpperCase() : ch)).join('')
  const body =
    t.op === 'leaf'
      ? t.text
      : t.op === 'not'
        ? `${word('not')}${space()}${print(t.of[0]!, BINDING.not, random)}`
        : t.of.map(part => print(part, BINDING[t.op] + 1, random)).join(`${space()}${word(t.op)}${space()}`)
  const needed = BINDING[t.op] < outer
  return needed || random() % 5 === 0 ? `(${random() % 2 ? space() : ''}${body}${random() % 2 ? space() : ''})` : body
}

test('fuzz: a printed tree is read back with its meaning', () => {
  fc.assert(
    fc.property(tree, fc.infiniteStream(fc.nat()), (t, stream) => {
      const source = print(t, 0, () => stream.next().value)
      assert.equal(compileCheck(parseCheck(source), name => RULES[name])(CREDENTIALS, TARGET), reading(t), source)
    }),
    { numRuns: 2000 },
  )
})

// Fuzz 2: on any soup of words, the parser accepts what oslo.policy's shift-reduce rules accept, and decides the same.

type Item = { kind: string; value?: boolean; or?: (boolean | boolean[])[] }

/** The reduction rules of oslo.policy on values instead of checks. An `or` item keeps its parts, because `A or B and C` reopens B. */
function shiftReduce(words: string[]): boolean | undefined {
  const stack: Item[] = []
  const truth = (item: Item): boolean =>
    item.kind === 'or_expr' ? item.or!.some(part => (Array.isArray(part) ? part.every(Boolean) : part)) : item.value!
  const reduce = (): undefined => {
    const [a, b, c] = stack.slice(-3)
    const is = (...kinds: string[]) =>
      stack.length >= 3 && [a, b, c].every((item, i) => kinds[i]!.split('|').includes(item!.kind))
    const replace = (count: number, item: Item) => {
      stack.splice(-count, count, item)
      return reduce()
    }
    if (is('(', 'check|and_expr|or_expr', ')')) return replace(3, { kind: 'check', value: truth(b!) })
    if (is('check|and_expr', 'and', 'check')) return replace(3, { kind: 'and_expr', value: truth(a!) && truth(c!) })
    if (is('or_expr', 'and', 'check')) {
      const last = a!.or!.at(-1)!
      return replace(3, { kind: 'or_expr', or: [...a!.or!.slice(0, -1), [last, truth(c!)].flat()] })
    }
    if (is('check|and_expr', 'or', 'check')) return replace(3, { kind: 'or_expr', or: [truth(a!), truth(c!)] })
    if (is('or_expr', 'or', 'check')) return replace(3, { kind: 'or_expr', or: [...a!.or!, truth(c!)] })
    const [x, y] = stack.slice(-2)
    if (x?.kind === 'not' && y?.kind === 'check') return replace(2, { kind: 'check', value: !y.value })
    return undefined
  }
  for (const word of words) {
    stack.push(word === '@' || word === '!' ? { kind: 'check', value: word === '@' } : { kind: word })
    reduce()
  }
  const [only] = stack
  return stack.length === 1 && ['check', 'and_expr', 'or_expr'].includes(only!.kind) ? truth(only!) : undefined
}

test('fuzz: any soup of words is accepted and decided as oslo.policy does', () => {
  let accepted = 0
  fc.assert(
    fc.property(fc.array(fc.constantFrom('(', ')', 'and', 'or', 'not', '@', '!', '@'), { minLength: 1, maxLength: 9 }), words => {
      let mine: boolean | undefined
      try {
        mine = check(words.join(' '))
        accepted++
      } catch (error) {
        assert.ok(error instanceof PolicySyntaxError)
      }
      assert.equal(mine, shiftReduce(words), words.join(' '))
    }),
    { numRuns: 20_000 },
  )
  assert.ok(accepted > 500, `only ${accepted} of the soups were rules`)
})

test('fuzz: any text at all is parsed or refused, never worse', () => {
  const near = fc.stringMatching(/^[()a-z:%.'"@! ~=]{0,40}$/)
  fc.assert(
    fc.property(fc.oneof(fc.string({ unit: 'binary' }), near), source => {
      let node: Node
      try {
        node = parseCheck(source)
      } catch (error) {
        assert.ok(error instanceof PolicySyntaxError && error.at >= 0 && error.at <= source.length, String(error))
        return
      }
      assert.equal(typeof compileCheck(node, () => undefined)(CREDENTIALS, TARGET), 'boolean')
    }),
    { numRuns: 5000 },
  )
})
