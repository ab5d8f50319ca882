/** Checks of the source as a whole: lint, types, the import line, what nothing uses, stale reference, whether all of it can be bundled. Each is one test. */
import { join } from 'node:path'
import { RunError, run } from '#host/run.ts'
import { type Job, single } from './job.ts'

/** Programs of node_modules/.bin, or scripts of this tree, with their arguments. */
const CHECKS: Record<string, string[]> = {
  lint: ['biome', 'ci', '--colors=off', '.'],
  types: ['tsc', '-p', '.'],
  unused: ['knip', '--no-progress', '--include', 'files,dependencies,unlisted,unresolved'],
  docs: ['src/main.ts', 'docs', '--check'],
  bundle: ['src/main.ts', 'bundle'],
  layers: ['depcruise', '--config', '.dependency-cruiser.cjs', 'src'],
}

/** One job for each check whose name contains one of the patterns; all without patterns. */
export function checkJobs(root: string, patterns: readonly string[]): Job[] {
  return Object.entries(CHECKS)
    .filter(([name]) => patterns.length === 0 || patterns.some(pattern => name.includes(pattern)))
    .map(([name, [tool, ...args]]) => ({
      name,
      alone: false,
      async run(signal) {
        const began = performance.now()
        try {
          const script = tool!.endsWith('.ts') ? join(root, tool!) : join(root, 'node_modules/.bin', tool!)
          await run([process.execPath, script, ...args], {
            cwd: root,
            timeoutMs: 300_000,
            signal,
          })
          return single(name, began, 'passed')
        } catch (error) {
          if (!(error instanceof RunError)) throw error
          return single(
            name,
            began,
            'failed',
            `${tool} ${args.join(' ')}\n${error.stdout}${error.stderr}${error.reason === 'exit' ? '' : error.message}`,
          )
        }
      },
    }))
}
