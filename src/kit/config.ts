/**
 * Configuration: one YAML file, one section a service, each section declared as a TypeBox object beside the code that reads it.
 *
 *     export const novaSettings = settings('nova', Object({ cpu_allocation_ratio: Number({ default: 4, description: 'Virtual CPUs …' }) }))
 *     config.of(novaSettings).cpu_allocation_ratio        // a number, never undefined
 *
 * The file is checked whole before anything starts. Every mistake is reported at once, each with file, line, column and key; an
 * unknown key is a mistake, because a misspelt setting that is silently ignored is worse than a program that does not start.
 */

import { readFileSync } from 'node:fs'
import { homedir } from 'node:os'
import { join, resolve } from 'node:path'
import { Ajv, type ErrorObject } from 'ajv'
import { Literal, Object as ObjectSchema, Optional, type Static, String as StringSchema, type TObject, Union } from 'typebox'
import { type Document, isMap, isNode, isSeq, LineCounter, parseDocument } from 'yaml'

/** One section of the configuration file: its key and the schema of what stands under it. Made by `settings`. */
export interface Settings<S extends TObject = TObject> {
  readonly name: string
  readonly schema: S
  /** One sentence on the section, for the reference. */
  readonly description?: string
}

/**
 * Declares a section. Every property needs a `description`, and a `default` unless it is `Optional` or the operator must give it.
 * Nested objects are filled with their own defaults when absent.
 */
export function settings<S extends TObject>(name: string, schema: S, description?: string): Settings<S> {
  return { name, schema, description }
}

const Level = Union(
  (['trace', 'debug', 'info', 'warn', 'error', 'fatal'] as const).map(level => Literal(level)),
  { default: 'info', description: 'Least severe message that is written to the log.' },
)

/** The kit's own section: what a process needs before any service is there. */
export const nuboSettings = settings(
  'nubo',
  ObjectSchema({
    data: Optional(
      StringSchema({
        minLength: 1,
        description: 'Folder of everything that is kept. By default /var/lib/nubo for root, ~/.local/share/nubo otherwise.',
      }),
    ),
    listen: StringSchema({
      default: '127.0.0.1:5000',
      pattern: '^(\\[[0-9a-fA-F:.]+\\]|[^:\\s\\[\\]]+):[0-9]{1,5}$',
      description: 'Address and port of all APIs. Anything but a loopback address is served by TLS.',
    }),
    database_url: Optional(
      StringSchema({
        pattern: '^postgres(ql)?://',
        description:
          'PostgreSQL to use, as postgres://USER:PASSWORD@HOST/DATABASE. Without it Nubo runs its own in the data folder.',
      }),
    ),
    public_url: Optional(
      StringSchema({
        pattern: '^https?://[^/\\s]+$',
        description:
          'URL under which clients reach the cloud, where that is not this process but a load balancer before several: https://cloud.example.org',
      }),
    ),
    region: StringSchema({
      default: 'RegionOne',
      minLength: 1,
      description: 'Region of the catalog that a new cloud starts with.',
    }),
    log_level: Level,
    log_file: Optional(
      StringSchema({ minLength: 1, description: 'File that receives the log as JSON lines, instead of standard error.' }),
    ),
  }),
  'The process itself.',
)

/** A checked configuration. */
export interface Config {
  /** The file it came from, whether it existed or not. */
  readonly file: string
  /** Absolute path of the folder that holds everything Nubo keeps. */
  readonly dataDir: string
  /** The values of a section. Throws an Error when the section was not among those given to `loadConfig` (a programming mistake). */
  of<S extends TObject>(section: Settings<S>): Static<S>
}

/** Values that win over the file, by section and key: what the command line gave. `undefined` values are ignored. */
export type ConfigOverrides = Record<string, Record<string, unknown> | undefined>

/** A configuration that cannot be used. `problems` has one line a mistake: `file:line:column: section.key: what is wrong`. */
export class ConfigError extends Error {
  readonly problems: string[]
  constructor(problems: string[]) {
    super(problems.join('\n'))
    this.name = 'ConfigError'
    this.problems = problems
  }
}

