/**
 * The `*.test.ts` files beside the code. All files of one part of the tree run in one process, without isolation: starting a process
 * and loading the same modules for every file would take far longer than the tests. Files named `*.slow.test.ts` (they boot guests)
 * have a process each and nothing beside them.
 */
import { globSync, mkdtempSync, readFileSync, rmSync, statSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { RunError, run } from '#host/run.ts'
import type { Job } from './job.ts'
import type { Finished } from './reporter.ts'

const REPORTER = fileURLToPath(new URL('./reporter.ts', import.meta.url))
/** Most files in one process, so that two processes end at about the same time. */
const GROUP = 40
/** A test that takes longer is failed; a process that takes longer is killed. */
const TEST_MS = 120_000
const SLOW_TEST_MS = 600_000
const PROCESS_MS = 15 * 60_000
/** A process without a new result for this much longer than a test may take has ended its tests, and something keeps it alive. */
const LEFT_OPEN_MS = 20_000

/** The part of the tree that a file belongs to: src/kit, src/services/nova, guest. */
function part(file: string): string {
  const [top, second, third] = file.split('/')
  if (top !== 'src') return top!
  return second === 'services' ? `src/services/${third}` : `src/${second}`
}

/** What the reporter wrote; the last line may be cut off when the process died. */
function parse(text: string): Finished[] {
  const whole = text.slice(0, text.lastIndexOf('\n') + 1)
  return whole
    .split('\n')
    .filter(line => line.startsWith('{')) // a process that is killed may leave a hole in the file
    .map(line => JSON.parse(line) as Finished)
}

async function runFiles(root: string, name: string, files: string[], slow: boolean, signal: AbortSignal): Promise<Finished[]> {
  const folder = mkdtempSync(join(tmpdir(), 'nubo-test-'))
  const report = join(folder, 'report')
  const limit = slow ? SLOW_TEST_MS : TEST_MS
  const started = Date.now()
  const flags = [
    '--disable-warning=ExperimentalWarning',
    '--test',
    '--test-isolation=none',
    `--test-timeout=${limit}`,
    `--test-reporter=${REPORTER}`,
    `--test-reporter-destination=${report}`,
  ]
  const began = performance.now()
  const stalled = new AbortController()
  const watcher = setInterval(() => {
    const last = statSync(report, { throwIfNoEntry: false })?.mtimeMs ?? 0
    if (Date.now() - Math.max(last, started) > limit + LEFT_OPEN_MS) stalled.abort()
  }, 5000)
  try {
    const { code, stdout, stderr } = await run([process.execPath, ...flags, ...files], {
      cwd: root,
      timeoutMs: PROCESS_MS,
      signal: AbortSignal.any([signal, stalled.signal]),
      codes: [0, 1],
      env: { NODE_TEST_CONTEXT: undefined },
    }).catch((error: unknown) => {
      if (!(error instanceof RunError)) throw error
      const why = stalled.signal.aborted
        ? 'All its tests ended, but something that one of them left open kept it alive.'
        : error.message
      return { code: null, stdout: error.stdout, stderr: `${why}\n${error.stderr}` }
    })
    const results = parse(readFileSync(report, { encoding: 'utf8', flag: 'a+' }))
    if (code === null || (code !== 0 && !results.some(result => result.outcome === 'failed'))) {
      const how = code === null ? 'the process was killed' : `the process ended with code ${code} although no test failed`
      const why = `${how}\n${(stderr || stdout).slice(-8192)}`
      results.push({ name, file: files.join(' '), outcome: 'failed', ms: performance.now() - began, why })
    }
    if (results.length === 0) {
      results.push({ name, file: files.join(' '), outcome: 'failed', ms: 0, why: 'the files contain no test' })
    }
    return results
  } finally {
    clearInterval(watcher)
    rmSync(folder, { recursive: true })
  }
}

/** Jobs for all test files under `root`, or for those whose path contains one of the patterns. */
export function unitJobs(root: string, patterns: readonly string[], fast: boolean): Job[] {
  const files = globSync('{src,guest,bench,conformance}/**/*.test.ts', { cwd: root })
    .filter(file => patterns.length === 0 || patterns.some(pattern => file.includes(pattern)))
    .sort()
  const jobs: Job[] = []
  const quick = files.filter(file => !file.endsWith('.slow.test.ts'))
  for (const [name, group] of Object.entries(Object.groupBy(quick, part))) {
    const pieces = Math.ceil(group!.length / GROUP)
    const size = Math.ceil(group!.length / pieces)
    for (let piece = 0; piece < pieces; piece++) {
      const some = group!.slice(piece * size, (piece + 1) * size)
      const title = pieces === 1 ? name : `${name} ${piece + 1}/${pieces}`
      jobs.push({ name: title, alone: false, run: signal => runFiles(root, title, some, false, signal) })
    }
  }
  if (fast) return jobs
  const slow = files.filter(file => file.endsWith('.slow.test.ts'))
  return [
    ...jobs,
    ...slow.map(file => ({ name: file, alone: true, run: (s: AbortSignal) => runFiles(root, file, [file], true, s) })),
  ]
}
