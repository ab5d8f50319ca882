/**
 * The rule language of oslo.policy, from text to tree.
 *
 *     expression := term ('or' term)*          `and` binds closer than `or`, `not` closest; the words in any case
 *     term       := factor ('and' factor)*
 *     factor     := 'not' factor | '(' expression ')' | check
 *     check      := '@' | '!' | kind ':' match
 *
 * Words are separated by white space. Parentheses count only at the ends of a word, because a check may contain them:
 * `user_id:%(target.user.id)s`. The empty text allows everybody. The older form, a list of lists (`[["role:a", "b:c"], ["role:d"]]`,
 * the outer joined by `or`, the inner by `and`), is read too.
 *
 * Where oslo.policy logs an error and denies, this refuses: a policy that its author did not mean should not start.
 * Language: https://docs.openstack.org/oslo.policy/latest/reference/api/oslo_policy.policy.html
 */

/** A piece of a match: literal text, or the key of a target value (`%(key)s`). */
export type Piece = { text: string } | { key: string }

/** A check as a tree. `at` is the offset of the check in the text. */
export type Node =
  | { op: 'true' }
  | { op: 'false' }
  | { op: 'not'; of: Node }
  | { op: 'and'; of: Node[] }
  | { op: 'or'; of: Node[] }
  | { op: 'rule'; name: string; at: number }
  | { op: 'role'; match: Piece[] }
  | { op: 'isAdmin'; expected: boolean }
  /** `field:RESOURCE:NAME=VALUE` or `field:RESOURCE:NAME=~REGEX`: a value of the target itself (Neutron's check). */
  | { op: 'field'; field: string; value: string | RegExp }
  /** `'literal':match`, `True:match`: compares what Python would print of the literal. */
  | { op: 'literal'; value: string; match: Piece[] }
  /** `a.b.c:match`: compares a value of the credentials, each element where a list is on the way. */
  | { op: 'credential'; path: string[]; match: Piece[] }

/** A text that is not in the language. `at` is the offset of the mistake in the text. */
export class PolicySyntaxError extends Error {
  readonly at: number
  constructor(message: string, at: number) {
    super(message)
    this.name = 'PolicySyntaxError'
    this.at = at
  }
}

interface Token {
  kind: '(' | ')' | 'and' | 'or' | 'not' | 'check'
  text: string
  at: number
}

const MAX_DEPTH = 200

/** Parses an expression, or the older list of lists. Throws PolicySyntaxError. */
export function parseCheck(source: string | readonly unknown[]): Node {
  if (typeof source !== 'string') return parseLists(source)
  if (source === '') return { op: 'true' }
  const tokens = tokenize(source)
  if (tokens.length === 0) throw new PolicySyntaxError("blank: write '' or '@' to allow everybody, '!' to allow nobody", 0)
  let next = 0
  const unexpected = (token: Token | undefined, wanted: string) =>
    new PolicySyntaxError(
      token ? `'${token.text}' where ${wanted} was expected` : `ends where ${wanted} was expected`,
      token?.at ?? source.length,
    )

  const chain = (op: 'and' | 'or', part: (depth: number) => Node, depth: number): Node => {
    const of = [part(depth)]
    while (tokens[next]?.kind === op) {
      next++
      of.push(part(depth))
    }
    return of.length === 1 ? of[0]! : { op, of }
  }
  const expression = (depth: number): Node => chain('or', term, depth)
  const term = (depth: number): Node => chain('and', factor, depth)
  const factor = (depth: number): Node => {
    const token = tokens[next++]
    if (depth > MAX_DEPTH) throw new PolicySyntaxError(`nested deeper than ${MAX_DEPTH} levels`, token?.at ?? source.length)
    if (token?.kind === 'not') return { op: 'not', of: factor(depth + 1) }
    if (token?.kind === 'check') return parseOne(token.text, token.at)
    if (token?.kind !== '(') throw unexpected(token, "a check, 'not' or '('")
    const inner = expression(depth + 1)
    const close = tokens[next++]
    if (close?.kind !== ')') throw unexpected(close, "'and', 'or' or ')'")
    return inner
  }

  const whole = expression(0)
  if (next < tokens.length) throw unexpected(tokens[next], "'and', 'or' or the end")
  return whole
}

