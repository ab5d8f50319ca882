/** `nubo up`: a whole cloud on this machine. */
import { resolve } from 'node:path'
import { parseArgs } from 'node:util'
import { defaultDataDir } from '#kit/config.ts'
import { reason } from '#kit/fault.ts'
import { joinedRead } from './instance/joined.ts'
import { layoutOf } from './instance/layout.ts'
import { runInstance, sendUp } from './instance/serve.ts'
import type { Whole } from './instance/whole.ts'
import { UsageError } from './usage.ts'

export const HELP = `Usage: nubo up [OPTION...]

Starts a cloud on this machine and prints how to use it. Run it again after 'nubo down', a crash or a reboot:
it finds what is there.

  --data DIR            folder of everything that is kept (/var/lib/nubo for root, else ~/.local/share/nubo)
  --listen ADDR:PORT    where all APIs are served (127.0.0.1:5000); anything but loopback is served by TLS
  --simulate[=HOSTS]    pretended hosts instead of this machine; needs no root
  --detach              return when every API answers, and run on
  --record FILE         write every exchange to FILE, one HAR entry a line
  --database-url URL    use this PostgreSQL instead of an own one
  --object-devices DIR  a folder that holds objects, one a disk; may be given again for more. Remembered. Up to three copies of each object
`

/** @throws UsageError for what cannot be meant. */
function ask(argv: string[]) {
  // node:util has no options whose value may be left out.
  const args = argv.map(arg => (arg === '--simulate' ? '--simulate=1' : arg))
  const { values } = parseArgs({
    args,
    options: {
      data: { type: 'string' },
      listen: { type: 'string' },
      simulate: { type: 'string' },
      detach: { type: 'boolean', default: false },
      detached: { type: 'boolean', default: false },
      record: { type: 'string' },
      'database-url': { type: 'string' },
      'object-devices': { type: 'string', multiple: true },
      help: { type: 'boolean', short: 'h' },
    },
  })
  const simulated = Number(values.simulate ?? 0)
  if (!Number.isInteger(simulated) || simulated < 0 || simulated > 20_000 || (values.simulate !== undefined && simulated === 0)) {
    throw new UsageError(`--simulate takes a number of hosts from 1 to 20000, not '${values.simulate}'`)
  }
  return { ...values, simulated, layout: layoutOf(resolve(values.data ?? defaultDataDir())) }
}

export async function run(argv: string[]): Promise<number> {
  const asked = ask(argv)
  if (asked.help) {
    process.stdout.write(HELP)
    return 0
  }
  const { layout, detach, detached, simulated } = asked
  if (process.getuid?.() !== 0 && simulated === 0) {
    throw new UsageError('real servers need root. Without root, pretend: nubo up --simulate')
  }
  const joined = joinedRead(layout)
  if (joined) {
    throw new UsageError(
      `${layout.data} is that of host ${joined.host} of the cloud at ${joined.url}: nubo join --data ${layout.data} starts it. ` +
        'A cloud of its own needs another --data',
    )
  }
  // The code of a whole cloud takes a second to load: the process that only leaves another behind does without.
  const whole = detach ? undefined : await wholeOf(asked)
  return runInstance({
    ...{ command: 'up', argv, layout, detach, detached, logFile: whole?.logFile, logLevel: whole?.logLevel ?? 'info' },
    begin: context => whole!.begin(context),
    told: url => told(url, layout.clouds),
  })
}

/** Loads what a cloud is made of, and reads its configuration. What is wrong there, the process that `--detach` was called in says. */
async function wholeOf(asked: ReturnType<typeof ask>): Promise<Whole> {
  const { wholeCloud } = await import('./instance/whole.ts')
  try {
    return wholeCloud({
      ...asked,
      databaseUrl: asked['database-url'],
      objectDevices: asked['object-devices']?.map(device => resolve(device)),
      record: asked.record && resolve(asked.record),
    })
  } catch (error) {
    if (asked.detached) await sendUp({ failed: reason(error) })
    throw error
  }
}

const told = (url: string, clouds: string): string => `The cloud is up at ${url}

    export OS_CLIENT_CONFIG_FILE=${clouds} OS_CLOUD=nubo
    openstack catalog list
`
