/**
 * The command line: one command a file in `cli/`, whose code is loaded only when it is called, so that `./nubo COMMAND` starts fast.
 * `./nubo` (the shell script) brings Node and the packages, then runs this file.
 */
import { UsageError } from './cli/usage.ts'

/** What a file in `cli/` exports. The number, if any, is the exit code; without one the process ends by itself with 0. */
interface Command {
  run(argv: string[]): Promise<number | undefined> | Promise<void>
}

/** Those without a description are called by others, not by people. */
const COMMANDS: Record<string, { about?: string; load: () => Promise<Command> }> = {
  up: { about: 'start a cloud on this machine', load: () => import('./cli/up.ts') },
  down: { about: 'stop it; guests and networks run on', load: () => import('./cli/down.ts') },
  join: { about: 'make this machine a host of an existing cloud', load: () => import('./cli/join.ts') },
  token: { about: 'make a token by which a machine joins', load: () => import('./cli/token.ts') },
  run: { about: 'start chosen roles of a cloud, with a configuration file', load: () => import('./cli/run.ts') },
  destroy: { about: 'remove all that Nubo made on this machine', load: () => import('./cli/destroy.ts') },
  status: { about: 'what runs, what waits and why', load: () => import('./cli/status.ts') },
  audit: { about: 'derive again what must agree; print what does not', load: () => import('./cli/audit.ts') },
  doctor: { about: 'what this host can do, and what to install', load: () => import('./cli/doctor.ts') },
  image: { about: 'build the small guest image and say where it is', load: () => import('./cli/image.ts') },
  'controller-process': { load: () => import('./cli/controller-process.ts') },
  bench: { about: 'measure the figures, beside their limits', load: () => import('./cli/bench.ts') },
  test: { about: 'run all tests and checks of this source tree', load: () => import('./cli/test.ts') },
}

function help(): string {
  const shown = Object.entries(COMMANDS).filter(([, { about }]) => about)
  const width = Math.max(...shown.map(([name]) => name.length))
  const lines = shown.map(([name, { about }]) => `  ${name.padEnd(width)}  ${about}`)
  return `Usage: nubo COMMAND [OPTION...]\n\nCommands:\n${lines.join('\n')}\n\n'nubo COMMAND --help' tells more of each.\n`
}

/** A wrong option or argument: ours, or of node:util's parseArgs. */
function isUsage(error: unknown): error is Error {
  if (error instanceof UsageError) return true
  return error instanceof Error && 'code' in error && String(error.code).startsWith('ERR_PARSE_ARGS_')
}

async function main([name, ...argv]: string[]): Promise<number | undefined> {
  if (name === undefined || name === 'help' || name === '--help' || name === '-h') {
    process.stdout.write(help())
    return name === undefined ? 2 : 0
  }
  if (!Object.hasOwn(COMMANDS, name)) {
    process.stderr.write(`nubo: there is no command '${name}'\n\n${help()}`)
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
