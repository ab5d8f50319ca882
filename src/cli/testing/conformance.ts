/**
 * The black-box scripts: every executable file directly in `conformance/`. A script starts what it needs, ends what it started, and
 * answers by its exit code: 0 passed, 77 skipped (its last line says why), anything else failed.
 */
import { accessSync, constants, globSync, statSync } from 'node:fs'
import { basename, join } from 'node:path'
import { RunError, run } from '#host/run.ts'
import { type Job, single } from './job.ts'

const SKIPPED = 77
const DEADLINE_MS = 15 * 60_000

function isExecutable(path: string): boolean {
  if (!statSync(path).isFile()) return false
  try {
    accessSync(path, constants.X_OK)
    return true
  } catch {
    return false
  }
}

/** One job for each script whose path contains one of the patterns; all without patterns. */
export function conformanceJobs(root: string, patterns: readonly string[]): Job[] {
  return globSync('conformance/*', { cwd: root })
    .filter(file => isExecutable(join(root, file)) && (patterns.length === 0 || patterns.some(pattern => file.includes(pattern))))
    .sort()
    .map(file => ({
      name: `conformance/${basename(file)}`,
      alone: true,
      async run(signal) {
        const began = performance.now()
        try {
          const { code, stdout } = await run([join(root, file)], {
            cwd: root,
            timeoutMs: DEADLINE_MS,
            signal,
            codes: [0, SKIPPED],
          })
          if (code === 0) return single(file, began, 'passed')
          return single(file, began, 'skipped', stdout.trim().split('\n').at(-1) ?? '')
        } catch (error) {
          if (!(error instanceof RunError)) throw error
          const words = error.reason === 'exit' ? `exit code ${error.code}` : error.message
          return single(file, began, 'failed', `${error.stdout.slice(-16_384)}\n${error.stderr.slice(-16_384)}\n${words}`)
        }
      },
    }))
}