/** The data folder when nobody names one: /var/lib/nubo for root, else $XDG_DATA_HOME/nubo or ~/.local/share/nubo. */
export function defaultDataDir(): string {
  if (process.getuid?.() === 0) return '/var/lib/nubo'
  return join(process.env.XDG_DATA_HOME || join(homedir(), '.local', 'share'), 'nubo')
}

/**
 * Reads and checks the configuration file. `sections` are all sections that may stand in it (`nuboSettings` is always added);
 * `overrides` win over it. Throws ConfigError naming every mistake, and the system's error if the file cannot be read. A file
 * that does not exist counts as empty unless `required` is set (an operator who names a file wants that file).
 */
export function loadConfig(
  file: string,
  sections: readonly Settings[],
  overrides: ConfigOverrides = {},
  { required = false }: { required?: boolean } = {},
): Config {
  return parseConfig(readText(file, required), file, sections, overrides)
}

function readText(file: string, required: boolean): string {
  try {
    return readFileSync(file, 'utf8')
  } catch (error) {
    if (!required && (error as NodeJS.ErrnoException).code === 'ENOENT') return ''
    throw new Error(`configuration file ${file} cannot be read`, { cause: error })
  }
}

/** As `loadConfig`, on a text that was read already. `file` is only named in messages. */
export function parseConfig(text: string, file: string, sections: readonly Settings[], overrides: ConfigOverrides = {}): Config {
  const all = new Map([nuboSettings, ...sections].map(s => [s.name, s as Settings]))
  const lines = new LineCounter()
  const document = parseDocument(text, { lineCounter: lines, prettyErrors: false })
  const at = (offset: number) => {
    const { line, col } = lines.linePos(offset)
    return `${file}:${line}:${col}`
  }
  const syntax = [...document.errors, ...document.warnings].map(e => `${at(e.pos[0])}: ${e.message}`)
  if (syntax.length) throw new ConfigError(syntax)
  const content: unknown = document.toJS() ?? {}
  if (!isPlainObject(content)) throw new ConfigError([`${file}:1:1: the file must hold sections (a mapping)`])

  const problems: string[] = []
  const values = new Map<string, unknown>()
  for (const name of new Set([...Object.keys(content), ...Object.keys(overrides)])) {
    if (all.has(name)) continue
    const where = name in content ? at(keyOffset(document, [name])) : 'command line'
    problems.push(`${where}: ${name}: unknown section${suggest(name, [...all.keys()])}`)
  }
  for (const section of all.values()) {
    const given = content[section.name] ?? {}
    const { merged, overridden } = isPlainObject(given)
      ? overlay(given, overrides[section.name])
      : { merged: given, overridden: new Set<string>() }
    const whole = isPlainObject(merged) ? filledPlainly(section.schema as unknown as JsonSchema, merged) : undefined
    if (whole) {
      values.set(section.name, whole)
      continue
    }
    const check = validator(section)
    if (check(merged)) values.set(section.name, merged)
    else
      for (const { path, message } of explain(check.errors ?? [])) {
        const where = overridden.has(path[0] ?? '') ? 'command line' : at(keyOffset(document, [section.name, ...path]))
        problems.push(`${where}: ${[section.name, ...path].join('.')}: ${message}`)
      }
  }
  if (problems.length) throw new ConfigError(problems)
  const data = (values.get('nubo') as Static<typeof nuboSettings.schema>).data ?? defaultDataDir()
  return {
    file,
    dataDir: resolve(data),
    of<S extends TObject>(section: Settings<S>): Static<S> {
      if (all.get(section.name) !== (section as Settings)) throw new Error(`settings '${section.name}' were not loaded`)
      return values.get(section.name) as Static<S>
    },
  }
}

function isPlainObject(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}

function overlay(given: Record<string, unknown>, over: Record<string, unknown> = {}) {
  const merged = { ...given }
  const overridden = new Set<string>()
  for (const [key, value] of Object.entries(over)) {
    if (value === undefined) continue
    merged[key] = value
    overridden.add(key)
  }
  return { merged, overridden }
}

const ajv = new Ajv({ useDefaults: true, allErrors: true, verbose: true, strict: false })

function validator(section: Settings) {
  let made = validators.get(section)
  if (!made) validators.set(section, (made = ajv.compile(closed(section.schema as unknown as JsonSchema))))
  return made
}
const validators = new WeakMap<Settings, ReturnType<typeof ajv.compile>>()