function tokenize(source: string): Token[] {
  const tokens: Token[] = []
  for (const { 0: word, index } of source.matchAll(/\S+/g)) {
    const open = /^\(*/.exec(word)![0].length
    for (let i = 0; i < open; i++) tokens.push({ kind: '(', text: '(', at: index + i })
    const rest = word.slice(open)
    if (rest === '') continue
    const text = rest.replace(/\)+$/, '')
    const lower = text.toLowerCase()
    const at = index + open
    if (lower === 'and' || lower === 'or' || lower === 'not') tokens.push({ kind: lower, text, at })
    else if (text) tokens.push({ kind: 'check', text, at })
    for (let i = text.length; i < rest.length; i++) tokens.push({ kind: ')', text: ')', at: at + i })
  }
  return tokens
}

function parseLists(source: readonly unknown[]): Node {
  if (source.length === 0) return { op: 'true' }
  const of = source
    .map(inner => (typeof inner === 'string' ? [inner] : inner))
    .map(inner => {
      if (!Array.isArray(inner)) throw new PolicySyntaxError('an item is neither a check nor a list of checks', 0)
      return inner.map(one => {
        if (typeof one !== 'string') throw new PolicySyntaxError('an item is not a check', 0)
        return parseOne(one, 0)
      })
    })
    .filter(all => all.length > 0)
    .map((all): Node => (all.length === 1 ? all[0]! : { op: 'and', of: all }))
  return of.length === 0 ? { op: 'false' } : of.length === 1 ? of[0]! : { op: 'or', of }
}

function parseOne(text: string, at: number): Node {
  if (text === '@') return { op: 'true' }
  if (text === '!') return { op: 'false' }
  if (/^(["']).*\1$/.test(text)) throw new PolicySyntaxError(`${text} is quoted as a whole, which is no check`, at)
  const colon = kindEnd(text)
  if (colon <= 0) throw new PolicySyntaxError(`'${text}' is no check: it has no kind before a colon`, at)
  const kind = text.slice(0, colon)
  const rest = text.slice(colon + 1)
  const restAt = at + colon + 1
  switch (kind) {
    case 'rule':
      return { op: 'rule', name: rest, at }
    case 'role':
      return { op: 'role', match: pieces(rest, restAt) }
    case 'is_admin':
      return { op: 'isAdmin', expected: /^(true|1)$/i.test(rest) }
    case 'field':
      return parseField(rest, restAt)
    case 'http':
    case 'https':
      throw new PolicySyntaxError(`'${kind}:' checks, which ask another server about each request, are not supported`, at)
  }
  if (kind.includes('%')) throw new PolicySyntaxError(`'${kind}' is no kind: values of the target stand after the colon`, at)
  const value = literal(kind)
  if (value !== undefined) return { op: 'literal', value, match: pieces(rest, restAt) }
  if (/["'()]/.test(kind)) throw new PolicySyntaxError(`'${kind}' is neither a literal nor a credential's name`, at)
  return { op: 'credential', path: kind.split('.'), match: pieces(rest, restAt) }
}

/** Index of the colon that ends the kind: the first one, but not one inside a quoted literal. */
function kindEnd(text: string): number {
  const quoted = /^(["'])[^"'\\]*\1:/.exec(text)
  return quoted ? quoted[0].length - 1 : text.indexOf(':')
}

/** What Python's str() gives for the literal, or undefined when the kind is a name. */
function literal(kind: string): string | undefined {
  if (kind === 'True' || kind === 'False' || kind === 'None') return kind
  if (/^-?(0|[1-9][0-9]*)(\.[0-9]+)?$/.test(kind)) return kind
  return /^(["'])([^"'\\]*)\1$/.exec(kind)?.[2]
}

function parseField(rest: string, at: number): Node {
  const [, field, value] = /^[^:]+:([^=]+)=(.*)$/s.exec(rest) ?? []
  if (field === undefined || value === undefined) throw new PolicySyntaxError("'field:' wants RESOURCE:NAME=VALUE", at)
  if (!value.startsWith('~')) return { op: 'field', field, value }
  try {
    return { op: 'field', field, value: new RegExp(`^(?:${value.slice(1)})`) }
  } catch (error) {
    throw new PolicySyntaxError(`the regular expression is wrong: ${(error as Error).message}`, at)
  }
}

/** Splits Python's `%(name)s` formatting. Other conversions are refused. */
function pieces(match: string, at: number): Piece[] {
  const out: Piece[] = []
  for (const found of match.matchAll(/%\(([^()]*)\)s|%%|%|[^%]+/g)) {
    if (found[0] === '%')
      throw new PolicySyntaxError("'%' must be followed by '(name)s', or be doubled to mean itself", at + found.index)
    if (found[1] !== undefined) out.push({ key: found[1] })
    else {
      const last = out.at(-1)
      const text = found[0] === '%%' ? '%' : found[0]
      if (last && 'text' in last) last.text += text
      else out.push({ text })
    }
  }
  return out
}
