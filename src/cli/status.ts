/** `nubo status`: what runs, what waits and why. Changes nothing. */
import { existsSync, readFileSync } from 'node:fs'
import { resolve } from 'node:path'
import { parseArgs } from 'node:util'
import { defaultDataDir } from '#kit/config.ts'
import { SERVICES } from '../roles/services.ts'
import { databaseOpen, databaseUrlOf } from './instance/database.ts'
import { joinedRead } from './instance/joined.ts'
import { layoutOf } from './instance/layout.ts'
import { type State, stateRunning } from './instance/state.ts'
import { gather, whyIll } from './status/gather.ts'
import { report, type Status, troubles } from './status/report.ts'
import { UsageError } from './usage.ts'

export const HELP = `Usage: nubo status [--data DIR] [--database-url URL] [--patience SECONDS] [--json]

Shows controllers, hosts, every operation in progress with its step, since when, until when and its last error,
failing tasks, events that wait, and resources that are in a passing state for longer than usual.
Exit code 0 when all is well, 1 when nothing runs or something needs attention.

  --data DIR            the data folder of the instance
  --database-url URL    the database of a cloud that runs elsewhere
  --patience SECONDS    how long a passing state is usual (300)
  --json                one JSON object
`

export async function run(argv: string[]): Promise<number> {
  const { values } = parseArgs({
    args: argv,
    options: {
      data: { type: 'string' },
      'database-url': { type: 'string' },
      patience: { type: 'string', default: '300' },
      json: { type: 'boolean', default: false },
      help: { type: 'boolean', short: 'h' },
    },
  })
  if (values.help) {
    process.stdout.write(HELP)
    return 0
  }
  const patience = Number(values.patience)
  if (!Number.isFinite(patience) || patience < 0) throw new UsageError(`--patience takes seconds, not '${values.patience}'`)
  const layout = layoutOf(resolve(values.data ?? defaultDataDir()))
  const state = stateRunning(layout)
  if (state?.host !== undefined && state.databaseUrl === undefined && values['database-url'] === undefined) {
    return statusOfHost({ ...state, host: state.host }, joinedRead(layout)?.ca, values.json)
  }
  const url = databaseUrlOf({ layout, url: values['database-url'], name: 'nubo status' })
  if (url === undefined) {
    process.stdout.write(values.json ? `${JSON.stringify({ running: false })}\n` : `Nothing runs on ${layout.data}.\n`)
    return 1
  }
  const db = databaseOpen(url, 'nubo status')
  try {
    const ca = existsSync(layout.ca) ? readFileSync(layout.ca, 'utf8') : undefined
    const [found, why] = await Promise.all([gather(db.read, SERVICES, patience), state && whyIll(state.url, ca)])
    const status: Status = {
      instance: state ? { url: state.url, pid: state.pid, simulated: state.simulated, why: why ?? null } : null,
      services: SERVICES.map(({ name, type, prefix }) => ({ name, type, path: prefix })),
      ...found,
    }
    const now = new Date()
    const wrong = troubles(status, now)
    process.stdout.write(
      values.json ? `${JSON.stringify({ running: true, ...status, troubles: wrong }, null, 2)}\n` : report(status, now),
    )
    return wrong.length === 0 ? 0 : 1
  } finally {
    await db.close()
  }
}

/** On a machine that joined a cloud: what it is, and whether the cloud answers. All else is told where the controllers are. */
async function statusOfHost(
  { host, url, pid, simulated }: State & { host: string },
  ca: string | undefined,
  json: boolean,
): Promise<number> {
  const why = (await whyIll(url, ca)) ?? null
  const what = `This machine is the ${simulated ? 'pretended ' : ''}host ${host} of the cloud at ${url} (process ${pid}).`
  const answers = why === null ? 'The cloud answers.' : `The cloud does not answer: ${why}`
  process.stdout.write(
    json ? `${JSON.stringify({ running: true, host, url, pid, simulated, why }, null, 2)}\n` : `${what}\n${answers}\n`,
  )
  return why === null ? 0 : 1
}
