/** `nubo down`: stops an instance. Guests and networks run on; the next `up` finds them. */
import { resolve } from 'node:path'
import { parseArgs } from 'node:util'
import { defaultDataDir } from '#kit/config.ts'
import { layoutOf } from './instance/layout.ts'
import { stopInstance } from './instance/stop.ts'

export const HELP = `Usage: nubo down [--data DIR]

Stops Nubo on this machine. Guests and networks run on, and the next 'nubo up' finds them.
`

export async function run(argv: string[]): Promise<number> {
  const { values } = parseArgs({ args: argv, options: { data: { type: 'string' }, help: { type: 'boolean', short: 'h' } } })
  if (values.help) {
    process.stdout.write(HELP)
    return 0
  }
  const layout = layoutOf(resolve(values.data ?? defaultDataDir()))
  const stopped = await stopInstance(layout, line => void process.stderr.write(`nubo down: ${line}\n`))
  stopped?.lock.release()
  process.stdout.write(stopped?.ran ? 'Nubo has stopped. Guests and networks run on.\n' : `Nothing runs on ${layout.data}.\n`)
  return 0
}
