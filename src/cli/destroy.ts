/** `nubo destroy`: removes all that Nubo made on this machine. */
import { existsSync, readdirSync } from 'node:fs'
import { resolve } from 'node:path'
import { createInterface } from 'node:readline/promises'
import { parseArgs } from 'node:util'
import { defaultDataDir } from '#kit/config.ts'
import { type Found, look, removeAll } from './destroy/things.ts'
import { type Layout, layoutOf } from './instance/layout.ts'
import { stateLast } from './instance/state.ts'
import { stopInstance } from './instance/stop.ts'
import { UsageError } from './usage.ts'

export const HELP = `Usage: nubo destroy [--data DIR] [--yes]

Stops Nubo and removes all that it made on this machine: guests with their disks, taps, bridges, namespaces, packet
filters, control groups, its database and every file in its data folder. Shows it and asks first. What is not Nubo's
own (your nubo.yaml, policies and certificates, a database elsewhere) stays, and is named.

  --data DIR   the data folder of the instance
  --yes        do not ask
`

const say = (line: string): void => void process.stderr.write(`nubo destroy: ${line}\n`)

export async function run(argv: string[]): Promise<number> {
  const { values } = parseArgs({
    args: argv,
    options: { data: { type: 'string' }, yes: { type: 'boolean', default: false }, help: { type: 'boolean', short: 'h' } },
  })
  if (values.help) {
    process.stdout.write(HELP)
    return 0
  }
  const layout = layoutOf(resolve(values.data ?? defaultDataDir()))
  if (!isOurs(layout)) {
    process.stdout.write(`There is nothing of Nubo on ${layout.data}.\n`)
    return 0
  }
  const found = await look(layout)
  const elsewhere = databaseElsewhere(layout)
  if (elsewhere) found.left.push(`the database at ${elsewhere}: Nubo did not make it`)
  show(layout, found)
  if (!values.yes && !(await agreed(layout))) {
    say('nothing was removed')
    return 1
  }
  const stopped = await stopInstance(layout, say)
  // The lock's own file goes too: whoever waits for it finds a folder that is gone, or makes a new one.
  try {
    // Looked at again: until now the instance ran, and may have made more.
    const { networks } = await look(layout)
    const more = await removeAll(layout, networks)
    for (const { kind, name } of more.filter(one => one.kind === 'process' || one.kind === 'group' || one.kind === 'tap'))
      process.stdout.write(`  removed  ${kind} ${name}\n`)
  } finally {
    stopped?.lock.release()
  }
  process.stdout.write(`Removed. Nothing of this cloud is left on this machine.\n`)
  return 0
}

/** @throws UsageError when there is something that Nubo did not make. */
function isOurs(layout: Layout): boolean {
  if (existsSync(layout.mark)) return true
  if (!existsSync(layout.data) || readdirSync(layout.data).length === 0) return false
  throw new UsageError(`${layout.data} was not made by Nubo (there is no ${layout.mark}), so nothing in it is removed`)
}

/** The database of the instance, without its password, where it is not Nubo's own. */
function databaseElsewhere(layout: Layout): string | undefined {
  const url = stateLast(layout)?.databaseUrl
  if (url === undefined || url.includes(encodeURIComponent(layout.postgres))) return undefined
  const { host, pathname } = new URL(url)
  return `${host}${pathname}`
}

function show(layout: Layout, { things, left, guests }: Found): void {
  process.stdout.write(`On this machine the Nubo of ${layout.data} has made, and this removes for good:\n`)
  for (const { kind, name } of things) process.stdout.write(`  ${kind.padEnd(8)} ${name}\n`)
  if (guests > 0)
    process.stdout.write(`  with the processes, taps and control groups of ${guests} guest${guests > 1 ? 's' : ''}\n`)
  if (left.length > 0) process.stdout.write(`What stays:\n${left.map(line => `  ${line}\n`).join('')}`)
}

/** @throws UsageError where nobody can be asked. */
async function agreed(layout: Layout): Promise<boolean> {
  if (!process.stdin.isTTY) throw new UsageError('there is no terminal to ask on: give --yes')
  const terminal = createInterface({ input: process.stdin, output: process.stderr })
  try {
    return (await terminal.question(`Remove all this from ${layout.data}? Type yes: `)).trim() === 'yes'
  } finally {
    terminal.close()
  }
}
