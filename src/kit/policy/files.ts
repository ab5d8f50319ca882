/**
 * The operators' overrides: `policy.yaml` in the data folder for all services, `policy.d/SERVICE.yaml` for one. A mapping from
 * rule names to expressions. JSON is YAML too, so an old policy.json works under the new name.
 */

import { readFileSync, watch } from 'node:fs'
import { basename, join } from 'node:path'
import { isAlias, isMap, isScalar, LineCounter, parseDocument, type Node as YamlNode } from 'yaml'
import { type Node, PolicySyntaxError, parseCheck } from './parse.ts'

/** One override. */
export interface Override {
  name: string
  check: Node
  /** `file:line`, for messages. */
  where: string
  /** The service whose file it stands in; undefined in the file for all. */
  service?: string
}

/** Overrides that cannot be used. `problems` has one line a mistake: `file:line:column: rule: what is wrong`. */
export class PolicyError extends Error {
  readonly problems: string[]
  constructor(problems: string[]) {
    super(problems.join('\n'))
    this.name = 'PolicyError'
    this.problems = problems
  }
}

/**
 * Reads the overrides of a data folder for these services. Missing files count as empty. Throws PolicyError naming every mistake
 * in all files, and the system's error if a file cannot be read.
 */
export function readOverrides(folder: string, services: readonly string[]): Override[] {
  const problems: string[] = []
  const out: Override[] = []
  for (const service of [undefined, ...services]) {
    const file = service === undefined ? join(folder, 'policy.yaml') : join(folder, 'policy.d', `${service}.yaml`)
    const text = readIfThere(file)
    if (text === undefined) continue
    try {
      out.push(...parseOverrides(text, file, service))
    } catch (error) {
      if (!(error instanceof PolicyError)) throw error
      problems.push(...error.problems)
    }
  }
  if (problems.length) throw new PolicyError(problems)
  return out
}

function readIfThere(file: string): string | undefined {
  try {
    return readFileSync(file, 'utf8')
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return undefined
    throw new Error(`policy file ${file} cannot be read`, { cause: error })
  }
}

/** Parses one file's text. Throws PolicyError naming every mistake. */
export function parseOverrides(text: string, file: string, service?: string): Override[] {
  const lines = new LineCounter()
  const document = parseDocument(text, { lineCounter: lines, prettyErrors: false })
  const place = (offset: number) => {
    const { line, col } = lines.linePos(offset)
    return `${file}:${line}:${col}`
  }
  const problems = [...document.errors, ...document.warnings].map(e => `${place(e.pos[0])}: ${e.message}`)
  const root = document.contents
  if (problems.length === 0 && root !== null && !isMap(root) && !(isScalar(root) && root.value === null))
    problems.push(`${file}:1:1: the file must be a mapping from rule names to expressions`)
  if (problems.length || !isMap(root)) {
    if (problems.length) throw new PolicyError(problems)
    return []
  }
  const out: Override[] = []
  for (const { key, value } of root.items) {
    const start = isScalar(key) ? (key.range?.[0] ?? 0) : 0
    const name = isScalar(key) ? String(key.value) : ''
    const where = `${file}:${lines.linePos(start).line}`
    try {
      out.push({
        name,
        check: parseCheck(expressionOf(isAlias(value) ? (value.resolve(document) ?? null) : (value as YamlNode | null))),
        where,
        service,
      })
    } catch (error) {
      if (!(error instanceof PolicySyntaxError)) throw error
      problems.push(`${place(offsetIn(value as YamlNode | null, error.at, start))}: ${name}: ${error.message}`)
    }
  }
  if (problems.length) throw new PolicyError(problems)
  return out
}

function expressionOf(value: YamlNode | null): string | unknown[] {
  // `rule: !` is a YAML tag with nothing behind it, and would silently become the empty text: everybody.
  if (value?.tag === '!') throw new PolicySyntaxError("a bare ! means nothing in YAML: write '!' in quotes", 0)
  const content: unknown = value?.toJSON() ?? null
  if (typeof content === 'string' || Array.isArray(content)) return content
  throw new PolicySyntaxError("must be an expression (text): write '' in quotes to allow everybody", 0)
}

/** Where in the file an offset inside the expression is; the start of the value where folding makes that unknowable. */
function offsetIn(value: YamlNode | null, at: number, fallback: number): number {
  const start = value?.range?.[0] ?? fallback
  if (!isScalar(value) || typeof value.value !== 'string' || !value.range) return start
  const quote = value.type === 'QUOTE_DOUBLE' || value.type === 'QUOTE_SINGLE' ? 1 : 0
  const asWritten = value.range[1] - value.range[0] - 2 * quote === value.value.length
  return asWritten ? start + quote + at : start
}

/**
 * Calls `changed` when an override file of the folder appears, changes or goes, at most once in 200 ms; `failed` with what it throws,
 * so that a mistake in a file ends nothing. The folder must exist; its `policy.d` is watched when it exists now. Returns how to stop.
 */
export function watchOverrides(folder: string, changed: () => void, failed: (error: Error) => void): () => void {
  let timer: NodeJS.Timeout | undefined
  const soon = () => {
    timer ??= setTimeout(() => {
      timer = undefined
      try {
        changed()
      } catch (error) {
        failed(error as Error)
      }
    }, 200)
  }
  const one = (path: string, matters: (name: string) => boolean) => {
    const watcher = watch(path, { persistent: false }, (_, name) => {
      if (name === null || matters(basename(name))) soon()
    })
    watcher.on('error', failed)
    return watcher
  }
  const watchers = [one(folder, name => name === 'policy.yaml')]
  try {
    watchers.push(one(join(folder, 'policy.d'), name => name.endsWith('.yaml')))
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error
  }
  return () => {
    clearTimeout(timer)
    for (const watcher of watchers) watcher.close()
  }
}
