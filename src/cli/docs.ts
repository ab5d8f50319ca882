/** `nubo docs`: writes the reference in docs/reference from what the program itself declares. */
import { existsSync, globSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { dirname, join, relative } from 'node:path'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'
import { reference } from './docs/reference.ts'
import { UsageError } from './usage.ts'

export const HELP = `Usage: nubo docs [--check]

Writes docs/reference anew: every setting, command, API route and policy rule, as the program declares them.

  --check   write nothing; name what is stale, with exit code 1
`

const ROOT = fileURLToPath(new URL('../..', import.meta.url))
const FOLDER = join(ROOT, 'docs/reference')

export async function run(argv: string[]): Promise<number> {
  const { values, positionals } = parseArgs({
    args: argv,
    allowPositionals: true,
    options: { check: { type: 'boolean', default: false }, help: { type: 'boolean', short: 'h' } },
  })
  if (values.help) {
    process.stdout.write(HELP)
    return 0
  }
  if (positionals.length > 0) throw new UsageError(`nothing to say about ${positionals.join(', ')}`)
  const stale = await staleFiles()
  if (values.check) {
    for (const { path, why } of stale) process.stdout.write(`${relative(ROOT, path)}: ${why}\n`)
    if (stale.length > 0) process.stdout.write("'./nubo docs' writes them anew.\n")
    return stale.length > 0 ? 1 : 0
  }
  for (const { path, text } of stale) {
    if (text === undefined) rmSync(path)
    else {
      mkdirSync(dirname(path), { recursive: true })
      writeFileSync(path, text)
    }
    process.stdout.write(`${relative(ROOT, path)}\n`)
  }
  return 0
}

interface Stale {
  path: string
  why: string
  /** What it should be; undefined: not there. */
  text?: string
}

/** The files of the reference that are not as they should be. */
async function staleFiles(): Promise<Stale[]> {
  const wanted = await reference()
  const stale: Stale[] = []
  for (const [name, text] of wanted) {
    const path = join(FOLDER, name)
    const now = existsSync(path) ? readFileSync(path, 'utf8') : undefined
    if (now !== text)
      stale.push({ path, text, why: now === undefined ? 'missing' : `stale from line ${firstDifference(now, text)}` })
  }
  for (const name of globSync('**/*.*', { cwd: FOLDER }).sort())
    if (!wanted.has(name)) stale.push({ path: join(FOLDER, name), why: 'describes nothing that there is' })
  return stale
}

function firstDifference(a: string, b: string): number {
  const [left, right] = [a.split('\n'), b.split('\n')]
  return left.findIndex((line, i) => line !== right[i]) + 1 || left.length + 1
}
