/** `nubo bench`: the figures, each printed as one JSON line beside its limit. */
import { readdirSync } from 'node:fs'
import { parseArgs } from 'node:util'
import { UsageError } from './usage.ts'

const FOLDER = new URL('../../bench/', import.meta.url)
/** Files in bench/ that are no figures but what figures use. */
const PARTS = new Set(['figure', 'cloud', 'fill', 'load', 'link', 'load.worker', 'raw.worker', 'swift.bare'])

const names = (): string[] =>
  readdirSync(FOLDER)
    .filter(file => file.endsWith('.ts'))
    .map(file => file.slice(0, -3))
    .filter(name => !PARTS.has(name) && !name.endsWith('.worker'))
    .sort()

interface Loaded {
  bench: {
    about: string
    run(say: (line: string) => void): Promise<{ ok: boolean }[]>
  }
}

export const HELP = `Usage: nubo bench [NAME...]

Measures figures (all by default) and prints one JSON line for each, beside its limit. Exit code 1 when one misses its limit.
`

export async function run(argv: string[]): Promise<number> {
  const { values, positionals } = parseArgs({
    args: argv,
    allowPositionals: true,
    options: { help: { type: 'boolean', short: 'h' } },
  })
  if (values.help) {
    process.stdout.write(`${HELP}\nNames:\n`)
    for (const name of names()) {
      const { bench } = (await import(new URL(`${name}.ts`, FOLDER).href)) as Loaded
      process.stdout.write(`  ${name.padEnd(20)} ${bench.about}\n`)
    }
    return 0
  }
  const unknown = positionals.filter(name => !names().includes(name))
  if (unknown.length > 0) throw new UsageError(`no figure is called ${unknown.join(', ')}; there are: ${names().join(', ')}`)
  let missed = 0
  for (const name of positionals.length > 0 ? positionals : names()) {
    const { bench } = (await import(new URL(`${name}.ts`, FOLDER).href)) as Loaded
    for (const figure of await bench.run(line => process.stderr.write(`nubo bench ${name}: ${line}\n`))) {
      console.log(JSON.stringify(figure))
      if (!figure.ok) missed++
    }
  }
  return missed > 0 ? 1 : 0
}