/**
 * The section as Ajv would fill it, where nothing is given but texts and switches that are right; undefined where only Ajv can say. Making a
 * validator takes 10 ms a section and more for the first, and most files give little or nothing.
 */
function filledPlainly({ properties = {}, required = [] }: JsonSchema, given: Record<string, unknown>) {
  const keys = Object.keys(given)
  if (!keys.every(key => Object.hasOwn(properties, key) && isPlainlyRight(properties[key]!, given[key]))) return undefined
  const rest = Object.entries(properties).filter(([key]) => !keys.includes(key))
  const defaults = defaultsOf({ properties: Object.fromEntries(rest), required: required.filter(key => !keys.includes(key)) })
  return defaults && { ...defaults, ...given }
}

/** Whether a value is right beyond doubt; false does not say that it is wrong. */
function isPlainlyRight(schema: JsonSchema, value: unknown): boolean {
  if (!Object.keys(schema).every(keyword => PLAIN.has(keyword))) return false
  if (schema.type === 'boolean') return typeof value === 'boolean'
  if (schema.type !== 'string' || typeof value !== 'string') return false
  const { minLength = 0, pattern } = schema as { minLength?: number; pattern?: string }
  return value.length >= minLength && (pattern === undefined || new RegExp(pattern, 'u').test(value))
}
const PLAIN = new Set(['type', 'description', 'default', 'minLength', 'pattern'])

/** The defaults of an object of which nothing is given; undefined where only Ajv can say. */
function defaultsOf({ properties = {}, required = [] }: JsonSchema): Record<string, unknown> | undefined {
  const filled: Record<string, unknown> = {}
  for (const [key, schema] of Object.entries(properties)) {
    const plain = schema.default
    const nested = schema.properties !== undefined && (plain === undefined || isEmpty(plain))
    if (nested && (plain !== undefined || required.includes(key))) {
      const inner = defaultsOf(schema)
      if (!inner) return undefined
      filled[key] = inner
    } else if (schema.properties === undefined && plain !== undefined) filled[key] = structuredClone(plain)
    else if (plain !== undefined || required.includes(key)) return undefined
  }
  return filled
}

const isEmpty = (value: unknown): boolean => isPlainObject(value) && Object.keys(value).length === 0

interface JsonSchema {
  type?: string
  properties?: Record<string, JsonSchema>
  items?: JsonSchema
  additionalProperties?: boolean | JsonSchema
  anyOf?: JsonSchema[]
  const?: unknown
  enum?: unknown[]
  required?: string[]
  default?: unknown
  description?: string
  minimum?: number
  maximum?: number
  [key: string]: unknown
}

/** The schema with every object closed, and nested objects given `{}` as default so that their own defaults are filled in. */
function closed(schema: JsonSchema, nested = false): JsonSchema {
  const copy: JsonSchema = { ...schema }
  if (schema.items) copy.items = closed(schema.items)
  if (schema.anyOf) copy.anyOf = schema.anyOf.map(s => closed(s))
  if (schema.properties) {
    const required = new Set(schema.required ?? [])
    copy.properties = Object.fromEntries(Object.entries(schema.properties).map(([k, s]) => [k, closed(s, required.has(k))]))
    copy.additionalProperties ??= false
    if (nested) copy.default ??= {}
  }
  return copy
}

function explain(errors: ErrorObject[]): { path: string[]; message: string }[] {
  const unions = errors.filter(e => e.keyword === 'anyOf')
  return errors
    .filter(e => !unions.some(u => e !== u && e.schemaPath.startsWith(`${u.schemaPath}/`)))
    .map(e => {
      const path = e.instancePath.split('/').slice(1).map(decodePointer)
      const parent = e.parentSchema as JsonSchema
      const choices = e.keyword === 'anyOf' ? parent.anyOf?.map(s => s.const) : undefined
      if (e.keyword === 'additionalProperties') {
        const key: string = e.params.additionalProperty
        return { path: [...path, key], message: `unknown key${suggest(key, Object.keys(parent.properties ?? {}))}` }
      }
      if (e.keyword === 'required') return { path: [...path, e.params.missingProperty], message: 'is missing and has no default' }
      if (choices?.every(c => c !== undefined))
        return { path, message: `must be one of ${choices.join(', ')}, not ${shown(e.data)}` }
      // A pattern says little to people; what the setting is for says what it looks like.
      const meaning = e.keyword === 'pattern' && parent.description ? ` (${parent.description})` : ''
      return { path, message: `${e.message}, not ${shown(e.data)}${meaning}` }
    })
}

