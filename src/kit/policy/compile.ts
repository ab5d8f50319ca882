/**
 * From tree to closure. A compiled check allocates nothing for the common forms and looks only at own properties, so that a rule
 * can never see what JavaScript objects inherit.
 */

import type { Node, Piece } from './parse.ts'

/** What is known of who asks, under the names that rules use (`user_id`, `roles`, `token.project.domain.id`). */
export type Credentials = Readonly<Record<string, unknown>>
/** What is known of the object asked for: flat keys with dots, nested objects, or both. */
export type Target = Readonly<Record<string, unknown>>
/** A compiled check. Pure. */
export type Check = (credentials: Credentials, target: Target) => boolean

/** Compiles a tree. `rule` gives the compiled check of a referenced rule; undefined (there is no such rule) denies. */
export function compileCheck(node: Node, rule: (name: string, at: number) => Check | undefined): Check {
  switch (node.op) {
    case 'true':
      return () => true
    case 'false':
      return () => false
    case 'not': {
      const inner = compileCheck(node.of, rule)
      return (c, t) => !inner(c, t)
    }
    case 'and': {
      const all = node.of.map(n => compileCheck(n, rule))
      return (c, t) => all.every(check => check(c, t))
    }
    case 'or': {
      const any = node.of.map(n => compileCheck(n, rule))
      return (c, t) => any.some(check => check(c, t))
    }
    case 'rule':
      return rule(node.name, node.at) ?? (() => false)
    case 'isAdmin':
      return c => c.is_admin === node.expected
    case 'role':
      return compileRole(node.match)
    case 'field':
      return compileField(node.field, node.value)
    case 'literal': {
      const match = compileMatch(node.match)
      return (_, t) => match(t) === node.value
    }
    case 'credential': {
      const match = compileMatch(node.match)
      return (c, t) => {
        const wanted = match(t)
        return wanted !== undefined && anyEquals(c, node.path, 0, wanted)
      }
    }
  }
}

function compileRole(pieces: Piece[]): Check {
  const match = compileMatch(pieces)
  return (c, t) => {
    const roles = c.roles
    const wanted = match(t)?.toLowerCase()
    return (
      wanted !== undefined && Array.isArray(roles) && roles.some(role => role === wanted || String(role).toLowerCase() === wanted)
    )
  }
}

function compileField(field: string, value: string | RegExp): Check {
  return (_, t) => {
    const actual = lookup(t, field)
    if (actual === undefined || actual === null) return false
    if (value instanceof RegExp) return value.test(text(actual))
    return typeof actual === 'boolean' ? actual === /^(true|1|yes|on|t|y)$/i.test(value) : text(actual) === value
  }
}

/** The text to compare with; undefined when the target lacks a value, which fails the check. */
function compileMatch(pieces: Piece[]): (target: Target) => string | undefined {
  const [first] = pieces
  if (first === undefined) return () => ''
  if (pieces.length === 1) {
    if ('text' in first) return () => first.text
    return target => {
      const value = lookup(target, first.key)
      return value === undefined ? undefined : text(value)
    }
  }
  return target => {
    let out = ''
    for (const piece of pieces) {
      if ('text' in piece) out += piece.text
      else {
        const value = lookup(target, piece.key)
        if (value === undefined) return undefined
        out += text(value)
      }
    }
    return out
  }
}

/** A target's value: the key as it stands, else its dots as a path into nested objects. */
function lookup(target: Target, key: string): unknown {
  if (Object.hasOwn(target, key)) return target[key]
  if (!key.includes('.')) return undefined
  let value: unknown = target
  for (const part of key.split('.')) {
    if (typeof value !== 'object' || value === null || !Object.hasOwn(value, part)) return undefined
    value = (value as Record<string, unknown>)[part]
  }
  return value
}

function anyEquals(value: unknown, path: string[], depth: number, wanted: string): boolean {
  if (depth > 0 && Array.isArray(value)) return value.some(item => anyEquals(item, path, depth, wanted))
  const key = path[depth]
  if (key === undefined) return value !== undefined && text(value) === wanted
  if (typeof value !== 'object' || value === null || !Object.hasOwn(value, key)) return false
  return anyEquals((value as Record<string, unknown>)[key], path, depth + 1, wanted)
}

/** What Python's str() prints, because rules are written for it: `project_id:None`, `enabled:True`. */
function text(value: unknown): string {
  if (typeof value === 'string') return value
  if (value === true) return 'True'
  if (value === false) return 'False'
  if (value === null || value === undefined) return 'None'
  return typeof value === 'object' ? JSON.stringify(value) : String(value)
}
