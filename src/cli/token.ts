/** `nubo token`: a token by which another machine becomes a host of this cloud. */
import { existsSync, readFileSync } from 'node:fs'
import { resolve } from 'node:path'
import { parseArgs } from 'node:util'
import { defaultDataDir } from '#kit/config.ts'
import { joinTokenFor } from '#kit/link/index.ts'
import { withDatabase } from './instance/database.ts'
import { layoutOf } from './instance/layout.ts'
import { stateLast } from './instance/state.ts'
import { authorityFile } from './instance/tls.ts'
import { UsageError } from './usage.ts'

export const HELP = `Usage: nubo token [--host NAME] [--uses N] [--hours H] [--data DIR] [--database-url URL]

Prints a token by which a machine becomes a host of this cloud: nubo join URL --token TOKEN
It carries the fingerprint of the cloud's own certificate authority, so that the machine knows the right cloud.

  --host NAME           only for the host of this name, which may exist: it then gets a new secret
  --uses N              how many machines may join by it (1)
  --hours H             how long it holds (1)
  --data DIR            the data folder of the instance
  --database-url URL    the database of a cloud whose controllers run elsewhere
`

const YEAR = 24 * 365

/** A whole number from 1, or a UsageError that names the option. */
function count(option: string, text: string, most: number): number {
  const value = Number(text)
  if (!Number.isInteger(value) || value < 1 || value > most)
    throw new UsageError(`--${option} takes a number from 1 to ${most}, not '${text}'`)
  return value
}

export async function run(argv: string[]): Promise<number> {
  const { values } = parseArgs({
    args: argv,
    options: {
      host: { type: 'string' },
      uses: { type: 'string', default: '1' },
      hours: { type: 'string', default: '1' },
      data: { type: 'string' },
      'database-url': { type: 'string' },
      help: { type: 'boolean', short: 'h' },
    },
  })
  if (values.help) {
    process.stdout.write(HELP)
    return 0
  }
  const layout = layoutOf(resolve(values.data ?? defaultDataDir()))
  const uses = count('uses', values.uses, 10_000)
  const seconds = count('hours', values.hours, YEAR) * 3600
  const file = authorityFile(layout)
  const ca = existsSync(file) ? readFileSync(file, 'utf8') : undefined
  const url = stateLast(layout)?.url
  const token = await withDatabase({ layout, url: values['database-url'], name: 'nubo token' }, db =>
    joinTokenFor(db, { seconds, uses, host: values.host, ca: url?.startsWith('http:') ? undefined : ca }),
  )
  if (token === undefined) throw new Error(`there is no cloud on ${layout.data}`)
  process.stdout.write(`${token}\n`)
  process.stderr.write(
    `On the new host:  nubo join ${url ?? 'URL'} --token ${token}${values.host ? ` --name ${values.host}` : ''}\n`,
  )
  if (url?.startsWith('http:'))
    process.stderr.write('This cloud listens on loopback: only this machine can reach it (nubo up --listen ADDRESS:PORT).\n')
  return 0
}