const decodePointer = (part: string) => part.replaceAll('~1', '/').replaceAll('~0', '~')

/** A value as an error message may show it: short, and never the password inside a URL. */
function shown(value: unknown): string {
  const text = (JSON.stringify(value) ?? 'nothing').replace(/(:\/\/[^:/@\s"]*):[^@\s"]*@/g, '$1:***@')
  return text.length > 60 ? `${text.slice(0, 57)}…` : text
}

/** Offset in the text of the deepest existing key of a path: the key itself, else the map in which it is missing. */
function keyOffset(document: Document, path: string[]): number {
  let node: unknown = document.contents
  let offset = 0
  for (const part of path) {
    if (isMap(node)) {
      const pair = node.items.find(item => String(isNode(item.key) ? item.key.toJSON() : item.key) === part)
      if (!pair) break
      offset = (isNode(pair.key) && pair.key.range?.[0]) || offset
      node = pair.value
    } else if (isSeq(node)) {
      node = node.items[Number(part)]
      offset = (isNode(node) && node.range?.[0]) || offset
    } else break
  }
  return offset
}

/** `, did you mean X?` when a known word is at most two edits away, else nothing. */
function suggest(word: string, known: string[]): string {
  const near = known.map(k => ({ k, d: distance(word.toLowerCase(), k.toLowerCase()) })).sort((a, b) => a.d - b.d)[0]
  return near && near.d <= Math.max(2, Math.floor(word.length / 4)) ? `, did you mean ${near.k}?` : ''
}

function distance(a: string, b: string): number {
  let row = Array.from({ length: b.length + 1 }, (_, i) => i)
  for (let i = 1; i <= a.length; i++) {
    const next = [i]
    for (let j = 1; j <= b.length; j++)
      next[j] = Math.min(row[j]! + 1, next[j - 1]! + 1, row[j - 1]! + (a[i - 1] === b[j - 1] ? 0 : 1))
    row = next
  }
  return row[b.length]!
}

/** The reference of all settings as Markdown: a table a section, from the schemas alone. */
export function configReference(sections: readonly Settings[]): string {
  const out = [
    '# Configuration',
    '',
    'One YAML file, `nubo.yaml` in the data folder, with these sections. Everything has a default unless it says otherwise.',
  ]
  for (const section of new Set<Settings>([nuboSettings, ...sections])) {
    out.push('', `## ${section.name}`, '', ...(section.description ? [section.description, ''] : []))
    out.push('| key | type | default | meaning |', '|---|---|---|---|')
    out.push(...referenceRows(section.schema as unknown as JsonSchema, ''))
  }
  return `${out.join('\n')}\n`
}

function referenceRows(schema: JsonSchema, prefix: string): string[] {
  const required = new Set(schema.required ?? [])
  return Object.entries(schema.properties ?? {}).flatMap(([key, s]) => {
    if (s.properties && s.default === undefined) return referenceRows(s, `${prefix}${key}.`)
    const absent = required.has(key) ? '**required**' : ''
    const value = s.default === undefined ? absent : `\`${JSON.stringify(s.default)}\``
    return [`| \`${prefix}${key}\` | ${typeName(s)} | ${value} | ${cell(s.description ?? '')} |`]
  })
}

const cell = (text: string) => text.replaceAll('|', '\\|').replaceAll('\n', ' ')

function typeName(s: JsonSchema): string {
  if (s.anyOf) return s.anyOf.map(o => (o.const === undefined ? typeName(o) : `\`${String(o.const)}\``)).join(', ')
  if (s.enum) return s.enum.map(v => `\`${String(v)}\``).join(', ')
  if (s.type === 'array') return `list of ${s.items ? typeName(s.items) : 'anything'}`
  const range = [s.minimum === undefined ? '' : `≥ ${s.minimum}`, s.maximum === undefined ? '' : `≤ ${s.maximum}`].filter(Boolean)
  return [s.type ?? 'anything', ...range].join(' ')
}
