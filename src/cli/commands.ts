/** Every command: what it is called, in a line, and where its code is. */

/** What a file in `cli/` exports. The number, if any, is the exit code; without one the process ends by itself with 0. */
export interface Command {
  /** What `--help` prints. Absent of what only Nubo itself calls. */
  HELP?: string
  run(argv: string[]): Promise<number | undefined> | Promise<void>
}

/** Those without a description are called by others, not by people. */
export const COMMANDS: Readonly<Record<string, { about?: string; load: () => Promise<Command> }>> = {
  up: { about: 'start a cloud on this machine', load: () => import('./up.ts') },
  down: { about: 'stop it; guests and networks run on', load: () => import('./down.ts') },
  status: { about: 'what runs, what waits and why', load: () => import('./status.ts') },
  audit: { about: 'derive again what must agree; print what does not', load: () => import('./audit.ts') },
  doctor: { about: 'what this host can do, and what to install', load: () => import('./doctor.ts') },
  destroy: { about: 'remove all that Nubo made on this machine', load: () => import('./destroy.ts') },
  join: { about: 'make this machine a host of an existing cloud', load: () => import('./join.ts') },
  token: { about: 'make a token by which a machine joins', load: () => import('./token.ts') },
  identity: { about: 'rotate keys, reset a password, try a mapping', load: () => import('./identity.ts') },
  swift: { about: 'rings of the object store, and where its copies are', load: () => import('./swift.ts') },
  run: { about: 'start chosen roles of a cloud, with a configuration file', load: () => import('./run.ts') },
  image: { about: 'build the small guest image and say where it is', load: () => import('./image.ts') },
  'controller-process': { load: () => import('./controller-process.ts') },
  bundle: { load: () => import('./bundle.ts') },
  bench: { about: 'measure the figures, beside their limits', load: () => import('./bench.ts') },
  test: { about: 'run all tests and checks of this source tree', load: () => import('./test.ts') },
  docs: { about: 'write the reference in docs/reference anew', load: () => import('./docs.ts') },
}

/** What `nubo` prints when nobody said what to do. */
export function overview(): string {
  const shown = Object.entries(COMMANDS).filter(([, { about }]) => about)
  const width = Math.max(...shown.map(([name]) => name.length))
  const lines = shown.map(([name, { about }]) => `  ${name.padEnd(width)}  ${about}`)
  return `Usage: nubo COMMAND [OPTION...]\n\nCommands:\n${lines.join('\n')}\n\n'nubo COMMAND --help' tells more of each.\n`
}
