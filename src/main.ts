/**
 * The command line: one command a file in `cli/`, whose code is loaded only when it is called, so that `./nubo COMMAND` starts fast.
 * `./nubo` (the shell script) brings Node and the packages, then runs this file.
 */
import { COMMANDS, overview } from './cli/commands.ts'
import { UsageError } from './cli/usage.ts'

/** A wrong option or argument: ours, or of node:util's parseArgs. */
function isUsage(error: unknown): error is Error {
  if (error instanceof UsageError) return true
  return error instanceof Error && 'code' in error && String(error.code).startsWith('ERR_PARSE_ARGS_')
}

async function main([name, ...argv]: string[]): Promise<number | undefined> {
  if (name === undefined || name === 'help' || name === '--help' || name === '-h') {
    process.stdout.write(overview())
    return name === undefined ? 2 : 0
  }
  if (!Object.hasOwn(COMMANDS, name)) {
    process.stderr.write(`nubo: there is no command '${name}'\n\n${overview()}`)
    return 2
  }
  try {
    const { run } = await COMMANDS[name]!.load()
    return (await run(argv)) ?? undefined
  } catch (error) {
    if (isUsage(error)) {
      process.stderr.write(`nubo ${name}: ${error.message}\n'nubo ${name} --help' tells the options.\n`)
      return 2
    }
    // The message is for people; the stack is for those who debug.
    const shown = process.env.NUBO_DEBUG ? error : error instanceof Error ? error.message : String(error)
    console.error(`nubo ${name}:`, shown)
    return 1
  }
}

// What a command waits for (a database, a pause) need not hold the process by itself.
const alive = setInterval(() => {}, 2 ** 30)
process.exitCode = await main(process.argv.slice(2))
clearInterval(alive)
