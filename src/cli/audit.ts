/** `nubo audit`: derives again what must agree, and prints only what does not. Changes nothing. */
import { existsSync } from 'node:fs'
import { resolve } from 'node:path'
import { parseArgs } from 'node:util'
import { defaultDataDir } from '#kit/config.ts'
import { controllerConfig } from '../roles/controlled.ts'
import { SERVICES } from '../roles/services.ts'
import { look } from './audit/look.ts'
import { withDatabase } from './instance/database.ts'
import { layoutOf } from './instance/layout.ts'

export const HELP = `Usage: nubo audit [--data DIR] [--database-url URL] [--json]

Derives again quota, allocations, ports, addresses, files, operations, and what is on each connected host (guests, processes,
taps, bridges, namespaces), compares them with the rows, and prints what differs. What differs only while an operation
goes on does not count. Exit code 0 when nothing differs, 1 otherwise.

  --data DIR            the data folder of the instance
  --database-url URL    the database of a cloud that runs elsewhere; files of controllers are then not looked at
  --json                one JSON object: findings [{service, what, id, why}], silent, away, hosts
`

/** Longest wait for the hosts' answers. */
const PATIENCE_MS = 60_000

export async function run(argv: string[]): Promise<number> {
  const { values } = parseArgs({
    args: argv,
    options: {
      data: { type: 'string' },
      'database-url': { type: 'string' },
      json: { type: 'boolean', default: false },
      help: { type: 'boolean', short: 'h' },
    },
  })
  if (values.help) {
    process.stdout.write(HELP)
    return 0
  }
  const layout = layoutOf(resolve(values.data ?? defaultDataDir()))
  const url = values['database-url']
  const config = controllerConfig({ configFile: layout.config, folder: layout.controller })
  const files = url === undefined && existsSync(layout.controller)
  const looked = await withDatabase({ layout, url, name: 'nubo audit' }, db =>
    look({ db, config, services: SERVICES, files, patience: PATIENCE_MS }),
  )
  if (!looked) {
    process.stderr.write(`nubo audit: there is no cloud on ${layout.data}\n`)
    return 1
  }
  const { findings, silent, away } = looked
  if (values.json) process.stdout.write(`${JSON.stringify(looked, null, 2)}\n`)
  else {
    for (const { service, what, id, why } of findings) process.stdout.write(`${service}  ${what} ${id}: ${why}\n`)
    // Not differences, so not on standard output: what could not be looked at.
    for (const { host, verb, why } of silent) process.stderr.write(`nubo audit: host ${host} did not answer ${verb}: ${why}\n`)
    if (away.length > 0) process.stderr.write(`nubo audit: not connected, so not looked at: ${some(away)}\n`)
  }
  return findings.length > 0 ? 1 : 0
}

const some = (names: readonly string[]): string =>
  names.length > 10 ? `${names.slice(0, 10).join(', ')} and ${names.length - 10} more` : names.join(', ')
