/** `nubo swift`: what an operator does to an object store, beside its API. */
import { UsageError } from './usage.ts'

export const HELP = `Usage: nubo swift COMMAND [ARGUMENT...]

  ring        make and change rings: which devices hold what
  dispersion  put small objects into a share of all partitions, and look how many copies of them are where they should be

'nubo swift COMMAND --help' tells more of each.
`

export async function run([command, ...argv]: string[]): Promise<number> {
  const help = argv.includes('--help') || argv.includes('-h')
  const print = (line: string): void => void process.stdout.write(`${line}\n`)
  switch (command) {
    case '--help':
    case '-h':
      process.stdout.write(HELP)
      return 0
    case 'ring': {
      const { RING_HELP, ringCommand } = await import('#services/swift/ring/command.ts')
      if (!help) return ringCommand(argv, print)
      process.stdout.write(RING_HELP)
      return 0
    }
    case 'dispersion': {
      const { DISPERSION_HELP, dispersionCommand } = await import('#services/swift/dispersion.ts')
      if (!help) return dispersionCommand(argv, print)
      process.stdout.write(DISPERSION_HELP)
      return 0
    }
    default:
      throw new UsageError(command === undefined ? 'what to do?' : `there is no swift command '${command}'`)
  }
}
