/** `nubo test`: all tests and checks of this source tree. Ends with one line that counts them; exit code 0 when none failed. */
import { availableParallelism } from 'node:os'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'
import { installPrograms, missingPrograms } from './packages.ts'
import { checkJobs } from './testing/checks.ts'
import { conformanceJobs } from './testing/conformance.ts'
import { runJobs } from './testing/job.ts'
import type { Finished } from './testing/reporter.ts'
import { unitJobs } from './testing/units.ts'
import { UsageError } from './usage.ts'

export const HELP = `Usage: nubo test [--fast] [PATTERN...]

Runs the tests beside the code (*.test.ts), the checks of the source (lint, types, layers, unused, docs) and the
black-box scripts of conformance/, or those whose path or name contains one of the PATTERNs.

  --fast   leave out what boots guests: *.slow.test.ts and conformance/
`

const ROOT = fileURLToPath(new URL('../..', import.meta.url))
const say = (line: string) => process.stderr.write(`nubo test: ${line}\n`)
const seconds = (ms: number) => `${(ms / 1000).toFixed(1)} s`

/** The programs that the tests drive: installed when we may, else what is missing is said and its tests skip themselves. */
async function prepare(): Promise<void> {
  if (process.getuid?.() === 0) return installPrograms(['host', 'image', 'test'], say)
  const missing = missingPrograms(['host', 'image', 'test']).map(row => row.program)
  if (missing.length > 0) say(`not root and not on this host, so tests of them are skipped: ${missing.join(', ')}`)
}

function show(results: readonly Finished[]): void {
  const skipped = Object.groupBy(
    results.filter(result => result.outcome === 'skipped'),
    result => result.why || 'no reason given',
  )
  for (const [why, tests] of Object.entries(skipped)) console.log(`skipped ${tests!.length}: ${why} (${tests![0]!.name})`)
  for (const { name, file, why } of results.filter(result => result.outcome === 'failed')) {
    console.log(`\nFAILED ${name}${file && ` (${file})`}\n${(why ?? '').replace(/^/gm, '    ')}`)
  }
}

/** @throws UsageError when nothing matches the patterns. */
export async function run(argv: string[]): Promise<number> {
  const { values, positionals: patterns } = parseArgs({
    args: argv,
    allowPositionals: true,
    options: { fast: { type: 'boolean', default: false }, help: { type: 'boolean', short: 'h' } },
  })
  if (values.help) {
    process.stdout.write(HELP)
    return 0
  }
  const { fast } = values
  const jobs = [...checkJobs(ROOT, patterns), ...unitJobs(ROOT, patterns, fast), ...(fast ? [] : conformanceJobs(ROOT, patterns))]
  if (jobs.length === 0) throw new UsageError(`nothing is called like ${patterns.join(' or ')}`)
  await prepare()

  const stop = new AbortController()
  for (const signal of ['SIGINT', 'SIGTERM'] as const) process.once(signal, () => stop.abort())
  const all: Finished[] = []
  const count = (outcome: Finished['outcome'], of = all) => of.filter(result => result.outcome === outcome).length
  await runJobs(jobs, availableParallelism(), stop.signal, (job, results, ms) => {
    all.push(...results)
    const failed = count('failed', results)
    const parts = [`${count('passed', results)} passed`, ...(failed > 0 ? [`${failed} failed`] : [])]
    const left = count('skipped', results)
    if (left > 0) parts.push(`${left} skipped`)
    console.log(`${failed > 0 ? 'FAIL' : 'ok  '} ${job.name}: ${parts.join(', ')} in ${seconds(ms)}`)
  })
  show(all)
  if (stop.signal.aborted) console.log('\ninterrupted')
  console.log(`\n${count('passed')} passed, ${count('failed')} failed, ${count('skipped')} skipped`)
  return count('failed') > 0 || stop.signal.aborted ? 1 : 0
}
