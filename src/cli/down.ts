/** `nubo down`: stops an instance. Guests and networks run on; the next `up` finds them. */
import { resolve } from 'node:path'
import { parseArgs } from 'node:util'
import { defaultDataDir } from '#kit/config.ts'
import { layoutOf } from './instance/layout.ts'
import { processEnds, stateRunning } from './instance/state.ts'

const HELP = `Usage: nubo down [--data DIR]

Stops Nubo on this machine. Guests and networks run on, and the next 'nubo up' finds them.
`

/** Longest that an orderly stop may take. */
const STOP_MS = 60_000

export async function run(argv: string[]): Promise<number> {
  const { values } = parseArgs({ args: argv, options: { data: { type: 'string' }, help: { type: 'boolean', short: 'h' } } })
  if (values.help) {
    process.stdout.write(HELP)
    return 0
  }
  const layout = layoutOf(resolve(values.data ?? defaultDataDir()))
  const state = stateRunning(layout)
  if (!state) {
    process.stdout.write(`Nothing runs on ${layout.data}.\n`)
    return 0
  }
  process.kill(state.pid, 'SIGTERM')
  if (!(await processEnds(state.pid, state.started, STOP_MS))) {
    throw new Error(`process ${state.pid} has not ended after ${STOP_MS / 1000} s; its log: ${layout.log}`)
  }
  process.stdout.write('Nubo has stopped. Guests and networks run on.\n')
  return 0
}
